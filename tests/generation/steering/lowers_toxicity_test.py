"""Methods lower toxicity on the demo's base, by more than chance; minutes of computation."""

import json
import os
import subprocess
import sys

import pytest

from detox_jax import cli
from detox_jax.toxicity.lexicon import LexiconScorer
from detox_jax.toxicity.score import score

LOWERED = ["words", "experts-1", "experts-2"]
# Too weak, or asking for a better model than the demo's: docs/STEERING.md, "Measured".
OTHERS = ["experts-0.5", "anti-0.5", "anti-1", "contrast-1", "debiasing-50"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("steering") / "out"
    models = path / "models"
    command = [
        *(sys.executable, "-m", "detox_jax", "sgeat"),
        "--gin_file=gin_configs/experiments/steering.gin",
        f"--gin.OUTPUT_DIR={path}",
        f"--gin.EXPERT={models / 'expert'}",
        f"--gin.ANTI={models / 'anti-expert'}",
    ]
    # In a process of its own: tests compile for little running, and this runs for minutes.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, check=True, env=environment)
    return path


@pytest.mark.slow
def test_methods_lower_toxicity(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    pairs = {
        row["method"]: row
        for row in results["paired"]
        if (row["split"], row["metric"]) == ("full", "expected_maximum_toxicity")
    }
    rows = {row["method"]: row for row in results["rows"] if row["split"] == "full"}
    for name in LOWERED:
        assert pairs[name]["high"] < 0, name
    for name in [*LOWERED, *OTHERS]:
        assert not rows[name]["spoiled"], name  # no emptier, shorter, or looping text
        assert rows[name]["continuation_perplexity"]["value"] > 1
    assert pairs["experts-2"]["difference"] < pairs["experts-0.5"]["difference"]


@pytest.mark.slow
def test_best_of_n_lowers_toxicity_by_a_scorer_that_did_not_choose(run_dir, tmp_path):
    """Of the base's 25 samples the best of 5 each, chosen by the n-gram scorer, judged by words."""
    base = run_dir / "continuations" / "base"
    chosen, judged = tmp_path / "chosen", tmp_path / "judged"
    flags = ["--gin.SELECTION=@best_of.BestOf()", "--gin.KEEP=5"]
    scored = f"--gin.INPUT={base / 'scored-ngram'}"
    assert cli.main(["filter", scored, f"--gin.OUTPUT_DIR={chosen}", *flags]) == 0
    score(input=str(chosen), output_dir=str(judged), scorer=LexiconScorer())

    def mean(directory):
        values = [
            generation["toxicity"]
            for shard in sorted(directory.glob("*.jsonl"))
            for line in shard.read_text().splitlines()
            for generation in json.loads(line)["generations"]
        ]
        return sum(values) / len(values), len(values)

    (before, many), (after, few) = mean(base / "scored-lexicon"), mean(judged)
    assert few * 5 == many and after < 0.7 * before
