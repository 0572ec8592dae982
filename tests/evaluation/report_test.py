"""The report on invented results: what it says, what it escapes, what it refuses."""

import json

import numpy as np
import pytest

from detox_jax import cli
from detox_jax.evaluation import report as reports

FILES = ("report.html", "toxicity.png", "toxicity.svg", "table.md", "table.csv")
ATTACK = "<script>alert('x')</script>"


def estimate(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def fake_row(method, split, emt, tp, perplexity):
    return {
        "method": method,
        "corpus": None if method == "base" else "self-generated",
        "adaptation": None if method == "base" else "whole",
        "split": split,
        "scorer": {"name": "lexicon", "fingerprint": "lexicon-0123abcd"},
        "num_prompts": 500 if split == "full" else 250,
        "num_samples": 12500 if split == "full" else 6250,
        "coverage": 1.0,
        "expected_maximum_toxicity": estimate(emt),
        "toxicity_probability": estimate(tp, 0.04),
        "mean_toxicity": estimate(emt / 4, 0.005),
        "toxic_fraction": estimate(tp / 10, 0.01),
        "perplexity": {"value": perplexity, "words": 10000},
        "distinct": [0.61, 0.88, 0.91],
        "empty_fraction": 0.001,
        "degenerate_fraction": 0.012,
        "mean_words": 15.2,
        "early_stop_fraction": 0.2,
    }


def fake_results():
    methods = {
        "base": (0.57, 0.55, 18.2),
        "SGEAT (standard)": (0.49, 0.44, 18.5),
        "SGEAT (augmented)": (0.44, 0.37, 18.75),
        "adapter": (0.46, 0.41, 18.4),
        "control: unfiltered": (0.565, 0.545, 18.3),
    }
    shifts = {"full": 0.0, "toxic": 0.2, "nontoxic": -0.1}
    rows, paired = [], []
    for name, (emt, tp, perplexity) in methods.items():
        for split, shift in shifts.items():
            rows.append(fake_row(name, split, emt + shift, tp + shift, perplexity))
            if name == "base":
                continue
            for metric, value in (
                ("expected_maximum_toxicity", emt - 0.57),
                ("toxicity_probability", tp - 0.55),
            ):
                paired.append(
                    {
                        "method": name,
                        "baseline": "base",
                        "metric": metric,
                        "split": split,
                        "difference": value,
                        "low": value - 0.02,
                        "high": value + 0.02,
                        "p_value": 0.0002,
                    }
                )
    provenance = {
        "command": "detox-jax evaluate --gin_file=config.gin",
        "settings": {"bootstrap_draws": 10000, "heldout": None, "seeds": [0, 1]},
        "versions": {"jax": "0.10.2"},
    }
    return {"rows": rows, "paired": paired, "provenance": provenance}


def fake_prompts(results):
    noise = np.random.default_rng(0)
    ks = [1, 2, 5, 10, 25]
    prompts = {"methods": {}, "k_curve": {}}
    for row in results["rows"]:
        if row["split"] == "full":
            emt = row["expected_maximum_toxicity"]["value"]
            values = noise.beta(4 * emt, 4 * (1 - emt), 200)
            curve = [emt * (k / 25) ** 0.3 for k in ks]
            prompts["methods"][row["method"]] = {"max_toxicity": values.tolist()}
            prompts["k_curve"][row["method"]] = {
                "k": ks,
                "expected_maximum_toxicity": curve,
                "toxicity_probability": curve,
            }
    return prompts


def fake_samples():
    return [
        {
            "id": "p1",
            "prompt": "My neighbour told me that",
            "prompt_toxicity": 0.1,
            "continuations": {
                "base": {"text": " you are an idiot and a moron.", "toxicity": 0.93},
                "SGEAT (augmented)": {"text": " the garden looks lovely.", "toxicity": 0.02},
            },
        },
        {
            "id": "p2",
            "prompt": ATTACK,
            "prompt_toxicity": 0.0,
            "continuations": {"base": {"text": ATTACK, "toxicity": 0.5}, "adapter": {"text": ""}},
        },
    ]


def write(directory, results, details=True):
    directory.mkdir(exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results))
    if details:
        (directory / "prompts.json").write_text(json.dumps(fake_prompts(results)))
        (directory / "samples.json").write_text(json.dumps(fake_samples()))
    return str(directory / "results.json")


@pytest.fixture
def fake(tmp_path):
    return write(tmp_path / "evaluation", fake_results())


def run(results, output_dir):
    return cli.main(["report", f"--gin.RESULTS={results}", f"--gin.OUTPUT_DIR={output_dir}"])


def test_writes_every_file_and_says_the_result(fake, tmp_path, capsys):
    assert run(fake, tmp_path / "report") == 0
    assert (
        "SGEAT (augmented): Expected maximum toxicity falls from 0.57 to 0.44 (difference −0.13, "
        "95 % interval −0.15 to −0.11) while perplexity rises 3 %." in capsys.readouterr().out
    )
    for name in FILES:
        assert (tmp_path / "report" / name).stat().st_size > 500


def test_nothing_from_a_file_becomes_markup(tmp_path):
    results = fake_results()
    for row in [*results["rows"], *results["paired"]]:
        if row["method"] == "adapter":
            row["method"] = ATTACK
    results["rows"][-1]["corpus"] = ATTACK
    results["provenance"][ATTACK] = {"command": [ATTACK]}
    results["provenance"]["command"] = ATTACK
    reports.report(write(tmp_path / "evaluation", results), str(tmp_path / "report"))
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<script") == 1
    assert "alert(" in page
    assert "<script" not in (tmp_path / "report" / "toxicity.svg").read_text()
    assert "<script" not in (tmp_path / "report" / "table.md").read_text()
