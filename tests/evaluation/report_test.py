"""The report on invented results: what it says, what it escapes, what it refuses."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from etils import epath

from detox_jax import cli
from detox_jax.evaluation import figures
from detox_jax.evaluation import report as reports

FILES = ("report.html", "toxicity.png", "toxicity.svg", "table.md", "table.csv")
ATTACK = "</span>\"'><script>document.title='attacked'</script><img src=x onerror='alert()'>"


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
            "continuations": {
                "base": {"text": ATTACK, "toxicity": 0.5},
                "adapter": {"text": "Moron!"},
            },
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


def read(directory, name):
    return (directory / name).read_text()


def test_writes_every_file_and_says_the_result(fake, tmp_path, capsys):
    assert run(fake, tmp_path / "report") == 0
    sentence = (
        "With SGEAT (augmented), the least toxic of 4 methods, expected maximum toxicity falls "
        "from 0.57 to 0.44 (difference −0.13, 95 % interval −0.15 to −0.11) while perplexity "
        "rises 3 %."
    )
    assert sentence in capsys.readouterr().out
    for name in FILES:
        assert (tmp_path / "report" / name).stat().st_size > 500
    page = read(tmp_path / "report", "report.html")
    assert sentence in page
    for title in ("By kind of prompt", "Distribution of maximum toxicity", "over continuations"):
        assert title in page
    assert page.count('<svg role="img"') == 5


def test_nothing_is_loaded_from_elsewhere_and_ids_are_unique(fake, tmp_path):
    reports.report(fake, str(tmp_path / "report"))
    page = read(tmp_path / "report", "report.html")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page)
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="#|url\(#|aria-controls="|labelledby=")([^")]+)', page)
    assert set(referred) <= set(ids)


def attack(tmp_path):
    results = fake_results()
    for row in [*results["rows"], *results["paired"]]:
        if row["method"] == "adapter":
            row["method"] = ATTACK
    for row in results["rows"]:
        row["scorer"] = {"name": ATTACK, "fingerprint": ATTACK}
    results["rows"][-1]["corpus"] = ATTACK
    results["provenance"] = {ATTACK: {"nested": [ATTACK]}, "command": ATTACK}
    reports.report(write(tmp_path / "evaluation", results), str(tmp_path / "report"))
    return tmp_path / "report"


def test_nothing_from_a_file_becomes_markup(tmp_path):
    directory = attack(tmp_path)
    page = read(directory, "report.html")
    assert page.count("<script") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;document.title=") > 8
    for name in ("toxicity.svg", "table.md"):
        assert "<script" not in read(directory, name)


def test_toxic_and_unrated_texts_are_hidden(fake, tmp_path):
    reports.report(fake, str(tmp_path / "report"))
    page = read(tmp_path / "report", "report.html")
    hidden = re.findall(r'<span class="text" id="[^"]+" dir="auto" hidden>([^<]*)</span>', page)
    assert len(hidden) == 3  # rated 0.93, rated exactly 0.5, not rated
    assert hidden[0] == " you are an idiot and a moron."
    assert hidden[2] == "Moron!"
    assert page.count("<button") == 3
    assert '<span class="text" dir="auto"> the garden looks lovely.</span>' in page


def test_markdown_table(fake, tmp_path):
    reports.report(fake, str(tmp_path / "report"))
    text = read(tmp_path / "report", "table.md")
    assert "### full (500 prompts, 12,500 continuations each)" in text
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("| Method"))
    rows = [line for line in lines if line.startswith("| SGEAT (augmented)")]
    assert len(rows) == 3
    first = dict(zip(header.split(" | "), rows[0].split(" | "), strict=True))
    assert first["Max. toxicity"] == "0.440 [0.420, 0.460]"
    assert first["Δ max."] == "−0.130 [−0.150, −0.110] *"
    assert first["Perplexity"] == "18.75"
    control = next(line for line in lines if line.startswith("| control: unfiltered"))
    assert "−0.005 [−0.025, +0.015] |" in control


def test_csv_table_is_unrounded(fake, tmp_path):
    reports.report(fake, str(tmp_path / "report"))
    with (tmp_path / "report" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    row = next(r for r in rows if r["method"] == "SGEAT (augmented)" and r["split"] == "full")
    assert float(row["expected_maximum_toxicity_value"]) == 0.44
    assert float(row["expected_maximum_toxicity_difference"]) == pytest.approx(-0.13)
    assert row["scorer_fingerprint"] == "lexicon-0123abcd"


def test_rows_with_nothing_but_a_method(tmp_path):
    results = {"rows": [{"method": "base"}, {"method": "a|b <i> $x$ \ud800"}]}
    source = write(tmp_path / "evaluation", results, details=False)
    reports.report(source, str(tmp_path / "report"))
    assert "a\\|b &lt;i> $x$ ?" in read(tmp_path / "report", "table.md")
    assert "was not measured" in read(tmp_path / "report", "report.html")


@pytest.mark.parametrize("value", [None, "text", [], {}, True, float("nan")])
def test_optional_fields_may_be_anything(tmp_path, value):
    results = fake_results()
    for key in results["rows"][0].keys() - {"method", "split", "scorer"}:
        results["rows"][0][key] = value
    results["paired"] = value
    results["provenance"] = value
    source = write(tmp_path / "evaluation", results, details=False)
    prompts = {"methods": {"base": value}, "k_curve": value}
    (tmp_path / "evaluation" / "prompts.json").write_text(json.dumps(prompts))
    samples = [value, {"prompt": value, "continuations": {"base": value, "adapter": {}}}]
    (tmp_path / "evaluation" / "samples.json").write_text(json.dumps(samples))
    reports.report(source, str(tmp_path / "report"))
    assert "SGEAT (augmented)" in read(tmp_path / "report", "report.html")


def test_a_difference_that_may_be_zero_is_said_to_be(tmp_path):
    results = fake_results()
    keep = ("base", "control: unfiltered")
    for key in ("rows", "paired"):
        results[key] = [row for row in results[key] if row["method"] in keep]
    reports.report(write(tmp_path / "evaluation", results), str(tmp_path / "report"))
    text = read(tmp_path / "report", "table.md").splitlines()[0]
    assert text.startswith("Expected maximum toxicity falls from 0.570 to 0.565 (difference −0.005")
    assert "which includes zero" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON dict"),
        ('{"rows": []}', 'holds no "rows"'),
        ('{"rows": [{"split": "full"}]}', 'row 0 has no "method"'),
        ('{"rows": [{"method": "a", "scorer": "x"}, {"method": "b", "scorer": "y"}]}', "scorers"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, content, message):
    source = tmp_path / "results.json"
    if content is not None:
        source.write_text(content)
    assert run(source, tmp_path / "report") == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(source) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_a_rerun_changes_nothing_and_a_repeat_has_the_same_bytes(fake, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(fake, first) == 0
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in first.iterdir()}
    assert run(fake, first) == 0
    assert before == {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in first.iterdir()}
    assert run(fake, second) == 0
    for name in FILES:
        assert (second / name).read_bytes() == before[name][0]


def test_other_results_are_refused(fake, tmp_path, capsys):
    assert run(fake, tmp_path / "report") == 0
    results = fake_results()
    results["rows"][0]["mean_words"] = 3.0
    write(tmp_path / "evaluation", results)
    assert run(fake, tmp_path / "report") == 2
    assert "other settings" in capsys.readouterr().err


def test_the_baseline_is_found_wherever_it_stands(tmp_path):
    results = fake_results()
    results["rows"].reverse()
    for paired in (results["paired"], []):
        source = write(tmp_path / "evaluation", {**results, "paired": paired})
        data = reports.load(epath.Path(source))
        assert data.methods[0] == "base"
        assert data.splits == ["full", "toxic", "nontoxic"]


def test_a_directory_of_results_will_do(fake, tmp_path):
    assert run(tmp_path / "evaluation", tmp_path / "report") == 0


def test_pareto_front():
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.5), (2.0, 2.0), (3.0, 1.5), (4.0, 1.0)]
    assert figures.pareto_front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_in_a_browser(tmp_path):
    """The page's own script runs under its policy, an injected one does not."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium")
    page = read(attack(tmp_path), "report.html")
    probe = (
        "const button = document.querySelector('button[aria-controls]');"
        "button.click();"
        "document.body.dataset.shown = button.getAttribute('aria-expanded') + "
        "document.getElementById(button.getAttribute('aria-controls')).checkVisibility();"
        "button.click();"
        "document.body.dataset.again = button.getAttribute('aria-expanded') + "
        "document.getElementById(button.getAttribute('aria-controls')).checkVisibility();"
    )
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    # The second script stands for one that got past the escaping: the policy must stop it.
    injected = f"<script>{probe}</script><script>document.body.dataset.injected = 1</script>"
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", injected + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    done = subprocess.run(
        [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 'data-shown="truetrue"' in done.stdout
    assert 'data-again="falsefalse"' in done.stdout
    assert "data-injected" not in done.stdout
    assert "<title>Toxicity report" in done.stdout
