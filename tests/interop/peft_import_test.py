"""LoRA of PEFT's, read onto a base: what it adds is ours, or it is refused by its name."""

import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from detox_jax import cli, manifests
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import places, streamed
from detox_jax.errors import UserError
from detox_jax.interop import convert, peft, peft_import
from detox_jax.models.adaptation import LoRAConfig
from tests.interop import convert_test, families_made, peft_test, reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 3,
    "lora_alpha": 7,
    "target_modules": ["q_proj", "v_proj"],
    "lora_dropout": 0.1,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "modules_to_save": None,
    "use_dora": False,
    "revision": None,
    "peft_version": "0.21.2",
}
SHAPES = {name: shape for name, shape in reference.shapes(reference.LLAMA).items()}


@pytest.fixture(scope="module")
def llama(tmp_path_factory, vocabulary):
    """A LLaMA in Hugging Face's form, and its import."""
    root = tmp_path_factory.mktemp("llama")
    reference.make(root / "hf", reference.LLAMA)
    vocabulary.save(str(root / "hf"))
    convert.convert(from_hf=str(root / "hf"), to=str(root / "base"))
    return root


def write(directory, base, modules, dtype=np.float32, **fields):
    """An adapter of random weights; `modules` are the ranks of full module names."""
    noise, tensors = np.random.default_rng(1), {}
    for module, rank in modules.items():
        outs, ins = SHAPES[f"{module}.weight"]
        for part, shape in (("A", (rank, ins)), ("B", (outs, rank))):
            name = f"base_model.model.{module}.lora_{part}.weight"
            tensors[name] = noise.normal(scale=0.3, size=shape).astype(dtype)
    directory.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, directory / "adapter_model.safetensors")
    config = {**CONFIG, "base_model_name_or_path": str(base), **fields}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def in_layers(ranks, layers=(0, 1)):
    return {f"model.layers.{i}.{name}": rank for i in layers for name, rank in ranks.items()}


QV = in_layers({"self_attn.q_proj": 3, "self_attn.v_proj": 3})
GATE = {"mlp.gate_proj": 3}
CASES = {
    "plain": (QV, {}),
    "rank-stabilised": (QV, {"use_rslora": True}),
    "one layer": (
        in_layers({"self_attn.q_proj": 3}, [1]),
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ),
    "half of a gated MLP": (in_layers(GATE), {"target_modules": ["gate_proj"]}),
    "a pattern": (in_layers(GATE, [0]), {"target_modules": r".*\.0\.mlp\.gate.*"}),
    "left out": (
        in_layers({"self_attn.q_proj": 3}),
        {"exclude_modules": ["v_proj"]},
    ),
    "ranks and alphas of their own": (
        in_layers({"self_attn.q_proj": 3, "self_attn.v_proj": 2, "mlp.down_proj": 5}),
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 2, "mlp.down_proj": 5},
            "alpha_pattern": {"down_proj": 1},
        },
    ),
    "everything": (
        {
            name.removesuffix(".weight"): 3
            for name, shape in SHAPES.items()
            if len(shape) == 2 and "layers" in name
        },
        {"target_modules": "all-linear"},
    ),
}


def scale_of(module, rank, fields):
    alpha = 1 if module.endswith("down_proj") and fields.get("alpha_pattern") else 7
    return alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank)


@pytest.mark.parametrize("name", CASES)
def test_what_it_adds_to_each_weight_is_ours(name, llama, tmp_path):
    modules, fields = CASES[name]
    tensors = write(tmp_path / "adapter", llama / "hf", modules, **fields)
    convert.convert(
        from_hf=str(tmp_path / "adapter"), to=str(tmp_path / "ours"), base=str(llama / "base")
    )
    convert.convert(source=str(tmp_path / "ours"), to_hf=str(tmp_path / "merged"))
    base = safetensors.numpy.load_file(llama / "hf" / "model.safetensors")
    merged = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    for tensor, before in base.items():
        module = tensor.removesuffix(".weight")
        expected = before.astype(np.float64)
        if module in modules:
            prefix = f"base_model.model.{module}"
            a, b = (tensors[f"{prefix}.lora_{x}.weight"].astype(np.float64) for x in "AB")
            expected = expected + scale_of(module, modules[module], fields) * b @ a
            assert np.abs(merged[tensor] - before).max() > 0.01
        np.testing.assert_allclose(merged[tensor], expected, atol=2e-6)


