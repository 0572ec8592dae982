"""How good a scorer is: ranking, calibration, fairness between identities, robustness."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from detox_jax.records import TOXIC
from detox_jax.toxicity.labelled import IdentitySentence
from detox_jax.toxicity.scorer import ToxicityScorer

NUM_BINS = 10


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties half."""
    ranks = stats.rankdata(scores)
    p, n = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean over positives of the precision at their score; equal scores enter together."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie]
    ranks = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / ranks) / positive.sum())


def reliability(scores: np.ndarray, positive: np.ndarray) -> list[dict[str, float]]:
    """The reliability curve: texts, mean score and share of positives in ten equally wide bins."""
    bin_of = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "from": b / NUM_BINS,
            "texts": int(np.sum(bin_of == b)),
            "mean_score": float(scores[bin_of == b].mean()),
            "share_positive": float(positive[bin_of == b].mean()),
        }
        for b in np.unique(bin_of).tolist()
    ]


def calibration_error(scores: np.ndarray, positive: np.ndarray) -> float:
    """Expected calibration error: mean distance to the diagonal of `reliability` (Guo, 2017)."""
    return sum(
        row["texts"] / len(scores) * abs(row["mean_score"] - row["share_positive"])
        for row in reliability(scores, positive)
    )


def score_array(scorer: ToxicityScorer, texts: Sequence[str]) -> np.ndarray:
    """The scores of texts, float64 [texts].

    Raises:
      ValueError: if one has none, which NumPy would take for NaN.
    """
    scores = scorer.score(texts)
    if missing := sum(score is None for score in scores):
        raise ValueError(f"{missing} of {len(texts)} texts have no score of {scorer.name}")
    return np.array(scores, np.float64)


def ranking(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """All the figures of scores against graded targets; positive is a target of 0.5 or more."""
    positive = targets >= TOXIC
    return {
        "texts": len(scores),
        "share_scored_toxic": float(np.mean(scores >= TOXIC)),
        "share_labelled_toxic": float(np.mean(positive)),
        "auroc": auroc(scores, positive),
        "average_precision": average_precision(scores, positive),
        "spearman": float(stats.spearmanr(scores, targets).statistic),  # type: ignore
        "calibration_error": calibration_error(scores, positive),
    }


def fairness(
    scorer: ToxicityScorer, sentences: Sequence[IdentitySentence]
) -> dict[str, dict[str, float]]:
    """Per identity: AUROC, and the share of its nontoxic sentences that score 0.5 or more."""
    scores = score_array(scorer, [sentence.text for sentence in sentences])
    toxic = np.array([sentence.toxic for sentence in sentences])
    groups = np.array([sentence.identity for sentence in sentences])
    return {
        str(group): {
            "auroc": auroc(scores[groups == group], toxic[groups == group]),
            "false_positive_rate": float(np.mean(scores[(groups == group) & ~toxic] >= TOXIC)),
        }
        for group in np.unique(groups)
    }


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
    scorer: ToxicityScorer, texts: Sequence[str], targets: np.ndarray
) -> dict[str, dict[str, float]]:
    """Per disguise: the mean change of the scores, and the AUROC of the disguised texts."""
    plain = score_array(scorer, texts)
    report = {}
    for name, disguise in DISGUISES.items():
        scores = score_array(scorer, [disguise(text) for text in texts])
        report[name] = {
            "mean_change": float(np.mean(np.abs(scores - plain))),
            "auroc": auroc(scores, targets >= TOXIC),
        }
    return report
