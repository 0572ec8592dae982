"""Verb `sweep`: a matrix of runs of `sgeat`, one report over all of them.

The second and last narrative that spans rooms. Each cell runs as a `detox-jax` process of its own,
one after the other, so that what one cell takes or does hurts no other; steps that cells share are
made once (`shared_steps`). A rerun goes on where it stopped.

    OUTPUT_DIR/cells/CELL/             a run of `sgeat`
    OUTPUT_DIR/logs/CELL.log           what it printed
    OUTPUT_DIR/shared/                 where the steps that cells share lie
    OUTPUT_DIR/cells.json              each cell, and whether it is done or why it failed
    OUTPUT_DIR/evaluation-DIGEST/      one evaluation for each base, over all cells that are done
    OUTPUT_DIR/report-DIGEST/          `report` of them
    OUTPUT_DIR/matrix.{md,csv,json,tex}, sweep.html, report.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from etils import epath

from detox_jax import (
    atomic_files,
    directory_lock,
    manifests,
    output_settings,
    outputs,
    preview,
    shared_steps,
    sweep_cells,
    sweep_rows,
    terminal,
)
from detox_jax.errors import Unavailable, UserError
from detox_jax.evaluation import results_files
from detox_jax.method import called_verbs
from detox_jax.method import only as some_rows
from detox_jax.method.method import BASE
from detox_jax.parallel import distributed, preemption
from detox_jax.preview import Step
from detox_jax.report import matrix
from detox_jax.sweep_cells import Axis as Axis  # its name in gin files: `@first/sweep.Axis()`
from detox_jax.sweep_cells import Cell, Checked
from detox_jax.tags import Tags

_FAILED = "failed"
_MISTAKE = 2  # the exit status of what no rerun mends (docs/RELIABILITY.md)
_CONFIG = "cell.sha256"  # in a cell: the hash of the configuration that it finished with


def sweep(
    output_dir: str,
    axes: Sequence[Axis],
    gin_files: Sequence[str],
    evaluate: called_verbs.Evaluate,
    evaluation_method: Callable[..., Any],
    report: called_verbs.Report,
    only: Sequence[Mapping[str, str]] | None = None,
    without: Sequence[Mapping[str, str]] = (),
    rows: Sequence[str] | None = None,
    seed_axis: str | None = None,
    print_commands: bool = False,
    check_only: bool = False,
) -> list[Step] | int | None:
    """Runs every cell, evaluates all of them together, and writes their table.

    All cells are checked before the first one runs. A cell that fails is marked with its exit
    status and last line, and the others go on.

    Args:
      output_dir: where everything goes.
      axes: what cells differ in; a cell is a choice of each.
      gin_files: what all cells share, such as `gin_configs/experiments/demo.gin`.
      evaluate: `evaluate`, over the cells.
      evaluation_method: makes what `evaluate` is told of a row.
      report: `report`, over the cells.
      only: labels by axis, of the cells that are wanted; all where None.
      without: the same, of cells to leave out.
      rows: names of the rows that every cell runs, as ONLY of `sgeat`; all of its rows where None.
      seed_axis: the axis whose choices are seeds: rows that differ in nothing else are one.
      print_commands: print a command for each cell, for a cluster's queue, and stop.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`; 1 where a cell failed.

    Raises:
      UserError: for axes that do not fit, a cell whose check finds a mistake, or where every cell
        failed by one.
      Unavailable: for a cell whose check met the world's fault, or where every cell failed, and not
        all by mistakes.
    """
    root = epath.Path(output_dir)
    cells = sweep_cells.cells(axes, only, without, str(root))  # however it is spelt
    if rows is not None:
        cells = [_of_rows(cell, rows) for cell in cells]
    _check(gin_files, seed_axis, axes)
    if print_commands:
        if not check_only:
            for cell in cells:
                print(cell.command(gin_files, str(root / "shared")))
        return [] if check_only else None

    # --- every cell is checked, before the first one works ---------------------------------------
    preview.checked_root(output_dir)
    checked = sweep_cells.check([cell.arguments(gin_files) for cell in cells], ahead=check_only)
    for cell, said in zip(cells, checked, strict=True):
        if said.status:
            error = said.error.removeprefix("detox-jax: error: ")
            if rows is not None:  # what `sgeat` calls ONLY
                error = re.sub(r"^ONLY\b", "ROWS", error)
            kind = UserError if said.status == _MISTAKE else Unavailable
            raise kind(f"cell {cell.name}: {error}")
        sweep_cells.check_rows(cell, said)
    sweep_rows.check(cells, checked, seed_axis)
    if check_only:
        return [_step(cell, said) for cell, said in zip(cells, checked, strict=True)]

    # --- the cells, each in a process of its own -------------------------------------------------
    root.mkdir(parents=True, exist_ok=True)
    directory_lock.acquire(root, "sweep")
    _write(root / outputs.CONFIG, outputs.config_text().encode())
    progress = _Progress(len(cells))
    failed: dict[str, str] = {}
    done = [cell for cell, said in zip(cells, checked, strict=True) if _is_done(cell, said)]
    _write_cells(root, cells, done, failed)
    for cell, said in zip(cells, checked, strict=True):
        if cell in done:
            progress.say(cell, "is done")
            continue
        progress.say(cell, "begins")
        with terminal.stage(f"cell {progress.at} of {len(cells)}, {cell.name}"):
            why = _run(cell, gin_files, root)
        if why is None:
            _write(_figures(cell) / _CONFIG, _digest(said).encode())
            done.append(cell)
        else:
            failed[cell.name] = why
        progress.ran(cell, why)
        _write_cells(root, cells, done, failed)
    done = [cell for cell in cells if cell in done]  # in their order again
    if not done:
        # Where one of them may go on when it is run again, so does the sweep.
        mistaken = [why.startswith(_exit(_MISTAKE)) for why in failed.values()]
        first = [*failed.values()][mistaken.index(all(mistaken))]
        kind = UserError if all(mistaken) else Unavailable
        raise kind(f"every cell failed; the first: {first}")

    # --- one evaluation over all of them, for each base ------------------------------------------
    os.environ[shared_steps.VARIABLE] = str(root / "shared")  # perplexities are read there
    groups = _groups(done)
    evaluations: list[str] = []
    for group in groups:
        place = str(root / f"evaluation-{group.digest}")
        evaluate(
            methods=group.methods(evaluation_method),
            output_dir=place,
            baseline=BASE,
            heldout=group.first["heldout"] and group.first["heldout"]["path"],
            reference=group.first["reference"] and group.first["reference"]["path"],
            command=f"detox-jax sweep --gin_file={root / outputs.CONFIG}",
        )
        evaluations += [f"{place}/{judge}" for judge in group.judges]

    # --- the table, and the report ---------------------------------------------------------------
    seeds = _seeds(groups, seed_axis)
    decided = "".join(group.digest for group in groups)
    if seeds:
        decided += json.dumps(seeds, sort_keys=True)
    digest = hashlib.sha256(decided.encode()).hexdigest()[:8]
    reported = root / f"report-{digest}"
    report(results=evaluations, output_dir=str(reported), seeds=seeds or None)
    _write(root / "report.html", (reported / "report.html").read_bytes())
    table = _matrix(root, groups, seed_axis)
    for extension, write in (
        ("md", matrix.markdown),
        ("csv", matrix.csv_table),
        ("json", matrix.json_table),
        ("tex", matrix.latex),
    ):
        _write(root / f"matrix.{extension}", write(table).encode())
    pictures = {
        _judge(file.stem): file.read_text() for file in sorted(reported.glob("toxicity*.svg"))
    }
    _write(root / "sweep.html", matrix.page(table, pictures, failed).encode())
    print(f"\n{matrix.markdown(table)}\n{root / 'sweep.html'}: open it in a browser")
    directory_lock.release(root)
    for name, why in failed.items():
        print(f"cell {name} failed: {why}; see {root / 'logs' / name}.log", file=sys.stderr)
    return 1 if failed else None


def _check(gin_files: Any, seed_axis: str | None, axes: Sequence[Axis]) -> None:
    if not isinstance(gin_files, list | tuple) or not all(isinstance(f, str) for f in gin_files):
        raise UserError(
            f"GIN_FILES is {gin_files!r}; give a list: ('gin_configs/experiments/demo.gin',)"
        )
    if seed_axis is not None and seed_axis not in [axis.name for axis in axes]:
        names = ", ".join(axis.name for axis in axes)
        raise UserError(f"SEED_AXIS is {seed_axis!r}, and the axes are {names}")
    sweep_rows.check_axes(axes)


# --- cells --------------------------------------------------------------------------------------


def _of_rows(cell: Cell, rows: Sequence[str]) -> Cell:
    """The cell with some of its rows alone."""
    figures = str(some_rows.directory(epath.Path(cell.output_dir), rows))
    bindings = (*cell.bindings, f"ONLY={[*rows]}")
    return dataclasses.replace(cell, bindings=bindings, figures=figures)


def _figures(cell: Cell) -> epath.Path:
    """Where a cell's evaluation and report lie."""
    return epath.Path(cell.figures or cell.output_dir)


