"""Documents read and written by the block, beside what `records` makes of the same lines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax import atomic_files, records
from detox_jax.formats import plain_documents

DOCUMENTS = [
    {"id": "a", "text": "a fool", "toxicity": 0.25},
    {"id": "b", "text": 'two\nlines "quoted" \\ / \u2028 \U0001f600', "toxicity": None},
    {"id": "c", "text": "", "toxicity": 1},
    {"id": "d", "text": "half a character \ud83d", "toxicity": 2e-06},
    {"id": "e", "text": "not scored"},
]


def read(tmp_path, lines):
    """What `records` reads and writes of the same."""
    (tmp_path / "in.jsonl").write_bytes(lines)
    return list(records.read_documents(str(tmp_path / "in.jsonl")))


@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_read_and_written_is_what_records_reads_and_writes(
    escapes, separators, end, tmp_path
):
    rows = DOCUMENTS
    if not escapes:  # Then an id may be any, and a lone surrogate cannot be written.
        rows = [{**d, "id": f"é{d['id']}"} for d in DOCUMENTS if "\ud83d" not in d["text"]]
    lines = [json.dumps(d, ensure_ascii=escapes, separators=separators) for d in rows]
    block = end.join(lines).encode()  # The last line lacks its end.
    expected = read(tmp_path, block)
    plain = plain_documents.read(block)
    assert plain is not None
    assert list(plain.ids) == [d.id for d in expected]
    assert plain.texts() == [d.text for d in expected]
    assert list(plain.scores) == [d.toxicity for d in expected]
    written = atomic_files.encode_lines(expected)
    assert plain_documents.encoded(plain, plain.scores) == b"".join(written)
    alone = plain.lines.splitlines(keepends=True)
    assert plain_documents.rewritten(alone) == written
    for line, ours, is_as_written in zip(alone, written, plain.is_as_written_D, strict=True):
        assert line == ours or not is_as_written


SCORES = ["0.5", "1.0", "0.0", "0.0001", "0.12345678901234568", "1e-05", "null"]
OTHER_SCORES = ["0.50", "1", "0", "0.00001", "1e-5", "0.123456789012345678", "0.1e0", "1.0e0"]


def test_a_line_that_is_written_already_is_known_to_be():
    """All that we write but what has escapes of characters that have no other form."""
    texts = ["", "a fool", "two\nlines", '"\\"', "\x7f\u2028\U0001f600é"]
    ours = [
        f'{{"id": "{s}", "text": {json.dumps(t, ensure_ascii=False)}, "toxicity": {s}}}\n'
        for s in SCORES
        for t in texts
    ]
    plain = plain_documents.read("".join(ours).encode())
    assert plain is not None and plain.is_as_written_D.all()
    assert plain_documents.encoded(plain, plain.scores) == "".join(ours).encode()
    line = ours[1]
    others = [
        *[line.replace("0.5}", f"{score}}}") for score in OTHER_SCORES],
        *[line.replace(a, b) for a, b in [("a f", "\\u0061 f"), ("a f", "\\/f")]],
        *[line.replace(mark, mark[:-1]) for mark in ('"id": ', ", ", '"text": ', '"toxicity": ')],
        line.replace("\n", "\r\n"),
        line.replace(', "toxicity": 0.5', ""),
    ]
    for other in others:
        plain = plain_documents.read((other + line).encode())
        assert plain is not None and plain.is_as_written_D.tolist() == [False, True], other


@settings(deadline=None)
@given(
    st.lists(st.text(st.sampled_from('ab\\\\"\\n/,:}'), max_size=12), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
)
def test_quotes_and_backslashes_part_texts_as_json_does(texts, end):
    """However many stand before a quote."""
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    plain = plain_documents.read("".join(json.dumps(row) + end for row in rows).encode())
    assert plain is not None and plain.texts() == texts


@settings(deadline=None)
@given(st.text(st.sampled_from('a\\"u0n \n\r\t{}'), max_size=12))
def test_what_json_refuses_is_no_plain_text(inside):
    line = f'{{"id": "a", "text": "{inside}"}}\n'
    plain = plain_documents.read(line.encode())
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        assert plain is None
    else:
        assert plain is None or [row] == [{"id": "a", "text": plain.texts()[0]}]


def test_marks_and_scores_that_a_scorer_gives():
    plain = plain_documents.read(b'{"id": "a", "text": "x"}\n{"id":"b","text":"y"}\n')
    assert plain is not None
    given = [records.Document("a", "x", None, unreadable=True), records.Document("b", "y", 0.125)]
    expected = b"".join(atomic_files.encode_lines(given))
    assert plain_documents.encoded(plain, [None, 0.125], [True, False]) == expected


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "z", "text": "a", "toxicity": 1.5}',
        b'{"id": "z", "text": "a", "toxicity": -0.0}',
        b'{"id": "z", "text": "a", "toxicity": 01}',
        b'{"id": "z", "text": "a", "toxicity": 1.}',
        b'{"id": "z", "text": "a", "toxicity": true}',
        '{"id": "z", "text": "a", "toxicity": 0.\u0661}'.encode(),
        b'{"id": "", "text": "a"}',
        b'{"id": 1, "text": "a"}',
        b'{"id": "z\\n", "text": "a"}',
        b'{"id": "z", "text": "a\\x"}',
        b'{"id": "z", "text": "a\\u00g0"}',
        b'{"id": "z", "text": "a\tb"}',
        b'{"id": "z", "text": "a\\\tb"}',
        b'{"id": "z", "text": "a\nb"}',
        b'{"id": "z", "text": "a\rb"}',
        b'{"id": "z", "text": "a}\r\nb"}',
        b'{"id": "z", "text": "\xff"}',
        b'{"id": "z", "text": "a", "n": 1}',
        b'{"id": "z", "text": "a", "text": "b"}',
        b'{"text": "a", "id": "z"}',
        b'{"id": "z", "text": "a"} {"id": "y", "text": "b"}',
        b'{"id": "z", "text": "a"},',
        b'\xef\xbb\xbf{"id": "z", "text": "a"}',
        b"",
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_any_other_line_is_left_to_records(line, last):
    around = b'{"id": "a", "text": "x"}\n'
    assert plain_documents.read(around * 2) is not None
    assert plain_documents.read(around + line + b"\n" + (b"" if last else around)) is None


def test_what_score_writes_is_plain():
    """Whatever the characters of the texts."""
    texts = ["".join(map(chr, range(first, first + 64))) for first in range(0, 0x2100, 64)]
    lines = atomic_files.encode_lines(
        [records.Document(str(i), text, i / 200) for i, text in enumerate(texts)]
    )
    plain = plain_documents.read(b"".join(lines))
    assert plain is not None and plain.texts() == texts
