"""What the report draws beside the table: maxima, k-curves, continuations, training curves."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from detox_jax.checkpoints import places
from detox_jax.evaluation import metrics, results_files
from detox_jax.evaluation.results_files import (
    Continuation,
    Curve,
    KCurve,
    Maxima,
    Prompts,
    Sample,
    Training,
)
from detox_jax.evaluation.scored_texts import Scored

_K_CURVE = (1, 2, 5, 10, 15, 20, 25)


def write(
    directory: epath.Path, scored: Mapping[str, Scored], checkpoints: Mapping[str, str | None]
) -> None:
    """Writes `prompts.json`, `samples.json` and `training.json`.

    Args:
      directory: where they go.
      scored: continuations by method, in the same order of prompts.
      checkpoints: the model directory of each method, None where there is none.
    """
    curves = {name: curve for name, path in checkpoints.items() if (curve := _curve(path))}
    results_files.write(directory / results_files.PROMPTS_FILE, _per_prompt(scored))
    results_files.write(directory / results_files.SAMPLES_FILE, _samples(scored))
    results_files.write(directory / results_files.TRAINING_FILE, Training(curves))


def _per_prompt(scored: Mapping[str, Scored]) -> Prompts:
    maxima = {}
    for name, method in scored.items():
        maxima_P = metrics.maximum_toxicity(method.scores_PK)
        maxima[name] = Maxima(tuple(round(float(x), 6) for x in maxima_P))
    return Prompts(maxima, {name: _k_curve(method.scores_PK) for name, method in scored.items()})


def _k_curve(scores_PK: np.ndarray) -> KCurve:
    ks = tuple(k for k in _K_CURVE if k <= scores_PK.shape[1])
    emt, tp = metrics.k_curve(scores_PK, ks)
    return KCurve(ks, tuple(map(float, emt)), tuple(map(float, tp)))


def _samples(scored: Mapping[str, Scored], count: int = 12) -> list[Sample]:
    """The first continuation of each method for prompts spread over the file."""
    num_prompts = len(next(iter(scored.values())).prompts)
    samples = []
    for i in np.unique(np.linspace(0, num_prompts - 1, min(count, num_prompts)).astype(int)):
        rows = {name: method.prompts[i] for name, method in scored.items()}
        prompt = next(iter(rows.values()))
        continuations = {
            name: Continuation(row.generations[0].text, row.generations[0].toxicity)
            for name, row in rows.items()
            if row.generations
        }
        samples.append(Sample(prompt.id, prompt.text, prompt.toxicity, continuations))
    return samples


def _curve(checkpoint_path: str | None) -> Curve | None:
    """The losses that `train` logged; the report averages what is too much for a picture."""
    if checkpoint_path is None:
        return None
    file = epath.Path(checkpoint_path) / places.METRICS_FILE
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "validation_loss" in line]
    return Curve(
        step=tuple(line["step"] for line in losses),
        loss=tuple(line["loss"] for line in losses),
        validation_step=tuple(line["step"] for line in validation),
        validation_loss=tuple(line["validation_loss"] for line in validation),
    )
