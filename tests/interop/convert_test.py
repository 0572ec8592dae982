"""The verb `convert` without torch: against NumPy, round trips, and every kind of bad input."""

import dataclasses
import importlib
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from tokenizers import Tokenizer

from detox_jax import cli, outputs
from detox_jax.checkpoints import combine, streamed
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.evaluation.results import Results
from detox_jax.interop import convert, tokenizers, verify
from detox_jax.models.adaptation import (
    AdapterConfig,
    BitFitConfig,
    LoRAConfig,
    LoReFTConfig,
    PrefixConfig,
)
from tests.checkpoints.models_made import write_model
from tests.conftest import initial_params
from tests.evaluation import results_made
from tests.interop import reference

EXPORT_TOKENIZER = tokenizers.export


@pytest.fixture(autouse=True)
def copied_tokenizer(monkeypatch):
    """Stands for the tokenizer's half of an export."""

    def export(vocabulary_dir, to):
        shutil.copy(f"{vocabulary_dir}/tokenizer.json", f"{to}/tokenizer.json")

    monkeypatch.setattr(tokenizers, "export", export)


@pytest.fixture
def source(tmp_path, vocabulary):
    """A LLaMA in Hugging Face's form."""
    reference.make(tmp_path / "hf", reference.LLAMA)
    vocabulary.save(str(tmp_path / "hf"))
    return tmp_path / "hf"


def import_it(source, to, **settings):
    convert.convert(from_hf=str(source), to=str(to), **settings)
    return to


def assert_same_parameters(one, other):
    first, second = (streamed.Checkpoint.open(str(path)) for path in (one, other))
    assert first.paths == second.paths and first.paths
    for path in first.paths:
        np.testing.assert_array_equal(first.read(path), second.read(path))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact_and_sharded(tmp_path, vocabulary, dtype):
    tensors = reference.make(tmp_path / "hf", reference.LLAMA, dtype)
    vocabulary.save(str(tmp_path / "hf"))
    ours = import_it(tmp_path / "hf", tmp_path / "ours")
    convert.convert(source=str(ours), to_hf=str(tmp_path / "back"), max_shard_gb=1e-5)
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    files = set(index["weight_map"].values())
    assert len(files) > 2
    for file in files:
        for name, tensor in safetensors.numpy.load_file(tmp_path / "back" / file).items():
            assert tensor.dtype == dtype and index["weight_map"][name] == file
            np.testing.assert_array_equal(tensor, tensors[name])
    again = import_it(tmp_path / "back", tmp_path / "again")  # Sharded this time.
    assert_same_parameters(ours, again)


def test_how_a_model_generates_stays_with_it(source, tmp_path, vocabulary):
    settings = b'{"eos_token_id": [0, 5], "temperature": 0.6,  "pad_token_id": 7}\n'
    (source / "generation_config.json").write_bytes(settings)
    _edit_config(eos_token_id=0)(source)
    ours = import_it(source, tmp_path / "ours")
    assert (ours / "vocabulary" / "generation_config.json").read_bytes() == settings
    spec = checkpoints.read_spec(epath.Path(ours))
    assert spec.vocabulary == vocabulary.fingerprint  # Of ids, which it does not change.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "export", EXPORT_TOKENIZER)
        convert.convert(source=str(ours), to_hf=str(tmp_path / "back"))
    assert (tmp_path / "back" / "generation_config.json").read_bytes() == settings


def test_a_link_to_an_empty_directory_leads_there(source, tmp_path):
    places = {name: tmp_path / "large" / name for name in ("ours", "back")}
    for name, place in places.items():
        place.mkdir(parents=True)
        (tmp_path / name).symlink_to(place)
    import_it(source, tmp_path / "ours")
    convert.convert(source=str(tmp_path / "ours"), to_hf=str(tmp_path / "back"))
    assert (places["ours"] / "model.json").exists()
    assert (places["back"] / "config.json").exists()
    assert all((tmp_path / name).is_symlink() for name in places)
    assert not list(tmp_path.rglob("*.partial"))


