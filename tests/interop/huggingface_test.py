"""Hugging Face's models: weights against NumPy, maps that cover everything, families by fit."""

import dataclasses
import json
import types
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from detox_jax.checkpoints import streamed
from detox_jax.errors import UserError
from detox_jax.interop import huggingface, verify
from detox_jax.interop.huggingface import FAMILIES
from detox_jax.models.transformer import TransformerLM
from tests.interop import reference

CONFIGS = {"llama": reference.LLAMA, "gemma2": reference.GEMMA2}
# Fields of all families at once: each reads its own.
FIELDS = {
    "vocab_size": 100,
    "hidden_size": 64,
    "n_embd": 64,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 40,
    "ffn_dim": 40,
    "max_position_embeddings": 64,
    "n_positions": 64,
}


def config_of(family, **fields):
    """A small config as `family` reads it."""
    return FAMILIES[family].read(huggingface.Fields({**FIELDS, **fields}, family))


# --- import -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_an_independent_numpy_forward_pass(name, tmp_path):
    tensors = reference.make(tmp_path / "hf", CONFIGS[name])
    opened = huggingface.open_source(epath.Path(tmp_path / "hf"))
    arrays = huggingface.read_parameters(opened, epath.Path(tmp_path / "scratch"))
    ids = np.random.default_rng(1).integers(0, 349, 14)
    params = streamed.nested({path: np.asarray(array) for path, array in arrays.items()})
    ours = TransformerLM(opened.config).apply(
        {"params": params}, ids[None] + 1, enable_dropout=False
    )[0]
    theirs = reference.logits(CONFIGS[name], tensors, ids)
    np.testing.assert_allclose(ours[:, 1:350], theirs, atol=2e-5, rtol=2e-5)
    assert np.all(np.asarray(ours[:, 0]) < -1e9) and np.all(np.asarray(ours[:, 350:]) < -1e9)


