"""What a verb is going to do: its steps, with what is done, counts and sizes, for `--dry_run`.

Every verb takes `check_only`: it then checks what it is given, as far as that is possible without
work, and returns its steps. The command line asks so before every run, and `sgeat` all of its
verbs, with `Coming` in place of the paths that its earlier steps are going to write.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from detox_jax import atomic_files, manifests
from detox_jax.errors import UserError

# Of inputs beyond so many bytes the first records are checked: the verb reads them all next.
LARGE, FIRST = 16 << 20, 1000
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
DONE, BEGUN, TO_DO = "done", "begun", "to do"


class Coming(str):
    """A path that an earlier step of the same run writes; nothing need be there yet."""

    __slots__ = ()


class ComingText(Coming):
    """The text of a training that an earlier step writes.

    Attributes:
      tags: behind which it stands; None where it stands behind none.
    """

    tags: Any

    @classmethod
    def behind(cls, path: str, tags: Any) -> ComingText:
        """The text that is going to be at a path."""
        text = cls(path)
        text.tags = tags
        return text


class StandIn(str):
    """A model in place of one that an earlier step trains from it: as long, of its vocabulary."""

    __slots__ = ()


class Late(str):
    """A path of the user's that a later step of a run reads: checked to its end, however large."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """One verb's work.

    Attributes:
      verb: its name.
      output_dir: where it writes.
      counts: what it reads or writes, by name: `{"documents": 2000}`; at most so many.
      size: bytes on disk, about, and at most for text; None where nothing is known.
      needs: bytes that it surely takes, such as checkpoints; more than the disk has is a mistake.
      needs_a_while: bytes beside these that it takes for a time, such as a step that is being saved
        while those before it stay.
      parts: directories below it that have a manifest each, where it has none itself.
      again: whether it is made again, done or not, for an earlier step is to write what it reads.
      advice: what to know of its settings before it begins, or None.
    """

    verb: str
    output_dir: str
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    size: int | None = None
    needs: int = 0
    needs_a_while: int = 0
    parts: Sequence[str] = ()
    again: bool = False
    advice: str | None = None

    @property
    def state(self) -> str:
        """`done`, `begun` or `to do`, as the manifest says."""
        if self.again:
            return TO_DO
        path = epath.Path(self.output_dir)
        states = [_state(path / part) for part in self.parts] or [_state(path)]
        return states[0] if len(set(states)) == 1 else BEGUN

    def __str__(self) -> str:
        """The step as a line of the plan, and its advice in parentheses at the end."""
        said = [f"{count:,} {name}" for name, count in self.counts.items()]
        if self.size is not None:
            said.append(f"about {readable(self.size)}")
        line = f"{self.state:5}  {self.verb:16}  {self.output_dir}  {', '.join(said)}".rstrip()
        return f"{line} ({self.advice})" if self.advice else line


def _state(path: epath.Path) -> str:
    """The state of one output."""
    if not (path / manifests.MANIFEST).exists():
        return TO_DO
    return DONE if manifests.read_manifest(path)["complete"] else BEGUN


def with_coming(methods: Sequence[Any], coming: Collection[str]) -> list[Any]:
    """Methods of steering, where the files that an earlier step of the run writes are `Coming`.

    Args:
      methods: as the user gave them; the fields that hold places are named in their `files`.
      coming: the places of these files.
    """
    places = {os.path.abspath(place) for place in coming}

    def marked(method: Any) -> Any:
        values = {field: getattr(method, field) for field in getattr(method, "files", ())}
        changed = {
            field: Coming(place)
            for field, place in values.items()
            if place is not None and os.path.abspath(place) in places
        }
        return dataclasses.replace(method, **changed) if changed else method

    return [marked(method) for method in methods]


def is_done(output_dir: str) -> bool:
    """Whether an output is there and finished; its verb then does nothing, and checks nothing."""
    return Step("", output_dir).state == DONE


def lacks(output_dir: str, setting: str, names: Iterable[str]) -> bool:
    """Whether a finished output is to be gone on with, for its setting lists not all of them."""
    if not is_done(output_dir):
        return False
    listed = manifests.read_manifest(epath.Path(output_dir))["settings"].get(setting)
    return isinstance(listed, dict | list) and any(name not in listed for name in names)


def to_check(source: str, files: Sequence[epath.Path]) -> int | None:
    """How many records of the source's files are read before the work; None for all of them."""
    is_large = total_size(files) > LARGE and not isinstance(source, Late)
    return FIRST if is_large else None


