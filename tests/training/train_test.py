"""Verb `train` through the command line: from scratch, adapted, killed and resumed, misused."""

import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint._src.path import atomicity, atomicity_defaults

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import programs
from detox_jax.training import loop as loops
from detox_jax.training import step as steps_lib
from detox_jax.training import train as trains
from detox_jax.training.optimizer import AdamW
from tests.conftest import write_tiny_run
from tests.marks import slow_but

pytestmark = pytest.mark.usefixtures("garbage_is_left")


@pytest.fixture(scope="module")
def flags(tmp_path_factory, vocabulary):
    """Flags of a tiny run, without MODEL_DIR."""
    root = tmp_path_factory.mktemp("train")
    write_tiny_run(root, vocabulary, num_documents=120)
    return [
        "train",
        f"--gin.INPUT={root / 'documents.jsonl'}",
        f"--gin.VALIDATION_INPUT={root / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={root / 'vocabulary'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-2",
        "--gin.TRAIN_STEPS=6",
        "--gin.EVAL_PERIOD=3",
        "--gin.CHECKPOINT_PERIOD=2",
        f"--gin_file={root / 'model.gin'}",
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where the base and its adaptations stand side by side."""
    return tmp_path_factory.mktemp("models") / "models"


@pytest.fixture(scope="module")
def base(flags, models):
    assert cli.main([*flags, f"--gin.MODEL_DIR={models / 'base'}"]) == 0
    return str(models / "base")


@pytest.fixture(scope="module")
def adapted(flags, base, models):
    """Trains an adaptation of the base, by name; the same one for every test that asks."""

    @functools.cache
    def train(name):
        arguments = [
            *without(flags, "VALIDATION_INPUT"),
            f"--gin_file=gin_configs/adaptation/{name}.gin",
            f"--gin.INITIAL_CHECKPOINT_PATH={base}",
            f"--gin.MODEL_DIR={models / name}",
        ]
        assert cli.main(arguments) == 0
        return models / name

    return train


def load(path):
    return checkpoints.load_params(path, meshes.create_mesh())[0]


def metrics(path):
    return [
        json.loads(line) for line in (epath.Path(path) / "metrics.jsonl").read_text().splitlines()
    ]


def without(flags, name):
    return [flag for flag in flags if not flag.startswith(f"--gin.{name}=")]


def test_trains_and_leaves_what_a_user_looks_for(base):
    lines = metrics(base)
    losses = [line["loss"] for line in lines if "loss" in line]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6]
    assert validation[-1] < validation[0] and np.isfinite(losses).all()
    directory = epath.Path(base)
    assert checkpoints.saved_steps(directory) == [4, 6]
    assert list((directory / "tensorboard").glob("events*"))
    assert json.loads((directory / "manifest.json").read_text())["complete"]
    assert "TRAIN_STEPS = 6" in (directory / "config.gin").read_text()


def _killed_at(monkeypatch, step):
    original = loops._save

    def save(manager, at, *args):
        original(manager, at, *args)
        if at == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(loops, "_save", save)


def test_killed_and_rerun_is_bit_equal_to_uninterrupted(flags, base, tmp_path, monkeypatch):
    flags = [*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}"]
    with monkeypatch.context() as patch:
        _killed_at(patch, 4)
        assert cli.main(flags) == 130
    assert not json.loads((tmp_path / "m" / "manifest.json").read_text())["complete"]
    assert cli.main(flags) == 0
    jax.tree.map(np.testing.assert_array_equal, load(str(tmp_path / "m")), load(base))
    for name in ("metrics.jsonl", "manifest.json", "model.json"):
        assert (tmp_path / "m" / name).read_bytes() == (epath.Path(base) / name).read_bytes()


def test_parts_of_a_batch_are_a_setting_where_each_has_dropout_of_its_own(
    flags, base, tmp_path, capsys
):
    settings = json.loads((epath.Path(base) / "manifest.json").read_text())["settings"]
    assert "accumulation_steps" not in settings
    flags = [
        *without(without(flags, "VALIDATION_INPUT"), "TRAIN_STEPS"),
        *("--gin.TRAIN_STEPS=1", "--gin.config.TransformerConfig.dropout_rate=0.1"),
        *("--gin.MESH_SHAPE=data=4,model=2", f"--gin.MODEL_DIR={tmp_path / 'm'}"),
    ]
    assert cli.main(flags) == 0
    capsys.readouterr()
    assert cli.main([*flags, "--gin.ACCUMULATION_STEPS=2", "--dry_run"]) == 2
    assert "(accumulation_steps: 1 there, 2 now)" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_a_save_to_an_object_store(flags, base, tmp_path, monkeypatch):
    """Orbax marks a step there when it is whole; one without the mark is not the newest step."""
    monkeypatch.setattr(
        atomicity_defaults,
        "get_default_temporary_path_class",
        lambda *args, **kwargs: atomicity.CommitFileTemporaryPath,
    )
    original = loops._save

    def save(saves, at, *args):
        original(saves, at, *args)
        if at == 4:
            saves.wait()
            (tmp_path / "m" / "checkpoints" / "4" / "commit_success.txt").unlink()
            raise KeyboardInterrupt

    flags = [*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}"]
    with monkeypatch.context() as patch:
        patch.setattr(loops, "_save", save)
        assert cli.main(flags) == 130
    assert checkpoints.resolve(str(tmp_path / "m"))[1] == 2
    assert cli.main(flags) == 0
    jax.tree.map(np.testing.assert_array_equal, load(str(tmp_path / "m")), load(base))
    assert metrics(tmp_path / "m") == metrics(base)
    assert checkpoints.saved_steps(epath.Path(tmp_path / "m")) == [4, 6]


def _diverges_in(monkeypatch, step):
    """The update of `step` leaves NaN behind, as a NaN gradient does; its loss is finite."""
    original = steps_lib.jit_train_step

    def jit_train_step(*args, **kwargs):
        step_fn = original(*args, **kwargs)

        def run(state, frozen, batch):
            state, scalars = step_fn(state, frozen, batch)
            if int(state.step) == step:
                state = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
            return state, scalars

        return run

    monkeypatch.setattr(steps_lib, "jit_train_step", jit_train_step)


@pytest.mark.parametrize(("step", "last_good"), slow_but([(5, 4)], [(4, 2), (5, 4), (6, 4)]))
def test_a_model_that_is_not_finite_is_not_saved(
    flags, tmp_path, monkeypatch, capsys, step, last_good
):
    _diverges_in(monkeypatch, step)
    flags = without(flags, "VALIDATION_INPUT")
    assert cli.main([*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}"]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert f"training has diverged; the last good step is {last_good}" in error
    # Damage between two saves shows in the next loss, and is gone back behind; here in vain.
    assert sum("BACK TO STEP 4" in line for line in warnings) == (2 if step == 5 else 0)
    assert checkpoints.saved_steps(epath.Path(tmp_path / "m"))[-1] == last_good
    assert not json.loads((tmp_path / "m" / "manifest.json").read_text())["complete"]


@pytest.mark.slow
def test_a_learning_rate_at_which_training_diverges(flags, base, tmp_path, capsys):
    """And the same directory takes a lower one, since no step of it is worth going on from."""
    flags = [*without(flags, "LEARNING_RATE"), f"--gin.MODEL_DIR={tmp_path / 'm'}"]
    assert cli.main([*flags, "--gin.LEARNING_RATE=1e30"]) == 2
    assert "training has diverged; no step is saved" in capsys.readouterr().err
    assert checkpoints.saved_steps(epath.Path(tmp_path / "m")) == []
    assert cli.main([*flags, "--gin.LEARNING_RATE=1e-2"]) == 0
    assert metrics(tmp_path / "m") == metrics(base)
    assert len(list((tmp_path / "m" / "tensorboard").glob("events*"))) == 1
    assert cli.main([*flags, "--gin.LEARNING_RATE=1e-3"]) == 2
    assert "optimizer.learning_rate: 0.01 there, 0.001 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "adapter",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("lora", "prefix", "parallel", "bitfit", "loreft")
        ),
    ],
)
def test_adaptation_trains_itself_alone(adapted, base, name):
    directory = adapted(name)
    spec = checkpoints.read_spec(epath.Path(directory))
    assert spec.base is not None and spec.adaptation is not None
    trained, frozen = params_lib.partition(load(str(directory)), spec.adaptation.trainable_pattern)
    jax.tree.map(np.testing.assert_array_equal, frozen, load(base))
    assert all(float(np.abs(np.asarray(leaf)).max()) > 0 for leaf in jax.tree.leaves(trained))
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["parameters"]["trained"] == params_lib.count(trained)
    assert manifest["parameters"]["frozen"] == params_lib.count(frozen)


@pytest.mark.parametrize("adaptation", [None, AdapterConfig(256)], ids=["whole", "adapter"])
def test_what_is_planned_is_what_is_trained(
    flags, request, tmp_path, monkeypatch, capsys, adaptation
):
    """The jaxpr that `plan` compiles, and its arguments, are those of a run on the same mesh."""
    ran = []

    def run(loop, state, frozen, batches):
        arguments = (state, frozen, loop._to_mesh(next(batches)))
        with meshes.sharding_scope(loop.mesh):
            ran.append((loop, arguments, loop.step_fn.trace(*arguments)))
        return state

    monkeypatch.setattr(loops.Loop, "run", run)
    extra = [f"--gin.MODEL_DIR={tmp_path / 'model'}", "--gin.MESH_SHAPE={'fsdp': 4, 'model': 2}"]
    if adaptation is not None:
        extra += [
            "--gin_file=gin_configs/adaptation/adapter.gin",
            f"--gin.INITIAL_CHECKPOINT_PATH={request.getfixturevalue('model_dir')}",
        ]
    wider = "adapters of 256 hidden units are wider than the model's"
    for more in (["--dry_run"], []):
        assert cli.main([*flags, *extra, *more]) == 0
        assert (wider in capsys.readouterr().out) == (adaptation is not None)
    ((loop, arguments, traced),) = ran
    config = checkpoints.read_spec(loop.model_dir).config
    planned = programs.train_step(
        programs.Model(config, adaptation, "float32"),
        AdamW(learning_rate=1e-2),
        loop.mesh,
        batch_size=8,
        length=32,
        total_steps=6,
    )
    assert str(planned.traced.jaxpr) == str(traced.jaxpr)
    facts = lambda x: (x.shape, x.dtype, x.sharding)  # noqa: E731
    assert jax.tree.map(facts, planned.arguments) == jax.tree.map(facts, arguments)


@pytest.fixture(scope="module")
def small(model_dir, vocabulary, tmp_path_factory):
    """A base that is stored in bfloat16."""
    spec = checkpoints.read_spec(epath.Path(model_dir))
    stored = dataclasses.replace(spec.config, param_dtype="bfloat16")
    path = epath.Path(tmp_path_factory.mktemp("small"))
    params = params_lib.cast(load(model_dir), "bfloat16")
    checkpoints.save_model(path, params, dataclasses.replace(spec, config=stored), vocabulary)
    return str(path)


def _one_small_step(flags, small, where, *extra):
    """SGEAT's learning rate, from the base's own config: no MODEL on the command line."""
    for name in ("LEARNING_RATE", "TRAIN_STEPS", "VALIDATION_INPUT"):
        flags = without(flags, name)
    flags = [flag for flag in flags if "model.gin" not in flag]
    flags += ["--gin.TRAIN_STEPS=1", "--gin.LEARNING_RATE=2e-5", *extra]
    paths = [f"--gin.INITIAL_CHECKPOINT_PATH={small}", f"--gin.MODEL_DIR={where}"]
    assert cli.main([*flags, *paths]) == 0
    return checkpoints.load_params(str(where), meshes.create_mesh())


def test_one_small_step_moves_all_weights_of_a_bfloat16_base(flags, small, tmp_path):
    params, spec, _ = _one_small_step(flags, small, tmp_path / "model")
    assert spec.config.param_dtype == "float32"
    moved, total = 0, 0
    leaves = [jax.tree.leaves(jax.device_get(tree)) for tree in (load(small), params)]
    for before, after in zip(*leaves, strict=True):
        assert after.dtype == jnp.float32
        used = (before != 0) & (after != 0)  # Rows of no token have no gradient.
        moved += int(((before.astype(np.float32) != after) & used).sum())
        total += int(used.sum())
    assert moved > 0.9 * total
    rounded = [(a != b.astype(a.dtype)).mean() for a, b in zip(*leaves, strict=True)]
    assert np.mean(rounded) < 0.5  # In bfloat16 most would have stayed where they were.


def test_an_adaptation_of_a_bfloat16_base_is_float32_and_leaves_the_base(flags, small, tmp_path):
    extra = "--gin_file=gin_configs/adaptation/lora.gin"
    params, spec, _ = _one_small_step(flags, small, tmp_path / "lora", extra)
    assert spec.config.param_dtype == "float32" and spec.adaptation is not None
    added, base = params_lib.partition(params, spec.adaptation.trainable_pattern)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(added)} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(base)} == {"bfloat16"}
    jax.tree.map(np.testing.assert_array_equal, base, load(small))


def test_a_checkpoint_of_few_bits_is_trained_in_the_models(flags, small, tmp_path, monkeypatch):
    dtypes = []

    def run(loop, state, frozen, batches):
        dtypes.extend(x.dtype.name for x in jax.tree.leaves(state.params))
        return state

    monkeypatch.setattr(loops.Loop, "run", run)
    extra = [f"--gin.INITIAL_CHECKPOINT_PATH={small}", f"--gin.MODEL_DIR={tmp_path / 'model'}"]
    assert cli.main([*flags, *extra]) == 0
    assert set(dtypes) == {"float32"}


def test_another_base_takes_over_a_directory_without_a_step_and_nothing_of_the_first(
    flags, model_dir, tmp_path, monkeypatch
):
    first = tmp_path / "first"
    shutil.copytree(model_dir, first)
    (first / "huggingface.json").write_text('{"source": {"path": "first"}}')
    (first / "vocabulary" / "generation_config.json").write_text('{"eos_token_id": [0]}')
    (first / "vocabulary" / "chat_template.jinja").write_text("{{ messages }}")
    small = without(flags, "VALIDATION_INPUT")

    def trained(where, *extra):
        return cli.main([*small, f"--gin.MODEL_DIR={tmp_path / where}", *extra])

    def files(where):
        found = (tmp_path / where).rglob("*")
        return {str(x.relative_to(tmp_path / where)): x.read_bytes() for x in found if x.is_file()}

    def killed(loop, *_):
        (tmp_path / "model" / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
        raise KeyboardInterrupt

    monkeypatch.setattr(loops.Loop, "run", killed)
    start = f"--gin.INITIAL_CHECKPOINT_PATH={first}"
    assert trained("model", start, f"--gin.VOCABULARY_PATH={first / 'vocabulary'}") == 130
    names = {"huggingface.json", "vocabulary/chat_template.jinja", "metrics.jsonl"}
    assert names < files("model").keys()
    monkeypatch.setattr(loops.Loop, "run", lambda loop, state, *_: state)
    assert trained("model") == trained("fresh") == 0  # from random weights
    model, fresh = files("model"), files("fresh")
    assert model.keys() == fresh.keys()
    differ = {name for name in model if model[name] != fresh[name]}
    assert differ == {"config.gin"}  # which names the directory


def test_adapter_refuses_another_base(adapted, model_dir, tmp_path, capsys):
    directory = tmp_path / "adapted"
    shutil.copytree(adapted("lora"), directory)
    model = json.loads((directory / "model.json").read_text())
    model["base"]["path"] = model_dir
    (directory / "model.json").write_text(json.dumps(model))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "1", "prompt": {"text": "The bus"}}\n')
    capsys.readouterr()
    generate = ["generate", f"--gin.CHECKPOINT_PATH={directory}", f"--gin.INPUT={prompts}"]
    assert cli.main([*generate, f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 2
    assert "its adaptation belongs to base" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_whole_model_from_a_checkpoint_starts_where_it_was(flags, base, tmp_path):
    path = str(tmp_path / "m")
    flags = [flag for flag in flags if not flag.startswith("--gin_file")]  # MODEL is None.
    flags = without(without(flags, "LEARNING_RATE"), "VALIDATION_INPUT")
    flags = [*flags, "--gin.LEARNING_RATE=1e-12"]
    arguments = [*flags, f"--gin.INITIAL_CHECKPOINT_PATH={base}", f"--gin.MODEL_DIR={path}"]
    assert cli.main(arguments) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), load(path), load(base))


def test_a_vocabulary_of_its_own_that_is_read_otherwise_than_before(model_dir):
    """The task uses it already: to give it once more would not help."""
    spec = checkpoints.read_spec(epath.Path(model_dir))
    before = dataclasses.replace(spec, vocabulary="0123456789abcdef")
    with pytest.raises(UserError, match="read them otherwise, import the model again"):
        trains._check_spec(model_dir, before, spec.vocabulary)
    step = max(checkpoints.saved_steps(epath.Path(model_dir)))
    for path in (model_dir, f"{model_dir}/checkpoints/{step}"):
        with pytest.raises(UserError, match="give the task the checkpoint's own, ") as told:
            trains._check_spec(path, spec, "0123456789abcdef")
        assert str(told.value).endswith(f", {model_dir}/vocabulary")


MISTAKES = {
    "another architecture": (
        ["--gin.INITIAL_CHECKPOINT_PATH={base}", "--gin.TransformerConfig.mlp_dim=128"],
        "mlp_dim is 64 there, 128 in MODEL",
    ),
    "another vocabulary": (
        ["--gin.INITIAL_CHECKPOINT_PATH={base}", "--gin.VOCABULARY_PATH={other_vocabulary}"],
        "trained with vocabulary",
    ),
    "vocabulary does not fit": (
        ["--gin.TransformerConfig.vocab_size=999"],
        "MODEL has vocab_size 999",
    ),
    "trained in few bits": (
        ["--gin.TransformerConfig.param_dtype=bfloat16"],
        "in which small updates are lost; what is trained is float32",
    ),
    "nothing to adapt": (
        ["--gin_file=gin_configs/adaptation/lora.gin"],
        "ADAPTATION needs a model to adapt",
    ),
    "no such checkpoint": (
        ["--gin.INITIAL_CHECKPOINT_PATH={tmp}/none"],
        "none: no such checkpoint",
    ),
    "not a checkpoint": (["--gin.INITIAL_CHECKPOINT_PATH={tmp}"], "no model.json"),
    "no such step": (["--gin.INITIAL_CHECKPOINT_PATH={base}/checkpoints/5"], "no such step"),
    "context too short": (["--gin.TASK_FEATURE_LENGTHS={{'targets': 65}}"], "max_length 64"),
    "no length": (["--gin.TASK_FEATURE_LENGTHS={{'inputs': 32}}"], "{'targets': length}"),
    "batch does not divide": (["--gin.BATCH_SIZE=12"], "BATCH_SIZE 12"),
    "parts do not divide": (
        ["--gin.ACCUMULATION_STEPS=3", "--gin.MESH_SHAPE={{'model': 4, 'fsdp': 2}}"],
        "no multiple of 6, the mesh's 2 batch shards times ACCUMULATION_STEPS 3",
    ),
    "no such kernel here": (
        ["--gin.ATTENTION_KERNEL=splash"],
        "splash attention does not run on cpu",
    ),
    "steps and epochs": (["--gin.EPOCHS=1"], "one of TRAIN_STEPS and EPOCHS"),
    "missing input": (["--gin.INPUT={tmp}/none.jsonl"], "none.jsonl: no such file"),
    "mesh does not divide": (["--gin.MESH_SHAPE={{'data': 3}}"], "does not divide the 8 devices"),
    "diverged": (
        ["--gin.LEARNING_RATE=1e30", "--gin.CHECKPOINT_PERIOD=0"],
        "10 steps up to 6 are not finite: training has diverged; no step is saved",
    ),
}


def test_an_unknown_task_is_told_its_neighbours(flags, tmp_path, capsys):
    for name in ("INPUT", "VALIDATION_INPUT", "VOCABULARY_PATH"):
        flags = without(flags, name)
    task = "--gin.MIXTURE_OR_TASK_NAME=civil_coments"
    assert cli.main([*flags, task, f"--gin.MODEL_DIR={tmp_path}"]) == 2
    assert "did you mean civil_comments" in capsys.readouterr().err


@pytest.mark.parametrize("mistake", slow_but([*{*MISTAKES} - {"diverged"}], MISTAKES))
def test_mistakes(flags, base, tmp_path, mistake, capsys):
    from detox_jax.vocabulary import Vocabulary

    extra, message = MISTAKES[mistake]
    other = tmp_path / "other_vocabulary"
    Vocabulary.train(["zzz yyy xxx"], 350).save(str(other))
    names = {"base": base, "tmp": tmp_path, "other_vocabulary": other}
    extra = [flag.format(**names) for flag in extra]
    assert cli.main([*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}", *extra]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    manifest = tmp_path / "m" / "manifest.json"
    assert not manifest.exists() or not json.loads(manifest.read_text())["complete"]


def test_an_adaptation_is_not_adapted_again(flags, base, adapted, tmp_path, capsys):
    lora = "--gin_file=gin_configs/adaptation/lora.gin"
    initial = f"--gin.INITIAL_CHECKPOINT_PATH={adapted('lora')}"
    assert cli.main([*flags, lora, initial, f"--gin.MODEL_DIR={tmp_path / 'b'}"]) == 2
    said = f"is itself an adaptation; start from its base, {base}\n"
    assert said in capsys.readouterr().err


def test_a_finished_adaptation_whose_base_was_moved_finds_it_again(
    flags, base, adapted, tmp_path, monkeypatch
):
    """By the command that trained it, which loads no model for that."""
    name, place = adapted("lora"), tmp_path / "deeper" / "lora"
    expected = load(str(name))
    shutil.copytree(name, place)
    with pytest.raises(UserError, match="its base model ../base is gone"):
        load(str(place))
    monkeypatch.setattr(checkpoints, "load_params", None)
    command = [
        *without(flags, "VALIDATION_INPUT"),
        "--gin_file=gin_configs/adaptation/lora.gin",
        f"--gin.INITIAL_CHECKPOINT_PATH={base}",
        f"--gin.MODEL_DIR={place}",
    ]
    assert cli.main(command) == 0
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, load(str(place)), expected)


def test_a_disk_needs_room_for_a_third_step(flags, tmp_path):
    """Which is whole before the first of two is removed."""
    arguments = cli.parse_arguments([*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}"])
    (step,) = cli.prepared(arguments)[1]
    of_a_step = 3 * 4 * step.counts["parameters trained"]
    assert (step.needs, step.needs_a_while) == (2 * of_a_step, of_a_step)


def test_moved_together_an_adaptation_finds_its_base(adapted, models, tmp_path):
    expected = load(str(adapted("lora")))
    models.rename(tmp_path / "there")
    try:
        found = load(str(tmp_path / "there" / "lora"))
    finally:
        (tmp_path / "there").rename(models)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --- damage -----------------------------------------------------------------------------------


def _interrupted(flags, directory, monkeypatch):
    """A run with whole steps 2 and 4, stopped behind the latter."""
    with monkeypatch.context() as patch:
        _killed_at(patch, 4)
        assert cli.main([*flags, f"--gin.MODEL_DIR={directory}"]) == 130


def _damage(directory, step, item="params"):
    """Flips a bit of every large file: numbers change, and every file can still be read."""
    for file in (directory / "checkpoints" / str(step) / item).rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.slow
def test_training_goes_on_from_the_step_before_a_damaged_one(
    flags, base, tmp_path, monkeypatch, capsys
):
    model = tmp_path / "m"
    _interrupted(flags, model, monkeypatch)
    _damage(model, 4, "opt_state")
    (model / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    capsys.readouterr()
    strict = [*flags, f"--gin.MODEL_DIR={model}", "--gin.STRICT=True"]
    assert cli.main(strict) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{model}: step 4 is damaged (" in line and "STRICT=True refuses" in line
    # Another period, so that no save would meet what the killed one left.
    assert cli.main([*flags, f"--gin.MODEL_DIR={model}", "--gin.CHECKPOINT_PERIOD=3"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{model}: step 4 is damaged (" in line and "TAKING STEP 2" in line
    assert metrics(model) == metrics(base)
    jax.tree.map(np.testing.assert_array_equal, load(str(model)), load(base))
    assert sorted(path.name for path in (model / "checkpoints").iterdir()) == ["3", "6"]
    assert [path.name for path in (model / "damaged").iterdir()] == ["4"]


@pytest.mark.slow
def test_without_a_whole_step_training_does_not_begin_again(flags, tmp_path, monkeypatch, capsys):
    model = tmp_path / "m"
    _interrupted(flags, model, monkeypatch)
    for step in (2, 4):
        shutil.rmtree(model / "checkpoints" / str(step) / "params")
    capsys.readouterr()
    assert cli.main([*flags, f"--gin.MODEL_DIR={model}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none of its steps [2, 4] is whole" in line


def test_generation_takes_the_step_before_unless_it_must_not(base, tmp_path, capsys):
    model = tmp_path / "m"
    shutil.copytree(base, model)
    _damage(model, 6)
    (tmp_path / "prompts.jsonl").write_text('{"id": "1", "prompt": {"text": "The bus"}}\n')
    generate = ["generate", f"--gin.INPUT={tmp_path / 'prompts.jsonl'}", "--gin.NUM_SAMPLES=1"]
    outcomes = {}
    for name, path, extra in [
        ("strict", model, ["--gin.STRICT=True"]),
        ("named", model / "checkpoints" / "6", []),
        ("newest", model, []),
        ("before", model / "checkpoints" / "4", []),
    ]:
        output = tmp_path / name
        where = [f"--gin.CHECKPOINT_PATH={path}", f"--gin.OUTPUT_DIR={output}"]
        status = cli.main([*generate, *where, *extra])
        outcomes[name] = status, capsys.readouterr().err
    for name, left in {"strict": "STRICT=True refuses", "named": "give another"}.items():
        status, error = outcomes[name]
        assert status == 2 and error.count("\n") == 1 and "step 6 is damaged (" in error
        assert left in error
    assert outcomes["newest"][0] == 0 and "TAKING STEP 4" in outcomes["newest"][1]
    shards = [
        (tmp_path / name / "generations-00000-of-00001.jsonl").read_bytes()
        for name in ("newest", "before")
    ]
    assert outcomes["before"] == (0, "") and shards[0] == shards[1]


def test_what_is_never_replaced_names_no_setting(base, adapted, tmp_path):
    """What `evaluate` reads and the base of an adaptation: no STRICT decides about them."""
    adaptation = adapted("lora")
    shutil.copytree(base, tmp_path / "models" / "base")
    shutil.copytree(adaptation, tmp_path / "models" / adaptation.name)
    model = tmp_path / "models" / "base"
    _damage(model, 6)
    reads = {
        "measured": lambda mesh: checkpoints.load_model(str(model), mesh, exact=True),
        "a base": lambda mesh: checkpoints.load_model(str(model.parent / adaptation.name), mesh),
    }
    for read in reads.values():
        with pytest.raises(UserError, match=r"step 6 is damaged \(.*put it back.*\[4\]") as told:
            read(meshes.create_mesh())
        assert "STRICT" not in str(told.value)


@pytest.mark.slow
def test_what_a_diverged_run_advises_can_be_followed(flags, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        _diverges_in(patch, 4)
        assert cli.main([*flags, f"--gin.MODEL_DIR={tmp_path / 'm'}"]) == 2
    error = capsys.readouterr().err
    (start,) = re.findall(r"--gin\.INITIAL_CHECKPOINT_PATH=\S+", error)
    assert start.endswith("m/checkpoints/2") and "lower LEARNING_RATE" in error
    again = [*without(flags, "LEARNING_RATE"), "--gin.LEARNING_RATE=1e-3", start]
    assert cli.main([*again, f"--gin.MODEL_DIR={tmp_path / 'another'}"]) == 0