def _step(cell: Cell, checked: Checked) -> Step:
    """A cell as a step of the plan."""
    counts = {"steps": len(checked.plan), "of them done": sum(_steps_done(checked))}
    return Step("sgeat", f"{_figures(cell)}/report", counts)


def _steps_done(checked: Checked) -> list[bool]:
    return [line.split()[:1] == [preview.DONE] for line in checked.plan]


def _digest(checked: Checked) -> str:
    return hashlib.sha256(checked.config.encode()).hexdigest()


def _is_done(cell: Cell, checked: Checked) -> bool:
    """Whether the cell finished with the configuration that it has now, and all is still there."""
    mark = _figures(cell) / _CONFIG
    has_finished = mark.exists() and mark.read_text() == _digest(checked)
    return has_finished and all(_steps_done(checked))


def _run(cell: Cell, gin_files: Sequence[str], root: epath.Path) -> str | None:
    """Runs a cell; returns why it failed, None where it did not."""
    (root / "logs").mkdir(parents=True, exist_ok=True)
    log = root / "logs" / f"{cell.name}.log"
    environment = {**os.environ, shared_steps.VARIABLE: str(root / "shared")}
    # Set for the sweep, which is one process and yet holds the port where processes meet.
    environment.pop(distributed.MULTIHOST_VARIABLE, None)
    command = [sys.executable, "-m", "detox_jax", *cell.arguments(gin_files)]
    with _written_by_a_process(log) as file:
        status = preemption.call(command, file, environment)
    if status in (preemption.AGAIN, preemption.INTERRUPTED):  # A signal came to it alone.
        raise preemption.Stopped(f"{cell.name}: {sweep_cells.last_line(log)}", status=status)
    return f"{_exit(status)}{sweep_cells.last_line(log)}" if status else None


