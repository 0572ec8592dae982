"""LoRA in PEFT's layout: the sums of its matrices are ours, and PEFT's logits are ours."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.interop import peft
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, trainable_pattern
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes

SIZES = dict(vocab_size=21, emb_dim=16, num_heads=4, num_layers=2, mlp_dim=24, max_length=16)
CONFIGS = {
    "gpt2": TransformerConfig(**SIZES),
    "opt": TransformerConfig(**SIZES, mlp_activations=("relu",)),
    "gpt_neox": TransformerConfig(
        **SIZES, position_embedding="rotary", parallel_residual=True, logits_via_embedding=False
    ),
    "llama": TransformerConfig(
        **SIZES,
        num_kv_heads=2,
        position_embedding="rotary",
        norm="rmsnorm",
        use_bias=False,
        mlp_activations=("silu", "linear"),
    ),
}
ALL = ("query", "key", "value", "out", "wi", "wo")
TARGETS = [("query", "value"), ALL, ("key",), ("out", "wo")]


def adapted(tmp_path, vocabulary, config, adaptation):
    """An adapter-only checkpoint without its base, and all its (random) parameters."""
    noise = np.random.default_rng(0)
    shapes, _ = meshes.abstract_params(TransformerLM(config, adaptation))
    params = jax.tree.map(lambda x: noise.normal(scale=0.2, size=x.shape).astype(x.dtype), shapes)
    path = tmp_path / "adapted"
    path.mkdir()
    trained, _ = params_lib.partition(params, trainable_pattern(adaptation))
    base = {"path": "../gone", "fingerprint": "0" * 16}
    spec = checkpoints.ModelSpec(config, adaptation, base, vocabulary.fingerprint)
    checkpoints.save_model(epath.Path(path), trained, spec, vocabulary)
    return str(path), params


def deltas(params, lora):
    """`[layers, in, out]` of every projection: what LoRA adds to its kernel."""
    result = {}
    for room in ("attention", "mlp"):
        for name, leaf in params["layers"][room].items():
            if "lora_a" in leaf:
                layers, rank = leaf["lora_a"].shape[0], lora.rank
                a = leaf["lora_a"].reshape(layers, -1, rank)
                b = leaf["lora_b"].reshape(layers, rank, -1)
                result[f"{room}/{name}"] = a @ b * (lora.alpha / rank)
    return result


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", CONFIGS)
def test_products_are_ours(family, targets, tmp_path, vocabulary):
    lora = LoRAConfig(rank=3, alpha=70.0, target_modules=targets)
    path, params = adapted(tmp_path, vocabulary, CONFIGS[family], lora)
    peft.export(path, str(tmp_path / "out"), "some/base", family)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    where = peft.FAMILIES[family]
    used = set()
    for name, ours in deltas(params, lora).items():
        module = where.modules[name]
        rank = config["rank_pattern"].get(module, config["r"])
        scale = config["alpha_pattern"].get(module, config["lora_alpha"]) / rank
        assert module in config["target_modules"]
        for layer in range(2):
            prefix = f"base_model.model.{where.layer.format(layer)}{module}"
            a, b = (weights[f"{prefix}.lora_{x}.weight"] for x in "AB")
            used |= {f"{prefix}.lora_{x}.weight" for x in "AB"}
            assert a.shape[0] == rank == b.shape[1]
            theirs = (b @ a).T * scale
            if where.fused and name in peft._FUSED:
                i = ("attention/query", "attention/key", "attention/value").index(name)
                shape = (16, 3, 4, 4) if where.fused == "blocks" else (16, 4, 3, 4)
                theirs = theirs.reshape(shape)
                theirs = theirs[:, i] if where.fused == "blocks" else theirs[:, :, i]
                theirs = theirs.reshape(16, 16)
            np.testing.assert_allclose(theirs, ours[layer], atol=1e-5)
    assert used == set(weights)
    assert (config["fan_in_fan_out"], config["base_model_name_or_path"]) == (
        family == "gpt2",
        "some/base",
    )


def test_what_cannot_be_exported(tmp_path, vocabulary):
    config = CONFIGS["llama"]
    path, _ = adapted(tmp_path, vocabulary, config, LoRAConfig(rank=2, target_modules=("wi",)))
    with pytest.raises(UserError, match="no PEFT layout for family 'bert'"):
        peft.export(path, str(tmp_path / "out"), "base", "bert")
    with pytest.raises(UserError, match="family 'gpt2' has no counterpart of mlp/wi_0"):
        peft.export(path, str(tmp_path / "out"), "base", "gpt2")
    assert not (tmp_path / "out").exists()
    peft.export(path, str(tmp_path / "out"), "base", "llama")
    with pytest.raises(UserError, match="there already"):
        peft.export(path, str(tmp_path / "out"), "base", "llama")


def test_other_adaptations_are_refused(tmp_path, vocabulary):
    path, _ = adapted(tmp_path, vocabulary, CONFIGS["gpt2"], AdapterConfig(bottleneck_dim=2))
    with pytest.raises(UserError, match=r"its adaptation is \w+; this export writes LoRAConfig"):
        peft.export(path, str(tmp_path / "out"), "base", "gpt2")


def test_a_broken_checkpoint_is_refused(tmp_path, vocabulary, monkeypatch):
    path, _ = adapted(tmp_path, vocabulary, CONFIGS["gpt2"], LoRAConfig(rank=2))
    restore = checkpoints.restore_arrays
    monkeypatch.setattr(
        checkpoints,
        "restore_arrays",
        lambda *args: jax.tree.map(lambda x: x * jnp.nan, restore(*args)),
    )
    with pytest.raises(UserError, match="lora_a holds numbers that are not finite"):
        peft.export(path, str(tmp_path / "out"), "base", "gpt2")


def hf_base(family, params):
    """The base in transformers' form, put together by hand."""
    import torch
    import transformers

    common = dict(bos_token_id=1, eos_token_id=1, pad_token_id=None)
    if family == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=20, n_embd=16, n_head=4, n_layer=2, n_inner=24, n_positions=16, **common
            )
        )
    else:
        sizes = dict(
            vocab_size=20,
            hidden_size=16,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=16,
            **common,
        )
        if family == "llama":
            config = transformers.LlamaConfig(
                **sizes,
                intermediate_size=24,
                num_key_value_heads=2,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
            )
            model = transformers.LlamaForCausalLM(config)
        else:
            config = transformers.GPTNeoXConfig(
                **sizes,
                intermediate_size=24,
                hidden_act="gelu_new",
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 1.0,
                },
            )
            model = transformers.GPTNeoXForCausalLM(config)
    own = hf_weights(family, params)
    own = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in own.items()}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def hf_weights(family, params):
    layers = params["layers"]
    embedding = params["token_embedder"]["embedding"][1:21]
    where = peft.FAMILIES[family]
    weights = {
        "gpt2": {"transformer.wte.weight": embedding},
        "llama": {"model.embed_tokens.weight": embedding},
        "gpt_neox": {"gpt_neox.embed_in.weight": embedding},
    }[family]
    final = {"gpt2": "transformer.ln_f", "llama": "model.norm"}.get(
        family, "gpt_neox.final_layer_norm"
    )
    norms = {"gpt2": ("ln_1", "ln_2")}.get(family, ("input_layernorm", "post_attention_layernorm"))
    if family == "gpt2":
        weights["transformer.wpe.weight"] = params["position_embedder"]["embedding"]
    if family == "gpt_neox":
        weights["lm_head.weight"] = params["logits_dense"]["embedding"][1:21]
    kinds = {"scale": "weight", "bias": "bias"}
    weights |= {f"{final}.{kinds[k]}": v for k, v in params["final_norm"].items()}
    for i in range(2):
        prefix = where.layer.format(i)
        for ours, theirs in zip(("pre_attention_norm", "pre_mlp_norm"), norms, strict=True):
            weights |= {f"{prefix}{theirs}.{kinds[k]}": v[i] for k, v in layers[ours].items()}
        for name, module in where.modules.items():
            room, _, leaf = name.partition("/")
            dense = layers[room][leaf]
            if where.fused and name in peft._FUSED:
                if leaf != "query":
                    continue
                axis = 0 if where.fused == "blocks" else 1
                parts = [layers[room][x] for x in ("query", "key", "value")]
                kernel = np.stack([p["kernel"][i] for p in parts], 1 + axis).reshape(16, -1)
                bias = np.stack([p["bias"][i] for p in parts], axis).reshape(-1)
            else:
                rows = 24 if leaf == "wo" else 16
                kernel = dense["kernel"][i].reshape(rows, -1)
                bias = dense["bias"][i].reshape(-1) if "bias" in dense else None
            weights[f"{prefix}{module}.weight"] = kernel if where.transposed else kernel.T
            if bias is not None:
                weights[f"{prefix}{module}.bias"] = bias
    return weights


@pytest.mark.interop
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_logits_of_peft_are_ours(family, targets, tmp_path, vocabulary):
    torch = pytest.importorskip("torch")
    hf_peft = pytest.importorskip("peft")
    config, lora = CONFIGS[family], LoRAConfig(rank=3, alpha=70.0, target_modules=targets)
    path, params = adapted(tmp_path, vocabulary, config, lora)
    base = hf_base(family, params)
    tokens = np.random.default_rng(0).integers(1, 21, (2, 12))
    with torch.no_grad():
        of_base = base(torch.tensor(tokens - 1)).logits.numpy()
    peft.export(path, str(tmp_path / "out"), "some/base", family)
    model = hf_peft.PeftModel.from_pretrained(base, str(tmp_path / "out"))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens - 1)).logits.numpy()
    module = TransformerLM(config, lora)
    ours = module.apply({"params": params}, jnp.asarray(tokens), enable_dropout=False)
    np.testing.assert_allclose(theirs, ours[:, :, 1:21], atol=1e-4)
    assert np.abs(of_base - theirs).max() > 1e-2  # The adaptation does something.
