"""`train` on pairs, through the command line: killed and resumed, on other meshes, misused."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.training import loop as loops
from detox_jax.training.dpo import Preference
from detox_jax.training.pair_batches import PairTask
from tests.conftest import random_params
from tests.training.pairs_made import write_pairs

SETTINGS = {
    "TASK_FEATURE_LENGTHS": "{'targets': 32}",
    "BATCH_SIZE": 8,
    "TRAIN_STEPS": 4,
    "CHECKPOINT_PERIOD": 2,
    "EVAL_PERIOD": 2,
    "LEARNING_RATE": 1e-3,
    "loop.Periods.log": 1,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, model_dir):
    """What `pair` made of a file, with the likelihoods of the base."""
    root = tmp_path_factory.mktemp("pairs")
    flags = {
        "INPUT": write_pairs(root / "trl.jsonl"),
        "OUTPUT_DIR": root / "pairs",
        "PAIRING": "@pairing.Imported()",
        "CHECKPOINT_PATH": model_dir,
        "BATCH_SIZE": 16,
    }
    assert cli.main(["pair", *(f"--gin.{name}={value}" for name, value in flags.items())]) == 0
    return root / "pairs"


@pytest.fixture(scope="module")
def command(pairs, model_dir):
    """A command that trains on the pairs; settings given as None are left out."""

    def make(output, *files, objective="dpo", **changes):
        given = {
            "INPUT": pairs,
            "VALIDATION_INPUT": pairs,
            "VOCABULARY_PATH": f"{model_dir}/vocabulary",
            "INITIAL_CHECKPOINT_PATH": model_dir,
            "MODEL_DIR": output,
            **SETTINGS,
            **changes,
        }
        flags = [f"--gin.{name}={value}" for name, value in given.items() if value is not None]
        chosen = [f"training/{objective}"] if objective else []
        return ["train", *(f"--gin_file=gin_configs/{x}.gin" for x in (*chosen, *files)), *flags]

    return make


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def load(path):
    return checkpoints.load_params(str(path), meshes.create_mesh())[0]


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """The whole model, with a KL: a copy of the base is held."""
    output = tmp_path_factory.mktemp("dpo") / "model"
    assert cli.main(command(output, KL_TO_BASE=0.1)) == 0
    return output


def test_it_starts_at_the_base_and_widens_the_margin(trained):
    lines = metrics(trained)
    first, last = ([x for x in lines if "loss" in x][i] for i in (0, -1))
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert abs(first["reward_margin"]) < 0.01 and abs(first["kl_to_base"]) < 1e-6
    assert last["reward_margin"] > 0.1 and last["kl_to_base"] > 1e-5
    assert {"nll_good", "nll_bad", "accuracy"} <= first.keys()
    held_out = [x for x in lines if "validation_loss" in x]
    assert held_out[-1]["validation_loss"] < held_out[0]["validation_loss"]
    names = {"loss", "nll_good", "nll_bad", "margin", "reward_margin", "accuracy", "kl_to_base"}
    assert {f"validation_{name}" for name in names} <= held_out[0].keys()
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["settings"]["objective"]["method"] == "Preference"
    assert manifest["settings"]["objective"]["kl_to_base"] == 0.1
    assert manifest["parameters"]["frozen"] == 0


@pytest.mark.slow
def test_killed_and_rerun_is_bit_equal_to_uninterrupted(command, trained, tmp_path, monkeypatch):
    original = loops._save

    def save(manager, at, *args):
        original(manager, at, *args)
        if at == 2:
            raise KeyboardInterrupt

    arguments = command(tmp_path / "m", KL_TO_BASE=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(loops, "_save", save)
        assert cli.main(arguments) == 130
    assert cli.main(arguments) == 0
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "m"), load(trained))
    for name in ("metrics.jsonl", "manifest.json"):
        assert (tmp_path / "m" / name).read_bytes() == (trained / name).read_bytes()


def test_one_and_eight_devices_find_the_same_loss(config):
    model, params = random_params(config, LoRAConfig(rank=2))
    made = PairTask(None, length=16, batch_size=8)
    noise = np.random.default_rng(0)
    rows = made.batch([])
    for side in ("chosen", "rejected"):
        rows[f"{side}_inputs"] = noise.integers(1, 300, (8, 16)).astype(np.int32)
        rows[f"{side}_targets"] = noise.integers(1, 300, (8, 16)).astype(np.int32)
        rows[f"{side}_weights"] = (noise.random((8, 16)) < 0.5).astype(np.float32)
    rows["pair_weights"] += 1
    losses = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = meshes.create_mesh({"fsdp": min(4, len(devices)), "model": -1}, devices)
        with meshes.sharding_scope(mesh):
            placed = jax.device_put(params, meshes.param_shardings(model, mesh))
            batch = jax.device_put(rows, meshes.batch_sharding(mesh))
            loss = functools.partial(Preference(kl_to_base=0.1).loss, model)
            total, weight = jax.jit(loss, static_argnums=2)(placed, batch, None)
        losses.append((float(total), float(weight)))
    assert losses[0][1] == losses[1][1] == 8
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["{'fsdp': 4, 'model': 2}", "{'data': 8}"])
def test_other_meshes_and_accumulation_find_the_same_losses(command, trained, tmp_path, shape):
    settings = {"MESH_SHAPE": shape, "KL_TO_BASE": 0.1, "BATCH_SIZE": 16}
    assert cli.main(command(tmp_path / "m", **settings)) == 0
    parts = {**settings, "MESH_SHAPE": "{'data': 2, 'model': 4}", "ACCUMULATION_STEPS": 4}
    assert cli.main(command(tmp_path / "parts", **parts, LOGITS_CHUNK=7)) == 0
    for one, other in zip(metrics(tmp_path / "m"), metrics(tmp_path / "parts"), strict=True):
        if one["step"] == 1:  # At the base margins are 0, and their signs those of last bits.
            one.pop("accuracy"), other.pop("accuracy")
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["adapter", "lora", "prefix"])
@pytest.mark.parametrize("objective", ["dpo", "unlikelihood", "click", "reward_weighted"])
def test_every_objective_trains_every_adaptation(command, trained, tmp_path, adaptation, objective):
    files = [f"adaptation/{adaptation}"]
    settings = {"objective": objective, "KL_TO_BASE": 0.1, "LEARNING_RATE": 1e-2}
    assert cli.main(command(tmp_path / "m", *files, **settings, TRAIN_STEPS=8)) == 0
    lines = [x for x in metrics(tmp_path / "m") if "validation_loss" in x]
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"]
    assert lines[-1]["validation_kl_to_base"] > 0
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    whole = json.loads((trained / "manifest.json").read_text())["parameters"]["trained"]
    assert manifest["parameters"]["frozen"] == whole  # The base, and no copy of it.


# --- misused --------------------------------------------------------------------------------------


def mistake(arguments, capsys):
    """The one line of a command that must be refused."""
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TASK_FEATURE_LENGTHS": "{'targets': 8}"}, "tokens, more than TASK_FEATURE_LENGTHS"),
        ({"BETA": -1.0}, "BETA: must be above 0"),
        ({"KL_TO_BASE": -0.1}, "KL_TO_BASE: must be at least 0"),
        ({"CACHE_DIR": "somewhere"}, "CACHE_DIR is for OBJECTIVE=@objective.LanguageModeling()"),
    ],
)
def test_what_does_not_fit_is_found_before_any_work(command, tmp_path, capsys, changes, said):
    assert said in mistake([*command(tmp_path / "m", **changes), "--dry_run"], capsys)
    assert not (tmp_path / "m").exists()


def test_pairs_without_likelihoods_or_with_those_of_another_model(command, tmp_path, capsys):
    plain = write_pairs(tmp_path / "plain.jsonl")
    other = write_pairs(tmp_path / "other.jsonl", model="another")
    own = tmp_path / "own.jsonl"
    files = {"VALIDATION_INPUT": None}
    error = mistake(command(tmp_path / "m", INPUT=plain, **files), capsys)
    assert "has no likelihoods of a reference model; run `pair` with CHECKPOINT_PATH" in error
    error = mistake(command(tmp_path / "m", INPUT=other, **files), capsys)
    starts_from = re.search("of the model another, but training starts from ([0-9a-f]+);", error)
    assert starts_from
    write_pairs(own, model=starts_from[1])
    error = mistake(command(tmp_path / "m", INPUT=own, **files), capsys)
    assert "its reference read 1 tokens of the side 'chosen'" in error
    assert not epath.Path(tmp_path / "m").exists()


def test_likelihoods_of_another_base(pairs, command, tmp_path, capsys):
    lines = next(pairs.glob("*.jsonl")).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record["reference"]["model"] = "another"
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
    settings = {"INPUT": tmp_path / "other.jsonl", "VALIDATION_INPUT": None}
    error = mistake(command(tmp_path / "m", **settings), capsys)
    assert "has likelihoods of the model another, but training starts from" in error
    assert mistake([*command(tmp_path / "m", **settings), "--dry_run"], capsys) == error


def test_data_that_fills_no_batch_is_found_before_any_work(command, tmp_path, capsys):
    few = {"TRAIN_STEPS": None, "EPOCHS": 1, "BATCH_SIZE": 4096, "VALIDATION_INPUT": None}
    error = mistake([*command(tmp_path / "m", **few), "--dry_run"], capsys)
    assert re.search(r"the data fills 0\.\d+ batches, and EPOCHS is 1; lower BATCH_SIZE", error)


def test_of_pairs_that_are_too_long_the_longest_is_named(pairs, command, tmp_path, capsys):
    """A length that is enough for it is enough for all: one command mends the mistake."""
    first = {"TASK_FEATURE_LENGTHS": "{'targets': 8}", "VALIDATION_INPUT": None}
    error = mistake([*command(tmp_path / "m", **first), "--dry_run"], capsys)
    enough = re.search(r"set TASK_FEATURE_LENGTHS to (\{'targets': \d+\}) or more", error)
    assert enough
    second = {**first, "TASK_FEATURE_LENGTHS": enough[1]}
    assert cli.main([*command(tmp_path / "m", **second), "--dry_run"]) == 0
    assert not (tmp_path / "m").exists()


def test_a_kl_needs_a_base_to_stay_near_to(command, tmp_path, capsys):
    sizes = ["emb_dim=32", "num_heads=4", "num_layers=1", "mlp_dim=64", "max_length=64"]
    model = ["models/tiny"]
    settings = {"objective": "click", "INITIAL_CHECKPOINT_PATH": None, "VOCAB_SIZE": 350}
    arguments = command(tmp_path / "m", *model, **settings, KL_TO_BASE=0.1)
    arguments += [f"--gin.config.TransformerConfig.{size}" for size in sizes]
    assert "KL_TO_BASE needs a base to stay near to" in mistake(arguments, capsys)
    assert not (tmp_path / "m").exists()


def test_scores_that_an_objective_needs(command, tmp_path, capsys):
    file = write_pairs(tmp_path / "unscored.jsonl", rejected_toxicity=None)
    settings = {"objective": "reward_weighted", "INPUT": file, "VALIDATION_INPUT": None}
    error = mistake([*command(tmp_path / "m", **settings), "--dry_run"], capsys)
    assert "has no toxicity of its side 'rejected'; mine pairs of scored text" in error
