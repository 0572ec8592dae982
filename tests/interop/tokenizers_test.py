"""Vocabularies as AutoTokenizer loads them."""

import json

import pytest

from detox_jax.errors import UserError
from detox_jax.interop import tokenizers
from detox_jax.vocabulary import Vocabulary
from tests.vocabulary_test import (
    SENTENCES,
    TEXTS,
    byte_fallback_tokenizer,
    sentencepiece_model,
    write,
)


def sources(tmp_path, vocabulary):
    """Directories of every kind, by name."""
    for name in ("own", "gpt2", "metaspace", "sentencepiece"):
        (tmp_path / name).mkdir()
    vocabulary.save(str(tmp_path / "own"))
    model = json.loads((tmp_path / "own" / "tokenizer.json").read_text())["model"]
    (tmp_path / "gpt2" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\n" + merges)
    boundaries = {"bos_token_id": 1, "eos_token_id": 2}
    write(tmp_path / "metaspace", byte_fallback_tokenizer(), config=boundaries)
    sentencepiece_model(tmp_path / "sentencepiece")


def test_a_vocabulary_trained_here(tmp_path, vocabulary):
    vocabulary.save(str(tmp_path / "own"))
    tokenizers.export(str(tmp_path / "own"), str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert {config[f"{name}_token"] for name in ("bos", "eos", "unk")} == {"<|endoftext|>"}
    assert Vocabulary.load(str(tmp_path / "out")).fingerprint == vocabulary.fingerprint


def test_a_config_that_is_there_is_copied(tmp_path):
    write(tmp_path, byte_fallback_tokenizer(), tokenizer_config={"eos_token": "</s>", "x": 1})
    tokenizers.export(str(tmp_path), str(tmp_path / "out"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_how_a_model_generates_is_copied(tmp_path):
    """Byte for byte, with what this package has no use for; config.json is the model's export's."""
    settings = {"eos_token_id": [2, 5], "do_sample": True, "temperature": 0.6, "x": None}
    write(tmp_path, byte_fallback_tokenizer(), generation_config=settings, config={"x": 1})
    tokenizers.export(str(tmp_path), str(tmp_path / "out"))
    name = "generation_config.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (tmp_path / "out" / "config.json").exists()


def test_another_tokenizer_is_not_overwritten(tmp_path, vocabulary):
    vocabulary.save(str(tmp_path / "own"))
    write(tmp_path, byte_fallback_tokenizer())
    with pytest.raises(UserError, match="another tokenizer's; choose another directory"):
        tokenizers.export(str(tmp_path / "own"), str(tmp_path))
    assert not (tmp_path / "tokenizer_config.json").exists()


def test_the_class_of_merges_is_named(tmp_path, vocabulary):
    sources(tmp_path, vocabulary)
    for name, expected in (("gpt2", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer")):
        (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": name}))
        tokenizers.export(str(tmp_path / "gpt2"), str(tmp_path / name / "out"))
        config = json.loads((tmp_path / name / "out" / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == expected
        assert not (tmp_path / name / "out" / "config.json").exists()


@pytest.mark.interop
@pytest.mark.parametrize("name", ["own", "gpt2", "metaspace", "sentencepiece"])
def test_autotokenizer_loads_it(name, tmp_path, vocabulary):
    transformers = pytest.importorskip("transformers")
    sources(tmp_path, vocabulary)
    tokenizers.export(str(tmp_path / name), str(tmp_path / "out"))
    loaded = Vocabulary.load(str(tmp_path / name))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert (theirs.bos_token_id, theirs.eos_token_id) == (loaded.bos_id - 1, loaded.eos_id - 1)
    for text in [*TEXTS, *SENTENCES, f"a{theirs.eos_token}b"]:
        ids = theirs.encode(text, add_special_tokens=False)
        assert loaded.encode(text) == [i + 1 for i in ids]
        assert loaded.decode(loaded.encode(text)) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@pytest.mark.interop
@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer"])
def test_merges_alone_are_cut_as_autotokenizer_cuts_them(name, tmp_path, vocabulary):
    """Without a tokenizer.json the class says how text is cut before it is merged."""
    transformers = pytest.importorskip("transformers")
    sources(tmp_path, vocabulary)
    end = {"tokenizer_class": name, "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text(json.dumps(end))
    loaded = Vocabulary.load(str(tmp_path / "gpt2"))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "gpt2"))
    cut = ["(see this).\n\nNext\n line", "cafe\u0301 12345", "I'LL don't\r\n\r\n a"]
    for text in [*TEXTS, *SENTENCES, *cut]:
        ids = theirs.encode(text, add_special_tokens=False)
        assert loaded.encode(text) == [i + 1 for i in ids], text
