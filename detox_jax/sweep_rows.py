"""What the rows and columns of a sweep's tables are called; no two alike, before a cell runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etils import epath

from detox_jax.errors import UserError
from detox_jax.method.method import BASE
from detox_jax.report import matrix
from detox_jax.sweep_cells import Axis, Cell, Checked

ROW = "method"  # the column of a row's name in its cell, where that has several
_OF_CELLS = ("cell", "state", "why")  # in cells.json, beside the labels


def names(cell: Cell, rows: Sequence[str]) -> list[str]:
    """What rows of a cell are called among those of all: as the cell, where it has but one."""
    return [cell.name if len(rows) == 1 else f"{cell.name}_{row}" for row in rows]


def as_one(cell: Cell, row: str, name: str, seed_axis: str) -> tuple[tuple[str, ...], str]:
    """What is left of a row's name without its seed; together they name the rows of all seeds.

    Args:
      cell: of the row.
      row: its name there.
      name: its name among the rows of all cells.
      seed_axis: the axis whose labels are seeds.

    Returns:
      The cell's other labels, and what is to be put behind them.
    """
    labels = tuple(label for axis, label in cell.labels.items() if axis != seed_axis)
    return labels, name.removeprefix(cell.name) if labels else row


def joined(left: tuple[tuple[str, ...], str]) -> str:
    """The name of `as_one`."""
    labels, end = left
    return "_".join(labels) + end


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuses an axis that is called as a column that the tables have besides.

    Args:
      axes: of the sweep; that of the seeds too, which is a column of the bases.

    Raises:
      UserError: naming the axis.
    """
    for axis in axes:
        if axis.name in matrix.COLUMNS or axis.name in _OF_CELLS:
            raise UserError(
                f"axis {axis.name!r}: another column of the tables is called so; choose another "
                "Axis.name"
            )


def check(cells: Sequence[Cell], checked: Sequence[Checked], seed_axis: str | None) -> None:
    """Refuses two rows of one name, of which the tables would have the second alone.

    Args:
      cells: of the sweep.
      checked: what the dry run of each says.
      seed_axis: the axis whose labels are seeds, if there is one.

    Raises:
      UserError: naming the axis, or AXES and the rows.
    """
    cell_of: dict[str, Cell] = {}
    of_seeds: dict[str, dict[tuple[tuple[str, ...], str], list[str]]] = {}
    for cell, said in zip(cells, checked, strict=True):
        rows = planned(cell, said)
        if len(rows) > 1 and ROW in cell.labels:
            raise UserError(
                f"axis {ROW!r}: cell {cell.name} has {len(rows)} rows, whose names are the column "
                f"{ROW!r} of the tables; choose another Axis.name"
            )
        for row, name in zip(rows, names(cell, rows), strict=True):
            if name == BASE:
                raise UserError(
                    f"AXES: the row of cell {name} would be called as the model before, {BASE!r}; "
                    "change a label"
                )
            if name in cell_of:
                raise UserError(
                    f"AXES: the cells {cell_of[name].name} and {cell.name} would both have a row "
                    f"{name!r}; change a label"
                )
            cell_of[name] = cell
            if seed_axis is not None:
                left = as_one(cell, row, name, seed_axis)
                of_seeds.setdefault(joined(left), {}).setdefault(left, []).append(name)
    for name, groups in of_seeds.items():
        _check_seeds(name, list(groups.values()), [BASE, *cell_of])


def _check_seeds(name: str, groups: Sequence[Sequence[str]], taken: Sequence[str]) -> None:
    """Refuses one name for the seeds of two rows, and that of another row for those of one."""
    rows = groups[0]
    if len(groups) > 1:
        raise UserError(
            f"AXES: {rows[0]!r} and {groups[1][0]!r} differ in more than SEED_AXIS, and without it "
            f"both would be called {name!r}; change a label"
        )
    if len(rows) > 1 and name in taken and name not in rows:
        raise UserError(
            f"AXES: {rows[0]!r} would be called {name!r} without SEED_AXIS, as another row is; "
            "change a label"
        )


def planned(cell: Cell, checked: Checked) -> list[str]:
    """Names of the rows that a cell measures beside its base, as its dry run says."""
    texts = re.escape(str(epath.Path(cell.output_dir) / "continuations"))
    place = re.compile(rf"  {texts}/([^/]+)/")
    found = [match[1] for line in checked.plan if (match := place.search(line))]
    return [row for row in dict.fromkeys(found) if row != BASE]
