"""The cells of a sweep: which there are, as which commands they run, and whether those can run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from detox_jax import shared_steps
from detox_jax.errors import UserError, shortened

_NAME = re.compile(r"[\w=+.][\w=+.-]*")  # part of a file's name, and of a method's


@dataclasses.dataclass(frozen=True)
class Axis:
    """What cells differ in.

    Attributes:
      name: a column of the table.
      choices: by label, the bindings of the command line that make it: `NAME=VALUE` as after
        `--gin.`, or a gin file.
    """

    name: str
    choices: Mapping[str, Sequence[str]]

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UserError(f"Axis.name is {self.name!r}; use letters, digits, and . _ - + =")
        if not isinstance(self.choices, Mapping) or not self.choices:
            raise UserError(
                f"axis {self.name!r}: choices is {self.choices!r}; give bindings by label: "
                "{'small': ['NUM_DOCUMENTS=100'], 'large': ['NUM_DOCUMENTS=1000']}"
            )
        for label, bindings in self.choices.items():
            if not isinstance(label, str) or not _NAME.fullmatch(label):
                raise UserError(
                    f"axis {self.name!r}: label {label!r} becomes part of a directory's name; use "
                    "letters, digits, and . _ - + ="
                )
            if isinstance(bindings, str) or not isinstance(bindings, Sequence):
                raise UserError(
                    f"axis {self.name!r}: {label!r} is {bindings!r}; give a list of bindings"
                )
            for binding in bindings:
                _flag(binding, f"axis {self.name!r}: {label!r}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of `sgeat`.

    Attributes:
      labels: of its choices, by axis.
      bindings: what makes it, over what all cells share.
      output_dir: where it goes.
      figures: where its evaluation and report go; `output_dir` where empty.
    """

    labels: Mapping[str, str]
    bindings: tuple[str, ...]
    output_dir: str
    figures: str = ""

    @property
    def name(self) -> str:
        """Its labels, joined."""
        return name_of(self.labels)

    def arguments(self, gin_files: Sequence[str]) -> list[str]:
        """What follows `detox-jax`."""
        where = f"cell {self.name}"
        flags = [_flag(binding, where) for binding in self.bindings]
        files = [f"--gin_file={file}" for file in gin_files]
        return ["sgeat", *files, *flags, f"--gin.OUTPUT_DIR={self.output_dir}"]

    def command(self, gin_files: Sequence[str], shared: str) -> str:
        """The line of a shell that runs it anywhere."""
        variable = f"{shared_steps.VARIABLE}={shared}"
        return shlex.join(["env", variable, "detox-jax", *self.arguments(gin_files)])


def name_of(labels: Mapping[str, str]) -> str:
    """The name of a cell with these labels."""
    return "_".join(labels.values())


def cells(
    axes: Sequence[Axis],
    only: Sequence[Mapping[str, str]] | None,
    without: Sequence[Mapping[str, str]],
    output_dir: str,
) -> list[Cell]:
    """All combinations of the axes' choices, as far as they are wanted.

    Args:
      axes: the last one changes fastest.
      only: labels by axis; a cell that has none of these is left out. None wants all.
      without: a cell that has one of these is left out.
      output_dir: of the sweep.

    Raises:
      UserError: for axes or labels that are not there, or stand twice, for a name that begins with
        a dot, and where no cell is left.
    """
    if not isinstance(axes, list | tuple) or not all(isinstance(axis, Axis) for axis in axes):
        raise UserError("AXES: give a list of axes: (@first/sweep_cells.Axis(), ...)")
    names = [axis.name for axis in axes]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"AXES: two axes are called {sorted(doubled)[0]!r}")
    for setting, given in (("ONLY", only or ()), ("WITHOUT", without)):
        for labels in given:
            _check_labels(setting, labels, axes)
    made = []
    for chosen in itertools.product(*(axis.choices.items() for axis in axes)):
        labels = {name: label for name, (label, _) in zip(names, chosen, strict=True)}
        is_wanted = only is None or any(wanted.items() <= labels.items() for wanted in only)
        if not is_wanted or any(left.items() <= labels.items() for left in without):
            continue
        bindings = tuple(itertools.chain.from_iterable(bindings for _, bindings in chosen))
        made.append(Cell(labels, bindings, f"{output_dir}/cells/{name_of(labels)}"))
    if not made:
        raise UserError("the sweep has no cell; see AXES, ONLY and WITHOUT")
    for cell in made:
        if cell.name.startswith("."):  # a method's name, which `evaluate` refuses
            axis, label = next(iter(cell.labels.items()))
            raise UserError(
                f"axis {axis!r}: label {label!r} begins the name of a cell, which may not begin "
                "with a dot; change it"
            )
    names = [cell.name for cell in made]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"AXES: two cells would be called {sorted(doubled)[0]!r}; change a label")
    return made


