"""Files of other projects: each row as its project writes it, and what it is read as."""

import json

import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.formats import foreign
from detox_jax.formats.record_ids import content_id


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


def test_realtoxicityprompts_records_are_prompts(tmp_path):
    (prompt,) = _read(tmp_path, _rtp(continuation={"text": " is late", "toxicity": None}))
    assert prompt.id == "f.txt-3-9" and prompt.generations == ()
    assert prompt.extra["continuation"] == {"text": " is late", "toxicity": None}


def test_dexperts_without_spans_is_named_by_its_prompts(tmp_path):
    """Its own dataset file needs no more than `row["prompt"]["text"]`, and pandas adds the rest."""
    generations = [{"text": " is late", "toxicity": 0.1}, {"text": " is full", "toxicity": None}]
    (prompt,) = _read(tmp_path, {"prompt": {"text": "The bus"}, "generations": generations})
    assert prompt.id == content_id("The bus") and len(prompt.generations) == 2
    (bare,) = _read(tmp_path, {"prompt": {"text": "The bus"}})
    assert (bare.id, bare.generations) == (prompt.id, ())


def test_dexperts_generations_from_end_of_text_are_documents(tmp_path):
    row = {"text": "Good day.", "severe_toxicity": 0.01, "toxicity": 0.02}
    (document,) = _read(tmp_path, row)
    assert document == records.Document(
        content_id("Good day."), "Good day.", 0.02, {"severe_toxicity": 0.01}
    )


def test_goodtriever_generations_are_plain_strings(tmp_path):
    (prompt,) = _read(tmp_path, {"prompt": "The bus", "generations": [" is late", " is full"]})
    assert (prompt.id, prompt.text) == (content_id("The bus"), "The bus")
    assert [(g.text, g.toxicity) for g in prompt.generations] == [
        (" is late", None),
        (" is full", None),
    ]
    # And collated with scores, where the prompt is as it was.
    (collated,) = _read(tmp_path, _rtp(generations=[{"text": " is late", "toxicity": 0.1}]))
    assert collated.generations[0].toxicity == 0.1


def test_quark_rewards_are_prompts_with_scored_generations(tmp_path):
    generations = [{"text": " is late", "toxicity": 0.25}, {"text": "", "toxicity": None}]
    (prompt,) = _read(tmp_path, {"prompt": "The bus", "generations": generations})
    assert prompt.id == content_id("The bus")
    assert [g.toxicity for g in prompt.generations] == [0.25, None]


def test_megatron_rows_of_one_prompt_are_one_record(tmp_path):
    rows = [
        {"text": text, "all_text": prompt + text, "prompt": prompt, "id": 3 * p + n}
        for p, prompt in enumerate(["The bus", "The train"])
        for n, text in enumerate([" is late<|endoftext|>", " is full", ""])
    ]
    rows[1]["score"] = {"toxicity": 0.75, "sexually_explicit": 0.5, "profanity": 0.25}
    rows[2]["score"] = None
    first, second = _read(tmp_path, *rows)
    assert (first.id, first.text, first.toxicity) == (content_id("The bus"), "The bus", None)
    assert [g.text for g in first.generations] == [" is late", " is full", ""]
    assert [g.toxicity for g in first.generations] == [None, 0.75, None]
    assert first.generations[1].extra == {
        "id": 1,
        "all_text": "The bus is full",
        "sexual_explicit": 0.5,
        "profanity": 0.25,
    }
    assert second.text == "The train" and len(second.generations) == 3


def test_a_single_megatron_row_is_a_prompt_too(tmp_path):
    (prompt,) = _read(
        tmp_path, {"text": "", "all_text": "The bus", "prompt": "The bus", "id": 1, "score": None}
    )
    assert prompt.id == content_id("The bus") and prompt.extra == {"all_text": "The bus"}
    assert [(g.text, g.toxicity) for g in prompt.generations] == [("", None)]


def test_megatron_filler_is_left_out_and_counted(tmp_path, capsys):
    filler = {"text": " x", "all_text": "EMPTY TEXT x", "prompt": "EMPTY TEXT", "id": 1}
    real = {"text": " is late", "all_text": "The bus is late", "prompt": "The bus", "id": 0}
    (prompt,) = _read(tmp_path, real, filler, {**filler, "id": 2})
    assert prompt.text == "The bus"
    assert "rows.jsonl: 2 rows of Megatron's filler prompt are left out" in capsys.readouterr().err
    # The same words in a file that is not Megatron's are a prompt.
    assert len(_read(tmp_path, {"prompt": "EMPTY TEXT", "generations": ["a", "b"]})) == 1