def test_over_a_base_in_bfloat16_it_stays_float32(llama, tmp_path, one_device_mesh):
    base, ours = tmp_path / "base", str(tmp_path / "ours")
    convert.convert(from_hf=str(llama / "hf"), to=str(base), param_dtype="bfloat16")
    write(tmp_path / "adapter", llama / "hf", QV)
    convert.convert(from_hf=str(tmp_path / "adapter"), to=ours, base=str(base))
    stored = streamed.Checkpoint.open(ours).read("layers/attention/query/lora_a")
    loaded = checkpoints.load_model(ours, one_device_mesh).params
    query = loaded["layers"]["attention"]["query"]
    np.testing.assert_array_equal(np.asarray(query["lora_a"]), stored, strict=True)
    assert query["kernel"].dtype == jnp.bfloat16 and stored.dtype == np.float32


def test_it_goes_back_as_it_came(llama, tmp_path):
    """To the bit, and with rank and alpha; the base is named."""
    tensors = write(tmp_path / "adapter", llama / "hf", QV, np.float16)
    ours = tmp_path / "ours"
    convert.convert(from_hf=str(tmp_path / "adapter"), to=str(ours), base=str(llama / "base"))
    convert.convert(source=str(ours), to_hf=str(tmp_path / "back"), merge_lora=False)
    back = safetensors.numpy.load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor.astype(np.float32))
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 7)
    assert config["base_model_name_or_path"] == str(llama / "hf") and "revision" not in config
    manifest = manifests.read_manifest(epath.Path(ours))
    assert manifest["settings"]["base"]["path"] == str(llama / "base")
    spec = checkpoints.read_spec(epath.Path(ours))
    assert spec.base == {
        "path": checkpoints.base_reference(str(llama / "base"), epath.Path(ours)),
        "fingerprint": streamed.Checkpoint.open(str(llama / "base")).fingerprint,
    }


def test_another_tokenizer_of_its_base_is_another_import(llama, tmp_path, capsys):
    """It goes with the adaptation. What a version before finished names none, and stays."""
    shutil.copytree(llama / "base", tmp_path / "base")
    write(tmp_path / "lora", llama / "hf", QV)
    ends = {"from_hf": str(tmp_path / "lora"), "to": str(tmp_path / "ours")}
    convert.convert(**ends, base=str(tmp_path / "base"))
    (tmp_path / "base" / "vocabulary" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match=r"made with other settings \(vocabulary: "):
        convert.convert(**ends, base=str(tmp_path / "base"))
    file = tmp_path / "ours" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["settings"]["vocabulary"]
    file.write_text(json.dumps(manifest))
    capsys.readouterr()
    convert.convert(**ends, base=str(tmp_path / "base"))
    assert "is already there, from the same files" in capsys.readouterr().out
    convert_test.read_by_a_version_before(tmp_path / "ours")
    with pytest.raises(UserError, match=r"ours\) and convert again"):
        convert.convert(**ends, base=str(tmp_path / "base"))


