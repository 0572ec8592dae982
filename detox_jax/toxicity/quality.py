"""How good a scorer is: ranking, calibration, fairness between identities, robustness.

N stands for texts: `scores_N` are their scores, `targets_N` what a label says, both from 0 to 1,
`positive_N` whether the label calls them toxic, and `labels_N` the one or the other: positives for
a scorer of the probability that a text is toxic, targets for one of the share of raters who say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from detox_jax.records import TOXIC
from detox_jax.toxicity.labelled import IdentitySentence
from detox_jax.toxicity.scorer import ToxicityScorer

NUM_BINS = 10
_SHARE, _MEAN_LABEL = "share_positive", "mean_label"


def auroc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties half."""
    ranks_N = stats.rankdata(scores_N)
    p, n = positive_N.sum(), (~positive_N).sum()
    return float((ranks_N[positive_N].sum() - p * (p + 1) / 2) / (p * n))


def average_precision(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Mean over positives of the precision at their score; equal scores enter together."""
    order_N = np.argsort(-scores_N, kind="stable")
    last_of_tie_N = np.append(np.diff(scores_N[order_N]) != 0, True)
    hits = np.cumsum(positive_N[order_N])[last_of_tie_N]
    ranks = np.flatnonzero(last_of_tie_N) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / ranks) / positive_N.sum())


def reliability(scores_N: np.ndarray, labels_N: np.ndarray) -> list[dict[str, float]]:
    """The reliability curve: texts, mean score and mean label in ten equally wide bins.

    The mean is `share_positive` of labels that are true or false, `mean_label` of others.
    """
    mean = _SHARE if labels_N.dtype == bool else _MEAN_LABEL
    bin_N = np.minimum((scores_N * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "from": b / NUM_BINS,
            "texts": int(np.sum(bin_N == b)),
            "mean_score": float(scores_N[bin_N == b].mean()),
            mean: float(labels_N[bin_N == b].mean()),
        }
        for b in np.unique(bin_N).tolist()
    ]


def curve_for_report(
    curve: Sequence[Mapping[str, float]], calibration_error: float | None, against: str
) -> dict[str, Any]:
    """A reliability curve as a scorer hands it to the report, see `ToxicityScorer`.

    Args:
      curve: from `reliability`.
      calibration_error: of the same texts; None where it was not measured.
      against: whose label the scores were compared with, in words.
    """
    graded = any(_MEAN_LABEL in row for row in curve)
    return {
        "scores": [row["mean_score"] for row in curve],
        "shares": [_mean(row) for row in curve],
        **({"mean_labels": True} if graded else {}),
        "counts": [row["texts"] for row in curve],
        "calibration_error": calibration_error,
        "against": against,
    }


def _mean(row: Mapping[str, float]) -> float:
    """The mean label of a bin."""
    return row[_MEAN_LABEL] if _MEAN_LABEL in row else row[_SHARE]


def calibration_error(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Expected calibration error: mean distance to the diagonal of `reliability` (Guo, 2017)."""
    return sum(
        row["texts"] / len(scores_N) * abs(row["mean_score"] - _mean(row))
        for row in reliability(scores_N, labels_N)
    )


def score_array(scorer: ToxicityScorer, texts: Sequence[str]) -> np.ndarray:
    """The scores of texts, float64 [N].

    Raises:
      ValueError: if one has none, which NumPy would take for NaN.
    """
    scores = scorer.score(texts)
    if missing := sum(score is None for score in scores):
        raise ValueError(f"{missing} of {len(texts)} texts have no score of {scorer.name}")
    return np.array(scores, np.float64)


def ranking(scores_N: np.ndarray, targets_N: np.ndarray) -> dict[str, float]:
    """All the figures of scores against graded targets; positive is a target of 0.5 or more.

    The calibration error is that of probabilities of a positive.
    """
    positive_N = targets_N >= TOXIC
    return {
        "texts": len(scores_N),
        "share_scored_toxic": float(np.mean(scores_N >= TOXIC)),
        "share_labelled_toxic": float(np.mean(positive_N)),
        "auroc": auroc(scores_N, positive_N),
        "average_precision": average_precision(scores_N, positive_N),
        "spearman": float(stats.spearmanr(scores_N, targets_N).statistic),  # type: ignore
        "calibration_error": calibration_error(scores_N, positive_N),
    }


def fairness(
    scorer: ToxicityScorer, sentences: Sequence[IdentitySentence]
) -> dict[str, dict[str, float]]:
    """Per identity: AUROC, and the share of its nontoxic sentences that score 0.5 or more."""
    scores_N = score_array(scorer, [sentence.text for sentence in sentences])
    toxic_N = np.array([sentence.toxic for sentence in sentences])
    identity_N = np.array([sentence.identity for sentence in sentences])
    figures = {}
    for identity in np.unique(identity_N):
        of_group_N = identity_N == identity
        figures[str(identity)] = {
            "auroc": auroc(scores_N[of_group_N], toxic_N[of_group_N]),
            "false_positive_rate": float(np.mean(scores_N[of_group_N & ~toxic_N] >= TOXIC)),
        }
    return figures


# --- robustness -------------------------------------------------------------------------------

_LEET = str.maketrans("aeios", "43105")
_CYRILLIC = str.maketrans("aeopc", "\u0430\u0435\u043e\u0440\u0441")

DISGUISES: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    # A vowel that is not doubled already, drawn out.
    "repeated letters": lambda text: re.sub(r"([aeiou])(?<!\1\1)(?!\1)", r"\1\1\1\1", text),
    "leetspeak": lambda text: text.translate(_LEET),
    "spaced out": lambda text: "  ".join(" ".join(word) for word in text.split()),
    "zero-width": lambda text: "\u200b".join(text),
    "homoglyphs": lambda text: text.translate(_CYRILLIC),
}


def robustness(
    scorer: ToxicityScorer, texts: Sequence[str], targets_N: np.ndarray
) -> dict[str, dict[str, float]]:
    """Per disguise: the mean change of the scores, and the AUROC of the disguised texts."""
    plain_N = score_array(scorer, texts)
    report = {}
    for name, disguise in DISGUISES.items():
        scores_N = score_array(scorer, [disguise(text) for text in texts])
        report[name] = {
            "mean_change": float(np.mean(np.abs(scores_N - plain_N))),
            "auroc": auroc(scores_N, targets_N >= TOXIC),
        }
    return report