def _exit(status: int) -> str:
    """How it begins why a cell failed."""
    return f"exit {status}: "


@contextlib.contextmanager
def _written_by_a_process(log: epath.Path) -> Iterator[IO[str]]:
    """A file that a process can write to; in a bucket, where there is none, it comes at the end."""
    if atomic_files.is_local(log):
        with log.open("w") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile("w") as file:
        try:
            yield file
        finally:
            _write(log, Path(file.name).read_bytes())


def _write_cells(
    root: epath.Path, cells: Sequence[Cell], done: Sequence[Cell], failed: Mapping[str, str]
) -> None:
    lines = []
    for cell in cells:
        line: dict[str, Any] = {"cell": cell.name, **cell.labels}
        if cell.name in failed:
            lines.append({**line, "state": _FAILED, "why": failed[cell.name]})
        else:
            lines.append({**line, "state": preview.DONE if cell in done else preview.TO_DO})
    atomic_files.write_json(root / "cells.json", lines, in_output=False)


def _write(path: epath.Path, content: bytes) -> None:
    """A file of the sweep's own directory, which is no output's."""
    atomic_files.write_bytes(path, content, in_output=False)


class _Progress:
    """Says which cell is the turn of, and about how long the rest takes."""

    def __init__(self, total: int):
        self._total, self.at = total, 0
        self._seconds: list[float] = []
        self._start = time.monotonic()

    def say(self, cell: Cell, what: str) -> None:
        self.at += 1
        self._start = time.monotonic()
        print(f"[{self.at}/{self._total}] {cell.name}: {what}", flush=True)

    def ran(self, cell: Cell, why: str | None) -> None:
        self._seconds.append(time.monotonic() - self._start)
        left = self._total - self.at
        about = left * sum(self._seconds) / len(self._seconds)
        ended = f"done in {self._seconds[-1]:.0f} s" if why is None else f"FAILED, {why}"
        rest = f"; at most {left} more, about {about / 60:.0f} min" if left else ""
        print(f"[{self.at}/{self._total}] {cell.name}: {ended}{rest}", flush=True)


