"""Decoding: prompts are prefilled, shared by their samples, and extended in one jitted loop, whose
rows take the next sample when theirs has ended.

Random numbers are named by what they are for, `fold_in(seed, record id, sample, position)`, so a
row's text does not depend on its neighbours, the batch size or the number of devices. (What remains
is float rounding: a product of another shape, or over a longer cache, may differ in its last bit,
which in float32 moves a draw once in about ten million. In bfloat16, whose last bit is 65,536 times
as large, it moves some draws of any large output.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from detox_jax.errors import UserError
from detox_jax.generation import slots
from detox_jax.generation.sampling import Sampling, TopPSampling
from detox_jax.generation.schedule import Filling, Schedule
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.kinds import Count, Dtype, Seed
from detox_jax.models import unstacked
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.tags import Tags
from detox_jax.vocabulary import PAD_ID

_SMALLEST_BUCKET = 16
# Of the module, not of a decoder: a second model of the same configuration finds them compiled.
# Rows are donated, so that there is one cache.
_empty = jax.jit(slots.empty, static_argnums=(0, 2))
_insert = jax.jit(slots.insert, static_argnums=0, donate_argnums=2)
_advance = jax.jit(slots.advance, static_argnums=0, donate_argnums=2)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How text is decoded; the defaults are those of the evaluation protocol.

    Attributes:
      sampling: how tokens are drawn.
      max_new_tokens: the limit for each sample, whatever its prompt and its batch.
      num_samples: continuations a prompt; 1 for documents.
      batch_size: samples decoded at once; changes speed and memory, and the text by rounding alone.
      random_seed: of all draws.
      dtype: of activations; None takes the checkpoint's.
      steering: methods that change the distribution before the draw, in their order; see
        `detox_jax.generation.steering`. None where empty.
      behind: tags with which the model was trained; every prompt stands behind the good one, and no
        tag is written. None for a model without.

    Raises:
      UserError: for a number below 1.
    """

    sampling: Sampling = TopPSampling(0.9)
    max_new_tokens: Count = 20
    num_samples: Count = 25
    batch_size: Count = 256
    random_seed: Seed = 0
    dtype: Dtype | None = None
    steering: Sequence[steering_lib.Method] = ()
    behind: Tags | None = None

    def __post_init__(self):
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.upper()} is {getattr(self, name)}; must be at least 1")
        if not isinstance(self.behind, Tags | None):
            raise UserError(f"BEHIND is {self.behind!r}; give @tags.Tags(), or None for no tag")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One decoded continuation.

    Attributes:
      tokens: the new ids, the one that ended it not included.
      stopped: whether an end token ended it; False where the limit did.
    """

    tokens: list[int]
    stopped: bool


def bucket_length(prompt_length: int, longest: int) -> int:
    """The padded length of a prompt: 1, or 16, 32, 64, ... tokens, at most `longest`."""
    if prompt_length == 1:  # A document from nothing, the most frequent case.
        return 1
    bucket = _SMALLEST_BUCKET
    while bucket < prompt_length:
        bucket *= 2
    return min(bucket, longest)


def record_words(record_id: str) -> np.ndarray:
    """64 bits of a record's id, as two uint32, to fold into its random key."""
    return np.frombuffer(hashlib.sha256(record_id.encode()).digest()[:8], dtype=np.uint32)


