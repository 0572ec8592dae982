"""JSON Lines as they come: compressed, with a byte order mark, and damaged."""

import gzip
import json

import pyarrow
import pytest
from etils import epath

from detox_jax import atomic_files, records
from detox_jax.errors import UserError
from detox_jax.formats import jsonl

LINES = b'{"id": "a", "text": "caf\xc3\xa9"}\r\n\n{"id": "b", "text": "x\\u2028y"}\n'


def zstd(content):
    with pyarrow.BufferOutputStream() as sink:
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()


def _read(tmp_path, content, name="d.jsonl"):
    (tmp_path / name).write_bytes(content)
    return list(jsonl.read_jsonl(epath.Path(tmp_path / name)))


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.jsonl.zst", "d"])
@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, zstd, lambda b: gzip.compress(b[:20]) + gzip.compress(b[20:])],
)
def test_a_file_reads_the_same_whatever_its_compression_and_name(tmp_path, compress, name):
    assert _read(tmp_path, compress(LINES), name) == [
        (1, {"id": "a", "text": "café"}),
        (3, {"id": "b", "text": "x\u2028y"}),
    ]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, compress):
    content = b"\xef\xbb\xbf" + LINES
    assert _read(tmp_path, compress(content)) == _read(tmp_path, LINES)
    # Two files of it, one after the other.
    assert len(_read(tmp_path, compress(content + content))) == 4
    inside = '{"text": "\ufeffx"}\n'.encode()
    assert _read(tmp_path, compress(inside)) == [(1, {"text": "\ufeffx"})]


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_file_that_was_cut_short_is_refused(tmp_path, compress):
    whole = compress(b"".join(b'{"id": "%d", "text": "x"}\n' % i for i in range(1000)))
    with pytest.raises(UserError, match=r"d\.jsonl:\d+: cannot be read on: "):
        _read(tmp_path, whole[: len(whole) // 2])


def test_what_follows_a_compressed_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"d\.jsonl:4: cannot be read on: Not a gzipped file"):
        _read(tmp_path, gzip.compress(LINES) + b"garbage")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[\n  {\n", "d.jsonl:1: a JSON array over several lines"),
        (b'{"a": 1}\n{"a": 1, \r\n', "quotes at column 9"),
        (
            b'{"a": 1}\n{"a": 1, "b": x}\n',
            "Expecting value at column 15",
        ),
        (b'{"a": ' * 200_000, "d.jsonl:1: malformed JSON: nested too deeply"),
        (
            b'{"text": "x", "a": ' + b"[" * 250 + b"]" * 250 + b"}",
            "d.jsonl:1: malformed JSON: nest",
        ),
        (b'{"a": 1}\n{"n": ' + b"9" * 5000 + b"}", "d.jsonl:2: malformed JSON: a number of too"),
        (b'{"text": "first", "text": "second"}', "d.jsonl:1: 'text' stands twice in one object"),
        (b'{"prompt": {"a": 1, "a": 1}}', "d.jsonl:1: 'a' stands twice in one object"),
        (b'[{"a": 1}]\n', "d.jsonl:1: expected a JSON object, got list"),
        (b"\xef\xbb\xbf\n", "d.jsonl: empty"),
        ("{}".encode("utf-16"), "d.jsonl:1: not UTF-8"),
    ],
)
def test_what_is_no_json_lines_is_named(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        _read(tmp_path, content)
    assert message in str(error.value)


def test_compressed_shards_of_a_directory_are_read_and_counted(tmp_path):
    for index in range(2):
        line = b'{"id": "%d", "text": "x"}\n' % index
        (tmp_path / f"d-{index:05d}-of-00003.jsonl.gz").write_bytes(gzip.compress(line))
    with pytest.raises(UserError, match="d-00002-of-00003.jsonl is missing"):
        records.resolve_files(str(tmp_path))
    (tmp_path / "d-00002-of-00003.jsonl.zst").write_bytes(zstd(b'{"id": "2", "text": "x"}\n'))
    assert [d.id for d in records.read_documents(str(tmp_path))] == ["0", "1", "2"]


def test_a_file_that_lies_there_plain_and_compressed_is_not_read_twice(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(LINES)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(LINES))
    with pytest.raises(UserError, match="holds d.jsonl plain and compressed"):
        records.resolve_files(str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"no JSON", b"[1]", b"\xff{}", b'{"a":' * 200_000, b"9" * 5000, b"null"]
)
def test_a_file_of_settings_that_is_no_object_is_one_error(content):
    with pytest.raises(UserError, match="^config.json: "):
        jsonl.json_object(content, "config.json")


def test_half_a_character_is_text_and_no_id(tmp_path):
    """Scraped JSON holds half an emoji here and there; an id becomes a hash and part of a name."""
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "\\ud83d half"}\n')
    (document,) = records.read_documents(str(tmp_path / "d.jsonl"))
    assert document.text == "\ud83d half"
    atomic_files.write_json(epath.Path(tmp_path / "s.json"), {"text": document.text})
    assert json.loads((tmp_path / "s.json").read_text()) == {"text": document.text}
    (tmp_path / "d.jsonl").write_text('{"id": "\\ud83d", "text": "x"}\n')
    with pytest.raises(UserError, match="d.jsonl:1: the id .* holds half a character"):
        list(records.read_documents(str(tmp_path / "d.jsonl")))


@pytest.mark.parametrize("size", [3, 5, 1000])
def test_blocks_hold_whole_lines_and_give_the_lines_that_are_read_one_by_one(
    size, tmp_path, monkeypatch
):
    monkeypatch.setattr(jsonl, "_LINES_BLOCK", size)
    content = b"\xef\xbb\xbf{}\n\n \r\n{1}\r\n" + b"x" * 30 + b"\n\xef\xbb\xbflast"
    file = epath.Path(tmp_path / "in.jsonl")
    file.write_bytes(content)
    blocks = list(jsonl.line_blocks(file))
    assert b"".join(block for _, block in blocks) == content[3:]
    assert all(block.endswith(b"\n") for _, block in blocks[:-1])
    assert list(jsonl.lines_of_blocks(blocks)) == list(jsonl.raw_lines(file))
