"""The embedded scorer beside alt-profanity-check and better-profanity, on text none was shown here.

    pip install alt-profanity-check better-profanity
    python benchmarks/scorers.py --data=DIR [--tweets=olid-training-v1.0.tsv]
    python benchmarks/scorers.py --data=DIR --classifier=DIR --label=toxicity

The second compares the embedded scorer with a classifier instead, one that `train_scorer` made.

DIR is what DETOX_JAX_DATA names; only its held-out part is used (docs/SCORER.md). The tweets are
OLID's (Zampieri et al., 2019), a source that no part of the scorer's training data comes from.
`better-profanity` answers yes or no, some hundred texts a second, so the rows "a sample"
compare all three on 1,000 texts of each set. Intervals are 95 % bootstraps over texts.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.toxicity import labelled, ngram, quality, scripts

_NUM_DRAWS = 500
_SLOW_TEXTS = 1000
Scorer = Callable[[Sequence[str]], np.ndarray]
TestSet = list[tuple[str, bool]]


def load_scorers() -> dict[str, Scorer]:
    """Each scorer as a function of texts."""
    import better_profanity
    import profanity_check

    embedded = ngram.NgramScorer()
    words = better_profanity.profanity
    words.load_censor_words()
    return {
        embedded.fingerprint: lambda texts: quality.score_array(embedded, texts),
        "alt-profanity-check": lambda texts: np.asarray(profanity_check.predict_prob(list(texts))),
        "better-profanity": lambda texts: np.array(
            [float(words.contains_profanity(text[:1000])) for text in texts]
        ),
    }


def load_classifier(directory: str, label: str) -> dict[str, Scorer]:
    """The embedded scorer and a classifier."""
    scorers = (ngram.NgramScorer(), ClassifierScorer(directory, label=label))
    return {
        each.fingerprint: lambda texts, each=each: quality.score_array(each, texts)
        for each in scorers
    }


def load_sets(data_dir: Path, tweets: Path | None) -> dict[str, TestSet]:
    """Test sets by name: texts, and whether people or the remote service called them toxic."""
    held_out = [example for example in labelled.read_examples(data_dir) if example.held_out]

    def part(*sources: str) -> TestSet:
        return [(e.text, e.toxicity >= 0.5) for e in held_out if e.source in sources]

    talk = {example.text for example in held_out if example.source == "wiki_talk"}
    with (data_dir / "comments/wiki_talk.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"] in talk]
    sets = {
        "RealToxicityPrompts": part("rtp"),
        "talk pages, Perspective": part("wiki_talk"),
        "talk pages, human": [(row["text"], float(row["label"]) >= 0.5) for row in rows],
        "forum comments": part("civil_toxic", "neutral"),
    }
    if tweets:
        with tweets.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            sets["tweets"] = [
                (row["tweet"].replace("@USER", "").replace("URL", ""), row["subtask_a"] == "OFF")
                for row in reader
            ]
    return sets


def interval(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the AUROC."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(_NUM_DRAWS):
        chosen = generator.integers(len(scores), size=len(scores))
        if 0 < positive[chosen].sum() < len(chosen):
            draws.append(quality.auroc(scores[chosen], positive[chosen]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def compare(scorers: dict[str, Scorer], name: str, test_set: TestSet) -> None:
    """Prints one row a scorer."""
    # Texts that the embedded scorer has no score for are nobody's.
    test_set = [(text, toxic) for text, toxic in test_set if scripts.can_read(text)]
    texts = [text for text, _ in test_set]
    positive = np.array([toxic for _, toxic in test_set])
    for scorer, score in scorers.items():
        start = time.perf_counter()
        scores = score(texts)
        speed = len(texts) / (time.perf_counter() - start)
        low, high = interval(scores, positive)
        print(
            f"| {name} | {len(texts)} | {positive.mean():.3f} | {scorer} "
            f"| {quality.auroc(scores, positive):.3f} ({low:.3f}-{high:.3f}) "
            f"| {quality.average_precision(scores, positive):.3f} | {speed:,.0f} |",
            flush=True,
        )


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("DETOX_JAX_DATA"))
    parser.add_argument("--tweets", type=Path)
    parser.add_argument("--classifier", help="directory or hub name")
    parser.add_argument("--label", default="toxicity", help="of the classifier")
    arguments = parser.parse_args()
    if arguments.classifier:
        scorers = load_classifier(arguments.classifier, arguments.label)
    else:
        scorers = load_scorers()
    fast = {name: score for name, score in scorers.items() if name != "better-profanity"}
    print("| texts of | number | toxic | scorer | AUROC | average precision | texts a second |")
    print("|---|---|---|---|---|---|---|")
    for name, test_set in load_sets(Path(arguments.data), arguments.tweets).items():
        compare(fast, name, test_set)
        if len(fast) == len(scorers):
            continue  # None is too slow for all the texts.
        order = np.random.default_rng(0).permutation(len(test_set))[:_SLOW_TEXTS]
        compare(scorers, f"{name}, a sample", [test_set[i] for i in order])


if __name__ == "__main__":
    main()