class Decoder:
    """Decodes prompts that share a bucket, in rows that are refilled as their samples end.

    Decoders of equal configurations share their compiled programs, whatever their weights.

    Attributes:
      params: the parameters, on the mesh; others need another decoder.
      mesh: over whose `data` and `fsdp` axes the rows are split.
      row_steps: how often a row has taken a step so far.
    """

    def __init__(
        self,
        model: TransformerLM,
        params: Any,
        mesh: Mesh,
        *,
        sampling: Sampling,
        max_new_tokens: int,
        end_ids: tuple[int, ...],
        seed: int,
        steerings: Sequence[steering_lib.Steering] = (),
    ):
        """Prepares decoding; nothing is compiled yet.

        Args:
          model: the network.
          params: its parameters, on the mesh.
          mesh: over whose `data` and `fsdp` axes the rows are split.
          sampling: how a token is drawn.
          max_new_tokens: the exact limit for every sample.
          end_ids: any of which ends a sample.
          seed: of all draws.
          steerings: loaded methods, in their order.
        """
        self.params = params
        self.mesh = mesh
        self._steerings = tuple(steerings)
        self.row_steps = 0
        self._config = model.config
        self._seed = np.uint32(seed)
        self._shards = meshes.num_batch_shards(mesh)
        self._make = functools.partial(
            slots.Program, model, sampling, max_new_tokens, end_ids, shards=self._shards
        )

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        record_ids: Sequence[str],
        *,
        num_samples: int,
        num_rows: int,
        bucket: int,
    ) -> list[list[Sample]]:
        """Samples of each prompt.

        Args:
          prompts: token ids, each of at least one token and at most `bucket`.
          record_ids: names of the prompts, which seed their draws.
          num_samples: continuations a prompt.
          num_rows: prompts whose samples are decoded at once, a multiple of the mesh's batch
            shards; there may be more prompts, or fewer.
          bucket: padded length of the prompts.
        """
        samples: list[list[Sample]] = [[] for _ in prompts]
        for n, of_prompt in self.finished(
            prompts, record_ids, num_samples=num_samples, num_rows=num_rows, bucket=bucket
        ):
            samples[n] = of_prompt
        return samples

    def finished(
        self,
        prompts: Sequence[Sequence[int]],
        record_ids: Sequence[str],
        *,
        num_samples: int,
        num_rows: int,
        bucket: int,
    ) -> Iterator[tuple[int, list[Sample]]]:
        """The same, prompt by prompt as they end: the index of each, and its samples."""
        program = self._make(bucket=bucket)
        rows = Schedule(
            len(prompts),
            num_samples,
            most_rows=num_rows * num_samples,
            limit=program.max_new_tokens,
            shards=self._shards,
            bucket=bucket,
            num_params=sum(x.size for x in jax.tree.leaves(self.params)),
        )
        ended: dict[int, dict[int, Sample]] = {}
        state, filled = None, 0
        while not rows.finished:
            if state is None:
                state = self._run(_empty, program, rows.num_rows)
            while filling := rows.fill():
                insertion = self._insertion(filling, prompts, record_ids, bucket)
                state = self._run(_insert, program, state, insertion, self._seed)
            state = self._run(slots.fit, state, program, filled)
            enough = np.int32(rows.enough)
            collections = self._unstacked.collections
            state = self._run(_advance, program, state, enough, collections=collections)
            step_R, done_R, tokens_RT, filled_1R = meshes.to_host(
                (state.step_R, state.done_R, state.tokens_RT, state.filled_1R)
            )
            filled = int(filled_1R[0, ~done_R].max(initial=0))
            before = rows.row_steps
            for row, n, sample in rows.advance(step_R, done_R):
                of_prompt = ended.setdefault(n, {})
                of_prompt[sample] = _sample(tokens_RT[row, : step_R[row]], program.end_ids)
                if len(of_prompt) == num_samples:
                    yield n, [of_prompt[s] for s in range(num_samples)]
                    del ended[n]
            self.row_steps += rows.row_steps - before
            if (stay := rows.shrink()) is not None:
                state = self._run(slots.select, state, self._to_mesh(stay), self._shards)

    @functools.cached_property
    def _unstacked(self) -> unstacked.Unstacked:
        if self.mesh.size > 1:
            return unstacked.Unstacked({})
        with meshes.sharding_scope(self.mesh):
            return unstacked.of_layers(self._config, self.params)

    def _run(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Calls a compiled function; parameters go behind the program, what steers at the end."""
        if isinstance(arguments[0], slots.Program):
            arguments = (arguments[0], self.params, *arguments[1:], self._steerings)
        with meshes.sharding_scope(self.mesh):
            return function(*arguments, **named)

    def _to_mesh(self, tree: Any) -> Any:
        return meshes.to_mesh(tree, meshes.batch_sharding(self.mesh))

    def _insertion(
        self,
        filling: Filling,
        prompts: Sequence[Sequence[int]],
        record_ids: Sequence[str],
        bucket: int,
    ) -> slots.Insertion:
        """The arrays of an insertion, every shard's prompts in its own part."""
        room = filling.room
        N = self._shards * room
        tokens_NP = np.full((N, bucket), PAD_ID, np.int32)
        lengths_N = np.zeros(N, np.int32)
        words_N2 = np.zeros((N, 2), np.uint32)
        for shard, members in enumerate(filling.prompts):
            for place, n in enumerate(members, shard * room):
                tokens_NP[place, : len(prompts[n])] = prompts[n]
                lengths_N[place] = len(prompts[n])
                words_N2[place] = record_words(record_ids[n])
        arrays = (tokens_NP, lengths_N, words_N2, filling.source_R, filling.sample_R)
        return slots.Insertion(*self._to_mesh(arrays))


def _sample(tokens_T: np.ndarray, end_ids: tuple[int, ...]) -> Sample:
    stopped = bool(slots.is_end(tokens_T[-1], end_ids))
    return Sample((tokens_T[:-1] if stopped else tokens_T).tolist(), stopped)


def rows_per_batch(batch_size: int, num_samples: int, shards: int) -> int:
    """Prompts a batch: about `batch_size` samples, and a multiple of the mesh's batch shards."""
    prompts = max(1, batch_size // num_samples)
    return -(-prompts // shards) * shards
