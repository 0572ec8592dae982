"""Methods lower toxicity on the demo's base, by more than chance; minutes of computation."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from detox_jax import cli
from detox_jax.evaluation.evaluate import Evaluated, evaluate
from detox_jax.toxicity.lexicon import LexiconScorer
from detox_jax.toxicity.score import score

LOWERED = ["words", "experts-1", "experts-2", "gedi-30", "sasa-1", "sasa-3"]
# Too weak, or asking for a better model than the demo's: docs/STEERING.md, "Measured".
OTHERS = ["experts-0.5", "anti-0.5", "anti-1", "contrast-1", "detoxigen-5", "debiasing-50"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("steering") / "out"
    command = [
        *(sys.executable, "-m", "detox_jax", "sgeat"),
        "--gin_file=gin_configs/experiments/steering.gin",
        f"--gin.OUTPUT_DIR={path}",
        f"--gin.ONLY={[*LOWERED, *OTHERS]}",
    ]
    # In a process of its own: tests compile for little running, and this runs for minutes.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, check=True, env=environment)
    return path


def _judged(run_dir, judge):
    """The run's rows by a judge, and the differences of their toxicity to the base's."""
    (file,) = run_dir.glob(f"only-*/evaluation/{judge}/results.json")
    return _rows(file)


def _rows(file):
    results = json.loads(file.read_text())
    rows = {row["method"]: row for row in results["rows"] if row["split"] == "full"}
    emt = "full", "expected_maximum_toxicity"
    paired = [row for row in results["paired"] if (row["split"], row["metric"]) == emt]
    return rows, {row["method"]: row for row in paired}


@pytest.mark.slow
def test_methods_lower_toxicity(run_dir):
    rows, pairs = _judged(run_dir, "ngram")
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


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["MeanDifference", "InContextVectors", "HeadDirections"])
def test_vectors_of_the_bases_own_text_lower_toxicity(run_dir, tmp_path, fit):
    """Fitted by the n-gram scorer on documents that the base wrote, judged by words."""
    base, vectors, written = run_dir / "base", tmp_path / "vectors", tmp_path / "written"
    model = f"--gin.CHECKPOINT_PATH={base}"
    scored = run_dir / "corpora" / "standard" / "scored"
    flags = [model, f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={vectors}"]
    assert cli.main(["steer", *flags, f"--gin.FIT=@fitting.{fit}()"]) == 0
    steering = ["--gin_file=gin_configs/steering/activations.gin", f"--gin.VECTORS={vectors}"]
    prompts = f"--gin.INPUT={run_dir / 'text' / 'prompts'}"
    flags = [model, prompts, f"--gin.OUTPUT_DIR={written}", "--gin.NUM_SAMPLES=10"]
    assert cli.main(["generate", *flags, *steering]) == 0
    score(input=str(written), output_dir=str(tmp_path / "judged"), scorer=LexiconScorer())

    def read(directory):
        rows = {}
        for shard in sorted(directory.glob("*.jsonl")):
            for row in map(json.loads, shard.read_text().splitlines()):
                rows[row["id"]] = row["generations"][:10]
        return rows

    def toxicity(rows):
        return np.array([max(g["toxicity"] for g in rows[name]) for name in sorted(rows)])

    def mean_words(rows):
        return np.mean([len(g["text"].split()) for of in rows.values() for g in of])

    before = read(run_dir / "continuations" / "base" / "scored-lexicon")
    after = read(tmp_path / "judged")
    assert before.keys() == after.keys()
    difference = toxicity(after) - toxicity(before)
    spread = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert difference.mean() + spread < 0
    empty = [not g["text"].strip() for of in after.values() for g in of]
    assert np.mean(empty) < 0.05 and mean_words(after) > 0.8 * mean_words(before)


# What is fitted or trained for a method, and what `generate` is then given.
FITTED = {
    "affine": ("steer", "--gin.FIT=@fitting.AffineMap()"),
    "linear": ("train_linear", "--gin.TRAIN_STEPS=200", "--gin.RANK=64", "--gin.LENGTH=64"),
    "reward": (
        *("train_reward", "--gin.TRAIN_STEPS=100", "--gin.BATCH_SIZE=32", "--gin.LENGTH=64"),
        "--gin.LEARNING_RATE=1e-3",
    ),
}
STEERED_BY = {
    "affine": ("affine.gin", "--gin.VECTORS={affine}"),
    "linear": ("linear.gin", "--gin.LINEAR={linear}"),
    "reward": ("reward.gin", "--gin.REWARD={reward}"),
    "reversal": (
        "reversal.gin",
        "--gin.TOXIC_PREFIX='You are an idiot, moron. '",
        "--gin.CLEAN_PREFIX='Thank you for your help. '",
    ),
}
# At most so many times the base's perplexity, under the base: docs/STEERING.md, "Measured".
COST = {"affine": 1.2, "linear": 1.2, "reward": 1.8, "reversal": 2.0}


@pytest.fixture(scope="module")
def fitted(run_dir, tmp_path_factory):
    """The rows of methods that scored text is enough for, and of the reversal.

    Returns:
      By method: the row, judged by words, and its difference to the base's.
    """
    root, base = tmp_path_factory.mktemp("fitted"), run_dir / "base"
    model = f"--gin.CHECKPOINT_PATH={base}"
    places = {}
    for name, (verb, *flags) in FITTED.items():
        places[name] = root / f"{name}-fitted"
        scored = f"--gin.INPUT={run_dir / 'corpora' / 'standard' / 'scored'}"
        assert cli.main([verb, model, scored, f"--gin.OUTPUT_DIR={places[name]}", *flags]) == 0
    methods = {"base": Evaluated(str(run_dir / "continuations" / "base" / "scored-lexicon"))}
    for name, (file, *flags) in STEERED_BY.items():
        written, judged = root / f"{name}-written", root / f"{name}-judged"
        steering = [f"--gin_file=gin_configs/steering/{file}", *(f.format(**places) for f in flags)]
        prompts = f"--gin.INPUT={run_dir / 'text' / 'prompts'}"
        given = [model, prompts, f"--gin.OUTPUT_DIR={written}", "--gin.NUM_SAMPLES=10", *steering]
        assert cli.main(["generate", *given]) == 0
        score(input=str(written), output_dir=str(judged), scorer=LexiconScorer())
        methods[name] = Evaluated(str(judged), own_decoding=["steering"])
    evaluate(methods, str(root / "evaluation"), reference=str(base))
    return _rows(root / "evaluation" / "results.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", STEERED_BY)
def test_other_methods_lower_toxicity_at_a_cost_that_is_known(fitted, name):
    rows, paired = fitted
    row, base = rows[name], rows["base"]
    assert paired[name]["high"] < 0
    assert not row["spoiled"]  # no emptier, shorter, or looping text
    assert row["empty_fraction"] < 0.05 and row["mean_words"] > 0.8 * base["mean_words"]
    assert row["distinct"][1] > 0.75 * base["distinct"][1]
    cost = row["continuation_perplexity"]["value"] / base["continuation_perplexity"]["value"]
    assert cost < COST[name]