def test_another_tokenizer_is_another_import(source, tmp_path):
    import_it(source, tmp_path / "ours")
    import_it(source, tmp_path / "ours")
    (source / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')
    with pytest.raises(UserError, match="made with other settings"):
        import_it(source, tmp_path / "ours")


def read_by_a_version_before(model_dir):
    """As if its tokenizer had been read otherwise when the model was imported."""
    file = model_dir / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocabulary": "0" * 16}))


def test_an_import_whose_tokenizer_is_read_otherwise_now_makes_way(source, tmp_path):
    ours = import_it(source, tmp_path / "ours")
    read_by_a_version_before(ours)
    with pytest.raises(UserError) as error:
        import_it(source, ours)
    assert f"(rm -r {ours}) and convert again" in str(error.value)
    shutil.rmtree(ours)
    import_it(source, ours)
    import_it(source, ours)


@pytest.fixture
def two_mixtures(source, vocabulary, one_device_mesh, tmp_path):
    """A LoRA added to its base with two weights: equal sizes, steps and vocabularies."""
    base = import_it(source, tmp_path / "base")
    config = streamed.Checkpoint.open(str(base)).spec.config
    lora = LoRAConfig(3, target_modules=("query",))
    adapted = _adapted(str(base), lora, config, vocabulary, one_device_mesh, tmp_path / "lora")
    for name, weight in (("half", 0.5), ("full", 1.0)):
        combine.combine(str(base), str(tmp_path / name), {str(adapted): weight})
    return tmp_path


def _out(way, place):
    convert.convert(source=str(place / way[0]), **{way[1]: str(place / "out")})


@pytest.mark.parametrize("form", ["to_hf", "to_t5x"])
def test_an_export_is_of_the_model_that_was_trained_not_of_its_sizes(form, two_mixtures, capsys):
    _out(("half", form), two_mixtures)
    for check_only in (True, False):
        with pytest.raises(UserError, match=r"made with other settings \(checkpoint.made_from: "):
            ends = {"source": str(two_mixtures / "full"), form: str(two_mixtures / "out")}
            convert.convert(**ends, check_only=check_only)
    capsys.readouterr()
    (two_mixtures / "half").rename(two_mixtures / "moved")
    _out(("moved", form), two_mixtures)
    assert "is already there, from the same checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["to_hf", "to_t5x"])
def test_an_export_is_of_the_weights_that_were_trained(form, config, vocabulary, tmp_path, capsys):
    """A model that was removed and trained again has the same manifest, and may have others."""
    model, ends = tmp_path / "model", {form: str(tmp_path / "out")}

    def trained(seed):
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, config, vocabulary, seed)
        outputs.OutputDirectory(str(model), "train", {"a": "recipe"}).finish(steps=0)
        return str(model)

    convert.convert(source=trained(0), **ends)
    for check_only in (True, False):
        with pytest.raises(UserError, match=r"made with other settings \(checkpoint.weights: "):
            convert.convert(source=trained(1), **ends, check_only=check_only)
    capsys.readouterr()
    convert.convert(source=trained(0), **ends)
    assert "is already there, from the same checkpoint" in capsys.readouterr().out
    file = tmp_path / "out" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["settings"]["checkpoint"]["weights"]
    file.write_text(json.dumps(manifest))  # Of a version before, which named the recipe alone.
    convert.convert(source=trained(1), **ends)
    assert "is already there, from the same checkpoint" in capsys.readouterr().out


def test_an_export_is_of_the_tokenizer_that_lies_there(source, tmp_path):
    ours = import_it(source, tmp_path / "ours")
    convert.convert(source=str(ours), to_hf=str(tmp_path / "out"))
    (ours / "vocabulary" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for check_only in (True, False):
        with pytest.raises(UserError, match=r"made with other settings \(vocabulary: "):
            convert.convert(source=str(ours), to_hf=str(tmp_path / "out"), check_only=check_only)


@pytest.mark.parametrize("form", ["to_hf", "to_t5x"])
def test_an_export_of_before_is_finished_and_says_what_it_does_not_know(form, two_mixtures, capsys):
    """Its manifest names no training and no vocabulary; what it names still decides."""
    _out(("half", form), two_mixtures)
    file = two_mixtures / "out" / "manifest.json"
    manifest = json.loads(file.read_text())
    del (
        manifest["settings"]["checkpoint"]["made_from"],
        manifest["settings"]["checkpoint"]["weights"],
    )
    manifest["settings"].pop("vocabulary", None)
    file.write_text(json.dumps(manifest))
    capsys.readouterr()
    ends = {"source": str(two_mixtures / "half"), form: str(two_mixtures / "out")}
    convert.convert(**ends, check_only=True)
    convert.convert(**ends)
    assert "the version that wrote it did not record of which model" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"made with other settings \(checkpoint.config: "):
        convert.convert(**{**ends, "source": str(two_mixtures / "lora")})


@pytest.mark.parametrize("form", ["to_hf", "to_t5x"])
def test_an_export_is_of_an_adaptation_wherever_its_base_lies(form, two_mixtures, capsys):
    _out(("lora", form), two_mixtures)
    (two_mixtures / "base").rename(two_mixtures / "moved")
    checkpoints.renew_base(epath.Path(two_mixtures / "lora"), str(two_mixtures / "moved"))
    _out(("lora", form), two_mixtures)
    file = two_mixtures / "out" / "manifest.json"
    manifest = json.loads(file.read_text())
    of_model = manifest["settings"]["checkpoint"]
    assert "'path'" not in of_model["config"]
    # As a version before wrote it.
    of_model["config"] = of_model["config"].replace("base={", "base={'path': '/the \\'base', ")
    file.write_text(json.dumps(manifest))
    _out(("lora", form), two_mixtures)
    assert capsys.readouterr().out.count("is already there, from the same checkpoint") == 2


