"""Ids that records bring, and those that are made of their texts."""

import json

import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.formats import record_ids


def _read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(records.read_records(str(path)))


def test_a_record_without_an_id_has_that_of_its_text(tmp_path):
    document, prompt = _read(
        tmp_path, {"text": "The bus", "toxicity": 0.1}, {"prompt": {"text": "A bus"}, "id": None}
    )
    assert document.id == record_ids.content_id("The bus") == "sha256-9d25cc3f49398409"
    assert prompt.id == record_ids.content_id("A bus") != document.id
    assert record_ids.content_id("lone \ud800") != record_ids.content_id("lone ?")


def test_equal_texts_without_ids_are_records_of_their_own(tmp_path):
    rows = [{"text": "same"}, {"text": "other"}, {"text": "same"}, {"text": "same"}]
    same = record_ids.content_id("same")
    assert [d.id for d in _read(tmp_path, *rows)][::2] == [same, f"{same}-2"]
    assert _read(tmp_path, *rows)[3].id == f"{same}-3"


def test_whole_numbers_that_became_floats_are_whole_numbers(tmp_path):
    span = {"filename": "a.txt", "begin": 340.0, "end": 564.0, "prompt": {"text": "p"}}
    whole = {**span, "begin": 341, "end": 564}
    row, *others = _read(tmp_path, {"id": 1.0, "text": "x"}, span, whole)
    assert row.id == "1" and [other.id for other in others] == ["a.txt-340-564", "a.txt-341-564"]


@pytest.mark.parametrize("missing", [{"begin": None}, {"end": None}, {"filename": None}])
def test_a_span_with_a_hole_is_no_identity(tmp_path, missing):
    span = {"filename": "a.txt", "begin": 3, "end": 9, "prompt": {"text": "p"}}
    (prompt,) = _read(tmp_path, {**span, **missing})
    assert prompt.id == record_ids.content_id("p")


@pytest.mark.parametrize("value", [1.5, True, "", ["a"], float("nan")])
def test_an_id_that_is_none_is_refused_by_its_value(tmp_path, value):
    with pytest.raises(UserError, match=r'rows.jsonl:1: record without an "id" .* it is '):
        _read(tmp_path, {"id": value, "text": "x"})


def test_a_data_set_may_hold_a_prompt_twice(tmp_path):
    """RealToxicityPrompts does, under spans of its own; DExperts drops the spans of none."""
    rows = [{"prompt": {"text": f"p{i % 99}"}, "generations": ["a", "b"]} for i in range(100)]
    prompts = _read(tmp_path, *rows)
    assert len(prompts) == 100 and prompts[99].id == prompts[0].id + "-2"


def test_rows_in_another_order_than_prompt_by_prompt_are_refused(tmp_path):
    rows = [{"prompt": f"p{i % 10}", "completion": f" {i}", "id": i} for i in range(40)]
    with pytest.raises(UserError, match=r"30 of 40 prompts come back .*rows.jsonl:11\)"):
        _read(tmp_path, *rows)
    with pytest.raises(UserError, match="30 of 40 prompts come back"):
        _read(tmp_path, *({"prompt": {"text": row["prompt"]}} for row in rows))
    in_order = sorted(rows, key=lambda row: row["prompt"])
    assert len(_read(tmp_path, *in_order)) == 10
    # In order, but the continuations stand where nobody looks for them.
    unknown = [{"prompt": row["prompt"], "answer": row["completion"]} for row in in_order]
    with pytest.raises(UserError, match="no row has a field that is known as a continuation"):
        _read(tmp_path, *unknown)
    whole = [{"prompt": {"text": row["prompt"]}, "generations": ["a", "b"]} for row in rows]
    with pytest.raises(UserError, match="put the samples of a prompt in one record"):
        _read(tmp_path, *whole)


def test_records_of_our_own_with_ids_may_share_a_prompt(tmp_path):
    rows = [{"id": str(i), "prompt": {"text": "p"}, "generations": ["a"]} for i in range(5)]
    assert [prompt.id for prompt in _read(tmp_path, *rows)] == list("01234")


def test_ids_are_unique_over_all_files(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    made = record_ids.content_id("x")
    glob = str(tmp_path / "*.jsonl")
    assert [d.id for d in records.read_records(glob)] == [made, f"{made}-2"]
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": made, "text": "y"}))
    with pytest.raises(UserError, match=r"b\.jsonl:1: duplicate id"):
        list(records.read_records(glob))
