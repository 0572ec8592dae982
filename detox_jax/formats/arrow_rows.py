"""Rows of Parquet and Arrow files, batch by batch, as JSON could hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax.errors import UserError, in_one_line, unread

_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
STARTS = (_PARQUET, _ARROW_FILE, _ARROW_STREAM)
_ARROW_END = _ARROW_STREAM + bytes(4)  # A stream without it is read to where it was cut.
_ROWS_AT_ONCE = 500
_PAGE_BUFFER = 1 << 16
_NO_JSON = object()


def rows(file: epath.Path, start: bytes) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a Parquet file, an Arrow file or an Arrow stream.

    Args:
      file: on a disk or in a bucket.
      start: its first bytes, which begin with one of `STARTS`.

    Raises:
      UserError: naming file and row, for a damaged file, and for two columns of one name.
    """
    import pyarrow  # As few files need it.

    kind = "Parquet" if start.startswith(_PARQUET) else "Arrow"
    number = 0
    try:
        with file.open("rb") as stream:
            for batch in _batches(stream, start, str(file)):
                # Arrow believes offsets as they stand, and reads beside its memory.
                batch.validate(full=True)
                for row in _plain_batch(batch, str(file)):
                    number += 1
                    yield row
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, EOFError, MemoryError, ValueError) as error:
        reason, where = (str(error) or repr(error)).splitlines()[0], f"{file}:{number + 1}"
        # Arrow asks for as much as a damaged file says.
        more = ", or take a machine with more memory" if isinstance(error, MemoryError) else ""
        raise unread(where, error) or UserError(
            f"{where}: cannot be read on as {kind}: {reason}; fetch or write the file again{more}"
        ) from None


def _batches(stream: Any, start: bytes, name: str) -> Iterator[Any]:
    """Arrow record batches of at most some hundreds of rows."""
    import pyarrow
    import pyarrow.parquet

    if start.startswith(_PARQUET):
        # Unbuffered, it would hold the columns of a whole row group.
        parquet = pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=_PAGE_BUFFER)
        _check_columns(parquet.schema_arrow, name)
        yield from parquet.iter_batches(_ROWS_AT_ONCE)
        return
    if start.startswith(_ARROW_FILE):
        reader = pyarrow.ipc.open_file(stream)
        batches: Any = map(reader.get_batch, range(reader.num_record_batches))
    else:
        stream.seek(-len(_ARROW_END), 2)
        if stream.read() != _ARROW_END:
            raise EOFError("the stream has no end, so rows may be missing")
        stream.seek(0)
        batches = reader = pyarrow.ipc.open_stream(stream)
    _check_columns(reader.schema, name)
    for batch in batches:
        for first in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield batch.slice(first, _ROWS_AT_ONCE)


def _check_columns(schema: Any, name: str) -> None:
    """Of two columns of one name Arrow's rows would hold the last one."""
    names = schema.names
    if twice := next((column for column in names if names.count(column) > 1), None):
        raise UserError(f"{name}: has two columns {twice!r}; rename one")


def _plain_batch(batch: Any, name: str) -> Iterator[dict[str, Any]]:
    """Rows of what JSON can hold; dates and times are text, and what is no text is left out."""
    import pyarrow
    from pyarrow import types

    columns: dict[str, list[Any]] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if types.is_temporal(field.type) and not types.is_duration(field.type):
            # Python has no nanoseconds, and Arrow refuses those that it would lose.
            column = column.cast(pyarrow.string())
        try:
            columns[field.name] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{name}: column {field.name!r} of {field.type} cannot be read "
                f"({in_one_line(error)}); write the file without it"
            ) from None
    for values in zip(*columns.values(), strict=True):
        row = {name: _plain(value) for name, value in zip(columns, values, strict=True)}
        yield {name: value for name, value in row.items() if value is not _NO_JSON}


def _plain(value: Any) -> Any:
    """A value as JSON has it; pandas writes a missing text as a number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        fields = {str(name): _plain(item) for name, item in value.items()}
        return {name: item for name, item in fields.items() if item is not _NO_JSON}
    if isinstance(value, list | tuple):
        items = map(_plain, value)
        return [None if item is _NO_JSON else item for item in items]
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return _NO_JSON
    return str(value)
