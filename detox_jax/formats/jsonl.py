"""JSON, JSON Lines and plain text: the one place that reads such a file, compressed or not.

Whether a file is compressed is told by its first bytes, whatever its name: gzip and Zstandard are
read as they are. A byte order mark, which Windows' editors write, is no part of the text.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from detox_jax.errors import UserError, in_one_line, unread

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_COMPRESSED = re.compile(r"\.(gz|zst)$")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Far below the 1,000 or so that Python's reader takes: what is read is written again, from deeper
# in the program, and the writer has the same limit.
_MOST_NESTED = 200
_BLOCK, _LINES_BLOCK = 1 << 16, 1 << 19  # the second so that arrays of a block fit into a cache
# gzip raises the first three; Arrow raises OSError for Zstandard.
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, OSError)


def plain_name(name: str) -> str:
    """A file's name without the suffix of a compression."""
    return _COMPRESSED.sub("", name)


def read_jsonl(file: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(line number, object)` for every line of `file` that is not blank.

    Raises:
      UserError: naming file and line, for bytes that are not UTF-8, malformed JSON, or a line that
        is not an object; also for a file with no record, and for a damaged compressed one.
    """
    name = str(file)
    for number, raw in raw_lines(file):
        yield number, parsed(raw, f"{name}:{number}")


def raw_lines(file: epath.Path) -> Iterator[tuple[int, bytes]]:
    """Yields `(line number, bytes)` for every line of `file` that is not blank.

    Raises:
      UserError: for a file with no record, and for a damaged compressed one.
    """
    empty = True
    for number, raw in numbered_lines(file):
        if not raw.strip():
            continue
        empty = False
        yield number, raw
    if empty:
        raise UserError(f"{file}: empty; expected one JSON record a line")


def read_bytes(file: epath.Path) -> bytes:
    """A whole file, such as a list of words, decompressed and without a byte order mark.

    Raises:
      UserError: for a damaged compressed file.
      Unavailable: where the storage fails.
    """
    return b"".join(blocks(file))


def read_lines(file: epath.Path, kind: str) -> list[str]:
    """The lines of a text file such as a list of words, as `read_bytes` reads it.

    Args:
      file: UTF-8 text, compressed or not.
      kind: what it should be, with its article, for the error.

    Raises:
      UserError: for a file that cannot be read or is no UTF-8.
    """
    try:
        content = read_bytes(file)
    except OSError as error:
        raise unread(file, error) or UserError(
            f"{file}: not readable as {kind}: {in_one_line(error)}"
        ) from None
    try:
        return content.decode().splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: not readable as {kind}: line {line} is not UTF-8") from None


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object that a file of settings holds.

    Raises:
      UserError: naming `where`, if it is malformed or no object.
    """
    try:
        value = json.loads(content)
        check_depth(value, content)
    except RecursionError:
        raise UserError(f"{where}: malformed JSON: nested too deeply") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise UserError(f"{where}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def check_depth(value: Any, content: bytes) -> None:
    """Raises RecursionError for what could be read and not be written again."""
    if content.count(b"[") + content.count(b"{") <= _MOST_NESTED:
        return
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MOST_NESTED:
            raise RecursionError("nested too deeply")
        level = [item for outer in level for item in _inside(outer)]


def _inside(value: Any) -> Iterable[Any]:
    """The lists and objects directly inside of a list or an object."""
    items = value.values() if isinstance(value, dict) else value
    items = items if isinstance(value, dict | list) else ()
    return (item for item in items if isinstance(item, dict | list))


class _TwiceError(ValueError):
    """A field that stands twice in one object; the parser would drop the first in silence."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def parsed(raw: bytes, where: str) -> dict[str, Any]:
    """The object that a line holds.

    Args:
      raw: its bytes.
      where: its file and number, for errors.

    Raises:
      UserError: see `read_jsonl`.
    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
        check_depth(value, raw)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        if where.endswith(":1") and raw.lstrip().startswith(b"["):
            raise UserError(
                f"{where}: a JSON array over several lines; expected one JSON object a line "
                "(jq -c '.[]' makes it), or a name that ends in .json"
            ) from None
        if where.endswith(":1") and raw.strip() == b"{":
            raise UserError(
                f"{where}: a JSON object over several lines; expected one a line: what `generate` "
                "or `score` wrote, or records of your own (jq -c . makes a line of each)"
            ) from None
        column = min(error.pos, len(error.doc.rstrip())) + 1  # not behind the line's end
        raise UserError(f"{where}: malformed JSON: {error.msg} at column {column}") from None
    except RecursionError:
        raise UserError(f"{where}: malformed JSON: nested too deeply") from None
    except _TwiceError as error:
        raise UserError(f"{where}: {str(error)!r} stands twice in one object") from None
    except ValueError:  # Python reads no whole number of thousands of digits.
        raise UserError(f"{where}: malformed JSON: a number of too many digits") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def numbered_lines(file: epath.Path) -> Iterator[tuple[int, bytes]]:
    """Yields `(line number, bytes)`, blank lines too, one at a time: a file may exceed memory.

    Raises:
      UserError: for a damaged compressed file.
      Unavailable: where the storage fails.
    """
    number = 0
    with contextlib.ExitStack() as stack:
        lines = _open(file, stack)
        try:
            for number, raw in enumerate(lines, start=1):
                yield number, raw.removeprefix(_BYTE_ORDER_MARK)
        except _DAMAGED as error:
            where = f"{file}:{number + 1}"
            raise unread(where, error) or UserError(
                f"{where}: cannot be read on: {error}"
            ) from None


def line_blocks(file: epath.Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a file by the block, each with the number of its first line.

    A block holds whole lines, about half a megabyte, or one that is longer; the last line of the
    file may lack its end.

    Raises:
      UserError: for a damaged compressed file.
      Unavailable: where the storage fails.
    """
    number, held = 1, []
    for block in blocks(file, _LINES_BLOCK):
        end = block.rfind(b"\n") + 1
        held.append(block[:end] if end else block)
        if end:
            lines = b"".join(held)
            yield number, lines
            number, held = number + lines.count(b"\n"), [block[end:]]
    if last := b"".join(held):
        yield number, last


def lines_of_blocks(blocks: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yields `(line number, bytes)` of what `line_blocks` yields, as `raw_lines` does."""
    for first, block in blocks:
        for number, raw in enumerate(io.BytesIO(block), start=first):
            if (line := raw.removeprefix(_BYTE_ORDER_MARK)).strip():
                yield number, line


def blocks(file: epath.Path, size: int = _BLOCK) -> Iterator[bytes]:
    """Yields the bytes of a file, decompressed and without a byte order mark, block by block.

    Args:
      file: compressed or not.
      size: of a block, at most.

    Raises:
      UserError: for a damaged compressed file.
      Unavailable: where the storage fails.
    """
    with contextlib.ExitStack() as stack:
        stream = _open(file, stack)
        mark = _BYTE_ORDER_MARK
        try:
            while block := stream.read(size):
                yield block.removeprefix(mark)
                mark = b""
        except _DAMAGED as error:
            raise unread(file, error) or UserError(f"{file}: cannot be read on: {error}") from None


def _open(file: epath.Path, stack: contextlib.ExitStack) -> Any:
    with file.open("rb") as stream:
        start = stream.read(4)
    stream = stack.enter_context(file.open("rb"))
    if start.startswith(_GZIP):
        return stack.enter_context(gzip.open(stream))
    if start == _ZSTD:
        import pyarrow  # It is there wherever TFDS is; here, as few files need it.

        arrow = stack.enter_context(pyarrow.CompressedInputStream(stream, "zstd"))
        return io.BufferedReader(arrow)  # type: ignore
    return stream