def test_fused_projections_keep_their_one_matrix(model_dir, tmp_path):
    """GPT-2's query, key and value have one A: it goes back once, not three times."""
    convert.convert(source=model_dir, to_hf=str(tmp_path / "hf"))
    convert.convert(from_hf=str(tmp_path / "hf"), to=str(tmp_path / "base"))
    noise = np.random.default_rng(0)
    tensors = {}
    for i in range(2):
        prefix = f"base_model.model.transformer.h.{i}.attn.c_attn"
        tensors[f"{prefix}.lora_A.weight"] = noise.normal(size=(3, 32)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = noise.normal(size=(96, 3)).astype(np.float32)
    write(tmp_path / "adapter", tmp_path / "hf", {}, target_modules=["c_attn"], fan_in_fan_out=True)
    safetensors.numpy.save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    flags = [f"--from_hf={tmp_path / 'adapter'}", f"--to={tmp_path / 'ours'}"]
    assert cli.main(["convert", *flags, f"--gin.BASE={tmp_path / 'base'}"]) == 0
    convert.convert(source=str(tmp_path / "ours"), to_hf=str(tmp_path / "back"), merge_lora=False)
    back = safetensors.numpy.load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    convert.convert(source=str(tmp_path / "ours"), to_hf=str(tmp_path / "merged"))
    merged = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    base = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    name = "transformer.h.1.attn.c_attn.weight"
    a, b = (tensors[f"base_model.model.{name[:-7]}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(merged[name], base[name] + (b @ a).T * 7 / 3, atol=1e-5)


@pytest.mark.parametrize("family", peft_test.CONFIGS)
def test_what_goes_out_comes_in_for_every_layout(family, tmp_path, vocabulary):
    """Fused or not, by blocks or by heads: the sums of our own export are what was exported."""
    lora = LoRAConfig(rank=3, alpha=70.0, target_modules=peft_test.ALL)
    config = peft_test.CONFIGS[family]
    path, params = peft_test.adapted(tmp_path, vocabulary, config, lora)
    peft.export(path, str(tmp_path / "out"), "some/base", family)
    adapter = peft_import.open_adapter(epath.Path(tmp_path / "out"))
    back, arrays = peft_import.read(adapter, config, family)
    ours, theirs = peft_test.deltas(params, lora), peft_test.deltas(streamed.nested(arrays), back)
    assert ours.keys() == theirs.keys()
    for name, delta in ours.items():
        np.testing.assert_allclose(theirs[name], delta, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "IA3"}, 'peft_type = "IA3" is not supported'),
        ({"task_type": "SEQ_CLS"}, 'task_type = "SEQ_CLS" is not supported'),
        ({"use_dora": True}, "use_dora = true is not supported"),
        ({"bias": "all"}, 'bias = "all" is not supported'),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = ..lm_head.. is not supported"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "it changed the base's weights"),
        ({"something_new": 3}, "something_new = 3 is not supported; it is unknown here"),
        ({"r": 0}, "r is 0; expected a whole number from 1"),
        ({"lora_alpha": "7"}, "lora_alpha is '7'; expected a number"),
        ({"r": 4}, "lora_A.weight' has shape .3, 16., the base and the rank ask for .4, 16."),
        ({"target_modules": ["query"]}, "names no projection of a llama model"),
        ({"target_modules": "("}, "a pattern of module names that is none"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "has no .*k_proj.lora_A.weight'"),
        ({"target_modules": ["q_proj"]}, "v_proj is no projection that target_modules names"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3; expected text"),
    ],
)
def test_what_cannot_be_held_is_named(fields, said, llama, tmp_path):
    write(tmp_path / "adapter", llama / "hf", QV, **fields)
    with pytest.raises(UserError, match=said) as error:
        convert.convert(
            from_hf=str(tmp_path / "adapter"), to=str(tmp_path / "ours"), base=str(llama / "base")
        )
    assert str(tmp_path / "adapter") in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_field_of_which_the_user_knows(llama, tmp_path):
    write(tmp_path / "adapter", llama / "hf", QV, something_new=3)
    convert.convert(
        from_hf=str(tmp_path / "adapter"),
        to=str(tmp_path / "ours"),
        base=str(llama / "base"),
        ignore_fields="something_new",
    )


def test_weights_that_cannot_be_read(llama, tmp_path):
    write(tmp_path / "adapter", llama / "hf", QV)
    settings = {"to": str(tmp_path / "ours"), "base": str(llama / "base")}
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        convert.convert(from_hf=str(tmp_path / "adapter"), **settings)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match="holds no adapter_model.safetensors; where its weights"):
        convert.convert(from_hf=str(tmp_path / "adapter"), **settings)


