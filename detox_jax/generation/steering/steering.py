"""Steering: what stands between a model's logits and the draw, in one protocol and a fixed order.

What a user names (`words.BannedWords()`) is a `Method`; `load` reads what it needs and checks that
it fits the model. What is loaded is a `Steering`, a pytree whose strengths and tables are traced,
so that one compiled program serves a sweep. It keeps a state a row, starts it from the row's
prompt, and at every step reads the token that the model reads.

The order is fixed: the methods combine logits, in the order of the list, each seeing what the one
before it made; then what is banned goes; then comes the sampling, with its temperature and its
truncation. A method that truncates by the model's own distribution (`base_top_p`) does so where it
stands in the list, and its nucleus replaces the sampling's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath
from flax import struct
from jax.sharding import Mesh

from detox_jax import output_settings, preview
from detox_jax.checkpoints import array_file, identity, places
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints.model_dir import LoadedModel, ModelSpec
from detox_jax.errors import UserError
from detox_jax.generation import sampling as sampling_lib
from detox_jax.generation.steering import formulas

_ANYTHING = "anything"  # Of a file about which its method does not say who writes it.
MODEL = "model"  # In a method's `files`: a checkpoint of a language model, whichever verb wrote it.

# Arrays by the axis that their rows are on: 0, or 1 for a cache, whose axis 0 are the layers, or 2
# where models are stacked before them.
State = dict[int, Any]


@struct.dataclass
class Distribution:
    """The next token's distribution on its way from the model to the draw.

    Attributes:
      logits_RV: finite at every token.
      permitted_RV: what may be drawn: a token that nothing bans.
      kept_RV: what truncations have left; where that is all banned, they are forgotten.
      truncated: whether `kept_RV` stands in for the sampling's own truncation.
    """

    logits_RV: jax.Array
    permitted_RV: jax.Array
    kept_RV: jax.Array
    truncated: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def of_model(cls, logits_RV: jax.Array, vocab_size: int) -> Distribution:
        """What a model gives; id 0 and the columns from `vocab_size` on stand for no token."""
        tokens_V = is_token(logits_RV.shape[-1], vocab_size)
        tokens_RV = jnp.broadcast_to(tokens_V, logits_RV.shape)
        return cls(jnp.where(tokens_V, logits_RV, 0.0), tokens_RV, tokens_RV)

    @property
    def allowed_RV(self) -> jax.Array:
        """What may be drawn as things stand."""
        return self.permitted_RV & self.kept_RV

    def ban(self, banned_RV: jax.Array) -> Distribution:
        """The same without some tokens, which nothing brings back."""
        return self.replace(permitted_RV=self.permitted_RV & ~banned_RV)  # type: ignore

    def truncate(self, kept_RV: jax.Array, *, instead: bool) -> Distribution:
        """The same with what is in `kept_RV` alone.

        Args:
          kept_RV: a mask.
          instead: whether the sampling's own truncation is left out.
        """
        kept_RV = self.kept_RV & kept_RV
        return self.replace(kept_RV=kept_RV, truncated=self.truncated or instead)  # type: ignore

    def to_nucleus(self, base_top_p: jax.Array | None) -> Distribution:
        """The same in the nucleus of what it is now, which replaces the sampling's; None: as is."""
        if base_top_p is None:
            return self
        kept_RV = formulas.nucleus_mask(self.logits_RV, self.allowed_RV, base_top_p)
        return self.truncate(kept_RV, instead=True)

    def with_logits(self, logits_RV: jax.Array) -> Distribution:
        """The same masks over other logits."""
        return self.replace(logits_RV=logits_RV)  # type: ignore

    @property
    def _left_RV(self) -> jax.Array:
        """`allowed_RV`; where truncations leave nothing, all that is permitted."""
        allowed_RV = self.allowed_RV
        left_R1 = jnp.any(allowed_RV, axis=-1, keepdims=True)
        return jnp.where(left_R1, allowed_RV, self.permitted_RV)

    def log_probs(self) -> jax.Array:
        """The distribution itself, before any sampling, float32; what is banned is at -inf."""
        logits_RV = jnp.where(self._left_RV, self.logits_RV, -jnp.inf)
        return jax.nn.log_softmax(logits_RV.astype(jnp.float32))

    def draw(self, sampling: sampling_lib.Sampling, keys_R: jax.Array) -> jax.Array:
        """One token id a row, `[R]` int32."""
        allowed_RV = self._left_RV
        if self.truncated:
            logits_RV = jnp.where(self.permitted_RV, self.logits_RV, -jnp.inf)
            return sampling_lib.sample_among(sampling, logits_RV, allowed_RV, keys_R)
        return sampling.sample(jnp.where(allowed_RV, self.logits_RV, -jnp.inf), keys_R)


