"""Parquet and Arrow: columns as JSON has them, batch by batch, and files that are cut."""

import datetime
import decimal

import pyarrow
import pyarrow.parquet
import pytest
from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import arrow_rows, row_formats

COLUMNS = {
    "text": pyarrow.array(["a", "b", None]).dictionary_encode(),
    "large": pyarrow.array(["a", "b", None], pyarrow.large_string()),
    "view": pyarrow.array(["a", "b", None], pyarrow.string_view()),
    "time": pyarrow.array([1, 2, None], pyarrow.timestamp("ns")),
    "day": pyarrow.array([datetime.date(2020, 1, 2)] * 3),
    "price": pyarrow.array([decimal.Decimal("1.5")] * 3),
    "pairs": pyarrow.array([[("k", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "share": pyarrow.array([float("nan"), 0.5, None]),
    "image": pyarrow.array([{"bytes": b"\xff", "path": "p"}, None, {"bytes": b"t", "path": "q"}]),
    "bytes": pyarrow.array([b"\xff", b"t", None]),
}
ROWS = [
    {"text": "a", "large": "a", "view": "a", "time": "1970-01-01 00:00:00.000000001"}
    | {"day": "2020-01-02", "price": "1.5", "pairs": [["k", 1]], "share": None}
    | {"image": {"path": "p"}},
    {"text": "b", "large": "b", "view": "b", "time": "1970-01-01 00:00:00.000000002"}
    | {"day": "2020-01-02", "price": "1.5", "pairs": [], "share": 0.5, "image": None, "bytes": "t"},
    {"text": None, "large": None, "view": None, "time": None}
    | {"day": "2020-01-02", "price": "1.5", "pairs": None, "share": None}
    | {"image": {"bytes": "t", "path": "q"}, "bytes": None},
]


def _write(path, table, kind):
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        return
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _read(path):
    return [row for _, row in row_formats.rows(epath.Path(path))]


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_columns_are_read_as_json_has_them(tmp_path, kind):
    columns = {n: c for n, c in COLUMNS.items() if kind == "parquet" or n != "text"}
    _write(tmp_path / "d", pyarrow.table(columns), kind)
    wanted = [{n: v for n, v in row.items() if n in columns} for row in ROWS]
    assert _read(tmp_path / "d") == wanted


def test_of_two_columns_of_one_name_neither_is_taken(tmp_path):
    texts = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    _write(tmp_path / "d", pyarrow.Table.from_arrays(texts, ["text", "text"]), "parquet")
    with pytest.raises(UserError, match="^[^:]*d: has two columns 'text'"):
        _read(tmp_path / "d")


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_file_that_is_cut_is_refused_wherever(tmp_path, kind):
    _write(tmp_path / "whole", pyarrow.table({"text": ["x" * 40] * 8}), kind)
    whole = (tmp_path / "whole").read_bytes()
    # A stream that ends behind one of its batches is a shorter stream to Arrow.
    for end in range(16, len(whole), 8):
        (tmp_path / "d").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"d:\d: cannot be read on as "):
            _read(tmp_path / "d")


def test_one_row_group_is_read_in_parts(tmp_path):
    """Memory that Arrow holds at most is a small share of what the one row group has."""
    texts = [f"{i} " * 100 for i in range(60_000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "d")
    size = sum(map(len, texts))
    pool = pyarrow.default_memory_pool()
    before, peak, count = pool.bytes_allocated(), 0, 0
    for _ in arrow_rows.rows(epath.Path(tmp_path / "d"), b"PAR1"):
        count += 1
        peak = max(peak, pool.bytes_allocated() - before)
    assert count == 60_000 and 0 < peak < size / 8


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_no_damaged_byte_ends_the_process(tmp_path, kind):
    """Arrow follows damaged offsets beside its memory unless it is asked to look at them first."""
    _write(tmp_path / "whole", pyarrow.table({"text": ["xy", "z", "w"]}), kind)
    whole = (tmp_path / "whole").read_bytes()
    refused = 0
    for at in range(len(whole)):
        byte = b"\x7f" if at % 2 else b"\x81"
        (tmp_path / "d").write_bytes(whole[:at] + byte + whole[at + 1 :])
        try:
            _read(tmp_path / "d")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > len(whole) / 8
