"""BPE vocabularies: shifted ids, round trips, files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax.errors import UserError
from detox_jax.vocabulary import BPEVocabulary


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_round_trip_of_any_text(vocabulary, text):
    ids = vocabulary.encode(text)
    assert all(0 < i < vocabulary.vocab_size for i in ids)
    if "<|endoftext|>" not in text:
        assert vocabulary.decode(ids) == text


def test_lone_surrogates_become_the_replacement_character(vocabulary):
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a\ufffdb"


def test_batch_equals_one_by_one(vocabulary):
    texts = ["The bus was late.", "", "Thanks \u2603 a\ud800b"]
    assert vocabulary.encode_batch(texts) == [vocabulary.encode(text) for text in texts]


def test_padding_and_end_of_text_have_no_text(vocabulary):
    ids = vocabulary.encode("Thanks!")
    assert vocabulary.decode([0, *ids, vocabulary.eos_id, 0]) == "Thanks!"
    assert vocabulary.encode("<|endoftext|>") == [vocabulary.eos_id]


def test_save_and_load(vocabulary, tmp_path):
    vocabulary.save(str(tmp_path))
    loaded = BPEVocabulary.load(str(tmp_path))
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.encode("The bus was late") == vocabulary.encode("The bus was late")


def test_gpt2_files_are_shifted_by_one(tmp_path):
    """Token 0 of a GPT-2 vocabulary is "!"; here it is id 1, and 0 is padding."""
    vocab = {"!": 0, "h": 1, "i": 2, "hi": 3, "<|endoftext|>": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("h i\n")
    loaded = BPEVocabulary.load(str(tmp_path))
    assert loaded.encode("hi!!") == [4, 1, 1]
    assert (loaded.vocab_size, loaded.eos_id) == (6, 5)
    assert loaded.decode([4, 1]) == "hi!"


@pytest.mark.real
def test_real_gpt2_files(data_dir):
    loaded = BPEVocabulary.load(str(data_dir / "tokenizers" / "gpt2"))
    assert loaded.encode("Hello world") == [15497, 996]
    assert loaded.encode("!!!") == [10186] and loaded.encode("!") == [1]
    assert loaded.vocab_size == 50258 and loaded.eos_id == 50257


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no vocabulary; expected tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a readable vocabulary"),
        ({"vocab.json": "[]", "merges.txt": ""}, "not a readable vocabulary"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "no <|endoftext|> token"),
    ],
)
def test_bad_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        BPEVocabulary.load(str(tmp_path))
    assert message in str(error.value)


def test_too_small_a_vocabulary():
    with pytest.raises(UserError, match="at least 258"):
        BPEVocabulary.train(["text"], 100)