class Steering(Protocol):
    """What the decoding loop asks of a loaded method; a pytree.

    Rows do not look at each other, so a row that another one replaces in a running batch brings
    its own state from `start` and nothing else changes.
    """

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """The state of rows that have read their prompts but for the last token.

        Args:
          prompts_NP: ids, padded on the right.
          lengths_N: tokens of each; 0 for a row of padding.
          positions: that a cache needs for prompt and continuation.
        """
        ...

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """The distribution behind `token_R`, which the model has just read, and the new state."""
        ...


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A method that is ready.

    Attributes:
      steering: for the loop; None where its strength is 0, which is no steering.
      settings: for the manifest: its name, its numbers, fingerprints of the models that it holds.
      longest: tokens of prompt and continuation that its models can read; None without a limit.
      reads_ends: whether it takes a token that ends the text for another than one that goes on.
    """

    steering: Steering | None
    settings: dict[str, Any]
    longest: int | None = None
    reads_ends: bool = False


class Method(Protocol):
    """What a user names in STEERING: a frozen dataclass of numbers and places.

    One that is no distribution over all tokens says why in `unscored`, see `scoring`; one that
    reads files names the fields that hold their places in `files`, with the verb that writes each,
    or `MODEL`, where that is to be checked before any work. What fits no adaptation of the model on
    which it was fitted has `fits_adaptations` False. Where models must fit each other too,
    `check_models` refuses those that do not, by what is on disk.
    """

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """Reads what it needs.

        Args:
          base: the model that is steered.
          mesh: where arrays go.

        Raises:
          UserError: for what is missing, or does not fit the model.
        """
        ...


def load(
    methods: Sequence[Method],
    base: LoadedModel,
    mesh: Mesh,
    end_ids: tuple[int, ...] | None = None,
) -> list[Loaded]:
    """The methods, loaded, in their order.

    Args:
      methods: of STEERING.
      base: the model that is steered.
      mesh: where arrays go.
      end_ids: at which its texts end; the vocabulary's where None.

    Raises:
      UserError: see `Method.load`; also for what is none.
    """
    check(methods)
    if end_ids is None or set(end_ids) == set(base.vocabulary.end_ids):
        return [method.load(base, mesh) for method in methods]
    base = dataclasses.replace(base, vocabulary=base.vocabulary.ending_at(end_ids))
    return [_with_rules(method.load(base, mesh)) for method in methods]


def _with_rules(method: Loaded) -> Loaded:
    """A method of a text that ends at further tokens, of which a version before did not tell it."""
    rules = output_settings.text_rules(method.reads_ends and method.steering is not None)
    return dataclasses.replace(method, settings={**method.settings, **rules})


def check(methods: Sequence[Method]) -> None:
    """Refuses what is no list of methods.

    Raises:
      UserError: naming it.
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        raise UserError(
            f"STEERING is {methods!r}; give a list, such as '[@words.BannedWords()]'; [] for none"
        )
    for method in methods:
        if not callable(getattr(method, "load", None)) or isinstance(method, type):
            raise UserError(
                f"STEERING holds {method!r}, which is no method; give one with brackets: "
                "@words.BannedWords(), @experts.Experts(), @activations.ActivationOffset()"
            )


def check_files(methods: Sequence[Method]) -> None:
    """Refuses methods whose files are not there, or not what the verb that they need has written.

    Those that are still `preview.Coming` may be missing.

    Raises:
      UserError: naming the method's field, and the place.
    """
    for owner, place, written_by in _files(methods):
        if not epath.Path(place).exists():
            raise UserError(f"STEERING {owner}: {place}: no such file or directory")
        _check_kind(owner, place, written_by)


