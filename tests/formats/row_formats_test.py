"""Rows of files in every format: as they stand, one at a time, refused by file and row."""

import gzip
import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from etils import epath

from detox_jax import bad_records, records
from detox_jax.errors import UserError
from detox_jax.formats import row_formats

TEXTS = ['a, "b"\nc', "é\u2028 ]", "x"]


def _read(path, text_field="text"):
    return list(row_formats.rows(epath.Path(path), text_field))


def _write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _csv(delimiter=","):
    cells = [text.replace('"', '""') for text in TEXTS]
    rows = [f'{i}{delimiter}"{cell}"{delimiter}0.5' for i, cell in enumerate(cells)]
    return "\r\n".join([delimiter.join(["id", "text", "toxicity"]), *rows]) + "\r\n"


def _parquet(path):
    table = pyarrow.table({"id": ["0", "1", "2"], "text": TEXTS, "toxicity": [0.5] * 3})
    pyarrow.parquet.write_table(table, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("d.jsonl", [1, 2, 3]),
        ("d.json", [1, 2, 3]),
        ("array.json", [1, 2, 3]),
        ("d.csv", [2, 4, 5]),
        ("d.tsv", [2, 4, 5]),
        ("d.parquet", [1, 2, 3]),
    ],
)
def test_the_same_records_are_read_of_every_format(tmp_path, name, numbers):
    values = [{"id": str(i), "text": t, "toxicity": 0.5} for i, t in enumerate(TEXTS)]
    lines = "".join(json.dumps(value) + "\n" for value in values)
    content = {
        "d.jsonl": lines,
        "d.json": lines,
        "array.json": json.dumps(values, indent=1, ensure_ascii=False),
        "d.csv": _csv(),
        "d.tsv": _csv("\t"),
        "d.parquet": _parquet(tmp_path / "made"),
    }[name]
    path = _write(tmp_path / name, content)
    assert _read(path) == list(zip(numbers, values, strict=True))
    assert [r.id for r in records.read_documents(str(path))] == ["0", "1", "2"]
    if name != "d.parquet":
        again = _write(tmp_path / f"{name}.gz", gzip.compress(path.read_bytes()))
        assert _read(again) == _read(path)


def test_lines_of_text_are_documents_or_prompts(tmp_path):
    path = _write(tmp_path / "d.txt", "\ufeffone\n\n  two \r\n")
    assert _read(path) == [(1, {"text": "one"}), (3, {"text": "two"})]
    assert [d.text for d in records.read_documents(str(path))] == ["one", "two"]
    prompts = list(records.read_prompts(str(path)))
    assert [p.text for p in prompts] == ["one", "two"]
    # The id is the text's: another order or another file gives none of them another.
    _write(path, "two\none\n")
    assert [p.id for p in records.read_prompts(str(path))] == [p.id for p in prompts][::-1]


def test_json_lines_under_the_name_of_text_stay_json_lines(tmp_path):
    assert _read(_write(tmp_path / "d.txt", '{"text": "x"}\n')) == [(1, {"text": "x"})]


