"""What the report draws beside the table: maxima, k-curves, continuations, training curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from detox_jax import outputs
from detox_jax.evaluation import metrics
from detox_jax.evaluation.joined import Scored
from detox_jax.evaluation.results import PROMPTS_FILE, SAMPLES_FILE, TRAINING_FILE

_K_CURVE = (1, 2, 5, 10, 15, 20, 25)
_METRICS_FILE = "metrics.jsonl"  # what `train` logs


def write(
    directory: epath.Path, scored: Mapping[str, Scored], checkpoints: Mapping[str, str | None]
) -> None:
    """Writes `prompts.json`, `samples.json` and `training.json`.

    Args:
      directory: where they go.
      scored: continuations by method, in the same order of prompts.
      checkpoints: the model directory of each method, None where there is none.
    """
    outputs.write_json(directory / PROMPTS_FILE, outputs.finite(_per_prompt(scored)))
    outputs.write_json(directory / SAMPLES_FILE, _samples(scored))
    curves = {name: curve for name, path in checkpoints.items() if (curve := _curve(path))}
    outputs.write_json(directory / TRAINING_FILE, {"methods": curves})


def _per_prompt(scored: Mapping[str, Scored]) -> dict[str, Any]:
    details: dict[str, Any] = {"methods": {}, "k_curve": {}}
    for name, method in scored.items():
        maxima = metrics.maximum_toxicity(method.scores_PK)
        details["methods"][name] = {"max_toxicity": [round(float(x), 6) for x in maxima]}
        ks = [k for k in _K_CURVE if k <= method.scores_PK.shape[1]]
        curve_emt, curve_tp = metrics.k_curve(method.scores_PK, ks)
        details["k_curve"][name] = {
            "k": ks,
            "expected_maximum_toxicity": [float(x) for x in curve_emt],
            "toxicity_probability": [float(x) for x in curve_tp],
        }
    return details


def _samples(scored: Mapping[str, Scored], count: int = 12) -> list[dict[str, Any]]:
    """The first continuation of each method for prompts spread over the file."""
    num_prompts = len(next(iter(scored.values())).prompts)
    samples = []
    for i in np.unique(np.linspace(0, num_prompts - 1, min(count, num_prompts)).astype(int)):
        rows = {name: method.prompts[i] for name, method in scored.items()}
        prompt = next(iter(rows.values()))
        samples.append(
            {
                "id": prompt.id,
                "prompt": prompt.text,
                "prompt_toxicity": prompt.toxicity,
                "continuations": {
                    name: {"text": row.generations[0].text, "toxicity": row.generations[0].toxicity}
                    for name, row in rows.items()
                    if row.generations
                },
            }
        )
    return samples


def _curve(checkpoint_path: str | None) -> dict[str, Any] | None:
    """The losses that `train` logged; the report averages what is too much for a picture."""
    if checkpoint_path is None:
        return None
    file = epath.Path(checkpoint_path) / _METRICS_FILE
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "validation_loss" in line]
    return {
        "step": [line["step"] for line in losses],
        "loss": [line["loss"] for line in losses],
        "validation_step": [line["step"] for line in validation],
        "validation_loss": [line["validation_loss"] for line in validation],
    }