# --- the base ---------------------------------------------------------------------------------


def test_without_its_base_it_says_how_that_comes_here(llama, tmp_path, capsys):
    write(tmp_path / "adapter", "owner/model", QV, revision="v1")
    flags = ["convert", f"--from_hf={tmp_path / 'adapter'}", f"--to={tmp_path / 'ours'}"]
    for extra in ([], ["--dry_run"]):
        assert cli.main([*flags, *extra]) == 2
        remedy = "convert --from_hf=owner/model --gin.REVISION=v1 --to=BASE, and then give it"
        assert remedy in capsys.readouterr().err
    assert cli.main([*flags, f"--gin.BASE={llama / 'base'}", "--verify"]) == 2
    assert "whole models, and this is an adapter; leave it out" in capsys.readouterr().err
    assert (
        cli.main(
            [
                "convert",
                f"--from_hf={llama / 'hf'}",
                f"--to={tmp_path / 'ours'}",
                f"--gin.BASE={llama / 'base'}",
            ]
        )
        == 2
    )
    assert "a whole model; BASE is for an adapter" in capsys.readouterr().err


def as_from(base, **source):
    """The import of a model, as one of another place."""
    file = base / places.ORIGIN_FILE
    value = json.loads(file.read_text())
    value["source"] = {"sha256": value["source"]["sha256"], **source}
    file.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("source", "names", "said"),
    [
        ({"repo": "owner/model", "revision": COMMIT}, ("owner/model", COMMIT), None),
        ({"repo": "owner/model", "revision": COMMIT}, ("owner/model", "v1"), None),
        (
            {"repo": "owner/model", "revision": COMMIT},
            ("owner/model", "f" * 40),
            f"revision f{{40}} of owner/model, and BASE .* is {COMMIT}",
        ),
        ({"repo": "owner/other"}, ("owner/model", None), "and BASE .* came from owner/other"),
        ({"path": "/gone/elsewhere"}, ("HERE", None), None),  # By content.
        (
            {"path": "/gone/elsewhere"},
            (None, None),
            "names no base .*if it was trained on BASE .*IGNORE_FIELDS",
        ),
    ],
)
def test_another_base_is_refused(source, names, said, llama, tmp_path):
    convert.convert(from_hf=str(llama / "hf"), to=str(tmp_path / "base"))
    as_from(tmp_path / "base", **source)
    name, revision = names
    named = str(llama / "hf") if name == "HERE" else name
    write(tmp_path / "adapter", named, QV, revision=revision)
    if name is None:
        write(tmp_path / "adapter", "", QV)
    settings = {"to": str(tmp_path / "ours"), "base": str(tmp_path / "base")}
    if said is not None:
        with pytest.raises(UserError, match=said):
            convert.convert(from_hf=str(tmp_path / "adapter"), **settings)
        if "revision f" not in said:
            settings["ignore_fields"] = "base_model_name_or_path"
            assert "IGNORE_FIELDS=\"['base_model_name_or_path']\"" in str(
                pytest_error(
                    lambda: convert.convert(
                        from_hf=str(tmp_path / "adapter"), to=settings["to"], base=settings["base"]
                    )
                )
            )
        else:
            return
    convert.convert(from_hf=str(tmp_path / "adapter"), **settings)
    convert.convert(source=settings["to"], to_hf=str(tmp_path / "back"), merge_lora=False)
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert config.get("revision") == source.get("revision")


def pytest_error(call):
    with pytest.raises(UserError) as error:
        call()
    return error.value


