"""Ids here and in transformers' AutoTokenizer: a difference is told, and how to end it."""

import json

import pytest
import tokenizers as hf_tokenizers

from detox_jax.interop import token_ids
from tests.tokenizers_made import START_PROCESSOR

pytest.importorskip("transformers", reason="needs the extra hf (make test-interop)")

pytestmark = pytest.mark.interop


def _directory(tmp_path, vocabulary, tokenizer_class, change):
    vocabulary.save(str(tmp_path))
    file = tmp_path / "tokenizer.json"
    tokenizer = hf_tokenizers.Tokenizer.from_str(file.read_text())
    state = json.loads(tokenizer.to_str())
    change(state)
    file.write_text(json.dumps(state))
    end = "<|endoftext|>"
    config = {"tokenizer_class": tokenizer_class, "bos_token": end, "eos_token": end}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": end}))
    return str(tmp_path)


def _lower(state):
    state["normalizer"] = {"type": "Lowercase"}


def _digits(state):
    digits = {"type": "Digits", "individual_digits": True}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, state["pre_tokenizer"]]}


def _start(state):
    state["post_processor"] = START_PROCESSOR


@pytest.mark.parametrize(
    ("tokenizer_class", "change", "differs"),
    [
        ("GPT2Tokenizer", lambda state: None, False),
        ("GPT2Tokenizer", _lower, True),
        ("GPTNeoXTokenizer", _lower, True),
        ("GPTNeoXTokenizer", _start, True),
        ("Qwen2Tokenizer", _lower, True),
        ("PreTrainedTokenizerFast", _lower, False),
        ("PreTrainedTokenizerFast", _digits, False),
        ("PreTrainedTokenizerFast", _start, False),
    ],
)
def test_ids_that_autotokenizer_reads_otherwise_are_told(
    tokenizer_class, change, differs, tmp_path, vocabulary, capsys
):
    directory = _directory(tmp_path, vocabulary, tokenizer_class, change)
    assert bool(token_ids.compare(directory, directory)) == differs
    printed = capsys.readouterr()
    assert ("warning: " in printed.err) == differs and printed.err.count("\n") == differs
    assert ("equal those of AutoTokenizer" in printed.out) != differs
    if differs:
        assert tokenizer_class in printed.err and "tokenizer.json is followed here" in printed.err


def test_a_tokenizer_that_cannot_be_loaded_is_told(tmp_path, vocabulary, capsys):
    vocabulary.save(str(tmp_path / "ours"))
    (tmp_path / "empty").mkdir()
    assert token_ids.compare(str(tmp_path / "ours"), str(tmp_path / "empty"))
    assert "AutoTokenizer cannot read it" in capsys.readouterr().err
