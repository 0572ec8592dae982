"""Files of other projects: each row as its project writes it, and what it is read as."""

import json

import pytest

from detox_jax import foreign, records
from detox_jax.errors import UserError


def _read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(records.read_records(str(path)))


def _rtp(**more):
    prompt = {"text": "The bus", "toxicity": 0.1, "sexually_explicit": 0.0}
    return {
        "filename": "f.txt",
        "begin": 3,
        "end": 9,
        "challenging": False,
        "prompt": prompt,
        **more,
    }


def test_dexperts_rows_are_prompts_with_scored_generations(tmp_path):
    generations = [
        {"text": " is late", "severe_toxicity": 0.01, "toxicity": 0.0},
        {"text": "", "severe_toxicity": None, "toxicity": None},
    ]
    (prompt,) = _read(tmp_path, _rtp(generations=generations))
    assert prompt.id == "f.txt-3-9" and prompt.text == "The bus"
    assert [g.text for g in prompt.generations] == [" is late", ""]
    assert [g.toxicity for g in prompt.generations] == [0.0, None]
    assert prompt.generations[0].extra == {"severe_toxicity": 0.01}


def test_goodtriever_generations_may_be_plain_strings(tmp_path):
    (prompt,) = _read(tmp_path, _rtp(generations=[" is late", " is full"]))
    assert [(g.text, g.toxicity) for g in prompt.generations] == [
        (" is late", None),
        (" is full", None),
    ]


def test_megatron_rows_with_a_prompt(tmp_path):
    score = {"toxicity": 0.75, "sexually_explicit": 0.5, "profanity": 0.25}
    first, second = _read(
        tmp_path,
        {"text": " is late<|endoftext|>", "prompt": "The bus", "id": 0, "score": score},
        {"text": "", "all_text": "The bus", "prompt": "The bus", "id": 1, "score": None},
    )
    assert isinstance(first, records.Prompt) and isinstance(second, records.Prompt)
    assert (first.id, first.text, first.toxicity) == ("0", "The bus", None)
    (generation,) = first.generations
    assert (generation.text, generation.toxicity) == (" is late", 0.75)
    assert generation.extra == {"sexual_explicit": 0.5, "profanity": 0.25}
    assert second.id == "1" and second.extra == {"all_text": "The bus"}
    assert [(g.text, g.toxicity) for g in second.generations] == [("", None)]


def test_megatron_rows_without_a_prompt_are_documents(tmp_path):
    row = {"text": "<|endoftext|>Thanks!", "prompt": "", "id": 7, "score": {"toxicity": 0.0}}
    (document,) = _read(tmp_path, row)
    assert document == records.Document("7", "Thanks!", 0.0)


def test_megatron_rows_are_not_grouped_and_an_id_twice_is_refused(tmp_path):
    row = {"text": "x", "prompt": "p", "id": 0}
    with pytest.raises(UserError, match="rows.jsonl:2: duplicate id '0'"):
        _read(tmp_path, row, row)


@pytest.mark.parametrize("score", ["0.5", True, [0.5]])
def test_a_megatron_score_of_another_kind_is_refused(tmp_path, score):
    with pytest.raises(UserError, match='rows.jsonl:1: "score" is'):
        _read(tmp_path, {"text": "x", "prompt": "p", "id": 0, "score": score})


def test_perspective_names_are_mapped_everywhere(tmp_path):
    names = {"TOXICITY": 0.5, "SEXUALLY_EXPLICIT": 0.25}
    document, prompt = _read(
        tmp_path,
        {"id": "d", "text": "x", **names},
        {"id": "p", "prompt": {"text": "x", **names}, "generations": [{"text": "y", **names}]},
    )
    assert document.toxicity == 0.5 and document.extra == {"sexual_explicit": 0.25}
    assert prompt.toxicity == 0.5 and prompt.prompt_extra == {"sexual_explicit": 0.25}
    assert prompt.generations[0].toxicity == 0.5


def test_our_own_name_is_kept_beside_perspectives():
    assert foreign.rename_attributes({"TOXICITY": 0.1, "toxicity": 0.9}) == {"toxicity": 0.9}


def test_what_is_read_from_another_project_reads_back_the_same(tmp_path):
    rows = [
        {"text": "a", "prompt": "p", "id": 0, "score": {"toxicity": 0.5}},
        _rtp(generations=["b"]),
    ]
    read = _read(tmp_path, *rows)
    assert _read(tmp_path, *[record.to_json() for record in read]) == read