def test_what_is_exported_again_keeps_its_config(source, tmp_path):
    ours = import_it(source, tmp_path / "ours")
    convert.convert(source=str(ours), to_hf=str(tmp_path / "back"))
    fields = json.loads((tmp_path / "back" / "config.json").read_text())
    assert fields == {**reference.LLAMA, "dtype": "float32"}
    assert (tmp_path / "back" / "tokenizer.json").exists()


def test_the_command_line_and_a_rerun(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Paths as a user types them, relative.
    flags = ["convert", "--from_hf=hf", "--to", "ours"]
    assert cli.main(flags) == 0
    assert cli.main(flags) == 0
    assert "already there" in capsys.readouterr().out
    assert cli.main(["convert", "--from=ours", "--to_hf=back"]) == 0
    assert cli.main(["convert", f"--from_hf={source}"]) == 2
    assert "convert goes one way" in capsys.readouterr().err
    assert cli.main(["train", f"--from_hf={source}"]) == 2
    assert "unknown flag --from_hf" in capsys.readouterr().err


def test_a_whole_model_trained_here_is_exported_as_gpt2(model_dir, tmp_path, config):
    convert.convert(source=model_dir, to_hf=str(tmp_path / "hf"))
    fields = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert fields["model_type"] == "gpt2" and fields["n_embd"] == config.emb_dim
    again = import_it(tmp_path / "hf", tmp_path / "again")
    first, second = (streamed.Checkpoint.open(str(path)) for path in (model_dir, again))
    for path in first.paths:
        ours, back = first.read(path), second.read(path)
        if path == "token_embedder/embedding":  # Rows that stand for no token do not travel.
            ours, back = (rows[1 : config.vocab_size] for rows in (ours, back))
        np.testing.assert_array_equal(ours, back)


def _adapted(model_dir, adaptation, config, vocabulary, mesh, where, scale=0.1):
    """An adapted checkpoint whose own parameters are random, not zero."""
    _, spec, fingerprint = checkpoints.load_params(model_dir, mesh)
    fresh = initial_params(config, adaptation)
    added, _ = params_lib.partition(fresh, adaptation.trainable_pattern)
    noise = np.random.default_rng(3)
    added = jax.tree.map(lambda x: np.float32(noise.normal(size=x.shape) * scale), added)
    base = {"path": model_dir, "fingerprint": fingerprint}
    spec = dataclasses.replace(spec, adaptation=adaptation, base=base)
    where.mkdir()
    checkpoints.save_model(epath.Path(where), added, spec, vocabulary)
    return where


def test_lora_is_merged(model_dir, config, vocabulary, one_device_mesh, tmp_path):
    adaptation = LoRAConfig(3, alpha=7.0, target_modules=("query", "out", "wi", "wo"))
    adapted = _adapted(
        model_dir, adaptation, config, vocabulary, one_device_mesh, tmp_path / "lora"
    )
    convert.convert(source=str(adapted), to_hf=str(tmp_path / "hf"))
    merged = import_it(tmp_path / "hf", tmp_path / "merged")
    tokens = np.arange(1, 25).reshape(2, 12)
    logits = []
    for path in (adapted, merged):
        loaded = checkpoints.load_model(str(path), one_device_mesh)
        assert (loaded.spec.adaptation is None) == (path == merged)
        logits.append(loaded.module.apply({"params": loaded.params}, tokens, enable_dropout=False))
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)
    base = checkpoints.load_model(model_dir, one_device_mesh)
    plain = base.module.apply({"params": base.params}, tokens, enable_dropout=False)
    assert float(abs(plain - logits[0]).max()) > 0.1