def test_a_base_that_was_trained_further_is_another(llama, tmp_path, model_dir):
    write(tmp_path / "adapter", llama / "hf", QV)
    settings = {"from_hf": str(tmp_path / "adapter"), "to": str(tmp_path / "ours")}
    with pytest.raises(UserError, match="was trained here; give what"):
        convert.convert(**settings, base=model_dir)
    convert.convert(from_hf=str(llama / "hf"), to=str(tmp_path / "base"))
    manifest = tmp_path / "base" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"verb": "convert"', '"verb": "train"'))
    with pytest.raises(UserError, match="was trained further here; give what"):
        convert.convert(**settings, base=str(tmp_path / "base"))
    convert.convert(**settings, base=str(llama / "base"))
    for check_only in (True, False):
        with pytest.raises(UserError, match="is itself an adaptation"):
            more = {**settings, "to": str(tmp_path / "more"), "base": settings["to"]}
            convert.convert(**more, check_only=check_only)


# --- against PEFT -----------------------------------------------------------------------------

OF_PEFT = {
    "llama-grouped-tied": {"target_modules": ["q_proj", "v_proj"]},
    "llama-untied": {"target_modules": "all-linear", "use_rslora": True},
    "qwen2-tied-window": {"target_modules": ["gate_proj", "o_proj"], "layers_to_transform": [0, 2]},
    "gemma2-caps": {
        "target_modules": ["k_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {r"layers.1.*k_proj": 3},
    },
    "gpt2-tied": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "gpt2-untied": {"target_modules": ["attn.c_attn", "c_fc"]},
    "neox-partial": {"target_modules": ["query_key_value", "dense"]},
    "opt-tied": {"target_modules": ["k_proj", "fc1"]},
}


@pytest.mark.interop
@pytest.mark.parametrize("name", OF_PEFT)
def test_logits_are_those_of_peft_there_and_back(name, tmp_path, vocabulary, one_device_mesh):
    torch = pytest.importorskip("torch")
    hf_peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    families_made.make(name, tmp_path / "hf", vocabulary.vocab_size - 1)
    vocabulary.save(str(tmp_path / "hf"))
    convert.convert(from_hf=str(tmp_path / "hf"), to=str(tmp_path / "base"))

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "hf", attn_implementation="eager", dtype=torch.float32
        )

    lora = hf_peft.LoraConfig(r=4, lora_alpha=9, task_type="CAUSAL_LM", **OF_PEFT[name])
    adapted = hf_peft.get_peft_model(base(), lora).eval()
    torch.manual_seed(0)
    for parameter, tensor in adapted.named_parameters():
        if "lora_B" in parameter:
            torch.nn.init.normal_(tensor, std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    tokens = np.random.default_rng(0).integers(1, vocabulary.vocab_size, (2, 24))

    def logits(model):
        with torch.no_grad():
            return model(torch.tensor(tokens - 1)).logits.numpy()

    convert.convert(
        from_hf=str(tmp_path / "adapter"), to=str(tmp_path / "ours"), base=str(tmp_path / "base")
    )
    loaded = checkpoints.load_model(str(tmp_path / "ours"), one_device_mesh)
    ours = loaded.module.apply({"params": loaded.params}, jnp.asarray(tokens), enable_dropout=False)
    theirs = logits(adapted)
    np.testing.assert_allclose(theirs, ours[:, :, 1 : theirs.shape[-1] + 1], atol=1e-4)
    assert np.abs(theirs - logits(base())).max() > 1e-2
    convert.convert(source=str(tmp_path / "ours"), to_hf=str(tmp_path / "back"), merge_lora=False)
    back = hf_peft.PeftModel.from_pretrained(base(), str(tmp_path / "back")).eval()
    np.testing.assert_allclose(logits(back), theirs, atol=1e-4)
    assert peft.WEIGHTS_FILE in {path.name for path in (tmp_path / "back").iterdir()}