# --- evaluations --------------------------------------------------------------------------------


@dataclasses.dataclass
class _Group:
    """Cells whose base wrote the same continuations.

    Attributes:
      first: the settings of the first one's evaluation.
      judges: names of the scorers that evaluated.
      runs: cell, name of the row in it, name of the row in the matrix, settings of the row.
    """

    first: Mapping[str, Any]
    judges: list[str]
    runs: list[tuple[Cell, str, str, Mapping[str, Any]]]

    @property
    def digest(self) -> str:
        """Names the places of what is made of just these runs."""
        said = [[name, output_settings.without_notes(row)] for _, _, name, row in self.runs]
        # Earlier versions left these answers out; their evaluations stay as they are.
        others = {
            name: answers.name
            for _, row, name, settings in self.runs
            if (answers := epath.Path(_choices(settings) or row)).name != row
        }
        decided = json.dumps(
            [said, self.first["bootstrap_draws"], *([others] if others else [])], sort_keys=True
        )
        return hashlib.sha256(decided.encode()).hexdigest()[:8]

    def methods(self, evaluation_method: Callable[..., Any]) -> dict[str, Any]:
        """What `evaluate` is given."""
        return {
            name: evaluation_method(
                generations={
                    judge: f"{cell.output_dir}/continuations/{row}/scored-{judge}"
                    for judge in self.judges
                },
                checkpoint_path=_checkpoint(cell, row, settings),
                corpus=settings["corpus"],
                adaptation=settings["adaptation"],
                filtered_by=settings["filtered_by"],
                choices=_choices(settings),
                own_decoding=settings["own_decoding"],
                **_behind(settings),
                **_decided_by(settings),
            )
            for cell, row, name, settings in self.runs
        }


def _checkpoint(cell: Cell, row: str, settings: Mapping[str, Any]) -> str | None:
    trained = f"{cell.output_dir}/models/{row}"
    if epath.Path(trained).exists():
        return trained
    return settings["checkpoint"] and settings["checkpoint"]["path"]


def _choices(settings: Mapping[str, Any]) -> str | None:
    """The answers of a row's model, which may lie under the name of another row."""
    answers = settings.get("choices")
    return answers and answers["path"]


def _behind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tags that a row's held-out text is read behind; nothing without."""
    return {"behind": Tags(**settings["behind"])} if "behind" in settings else {}


