"""Zero-shot accuracies in `evaluate` and the report: joins, averages, differences, mistakes."""

import csv
import json

import pytest

from detox_jax import cli
from detox_jax.evaluation import accuracy, notes, results_files
from detox_jax.evaluation.metric_names import TaskAccuracy
from detox_jax.report import report as reports
from tests.conftest import draw_few_files
from tests.evaluation.evaluate_test import BASE, MINE, results_of, write

RIGHT = {
    "base": {"piqa": [1, 0, 0, 0, 1, 0, 1, 0], "lambada": [0, 0, 0, 1]},
    "mine": {"piqa": [1, 1, 1, 1, 1, 1, 1, 0], "lambada": [0, 0, 1, 1]},
}


def write_answers(directory, tasks, complete=True, backwards=False):
    """Answers as `choices` leaves them."""
    directory.mkdir()
    for task, right in tasks.items():
        rows = [
            {"id": f"{task}{i}", "correct": x if x is None else bool(x)}
            for i, x in enumerate(right)
        ]
        lines = [json.dumps(row) + "\n" for row in (rows[::-1] if backwards else rows)]
        (directory / f"{task}-00000-of-00001.jsonl").write_text("".join(lines))
    manifest = {
        "complete": complete,
        "verb": "choices",
        "settings": {"tasks": dict.fromkeys(tasks)},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return str(directory)


def evaluate(tmp_path, answers):
    """`evaluate` of base and mine, with the answers where they are given."""
    lines = [
        "from __gin__ import dynamic_registration",
        "from detox_jax.evaluation import evaluate",
        "METHODS = {'base': @base/evaluate.Method(), 'mine': @mine/evaluate.Method()}",
    ]
    for name, scores in {"base": BASE, "mine": MINE}.items():
        lines.append(f"{name}/evaluate.Method.generations = '{write(tmp_path / name, scores)}'")
        if name in answers:
            lines.append(f"{name}/evaluate.Method.choices = '{answers[name]}'")
    (tmp_path / "methods.gin").write_text("\n".join(lines) + "\n")
    flags = [f"--gin_file={tmp_path / 'methods.gin'}", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    return cli.main(["evaluate", *flags, "--gin.BOOTSTRAP_DRAWS=500", "--gin.MIN_COVERAGE=0.5"])


@pytest.fixture
def results(tmp_path):
    answers = {
        "base": write_answers(tmp_path / "base-answers", RIGHT["base"]),
        # Joined by id: in another order the pairs are the same.
        "mine": write_answers(tmp_path / "mine-answers", RIGHT["mine"], backwards=True),
    }
    assert evaluate(tmp_path, answers) == 0
    return results_of(tmp_path / "out")


def test_rows_and_differences_are_those_worked_by_hand(results, tmp_path, capsys):
    rows = {(row["method"], row["split"]): row for row in results["rows"]}
    for split in ("full", "toxic", "nontoxic"):
        base, mine = rows["base", split], rows["mine", split]
        assert base["accuracy_piqa"]["value"] == 3 / 8
        assert mine["accuracy_piqa"]["value"] == 7 / 8
        assert base["average_accuracy"]["value"] == pytest.approx((3 / 8 + 1 / 4) / 2)
        assert mine["average_accuracy"]["value"] == pytest.approx((7 / 8 + 1 / 2) / 2)
        assert "nine_task_average" not in base
        assert base["accuracy_piqa"]["low"] < 3 / 8 < base["accuracy_piqa"]["high"]
    pairs = {(row["metric"], row["split"]): row for row in results["paired"]}
    piqa = pairs["accuracy_piqa", "full"]
    assert piqa["difference"] == 0.5
    assert 0 < piqa["low"] < 0.5 < piqa["high"] < 1
    # Four changed, all one way: 2 / 2^4. Joined by position they would be six, one the other way.
    assert piqa["p_value"] == pytest.approx(0.125, abs=0.05)
    assert pairs["average_accuracy", "toxic"]["difference"] == pytest.approx((0.5 + 0.25) / 2)
    assert pairs["average_accuracy", "toxic"]["p_value_holm"] >= piqa["p_value"]
    accuracy.print_table(results_files.load(str(tmp_path / "out")).results)
    assert "0.375 [" in capsys.readouterr().out


def test_how_many_questions_there_are_is_said_and_who_left_some_out(results):
    assert "Zero-shot questions asked: PIQA 8, LAMBADA 4." in results["provenance"]["notes"]
    assert not any("Left out" in note for note in results["provenance"]["notes"])
    said = notes.on_questions({"base": {"piqa": {"a": None, "b": True}}, "mine": {"piqa": {}}})
    assert said[0] == "Zero-shot questions asked: PIQA 2."
    assert said[1].startswith("Left out, being too long for a model's context: 1 of PIQA by base.")
    assert notes.on_questions({}) == []


def test_toxicitys_p_values_do_not_depend_on_accuracies(results, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert evaluate(other, {}) == 0
    alone = results_of(other / "out")
    kept = [row for row in results["paired"] if "accuracy" not in row["metric"]]
    assert kept == alone["paired"] and len(kept) < len(results["paired"])
    assert not any("accuracy" in key for row in alone["rows"] for key in row)


def test_report_shows_accuracies_and_differences(results, tmp_path, monkeypatch):
    draw_few_files(monkeypatch)
    reports.report(str(tmp_path / "out"), str(tmp_path / "report"))
    text = (tmp_path / "report" / "table.md").read_text()
    assert "### Zero-shot accuracy (2 tasks)" in text and text.count("Zero-shot accuracy (") == 1
    header, _, base, mine = text[text.index("| Method | PIQA") :].splitlines()[:4]
    cells = dict(zip(header.split(" | "), mine.split(" | "), strict=True))
    assert cells["PIQA"].startswith("0.875 [") and cells["Δ PIQA"].startswith("+0.500 [")
    assert base.startswith("| base | 0.375 [")
    assert "Average accuracy" in text and "Nine-task" not in text
    with (tmp_path / "report" / "table.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["method"] == "mine")
    assert float(row["accuracy_piqa_value"]) == 0.875
    assert float(row["average_accuracy_difference"]) == pytest.approx(0.375)
    assert "Zero-{}shot accuracy (2 tasks).}" in (tmp_path / "report" / "table.tex").read_text()
    assert "Zero-shot accuracy <small>2 tasks" in (tmp_path / "report" / "report.html").read_text()


def test_only_all_nine_are_the_nine_task_average(tmp_path):
    nine = dict.fromkeys(accuracy.NINE_TASKS, [1, 0])
    some = {name: right for name, right in nine.items() if name != "hans"}
    for tasks, name in ((nine, "nine_task_average"), (some, "average_accuracy")):
        directory = write_answers(tmp_path / name, tasks)
        answers = accuracy.read({"base": directory})["base"]
        assert accuracy.columns(answers, 100, 0)[name].value == 0.5
        assert len(accuracy.columns(answers, 100, 0)) == len(tasks) + 1
    assert accuracy.average_name([*nine, "arc_easy"]) == "average_accuracy"


def test_questions_beyond_a_models_context_are_left_out_of_the_pair(tmp_path):
    base = write_answers(tmp_path / "base", {"piqa": [1, 0, None, 1]})
    mine = write_answers(tmp_path / "mine", {"piqa": [None, 1, 1, 1]})
    answers = accuracy.read({"base": base, "mine": mine})
    piqa = TaskAccuracy.of("piqa")
    assert accuracy.columns(answers["mine"], 100, 0)[piqa].value == 1
    pair, _ = accuracy.paired(answers, "base", ["full"], 100, 0)
    assert (pair.metric, pair.difference) == (piqa, 0.5)  # of the second and the fourth question


MISTAKES = {
    "other tasks": ({"piqa": [1]}, "method 'mine' was asked piqa, 'base' piqa, lambada"),
    "other questions": ({"piqa": [1], "lambada": [0] * 4}, "asked other questions of 'piqa'"),
    "unfinished": (RIGHT["mine"], "unfinished; rerun the `choices`"),
    "nowhere": (None, "nowhere: no manifest.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, mistake, capsys):
    tasks, message = MISTAKES[mistake]
    base = write_answers(tmp_path / "base-answers", RIGHT["base"])
    mine = str(tmp_path / "nowhere")
    if tasks is not None:
        complete = mistake != "unfinished"
        mine = write_answers(tmp_path / "mine-answers", tasks, complete)
    assert evaluate(tmp_path, {"base": base, "mine": mine}) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "out" / "results.json").exists()


def test_changed_answers_have_another_hash(tmp_path):
    base = write_answers(tmp_path / "base-answers", RIGHT["base"])
    before = accuracy.describe(base)
    (tmp_path / "base-answers" / "piqa-00000-of-00001.jsonl").write_text(
        "".join(json.dumps({"id": f"piqa{i}", "correct": True}) + "\n" for i in range(8))
    )
    assert accuracy.describe(base) != before