def _check_labels(setting: str, labels: Any, axes: Sequence[Axis]) -> None:
    if not isinstance(labels, Mapping):
        raise UserError(f"{setting} holds {labels!r}; give labels by axis: {{'axis': 'label'}}")
    choices = {axis.name: axis.choices for axis in axes}
    for name, label in labels.items():
        if label not in choices.get(name, {}):
            known = sorted(choices.get(name, choices))
            raise UserError(f"{setting}: {{{name!r}: {label!r}}} is no choice; there are {known}")


def _flag(binding: Any, where: str) -> str:
    """A binding as a flag of the command line."""
    if isinstance(binding, str):
        if binding.endswith(".gin") and "=" not in binding:
            return f"--gin_file={binding}"
        name, equals, value = binding.partition("=")
        if equals and name.strip():
            return f"--gin.{name.strip()}={value.strip()}"
    raise UserError(f"{where}: {binding!r} is no binding; write 'NAME=VALUE' or name a gin file")


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a cell's `--dry_run` says.

    Attributes:
      status: its exit status.
      config: what gin would have it do; the hash of it tells a changed cell.
      plan: its steps, as lines.
      error: its last line of standard error, where the status is not 0.
    """

    status: int
    config: str
    plan: tuple[str, ...]
    error: str


_ONLY = re.compile(r"^ONLY = (.*)$", re.MULTILINE)


def check_rows(cell: Cell, checked: Checked) -> None:
    """Refuses a cell of some of its rows where the sweep does not say so.

    Args:
      cell: whose figures are looked for where a run of all rows has them.
      checked: what its dry run says.

    Raises:
      UserError: naming the cell.
    """
    only = _ONLY.search(checked.config)
    if not cell.figures and only is not None and only[1] != "None":
        raise UserError(
            f"cell {cell.name}: sets ONLY; give the sweep the names of the rows in its place, as "
            "ROWS"
        )


_checked_ahead: dict[str, list[Checked]] = {}


def check(several: Sequence[Sequence[str]], *, ahead: bool) -> list[Checked]:
    """The dry runs of command lines, in one process, whose imports are paid for once.

    Args:
      several: what follows `detox-jax`, of each.
      ahead: whether a run of the same follows, as behind the command line's own check: that takes
        what was found here, once.
    """
    key = json.dumps([list(arguments) for arguments in several])
    if not ahead and key in _checked_ahead:
        return _checked_ahead.pop(key)
    done = subprocess.run(
        # Not from its directory, whose modules would stand for others of the same names.
        [sys.executable, "-P", str(Path(__file__).with_name("sweep_check.py"))],
        input=key,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise UserError(f"the cells cannot be checked: {shortened(last, 300)}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    checked = [_checked(answer) for answer in answers]
    if ahead:
        _checked_ahead[key] = checked
    return checked


def _checked(answer: Mapping[str, Any]) -> Checked:
    config, _, plan = str(answer["output"]).partition("# plan:")
    lines = [line.removeprefix("#").rstrip() for line in plan.splitlines()[1:]]
    errors = str(answer["errors"]).strip().splitlines() or [""]
    return Checked(int(answer["status"]), config, tuple(lines), errors[-1])


def last_line(log: epath.Path) -> str:
    """What a cell said last."""
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return shortened(lines[-1], 300) if lines else ""
