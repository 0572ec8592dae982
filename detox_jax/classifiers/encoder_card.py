"""The card of a trained classifier: what it is, and how good on text that it never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from detox_jax import atomic_files
from detox_jax.classifiers.classifier import RELIABILITY_FILE, ClassifierScorer
from detox_jax.records import TOXIC
from detox_jax.toxicity import quality
from detox_jax.toxicity.scorer import prepare

CARD_FILE = "README.md"
_COLUMNS = {
    "texts": "texts",
    "share_labelled_toxic": f"share ≥ {TOXIC}",
    "share_scored_toxic": f"scored ≥ {TOXIC}",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "calibration_error": "calibration error",
    "spearman": "Spearman",
}


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A text that was never trained on, and its labels."""

    text: str
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the card says beside the quality.

    Attributes:
      base: what it was trained from; random weights where None.
      data: what it was trained on.
      recipe: how.
      parameters: how many.
    """

    base: str | None
    data: str
    recipe: str
    parameters: int


def measure(
    scorer: ClassifierScorer, held_out: Sequence[HeldOut], labels: Sequence[str]
) -> dict[str, Any]:
    """Per label the figures of `quality.ranking`, and the first label's reliability curve.

    An output learns the share of raters who gave its label, so that it is compared with that share:
    the curve is of the mean label of the texts in a bin, and the calibration error its distance.
    Where no text or every text has the label nothing can be ranked, and the shares alone are there.
    """
    scores_NC = scorer.score_labels([prepare(example.text) for example in held_out])
    targets_NC = np.stack([example.labels for example in held_out])
    report: dict[str, Any] = {"labels": {}}
    for index, label in enumerate(labels):
        scores_N, targets_N = scores_NC[:, index], targets_NC[:, index]
        if len(set(targets_N >= TOXIC)) == 2:
            error = quality.calibration_error(scores_N, targets_N)
            ranking = quality.ranking(scores_N, targets_N)
            report["labels"][label] = {**ranking, "calibration_error": error}
        else:
            report["labels"][label] = {
                "texts": len(scores_N),
                "share_scored_toxic": float(np.mean(scores_N >= TOXIC)),
                "share_labelled_toxic": float(np.mean(targets_N >= TOXIC)),
            }
    report["reliability"] = quality.reliability(scores_NC[:, 0], targets_NC[:, 0])
    return report


def table(report: Mapping[str, Any]) -> list[str]:
    """The quality as lines of a Markdown table."""
    lines = ["| label | " + " | ".join(_COLUMNS.values()) + " |", "|---" * 8 + "|"]
    for label, figures in report["labels"].items():
        cells = [_cell(figures.get(name)) for name in _COLUMNS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def write(
    directory: epath.Path, facts: Facts, report: Mapping[str, Any], scorer: ClassifierScorer
) -> None:
    """Writes `README.md`, and `reliability.json` as reports draw it.

    Args:
      directory: of the classifier.
      facts: what the card says beside the quality.
      report: from `measure`.
      scorer: of the label whose reliability is written.
    """
    label = scorer.label
    reliability = quality.curve_for_report(
        report["reliability"],
        report["labels"][label].get("calibration_error"),
        f"{label}, the share of raters, of held-out texts",
    )
    atomic_files.write_json(directory / RELIABILITY_FILE, {"label": label, **reliability})
    lines = ["---", "library_name: transformers", "pipeline_tag: text-classification"]
    lines += ["tags: [toxicity]", "---", "", "# Toxicity classifier", ""]
    lines += ["Trained and exported with detox_jax (`detox-jax train_scorer`).", ""]
    lines += [f"- fingerprint as a scorer of {label}: {scorer.fingerprint}"]
    lines += [f"- from: {facts.base or 'random weights'}; {facts.parameters:,} parameters"]
    lines += [f"- text: {facts.data}", f"- training: {facts.recipe}"]
    lines += ["- outputs: one sigmoid a label, the share of raters who would give it", ""]
    lines += ["## Quality", "", "On held-out text of the same task, never trained on.", ""]
    lines += [*table(report), ""]
    lines += [
        f"A text counts as labelled where the share of raters is at least {TOXIC}. Calibration",
        "error: from the mean score of texts of like scores to the mean share of raters, over",
        *(f"{quality.NUM_BINS} bins of scores.", ""),
    ]
    lines += ["A model of its training text: judge it on your own before you trust it.", ""]
    atomic_files.write_bytes(directory / CARD_FILE, "\n".join(lines).encode())
