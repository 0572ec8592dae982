"""Continuations of texts until one of several strings appears.

Tokens are decoded in pieces, between which a text that holds a stop string leaves the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation import decoding, sampling
from detox_jax.generation.steering.steering import Steering
from detox_jax.parallel import mesh as meshes

_PIECE = 32
# Settings of other libraries that say nothing at these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (True, False, None),
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "repetition_penalty": (1, None),
    "use_cache": (True, False, None),
    "min_p": (0, None),
}
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
NAMES = ("until", *_LIMITS, "temperature", "top_k", "top_p", *_NEUTRAL)  # of settings that are read


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a text goes on.

    Attributes:
      sampling: how a token is drawn.
      max_new_tokens: the limit.
      stops: what ends the text, and is not part of it.
    """

    sampling: sampling.Sampling
    max_new_tokens: int
    stops: tuple[str, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any], max_new_tokens: int) -> Settings:
        """Reads the generation settings of a task of lm-evaluation-harness.

        Args:
          values: `until`, `max_gen_toks` (and its other names), `do_sample`, `temperature`,
            `top_k`, `top_p`. Greedy where `do_sample` is false, or missing at temperature 0.
          max_new_tokens: the limit of a task that names none.

        Raises:
          UserError: for a setting that is not supported.
        """
        left = dict(values)
        until = left.pop("until", None) or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        limits = [_whole(name, left.pop(name)) for name in _LIMITS if left.get(name) is not None]
        temperature, top_p = (
            _number(name, left.pop(name, None)) for name in ("temperature", "top_p")
        )
        top_k = _whole("top_k", left.pop("top_k", None))
        for name, value in left.items():
            if name not in (*_LIMITS, *_NEUTRAL) or value not in _NEUTRAL.get(name, (None,)):
                raise UserError(f"generation setting {name} = {value!r} is not supported")
        draws = left.get("do_sample")
        if draws is None:
            draws = bool(temperature)
        method = _sampling(temperature, top_k, top_p) if draws else sampling.Greedy()
        limit = limits[0] if limits else max_new_tokens
        if limit < 1:
            raise UserError(f"max_gen_toks is {limit}; must be at least 1")
        return cls(method, limit, tuple(stop for stop in stops if stop))


def _number(name: str, value: Any) -> float | None:
    """A number, which may be given as text: YAML takes `1e3` for one; None where there is none."""
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise UserError(f"generation setting {name} = {value!r}: expected a number")
    return number


def _whole(name: str, value: Any) -> int:
    """The same of a whole number; 0 where there is none."""
    number = _number(name, value) or 0.0
    if not number.is_integer():
        raise UserError(f"generation setting {name} = {value!r}: expected a whole number")
    return int(number)


def _sampling(temperature: float | None, top_k: int, top_p: float | None) -> Any:
    temperature = 1.0 if temperature is None else temperature
    if top_k and top_p is not None and top_p < 1:
        raise UserError(f"top_k = {top_k} together with top_p = {top_p} is not supported; set one")
    if top_k:
        return sampling.TopKSampling(top_k, temperature)
    if top_p is not None and top_p < 1:
        return sampling.TopPSampling(top_p, temperature)
    return sampling.TemperatureSampling(temperature)


@dataclasses.dataclass
class _Text:
    """A text that grows."""

    index: int
    name: str
    prompt: list[int]
    new: list[int] = dataclasses.field(default_factory=list)


class Continuer:
    """Continues texts under a model.

    Attributes:
      batch_size: texts at once, a multiple of the mesh's batch shards.
      max_length: tokens of prompt and continuation together.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        mesh: Mesh,
        batch_size: int,
        max_length: int,
        seed: int,
        steerings: Sequence[Steering] = (),
    ):
        shards = meshes.num_batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self.max_length = max_length
        self._loaded, self._mesh, self._seed = loaded, mesh, seed
        self._steerings = tuple(steerings)
        self._decoders: dict[tuple[sampling.Sampling, int], decoding.Decoder] = {}

    def __call__(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str], settings: Settings
    ) -> list[str]:
        """The continuation of each prompt.

        Args:
          prompts: token ids, at least one each; cut from the left to leave room for new tokens.
          names: of the prompts, which seed their draws.
          settings: how they go on.

        Raises:
          UserError: if the context has no room for the new tokens.
        """
        room = self.max_length - settings.max_new_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks is {settings.max_new_tokens}, but the model reads "
                f"{self.max_length} tokens, prompt included; lower it (MAX_GEN_TOKS, GEN_KWARGS)"
            )
        waiting = [
            _Text(index, name, list(prompt[-room:]))
            for index, (prompt, name) in enumerate(zip(prompts, names, strict=True))
        ]
        texts = [""] * len(waiting)
        with terminal.bar("generate", len(waiting), unit="prompts") as advance:
            while waiting:
                waiting.sort(key=lambda text: -len(text.prompt) - len(text.new))
                batch = waiting[: self.batch_size]
                going = {text.index for text in batch}
                for text, ended in zip(batch, self._extend(batch, settings), strict=True):
                    if ended is not None:
                        texts[text.index] = ended
                        going.discard(text.index)
                        advance()
                waiting = [t for t in batch if t.index in going] + waiting[self.batch_size :]
        return texts

    def _extend(self, batch: Sequence[_Text], settings: Settings) -> list[str | None]:
        """Adds a piece to each text; returns those that have ended."""
        longest = max(len(text.prompt) + len(text.new) for text in batch)
        samples = self._decoder(settings)(
            [[*text.prompt, *text.new] for text in batch],
            # A draw is named by its place: the text, and the piece of it.
            [f"{text.name}\n{len(text.new)}" for text in batch],
            num_samples=1,
            num_rows=self.batch_size,
            bucket=decoding.bucket_length(longest, self.max_length),
        )
        ended: list[str | None] = []
        for text, (sample,) in zip(batch, samples, strict=True):
            text.new += sample.tokens
            full = len(text.new) >= settings.max_new_tokens
            # Apart from the prompt, as the harness's own models decode: its figures are compared.
            string = self._loaded.vocabulary.decode(text.new[: settings.max_new_tokens])
            cut = before_stop(string, settings.stops)
            ended.append(cut if sample.stopped or full or len(cut) < len(string) else None)
        return ended

    def _decoder(self, settings: Settings) -> decoding.Decoder:
        key = (settings.sampling, min(_PIECE, settings.max_new_tokens))
        if key not in self._decoders:
            self._decoders[key] = decoding.Decoder(
                self._loaded.module,
                self._loaded.params,
                self._mesh,
                sampling=key[0],
                max_new_tokens=key[1],
                end_ids=self._loaded.vocabulary.end_ids,
                seed=self._seed,
                steerings=self._steerings,
            )
        return self._decoders[key]


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The part of a text before the first of the stop strings."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
