"""Verb `sweep`: its cells, what becomes of those that fail, the table over all of them."""

import ast
import dataclasses
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from detox_jax import cli, sweep, sweep_cells, sweep_rows
from detox_jax.errors import Unavailable, UserError
from detox_jax.evaluation import evaluate as evaluates
from detox_jax.method import only
from detox_jax.parallel import preemption
from detox_jax.report import report as reports
from detox_jax.sweep_cells import Axis, Checked
from tests import sgeat_made
from tests.conftest import draw_few_files
from tests.evaluation.accuracy_test import write_answers
from tests.evaluation.evaluate_test import write
from tests.marks import slow_but

TRAINING = Axis("training", {"whole": ["ADAPTATION=None"], "lora": ["my.gin", "RANK = 4"]})
SEED = Axis("seed", {"0": ["RANDOM_SEED=0"], "1": ["RANDOM_SEED=1"]})
GIN_FILES = ("demo.gin",)


# --- cells --------------------------------------------------------------------------------------


def test_cells_are_all_combinations_and_what_is_left_of_them():
    def names(only=None, without=()):
        return [cell.name for cell in sweep_cells.cells((TRAINING, SEED), only, without, "out")]

    assert names() == ["whole_0", "whole_1", "lora_0", "lora_1"]
    assert names(only=[{"training": "lora"}, {"seed": "1"}]) == ["whole_1", "lora_0", "lora_1"]
    assert names(without=[{"training": "lora", "seed": "1"}]) == ["whole_0", "whole_1", "lora_0"]


def test_a_cell_is_a_command_that_a_shell_reads_back():
    _, cell = sweep_cells.cells((TRAINING,), None, (), "out dir")
    assert cell.arguments(GIN_FILES) == [
        *("sgeat", "--gin_file=demo.gin", "--gin_file=my.gin", "--gin.RANK=4"),
        "--gin.OUTPUT_DIR=out dir/cells/lora",
    ]
    words = shlex.split(cell.command(GIN_FILES, "out dir/shared"))
    assert words[0] == "env" and words[1] == "DETOX_JAX_SHARED_STEPS=out dir/shared"
    assert words[2:] == ["detox-jax", *cell.arguments(GIN_FILES)]


def test_a_queue_takes_the_printed_commands(tmp_path):
    """As docs/SWEEP.md has a Slurm array do; a stand-in for `detox-jax` says what it was given."""
    stand_in = tmp_path / "detox-jax"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$DETOX_JAX_SHARED_STEPS" "$@"\n')
    stand_in.chmod(0o755)
    cells = sweep_cells.cells((TRAINING,), None, (), str(tmp_path / "my run"))
    lines = "".join(f"{cell.command(GIN_FILES, 'the shared')}\n" for cell in cells)
    (tmp_path / "cells.txt").write_text(lines)
    script = f'bash -c "$(sed -n ${{SLURM_ARRAY_TASK_ID}}p {tmp_path}/cells.txt)"'
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["the shared", *cells[1].arguments(GIN_FILES)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis("a b", {"x": []}), "Axis.name is 'a b'"),
        (lambda: Axis("a", {}), "axis 'a': choices is {}"),
        (lambda: Axis("a", {"x/y": []}), "label 'x/y' becomes part of a directory's name"),
        (lambda: Axis("a", {"x": "N=1"}), "'x' is 'N=1'; give a list"),
        (lambda: Axis("a", {"x": ["nonsense"]}), "'nonsense' is no binding"),
        (lambda: sweep_cells.cells((), [{"a": "b"}], (), "out"), "{'a': 'b'} is no choice"),
        (lambda: sweep_cells.cells((SEED, SEED), None, (), "out"), "two axes are called 'seed'"),
        (lambda: sweep_cells.cells((SEED,), None, [{}], "out"), "the sweep has no cell"),
        (lambda: sweep_cells.cells((SEED,), ["0"], (), "out"), "ONLY holds '0'"),
        (lambda: sweep_cells.cells(SEED, None, (), "out"), "give a list of axes"),
        (
            lambda: sweep_cells.cells(
                (Axis("a", {"x": [], "x_y": []}), Axis("b", {"y_z": [], "z": []})), None, (), "out"
            ),
            "two cells would be called 'x_y_z'",
        ),
        (
            lambda: sweep_cells.cells((Axis("rate", {".5": []}), SEED), None, (), "out"),
            r"axis 'rate': label '\.5' begins the name of a cell, which may not begin with a dot",
        ),
    ],
)
def test_axes_that_do_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_label_behind_another_may_begin_with_a_dot():
    made = sweep_cells.cells((TRAINING, Axis("rate", {".5": []})), None, (), "out")
    assert [cell.name for cell in made] == ["whole_.5", "lora_.5"]


