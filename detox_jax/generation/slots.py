"""Rows in which samples are decoded: `insert` puts prompts into free ones, `advance` adds tokens.

A row is a sample at its own position: its cache, its random key and its count of tokens go with it.
So a row's text does not depend on when it was inserted, on its place, or on what stands beside it,
and a row whose text has ended can take another sample while its neighbours go on.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.linen import partitioning

from detox_jax.generation import caches
from detox_jax.generation.sampling import Sampling
from detox_jax.generation.steering import editing
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.models import kernels, kv_cache
from detox_jax.models.kv_cache import CACHE_AXES
from detox_jax.models.transformer import TransformerLM
from detox_jax.vocabulary import PAD_ID

# Positions of a cache: of so many a compiler for TPU makes whole tiles, which need no copies.
_CACHE_MULTIPLE = 16
# Into how many parts a long cache is divided, which are read as far as they are filled, and whose
# multiple each of them is. Each part is a loop that is compiled.
_ROOMS, _ROOM_MULTIPLE = 4, 128
# The same of a cache that grows, whose loops are compiled only when rows are so long.
_GROWTHS, _GROWTH_MULTIPLE = 8, 64
# For how many steps there has to be room at first: a length for fewer is not worth compiling.
_GROWTH_STEPS = 16
# Of probabilities, as many as a processor's own cache holds from one pass over them to the next.
_BYTES_AT_ONCE = 2**20
_INDEX = "cache_index"

Steerings = Sequence[steering_lib.Steering]


@dataclasses.dataclass(frozen=True)
class Program:
    """What compiled programs depend on beside shapes: equal ones share them, whatever the weights.

    Attributes:
      model: the network.
      sampling: how a token is drawn.
      max_new_tokens: T, the exact limit for every sample.
      end_ids: any of which ends a sample.
      bucket: P, to which prompts are padded.
      shards: parts into which a mesh splits the rows; a row is filled from its own part's prompts.
    """

    model: TransformerLM
    sampling: Sampling
    max_new_tokens: int
    end_ids: tuple[int, ...]
    bucket: int
    shards: int

    @property
    def positions(self) -> int:
        """The most positions of a row's cache, which follow from the prompts' bucket alone."""
        return _positions(self.bucket, self.max_new_tokens)

    def room(self, filled: int) -> int:
        """Positions of caches of which rows have filled so many at most, and go on.

        Where layers have arrays of their own the caches grow with their rows: such an array is read
        where it lies, but of a part of it a copy. Others have all positions from the start.
        """
        if not kv_cache.is_apart(self.model.config):
            return self.positions
        part = _part(self.positions, _GROWTHS, _GROWTH_MULTIPLE)
        needed = max(filled, self.bucket - 1) + _GROWTH_STEPS
        return min(-(-needed // part) * part, self.positions)


def _positions(bucket: int, max_new_tokens: int) -> int:
    return -(-(bucket + max_new_tokens) // _CACHE_MULTIPLE) * _CACHE_MULTIPLE


def _part(positions: int, parts: int, multiple: int) -> int:
    return -(-positions // (parts * multiple)) * multiple


def rooms(positions: int) -> list[int]:
    """How much is read of a cache of so many positions: one number for each part of `advance`."""
    part = _part(positions, _ROOMS, _ROOM_MULTIPLE)
    return [*range(part, positions, part), positions]


def steps_by_room(bucket: int, max_new_tokens: int) -> dict[int, int]:
    """The steps in each room of rows that start together, of prompts as long as their bucket."""
    steps: dict[int, int] = {}
    filled, left = bucket - 1, max_new_tokens
    for room in rooms(_positions(bucket, max_new_tokens)):
        steps[room] = min(max(room + 1 - filled, 0), left)
        filled, left = filled + steps[room], left - steps[room]
    return steps


@struct.dataclass
class Slots:
    """R rows. All but the cache and what steers have rows at axis 0.

    Attributes:
      cache: of the network, rows at axis 1.
      token_R: the last token, which the next step reads.
      key_R: random keys.
      step_R: how many tokens the sample has.
      done_R: whether it has ended, or there is none.
      tokens_RT: its tokens, padding behind them.
      steered: the states of what steers, by the axis of their rows.
    """

    cache: Any
    token_R: jax.Array
    key_R: jax.Array
    step_R: jax.Array
    done_R: jax.Array
    tokens_RT: jax.Array
    steered: tuple[steering_lib.State, ...] = ()

    @property
    def room(self) -> int:
        """Positions of the cache as it is now, see `Program.room`."""
        return next(leaf.shape[3] for name, leaf in self.cache.items() if name != _INDEX)

    @property
    def filled_1R(self) -> jax.Array:
        """How many positions of its cache each row has filled."""
        return self.cache[_INDEX]


@struct.dataclass
class Insertion:
    """Samples that come in, and where.

    Attributes:
      prompts_NP: ids, padded on the right.
      lengths_N: tokens of each prompt, at least 1; 0 where there is none.
      words_N2: uint32 names of the prompts.
      source_R: which of the prompts of a row's own shard it continues; -1 leaves the row as it is.
      sample_R: which of the prompt's samples it is.
    """

    prompts_NP: Any
    lengths_N: Any
    words_N2: Any
    source_R: Any
    sample_R: Any


def empty(program: Program, params: Any, rows: int, steerings: Steerings = ()) -> Slots:
    """Rows without samples, and room for a prompt."""
    slots = Slots(
        cache=caches.empty(program.model, params, rows, program.room(0)),
        token_R=jnp.full(rows, PAD_ID, jnp.int32),
        key_R=jnp.broadcast_to(jax.random.key(0), rows),
        step_R=jnp.zeros(rows, jnp.int32),
        done_R=jnp.ones(rows, bool),
        tokens_RT=jnp.full((rows, program.max_new_tokens), PAD_ID, jnp.int32),
        steered=steering_lib.empty(steerings, rows, program.bucket, program.positions),
    )
    return _on_mesh(slots)


def insert(
    program: Program,
    params: Any,
    slots: Slots,
    insertion: Insertion,
    seed: jax.Array,
    steerings: Steerings = (),
) -> Slots:
    """Prefills prompts, each once, and puts their samples into rows.

    Args:
      program: what is decoded.
      params: parameters of its network.
      slots: the rows.
      insertion: what comes in.
      seed: of all draws.
      steerings: what changes the distribution before a draw.
    """
    comes_R = insertion.source_R >= 0
    of_row = functools.partial(_of_rows, program.shards, jnp.maximum(insertion.source_R, 0))
    length_R, words_R2 = of_row(insertion.lengths_N), of_row(insertion.words_N2)
    before_N = jnp.maximum(insertion.lengths_N - 1, 0)
    last_N = jnp.take_along_axis(insertion.prompts_NP, before_N[:, None], axis=1)[:, 0]
    cache = slots.cache
    if program.bucket > 1:  # The first step reads the last token, so one alone has no prefill.
        prompt_edits = editing.of_prompt(steerings)
        cache = _with_prefilled(program, params, cache, insertion, comes_R, prompt_edits)
    states = steering_lib.start(
        steerings, insertion.prompts_NP, insertion.lengths_N, program.positions
    )
    index = jnp.where(comes_R, jnp.maximum(length_R - 1, 0), cache[_INDEX])
    return _on_mesh(
        dataclasses.replace(
            slots,
            cache={**cache, _INDEX: index},
            token_R=jnp.where(comes_R, of_row(last_N), slots.token_R),
            key_R=jnp.where(comes_R, _row_keys(words_R2, insertion.sample_R, seed), slots.key_R),
            step_R=jnp.where(comes_R, 0, slots.step_R),
            done_R=~comes_R & slots.done_R,
            tokens_RT=jnp.where(comes_R[:, None], PAD_ID, slots.tokens_RT),
            steered=steering_lib.put(slots.steered, states, comes_R, of_row),
        )
    )


def advance(
    program: Program,
    params: Any,
    slots: Slots,
    enough: jax.Array,
    steerings: Steerings = (),
    collections: Mapping[str, Any] | None = None,
) -> Slots:
    """Adds tokens to all rows that are not done, until `enough` are, or one has filled the cache.

    Args:
      program: what is decoded.
      params: parameters of its network.
      slots: the rows.
      enough: how many rows are done in the end, at most all.
      steerings: what changes the distribution before a draw.
      collections: see `caches.apply`.
    """

    def proceed(room: int, state: tuple[jax.Array, Slots]) -> jax.Array:
        t, slots = state
        goes_on = (t < program.max_new_tokens) & (jnp.sum(slots.done_R) < enough)
        if room == program.positions:
            return goes_on
        # Rows that wait may have filled more; what they would write is nowhere.
        filled = jnp.max(jnp.where(slots.done_R, 0, slots.filled_1R))
        # What a step writes beside what it reads has to lie in the cache too.
        return goes_on & (filled <= min(room, slots.room - 1))

    def step(reads: Mapping[str, int], state: tuple[jax.Array, Slots]) -> tuple[jax.Array, Slots]:
        t, slots = state
        edits, steered = editing.of_step(steerings, slots.steered, slots.token_R)
        logits_R1V, cache = caches.apply(
            program.model,
            params,
            slots.cache,
            slots.token_R[:, None],
            collections=collections,
            decode=True,
            edits=edits,
            **reads,
        )
        goes_R = ~slots.done_R
        drawn_R, steered = _draw(program, slots, goes_R, logits_R1V[:, 0], steerings, steered)
        token_R = jnp.where(goes_R, drawn_R, PAD_ID)
        # A row that waits stays where it is: behind its cache there is no room.
        index = jnp.where(goes_R, cache[_INDEX], slots.cache[_INDEX])
        here_RT = jnp.arange(program.max_new_tokens) == slots.step_R[:, None]
        step_R = slots.step_R + goes_R.astype(slots.step_R.dtype)
        ended_R = is_end(token_R, program.end_ids) | (step_R == program.max_new_tokens)
        return t + 1, dataclasses.replace(
            slots,
            cache={**cache, _INDEX: index},
            token_R=token_R,
            step_R=step_R,
            done_R=slots.done_R | ended_R,
            tokens_RT=jnp.where(here_RT & goes_R[:, None], token_R[:, None], slots.tokens_RT),
            steered=steered,
        )

    # Counted, so that it ends whatever the rows say, though none takes more steps than that.
    state = jnp.zeros((), jnp.int32), slots
    all_read = kv_cache.is_apart(program.model.config)
    for room in [slots.room] if all_read else rooms(slots.room):
        reads = {} if room == slots.room else {"cache_room": room}
        with jax.named_scope(scope(room)):
            state = jax.lax.while_loop(
                functools.partial(proceed, room), functools.partial(step, reads), state
            )
    return _on_mesh(state[1])


def _draw(
    program: Program,
    slots: Slots,
    goes_R: jax.Array,
    logits_RV: jax.Array,
    steerings: Steerings,
    steered: tuple[steering_lib.State, ...],
) -> tuple[jax.Array, tuple[steering_lib.State, ...]]:
    """The next token of each row, and what the steerings remember; rows that wait keep theirs.

    Args:
      program: what is decoded.
      slots: the rows before the step.
      goes_R: which of them do not wait.
      logits_RV: of the next token.
      steerings: what changes the distribution before a draw.
      steered: what they remember of this step.
    """
    keys_R = jax.vmap(jax.random.fold_in)(slots.key_R, slots.step_R)
    if not steerings:
        return drawn(program.sampling.sample, logits_RV, keys_R), steered
    vocab_size = program.model.vocab_size
    distribution, steered = steering_lib.adjust(
        steerings, steered, logits_RV, slots.token_R, vocab_size
    )
    steered = steering_lib.hold(goes_R, slots.steered, steered)
    return drawn(lambda d, k: d.draw(program.sampling, k), distribution, keys_R), steered


def drawn(draw: Callable[[Any, jax.Array], jax.Array], rows: Any, keys_R: jax.Array) -> Any:
    """Draws of all rows; on a CPU of a few at a time, which takes half as long for the same tokens.

    Args:
      draw: takes rows and their keys, and returns a token id for each.
      rows: float32 logits `[R, V]`, or a tree of such arrays.
      keys_R: of the rows.

    Returns:
      The ids, `[R]` int32.
    """
    number, size = jax.tree.leaves(rows)[0].shape
    at_once = max(1, _BYTES_AT_ONCE // (4 * size))
    if number <= at_once or not kernels.is_one_cpu():
        return draw(rows, keys_R)

    def of_one(row: Any) -> jax.Array:
        return draw(*jax.tree.map(lambda array: array[None], row))[0]

    return jax.lax.map(of_one, (rows, keys_R), batch_size=at_once)


def scope(room: int) -> str:
    """The name, in compiled programs, of the loop that reads so many positions of the cache."""
    return f"room_{room}"


def select(slots: Slots, row_K: jax.Array, shards: int) -> Slots:
    """Some of the rows, by their places within their shards; the rows that there were are given up.

    Large arrays, keys and values, are selected one by one, and each is given up before the next:
    beside the rows of before there are those that stay of one of them alone.
    """
    take = functools.partial(_taken, row_K=row_K, shards=shards)
    return _one_by_one(take, layouts_of(slots), slots)


def fit(slots: Slots, program: Program, filled: int) -> Slots:
    """The rows with a cache of the positions that they need, see `Program.room`.

    Another cache that there was is given up, likewise. What steers keeps its own caches.

    Args:
      slots: the rows.
      program: what is decoded.
      filled: positions of the row that has filled most and goes on.
    """
    room = program.room(filled)
    if filled < slots.room <= room:
        return slots
    resized = functools.partial(_resized, room=room)
    return dataclasses.replace(
        slots, cache=_one_by_one(resized, layouts_of(slots).cache, slots.cache)
    )


def _one_by_one(change: Callable[..., list[jax.Array]], layouts_of_tree: Any, tree: Any) -> Any:
    """What a function of layouts and arrays makes of a tree, of one large array at a time."""
    leaves, structure = jax.tree.flatten(tree)
    layouts = jax.tree.leaves(layouts_of_tree)
    large = [[place] for place, layout in enumerate(layouts) if layout.is_large]
    others = [place for place, layout in enumerate(layouts) if not layout.is_large]
    for places in (*large, others):
        before = [leaves[place] for place in places]
        changed = change(tuple(layouts[place] for place in places), before)
        # What is computed, or what is given up, later takes room until then.
        for place, leaf in zip(places, jax.block_until_ready(changed), strict=True):
            if layouts[place].is_large:
                leaves[place].delete()
            leaves[place] = leaf
    return jax.tree.unflatten(structure, leaves)


@functools.partial(jax.jit, static_argnames=("layouts", "shards"))
def _taken(
    layouts: tuple[Layout, ...], leaves: Sequence[jax.Array], *, row_K: jax.Array, shards: int
) -> list[jax.Array]:
    """Some rows of arrays."""
    return [
        layout.on_mesh(_of_rows(shards, row_K, leaf, axis=layout.axis))
        for layout, leaf in zip(layouts, leaves, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("layouts", "room"))
def _resized(
    layouts: tuple[Layout, ...], leaves: Sequence[jax.Array], *, room: int
) -> list[jax.Array]:
    """Keys and values with so many positions, zeros where there were none; the index as it is."""

    def resized(layout: Layout, leaf: jax.Array) -> jax.Array:
        if not layout.is_large:
            return leaf
        more = max(room - leaf.shape[3], 0)
        first = jax.lax.slice_in_dim(leaf, 0, min(room, leaf.shape[3]), axis=3)
        return jnp.pad(first, [(0, 0)] * 3 + [(0, more), (0, 0)])

    return [
        layout.on_mesh(resized(layout, leaf)) for layout, leaf in zip(layouts, leaves, strict=True)
    ]


def is_end(tokens: jax.Array, end_ids: tuple[int, ...]) -> jax.Array:
    """Which of the tokens end a text; of arrays of NumPy too."""
    return functools.reduce(operator.or_, [tokens == end_id for end_id in end_ids])


def _of_rows(shards: int, index_R: jax.Array, x: jax.Array, axis: int = 0) -> jax.Array:
    """`x[index]` on an axis of which every shard has an equal part, indexed within it."""
    parts = x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
    take = functools.partial(jnp.take, axis=axis)
    taken = jax.vmap(take, in_axes=(axis, 0), out_axes=axis)(parts, index_R.reshape(shards, -1))
    return taken.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _with_prefilled(
    program: Program,
    params: Any,
    cache: Any,
    insertion: Insertion,
    comes_R: jax.Array,
    edits: editing.Edits,
) -> Any:
    """The cache with the prompts' keys and values at the start of the rows that come in."""
    N, P = insertion.prompts_NP.shape
    _, prefilled = caches.apply(
        program.model,
        params,
        caches.empty(program.model, params, N, P),
        insertion.prompts_NP,
        prefill=True,
        prefill_lengths=jnp.maximum(insertion.lengths_N - 1, 0),
        edits=edits,
    )
    source_R = jnp.maximum(insertion.source_R, 0)

    def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
        new = _of_rows(program.shards, source_R, new, axis=1)
        comes = comes_R.reshape(1, -1, *[1] * (leaf.ndim - 2))
        start = jax.lax.slice_in_dim(leaf, 0, P, axis=3)
        return jax.lax.dynamic_update_slice(leaf, jnp.where(comes, new, start), (0,) * leaf.ndim)

    return {
        name: leaf if name == _INDEX else put(leaf, prefilled[name]) for name, leaf in cache.items()
    }