def total_size(files: Sequence[epath.Path]) -> int:
    """Bytes of files."""
    return sum(file.stat().length for file in files)


def text_size(texts: int, tokens: int) -> int:
    """Bytes of a JSON Lines file of so many texts of so many tokens, about and at most."""
    return texts * (120 + 5 * tokens)


def readable(size: int) -> str:
    """`1.5 GB`."""
    amount, unit = float(size), 0
    while float(f"{amount:.3g}") >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}"


def peak_memory() -> str:
    """The most memory that this process has had: `at most 1.5 GB of memory`."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"at most {readable(peak)} of memory"


def check_room(steps: Sequence[Step]) -> None:
    """Refuses steps for which a local disk has too little room.

    Raises:
      UserError: naming the disk's directory, what is needed and what is free.
    """
    needed: dict[int, int] = {}
    for step in steps:
        if not step.needs or not atomic_files.is_local(step.output_dir) or step.state == DONE:
            continue
        place = Path(step.output_dir).absolute()
        while not place.exists():
            place = place.parent
        disk = place.stat().st_dev
        needed[disk] = needed.get(disk, 0) + step.needs
        most = needed[disk] + step.needs_a_while
        if step.state == TO_DO and (free := shutil.disk_usage(place).free) < most:
            raise UserError(
                f"{step.output_dir}: its disk has {readable(free)} free, and checkpoints take "
                f"{readable(most)}; make room, or choose a directory on another disk"
            )


def lines(steps: Sequence[Step]) -> str:
    """The plan, as comments of a gin file: what stands above it is one."""
    total = sum(step.size or 0 for step in steps if step.state != DONE)
    head = f"# plan: {len(steps)} steps, {sum(step.state == DONE for step in steps)} of them done"
    size = f", about {readable(total)} to write" if total else ""
    return "\n".join([head + size, *(f"#   {step}" for step in steps)])


def checked_root(output_dir: str) -> None:
    """`checked_output` of a run of many verbs, which leaves no manifest of its own to look at.

    Raises:
      UserError: if it is, or is to be made in, what one verb wrote, such as a model.
    """
    checked_output(output_dir)
    if verb := manifests.verb_of(epath.Path(output_dir)):
        raise UserError(f"{output_dir}: holds the output of `{verb}`; choose another")


def checked_output(output_dir: str) -> None:
    """Refuses an output that is a file or a link to nothing, or lies below one or in an output.

    An address of another kind than gs:// is refused too.

    Raises:
      UserError: naming it.
    """
    atomic_files.require_place(output_dir)
    if not atomic_files.is_local(output_dir) or isinstance(output_dir, Coming):
        return
    if not output_dir:
        raise UserError("the name of the directory to write to is empty; give one")
    path = Path(output_dir).absolute()
    for place in (path, *path.parents):
        if place.exists():
            if place.is_dir():
                break
            if place == path:
                raise UserError(f"{output_dir}: is a file; give a directory to write to")
            raise UserError(f"{output_dir}: cannot be written: {place} is a file")
        if place.is_symlink():
            raise UserError(
                f"{output_dir}: cannot be written: {place} is a link to {os.readlink(place)}, "
                "which is not there; make that directory, or give another"
            )
    _refuse_within_an_output(path, output_dir)


def _refuse_within_an_output(path: Path, output_dir: str) -> None:
    """Refuses to begin in what a verb wrote, such as a model, which goes with all that is in it.

    What was begun there goes on. A run of many verbs has no manifest of its own: its outputs may
    lie in it. In a bucket to look above costs requests.
    """
    if path.exists() and any(path.iterdir()):
        return
    for place in path.resolve().parents:
        if verb := manifests.verb_of(epath.Path(place)):
            raise UserError(
                f"{output_dir}: lies in {place}, which holds the output of `{verb}`; choose another"
            )
