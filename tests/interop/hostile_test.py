"""Directories of Hugging Face's layout that nobody should have: one line each, and no output."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from detox_jax.errors import UserError
from detox_jax.interop import convert, huggingface
from tests.fuzz import models_made
from tests.interop import reference

DEEP = "[" * 100_000
DIGITS = "9" * 5000
NESTED = json.loads("[" * 150 + "]" * 150)
INDEX = "model.safetensors.index.json"


def config(**fields):
    """Sets fields of config.json; a field of Ellipsis is taken away."""

    def spoil(directory):
        values = json.loads((directory / "config.json").read_text()) | fields
        values = {name: value for name, value in values.items() if value is not ...}
        (directory / "config.json").write_text(json.dumps(values))

    return spoil


def text(name, content):
    """Writes a file as it is; beside an index the single file of weights is gone."""

    def spoil(directory):
        if name == INDEX:
            (directory / "model.safetensors").rename(directory / "one.safetensors")
        content_ = content if isinstance(content, bytes) else content.encode()
        (directory / name).write_bytes(content_)

    return spoil


def index(weight_map):
    return text(INDEX, json.dumps({"weight_map": weight_map}))


def raw_config(token):
    """A config.json in which a size is a token that Python's writer does not make."""

    def spoil(directory):
        content = (directory / "config.json").read_text()
        (directory / "config.json").write_text(content.replace('"vocab_size": 349', token))

    return spoil


def tokenizer_config(**fields):
    return text("tokenizer_config.json", json.dumps(fields))


