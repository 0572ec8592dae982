"""Files of other projects whose lines belong together: batches of requests and answers."""

import json

import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.formats.record_ids import content_id


def _request(name, **body):
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}


def _answer(name, *texts):
    choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(texts)]
    response = {"status_code": 200, "request_id": "r", "body": {"choices": choices}}
    return {"id": "vllm-1", "custom_id": name, "response": response, "error": None}


MESSAGES = [{"role": "system", "content": "Go on."}, {"role": "user", "content": "The train"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "The "}, {"text": "plane"}]}]
REQUESTS = [
    _request("a", prompt="The bus"),
    _request("b", messages=MESSAGES),
    _request("c", messages=PARTS),
]


def _read(tmp_path, **files):
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return list(records.read_prompts(str(tmp_path / "*.jsonl")))


def test_requests_alone_are_bare_prompts(tmp_path):
    prompts = _read(tmp_path, requests=REQUESTS)
    assert [(p.id, p.text) for p in prompts] == [
        ("a", "The bus"),
        ("b", "The train"),
        ("c", "The plane"),
    ]


def test_answers_find_their_requests_and_one_without_stays_a_prompt(tmp_path):
    failed = {"id": "vllm-2", "custom_id": "a", "response": None, "error": {"code": "x"}}
    refused = {"id": "vllm-3", "custom_id": "c", "response": {"status_code": 400, "body": {}}}
    answers = [_answer("b", " is late", None, " is full"), failed, refused]
    prompts = _read(tmp_path, requests=REQUESTS, responses=answers)
    assert [(p.id, p.text) for p in prompts] == [
        ("b", "The train"),
        ("a", "The bus"),
        ("c", "The plane"),
    ]
    assert [g.text for g in prompts[0].generations] == [" is late", " is full"]
    assert prompts[1].generations == prompts[2].generations == ()


def test_answers_without_requests_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"out.jsonl:1: an answer of a batch, .* request 'a'; give"):
        _read(tmp_path, out=[_answer("a", " x")])


def test_a_request_that_embeds_has_no_prompt(tmp_path):
    with pytest.raises(UserError, match="requests.jsonl:1: a request without a prompt of text"):
        _read(tmp_path, requests=[_request("a", input="x")])


def test_a_prompts_rows_are_all_that_is_held(tmp_path):
    """Lines are asked for one at a time, and a record is there once the next prompt begins."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p{i // 2}", "completion": " x"} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not JSON\n")
    prompts = records.read_records(str(path))
    for index in range(49):
        assert next(prompts).text == f"p{index}"
    with pytest.raises(UserError, match="rows.jsonl:101: malformed JSON"):
        list(prompts)


# --- a request a sample -----------------------------------------------------------------------


def _batch(*prompts):
    """Requests and answers, the last one first, of prompts as they are asked, a sample each."""
    asked = [_request(f"r{i}", prompt=text) for i, text in enumerate(prompts)]
    answers = [_answer(f"r{i}", f" {i}") for i in range(len(prompts))]
    return {"requests": asked, "responses": answers[::-1]}


def test_requests_of_one_sample_each_are_the_samples_of_their_prompts(tmp_path, capsys):
    """Each was a prompt of its own: two prompts of two samples were four of one."""
    first, second = _read(tmp_path, **_batch("The bus", "The train", "The bus", "The train"))
    assert [p.id for p in (first, second)] == [content_id("The bus"), content_id("The train")]
    assert [[g.text for g in p.generations] for p in (first, second)] == [
        [" 0", " 2"],
        [" 1", " 3"],
    ]
    assert first.generations[1].extra["id"] == "r2"
    said = "4 requests of one sample each are read as 2 prompts of 2 samples, by their texts"
    assert said in capsys.readouterr().err


def test_a_prompt_that_the_data_set_holds_twice_stays_two(tmp_path, capsys):
    twice = [f"p{n}" for n in range(99)] + ["p0"]
    prompts = _read(tmp_path, **_batch(*twice))
    assert [p.id for p in prompts] == [f"r{n}" for n in range(100)]
    assert "requests" not in capsys.readouterr().err
    prompts = _read(tmp_path, **_batch(*twice, *twice, *twice))
    assert len(prompts) == 100 and {len(p.generations) for p in prompts} == {3}
    assert [p.id for p in prompts if p.text == "p0"] == [content_id("p0"), f"{content_id('p0')}-2"]


def test_a_sample_that_failed_is_missing_in_its_prompt(tmp_path):
    batch = _batch("The bus", "The train", "The bus", "The train")
    first, second = _read(tmp_path, requests=batch["requests"], responses=batch["responses"][1:])
    assert [len(p.generations) for p in (first, second)] == [2, 1]


def test_requests_of_several_samples_are_prompts_of_their_own(tmp_path):
    batch = _batch("The bus", "The bus")
    batch["responses"][0] = _answer("r1", " a", " b")
    assert [p.id for p in _read(tmp_path, **batch)] == ["r1", "r0"]


def test_two_answers_to_a_request_are_refused(tmp_path):
    batch = _batch("The bus", "The train")
    with pytest.raises(UserError, match=r"responses.jsonl:3: another answer to the request 'r0'"):
        _read(
            tmp_path,
            requests=batch["requests"],
            responses=[*batch["responses"], _answer("r0", "x")],
        )