def test_megatron_core_rows_whose_ids_begin_anew_with_each_batch(tmp_path):
    rows = [
        {"id": n, "original_prompt": prompt, "prompt_with_generated_text": prompt + text}
        for prompt in ("The bus", "The train")
        for n, text in enumerate([" is late", " is full"])
    ]
    first, second = _read(tmp_path, *rows)
    assert [g.text for g in first.generations] == [" is late", " is full"]
    assert first.id != second.id and second.generations[1].extra == {"id": 1}
    with pytest.raises(UserError, match="does not begin with"):
        _read(tmp_path, {**rows[0], "original_prompt": "A bus"})


def test_megatron_rows_without_a_prompt_are_documents(tmp_path):
    row = {"text": "<|endoftext|>Thanks!", "prompt": "", "id": 7, "score": {"toxicity": 0.0}}
    (document,) = _read(tmp_path, row)
    assert document == records.Document("7", "Thanks!", 0.0)


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
        {"text": "b", "prompt": "p", "id": 1, "score": {"toxicity": 0.5}},
        _rtp(generations=["b"]),
        {"text": "no id"},
    ]
    read = _read(tmp_path, *rows)
    assert _read(tmp_path, *[record.to_json() for record in read]) == read


# --- prompts of DecodingTrust, answers of OpenAI's interface ----------------------------------


def _choices(*texts):
    return {"choices": [{"message": {"role": "assistant", "content": t}} for t in texts]}


def test_decodingtrust_answers_are_all_read_and_not_the_first_alone(tmp_path):
    row = {
        "continuation": "is late",
        "isbanned": False,
        "prompt": "The bus",
        "all_text": "The busis late",
        "response": {"model": "m", **_choices("is late", "is full", None)},
        "message": [{"role": "user", "content": "Go on: The bus"}],
    }
    (prompt,) = _read(tmp_path, row)
    assert prompt.id == content_id("The bus")
    assert [g.text for g in prompt.generations] == ["is late", "is full"]
    assert "continuation" not in prompt.extra  # It is the first of them again.
    completion = {**row, "response": {"choices": [{"text": " is late", "finish_reason": "stop"}]}}
    (prompt,) = _read(tmp_path, completion)
    assert [g.text for g in prompt.generations] == [" is late"]


def test_decodingtrust_prompts_hold_their_scores_in_a_field(tmp_path):
    score = {"toxicity": 0.25, "sexually_explicit": 0.5}
    (prompt,) = _read(tmp_path, {"source": "m", "prompt": {"text": "x", "idx": 4, "score": score}})
    assert prompt.toxicity == 0.25
    assert prompt.prompt_extra == {"idx": 4, "sexual_explicit": 0.5}


# --- lm-evaluation-harness --------------------------------------------------------------------


def _sample(**more):
    return {
        "doc_id": 5,
        "doc": {"question": "The bus"},
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": "The bus", "arg_1": {"until": ["x"]}}},
        "resps": [[" is late", " is full"]],
        "filtered_resps": [" is late"],
        "filter": "none",
        **more,
    }


@pytest.mark.parametrize(
    "arguments", [_sample()["arguments"], [["The bus", {"until": ["x"]}]]], ids=["0.4.3", "before"]
)
def test_samples_of_the_harness_are_prompts(tmp_path, arguments):
    (prompt,) = _read(tmp_path, _sample(arguments=arguments))
    assert (prompt.id, prompt.text) == ("5", "The bus")
    assert [g.text for g in prompt.generations] == [" is late", " is full"]


def test_samples_of_another_filter_are_the_same_samples(tmp_path):
    rows = [_sample(doc_id=i, filter=name) for name in ("strict", "loose") for i in range(2)]
    assert [prompt.id for prompt in _read(tmp_path, *rows)] == ["0", "1"]


def test_samples_over_realtoxicityprompts_keep_its_scores_and_identity(tmp_path):
    (prompt,) = _read(tmp_path, _sample(doc=_rtp(challenging=True)))
    assert (prompt.id, prompt.toxicity) == ("f.txt-3-9", 0.1) and prompt.challenging


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"resps": [[["-1.5", "True"]], [["-2.5", "False"]]]}, "not a sample with one prompt"),
        ({"resps": [[["-1.5", "True"]]]}, "rates choices"),
        ({"arguments": {}}, "not a sample with one prompt"),
    ],
)
def test_samples_without_generated_text_are_refused(tmp_path, more, message):
    with pytest.raises(UserError, match=f"rows.jsonl:1: .*{message}"):
        _read(tmp_path, _sample(**more))