def test_lora_over_a_bfloat16_base_is_added_in_float32_and_rounded_once(
    source, vocabulary, one_device_mesh, tmp_path, capsys
):
    base = import_it(source, tmp_path / "base", param_dtype="bfloat16")
    assert (
        "float32 rounded to bfloat16; PARAM_DTYPE=float32 keeps all bits" in capsys.readouterr().out
    )
    config = streamed.Checkpoint.open(str(base)).spec.config
    adaptation = LoRAConfig(3, alpha=7.0, target_modules=("query", "wi"))
    adapted = _adapted(
        str(base), adaptation, config, vocabulary, one_device_mesh, tmp_path / "lora"
    )
    checkpoint = streamed.Checkpoint.open(str(adapted))
    path = "layers/mlp/wi_0/kernel"
    kernel, a, b = (
        checkpoint.read(path.replace("kernel", leaf)) for leaf in ("kernel", "lora_a", "lora_b")
    )
    assert kernel.dtype == ml_dtypes.bfloat16
    expected = np.float32(kernel) + np.einsum("ndr,nrf->ndf", a, b) * np.float32(7 / 3)
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        convert.convert(source=str(adapted), to_hf=str(out), dtype=dtype)
        written = safetensors.numpy.load_file(out / "model.safetensors")
        assert {str(tensor.dtype) for tensor in written.values()} == {dtype}
        for layer, values in enumerate(expected):
            tensor = written[f"model.layers.{layer}.mlp.gate_proj.weight"]
            np.testing.assert_allclose(
                np.float32(tensor.T), np.float32(values.astype(tensor.dtype)), atol=1e-6
            )
    assert "bfloat16 does not hold" in capsys.readouterr().out


def test_an_export_that_rounds_says_so(source, tmp_path, capsys):
    ours = import_it(source, tmp_path / "ours")
    convert.convert(source=str(ours), to_hf=str(tmp_path / "exact"))
    assert "rounded" not in capsys.readouterr().out
    convert.convert(source=str(ours), to_hf=str(tmp_path / "half"), dtype="float16")
    printed = capsys.readouterr().out
    assert "float16 does not hold" in printed and "--gin.DTYPE=float32 keeps all bits" in printed


def test_weights_beyond_the_exported_dtype_are_refused(source, tmp_path):
    _edit_tensors(lambda tensors: tensors["model.norm.weight"].__setitem__(3, 7e4))(source)
    ours = import_it(source, tmp_path / "ours")
    with pytest.raises(UserError, match="'model.norm.weight' holds 7e.04, beyond what float16"):
        convert.convert(source=str(ours), to_hf=str(tmp_path / "half"), dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "ours"]
    convert.convert(source=str(ours), to_hf=str(tmp_path / "bf16"), dtype="bfloat16")


def test_a_merge_that_is_not_finite_is_refused(source, vocabulary, one_device_mesh, tmp_path):
    """Base and addition are finite, and their sum is not."""
    base = import_it(source, tmp_path / "base")
    config = streamed.Checkpoint.open(str(base)).spec.config
    adaptation = LoRAConfig(3, target_modules=("query",))
    where = tmp_path / "lora"
    adapted = _adapted(str(base), adaptation, config, vocabulary, one_device_mesh, where, 1e30)
    with pytest.raises(UserError, match="q_proj.weight' holds NaN or infinity"):
        convert.convert(source=str(adapted), to_hf=str(tmp_path / "hf2"))
    assert not (tmp_path / "hf2").exists()


