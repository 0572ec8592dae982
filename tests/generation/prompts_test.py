"""Prompt modes: what is continued, in which order, and what is written of it."""

import dataclasses
import json

import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.generation import prompts

GENERATION = records.Generation(" and more", extra={"finish": "length"})


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("one two three four", "one two"),
        ("one two three", "one"),
        ("one", ""),
        ("", ""),
        ("  one\n two  three four ", "  one\n two"),
        ("a aa a aa", "a aa"),
        ("aa a b c", "aa a"),
    ],
)
def test_first_half(text, half):
    assert prompts.first_half(text) == half


def test_standard_documents_are_their_continuation():
    mode = prompts.Standard(3)
    requests = mode.requests()
    assert [r.text for r in requests] == ["", "", ""] and len({r.id for r in requests}) == 3
    assert mode.record(requests[0], [GENERATION]).text == " and more"


def test_documents_with_ids_of_their_own_have_draws_of_their_own_and_settings_say_so(tmp_path):
    documents = tmp_path / "d.jsonl"
    documents.write_text('{"id": "a", "text": "one two three", "toxicity": 0.1}\n')
    for mode in (
        prompts.Standard(2),
        prompts.Heuristic(2),
        prompts.Augmented(2, str(documents)),
    ):
        second = dataclasses.replace(mode, ids="second")
        assert [r.id for r in second.requests()] == ["second-00000000", "second-00000001"]
        assert {r.id for r in mode.requests()}.isdisjoint(r.id for r in second.requests())
        assert "ids" not in mode.describe()
        assert second.describe() == {**mode.describe(), "ids": "second"}


def test_heuristic_prompts_are_used_in_turn_and_are_not_part_of_the_document(tmp_path):
    (tmp_path / "p.txt").write_text("Be polite:\n\nBe kind:\n")
    mode = prompts.Heuristic(3, str(tmp_path / "p.txt"))
    requests = mode.requests()
    assert [r.text for r in requests] == ["Be polite:", "Be kind:", "Be polite:"]
    assert requests[1].named == f"{tmp_path}/p.txt:3: prompt 'heuristic-00000001'"
    document = mode.record(requests[1], [GENERATION])
    assert document.text == " and more" and document.extra["prompt_text"] == "Be kind:"
    assert mode.describe()["prompts"] == ["Be polite:", "Be kind:"]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffBe kind\r\n".encode())
    assert [r.text for r in prompts.Heuristic(1, str(tmp_path / "p.txt")).requests()] == ["Be kind"]


def test_a_file_of_prompts_that_is_no_utf_8_is_refused(tmp_path):
    (tmp_path / "p.txt").write_bytes("Sé amable".encode("latin-1"))
    with pytest.raises(UserError, match=r"p\.txt: not readable as a list of prompts"):
        prompts.Heuristic(1, str(tmp_path / "p.txt")).requests()


def test_the_packages_own_heuristic_prompts():
    assert len({r.text for r in prompts.Heuristic(5).requests()}) == 5


def test_augmented_prompts_are_first_halves_least_toxic_first(tmp_path):
    rows = [("a", "w x y z", 0.5), ("b", "k l m n", 0.0), ("c", "unscored one", None)]
    rows.append(("d", "single", 0.1))
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": t, "toxicity": s}) + "\n" for i, t, s in rows)
    )
    mode = prompts.Augmented(3, str(tmp_path / "d.jsonl"))
    requests = mode.requests()
    assert [r.text for r in requests] == ["k l", "w x", "k l"]
    assert mode.record(requests[0], [GENERATION]).text == "k l and more"


def test_prompt_files_keep_the_record(tmp_path):
    row = {"id": "1", "challenging": True, "prompt": {"text": "p", "toxicity": 0.25}}
    (tmp_path / "p.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "id": "2"}) + "\n"
    )
    mode = prompts.PromptFile(str(tmp_path / "p.jsonl"), limit=1)
    (request,) = mode.requests()
    record = mode.record(request, [GENERATION, GENERATION])
    assert (record.id, record.toxicity, record.challenging) == ("1", 0.25, True)
    assert record.generations == (GENERATION, GENERATION)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp: prompts.Standard(0), "NUM_DOCUMENTS is 0"),
        (lambda tmp: prompts.Heuristic(1, str(tmp / "none.txt")), "no such file of prompts"),
        (lambda tmp: prompts.Heuristic(1, str(tmp / "blank.txt")), "holds no prompt"),
        (lambda tmp: prompts.Augmented(1, str(tmp / "short.jsonl")), "no scored document"),
        (lambda tmp: prompts.PromptFile(str(tmp / "p.jsonl"), limit=0), "zero prompts"),
        (lambda tmp: prompts.PromptFile(str(tmp / "short.jsonl")), "expected RTP layout"),
    ],
)
def test_nothing_to_continue(tmp_path, make, message):
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "short.jsonl").write_text('{"id": "1", "text": "word", "toxicity": 0.0}\n')
    (tmp_path / "p.jsonl").write_text('{"id": "1", "prompt": {"text": "p"}}\n')
    with pytest.raises(UserError, match=message):
        make(tmp_path).requests()