def test_cells_that_are_no_text_are_what_json_has(tmp_path):
    content = "id,prompt,challenging,toxicity,unreadable,zip\n,p,True,,,01\nb,q,0,1,false,2\n"
    rows = [row for _, row in _read(_write(tmp_path / "d.csv", content))]
    assert rows == [
        {**dict.fromkeys(("id", "toxicity")), "prompt": "p", "challenging": True}
        | {"unreadable": False, "zip": "01"},
        {"id": "b", "prompt": "q", "challenging": False, "toxicity": 1.0}
        | {"unreadable": False, "zip": "2"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "id,text\n1,a,b\n", "d.csv:2: 3 cells below a header of 2 columns"),
        ("d.csv", 'id,text\n1,a\n2,"b\n3,c\n', "d.csv:3: not CSV: unexpected end of data"),
        ("d.tsv", 'id\ttext\n1\t"a" b\n', "d.tsv:2: not TSV: "),
        ("d.csv", "id;text\n1;a\n", "d.csv:1: the only column is 'id;text'"),
        ("d.csv", "text,text\na,b\n", "d.csv:1: the header names the column 'text' twice"),
        ("d.csv", "text\n", "d.csv: no row below the header"),
        ("d.csv", b"text\nok\n\xff\n", "d.csv:3: not UTF-8 (byte 0 of the line)"),
        ("d.csv", "text,toxicity\na,much\n", "d.csv:2: \"toxicity\" is 'much'"),
        ("d.csv", "id,text\n1,a\n1,b\n", "d.csv:3: duplicate id '1'"),
        ("d.csv", "body,lang\na,en\n", "d.csv:2: record without a \"text\"; it has 'body', 'lang'"),
        ("d.txt", b"ok\n\xff\n", "d.txt:2: not UTF-8"),
        ("d.txt", "", "d.txt: empty"),
        ("d.json", '[{"text": "a"}, {"text": "b"', "d.json:2: malformed JSON in an element"),
        ("d.json", '[{"text": "a"} {"text": "b"}]', "d.json:2: malformed JSON: no ','"),
        ("d.json", '[{"text": "a"}, 3]', "d.json:2: element of the array begins with '3'"),
        ("d.json", '[{"text": "a"},', "d.json:2: element of the array is missing"),
        ("d.json", '[{"text": "a"}', "d.json:2: element of the array is missing"),
        ("d.json", '[{"text": "a"}] x', "d.json:2: text after the end"),
        ("d.json", '[{"text": "a", "text": "b"}]', "d.json:1: 'text' stands twice"),
        ("d.json", b'[{"text": "\xff"}]', "d.json: not UTF-8"),
        ("d.json", "[]", "d.json: empty"),
        ("d.json", "[" + '{"a":' * 5000, "d.json:1: malformed JSON in an element"),
        ("d.parquet", "version https://git-lfs", "d.parquet: does not begin as Parquet does"),
        ("d.parquet", b"PAR1" + bytes(50), "d.parquet:1: cannot be read on as Parquet"),
        ("d.arrow", "x", "d.arrow: does not begin as Arrow does"),
    ],
)
def test_what_a_format_does_not_allow_is_named_by_file_and_row(tmp_path, name, content, message):
    path = _write(tmp_path / name, content)
    with pytest.raises(UserError) as error:
        list(records.read_records(str(path)))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("d.csv", "id,text\n1,a\n2,b,c\n3,d\n", 3),
        ("d.json", '[{"text": "a"}, {"body": "b"}, {"text": "c"}]', 2),
    ],
)
def test_rows_that_cannot_be_read_are_set_aside_in_any_format(tmp_path, name, content, line):
    policy = bad_records.SetAside(str(tmp_path / "aside.jsonl"), most=0.5)
    aside = bad_records.opened(policy)
    path = _write(tmp_path / name, content)
    assert len(list(records.read_records(str(path), aside))) == 2
    (put,) = map(json.loads, (tmp_path / "aside.jsonl").read_text().splitlines())
    assert put["line"] == line and "b" in put["raw"]
    assert aside is not None and aside.counts()["bad_records"] == {"records": 3, "set_aside": 1}


@pytest.mark.parametrize("name", ["d.json", "d.csv", "d.txt", "d.jsonl.gz"])
def test_no_file_is_held_whole(tmp_path, name):
    """What is allocated at most does not grow with the file: it has 8 times what may be held."""
    text = "word " * 100
    line = json.dumps({"text": text})
    content = {
        "d.json": f"[{','.join([line] * 12_000)}]",
        "d.csv": "text\n" + f"{text}\n" * 12_000,
        "d.txt": f"{text}\n" * 12_000,
        "d.jsonl.gz": f"{line}\n" * 12_000,
    }[name]
    path = epath.Path(tmp_path / name)
    path.write_bytes(
        gzip.compress(content.encode(), 1) if name.endswith("gz") else content.encode()
    )
    del content
    tracemalloc.start()
    count = sum(1 for _ in row_formats.rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12_000 and peak < 6_000_000 / 8
