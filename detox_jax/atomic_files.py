"""Files written whole or not at all: bytes, JSON, JSON Lines; on a disk or in a bucket."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from etils import epath

from detox_jax import directory_lock
from detox_jax.errors import Unavailable, UserError, writing
from detox_jax.parallel import processes

_PARTIAL = ".partial"  # ends the name of a file that is being written


class Line(Protocol):
    """What is written as one line of JSON."""

    def to_json(self) -> dict[str, Any]:
        """The line."""
        ...


def write_bytes(path: epath.Path, content: bytes, *, in_output: bool = True) -> None:
    """Writes a file whole or not at all; of several processes, the first one does.

    A file that stands there has reached the disk: a power cut leaves it whole. In a bucket an
    object appears whole, and is written at its place at once.

    Args:
      path: of the file.
      content: of the file.
      in_output: whether it lies in an output directory, from which `outputs.remove_partial_files`
        removes what killed runs were writing; what they were of any other file goes here.

    Raises:
      Unavailable: where the storage fails, such as a full disk.
    """
    if not processes.current().is_first:
        return
    if not is_local(path):
        with writing(path):
            path.write_bytes(content)
        return
    if not in_output:
        _remove_leftovers(Path(path))
        # Another run that writes the same file may take this one's for a leftover.
        with contextlib.suppress(Unavailable):
            _write_durably(Path(path), [content])
            return
    _write_durably(Path(path), [content])


def remove(path: epath.Path) -> None:
    """Removes a file, where it is there; of several processes, the first one does."""
    if processes.current().is_first:
        path.unlink(missing_ok=True)


def write_blocks(path: epath.Path, blocks: Iterable[bytes]) -> None:
    """As `write_bytes`, of blocks that are not held; a bucket's object is, as it appears whole.

    All processes take the blocks, which may be computed by all together.
    """
    if not processes.current().is_first:
        for _ in blocks:
            pass
    elif not is_local(path):
        write_bytes(path, b"".join(blocks))
    else:
        _write_durably(Path(path), blocks)


def _write_durably(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes as the blocks come; what goes wrong with these is not the storage's trouble."""
    temporary = path.parent / partial_name(path.name)
    with writing(path), staying(path.parent):
        file = temporary.open("wb")
    try:
        for block in blocks:
            with writing(path):
                file.write(block)
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        with writing(path), staying(path.parent):
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # What could not be written is tried once more.
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Makes the names in a directory last, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Removes what killed runs were writing of one file."""
    for beside in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}{_PARTIAL}"):
        if beside.is_file():
            beside.unlink(missing_ok=True)


def partial_name(name: str) -> str:
    """A new name for what `name` is while it is being written; see `is_partial`."""
    return f".{name}.{uuid.uuid4().hex[:8]}{_PARTIAL}"


def is_partial(name: str) -> bool:
    """Whether a file or directory is named as one that is being written."""
    return name.startswith(".") and name.endswith(_PARTIAL)


def is_local(path: str | epath.Path) -> bool:
    """Whether a path is on a disk, not in an object store."""
    return "://" not in str(path)


def require_place(path: str | epath.Path, instead: str = "give a directory here") -> None:
    """Refuses an address that is neither read nor written: of buckets those of gs:// alone are.

    Args:
      path: a path, or an address.
      instead: what to do.

    Raises:
      UserError: naming it.
    """
    if not is_local(path) and not str(path).startswith("gs://"):
        raise UserError(
            f"{path}: such an address is neither read nor written; {instead}, or one in gs://"
        )


def real_path(path: str | epath.Path) -> str:
    """Where a path leads, however it is spelt; one in an object store as it is."""
    return os.path.realpath(path) if is_local(path) else str(path)


def make_subdirectory(path: epath.Path) -> None:
    """Makes a directory in an output, which is there.

    Raises:
      Unavailable: where the output is no longer there.
    """
    with staying(path.parent):
        path.mkdir(exist_ok=True)


@contextlib.contextmanager
def staying(directory: object) -> Iterator[None]:
    """Says in one line that a directory that is being written to was removed.

    Raises:
      Unavailable: where a file or directory is missing inside.
    """
    try:
        yield
    except FileNotFoundError:
        raise Unavailable(directory_lock.removed(directory)) from None


def write_json(path: epath.Path, value: Any, *, in_output: bool = True) -> None:
    """Writes `value` as indented JSON, as `write_bytes` does."""
    write_bytes(path, encoded(value, indent=2), in_output=in_output)


def write_jsonl(path: epath.Path, records: Iterable[Line]) -> int:
    """Writes records as JSON Lines, whole or not at all, and returns how many there were."""
    lines = encode_lines(records)
    write_bytes(path, b"".join(lines))
    return len(lines)


def encode_lines(records: Iterable[Line]) -> list[bytes]:
    """Each record as its line of JSON."""
    return [encoded(record.to_json()) for record in records]


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_LINE = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` makes one for each line.


def encoded(value: Any, indent: int | None = None) -> bytes:
    """A value as JSON, with the end of its line."""
    try:
        encoder = _LINE if indent is None else json.JSONEncoder(indent=indent, ensure_ascii=False)
        return (encoder.encode(value) + "\n").encode()
    except UnicodeEncodeError:  # A lone surrogate has no UTF-8 form; JSON's escape keeps it.
        return (json.dumps(value, indent=indent) + "\n").encode()
