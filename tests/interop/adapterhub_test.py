"""Bottleneck adapters in AdapterHub's names: shapes, config, and the library's own logits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from detox_jax.errors import UserError
from detox_jax.interop import adapterhub
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig
from detox_jax.models.transformer import TransformerLM
from tests.interop.peft_test import CONFIGS, adapted, hf_base


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_names_and_config(family, placement, tmp_path, vocabulary):
    adapter = AdapterConfig(bottleneck_dim=6, placement=placement)
    path, params = adapted(tmp_path, vocabulary, CONFIGS[family], adapter)
    adapterhub.export(path, str(tmp_path / "out"), family)
    weights = load_file(tmp_path / "out" / "adapter.safetensors")
    assert len(weights) == 2 * 4 * (2 if placement == "houlsby" else 1)
    layer = {"gpt2": "transformer.h.1.", "llama": "model.layers.1."}[family]
    prefix = f"{layer}output_adapters.adapters.detox."
    ours = params["layers"]["mlp_adapter"]
    for theirs, leaf in (
        ("adapter_down.0.weight", ours["down_kernel"][1].T),
        ("adapter_down.0.bias", ours["down_bias"][1]),
        ("adapter_up.weight", ours["up_kernel"][1].T),
        ("adapter_up.bias", ours["up_bias"][1]),
    ):
        np.testing.assert_array_equal(weights[prefix + theirs], leaf)
    full = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    config = full["config"]
    assert full["model_type"] == family and full["hidden_size"] == 16
    assert config["mh_adapter"] == (placement == "houlsby")
    assert int(16 // config["reduction_factor"]) == 6
    assert config["non_linearity"] == "gelu_new"


def test_every_bottleneck_has_a_factor():
    for emb_dim in (16, 64, 768):
        for bottleneck in range(1, 2 * emb_dim):
            assert int(emb_dim // adapterhub._reduction_factor(emb_dim, bottleneck)) == bottleneck


def test_what_cannot_be_exported(tmp_path, vocabulary):
    adapter = AdapterConfig(bottleneck_dim=2, activation="softplus")
    path, _ = adapted(tmp_path, vocabulary, CONFIGS["gpt2"], adapter)
    with pytest.raises(UserError, match="no family 'gpt_neox'"):
        adapterhub.export(path, str(tmp_path / "out"), "gpt_neox")
    with pytest.raises(UserError, match="activation 'softplus' has no counterpart"):
        adapterhub.export(path, str(tmp_path / "out"), "gpt2")
    assert not (tmp_path / "out").exists()


def test_lora_is_refused(tmp_path, vocabulary):
    path, _ = adapted(tmp_path, vocabulary, CONFIGS["gpt2"], LoRAConfig(rank=2))
    with pytest.raises(UserError, match=r"its adaptation is \w+; this export writes AdapterConfig"):
        adapterhub.export(path, str(tmp_path / "out"), "gpt2")


@pytest.mark.interop
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_of_the_library_are_ours(family, activation, placement, tmp_path, vocabulary):
    torch = pytest.importorskip("torch")
    adapters = pytest.importorskip("adapters")
    config = CONFIGS[family]
    adapter = AdapterConfig(bottleneck_dim=6, placement=placement, activation=activation)
    path, params = adapted(tmp_path, vocabulary, config, adapter)
    model = hf_base(family, params)
    adapterhub.export(path, str(tmp_path / "out"), family)
    adapters.init(model)
    name = model.load_adapter(str(tmp_path / "out"), use_safetensors=True)
    model.set_active_adapters(name)
    tokens = np.random.default_rng(0).integers(1, 21, (2, 12))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens - 1)).logits.numpy()
        model.set_active_adapters(None)
        of_base = model(torch.tensor(tokens - 1)).logits.numpy()
    module = TransformerLM(config, adapter)
    ours = module.apply({"params": params}, jnp.asarray(tokens), enable_dropout=False)
    np.testing.assert_allclose(theirs, ours[:, :, 1:21], atol=1e-4)
    assert np.abs(of_base - theirs).max() > 1e-2