def test_the_rows_of_a_cell_are_read_from_its_plan():
    (cell,) = sweep_cells.cells((Axis("a", {"x": []}),), None, (), "my out")
    places = ("corpora/c/generated", "continuations/base/generated", "continuations/m 1/generated")
    steps = [f"  to do  generate          my out/cells/x/{place}  8 texts" for place in places]
    steps += [
        "  to do  score             my out/cells/x/continuations/m 1/scored-j",
        "  to do  generate          my out/cells/other/continuations/n/generated",
    ]
    assert sweep_rows.planned(cell, Checked(0, "", tuple(steps), "")) == ["m 1"]


def test_what_the_command_line_checked_is_not_checked_again(monkeypatch):
    asked = []

    def run(command, input, **_):
        asked.append(input)
        line = json.dumps({"status": 0, "output": "x\n# plan: 0 steps\n", "errors": ""})
        return subprocess.CompletedProcess(command, 0, line, "")

    monkeypatch.setattr(sweep_cells.subprocess, "run", run)
    found = [sweep_cells.check([["sgeat"]], ahead=ahead) for ahead in (True, False, False)]
    assert found[0] == found[1] == found[2] and len(asked) == 2


# --- the verb, over cells that only write what sgeat would ----------------------------------------


class Cells:
    """Stands for the processes: writes what `sgeat` leaves; some fail."""

    def __init__(self):
        self.ran: list[str] = []
        self.failing: set[str] = set()
        self.broken: set[str] = set()
        self.rows: dict[str, list[str]] = {}  # by the cell; one, called m, where it is not here
        self.heldout: str | None = None  # by its name in a cell
        self.config = "config"
        self.error = "nothing uses RANK"
        self.status = 2  # of a broken one
        self.exits: dict[str, int] = {}  # of those that fail; 1 where a name is not here

    def check(self, several, *, ahead):
        return [self._checked(arguments) for arguments in several]

    def _checked(self, command):
        name, output, rows = self._said(command)
        if name in self.broken:
            return Checked(self.status, "", (), f"detox-jax: error: {self.error}")
        state = "done" if (figures_of(output, rows) / "evaluation").exists() else "to do"
        texts = f"{output}/continuations"
        plan = [
            f"  {state}  generate  {texts}/{row}/generated"
            for row in rows or self.rows.get(name, ["m"])
        ]
        config = f"{self.config} of {name}\nOUTPUT_DIR = {output!r}\n"
        return Checked(0, config, tuple(plan), "")

    def _said(self, command):
        output = command[-1].partition("=")[2]
        rows = [flag.partition("=")[2] for flag in command if flag.startswith("--gin.ONLY=")]
        return output.rpartition("/")[2], output, ast.literal_eval(rows[0]) if rows else None

    def call(self, command, log, environment):
        name, output, rows = self._said(command)
        self.ran.append(name)
        if name in self.failing:
            log.write("begun\nOut of memory\n")
            return self.exits.get(name, 1)
        write_cell(output, 0.1 * len(self.ran), rows, self.heldout)
        return 0


def figures_of(output, rows=None):
    return Path(output) if rows is None else Path(only.directory(epath.Path(output), rows))


