"""Verb `fit_subspace`: a plane between a model's hidden states of clean and of toxic text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax import output_settings, outputs, records
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.decoding import bucket_length
from detox_jax.generation.steering import subspace
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID

FREE = ("output_dir", "batch_size", "mesh_shape", "strict")  # see `output_settings`


def fit_subspace(
    checkpoint_path: str,
    input: str,
    output_dir: str,
    threshold: float = 0.5,
    most_texts: int = 5000,
    dtype: str | None = None,
    batch_size: int = 64,
    mesh_shape: Mapping[str, int] | None = None,
    strict: bool = False,
) -> None:
    """Fits the plane that `subspace.SubspaceMargin` steers by.

    Args:
      checkpoint_path: the model that will be steered.
      input: scored documents, or continuations of prompts, which are read behind their prompts.
      output_dir: where the plane and the manifest go.
      threshold: from which score on a text is toxic.
      most_texts: of either class, at most; the hash of the id decides.
      dtype: of activations; None takes the checkpoint's.
      batch_size: texts that are read at once.
      mesh_shape: see `parallel.mesh.create_mesh`.
      strict: refuse a damaged newest step, in place of taking the one before.

    Raises:
      UserError: for text without scores or of one class alone, or a checkpoint that cannot be read.
    """
    arguments = locals()
    if not 0 < threshold <= 1:
        raise UserError(f"THRESHOLD is {threshold}; must be in (0, 1]")
    for name, value in (("MOST_TEXTS", most_texts), ("BATCH_SIZE", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; must be at least 1")
    mesh = meshes.create_mesh(mesh_shape)
    loaded = checkpoints.load_model(checkpoint_path, mesh, dtype, strict)

    # --- what decides the plane ---
    settings = output_settings.of_verb(
        fit_subspace,
        arguments,
        free=FREE,
        instead={
            "checkpoint_path": {
                "checkpoint": {"path": checkpoint_path, "fingerprint": loaded.fingerprint}
            },
            "input": {"input": records.describe_input(input)},
            "dtype": {"dtype": loaded.module.config.dtype},
        },
    )
    output = outputs.OutputDirectory(output_dir, "fit_subspace", settings)
    if output.complete:
        return

    # --- texts, states, plane ---
    scored = sorted(_scored(input, loaded), key=lambda item: records.stable_hash(item[0]))
    clean = [ids for _, ids, score in scored if score < threshold][:most_texts]
    toxic = [ids for _, ids, score in scored if score >= threshold][:most_texts]
    if not clean or not toxic:
        raise UserError(
            f"{input}: {len(clean)} texts below and {len(toxic)} from {threshold} on; both are "
            "needed: run `score` on it, move THRESHOLD, or give more"
        )
    clean_TD, toxic_TD = (states(loaded, mesh, texts, batch_size) for texts in (clean, toxic))
    normal_D, centre_D = subspace.fit(clean_TD, toxic_TD)
    subspace.write(output.path, normal_D, centre_D)
    right = np.mean(
        [*((clean_TD - centre_D) @ normal_D > 0), *((toxic_TD - centre_D) @ normal_D < 0)]
    )
    output.finish(clean=len(clean), toxic=len(toxic), on_their_side=round(float(right), 4))
    print(f"{output_dir}: {len(clean)} clean, {len(toxic)} toxic texts, {right:.1%} on their side")


def _scored(source: str, loaded: LoadedModel) -> Iterator[tuple[str, list[int], float]]:
    """Name, ids and score of every text that has a score and a token."""
    encode, longest = loaded.vocabulary.encode, loaded.module.config.max_length
    for record in records.read_records(source):
        before = encode(record.text) if isinstance(record, records.Prompt) else []
        texts = record.generations if isinstance(record, records.Prompt) else [record]
        for number, text in enumerate(texts):
            if text.toxicity is None or records.is_empty(text.text):
                continue
            ids = [*before, *encode(text.text)][-longest:]
            yield f"{record.id}\n{number}", ids, text.toxicity


def states(
    loaded: LoadedModel, mesh: Mesh, texts: Sequence[Sequence[int]], batch_size: int
) -> np.ndarray:
    """The final hidden state at the last token of each text, float64 `[T, D]`.

    Args:
      loaded: the model.
      mesh: that it is on.
      texts: ids, at least one each.
      batch_size: texts that are read at once.
    """
    shards = meshes.num_batch_shards(mesh)
    rows = -(-batch_size // shards) * shards
    longest = loaded.module.config.max_length
    read = jax.jit(functools.partial(_last_states, loaded.module))
    found = np.zeros((len(texts), loaded.module.config.emb_dim))
    order = sorted(range(len(texts)), key=lambda t: len(texts[t]))
    for start in range(0, len(texts), rows):
        members = order[start : start + rows]
        length = bucket_length(len(texts[members[-1]]), longest)
        tokens_BL, lengths_B = np.full((rows, length), PAD_ID, np.int32), np.ones(rows, np.int32)
        for row, t in enumerate(members):
            tokens_BL[row, : len(texts[t])] = texts[t]
            lengths_B[row] = len(texts[t])
        with meshes.sharding_scope(mesh):
            on_mesh = meshes.to_mesh((tokens_BL, lengths_B), meshes.batch_sharding(mesh))
            found[members] = meshes.to_host(read(loaded.params, *on_mesh))[: len(members)]
    return found


def _last_states(module, params, tokens_BL: jax.Array, lengths_B: jax.Array) -> jax.Array:
    hidden_BLD = module.apply(
        {"params": params}, tokens_BL, enable_dropout=False, with_logits=False
    )
    last_B11 = (lengths_B - 1)[:, None, None]
    return jnp.take_along_axis(hidden_BLD, last_B11, axis=1)[:, 0].astype(jnp.float32)
