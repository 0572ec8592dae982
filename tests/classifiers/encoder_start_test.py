"""What an encoder is trained from: its tokenizer, where it is cut, and what decides it."""

import json

import pytest
from etils import epath

from detox_jax.classifiers.classifier_text import ClassifierTokenizer
from detox_jax.classifiers.encoder_start import EncoderStart
from detox_jax.errors import UserError
from tests.classifiers import classifiers_made


@pytest.fixture
def base(tmp_path):
    classifiers_made.make(tmp_path / "base", classifiers_made.BERT)
    return tmp_path / "base"


def _change(directory, file, **changes):
    values = json.loads((directory / file).read_text()) if (directory / file).exists() else {}
    (directory / file).write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize("settings", [None, {"model_max_length": 40, "truncation_side": "left"}])
def test_whoever_reads_a_trained_encoder_cuts_where_it_was_trained(base, settings, tmp_path):
    if settings is not None:
        _change(base, "tokenizer_config.json", **settings)
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    started = EncoderStart(str(base)).open(out, iter(()), num_labels=2, length=6)
    vocab_size = len(classifiers_made.VOCABULARY)
    read = ClassifierTokenizer(out, vocab_size, longest=40, max_length=None)
    assert read.max_length == started.tokenizer.max_length == 6
    text = ["the bus was late again you idiot"]
    assert read.encode(text) == started.tokenizer.encode(text)
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written == {**(settings or {}), "model_max_length": 6}


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_tokenizer_and_weights_decide(base, file):
    _change(base, "tokenizer_config.json", truncation_side="left")
    before = EncoderStart(str(base)).check(2, 6)
    assert EncoderStart(str(base)).check(2, 6) == before
    if file == "tokenizer.json":
        classifiers_made.make_tokenizer(lowercase=False).save(str(base / file))
    else:
        _change(base, file, architectures=["BertForMaskedLM"])
    after = EncoderStart(str(base)).check(2, 6)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == (["sha256"] if file == "config.json" else ["tokenizer_sha256"])


def test_fields_that_change_nothing_are_ignored_by_name(base, tmp_path):
    _change(base, "config.json", surprise=1)
    message = """surprise = 1 .*--gin.ENCODER_IGNORE_FIELDS="\\['surprise'\\]"$"""
    with pytest.raises(UserError, match=message):
        EncoderStart(str(base)).check(2, 6)
    start = EncoderStart(str(base), ignore_fields=["surprise"])
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    # The classifier that is written is read without the setting.
    assert "surprise" not in start.open(out, iter(()), 2, 6).fields
    with pytest.raises(UserError, match="has no other, which ENCODER_IGNORE_FIELDS names"):
        EncoderStart(str(base), ignore_fields="surprise,other").check(2, 6)
