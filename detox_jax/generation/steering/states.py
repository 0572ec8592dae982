"""Hidden states of texts, read in one forward pass each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.generation.decoding import bucket_length
from detox_jax.models import edits
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID, Vocabulary


def encoded(
    vocabulary: Vocabulary, texts: Sequence[tuple[str, str]], prefix: str = ""
) -> list[list[int]]:
    """Ids of each text as a model reads it while it writes: start, prefix, prompt and text.

    A text behind a prompt has the ids with which the model goes on from it.

    Args:
      vocabulary: the model's.
      texts: prompt, empty for documents, and what follows it.
      prefix: before every prompt.
    """
    (prefix_ids,) = vocabulary.encode_batch([prefix])
    prompts, written = [prompt for prompt, _ in texts], [text for _, text in texts]
    if any(prompts):
        encoded = vocabulary.encode_continuations(prompts, written)
    else:
        encoded = vocabulary.encode_batch(written)
    return [
        [vocabulary.bos_id, *prefix_ids, *prompt, *ids]
        for prompt, ids in zip(vocabulary.encode_batch(prompts), encoded, strict=True)
    ]


def read(
    loaded: LoadedModel,
    mesh: Mesh,
    texts: Sequence[Sequence[int]],
    site: str,
    last_tokens: int,
    batch_size: int,
    advance: Callable[[int], Any] | None = None,
    skipped_tokens: int = 0,
) -> np.ndarray:
    """The mean of a site's states over each text's last tokens.

    Args:
      loaded: the model.
      mesh: where it is.
      texts: ids of each, at least one; of one that is longer than the context the last ones count.
      site: one of `edits.SITES`.
      last_tokens: over how many; over all of a shorter text.
      batch_size: texts at once.
      advance: told how many texts were read.
      skipped_tokens: at a text's start, which do not count; fewer than any text has.

    Returns:
      `[T, N, ...]` in float64, of the final site `[T, D]`.
    """
    shards = meshes.num_batch_shards(mesh)
    rows = -(-max(1, batch_size) // shards) * shards
    longest = loaded.module.config.max_length
    texts = [text[-longest:] for text in texts]
    order = sorted(range(len(texts)), key=lambda t: len(texts[t]))
    states: dict[int, np.ndarray] = {}
    for start in range(0, len(order), rows):
        members = order[start : start + rows]
        bucket = bucket_length(max(len(texts[t]) for t in members), longest)
        tokens_BL = np.full((rows, bucket), PAD_ID, np.int32)
        lengths_B = np.ones(rows, np.int32)
        for row, t in enumerate(members):
            tokens_BL[row, : len(texts[t])] = texts[t]
            lengths_B[row] = len(texts[t])
        arrays = meshes.to_mesh((tokens_BL, lengths_B), meshes.batch_sharding(mesh))
        with meshes.sharding_scope(mesh):
            span = (last_tokens, skipped_tokens)
            means = _means(loaded.module, site, span, loaded.params, *arrays)
        for row, t in enumerate(members):
            states[t] = np.asarray(means[row], np.float64)
        if advance is not None:
            advance(len(members))
    return np.stack([states[t] for t in range(len(texts))])


def _means(
    module: TransformerLM, site: str, span: tuple[int, int], params: Any, *arrays: jax.Array
) -> np.ndarray:
    return meshes.to_host(_read(module, site, span, params, *arrays))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(
    module: TransformerLM,
    site: str,
    span: tuple[int, int],
    params: Any,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
) -> jax.Array:
    """`[B, N, ...]`: the other sites' states are never computed further than they are needed."""
    _, variables = module.apply(
        {"params": params},
        tokens_BL,
        enable_dropout=False,
        with_logits=False,
        mutable=[edits.RECORDED],
    )
    states = edits.recorded(variables)[site].astype(jnp.float32)
    index_L = jnp.arange(tokens_BL.shape[1])
    last_tokens, skipped_tokens = span
    first_B1 = jnp.maximum(lengths_B - last_tokens, skipped_tokens)[:, None]
    is_read_BL = (index_L >= first_B1) & (index_L < lengths_B[:, None])
    share_BL = is_read_BL.astype(jnp.float32) / jnp.sum(
        is_read_BL, axis=1, keepdims=True, dtype=jnp.float32
    )
    if site == edits.FINAL:
        return jnp.einsum("BL...,BL->B...", states, share_BL)
    return jnp.einsum("NBL...,BL->BN...", states, share_BL)