def write_cell(output, less, rows=None, heldout=None, answers=()):
    """Continuations and evaluation of a cell, `less` toxic than its base.

    Its held-out text is written with it, and the row or base by whom each model answers is
    `answers`, by row.
    """
    figures = figures_of(output, rows)
    if (figures / "evaluation").exists():
        return
    if heldout is not None:
        heldout = os.path.join(output, heldout)
        os.makedirs(output, exist_ok=True)
        Path(heldout).write_text('{"text": "Good morning."}\n')
    answers, methods = dict(answers), {}
    for name in sorted({*answers.values()}):
        os.makedirs(os.path.join(output, "choices"), exist_ok=True)
        write_answers(Path(output) / "choices" / name, {"task": [1, 0, 1, 1]})
    for method, lower in {"base": 0.0, **dict.fromkeys(rows or ["m"], less)}.items():
        place = os.path.join(output, "continuations", method)
        os.makedirs(place, exist_ok=True)
        scores = {str(i): (0.3, [0.9 - lower, 0.4 + 0.01 * i]) for i in range(8)}
        scored = Path(place) / "scored-j"
        if not scored.exists():
            write(scored, scores)
        choices = os.path.join(output, "choices", answers[method]) if method in answers else None
        methods[method] = evaluates.Method(generations={"j": str(scored)}, choices=choices)
    evaluation = str(figures / "evaluation")
    evaluates.evaluate(methods, evaluation, heldout=heldout, bootstrap_draws=50)


@pytest.fixture
def cells(monkeypatch):
    made = Cells()
    draw_few_files(monkeypatch)
    monkeypatch.setattr(sweep_cells, "check", made.check)
    monkeypatch.setattr(sweep.preemption, "call", made.call)
    monkeypatch.delenv("DETOX_JAX_SHARED_STEPS", raising=False)
    yield made
    os.environ.pop("DETOX_JAX_SHARED_STEPS", None)


def run(output, axes=(TRAINING,), **how):
    def evaluate(**given):
        return evaluates.evaluate(**given, bootstrap_draws=50)

    return sweep.sweep(
        str(output), axes, GIN_FILES, evaluate, evaluates.Method, reports.report, **how
    )


def states(output):
    return {line["cell"]: line["state"] for line in json.loads((output / "cells.json").read_text())}


def files_of(output):
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.suffix != ".log" and path.name != ".lock"
    }