def _row_keys(words_R2: jax.Array, sample_R: jax.Array, seed: jax.Array) -> jax.Array:
    """One key a row, from the seed, the record's name and the sample's index."""

    def of_row(words_2: jax.Array, sample: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), words_2[0]), words_2[1])
        return jax.random.fold_in(key, sample)

    return jax.vmap(of_row)(words_R2, sample_R)


# --- over the mesh ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array of the rows lies over the mesh.

    Attributes:
      axis: that the rows are on.
      names: logical ones of all axes.
    """

    axis: int
    names: tuple[str | None, ...]

    @property
    def is_large(self) -> bool:
        """Whether it holds keys or values."""
        return len(self.names) >= len(CACHE_AXES)

    def on_mesh(self, leaf: jax.Array) -> jax.Array:
        """The array split so."""
        constrain: Any = partitioning.with_sharding_constraint
        return constrain(leaf, self.names)


def layouts_of(slots: Slots) -> Slots:
    """The `Layout` of every array, in its place; of the arrays their `ndim` alone is asked."""

    def of_state(axis: int, leaf: Any) -> Layout:
        names: list[str | None] = [None] * axis + ["batch"] + [None] * (leaf.ndim - axis - 1)
        if leaf.ndim >= len(CACHE_AXES):  # of a network, whatever stands before
            names[-3:] = CACHE_AXES[-3:]
        return Layout(axis, tuple(names))

    cache = {
        name: Layout(1, ("layers", "batch") if name == _INDEX else CACHE_AXES)
        for name in slots.cache
    }
    rest = dataclasses.replace(slots, cache=None, steered=())
    rest = jax.tree.map(lambda leaf: Layout(0, ("batch", "length")[: leaf.ndim]), rest)
    steered = steering_lib.by_axis(of_state, slots.steered)
    return dataclasses.replace(rest, cache=cache, steered=steered)


def _on_mesh(slots: Slots) -> Slots:
    """The rows split over the mesh, always alike: another sharding would be another program."""
    return jax.tree.map(lambda layout, leaf: layout.on_mesh(leaf), layouts_of(slots), slots)