def _files(methods: Sequence[Method]) -> Iterator[tuple[str, str, str | None]]:
    """Each place that is given and made by now: whose field it is, the place, who writes it."""
    for method in methods:
        files = getattr(method, "files", ())
        if not isinstance(files, Mapping):  # A user's own method may name its fields alone.
            files = dict.fromkeys(files, _ANYTHING)
        for field, written_by in files.items():
            place: str | None = getattr(method, field)
            if place is not None and not isinstance(place, preview.Coming):
                yield f"{type(method).__name__}.{field}", place, written_by


def _check_kind(owner: str, place: str, written_by: str | None) -> None:
    """Refuses what is there and not of its verb; or no file, where no verb writes it."""
    if written_by is None and epath.Path(place).is_dir():
        raise UserError(f"{owner}: {place}: a directory; give a file")
    if written_by == MODEL:
        try:
            places.require(place)
        except UserError as error:
            raise UserError(f"{owner}: {error}") from None
    elif written_by not in (None, _ANYTHING):
        array_file.require_finished(owner, str(places.split(place)[0]), written_by)


def check_fit(methods: Sequence[Method], checkpoint_path: str) -> None:
    """Refuses models of other vocabularies than the steered one's, and what was fitted on others.

    Args:
      methods: their files are there, or still `preview.Coming`.
      checkpoint_path: of the model that is steered.

    Raises:
      UserError: naming the method's field, and the model.
    """
    steered = checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0])
    fingerprints = identity.fingerprint_ahead(checkpoint_path).among if methods else None
    for method in methods:
        fitted_on: dict[str, str] = dict.fromkeys(fingerprints or (), "the model")
        if steered.base is not None and getattr(method, "fits_adaptations", True):
            fitted_on[steered.base["fingerprint"]] = "its base"
        for owner, place, written_by in _files([method]):
            model_dir = places.split(place)[0]
            if (model_dir / places.MODEL_FILE).exists():
                require_vocabulary(owner, place, checkpoints.read_spec(model_dir), steered)
            elif fingerprints and written_by not in (None, _ANYTHING):
                array_file.require_fitted(owner, place, written_by, fitted_on)
        if callable(check_models := getattr(method, "check_models", None)):
            check_models()


def check_mesh(methods: Sequence[Method], checkpoint_path: str, mesh: Mesh) -> None:
    """Refuses a mesh that does not divide the steered model, or one that steers it.

    Args:
      methods: what of their files is there by now is looked at.
      checkpoint_path: of the model that is steered; it may be `preview.Coming`.
      mesh: where all of them go.

    Raises:
      UserError: naming the method's field, and the model.
    """
    paths = [(f"STEERING {owner}: {place}", place) for owner, place, _ in _files(methods)]
    if not isinstance(checkpoint_path, preview.Coming):
        paths.insert(0, (checkpoint_path, checkpoint_path))
    for named, place in paths:
        model_dir = places.split(place)[0]
        if (model_dir / places.MODEL_FILE).exists():
            checkpoints.require_divided(named, checkpoints.read_spec(model_dir), mesh)


def require_vocabulary(owner: str, path: str, spec: ModelSpec, steered: ModelSpec) -> None:
    """Refuses a model that steers and has another vocabulary than the steered one.

    Raises:
      UserError: naming both.
    """
    if spec.vocabulary != steered.vocabulary:
        raise UserError(
            f"{owner}: {path} has vocabulary {spec.vocabulary}, the model {steered.vocabulary}; "
            "give one that was trained with the model's vocabulary"
        )


def settings(loaded: Sequence[Loaded]) -> dict[str, Any]:
    """What stands for STEERING in the settings of a decoding; nothing where it is empty."""
    return {"steering": [method.settings for method in loaded]} if loaded else {}


def settings_ahead(methods: Sequence[Method]) -> dict[str, Any]:
    """As `settings`, of methods that are not loaded: what is not known before they are."""
    return {"steering": [_ahead(method) for method in methods]} if methods else {}


def _ahead(method: Any) -> output_settings.NotYet:
    """Of a method of ours its name, its numbers and the models that it names."""
    if not output_settings.is_ours(method):
        return output_settings.NOT_YET
    known: dict[str, Any] = {"method": type(method).__name__}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if isinstance(value, int | float):
            known[field.name] = value
        elif field.name in getattr(method, "files", ()):
            known[field.name] = value and _model_ahead(value)
    return output_settings.NotYet(known=known)


