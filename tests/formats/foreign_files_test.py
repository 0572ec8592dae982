"""Files of other projects whose lines belong together: batches of requests and answers."""

import json

import pytest

from detox_jax import records
from detox_jax.errors import UserError


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
