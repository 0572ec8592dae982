"""Verb `steer`: fits vectors that move a model's hidden states away from toxic text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detox_jax import output_settings, outputs, preview, records, terminal
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering import examples, formulas, states
from detox_jax.generation.steering import vectors as vectors_lib
from detox_jax.generation.steering.fitting import Fit, MeanDifference
from detox_jax.kinds import Count, Dtype, Positive
from detox_jax.parallel import mesh as meshes
from detox_jax.preview import Step

FREE = ("output_dir", "batch_size", "mesh_shape", "strict", "check_only")  # see `output_settings`


def steer(
    checkpoint_path: str,
    input: str,
    output_dir: str,
    fit: Fit | None = None,
    margin: Positive = 0.3,
    most_pairs: Count = 1000,
    dtype: Dtype | None = None,
    batch_size: Count = 64,
    mesh_shape: Mapping[str, int] | None = None,
    strict: bool = False,
    check_only: bool = False,
) -> list[Step] | None:
    """Fits vectors from a model's scored continuations, or from scored or labelled documents.

    Args:
      checkpoint_path: the model that is to be steered.
      input: what `score` wrote of `generate`'s continuations, of which every prompt gives its most
        and its least toxic one as a pair; or scored or labelled documents, of which the most toxic
        are paired with the least toxic.
      output_dir: where the vectors go.
      fit: what is fitted; the mean difference where None.
      margin: by how much the scores of a pair differ, at least.
      most_pairs: how many pairs are read, at most.
      dtype: of activations; None takes the checkpoint's.
      batch_size: texts read at once; changes speed and memory.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      strict: refuse a damaged newest step, in place of taking the one before and saying so.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for a checkpoint or text that cannot be used, or too few pairs.
    """
    arguments = locals()
    fit = fit or MeanDifference()
    formulas.require_finite("steer", margin=margin)
    if margin <= 0 or most_pairs < 1 or batch_size < 1:
        raise UserError(
            f"MARGIN is {margin}, MOST_PAIRS {most_pairs}, BATCH_SIZE {batch_size}; the first must "
            "be above 0, the others at least 1"
        )
    if not callable(getattr(fit, "reading", None)) or isinstance(fit, type):
        raise UserError(f"FIT is {fit!r}; give one such as @fitting.MeanDifference()")
    mesh = meshes.create_mesh(mesh_shape)

    def settings(fingerprint: Any, own_dtype: Any) -> dict[str, Any]:
        """What decides the vectors; by the model's fingerprint and dtype."""
        return output_settings.of_verb(
            steer,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "input": {"input": records.describe_input(input)},
                "fit": {"fit": output_settings.describe(fit, "steer.fit")},
                "dtype": {"dtype": own_dtype},
            },
        )

    def known() -> dict[str, Any]:
        """The same before the model is loaded."""
        return settings(*identity.ahead(checkpoint_path, dtype))

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "steer", known):
            return [Step("steer", output_dir)]
        if not isinstance(checkpoint_path, preview.Coming):
            checkpoints.resolve(checkpoint_path)
        if isinstance(input, preview.Coming):
            return [Step("steer", output_dir)]
        pairs = examples.pairs_of(input, margin, most_pairs)
        return [Step("steer", output_dir, {"pairs": len(pairs)})]
    if outputs.is_finished(output_dir, "steer", known):
        return None
    loaded = checkpoints.load_model(checkpoint_path, mesh, dtype, strict)

    decided = settings(loaded.fingerprint, loaded.module.config.dtype)
    output = outputs.OutputDirectory(output_dir, "steer", decided)
    if output.complete:
        return None

    # --- hidden states of toxic and of clean text ----------------------------------------------
    pairs = examples.pairs_of(input, margin, most_pairs)
    reading = fit.reading()
    toxic, clean = (
        states.encoded(loaded.vocabulary, texts, prefix)
        for texts, prefix in (
            ([(pair.prompt, pair.toxic) for pair in pairs], reading.toxic_prefix),
            ([(pair.prompt, pair.clean) for pair in pairs], reading.clean_prefix),
        )
    )
    with terminal.bar("read hidden states", 2 * len(pairs), unit="texts") as advance:
        of_texts = states.read(
            loaded,
            mesh,
            [*toxic, *clean],
            reading.site,
            reading.last_tokens,
            batch_size,
            advance,
            reading.skipped_tokens,
        )

    # --- vectors of them -----------------------------------------------------------------------
    of_toxic, of_clean = of_texts[: len(pairs)], of_texts[len(pairs) :]
    arrays = fit.fit(of_toxic, of_clean, loaded.module.config.num_heads)
    vectors_lib.write(output, arrays)
    norms = {name: float(np.linalg.norm(array)) for name, array in sorted(arrays.items())}
    output.finish(rule=fit.rule, site=fit.site, pairs=len(pairs), norms=norms)
    print(f"{output_dir}: {fit.rule} at {fit.site}, fitted on {len(pairs)} pairs")
    return None