def header(change):
    def spoil(directory):
        content = (directory / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        changed = change(content[8 : 8 + length])
        size = len(changed).to_bytes(8, "little")
        (directory / "model.safetensors").write_bytes(size + changed + content[8 + length :])

    return spoil


def tensors(change):
    def spoil(directory):
        values = safetensors.numpy.load_file(directory / "model.safetensors")
        change(values)
        safetensors.numpy.save_file(values, directory / "model.safetensors")

    return spoil


def instead(name, make):
    def spoil(directory):
        (directory / name).unlink()
        make(directory / name)

    return spoil


ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
NORM = "model.norm.weight"
DIRECTORIES = {
    # --- the index of the weights
    "index that is no JSON": (text(INDEX, "{"), f"{INDEX}: malformed JSON"),
    "index that is a list": (text(INDEX, "[]"), f"{INDEX}: expected a JSON object"),
    "index that is empty": (text(INDEX, ""), f"{INDEX}: malformed JSON"),
    "index in Latin-1": (text(INDEX, b'{"weight_map": {"\xe9": "a"}}'), f"{INDEX}: malformed"),
    "index too deep": (text(INDEX, DEEP), f"{INDEX}: malformed JSON: nested too deeply"),
    "index of digits": (text(INDEX, DIGITS), f"{INDEX}: malformed JSON"),
    "index without a map": (text(INDEX, "{}"), f"{INDEX}: has no weight_map"),
    "index with a list": (index([]), f"{INDEX}: has no weight_map"),
    "index to numbers": (index({"a": 5}), f"{INDEX}: weight_map names no files"),
    "index to lists": (index({"a": ["one.safetensors"]}), f"{INDEX}: weight_map names no files"),
    "index to null": (index({"a": None}), f"{INDEX}: weight_map names no files"),
    "index outside": (
        index({"a": "../hf/one.safetensors"}),
        "shard ../hf/one.safetensors is missing",
    ),
    "index to root": (index({"a": "/etc/passwd"}), "shard /etc/passwd is missing"),
    "index to no text": (index({"a": "config.json"}), "config.json: not a whole safetensors file"),
    "index to a folder": (index({"a": "."}), "shard \\. is missing"),
    "index that lacks": (index({"a": "one.safetensors"}), f"{INDEX}: does not fit its shards"),
    # --- config.json
    "config too deep": (text("config.json", DEEP), "config.json: malformed JSON: nested too"),
    "config of digits": (text("config.json", DIGITS), "config.json: malformed JSON"),
    "config that is a list": (text("config.json", "[1]"), "config.json: expected a JSON object"),
    "config that is null": (text("config.json", "null"), "config.json: expected a JSON object"),
    "config nested": (config(note=NESTED), "config.json: note = "),
    "type a list": (config(model_type=[]), "config.json: model_type .* is not supported"),
    "type an object": (config(model_type={}), "config.json: model_type .* is not supported"),
    "type a number": (config(model_type=5), "config.json: model_type 5 is not supported"),
    "no type": (config(model_type=...), "config.json: model_type None is not supported"),
    "classes a number": (config(architectures=5), "config.json: architectures is 5"),
    "classes a text": (config(architectures="Llama"), "config.json: architectures is"),
    "classes numbers": (config(architectures=[5]), "config.json: architectures is"),
    "no heads": (config(num_attention_heads=0), "config.json: .*num_heads is 0"),
    "no heads, no size": (
        config(num_attention_heads=0, head_dim=...),
        "config.json: .*(num_heads|division)",
    ),
    "heads below": (config(num_attention_heads=-4), "config.json: .*num_heads is -4"),
    "no groups": (config(num_key_value_heads=0), "config.json: .*num_kv_heads is 0"),
    "heads a text": (config(num_attention_heads="4"), "config.json: malformed"),
    "heads true": (config(num_attention_heads=True), "config.json: .*num_heads (is )?True"),
    "epsilon a text": (config(rms_norm_eps="x"), "config.json: malformed: norm_epsilon is 'x'"),
    "epsilon a list": (config(rms_norm_eps=[1]), "config.json: malformed: norm_epsilon"),
    "epsilon NaN": (config(rms_norm_eps=float("nan")), "config.json: malformed: norm_epsilon"),
    "tokens 1e12": (config(vocab_size=10**12), "config.json: malformed: vocab_size"),
    "tokens 1e12, a fraction": (config(vocab_size=1e12), "config.json: malformed: vocab_size"),
    "tokens of digits": (raw_config(f'"vocab_size": {DIGITS}'), "config.json: malformed JSON"),
    "tokens without end": (raw_config('"vocab_size": Infinity'), "config.json: malformed"),
    "tokens below": (config(vocab_size=-5), "config.json: .*vocab_size is -4"),
    "width a fraction": (config(hidden_size=16.5), "config.json: malformed: emb_dim is 16.5"),
    "layers 1e9": (config(num_hidden_layers=10**9), "config.json: malformed: num_layers"),
    "layers 50,000": (config(num_hidden_layers=50_000), "tensor .* is missing"),
    "heads too wide": (config(head_dim=2**20 + 2), "config.json: malformed: head_dim is 1048578"),
    "no layers": (config(num_hidden_layers=0), "config.json: .*num_layers is 0"),
    "context a list": (config(max_position_embeddings=[64]), "config.json: malformed"),
    "activation a list": (config(hidden_act=["silu"]), "config.json: hidden_act = "),
    "activation null": (config(hidden_act=None), "config.json: hidden_act = null"),
    "rope a text": (config(rope_parameters="x"), "config.json: malformed"),
    "rope without a field": (config(rope_parameters=ROPE), "config.json: malformed: 'high_freq"),
    "rope by zero": (
        config(rope_parameters={"rope_type": "linear", "factor": 0, "rope_theta": 5.0}),
        "config.json: RopeScaling.factor is 0",
    ),
    "tied a text": (config(tie_word_embeddings="no"), "config.json: malformed: logits_via_embed"),
    # --- the tokenizer
    "end a number": (tokenizer_config(eos_token=5), "tokenizer_config.json: its eos_token 5"),
    "end a list": (tokenizer_config(eos_token=["a"]), "tokenizer_config.json: its eos_token"),
    "end half a character": (
        tokenizer_config(eos_token="\ud83d"),
        "tokenizer_config.json: its eos_token",
    ),
    "end in an object": (
        tokenizer_config(eos_token={"content": {"content": 1}}),
        "tokenizer_config.json: its eos_token",
    ),
    "added a list": (tokenizer_config(added_tokens_decoder=[1]), "added tokens that cannot be"),
    "settings too deep": (text("tokenizer_config.json", DEEP), "tokenizer_config.json: malformed"),
    "settings a list": (text("tokenizer_config.json", "[]"), "tokenizer_config.json: expected"),
    "tokenizer too deep": (text("tokenizer.json", DEEP), "not a readable vocabulary"),
    "tokenizer a list": (text("tokenizer.json", "[]"), "not a readable vocabulary"),
    "tokenizer empty": (text("tokenizer.json", ""), "not a readable vocabulary"),
    "tokenizer no text": (text("tokenizer.json", b"\xff\xfe"), "not a readable vocabulary"),
    "ends a text": (text("generation_config.json", '{"eos_token_id": "5"}'), "generation_config"),
    # --- the weights
    "header too deep": (header(lambda _: DEEP.encode()), "not a whole safetensors file"),
    "header a list": (header(lambda _: b"[]"), "not a whole safetensors file"),
    # The library quotes a type that it does not know as it stands, with its line breaks.
    "header of two lines": (
        header(lambda old: old.replace(b'"F32"', b'"a\\nb"')),
        "not a whole safetensors file .*a b",
    ),
    "header of Latin-1": (header(lambda old: old.replace(b"norm", b"n\xe9rm")), "not a whole"),
    "weights empty": (text("model.safetensors", ""), "not a whole safetensors file"),
    "weights a pickle": (text("model.safetensors", b"\x80\x04K\x01."), "not a whole safetensors"),
    "weights a folder": (instead("model.safetensors", os.mkdir), "not a whole safetensors file"),
    "weights a dead link": (
        instead("model.safetensors", lambda path: os.symlink("nowhere", path)),
        "holds no model.safetensors",
    ),
    "weights without a number": (
        tensors(lambda values: values.update({NORM: np.zeros((0,), np.float32)})),
        "has shape",
    ),
    "weights infinite": (
        tensors(lambda values: values.update({NORM: np.full(16, np.inf, np.float32)})),
        "holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_hostile_directory_is_one_line_and_no_output(name, tmp_path, vocabulary):
    spoil, message = DIRECTORIES[name]
    source = tmp_path / "hf"
    reference.make(source, reference.LLAMA)
    vocabulary.save(str(source))
    spoil(source)
    with pytest.raises(UserError, match=message) as caught:
        convert.convert(from_hf=str(source), to=str(tmp_path / "ours"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_layers_are_counted_before_a_list_is_made_of_them(name):
    """A million millions of them took all memory; so few that this test may fail are too many."""
    fields = next(values for values in models_made.CONFIGS if values["model_type"] == name)
    fields = {**fields, "num_hidden_layers": 70_000}
    with pytest.raises(
        UserError, match="num_hidden_layers = 70000 is not supported; at most 65536"
    ):
        huggingface.config_from(huggingface.FAMILIES[name], fields, "config.json")