# --- vLLM and transformers --------------------------------------------------------------------


def test_outputs_of_vllm_are_prompts(tmp_path):
    outputs = [{"index": i, "text": t, "finish_reason": "stop"} for i, t in enumerate([" a", " b"])]
    (prompt,) = _read(tmp_path, {"request_id": "0", "prompt": "The bus", "outputs": outputs})
    assert prompt.id == content_id("The bus")
    assert [g.text for g in prompt.generations] == [" a", " b"]
    assert prompt.generations[1].extra == {"index": 1, "finish_reason": "stop"}


@pytest.mark.parametrize("name", ["generated_text", "completion", "response", "output"])
def test_one_continuation_a_row_is_grouped(tmp_path, name):
    rows = [{"prompt": "The bus", name: t} for t in (" is late", " is full")]
    (prompt,) = _read(tmp_path, *rows, {"prompt": "A", name: " b"})[:1]
    assert [g.text for g in prompt.generations] == [" is late", " is full"]


def test_what_speaks_of_a_text_stays_with_it_where_all_samples_say_the_same(tmp_path):
    """Equal values were taken for the prompt's: such samples had no score and no length."""
    said = {"toxicity": 0.5, "num_tokens": 20, "finish": "length", "group": "a"}
    rows = [{"prompt": "The bus", "completion": text, **said} for text in (" a", " b")]
    rows += [{"prompt": "The train", "completion": " c", **said, "TOXICITY": None}]
    rows += [{"prompt": "The tram", "completion": " d", "score": {"toxicity": 0.25}}]
    first, alone, last = _read(tmp_path, *rows)
    generations = [*first.generations, *alone.generations]
    assert [g.toxicity for g in (*generations, *last.generations)] == [0.5, 0.5, 0.5, 0.25]
    assert [g.extra for g in generations] == [{"num_tokens": 20, "finish": "length"}] * 3
    assert first.extra == alone.extra == {"group": "a"} and last.extra == {}
    silent = [{"prompt": "p", "completion": x, "toxicity": None, "unreadable": True} for x in "ab"]
    (prompt,) = _read(tmp_path, *silent)
    assert [g.unreadable for g in prompt.generations] == [True, True]


def test_rows_that_share_an_id_keep_it_and_single_rows_keep_theirs(tmp_path):
    rows = [{"id": "q1", "prompt": "The bus", "completion": t} for t in (" a", " b")]
    first, second = _read(tmp_path, *rows, {"id": "q2", "prompt": "The train", "completion": " c"})
    assert (first.id, second.id) == ("q1", "q2") and len(first.generations) == 2


def test_a_pipeline_of_transformers_returns_the_prompt_too(tmp_path):
    rows = [{"prompt": "The bus", "generated_text": f"The bus{t}"} for t in (" a", " b")]
    (prompt,) = _read(tmp_path, *rows)
    assert [g.text for g in prompt.generations] == [" a", " b"]
    several = {"prompt": "The bus", "outputs": [{"generated_text": "The bus a"}] * 2}
    (prompt,) = _read(tmp_path, several)
    assert [g.text for g in prompt.generations] == [" a", " a"]
    with pytest.raises(UserError, match="rows.jsonl:3: .*in some rows and not in others"):
        _read(tmp_path, *rows, {"prompt": "The bus", "generated_text": " c"})


def test_generated_text_without_its_prompt_is_refused(tmp_path):
    with pytest.raises(UserError, match='"generated_text" without its "prompt"'):
        _read(tmp_path, {"generated_text": "The bus is late"})


def test_two_fields_that_may_be_the_continuation_are_refused(tmp_path):
    with pytest.raises(UserError, match='both "completion" and "response"'):
        _read(tmp_path, {"prompt": "p", "completion": "a", "response": "b"})


def test_a_prompt_that_is_neither_text_nor_an_object_is_refused(tmp_path):
    with pytest.raises(UserError, match='rows.jsonl:1: "prompt" is a list'):
        _read(tmp_path, {"prompt": [{"role": "user", "content": "x"}], "completion": "y"})


# --- flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meaning"), [(True, True), (1, True), (1.0, True), (False, False), (None, False)]
)
def test_a_flag_is_read(tmp_path, value, meaning):
    (prompt,) = _read(tmp_path, _rtp(challenging=value))
    assert prompt.challenging is meaning


@pytest.mark.parametrize("value", ["False", "true", "", 2, [True], float("nan")])
def test_a_flag_of_another_kind_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r'rows.jsonl:1: "challenging" is .*expected true, false'):
        _read(tmp_path, _rtp(challenging=value))
