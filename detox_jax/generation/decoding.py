"""Decoding: prompts are prefilled once, shared by their samples, and extended in one jitted loop.

Random numbers are named by what they are for, `fold_in(seed, record id, sample, position)`, and
the length of a row's cache by its own prompt, so a row's text does not depend on its neighbours,
the batch size or the number of devices. (What remains is float rounding: a product of another
shape may differ in its last bit, which moves a draw once in about ten million.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax.errors import UserError
from detox_jax.generation.sampling import Sampling, TopPSampling
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID

_SMALLEST_BUCKET = 16
# Positions of a cache: of so many a compiler for TPU makes whole tiles, which need no copies.
_CACHE_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How text is decoded; the defaults are those of the evaluation protocol.

    Attributes:
      sampling: how tokens are drawn.
      max_new_tokens: the limit for each sample, whatever its prompt and its batch.
      num_samples: continuations a prompt; 1 for documents.
      batch_size: samples decoded at once; changes speed and memory, not the text.
      random_seed: of all draws.
      dtype: of activations; None takes the checkpoint's.
      steering: methods that change the distribution before the draw, in their order; see
        `detox_jax.generation.steering`. None where empty.

    Raises:
      UserError: for a number below 1.
    """

    sampling: Sampling = TopPSampling(0.9)
    max_new_tokens: int = 20
    num_samples: int = 25
    batch_size: int = 256
    random_seed: int = 0
    dtype: str | None = None
    steering: Sequence[steering_lib.Method] = ()

    def __post_init__(self):
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.upper()} is {getattr(self, name)}; must be at least 1")


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
    """Decodes batches of prompts that share a bucket.

    Attributes:
      model: the network.
      params: its parameters, on the mesh.
      mesh: over whose `data` and `fsdp` axes the rows are split.
      sampling: how a token is drawn.
      max_new_tokens: the exact limit for every sample.
      end_ids: any of which ends a sample.
      seed: of all draws.
      steerings: loaded methods, in their order.
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
        self.params = params
        self.mesh = mesh
        self.steerings = tuple(steerings)
        self._decode = jit_decode(
            model, sampling=sampling, max_new_tokens=max_new_tokens, end_ids=end_ids, seed=seed
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
          num_rows: prompts that the compiled batch holds; missing ones are padding.
          bucket: padded length of the prompts.
        """
        tokens_NP = np.full((num_rows, bucket), PAD_ID, np.int32)
        lengths_N = np.zeros(num_rows, np.int32)
        words_N2 = np.zeros((num_rows, 2), np.uint32)
        for n, (prompt, record_id) in enumerate(zip(prompts, record_ids, strict=True)):
            tokens_NP[n, : len(prompt)] = prompt
            lengths_N[n] = len(prompt)
            words_N2[n] = record_words(record_id)
        sharding = meshes.batch_sharding(self.mesh)
        arrays = meshes.to_mesh((tokens_NP, lengths_N, words_N2), sharding)
        with meshes.sharding_scope(self.mesh):
            result = self._decode(
                self.params, *arrays, num_samples=num_samples, steerings=self.steerings
            )
        tokens_NST, lengths_NS, stopped_NS = meshes.to_host(result)
        return [
            [
                Sample(tokens_NST[n, s, : lengths_NS[n, s]].tolist(), bool(stopped_NS[n, s]))
                for s in range(num_samples)
            ]
            for n in range(len(prompts))
        ]