def test_every_cell_is_a_row_of_one_evaluation(cells, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(out) is None
    assert cells.ran == ["whole", "lora"] and set(states(out).values()) == {"done"}
    table = json.loads((out / "matrix.json").read_text())
    assert [row.get("training") for row in table["rows"]] == [None, "whole", "lora"]
    assert [round(row["emt"], 3) for row in table["rows"]] == [0.9, 0.8, 0.7]
    (evaluation,) = out.glob("evaluation-*/j/results.json")
    paired = json.loads(evaluation.read_text())["paired"]
    assert {row["method"] for row in paired} == {"whole", "lora"}
    page = (out / "sweep.html").read_text()
    assert "<svg" in page and "lora" in page
    assert r"\textbf{lora}" in (out / "matrix.tex").read_text()
    assert (out / "matrix.csv").read_text().splitlines()[0].startswith("is_base")
    assert "[2/2] lora: done" in capsys.readouterr().out


def test_a_rerun_runs_nothing_and_writes_the_same(cells, tmp_path):
    out = tmp_path / "out"
    run(out)
    before = files_of(out)
    run(out)
    assert cells.ran == ["whole", "lora"] and files_of(out) == before
    cells.config = "another"  # A cell whose configuration changed runs again.
    run(out)
    assert cells.ran == ["whole", "lora"] * 2


def test_a_cell_that_lost_what_it_made_runs_again(cells, tmp_path):
    out = tmp_path / "out"
    run(out)
    shutil.rmtree(out / "cells" / "whole" / "evaluation")
    assert run(out) is None
    assert cells.ran == ["whole", "lora", "whole"]


def test_a_sweep_that_was_moved_goes_on_where_it_lies(cells, tmp_path):
    """Its cells run once more, for their place is a setting, and find their steps done; the
    evaluations of the cells still note the places that they read."""
    cells.heldout = "heldout.jsonl"
    run(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    for _ in range(2):
        assert run(tmp_path / "moved") is None
        assert cells.ran == ["whole", "lora"] * 2


def test_a_row_has_the_answers_of_its_model_under_whatever_name(tmp_path):
    """`sgeat` asks a model once, of rows that differ in their decoding alone too."""
    (cell,) = sweep_cells.cells((Axis("a", {"x": []}),), None, (), str(tmp_path))
    asked = {"base": "base", "m": "m", "greedy": "base"}
    write_cell(cell.output_dir, 0.1, None, None, {"base": "base"})
    (group,) = sweep._groups([cell])
    alone = group.digest
    assert group.methods(evaluates.Method)["x"].choices is None, "it was not asked"
    shutil.rmtree(cell.output_dir)
    rows = figures_of(cell.output_dir, ["m", "greedy"])
    write_cell(cell.output_dir, 0.1, ["m", "greedy"], None, asked)
    cell = dataclasses.replace(cell, figures=str(rows))
    (group,) = sweep._groups([cell])
    named = {"base": "base", "x_m": "m", "x_greedy": "greedy"}
    given = {name: of.choices for name, of in group.methods(evaluates.Method).items()}
    assert given == {n: f"{cell.output_dir}/choices/{asked[row]}" for n, row in named.items()}
    assert group.digest != alone


def test_a_cell_in_a_bucket_has_a_log_and_looks_for_no_other_process(monkeypatch, tmp_path):
    """A file in a bucket is none that a process could write to."""
    root = epath.Path(tmp_path)
    cell = sweep_cells.cells((TRAINING,), None, (), str(root))[1]
    log, original = tmp_path / "logs" / "lora.log", type(root).open

    def call(command, output, environment):
        assert "DETOX_JAX_MULTIHOST" not in environment
        subprocess.run(["echo", "begun"], stdout=output, check=True)
        subprocess.run(["echo", "Out of memory"], stdout=output, check=True)
        if log.exists():
            raise KeyboardInterrupt
        return 1

    def opened(path, mode="r", **how):
        return io.StringIO() if mode == "w" else original(path, mode, **how)

    monkeypatch.setenv("DETOX_JAX_MULTIHOST", "1")
    monkeypatch.setattr(sweep.preemption, "call", call)
    monkeypatch.setattr(sweep.atomic_files, "is_local", lambda path: False)
    monkeypatch.setattr(type(root), "open", opened)
    assert sweep._run(cell, GIN_FILES, root) == "exit 1: Out of memory"
    log.write_text("of the run before")
    with pytest.raises(KeyboardInterrupt):
        sweep._run(cell, GIN_FILES, root)
    assert log.read_text() == "begun\nOut of memory\n"


def test_a_cell_that_fails_is_marked_and_the_others_go_on(cells, tmp_path, capsys):
    out = tmp_path / "out"
    cells.failing = {"whole"}
    assert run(out) == 1
    assert states(out) == {"whole": "failed", "lora": "done"}
    assert "cell whole failed: exit 1: Out of memory; see" in capsys.readouterr().err
    assert "Out of memory" in (out / "sweep.html").read_text()
    assert len(json.loads((out / "matrix.json").read_text())["rows"]) == 2
    cells.failing = set()
    assert run(out) is None
    assert cells.ran == ["whole", "lora", "whole"]
    assert len(json.loads((out / "matrix.json").read_text())["rows"]) == 3


def test_a_sweep_of_which_every_cell_failed_ends_as_they_did(cells, tmp_path):
    """With 2, which nobody runs again, only where no cell may go on."""
    cells.failing = {"other", "another"}
    axes = (Axis("a", {"other": [], "another": []}),)
    for exits in ({}, {"other": 2}, {"another": 2}):
        cells.exits = exits
        with pytest.raises(Unavailable, match="every cell failed; the first: exit 1"):
            run(tmp_path / "none", axes=axes)
    cells.exits = {"other": 2, "another": 2}
    with pytest.raises(UserError, match="every cell failed; the first: exit 2"):
        run(tmp_path / "none", axes=axes)
    cells.broken, cells.status, cells.error = {"other"}, 1, "no answer from gs://bucket"
    with pytest.raises(Unavailable, match="cell other: no answer from gs://bucket"):
        run(tmp_path / "none", axes=axes)


@pytest.mark.parametrize("status", slow_but([75], [75, 130]))
def test_a_signal_to_a_cell_alone_ends_the_sweep_with_the_cells_status(
    cells, tmp_path, monkeypatch, status
):
    def call(command, log, environment):
        log.write("detox-jax: stopped: SIGTERM: step 3 is saved\n")
        return status

    monkeypatch.setattr(sweep.preemption, "call", call)
    with pytest.raises(preemption.Stopped, match="whole: .*step 3 is saved") as stopped:
        run(tmp_path / "out")
    assert stopped.value.status == status
    monkeypatch.setattr(sweep.preemption, "call", cells.call)
    assert run(tmp_path / "out") is None and cells.ran == ["whole", "lora"]


def test_no_cell_runs_where_one_does_not_pass_its_checks(cells, tmp_path):
    cells.broken = {"lora"}
    with pytest.raises(UserError, match="cell lora: nothing uses RANK"):
        run(tmp_path / "out")
    assert cells.ran == [] and not (tmp_path / "out").exists()


NAMES = {
    "a cell as the base": (
        *((Axis("a", {"base": [], "x": []}),), {}, None),
        "AXES: the row of cell base would be called as the model before, 'base'",
    ),
    "a cell as another's row": (
        *((Axis("a", {"lora": [], "lora_r8": []}),), {"lora": ["r4", "r8"]}, None),
        "AXES: the cells lora and lora_r8 would both have a row 'lora_r8'",
    ),
    "rows of two cells": (
        *((Axis("a", {"x": [], "x_y": []}),), {"x": ["y_z", "b"], "x_y": ["z", "b"]}, None),
        "AXES: the cells x and x_y would both have a row 'x_y_z'",
    ),
    "seeds of two rows": (
        *((Axis("a", {"x": [], "x_y": []}), SEED, Axis("b", {"y_z": [], "z": []})), {}, "seed"),
        "AXES: 'x_0_y_z' and 'x_y_0_z' differ in more than SEED_AXIS, .* called 'x_y_z'",
    ),
    "seeds as the base": (
        *((Axis("a", {"base": [], "x": []}), SEED), {}, "seed"),
        "AXES: 'base_0' would be called 'base' without SEED_AXIS, as another row is",
    ),
    "an axis as the column of rows": (
        *((Axis("method", {"x": []}),), {"x": ["m", "n"]}, None),
        "axis 'method': cell x has 2 rows, whose names are the column 'method' of the tables",
    ),
    "an axis as a figure": (
        *((Axis("words", {"x": []}),), {}, None),
        "axis 'words': another column of the tables is called so",
    ),
    "seeds as a figure": (  # of which the bases have one each
        *((TRAINING, Axis("seeds", SEED.choices)), {}, "seeds"),
        "axis 'seeds': another column of the tables is called so",
    ),
    "an axis as what cells.json holds": (
        *((Axis("state", {"x": []}),), {}, "state"),
        "axis 'state': another column of the tables is called so",
    ),
}


@pytest.mark.parametrize("is_dry", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_the_tables_cannot_hold_are_refused_before_a_cell_runs(
    cells, tmp_path, name, is_dry
):
    axes, cells.rows, seed_axis, message = NAMES[name]
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", axes=axes, seed_axis=seed_axis, check_only=is_dry)
    assert cells.ran == [] and not (tmp_path / "out").exists()


def test_names_that_only_look_alike_are_taken(cells, tmp_path):
    cells.rows = {"base": ["m", "n"], "m": ["m"]}
    several = (Axis("a", {"base": [], "m": []}),)
    seeds = (Axis("method", {"x": []}), SEED)
    for axes, seed_axis in ((several, None), (seeds, "seed"), ((SEED,), "seed")):
        assert run(tmp_path / "out", axes=axes, seed_axis=seed_axis, check_only=True)


def test_a_row_that_is_none_is_named_by_the_sweeps_setting(cells, tmp_path):
    cells.broken, cells.error = {"whole"}, "ONLY: 'nosuch' is no method; there are a, b"
    with pytest.raises(UserError, match="cell whole: ROWS: 'nosuch' is no method; there are a, b"):
        run(tmp_path / "out", rows=["nosuch"])


def test_cells_of_a_version_that_named_less_of_their_base_stand_beside_those_of_now(tmp_path):
    """Two bases that both name their weights, and other ones, stay two."""
    seeds = Axis("seed", {str(i): [] for i in range(4)})
    found = sweep_cells.cells((seeds,), None, (), str(tmp_path))
    for cell, weights in zip(found, [None, "one", "one", "other"], strict=True):
        write_cell(cell.output_dir, 0.1, heldout="heldout.jsonl")
        file = figures_of(cell.output_dir) / "evaluation" / "manifest.json"
        manifest = json.loads(file.read_text())
        checkpoint = {"path": cell.output_dir, "fingerprint": "f"}
        if weights is not None:
            checkpoint |= {"weights": weights, "spec_sha256": "s"}
            manifest["settings"]["heldout"]["read_as"] = [".jsonl"]
        manifest["settings"]["methods"]["base"]["checkpoint"] = checkpoint
        file.write_text(json.dumps(manifest))
    groups = sweep._groups(found)
    assert [[cell.name for cell, *_ in group.runs] for group in groups] == [
        ["0", "0", "1", "2"],  # the base's own first
        ["3", "3"],
    ]
    assert sweep._seeds(groups, "seed") == {"m": ["0", "1", "2"]}


def test_a_dry_run_counts_the_steps_of_every_cell(cells, tmp_path):
    steps = run(tmp_path / "out", check_only=True)
    assert [step.counts for step in steps] == [{"steps": 1, "of them done": 0}] * 2
    assert cells.ran == []


def test_seeds_are_a_spread_and_not_rows(cells, tmp_path):
    out = tmp_path / "out"
    run(out, axes=(TRAINING, SEED), seed_axis="seed")
    table = json.loads((out / "matrix.json").read_text())
    rows = [row for row in table["rows"] if not row["is_base"]]
    assert [(row["training"], row["seeds"]) for row in rows] == [("whole", 2), ("lora", 2)]
    # EMT of the four cells: 0.8, 0.7, 0.6, 0.5.
    assert rows[0]["emt"] == pytest.approx(0.75)
    assert (rows[0]["emt_low"], rows[0]["emt_high"]) == pytest.approx((0.7, 0.8))
    with pytest.raises(UserError, match="SEED_AXIS is 'sed', and the axes are training, seed"):
        run(out, axes=(TRAINING, SEED), seed_axis="sed")


def test_some_rows_of_every_cell_and_all_of_them_later(cells, tmp_path):
    out = tmp_path / "out"
    assert run(out, rows=["a", "b"]) is None
    table = json.loads((out / "matrix.json").read_text())
    rows = [(row["training"], row["method"]) for row in table["rows"] if not row["is_base"]]
    assert rows == [("whole", "a"), ("whole", "b"), ("lora", "a"), ("lora", "b")]
    assert not (out / "cells" / "whole" / "evaluation").exists()
    before = files_of(out)
    assert run(out, rows=["a", "b"]) is None and files_of(out) == before
    assert cells.ran == ["whole", "lora"]
    assert run(out) is None
    assert cells.ran == ["whole", "lora"] * 2
    table = json.loads((out / "matrix.json").read_text())
    assert [row.get("training") for row in table["rows"]] == [None, "whole", "lora"]
    assert run(out, rows=["a", "b"]) is None, "and what was finished before stays so"
    assert cells.ran == ["whole", "lora"] * 2
    steps = run(out, rows=["a"], check_only=True)
    assert {Path(step.output_dir).parent.name[:5] for step in steps} == {"only-"}


def test_a_cell_does_not_choose_its_rows_behind_the_sweeps_back(cells, tmp_path):
    cells.config = "ONLY = ['a']\nthe rest"
    with pytest.raises(UserError, match="cell whole: sets ONLY; give the sweep .* as ROWS"):
        run(tmp_path / "out")
    assert cells.ran == [] and not (tmp_path / "out").exists()
    assert run(tmp_path / "out", rows=["a"]) is None


def test_commands_are_printed_and_nothing_is_done(cells, tmp_path, capsys):
    assert run(tmp_path / "out", print_commands=True) is None
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("/out/cells/whole") and second.endswith("/out/cells/lora")
    assert run(f"{tmp_path}/out/", print_commands=True) is None  # The slash is no part of a cell.
    assert capsys.readouterr().out.splitlines() == [first, second]
    assert cells.ran == [] and not (tmp_path / "out").exists()


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_that_is_killed_ends_with_the_bytes_of_a_quiet_one(tmp_path):
    flags = real_sweep(tmp_path)
    command = [sys.executable, "-m", "detox_jax", *flags]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'quiet'}"]) == 0
    logs = "".join(path.read_text() for path in (tmp_path / "quiet" / "logs").iterdir())
    # The base of the second cell, and what it wrote, are the first one's.
    for step in ("base", "corpora/standard/generated", "continuations/base/generated"):
        assert f"cells/24_lora/{step}: taken over from" in logs
    output = f"--gin.OUTPUT_DIR={tmp_path / 'killed'}"
    for seconds in (20, 35, 50):
        process = subprocess.Popen([*command, output], start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
    assert subprocess.run([*command, output]).returncode == 0
    for name in ("matrix.csv", "matrix.tex", "cells.json"):
        killed, quiet = (tmp_path / place / name for place in ("killed", "quiet"))
        assert killed.read_bytes() == quiet.read_bytes()
    shards = [path for path in (tmp_path / "quiet").rglob("*.jsonl") if path.name[0] != "m"]
    assert len(shards) > 20
    for path in shards:
        other = tmp_path / "killed" / path.relative_to(tmp_path / "quiet")
        assert other.read_bytes() == path.read_bytes(), path


def real_sweep(root):
    sgeat_made.write_questions(root)
    text = f"{sgeat_made.IMPORTS}from detox_jax.models import adaptation\n{sgeat_made.CONFIG}"
    (root / "small.gin").write_text(f"{text}\nDOWNSTREAM_DIR = '{root}'\n")
    (root / "sweep.gin").write_text(
        f"""
from __gin__ import dynamic_registration
from detox_jax import sweep
GIN_FILES = ('{root / "small.gin"}',)
AXES = (@documents/sweep.Axis(), @training/sweep.Axis())
documents/sweep.Axis:
  name = 'documents'
  choices = {{'24': ['NUM_DOCUMENTS=24'], '12': ['NUM_DOCUMENTS=12']}}
training/sweep.Axis:
  name = 'training'
  choices = {{
    'whole': ["METHODS={{'m': {{'corpus': 'standard'}}}}"],
    'lora': ["METHODS={{'m': {{'corpus': 'standard', 'adaptation': @adaptation.LoRAConfig()}}}}"],
  }}
"""
    )
    return ["sweep", f"--gin_file={root / 'sweep.gin'}"]
