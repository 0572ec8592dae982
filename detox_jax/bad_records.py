"""What becomes of a record that cannot be read: `Refuse`, or `SetAside`.

A verb opens its policy with `opened` and gives what that returns to every `records.read_*`; its
counts stand in the verb's manifest. What a whole source is at fault for, such as an id that comes
twice or a compressed file that is cut short, is refused under either policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from detox_jax import atomic_files, output_settings
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class Refuse:
    """The first record that cannot be read ends the verb; its line is named."""


@dataclasses.dataclass(frozen=True)
class SetAside:
    """Records that cannot be read are left out, copied to a file and counted.

    Each line of the file is `{"file", "line", "reason", "raw"}`; bytes of `raw` that are no UTF-8
    are lone surrogates there, as Python's `surrogateescape` makes them.

    Attributes:
      path: the file, JSON Lines; what it says of a file that is read again is replaced.
      most: the largest share of a source's records that may be left out.

    Raises:
      UserError: if `most` is no share.
    """

    path: str
    most: float = 0.001

    def __post_init__(self):
        is_number = isinstance(self.most, int | float) and not isinstance(self.most, bool)
        if not is_number or not 0 <= self.most <= 1:
            raise UserError(f"SetAside.most is {self.most!r}; expected a share from 0 to 1")


BadRecords = Refuse | SetAside
REFUSE = Refuse()


class Aside:
    """The records that one run of a verb sets aside.

    Attributes:
      num_records: how many records were read or set aside, of all sources.
      num_set_aside: how many of them were set aside.
    """

    def __init__(self, policy: SetAside, writes: bool = True):
        """Nothing is set aside yet; `writes` where the policy's file is written."""
        self._policy = policy
        self._writes = writes
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._counts: dict[str, int] = {}

    @property
    def num_records(self) -> int:
        """Of all sources."""
        return sum(self._counts.values())

    @property
    def num_set_aside(self) -> int:
        """Of all sources."""
        return sum(map(len, self._lines.values()))

    def begin(self, file: str) -> None:
        """A file is read from its start; what was counted of it before is forgotten."""
        self._lines[file], self._counts[file] = [], 0

    def count(self, file: str, records: int = 1) -> None:
        """One more record of a file, or several, whatever becomes of them."""
        self._counts[file] += records

    def put(self, file: str, line: int, raw: bytes, error: UserError) -> None:
        """Sets a record aside.

        Args:
          file: where it is from.
          line: its number.
          raw: its bytes.
          error: why it cannot be read.
        """
        reason = str(error).removeprefix(f"{file}:{line}: ")
        text = raw.decode("utf-8", "surrogateescape")
        self._lines[file].append({"file": file, "line": line, "reason": reason, "raw": text})

    def finish(self, source: str, files: list[str]) -> None:
        """Writes what was set aside of a source that has been read to its end.

        Raises:
          UserError: if it is more than the policy allows; it is written all the same.
        """
        lines = [line for file in files for line in self._lines[file]]
        count = sum(self._counts[file] for file in files)
        path = epath.Path(self._policy.path)
        # Other processes are asked nothing: one may have read the source before, and the rest not.
        if self._writes and processes.current().is_first:
            _write(path, files, lines)
        # A quotient is the number nearest to the share, as `most` is; 0.29 * 100 is below 29.
        if lines and len(lines) / count > self._policy.most:
            first = lines[0]
            raise UserError(
                f"{source}: {len(lines)} of {count} records cannot be read, more than "
                f"SetAside.most = {self._policy.most}; they are in {path}, the first is "
                f"{first['file']}:{first['line']}: {first['reason']}"
            )

    def counts(self) -> dict[str, Any]:
        """What joins a manifest: `{"bad_records": {"records", "set_aside"}}`."""
        return {
            "bad_records": {"records": self.num_records, "set_aside": self.num_set_aside},
        }


def _write(path: epath.Path, files: list[str], lines: list[dict[str, Any]]) -> None:
    """Replaces what the file says of `files`, and keeps what it says of others."""
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        _replace(path, files, lines)


@contextlib.contextmanager
def _alone_in(directory: epath.Path) -> Iterator[None]:
    """Waits for other verbs that write the same file; a bucket, and some disks, know no locks."""
    if not atomic_files.is_local(directory) or not directory.is_dir():
        yield
        return
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: epath.Path, files: list[str], lines: list[dict[str, Any]]) -> None:
    others: list[dict[str, Any]] = []
    if path.exists():
        if path.read_bytes().strip():
            there = (value for _, value in jsonl.read_jsonl(path))
            others = [value for value in there if value.get("file") not in files]
    elif not lines:
        return
    kept = sorted(others, key=lambda line: (str(line.get("file")), str(line.get("line"))))
    content = b"".join(json.dumps(line).encode() + b"\n" for line in kept + lines)
    atomic_files.write_bytes(path, content, in_output=False)


def opened(policy: BadRecords, writes: bool = True) -> Aside | None:
    """What the readers of records are given for one run of a verb; None where all is refused.

    Args:
      policy: of the verb.
      writes: whether the policy's file is written; a check before the work does not.

    Raises:
      UserError: for what is no policy.
    """
    if isinstance(policy, SetAside):
        return Aside(policy, writes and not output_settings.is_ahead())
    if not isinstance(policy, Refuse):
        raise UserError(
            f"BAD_RECORDS is {policy!r}; give @bad_records.Refuse() or @bad_records.SetAside()"
        )
    return None


def settings(policy: BadRecords) -> dict[str, Any]:
    """What a manifest's settings say; nothing of the default, which decides nothing."""
    if isinstance(policy, Refuse):
        return {}
    return {"bad_records": output_settings.describe(policy, "bad_records")}


def counts(aside: Aside | None) -> dict[str, Any]:
    """What a manifest counts; nothing where all is refused."""
    return {} if aside is None else aside.counts()
