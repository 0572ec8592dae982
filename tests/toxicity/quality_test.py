"""Measures of a scorer, by hand and against each other."""

import numpy as np
import pytest

from detox_jax.toxicity import quality
from detox_jax.toxicity.labelled import IdentitySentence

POSITIVE = np.array([True, False, True, False])


class ByLetter:
    name = "by letter"
    fingerprint = "by-letter-1"

    def score(self, texts):
        return [{"b": 0.9, "m": 0.5}.get(text[:1], 0.1) for text in texts]


@pytest.mark.parametrize(
    ("scores", "auroc", "average_precision"),
    [
        ([0.9, 0.1, 0.8, 0.2], 1.0, 1.0),
        ([0.1, 0.9, 0.2, 0.8], 0.0, (1 / 3 + 2 / 4) / 2),
        ([0.9, 0.8, 0.7, 0.1], 0.75, (1 + 2 / 3) / 2),
        ([0.5, 0.5, 0.5, 0.5], 0.5, 0.5),
    ],
)
def test_ranking_by_hand(scores, auroc, average_precision):
    assert quality.auroc(np.array(scores), POSITIVE) == auroc
    assert quality.average_precision(np.array(scores), POSITIVE) == pytest.approx(average_precision)


def test_a_text_without_a_score_is_no_nan():
    class Silent(ByLetter):
        def score(self, texts):
            return [None, 0.5]

    with pytest.raises(ValueError, match="1 of 2 texts have no score of by letter"):
        quality.score_array(Silent(), ["a", "b"])


def test_auroc_counts_pairs():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 5, 60) / 5
    positive = generator.random(60) < 0.4
    gaps = scores[positive][:, None] - scores[~positive][None]
    assert quality.auroc(scores, positive) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def test_calibration_by_hand():
    scores = np.array([0.05, 0.15, 0.15, 1.0])
    positive = np.array([False, False, True, True])
    rows = quality.reliability(scores, positive)
    assert [(row["from"], row["texts"], row["share_positive"]) for row in rows] == [
        (0.0, 1, 0),
        (0.1, 2, 0.5),
        (0.9, 1, 1),
    ]
    expected = 0.25 * 0.05 + 0.5 * 0.35
    assert quality.calibration_error(scores, positive) == pytest.approx(expected)


def test_calibration_to_shares_of_raters_by_hand():
    scores = np.array([0.12, 0.18, 0.62, 0.68])
    rows = quality.reliability(scores, np.array([0.1, 0.2, 0.6, 0.5]))
    assert [row["mean_label"] for row in rows] == pytest.approx([0.15, 0.55])
    assert quality.calibration_error(scores, np.array([0.1, 0.2, 0.6, 0.7])) == pytest.approx(0)
    curve = quality.curve_for_report(rows, 0.05, "raters")
    assert curve["shares"] == pytest.approx([0.15, 0.55]) and curve["mean_labels"] is True
    of_positives = quality.reliability(scores, np.array([False, False, True, True]))
    assert "mean_labels" not in quality.curve_for_report(of_positives, 0.05, "raters")


def test_fairness_is_per_identity():
    sentences = [
        IdentitySentence("bad x", "x", True),
        IdentitySentence("good x", "x", False),
        IdentitySentence("bad y", "y", True),
        IdentitySentence("bright y", "y", False),
        IdentitySentence("good y", "y", False),
        IdentitySentence("most y", "y", False),
    ]
    assert quality.fairness(ByLetter(), sentences) == {
        "x": {"auroc": 1.0, "false_positive_rate": 0.0},
        "y": {"auroc": pytest.approx(2.5 / 3), "false_positive_rate": pytest.approx(2 / 3)},
    }


def test_disguises():
    assert {name: disguise("you idiot") for name, disguise in quality.DISGUISES.items()} == {
        "upper case": "YOU IDIOT",
        "repeated letters": "yoooouuuu iiiidiiiioooot",
        "leetspeak": "y0u 1d10t",
        "spaced out": "y o u  i d i o t",
        "zero-width": "\u200b".join("you idiot"),
        "homoglyphs": "y\u043eu idi\u043et",
    }
    assert quality.DISGUISES["repeated letters"]("fool") == "fool"


def test_robustness_measures_the_change():
    report = quality.robustness(ByLetter(), ["bad", "good"], np.array([0.9, 0.1]))
    assert report["zero-width"] == {"mean_change": 0.0, "auroc": 1.0}
    assert report["upper case"] == {"mean_change": pytest.approx(0.4), "auroc": 0.5}
