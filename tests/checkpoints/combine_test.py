"""The verb `combine` on the command line, and what other verbs do with its result."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax import atomic_files, cli, manifests, outputs
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.models.adaptation import (
    AdapterConfig,
    BitFitConfig,
    LoRAConfig,
    LoReFTConfig,
)
from detox_jax.vocabulary import Vocabulary
from tests.checkpoints.models_made import write_adaptation, write_model
from tests.conftest import SENTENCES

LORA = LoRAConfig(2, alpha=6.0, target_modules=("query", "wo"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_dir, config, vocabulary):
    """A base with models and adaptations of it."""
    root = tmp_path_factory.mktemp("combined")
    shutil.copytree(model_dir, root / "base")
    for name, seed in {"toxic": 1, "other": 2}.items():
        write_model(root / name, config, vocabulary, seed)
    for name, adaptation in {
        "lora": LORA,
        "adapter": AdapterConfig(4),
        "bitfit": BitFitConfig(),
        "loreft": LoReFTConfig(2),
    }.items():
        write_adaptation(root / name, root / "base", config, vocabulary, adaptation)
    return root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def combine(terms, output, *extra, base="base"):
    named = {"BASE": base, "TERMS": terms, "OUTPUT_DIR": output}
    return cli.main(["combine", *(f"--gin.{name}={v}" for name, v in named.items()), *extra])


def refused(capsys, *arguments, **named):
    assert combine(*arguments, **named) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("detox-jax: error: "), error
    return error


def flat(path):
    checkpoint = Checkpoint.open(str(path))
    return {name: checkpoint.read(name) for name in checkpoint.paths}


def test_weight_0_is_the_base_and_1_the_model(here, capsys):
    assert combine({"toxic": 0.0}, "zero") == 0
    assert combine({"toxic": 1.0}, "one") == 0
    assert Checkpoint.open("zero").fingerprint == Checkpoint.open("base").fingerprint
    toxic = flat("toxic")
    for path, array in flat("one").items():
        np.testing.assert_array_equal(array, toxic[path])
    said = capsys.readouterr().out
    assert said.count("the weights of BASE as they were") == said.count("zero: the weights") == 1
    assert "toxic: does not say what it was trained from; taken for a model of base" in said
    assert "layers/1 " in said and "whole " in said
    manifest = manifests.read_manifest(epath.Path("one"))
    (term,) = manifest["settings"]["terms"]
    assert term["fingerprint"] == Checkpoint.open("toxic").fingerprint
    assert term["path"] == "toxic" and term["weight"] == 1.0
    assert manifest["settings"]["base"]["fingerprint"] == Checkpoint.open("base").fingerprint
    assert manifest["fingerprint"] == Checkpoint.open("one").fingerprint
    assert manifest["change"]["blocks"]["layers/0"] > 0


def test_a_sum_begins_without_the_origin_that_another_run_has_left(here):
    outputs.OutputDirectory("half-way", "combine", {"edit": 1}, lambda: False)
    epath.Path("half-way/huggingface.json").write_text("{}")
    assert combine({"toxic": 0.5}, "half-way") == 0
    assert not epath.Path("half-way/huggingface.json").exists()


def test_another_weight_is_named_and_not_all_that_the_terms_are(here, capsys):
    assert combine({"toxic": 0.5}, "half-way") == 0
    said = refused(capsys, {"toxic": 0.25}, "half-way")
    assert "half-way: holds output made with other settings (terms[0].weight: 0.5 there, " in said


def test_a_model_of_equal_parameters_that_are_read_otherwise_is_another(here, capsys):
    """A LoRA of the same matrices and another alpha. What a version before finished stays."""
    shutil.copytree("lora", "louder")
    file = here / "louder" / "model.json"
    spec = json.loads(file.read_text())
    spec["adaptation"]["alpha"] *= 2
    file.write_text(json.dumps(spec))
    assert combine({"lora": 1.0}, "once") == 0
    for extra in ([], ["--dry_run"]):
        assert combine({"louder": 1.0}, "once", *extra) == 2
        assert "once: holds output made with other settings (terms[0].spec_sha256: " in (
            capsys.readouterr().err
        )
    file = here / "once" / "manifest.json"
    manifest = json.loads(file.read_text())
    for model in (manifest["settings"]["base"], *manifest["settings"]["terms"]):
        del model["spec_sha256"]
    file.write_text(json.dumps(manifest))
    for extra in ([], ["--dry_run"]):
        assert combine({"lora": 1.0}, "once", *extra) == 0


def test_a_forgotten_model_brings_the_model_back(here):
    """What `combine` wrote is a model of the same base."""
    assert combine({"toxic": -1.0}, "away") == 0
    assert combine({"away": -1.0}, "back") == 0
    toxic = flat("toxic")
    for path, array in flat("back").items():
        np.testing.assert_allclose(array, toxic[path], rtol=0, atol=1e-6)


def test_neither_names_nor_their_order_change_a_byte(here):
    assert combine({"toxic": -0.3, "other": 0.7, "lora": 0.1}, "first") == 0
    shutil.copytree("toxic", "z-toxic")
    assert combine({"lora": 0.1, "other": 0.7, "z-toxic": -0.3}, "second") == 0
    first, second = (manifests.read_manifest(epath.Path(name)) for name in ("first", "second"))
    assert first["fingerprint"] == second["fingerprint"]
    assert combine({"other": 0.7, "z-toxic": -0.3, "lora": 0.1}, "first") == 0  # is there


def test_of_a_negated_lora_b_is_scaled_once(here):
    assert combine({"lora": -1.0}, "merged") == 0
    base, lora, merged = flat("base"), flat("lora"), flat("merged")
    for name in ("attention/query", "mlp/wo"):
        a, b = (lora[f"layers/{name}/lora_{part}"].astype(float) for part in "ab")
        product = np.stack([np.tensordot(x, y, 1) for x, y in zip(a, b, strict=True)])
        kernel = f"layers/{name}/kernel"
        np.testing.assert_allclose(merged[kernel], base[kernel] - 3.0 * product, atol=1e-6)
    same = [path for path in base if path not in ("layers/attention/query/kernel", kernel)]
    assert all(merged[path].tobytes() == base[path].tobytes() for path in same)
    # Kept apart, one of its two matrices is negated.
    assert combine({"lora": -1.0}, "apart", "--gin.MERGE=False") == 0
    apart = flat("apart")
    for path, array in lora.items():
        np.testing.assert_array_equal(apart[path], -array if path.endswith("b") else array)


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("adapter", r"up_(kernel|bias)"),
        ("lora", "lora_b"),
        ("loreft", "weight|bias"),
    ],
)
def test_an_adaptation_stays_one_and_its_addition_is_scaled(here, name, scaled):
    extra = ["--gin.MERGE=False"]
    assert combine({name: 0.0}, f"{name}-0", *extra) == 0
    assert combine({name: -0.5}, f"{name}-away", *extra) == 0
    assert combine({f"{name}-away": -2.0}, f"{name}-back", *extra) == 0
    assert Checkpoint.open(f"{name}-back").fingerprint == Checkpoint.open(name).fingerprint
    assert Checkpoint.open(f"{name}-0").base is not None
    zero, away = flat(f"{name}-0"), flat(f"{name}-away")
    seen = set()
    for path, array in flat(name).items():
        leaf = path.rpartition("/")[2]
        is_scaled = re.fullmatch(scaled, leaf) is not None
        seen.add(is_scaled)
        np.testing.assert_array_equal(away[path], -0.5 * array if is_scaled else array)
        np.testing.assert_array_equal(zero[path], 0 * array if is_scaled else array)
    assert seen == {True, False}


def test_bitfit_is_added_to_the_biases(here):
    assert combine({"bitfit": -0.5, "toxic": 0.0}, "less") == 0
    base, added = flat("base"), flat("bitfit")
    for path, array in flat("less").items():
        shift = added.get(path.removesuffix("bias") + "added_bias", 0.0)
        np.testing.assert_allclose(array, base[path] - 0.5 * shift, atol=1e-6)
        assert path.endswith("/bias") == np.any(shift != 0)


def test_convert_takes_the_result(here):
    assert combine({"toxic": -0.2, "lora": -0.2}, "model") == 0
    assert cli.main(["convert", "--from=model", "--to_hf=exported-model"]) == 0
    assert (here / "exported-model" / "model.safetensors").exists()


@pytest.mark.slow
def test_generate_train_and_convert_take_the_result(here, vocabulary):
    assert combine({"toxic": -0.2, "lora": -0.2}, "model") == 0
    prompts = "".join(
        json.dumps({"id": str(i), "prompt": {"text": SENTENCES[i]}}) + "\n" for i in range(3)
    )
    (here / "prompts.jsonl").write_text(prompts)
    run = ["generate", "--gin.CHECKPOINT_PATH=model", "--gin.INPUT=prompts.jsonl"]
    assert cli.main([*run, "--gin.MAX_NEW_TOKENS=4", "--gin.OUTPUT_DIR=text"]) == 0
    assert cli.main(["convert", "--from=model", "--to_hf=exported"]) == 0
    flags = {
        "INITIAL_CHECKPOINT_PATH": "model",
        "INPUT": "documents.jsonl",
        "VOCABULARY_PATH": "model/vocabulary",
        "TASK_FEATURE_LENGTHS": {"targets": 16},
        "TRAIN_STEPS": 1,
        "BATCH_SIZE": 8,
        "MODEL_DIR": "trained",
    }
    (here / "documents.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(SENTENCES))
    )
    train = ["train", *(f"--gin.{name}={value}" for name, value in flags.items())]
    assert cli.main(train) == 0
    # What it was trained from is known by now: it is a model of the sum, and of nothing else.
    assert combine({"trained": -1.0}, "of-sum", base="model") == 0


def test_a_model_of_another_base_is_refused(here, capsys, config, vocabulary):
    write_adaptation(here / "theirs", here / "other", config, vocabulary, LORA)
    said = refused(capsys, {"theirs": -1.0}, "no")
    assert "theirs: its adaptation belongs to base " in said
    assert combine({"toxic": 0.5}, "of-other", base="other") == 0
    said = refused(capsys, {"of-other": -1.0}, "no")
    assert "of-other: was trained from " in said and "give as BASE" in said
    manifest = manifests.read_manifest(epath.Path("of-other"))
    manifest |= {"verb": "train", "settings": {"initial_checkpoint": None}}
    atomic_files.write_json(epath.Path("of-other/manifest.json"), manifest)
    assert "was trained from random weights" in refused(capsys, {"of-other": -1.0}, "no")
    assert not (here / "no").exists()


def test_other_shapes_tokens_and_weights_are_refused(here, capsys, config, vocabulary):
    wide = dataclasses.replace(config, mlp_dim=48)
    write_model(here / "wide", wide, vocabulary)
    said = refused(capsys, {"wide": 1.0}, "no")
    assert "wide: of another architecture: mlp_dim is 48, in base 64" in said
    write_model(here / "tokens", config, Vocabulary.train(SENTENCES[:3] * 9, 350))
    assert "tokens: of vocabulary " in refused(capsys, {"tokens": 1.0}, "no")
    for terms, said in [
        ({}, "TERMS is empty"),
        ({"gone": 1.0}, "TERMS: gone: no such checkpoint"),
        ({"toxic": 1.0, "toxic/": -1.0}, "TERMS: toxic and toxic/ are one model; give it once"),
        ({"toxic": "much"}, "TERMS"),
        ({"toxic": "@x"}, "TERMS"),
        ({"toxic": 1e999}, "TERMS"),
        ({"toxic": 1e39}, "TERMS: their weights take"),
        ({"toxic": 1.0, "adapter": 1.0}, "AdapterConfig is no change of weights: give it alone"),
        ({"loreft": 1.0, "adapter": 1.0}, "cannot be added to others"),
    ]:
        assert said in refused(capsys, terms, "no"), said
    said = refused(capsys, {"lora": 1.0, "toxic": 1.0}, "no", "--gin.MERGE=False")
    assert "MERGE=False keeps adaptations apart" in said
    said = refused(capsys, {"toxic": 1.0}, "no", base="lora")
    assert "BASE=lora: is an adaptation; give its base, base, and this as one of TERMS" in said


def test_weights_that_are_not_finite_are_refused(here, capsys, config, vocabulary, monkeypatch):
    with monkeypatch.context() as patch:  # as nobody may save it
        from detox_jax.checkpoints import params as params_lib

        patch.setattr(params_lib, "require_finite", lambda *_: None)
        patch.setattr(
            "tests.checkpoints.models_made.random_params",
            lambda config, seed: (None, jax.tree.map(lambda x: x * np.nan, _params(config))),
        )
        write_model(here / "nan", config, vocabulary)
    said = refused(capsys, {"nan": 0.5}, "bad")
    assert "nan, step 0: parameter " in said and "not finite" in said


def _params(config):
    from tests.conftest import initial_params

    return initial_params(config)


def test_a_dry_run_says_what_is_to_do(here, capsys):
    assert combine({"toxic": 1.0}, "dry", "--dry_run") == 0
    assert "1 terms" in capsys.readouterr().out
    assert not (here / "dry").exists()


def test_what_a_killed_run_left_is_made_anew(here, monkeypatch):
    assert combine({"toxic": -0.4}, "quiet") == 0
    with monkeypatch.context() as patch:
        patch.setattr(outputs.OutputDirectory, "finish", _killed)
        with pytest.raises(_Killed):
            combine({"toxic": -0.4}, "killed")
    assert checkpoints.saved_steps(epath.Path("killed"))
    assert combine({"toxic": -0.4}, "killed") == 0
    quiet, killed = (manifests.read_manifest(epath.Path(name)) for name in ("quiet", "killed"))
    assert quiet == killed
    assert sorted(p.name for p in (here / "killed").iterdir()) == sorted(
        p.name for p in (here / "quiet").iterdir()
    )


class _Killed(BaseException):
    pass


def _killed(*_, **__):
    raise _Killed


def test_a_base_in_bfloat16_holds_float32_models(here, config, vocabulary):
    half = dataclasses.replace(config, param_dtype="bfloat16")
    write_model(here / "half", half, vocabulary)
    assert combine({"toxic": 1.0}, "wide-sum", base="half") == 0
    assert checkpoints.read_spec(epath.Path("wide-sum")).config.param_dtype == "float32"
    toxic = flat("toxic")
    for path, array in flat("wide-sum").items():
        np.testing.assert_array_equal(array, toxic[path])


@pytest.mark.slow
def test_a_base_in_bfloat16_stays_so_without_a_change(here, config, vocabulary):
    half = dataclasses.replace(config, param_dtype="bfloat16")
    write_model(here / "half-alone", half, vocabulary)
    assert combine({"toxic": 0.0}, "half-sum", base="half-alone") == 0
    assert Checkpoint.open("half-sum").fingerprint == Checkpoint.open("half-alone").fingerprint