def _decided_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scorers that decided of a row beside the filter; nothing without."""
    return {"decided_by": settings["decided_by"]} if "decided_by" in settings else {}


def _groups(cells: Sequence[Cell]) -> list[_Group]:
    """The cells by their base, each base with the rows of all of its cells."""
    groups: list[_Group] = []
    bases: list[list[Any]] = []  # what decides them, by group
    for cell in cells:
        manifest = manifests.read_manifest(_figures(cell) / "evaluation")
        judges = list(manifest["scorers"])
        settings = _where_they_lie(cell, manifest["settings"], judges[0])
        base = settings["methods"][BASE]
        decided = [base, settings["heldout"], sorted(judges)]
        alike = (i for i, of in enumerate(bases) if all(_is_one(other, decided) for other in of))
        at = next(alike, len(groups))
        if at == len(groups):
            groups.append(_Group(settings, judges, [(cell, BASE, BASE, base)]))
            bases.append([])
        bases[at].append(decided)
        # Their order is lost in a manifest.
        place = _figures(cell) / "evaluation" / judges[0] / results_files.RESULTS_FILE
        rows = [name for name in results_files.read(place).methods if name != BASE]
        for row, name in zip(rows, sweep_rows.names(cell, rows), strict=True):
            groups[at].runs.append((cell, row, name, settings["methods"][row]))
    return groups


def _is_one(there: Any, now: Any) -> bool:
    """Whether what decides two bases is the same; cells of a version before may name less of it."""
    return output_settings.agree(*output_settings.as_both_name(there, now))


def _where_they_lie(cell: Cell, settings: Mapping[str, Any], judge: str) -> Mapping[str, Any]:
    """The settings of a cell's evaluation, whose places may be those before the sweep was moved."""
    texts = settings["methods"][BASE]["generations"][judge]["path"]
    before = texts.removesuffix(f"/continuations/{BASE}/scored-{judge}")
    return output_settings.moved(settings, before, str(epath.Path(cell.output_dir)))


def _matrix(root: epath.Path, groups: Sequence[_Group], seed_axis: str | None) -> matrix.Matrix:
    """The table under the first judge."""
    runs, bases = [], []
    for group in groups:
        place = root / f"evaluation-{group.digest}" / group.judges[0]
        results = results_files.read(place / results_files.RESULTS_FILE)
        several = {cell.name for cell, row, name, _ in group.runs if name not in (BASE, cell.name)}
        for cell, row, name, _ in group.runs:
            labels = dict(cell.labels)
            if name == BASE:
                bases.append(matrix.Run(_common(group) if len(groups) > 1 else {}, results, name))
                continue
            if cell.name in several:
                labels[sweep_rows.ROW] = row
            runs.append(matrix.Run(labels, results, name))
    return matrix.matrix(runs, bases, seed_axis)


def _common(group: _Group) -> dict[str, str]:
    """The labels that all cells of a group share: what tells its base from the others."""
    every = [cell.labels for cell, *_ in group.runs]
    return {
        name: label
        for name, label in every[0].items()
        if all(labels[name] == label for labels in every)
    }


def _seeds(groups: Sequence[_Group], axis: str | None) -> dict[str, list[str]]:
    """The rows of a base that differ in their seed alone, by their name without it."""
    seeds: dict[str, list[str]] = {}
    for group in groups:
        of_group: dict[str, list[str]] = {}
        for cell, row, name, _ in group.runs:
            if name == BASE or axis is None:
                continue
            without = sweep_rows.joined(sweep_rows.as_one(cell, row, name, axis))
            of_group.setdefault(without, []).append(name)
        seeds |= {name: rows for name, rows in of_group.items() if len(rows) > 1}
    return seeds


def _judge(stem: str) -> str:
    """The caption of a picture of `report`, by its file's name."""
    return f"Judged by {stem.removeprefix('toxicity').strip('-') or 'the scorer'}."