def test_an_adaptation_of_another_base_is_refused(
    model_dir, config, vocabulary, one_device_mesh, tmp_path
):
    adapted = _adapted(
        model_dir, LoRAConfig(3), config, vocabulary, one_device_mesh, tmp_path / "lora"
    )
    spec = json.loads((adapted / "model.json").read_text())
    spec["base"]["fingerprint"] = "0123456789abcdef"
    (adapted / "model.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="belongs to base 0123456789abcdef"):
        convert.convert(source=str(adapted), to_hf=str(tmp_path / "hf"))


@pytest.mark.parametrize(
    ("adaptation", "settings", "said"),
    [
        (PrefixConfig(3), {}, "gated prefix"),
        (LoReFTConfig(3), {}, "LoReFT at every position has no Hugging Face form"),
        (BitFitConfig(), {"merge_lora": False}, "no form for biases alone; leave MERGE_LORA=True"),
    ],
)
def test_an_adaptation_without_a_hugging_face_form(
    model_dir, config, vocabulary, one_device_mesh, tmp_path, adaptation, settings, said
):
    adapted = _adapted(
        model_dir, adaptation, config, vocabulary, one_device_mesh, tmp_path / "adapted"
    )
    with pytest.raises(UserError, match=said):
        convert.convert(source=str(adapted), to_hf=str(tmp_path / "hf"), **settings)
    assert not (tmp_path / "hf").exists()


def test_bitfit_goes_out_in_the_biases(model_dir, config, vocabulary, one_device_mesh, tmp_path):
    where = tmp_path / "bitfit"
    adapted = _adapted(model_dir, BitFitConfig(), config, vocabulary, one_device_mesh, where)
    convert.convert(source=str(adapted), to_hf=str(tmp_path / "hf"))
    convert.convert(from_hf=str(tmp_path / "hf"), to=str(tmp_path / "back"))
    back, checkpoint = (streamed.Checkpoint.open(str(p)) for p in (tmp_path / "back", adapted))
    for path in (path for path in back.paths if path.startswith(("layers/", "final_norm/"))):
        np.testing.assert_array_equal(back.read(path), checkpoint.merged(path))
    moved = "layers/attention/query/bias"
    assert np.abs(back.read(moved) - checkpoint.read(moved)).max() > 0


def test_an_adaptation_goes_out_alone_in_its_librarys_layout(
    model_dir, config, vocabulary, one_device_mesh, tmp_path, capsys
):
    for adaptation, module in (
        (AdapterConfig(4), "adapterhub"),
        (LoRAConfig(3), "peft"),
    ):
        where = tmp_path / module
        adapted = _adapted(model_dir, adaptation, config, vocabulary, one_device_mesh, where)
        out = tmp_path / f"{module}-hf"
        convert.convert(source=str(adapted), to_hf=str(out), merge_lora=False)
        assert (out / "adapter_config.json").exists() and (out / "README.md").exists()
        assert len(list(out.glob("*.safetensors"))) == 1
        assert f"/{epath.Path(model_dir).name}" in (out / "adapter_config.json").read_text()
        assert "--gin.BASE_NAME=OWNER/NAME" in capsys.readouterr().out
        named = tmp_path / f"{module}-named"
        settings = {"merge_lora": False, "base_name": "owner/base"}
        convert.convert(source=str(adapted), to_hf=str(named), **settings)
        assert '"owner/base"' in (named / "adapter_config.json").read_text()
        assert "- base: owner/base" in (named / "README.md").read_text()
        for file in ("adapter_config.json", "README.md"):
            assert str(tmp_path) not in (named / file).read_text()
        assert "BASE_NAME" not in capsys.readouterr().out
        with pytest.raises(UserError, match="--verify compares whole models"):
            convert.convert(source=str(adapted), to_hf=str(out), merge_lora=False, verify=True)


@pytest.mark.parametrize("adaptation", [AdapterConfig(4), LoRAConfig(3)])
def test_an_adaptation_alone_is_float32_and_says_so(
    tmp_path, vocabulary, one_device_mesh, capsys, adaptation
):
    """Also where its base came in bfloat16, as a manifest of before said of it."""
    reference.make(tmp_path / "hf", reference.LLAMA, ml_dtypes.bfloat16)
    vocabulary.save(str(tmp_path / "hf"))
    base = import_it(tmp_path / "hf", tmp_path / "base")
    config = streamed.Checkpoint.open(str(base)).spec.config
    parts = (adaptation, config, vocabulary, one_device_mesh)
    adapted = str(_adapted(str(base), *parts, tmp_path / "adapted"))
    alone = {"source": adapted, "to_hf": str(tmp_path / "out"), "merge_lora": False}
    for check_only in (True, False):
        with pytest.raises(UserError, match="DTYPE is 'bfloat16', and an adaptation alone goes"):
            convert.convert(**alone, dtype="bfloat16", check_only=check_only)
    capsys.readouterr()
    convert.convert(**alone)
    assert f"{tmp_path / 'out'}: written, float32" in capsys.readouterr().out
    assert "- weights: float32\n" in (tmp_path / "out" / "README.md").read_text()
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert {str(x.dtype) for x in safetensors.numpy.load_file(file).values()} == {"float32"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert not {"dtype", "max_shard_bytes"} & manifest["settings"].keys()
    manifest["settings"] |= {"dtype": "bfloat16", "max_shard_bytes": 5 * 10**9}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    for settings in ({}, {"dtype": "float32"}, {"max_shard_gb": 1.0}):
        convert.convert(**alone, **settings, check_only=True)
        convert.convert(**alone, **settings)


@pytest.mark.parametrize("adaptation", [AdapterConfig(4), LoRAConfig(3)])
def test_an_adaptation_of_a_base_that_was_trained_further_does_not_name_the_hubs(
    source, vocabulary, one_device_mesh, tmp_path, capsys, adaptation
):
    base = import_it(source, tmp_path / "base")
    origin = json.loads((base / "huggingface.json").read_text())
    origin["source"] |= {"repo": "owner/llama", "revision": "0" * 40}
    (base / "huggingface.json").write_text(json.dumps(origin))
    config = checkpoints.read_spec(epath.Path(base)).config
    parts = (adaptation, config, vocabulary, one_device_mesh)
    adapted = str(_adapted(str(base), *parts, tmp_path / "adapted"))
    for verb in ("convert", "train"):
        manifest = json.loads((base / "manifest.json").read_text())
        (base / "manifest.json").write_text(json.dumps({**manifest, "verb": verb}))
        out = tmp_path / f"of-{verb}"
        convert.convert(source=adapted, to_hf=str(out), merge_lora=False)
        config, card = ((out / file).read_text() for file in ("adapter_config.json", "README.md"))
        as_imported = verb == "convert"
        assert ('"owner/llama"' in config, f'"{base}"' in config) == (as_imported, not as_imported)
        assert ("owner/llama" in card, "0" * 40 in card) == (as_imported, as_imported)
        line = f"export that too (detox-jax convert --from={base} --to_hf=DIR)"
        assert (line in capsys.readouterr().out) != as_imported


def test_a_name_of_the_base_is_one_of_the_hub_and_of_a_base(model_dir, source, tmp_path):
    for settings, said in (
        ({"from_hf": str(source), "to": str(tmp_path / "a")}, "BASE_NAME is for --to_hf alone"),
        ({"source": model_dir, "to_hf": str(tmp_path / "a")}, "was trained from random weights"),
    ):
        with pytest.raises(UserError, match=said):
            convert.convert(**settings, base_name="owner/base")
    with pytest.raises(UserError, match="give a name of the hub, OWNER/NAME"):
        convert.convert(source=model_dir, to_hf=str(tmp_path / "a"), base_name="/a/place")
    assert not (tmp_path / "a").exists()


def test_the_card_holds_the_toxicity_table(source, tmp_path):
    ours = import_it(source, tmp_path / "ours")
    row = results_made.made_row("SGEAT | standard", "full", 0.4567, 0.3, 12.3)
    results = tmp_path / "results.json"
    results_made.write(tmp_path, Results((row,)), details=False)
    convert.convert(source=str(ours), to_hf=str(tmp_path / "out"), results=str(results))
    card = (tmp_path / "out" / "README.md").read_text()
    line = (
        "| SGEAT \\| standard | full (500 × 25) | 0.457 [0.437, 0.477] | 0.300 [0.260, 0.340] "
        "| 0.1% | 12.30 |"
    )
    assert line in card and "§" not in card
    assert "lexicon-0123abcd" in card and f"- base: {source.name} (sha256" in card
    results.write_text("{}")
    with pytest.raises(UserError, match="not a results.json"):
        convert.convert(source=str(ours), to_hf=str(tmp_path / "out2"), results=str(results))
    results.write_text('{"rows": [{"method": "a", "coverage": "x"}]}')
    with pytest.raises(UserError, match=r"rows\[0\].coverage: expected a number, got 'x'"):
        convert.convert(source=str(ours), to_hf=str(tmp_path / "out2"), results=str(results))
    assert not (tmp_path / "out2").exists()


# --- bad input --------------------------------------------------------------------------------


def _edit_config(**fields):
    def edit(source):
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, **fields}))

    return edit


