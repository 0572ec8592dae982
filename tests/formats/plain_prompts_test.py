"""Prompts by the block: what is plain is what `records` reads, all else is left to it."""

import json

import numpy as np
import pytest

from detox_jax import records
from detox_jax.formats import plain_prompts


def generation(i, **more):
    return {"text": f' says "{i}" é\n', "toxicity": i / 10, **more}


def prompt(i, generations=3, **more):
    return {
        "id": f"p{i}",
        **more,
        "prompt": {"text": f'prompt "{i}":', "toxicity": None if i % 2 else 0.5, "profanity": 0.25},
        "generations": [generation(k, num_tokens=k, finish="stop") for k in range(generations)],
    }


def lines(*values):
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def assert_as_records_reads(plain, raw):
    read = [records.parse_record(json.loads(line), "here:1") for line in raw.splitlines()]
    assert plain.ids == [of.id for of in read] and plain.texts == [of.text for of in read]
    assert plain.toxicity == [of.toxicity for of in read]
    assert plain.challenging == [of.extra.get("challenging") for of in read]
    assert [of and of["text"] for of in plain.firsts] == [
        of.generations[0].text if of.generations else None for of in read
    ]
    assert plain.counts == [len(of.generations) for of in read]
    flat = [of for each in read for of in each.generations]
    assert plain.continuations == [of.text for of in flat]
    assert plain.unreadable == [of.unreadable for of in flat]
    scores = [np.nan if of.toxicity is None else of.toxicity for of in flat]
    tokens = [of.extra.get("num_tokens", np.nan) for of in flat]
    assert np.array_equal(plain.scores_T, scores, equal_nan=True)
    assert np.array_equal(plain.tokens_T, tokens, equal_nan=True)
    assert plain.finish == [of.extra.get("finish") for of in flat]


OTHER_TEXT = {"text": "its own", "toxicity": 0.1}
PLAIN = {
    "several": lines(prompt(0), prompt(1), prompt(2, generations=0)),
    "flags": lines(prompt(0, challenging=True), prompt(1, challenging=None), prompt(2)),
    "an object beside": lines(prompt(0, filename="f", begin=0, continuation=OTHER_TEXT)),
    "without what generate says": lines(
        {**prompt(0), "generations": [generation(1), {"text": ""}]}
    ),
    "unreadable": lines({**prompt(0), "generations": [generation(1, unreadable=True)]}),
    "Windows": lines(prompt(0), prompt(1)).replace(b"\n", b"\r\n"),
    "no end": lines(prompt(0), prompt(1)).removesuffix(b"\n"),
    "compact": json.dumps(prompt(0), separators=(",", ":"), ensure_ascii=False).encode(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_prompts_are_those_that_records_reads(name):
    plain = plain_prompts.read(PLAIN[name])
    assert plain is not None
    assert_as_records_reads(plain, PLAIN[name])


def test_fields_that_are_asked_for_are_kept():
    raw = lines(prompt(0, group="a", challenging=True), prompt(1, group=2), prompt(2, other="x"))
    plain = plain_prompts.read(raw, ["group", "continuation", "id", "prompt"])
    assert plain is not None
    assert plain.kept == {"group": ["a", 2, None], "continuation": [None, None, None]}
    assert_as_records_reads(plain, raw)
    unasked = plain_prompts.read(raw)
    assert unasked is not None and unasked.kept == {}


def with_generation(**more):
    return lines({**prompt(0), "generations": [generation(1), {**generation(2), **more}]})


ONE = lines(prompt(0)).decode().strip()
LEFT = {
    "a document": lines({"id": "d", "text": "t"}),
    "without an id": lines({**prompt(0), "id": None}),
    "an id that is a number": lines({**prompt(0), "id": 3}),
    "an empty id": lines({**prompt(0), "id": ""}),
    "half a character in the id": lines({**prompt(0), "id": "\ud800"}),
    "a prompt of plain text": lines({"id": "p", "prompt": "text", "generations": []}),
    "a continuation of plain text": lines({**prompt(0), "generations": ["text"]}),
    "without continuations": lines({"id": "p", "prompt": {"text": "t"}}),
    "a continuation without text": lines({**prompt(0), "generations": [{"toxicity": 0.1}]}),
    "a text that is none": with_generation(text=3),
    "Perspective's names": with_generation(TOXICITY=0.3),
    "a score of its own": with_generation(score={"TOXICITY": 0.3}),
    "beyond 1": with_generation(toxicity=1.5),
    "true as a score": with_generation(toxicity=True),
    "no number as a score": with_generation(toxicity=float("nan")),
    "a prompt beyond 1": lines({**prompt(0), "prompt": {"text": "t", "toxicity": 2}}),
    "unreadable that is no flag": with_generation(unreadable=1),
    "tokens that are null": with_generation(num_tokens=None),
    "tokens that are text": with_generation(num_tokens="3"),
    "a finish that is null": with_generation(finish=None),
    "a list inside": with_generation(tokens=[1, 2]),
    "a flag that is a number": lines(prompt(0, challenging=1)),
    "a batch's answer": lines(prompt(0, custom_id="a", response={})),
    "harness": lines(prompt(0, filtered_resps=[])),
    "a field twice": ONE.replace('"id": "p0"', '"id": "p0", "id": "p0"').encode(),
    "a field twice, deeper": ONE.replace('"finish": "stop"', '"finish":"a","finish" :"b"').encode(),
    "a field twice, hidden by an escape": ONE.replace(
        '"finish": "stop"', '"finish": "\\u0022\\u0022", "finish": ""', 1
    ).encode(),
    "malformed": f"{ONE[:-1]}\n".encode(),
    "two in a line": f"{ONE} {ONE}\n".encode(),
    "split over two lines": ONE.replace(', "prompt"', ',\n"prompt"').encode(),
    "no UTF-8": lines(prompt(0)).replace(b"says", b"\xff"),
    "a blank line": lines(prompt(0)) + b"\n" + lines(prompt(1)),
    "nested too deeply": ONE.replace('"p0"', "[" * 100_000).encode(),
}


@pytest.mark.parametrize("name", LEFT)
def test_all_else_is_left_to_records(name):
    assert plain_prompts.read(lines(prompt(7)) + LEFT[name]) is None


def test_lines_of_ids_are_told_without_parsing():
    block = b"".join(lines(prompt(i)) for i in range(20)) + b'{ "id": "odd"}\n{"id": "a\\u0062"}\n'
    named = list(plain_prompts.lines_of(block, {b"p3", b"p17"}))
    assert named == [
        *(lines(prompt(i)).strip() for i in (3, 17)),
        b'{ "id": "odd"}',
        b'{"id": "a\\u0062"}',
    ]