def _spoiled(directory, **changes):
    """A LLaMA whose tensors are changed by name; None takes one away."""
    tensors = {**reference.make(directory, reference.LLAMA), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.numpy.save_file(kept, directory / "model.safetensors")
    return huggingface.open_source(epath.Path(directory))


def test_buffers_hold_no_weights_and_may_be_there(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    source = _spoiled(tmp_path / "hf", **{name: np.ones(3, np.float32)})
    assert huggingface.read_parameters(source, epath.Path(tmp_path / "scratch"))
    # A float32 constant among half-precision weights does not make a float32 model.
    halves = reference.make(tmp_path / "hf", reference.LLAMA, np.float16)
    assert _spoiled(tmp_path / "hf", **halves, **{name: np.ones(3, np.float32)}).dtype == "float16"
    source = _spoiled(tmp_path / "hf", **{f"{name}s": np.ones(3, np.float32)})
    with pytest.raises(UserError, match="inv_freqs' belongs to no part of a llama model"):
        huggingface.read_parameters(source, epath.Path(tmp_path / "scratch2"))


@pytest.mark.parametrize(
    ("family", "embedding", "head"),
    [
        ("gpt2", "transformer.wte.weight", "lm_head.weight"),
        ("gpt2", "wte.weight", "lm_head.weight"),  # A bare body, whose head has no prefix.
        ("gpt_neox", "gpt_neox.embed_in.weight", "embed_out.weight"),
        ("llama", "model.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_of_a_tied_pair_either_name_serves(family, embedding, head):
    """safetensors' save_model writes one of the two, and it may be the head's."""
    names = {head: (99, 64), embedding.replace("wte", "wpe") + "_else": (64, 64)}
    source = types.SimpleNamespace(
        family=FAMILIES[family],
        tensors=types.SimpleNamespace(shapes=names),
        config=config_of(family, tie_word_embeddings=True),
    )
    full = huggingface._embedding_name(FAMILIES[family])
    assert huggingface.stored_names(source)[full] == head
    assert head not in huggingface.stored_names(source)
    source.config = config_of(family, tie_word_embeddings=False)
    assert full not in huggingface.stored_names(source)
    names[embedding] = (99, 64)
    source.config = config_of(family, tie_word_embeddings=True)
    assert huggingface.stored_names(source)[full] == embedding
    assert huggingface.stored_names(source)[head] == head


@pytest.mark.parametrize(
    ("one", "others", "dtype"),
    [
        (np.float16, np.float16, "float16"),
        (ml_dtypes.bfloat16, ml_dtypes.bfloat16, "bfloat16"),
        (np.float32, ml_dtypes.bfloat16, "float32"),
        (np.float16, ml_dtypes.bfloat16, "float32"),  # Neither holds the other.
    ],
)
def test_weights_of_several_dtypes_are_float32(tmp_path, one, others, dtype):
    tensors = reference.make(tmp_path / "hf", reference.LLAMA, others)
    norm = tensors["model.norm.weight"].astype(one)
    source = _spoiled(tmp_path / "hf", **{**tensors, "model.norm.weight": norm})
    assert source.dtype == dtype


def test_a_class_that_is_not_named_is_the_familys(tmp_path):
    reference.make(tmp_path / "hf", {**reference.LLAMA, "architectures": None})
    opened = huggingface.open_source(epath.Path(tmp_path / "hf"), "bfloat16")
    assert opened.family.model_type == "llama" and opened.config.param_dtype == "bfloat16"


NEOX = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "rotary_pct": 0.5,
    "rotary_emb_base": 500,
}


@pytest.mark.parametrize(
    ("family", "fields", "again", "wrong"),
    [
        ("gpt_neox", NEOX, "rope_theta", 10_000),
        ("gpt_neox", NEOX, "partial_rotary_factor", 0.25),
        ("gemma2", reference.GEMMA2, "sliding_window_size", 4096),
    ],
)
def test_a_field_that_is_told_twice_says_the_same(family, fields, again, wrong):
    """GPT-NeoX as late versions of transformers 4 saved it, gemma-2-9b as it is published."""
    named = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    value = fields[named.get(again, "sliding_window")]
    read = huggingface.config_from(FAMILIES[family], {**fields, again: value}, "c", ())
    assert read == huggingface.config_from(FAMILIES[family], fields, "c", ())
    with pytest.raises(UserError, match=f"c: {again} = {wrong} is not supported"):
        huggingface.config_from(FAMILIES[family], {**fields, again: wrong}, "c", ())


# --- export -----------------------------------------------------------------------------------


GEMMA = {
    **reference.LLAMA,
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("said", "written"),
    [("gelu", "gelu_pytorch_tanh"), ("gelu_new", "gelu_new"), ("silu", "silu"), (None, None)],
)
def test_an_early_gemma_goes_out_with_the_activation_that_it_means(said, written):
    """Some versions of transformers take `gelu` as exact."""
    fields = {**GEMMA, "hidden_act": said}
    if said is None:
        del fields["hidden_act"]
    config = huggingface.config_from(FAMILIES["gemma"], fields, "c", ())
    recorded = {"config": fields}
    boundaries = types.SimpleNamespace(bos_id=2, eos_id=3, end_ids=(3,))
    out = huggingface.config_fields(config, FAMILIES["gemma"], recorded, "float32", boundaries)
    assert out.get("hidden_act") == written
    assert {**out, "hidden_act": said} == {**fields, "hidden_act": said, "dtype": "float32"}


def test_an_early_gemma_is_verified_with_the_activation_that_it_means(tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def load_torch(directory, **fields):
        raise Asked(fields)

    reference.make(tmp_path, {**GEMMA, "hidden_act": "gelu"})
    monkeypatch.setattr(verify, "load_torch", load_torch)
    monkeypatch.setattr(verify, "Checkpoint", types.SimpleNamespace(open=lambda path: None))
    monkeypatch.setattr(huggingface, "read_origin", lambda checkpoint: None)
    with pytest.raises(Asked) as asked:
        verify.verify("checkpoint", str(tmp_path))
    assert asked.value.args == ({"hidden_act": "gelu_pytorch_tanh"},)


def test_a_new_config_names_the_tokens_that_start_and_end_a_text(config):
    """SentencePiece vocabularies start a text with another token than they end it with."""
    boundaries = types.SimpleNamespace(bos_id=2, eos_id=3, end_ids=(3,))
    fields = huggingface.config_fields(config, FAMILIES["gpt2"], None, "float32", boundaries)
    assert (fields["bos_token_id"], fields["eos_token_id"]) == (1, 2)
    boundaries.end_ids = (3, 7)
    fields = huggingface.config_fields(config, FAMILIES["gpt2"], None, "float32", boundaries)
    assert fields["eos_token_id"] == [2, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_maps_its_own_config_and_back(family):
    """The map covers every parameter once, and what a family writes it reads as the same."""
    config = config_of(family)
    huggingface.active_map(FAMILIES[family], config)
    assert huggingface._differences(FAMILIES[family], config) == []
    recorded = {"config": {"model_type": family}}
    assert huggingface.choose_family(config, recorded).model_type == family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_parameter_is_let_go_before_the_next_one_is_read(tmp_path, family):
    """The largest, all of its layers, is what an export of a large model needs memory for."""
    config = config_of(family)
    shapes = streamed.shapes_of(config)
    tensors, _ = huggingface.active_map(FAMILIES[family], config)
    read, alive = [], []

    def merged(path):
        alive.append(sum(reference() is not None for reference in read))
        array = np.zeros(shapes[path], np.float32).view(_Watched)
        read.append(weakref.ref(array))
        return array

    checkpoint = types.SimpleNamespace(spec=types.SimpleNamespace(config=config), merged=merged)
    fields = {"model_type": family}
    huggingface.write_model(checkpoint, epath.Path(tmp_path), fields, "float32", 10**9)
    others_of_its_tensor = max(len(tensor.paths) for tensor in tensors.values()) - 1
    assert len(read) == len(shapes) and max(alive) == others_of_its_tensor


class _Watched(np.ndarray):
    """Of which a weak reference can be held."""


def test_without_a_record_the_plainest_family_that_fits_is_chosen():
    """Without its window a Mistral is a LLaMA, and LLaMA comes first."""
    windowless = config_of("mistral", sliding_window=None)
    assert huggingface.choose_family(windowless, None).model_type == "llama"
    assert huggingface.choose_family(config_of("mistral"), None).model_type == "mistral"
    assert huggingface.choose_family(config_of("gpt2"), None).model_type == "gpt2"
    recorded = {"config": {"model_type": "opt"}}  # What it came as no longer holds it.
    assert huggingface.choose_family(config_of("gpt2"), recorded).model_type == "gpt2"


def test_an_architecture_of_no_family_is_told_the_nearest():
    odd = dataclasses.replace(config_of("gpt2"), logits_softcap=3.0)
    with pytest.raises(UserError, match="the nearest is gpt2, which has another logits_softcap"):
        huggingface.choose_family(odd, None)


def test_a_recorded_config_is_kept_while_it_describes_the_model(tmp_path):
    reference.make(tmp_path / "hf", {**reference.LLAMA, "torch_dtype": "float16"})
    opened = huggingface.open_source(epath.Path(tmp_path / "hf"))
    recorded = json.loads(json.dumps(huggingface.origin(opened, {"repo": "a/b"})))
    assert recorded["source"] == {"repo": "a/b"} and recorded["dtype"] == "float32"
    boundaries = types.SimpleNamespace(bos_id=2, eos_id=3, end_ids=(3,))

    def fields(config):
        llama = FAMILIES["llama"]
        return huggingface.config_fields(config, llama, recorded, "bfloat16", boundaries)

    assert fields(opened.config) == {**reference.LLAMA, "dtype": "bfloat16"}
    longer = dataclasses.replace(opened.config, max_length=128)
    written = fields(longer)
    assert written["max_position_embeddings"] == 128 and written["eos_token_id"] == 2
    assert huggingface.config_from(FAMILIES["llama"], written, "").max_length == 128