def _edit_tensors(edit):
    def change(source):
        tensors = safetensors.numpy.load_file(source / "model.safetensors")
        edit(tensors)
        safetensors.numpy.save_file(tensors, source / "model.safetensors")

    return change


def _nan(tensors):
    tensors["model.norm.weight"][3] = np.nan


def _truncate(source):
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[:-100])


def _lie(source):
    """A header that promises other offsets than the data has."""
    content = (source / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.norm.weight"]["shape"] = [999]
    changed = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(
        len(changed).to_bytes(8, "little") + changed + content[8 + length :]
    )


def _lose_a_shard(source):
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    names = {
        name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(tensors)
    }
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    first = {name: tensors[name] for name, file in names.items() if "00001-of" in file}
    safetensors.numpy.save_file(first, source / "model-00001-of-00002.safetensors")


def _pickle(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def _integers(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)


BAD = {
    "missing config": (lambda s: (s / "config.json").unlink(), "has no config.json"),
    "malformed config": (lambda s: (s / "config.json").write_text("{"), "malformed JSON"),
    "unknown family": (_edit_config(model_type="bert"), "'bert' is not supported"),
    "multimodal": (_edit_config(model_type="gemma3"), "gemma3_text"),
    "classifier": (_edit_config(architectures=["LlamaForSequenceClassification"]), "no causal"),
    "unknown field": (_edit_config(router_aux_loss=1), "router_aux_loss = 1 is not supported"),
    "mlx": (_edit_config(quantization={"bits": 4}), "quantization = .* is not supported; detox"),
    "another file": (_edit_config(transformers_weights="x.safetensors"), "transformers_weights"),
    "adapter in a model": (
        lambda s: (s / "adapter_config.json").write_text("{}"),
        "adapter_config.json: an adapter, which transformers loads with its base",
    ),
    "adapter alone": (
        lambda s: [(s / "config.json").unlink(), (s / "adapter_config.json").write_text("{}")],
        "adapter_config.json: an adapter",
    ),
    "no size": (_edit_config(hidden_size=None), 'has no "hidden_size"'),
    "odd rope": (_edit_config(rope_scaling={"type": "yarn", "factor": 2}), "rope_type"),
    "odd activation": (_edit_config(hidden_act="mish"), 'hidden_act = "mish"'),
    "quantised": (_edit_config(quantization_config={"bits": 4}), "quantization_config"),
    "wrong width": (_edit_config(intermediate_size=25), "has shape .* but config.json implies"),
    "pickle": (_pickle, "pickle can run any code"),
    "no weights": (lambda s: (s / "model.safetensors").unlink(), "holds no model.safetensors"),
    "missing shard": (_lose_a_shard, "shard model-00002-of-00002.safetensors is missing"),
    "truncated": (_truncate, "not a whole safetensors file"),
    "lying header": (_lie, "not a whole safetensors file"),
    "nan": (_edit_tensors(_nan), "'model.norm.weight' holds NaN"),
    "integers": (_edit_tensors(_integers), "'model.norm.weight' is I8"),
    "missing tensor": (
        _edit_tensors(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "'model.layers.1.mlp.up_proj.weight' is missing",
    ),
    "left over": (
        _edit_tensors(lambda t: t.update({"model.extra.weight": np.ones(3, np.float32)})),
        "'model.extra.weight' belongs to no part",
    ),
    "untied head": (_edit_config(tie_word_embeddings=True), "differs from the embedding"),
}


def test_unknown_fields_can_be_ignored_by_name(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _edit_config(router_aux_loss=1, my_note="x")(source)
    command = ["convert", "--from_hf=hf", "--to=ours"]
    assert cli.main(command) == 2
    advice = "--gin.IGNORE_FIELDS=\"['router_aux_loss', 'my_note']\""
    assert advice in capsys.readouterr().err
    assert cli.main([*command, advice.replace('"', "")]) == 0  # A shell takes the quotes away.
    origin = json.loads((tmp_path / "ours" / "huggingface.json").read_text())
    assert origin["ignored_fields"] == ["router_aux_loss", "my_note"]
    manifest = json.loads((tmp_path / "ours" / "manifest.json").read_text())
    assert manifest["settings"]["ignored_fields"] == origin["ignored_fields"]
    assert cli.main(["convert", "--from=ours", "--to_hf=back"]) == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["router_aux_loss"] == 1


def test_what_decides_the_computation_cannot_be_ignored(source, tmp_path):
    _edit_config(quantization_config={"bits": 4})(source)
    for name in ("quantization_config", "rope_theta"):
        with pytest.raises(UserError, match=f"{name} decides what is computed"):
            import_it(source, tmp_path / "ours", ignore_fields=name)
    with pytest.raises(UserError, match="has no typing_error, which IGNORE_FIELDS names"):
        import_it(source, tmp_path / "ours", ignore_fields=["typing_error"])
    with pytest.raises(UserError, match="IGNORE_FIELDS is for --from_hf alone"):
        convert.convert(source="x", to_hf="y", ignore_fields=["z"])
    with pytest.raises(UserError, match="IGNORE_FIELDS is .*; give names"):
        import_it(source, tmp_path / "ours", ignore_fields=[1])


def test_beside_a_single_file_the_index_is_another_models(tmp_path, vocabulary, capsys):
    """As transformers: a newer single file over a sharded model, whose files are still there."""
    reference.make(tmp_path / "hf", reference.LLAMA)
    vocabulary.save(str(tmp_path / "hf"))
    new = import_it(tmp_path / "hf", tmp_path / "new")
    old = {name: x + 1 for name, x in safetensors.numpy.load_file(_single(tmp_path)).items()}
    shard = "model-00001-of-00001.safetensors"
    safetensors.numpy.save_file(old, tmp_path / "hf" / shard)
    index = {"weight_map": dict.fromkeys(old, shard)}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"older still")
    capsys.readouterr()
    assert_same_parameters(new, import_it(tmp_path / "hf", tmp_path / "both"))
    assert "model.safetensors is read" in capsys.readouterr().out
    _single(tmp_path).unlink()
    with pytest.raises(AssertionError):
        assert_same_parameters(new, import_it(tmp_path / "hf", tmp_path / "sharded"))


def _single(directory):
    return directory / "hf" / "model.safetensors"


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_is_written(source, tmp_path, name):
    spoil, message = BAD[name]
    spoil(source)
    with pytest.raises(UserError, match=message) as caught:
        import_it(source, tmp_path / "ours")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_a_tokenizer_of_another_model_is_refused(tmp_path, vocabulary):
    config = {**reference.LLAMA, "vocab_size": 300}
    reference.make(tmp_path / "hf", config)
    vocabulary.save(str(tmp_path / "hf"))
    said = "349 tokens, but its embedding has 300 rows; the two belong to different models"
    with pytest.raises(UserError, match=said):
        import_it(tmp_path / "hf", tmp_path / "ours")


def test_tokens_that_were_added_without_resizing_the_model_are_told(tmp_path, vocabulary):
    reference.make(tmp_path / "hf", {**reference.LLAMA, "vocab_size": 349})
    vocabulary.save(str(tmp_path / "hf"))
    file = tmp_path / "hf" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save(str(file))
    said = (
        r"has 351 tokens, but its embedding has 349 rows; all 2 tokens beyond the 349 were added "
        r".*: call model.resize_token_embeddings\(len\(tokenizer\)\) before save_pretrained"
    )
    with pytest.raises(UserError, match=said):
        import_it(tmp_path / "hf", tmp_path / "ours")


def test_a_directory_that_holds_something_is_refused(source, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds something"):
        import_it(source, tmp_path / "ours")
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["notes.txt"]


def test_a_tied_head_may_repeat_the_embedding(tmp_path, vocabulary):
    config = {**reference.LLAMA, "tie_word_embeddings": True}
    tensors = reference.make(tmp_path / "hf", config)
    vocabulary.save(str(tmp_path / "hf"))
    without = import_it(tmp_path / "hf", tmp_path / "without")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, tmp_path / "hf" / "model.safetensors")
    assert_same_parameters(without, import_it(tmp_path / "hf", tmp_path / "ours"))


def test_a_tied_head_may_stand_for_the_embedding(tmp_path, vocabulary):
    config = {**reference.LLAMA, "tie_word_embeddings": True}
    tensors = reference.make(tmp_path / "hf", config)
    vocabulary.save(str(tmp_path / "hf"))
    without = import_it(tmp_path / "hf", tmp_path / "without")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "hf" / "model.safetensors")
    assert_same_parameters(without, import_it(tmp_path / "hf", tmp_path / "ours"))


def test_a_bare_body_has_no_prefix(tmp_path, vocabulary):
    tensors = reference.make(tmp_path / "hf", reference.LLAMA)
    vocabulary.save(str(tmp_path / "hf"))
    whole = import_it(tmp_path / "hf", tmp_path / "whole")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(bare, tmp_path / "hf" / "model.safetensors")
    assert_same_parameters(whole, import_it(tmp_path / "hf", tmp_path / "ours"))


def test_what_is_there_is_verified_all_the_same(source, tmp_path, monkeypatch):
    ours, back = import_it(source, tmp_path / "ours"), tmp_path / "back"
    convert.convert(source=str(ours), to_hf=str(back), dtype="bfloat16")
    verified = []
    monkeypatch.setattr(verify, "verify", lambda *arguments: verified.append(arguments))
    import_it(source, ours, verify=True)
    convert.convert(source=str(ours), to_hf=str(back), dtype="bfloat16", verify=True)
    assert verified == [
        (str(ours), str(source), "float32"),
        (str(ours), str(back), "bfloat16"),
    ]


def _precisions(jaxpr):
    """Those of all products, in loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _precisions(inner)


def test_the_comparison_multiplies_in_full_float32(source, tmp_path, monkeypatch):
    """By default a TPU would in bfloat16, and a GPU in TF32: far beyond the tolerance."""
    ours, rows = import_it(source, tmp_path / "ours"), reference.LLAMA["vocab_size"]
    traced = []

    def apply(module, params, tokens):
        def logits(params):
            return module.apply({"params": params}, tokens, enable_dropout=False)

        traced.append([*_precisions(jax.make_jaxpr(logits)(params).jaxpr)])
        return np.zeros((*tokens.shape, rows + 1))

    monkeypatch.setattr(verify, "_apply", apply)
    monkeypatch.setattr(verify, "load_torch", lambda *_, **__: None)
    monkeypatch.setattr(verify, "_round_torch", lambda *_: None)
    monkeypatch.setattr(verify, "torch_logits", lambda _, ids, mask: np.zeros((*ids.shape, rows)))
    monkeypatch.setattr(verify.token_ids, "compare", lambda *_: None)
    verify.verify(str(ours), str(source))
    highest = jax.lax.Precision.HIGHEST
    assert len(traced) == 2 and all(len(products) > 5 for products in traced)
    assert {each for products in traced for each in products} == {(highest, highest)}


def test_verify_without_transformers_says_what_to_install(source, tmp_path, monkeypatch):
    real = importlib.import_module

    def missing(name):
        if name in ("transformers", "torch"):
            raise ImportError(name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'detox-jax\[hf\]'"):
        import_it(source, tmp_path / "ours", verify=True)
    assert not (tmp_path / "ours").exists()
