"""Verb `fit_subspace`: a plane between a model's hidden states of clean and of toxic text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from detox_jax import output_settings, outputs, preview, records, sources, terminal
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering import states, subspace
from detox_jax.kinds import Count, Dtype, Range
from detox_jax.models import edits
from detox_jax.parallel import mesh as meshes
from detox_jax.preview import Step
from detox_jax.vocabulary import Vocabulary

FREE = ("output_dir", "batch_size", "mesh_shape", "strict", "check_only")  # see `output_settings`

_Text = tuple[str, str]  # a prompt, empty for documents, and what follows it


def fit_subspace(
    checkpoint_path: str,
    input: str,
    output_dir: str,
    threshold: Annotated[float, Range(0.0, 1.0, open=True)] = 0.5,
    most_texts: Count = 5000,
    places: Count = 8,
    dtype: Dtype | None = None,
    batch_size: Count = 64,
    mesh_shape: Mapping[str, int] | None = None,
    strict: bool = False,
    check_only: bool = False,
) -> list[Step] | None:
    """Fits the plane that `subspace.SubspaceMargin` steers by.

    Args:
      checkpoint_path: the model that will be steered.
      input: scored documents, or continuations of prompts, which are read behind their prompts.
      output_dir: where the plane and the manifest go.
      threshold: from which score on a text is toxic.
      most_texts: of either class, at most; the hash of the id decides.
      places: of each text whose states are read, spread evenly, the last token among them. The
        plane is asked within texts; the published fit has the last token alone, 1.
      dtype: of activations; None takes the checkpoint's.
      batch_size: texts read at once; changes speed and memory.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      strict: refuse a damaged newest step, in place of taking the one before and saying so.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for text without scores or of one class alone, or a checkpoint that cannot be read.
    """
    arguments = locals()
    if not 0 < threshold <= 1 or most_texts < 1 or batch_size < 1:
        raise UserError(
            f"THRESHOLD is {threshold}, MOST_TEXTS {most_texts}, BATCH_SIZE {batch_size}; the "
            "first must be above 0 and at most 1, the others at least 1"
        )
    mesh = meshes.create_mesh(mesh_shape)

    def settings(fingerprint: Any, own_dtype: Any) -> dict[str, Any]:
        """What decides the plane; by the model's fingerprint and dtype."""
        return output_settings.of_verb(
            fit_subspace,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "input": {"input": records.describe_input(input)},
                "dtype": {"dtype": own_dtype},
            },
        )

    def known() -> dict[str, Any]:
        """The same before the model is loaded."""
        return settings(*identity.ahead(checkpoint_path, dtype))

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "fit_subspace", known):
            return [Step("fit_subspace", output_dir)]
        if not isinstance(checkpoint_path, preview.Coming):
            checkpoints.resolve(checkpoint_path)
        if isinstance(input, preview.Coming):
            return [Step("fit_subspace", output_dir)]
        clean, toxic = _classes(input, threshold, most_texts)
        return [Step("fit_subspace", output_dir, {"clean": len(clean), "toxic": len(toxic)})]
    if outputs.is_finished(output_dir, "fit_subspace", known):
        return None
    loaded = checkpoints.load_model(checkpoint_path, mesh, dtype, strict)

    decided = settings(loaded.fingerprint, loaded.module.config.dtype)
    output = outputs.OutputDirectory(output_dir, "fit_subspace", decided)
    if output.complete:
        return None

    # --- the hidden states behind some tokens of each text ------------------------------------
    clean, toxic = _classes(input, threshold, most_texts)
    clean_ids, toxic_ids = (_begun(loaded.vocabulary, texts, places) for texts in (clean, toxic))
    ids = [*clean_ids, *toxic_ids]
    with terminal.bar("read hidden states", len(ids), unit="beginnings of texts") as advance:
        states_TD = states.read(loaded, mesh, ids, edits.FINAL, 1, batch_size, advance)

    # --- the plane between them ---------------------------------------------------------------
    clean_TD, toxic_TD = states_TD[: len(clean_ids)], states_TD[len(clean_ids) :]
    normal_D, centre_D = subspace.fit(clean_TD, toxic_TD)
    subspace.write(output, normal_D, centre_D)
    sides_T = np.concatenate(
        [(clean_TD - centre_D) @ normal_D > 0, (toxic_TD - centre_D) @ normal_D < 0]
    )
    share = float(np.mean(sides_T))
    output.finish(clean=len(clean), toxic=len(toxic), on_their_side=round(share, 4))
    print(
        f"{output_dir}: {len(clean)} clean, {len(toxic)} toxic texts, {share:.1%} of the places in "
        "them on their side"
    )
    return None


def _begun(vocabulary: Vocabulary, texts: Sequence[_Text], places: int) -> list[list[int]]:
    """The ids of each text up to places spread evenly over what is behind its prompt, and whole."""
    whole = states.encoded(vocabulary, texts)
    before = states.encoded(vocabulary, [(prompt, "") for prompt, _ in texts])
    return [
        ids[:end]
        for ids, prompt in zip(whole, before, strict=True)
        for end in sorted(
            {len(prompt) + -(-(len(ids) - len(prompt)) * n // places) for n in range(1, places + 1)}
        )
    ]


def _classes(source: str, threshold: float, most: int) -> tuple[list[_Text], list[_Text]]:
    """The clean and the toxic texts that are read.

    Raises:
      UserError: where there is none of a class.
    """
    clean: list[tuple[int, _Text]] = []
    toxic: list[tuple[int, _Text]] = []
    for order, text, score in _scored(source):
        (toxic if score >= threshold else clean).append((order, text))
    if not clean or not toxic:
        raise UserError(
            f"{source}: {len(clean)} texts below and {len(toxic)} from {threshold} on"
            f"{sources.written_by(source)}; both are needed: run `score` on texts, move THRESHOLD, "
            "or give more"
        )
    first, second = ([text for _, text in sorted(texts)[:most]] for texts in (clean, toxic))
    return first, second


def _scored(source: str) -> Iterator[tuple[int, _Text, float]]:
    """Place in the order, text and score of every text that has a score and is not empty."""
    for record in records.read_records(source):
        prompt = record.text if isinstance(record, records.Prompt) else ""
        texts = record.generations if isinstance(record, records.Prompt) else [record]
        for number, text in enumerate(texts):
            if text.toxicity is not None and not records.is_empty(text.text):
                order = records.stable_hash(f"{record.id}\n{number}")
                yield order, (prompt, text.text), text.toxicity