def rows_per_batch(batch_size: int, num_samples: int, shards: int) -> int:
    """Prompts a batch: about `batch_size` samples, and a multiple of the mesh's batch shards."""
    prompts = max(1, batch_size // num_samples)
    return -(-prompts // shards) * shards


def jit_decode(
    model: TransformerLM,
    *,
    sampling: Sampling,
    max_new_tokens: int,
    end_ids: tuple[int, ...],
    seed: int,
) -> Any:
    """`decode`, compiled for each `num_samples` and shape of prompts.

    Args:
      model: the network.
      sampling: how a token is drawn.
      max_new_tokens: the limit of new tokens for each sample.
      end_ids: the tokens that end a sample.
      seed: the seed of all draws.

    Returns:
      `decode` without those arguments; `num_samples` is given by keyword.
    """
    call = functools.partial(
        decode, model, sampling=sampling, max_new_tokens=max_new_tokens, end_ids=end_ids, seed=seed
    )
    return jax.jit(call, static_argnames="num_samples")


def decode(
    model: TransformerLM,
    params: Any,
    prompts_NP: jax.Array,
    lengths_N: jax.Array,
    words_N2: jax.Array,
    *,
    num_samples: int,
    sampling: Sampling,
    max_new_tokens: int,
    end_ids: tuple[int, ...],
    seed: int,
    steerings: Sequence[steering_lib.Steering] = (),
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decodes S samples for each of N prompts; rows R = N S.

    Args:
      model: the network.
      params: its parameters.
      prompts_NP: ids, padded on the right.
      lengths_N: tokens of each prompt; 0 for a row of padding, which is not decoded.
      words_N2: uint32 names of the prompts.
      num_samples: S.
      sampling: how a token is drawn.
      max_new_tokens: T.
      end_ids: any of which ends a sample.
      seed: of all draws.
      steerings: what changes the distribution before a draw.

    Returns:
      `tokens_NST` (padding behind the end), `lengths_NS`, `stopped_NS`.
    """
    N, P = prompts_NP.shape
    S, T = num_samples, max_new_tokens
    positions = -(-(P + T) // _CACHE_MULTIPLE) * _CACHE_MULTIPLE
    cache = _prefill(model, params, prompts_NP, lengths_N, positions)
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, S, axis=1), cache)
    steered = steering_lib.start(steerings, prompts_NP, lengths_N, positions)
    steered = steering_lib.repeat(steered, S)
    keys_R = _row_keys(words_N2, S, seed)
    last_N = jnp.take_along_axis(prompts_NP, jnp.maximum(lengths_N - 1, 0)[:, None], axis=1)[:, 0]

    def proceed(state: Any) -> jax.Array:
        t, _, done_R, *_ = state
        return (t < T) & ~jnp.all(done_R)

    def step(state: Any) -> Any:
        t, token_R, done_R, tokens_RT, cache, steered = state
        logits_R1V, variables = model.apply(
            {"params": params, "cache": cache},
            token_R[:, None],
            decode=True,
            enable_dropout=False,
            mutable=["cache"],
        )
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_R, t)
        if steerings:
            distribution, steered = steering_lib.adjust(
                steerings, steered, logits_R1V[:, 0], token_R, model.config.vocab_size
            )
            drawn_R = distribution.draw(sampling, keys)
        else:
            drawn_R = sampling.sample(logits_R1V[:, 0], keys)
        token_R = jnp.where(done_R, PAD_ID, drawn_R)
        tokens_RT = jax.lax.dynamic_update_slice(tokens_RT, token_R[:, None], (0, t))
        done_R = done_R | _is_end(token_R, end_ids)
        return t + 1, token_R, done_R, tokens_RT, variables["cache"], steered

    start = (
        jnp.zeros((), jnp.int32),
        jnp.repeat(last_N, S),
        jnp.repeat(lengths_N == 0, S),
        jnp.full((N * S, T), PAD_ID, jnp.int32),
        cache,
        steered,
    )
    _, _, _, tokens_RT, *_ = jax.lax.while_loop(proceed, step, start)
    tokens_NST = tokens_RT.reshape(N, S, T)
    is_end_NST = _is_end(tokens_NST, end_ids)
    lengths_NS = jnp.sum((tokens_NST != PAD_ID) & ~is_end_NST, axis=-1)
    return tokens_NST, lengths_NS, jnp.any(is_end_NST, axis=-1)


def _is_end(tokens: jax.Array, end_ids: tuple[int, ...]) -> jax.Array:
    return functools.reduce(operator.or_, [tokens == end_id for end_id in end_ids])


def _prefill(
    model: TransformerLM, params: Any, prompts_NP: jax.Array, lengths_N: jax.Array, size: int
) -> Any:
    """The cache of the prompts, all but their last token, which the first decoding step reads."""
    N = prompts_NP.shape[0]
    sized = jax.eval_shape(
        lambda tokens: model.apply(
            {"params": params}, tokens, decode=True, enable_dropout=False, mutable=["cache"]
        )[1]["cache"],
        jax.ShapeDtypeStruct((N, size), jnp.int32),
    )
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sized)
    _, variables = model.apply(
        {"params": params, "cache": cache},
        prompts_NP,
        prefill=True,
        prefill_lengths=jnp.maximum(lengths_N - 1, 0),
        enable_dropout=False,
        mutable=["cache"],
    )
    return variables["cache"]


def _row_keys(words_N2: jax.Array, num_samples: int, seed: int) -> jax.Array:
    """One key a row, from the seed, the record's name and the sample's index."""

    def of_prompt(words_2: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), words_2[0]), words_2[1])
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_samples))

    return jax.vmap(of_prompt)(words_N2).reshape(-1)