def _model_ahead(place: str) -> output_settings.NotYet:
    """What settings say of a file that a method names; nothing of one that is no model."""
    if (
        isinstance(place, preview.Coming)
        or not (places.split(place)[0] / places.MODEL_FILE).exists()
    ):
        return output_settings.NOT_YET
    known = identity.described(place, identity.fingerprint_ahead(place))
    return output_settings.NotYet(known=known)


def longest(loaded: Sequence[Loaded], max_length: int) -> int:
    """Tokens of prompt and continuation that the model and all that steers it can read.

    A method of strength 0 reads nothing.
    """
    steers = [method for method in loaded if method.steering is not None]
    return min([max_length, *(m.longest for m in steers if m.longest is not None)])


def in_loop(loaded: Sequence[Loaded]) -> tuple[Steering, ...]:
    """What the loop is given: all but the methods of strength 0."""
    return tuple(method.steering for method in loaded if method.steering is not None)


def is_token(width: int, vocab_size: int) -> jax.Array:
    """Which of the columns of logits stand for a token, bool `[V]`."""
    ids_V = jnp.arange(width)
    return (ids_V > 0) & (ids_V < vocab_size)


# --- in the loop ------------------------------------------------------------------------------


def start(
    steerings: Sequence[Steering], prompts_NP: jax.Array, lengths_N: jax.Array, positions: int
) -> tuple[State, ...]:
    """The states of all methods, see `Steering.start`."""
    return tuple(s.start(prompts_NP, lengths_N, positions) for s in steerings)


def adjust(
    steerings: Sequence[Steering],
    states: Sequence[State],
    logits_RV: jax.Array,
    token_R: jax.Array,
    vocab_size: int,
) -> tuple[Distribution, tuple[State, ...]]:
    """What all methods make of a model's logits, and their new states."""
    distribution = Distribution.of_model(logits_RV, vocab_size)
    after = []
    for steering, state in zip(steerings, states, strict=True):
        distribution, state = steering.adjust(distribution, state, token_R)
        after.append(state)
    return distribution, tuple(after)


def empty(
    steerings: Sequence[Steering], rows: int, prompt_length: int, positions: int
) -> tuple[State, ...]:
    """States of rows in which nothing is read yet, of the shapes that `start` gives.

    Args:
      steerings: the methods.
      rows: R.
      prompt_length: to which prompts are padded.
      positions: see `Steering.start`.
    """
    prompts_RP = jax.ShapeDtypeStruct((rows, prompt_length), jnp.int32)
    lengths_R = jax.ShapeDtypeStruct((rows,), jnp.int32)
    shapes = jax.eval_shape(lambda p, n: start(steerings, p, n, positions), prompts_RP, lengths_R)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def put(
    states: Sequence[State], new: Sequence[State], comes_R: jax.Array, of_row: Callable[..., Any]
) -> tuple[State, ...]:
    """The states with those of rows that come in.

    Args:
      states: of R rows.
      new: of N prompts.
      comes_R: which rows are replaced.
      of_row: `of_row(array, axis=axis)` gives each row what its prompt has on that axis.
    """

    def put_leaf(axis: int, leaf: jax.Array, new_leaf: jax.Array) -> jax.Array:
        comes = comes_R.reshape([-1 if i == axis else 1 for i in range(leaf.ndim)])
        return jnp.where(comes, of_row(new_leaf, axis=axis), leaf)

    return by_axis(put_leaf, states, new)


def hold(goes_R: jax.Array, before: Sequence[State], after: Sequence[State]) -> tuple[State, ...]:
    """The states after a step, where rows that wait have read nothing.

    A cache's own place beyond its index is never read, so it is enough to hold the indices.
    """

    def hold_leaf(axis: int, old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.integer):
            return new
        goes = goes_R.reshape([-1 if i == axis else 1 for i in range(new.ndim)])
        return jnp.where(goes, new, old)

    return by_axis(hold_leaf, before, after)


def by_axis(change: Callable[..., Any], *states: Sequence[State]) -> tuple[State, ...]:
    """Changes every array of the states, told the axis of its rows: `change(axis, *arrays)`."""
    return tuple(
        {
            axis: jax.tree.map(functools.partial(change, axis), *(state[axis] for state in same))
            for axis in same[0]
        }
        for same in zip(*states, strict=True)
    )
