"""Bottleneck adapters in AdapterHub's names: shapes, config, and the library's own logits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.interop import adapterhub
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, ParallelAdapterConfig
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


@pytest.fixture
def parallel(tmp_path, vocabulary):
    """A parallel adapter on disk, of a base that is there, and all of its parameters."""

    def make(family, adapter):
        path, params = adapted(tmp_path, vocabulary, CONFIGS[family], adapter)
        _, base = params_lib.partition(params, adapter.trainable_pattern)
        where = epath.Path(tmp_path / "base")
        where.mkdir()
        spec = checkpoints.ModelSpec(CONFIGS[family], None, None, vocabulary.fingerprint)
        checkpoints.save_model(where, base, spec, vocabulary)
        described = json.loads((epath.Path(path) / "model.json").read_text())
        found = {"path": "../base", "fingerprint": params_lib.fingerprint(base)}
        (epath.Path(path) / "model.json").write_text(json.dumps({**described, "base": found}))
        return path, params

    return make


def test_a_parallel_adapter_takes_the_norm_with_it(parallel, tmp_path):
    path, params = parallel("gpt2", ParallelAdapterConfig(6, scale=2.0))
    adapterhub.export(path, str(tmp_path / "out"), "gpt2")
    weights = load_file(tmp_path / "out" / "adapter.safetensors")
    assert len(weights) == 2 * 8
    prefix = "transformer.h.1.output_adapters.adapters.detox."
    norm, ours = (params["layers"][name] for name in ("pre_mlp_norm", "mlp_parallel_adapter"))
    for theirs, leaf in (
        ("adapter_norm_before.weight", norm["scale"][1]),
        ("adapter_down.0.bias", norm["bias"][1]),
        ("adapter_down.1.weight", ours["down_kernel"][1].T),
        ("adapter_up.weight", ours["up_kernel"][1].T),
    ):
        np.testing.assert_array_equal(weights[prefix + theirs], leaf)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["config"]
    assert config["is_parallel"] and config["scaling"] == 2.0 and config["ln_before"]
    assert not config["mh_adapter"] and config["non_linearity"] == "relu"


def test_a_parallel_adapter_behind_an_rmsnorm_has_no_place(parallel, tmp_path):
    path, _ = parallel("llama", ParallelAdapterConfig(6))
    with pytest.raises(UserError, match="no place behind the norm of family 'llama'"):
        adapterhub.export(path, str(tmp_path / "out"), "llama")
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
    pytest.importorskip("adapters")
    config = CONFIGS[family]
    adapter = AdapterConfig(bottleneck_dim=6, placement=placement, activation=activation)
    path, params = adapted(tmp_path, vocabulary, config, adapter)
    _compare(family, adapter, path, params, tmp_path)


@pytest.mark.interop
def test_logits_of_the_librarys_parallel_adapter_are_ours(parallel, tmp_path):
    pytest.importorskip("adapters")
    adapter = ParallelAdapterConfig(6)
    path, params = parallel("gpt2", adapter)
    _compare("gpt2", adapter, path, params, tmp_path)


def _compare(family, adapter, path, params, tmp_path):
    """The library's logits with what was exported, and ours."""
    torch, adapters = pytest.importorskip("torch"), pytest.importorskip("adapters")
    config = CONFIGS[family]
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
