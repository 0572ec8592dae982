"""T5X's own scripts, run as a user runs them, on our model, data and checkpoints."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import seqio
from flax import core, traverse_util

from benchmarks.speed import gpt2
from benchmarks.speed import t5x as beside_t5x
from detox_jax.checkpoints import streamed
from detox_jax.evaluation import perplexity
from detox_jax.generation import decoding, generate, prompts, sampling
from detox_jax.interop import convert, t5x_checkpoints
from detox_jax.models import adaptation as adaptations
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, PrefixConfig
from detox_jax.parallel.computation import Computation
from detox_jax.training import cached_tasks, train
from detox_jax.training.fit import Budget
from detox_jax.training.loop import Periods
from detox_jax.training.optimizer import AdamW
from tasks import corpora
from tests.conftest import SENTENCES
from tests.tasks import caching_test

pytest.importorskip("t5x", reason="needs T5X (make test-t5x)")
pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
ADAPTER = AdapterConfig(bottleneck_dim=4)
SHORT = {"TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 20}}


def t5x(script, *files, **macros):
    """Runs one of T5X's scripts in a process of its own; returns what it logged."""
    flags = [f"--gin_file={file}" for file in files]
    flags += [f"--gin.{name.replace('__', '.')}={value!r}" for name, value in macros.items()]
    result = subprocess.run(
        [sys.executable, "-m", f"t5x.{script}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    return result


def succeeded(result):
    assert result.returncode == 0, result.stderr[-3000:]
    assert not re.search("unmatched|not found in rules", result.stderr, re.IGNORECASE)
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory, config, model_dir):
    """A base in T5X's form, documents, prompts, and the gin file of the base's sizes."""
    root = tmp_path_factory.mktemp("t5x")
    convert.convert(source=model_dir, to_t5x=str(root / "base"))
    noise = np.random.default_rng(0)
    with (root / "d.jsonl").open("w") as file:
        for i in range(300):
            text = " ".join(noise.choice(SENTENCES, 3))
            file.write(json.dumps({"id": str(i), "text": text}) + "\n")
    with (root / "p.jsonl").open("w") as file:
        for i, text in enumerate(["Thanks for the", "The bus", "I think the second film is"]):
            file.write(json.dumps({"id": str(i), "prompt": {"text": text}}) + "\n")
    sizes = ("vocab_size", "emb_dim", "num_heads", "num_layers", "mlp_dim", "max_length")
    lines = [f"config.TransformerConfig.{name} = {getattr(config, name)}" for name in sizes]
    # As the files of gin_configs/models say it.
    lines += ["DROPOUT_RATE = 0.0", "config.TransformerConfig.dropout_rate = %DROPOUT_RATE"]
    head = "from __gin__ import dynamic_registration\nfrom detox_jax.models import config\n"
    (root / "model.gin").write_text(head + "\n".join(lines) + "\n")
    return root


def train_it(files, model_dir, adaptation, to, **macros):
    return t5x(
        "train",
        files / "model.gin",
        f"gin_configs/adaptation/{adaptation}.gin",
        "gin_configs/t5x/train.gin",
        MODEL_DIR=str(to),
        VOCABULARY_PATH=f"{model_dir}/vocabulary",
        INPUT=str(files / "d.jsonl"),
        TASK_FEATURE_LENGTHS={"targets": 32},
        TRAIN_STEPS=STEPS,
        BATCH_SIZE=8,
        LEARNING_RATE=1e-3,
        STATS_PERIOD=1,
        EVAL_PERIOD=STEPS // 2,
        CHECKPOINT_PERIOD=STEPS // 2,
        **{"INITIAL_CHECKPOINT_PATH": str(files / "base" / "checkpoint_0"), **macros},
    )


@pytest.fixture(scope="module")
def whole(files, model_dir):
    succeeded(train_it(files, model_dir, "whole", files / "whole"))
    return files / "whole"


@pytest.fixture(scope="module")
def adapter(files, model_dir):
    bottleneck = {"adaptation__AdapterConfig__bottleneck_dim": ADAPTER.bottleneck_dim}
    succeeded(train_it(files, model_dir, "adapter", files / "adapter", **bottleneck))
    return files / "adapter"


@pytest.fixture(scope="module")
def imported(files, whole, model_dir):
    """The whole model that T5X trained, as one of ours."""
    convert.convert(from_t5x=str(whole), to=str(files / "imported"), base=model_dir)
    return str(files / "imported")


def losses(directory):
    """The loss of each step that T5X wrote, the last writing of a step counts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(directory / "train"), size_guidance={"tensors": 0})
    events.Reload()
    by_step = {
        event.step: float(tensor_util.make_ndarray(event.tensor_proto))
        for event in events.Tensors("loss")
    }
    return [by_step[step] for step in sorted(by_step)]


def test_the_first_20_losses_are_our_trainers(files, whole, model_dir, record_property):
    task = corpora.documents_task(str(files / "d.jsonl"), f"{model_dir}/vocabulary")
    train.train(
        None,
        str(files / "ours"),
        task,
        {"targets": 32},
        Budget(train_steps=STEPS),
        initial_checkpoint_path=model_dir,
        optimizer=AdamW(learning_rate=1e-3),
        batch_size=8,
        computation=Computation({"data": jax.device_count()}),
        periods=Periods(log=1),
    )
    lines = (files / "ours" / "metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line)["loss"] for line in lines]
    theirs = losses(whole)
    assert len(ours) == len(theirs) == STEPS and ours[-1] < ours[0] - 0.3
    record_property("largest_difference", max(np.abs(np.subtract(ours, theirs))))
    np.testing.assert_allclose(theirs, ours, atol=1e-4, rtol=0)


def test_a_stopped_run_goes_on_where_it_stood_in_the_data(files, whole, model_dir, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / f"checkpoint_{STEPS}")
    before = losses(whole)
    for file in (tmp_path / "run" / "train").iterdir():
        file.unlink()
    succeeded(train_it(files, model_dir, "whole", tmp_path / "run"))
    np.testing.assert_allclose(losses(tmp_path / "run"), before[STEPS // 2 :], atol=1e-5)


def optimizer_paths(directory):
    """The paths of the optimizer's arrays in a T5X checkpoint, below `param_states`."""
    checkpoint, _ = t5x_checkpoints.resolve(str(directory))
    metadata = ocp.PyTreeCheckpointHandler().metadata(checkpoint / "state")
    states = getattr(metadata, "tree", metadata)["state"]["param_states"]
    return set(traverse_util.flatten_dict(states, sep="/"))


def test_an_adapters_optimizer_knows_nothing_of_the_base(whole, adapter, config):
    every = set(streamed.shapes_of(config))
    own = set(streamed.shapes_of(config, ADAPTER)) - every

    def moments(directory):
        paths = optimizer_paths(directory)
        return {path.split("mu/")[1] for path in paths if "mu/" in path}, paths

    assert moments(whole)[0] == every
    trained, paths = moments(adapter)
    assert trained == own
    assert not any(path.endswith(tuple(f"/{name}" for name in every)) for path in paths)


def test_an_adapter_leaves_the_base_alone_and_learns(files, adapter, model_dir, whole):
    to = files / "imported-adapter"
    convert.convert(
        from_t5x=str(adapter), to=str(to), base=model_dir, adaptation=ADAPTER
    )  # Refuses a base that differs in one bit.
    assert losses(adapter)[0] == pytest.approx(losses(whole)[0], abs=1e-4)
    assert losses(adapter)[-1] < losses(adapter)[0]
    up = streamed.Checkpoint.open(str(to)).read("layers/mlp_adapter/up_kernel")
    assert np.abs(up).max() > 0


def test_t5x_evaluates_as_we_do(files, whole, imported, model_dir):
    succeeded(
        t5x(
            "eval",
            files / "model.gin",
            "gin_configs/adaptation/whole.gin",
            "gin_configs/t5x/eval.gin",
            CHECKPOINT_PATH=str(whole / f"checkpoint_{STEPS}"),
            EVAL_OUTPUT_DIR=str(files / "evaluation"),
            VOCABULARY_PATH=f"{model_dir}/vocabulary",
            INPUT=str(files / "d.jsonl"),
            TASK_FEATURE_LENGTHS={"targets": 64},
        )
    )
    (file,) = (files / "evaluation" / "inference_eval").glob("documents-metrics.jsonl")
    theirs = json.loads(file.read_text().splitlines()[-1])
    ours = perplexity.checkpoint_perplexity(imported, str(files / "d.jsonl"), 32)
    assert theirs["tokens"] == ours.tokens
    assert theirs["perplexity"] == pytest.approx(ours.value, rel=1e-5)


def test_t5x_decodes_as_we_do(files, whole, imported, model_dir):
    succeeded(
        t5x(
            "infer",
            files / "model.gin",
            "gin_configs/adaptation/whole.gin",
            "gin_configs/t5x/infer.gin",
            CHECKPOINT_PATH=str(whole / f"checkpoint_{STEPS}"),
            INFER_OUTPUT_DIR=str(files / "inference"),
            VOCABULARY_PATH=f"{model_dir}/vocabulary",
            INPUT=str(files / "p.jsonl"),
            TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 12},
            MAX_NEW_TOKENS=12,
            BATCH_SIZE=8,
            decoding__temperature_sample__topk=1,
            decoding__temperature_sample__topp=0.0,
        )
    )
    (file,) = (files / "inference").glob("prompts-predict.jsonl-*-of-00001")
    theirs = [json.loads(line) for line in file.read_text().splitlines()]
    generate.generate(
        imported,
        str(files / "continuations"),
        prompts.PromptFile(str(files / "p.jsonl")),
        decoding.Decoding(sampling.Greedy(), max_new_tokens=12, num_samples=1),
    )
    (shard,) = (files / "continuations").glob("*-of-00001.jsonl")
    ours = [json.loads(line) for line in shard.read_text().splitlines()]
    assert [row["inputs"]["id_pretokenized"] for row in theirs] == [row["id"] for row in ours]
    assert [row["prediction"] for row in theirs] == [row["generations"][0]["text"] for row in ours]


@pytest.mark.parametrize(
    "adaptation", [None, ADAPTER, LoRAConfig(2), PrefixConfig(2)], ids=lambda a: type(a).__name__
)
def test_t5xs_rules_know_every_axis(config, adaptation, vocabulary):
    from t5x import partitioning

    from detox_jax.interop import t5x as ours
    from tasks.vocabularies import SeqioBPEVocabulary

    wrapped = SeqioBPEVocabulary()
    wrapped.bpe = vocabulary
    model = ours.LanguageModel(config, wrapped, adaptation)
    known = {name for name, _ in partitioning.standard_logical_axis_rules()}
    shape = {"decoder_input_tokens": (1, 1)}
    variables = jax.eval_shape(
        functools.partial(model.get_initial_variables, input_shapes=shape), jax.random.key(0)
    )
    metadata = jax.tree.leaves(
        core.unfreeze(variables["params_axes"]), is_leaf=lambda x: hasattr(x, "names")
    )
    axes = {name for leaf in metadata for name in leaf.names}
    assert axes <= known and {"embed", "layers", "vocab"} <= axes


@pytest.mark.parametrize(
    ("adaptation", "given", "said"),
    [  # A checkpoint without the adapter, rows beyond the context (64), and a model of other sizes.
        ("adapter", SHORT, "the checkpoint has no parameter layers/attention_ad"),
        ("whole", {"MAX_NEW_TOKENS": 1}, "TASK_FEATURE_LENGTHS: inputs and targets of 65 are beyo"),
        ("whole", {**SHORT, "MAX_NEW_TOKENS": 30}, "MAX_NEW_TOKENS is 30, but TASK_FEATURE_LENGTH"),
        (
            "whole",
            {**SHORT, "config__TransformerConfig__mlp_dim": 32},
            "{whole}: layers/mlp/wi/bias is (2, 64), and that of MODEL (2, 32); give the MODEL",
        ),
    ],
    ids=["no adapter", "long rows", "short rows", "other sizes"],
)
def test_mistakes_are_one_line(files, model_dir, whole, adaptation, given, said):
    said = said.format(whole=whole / f"checkpoint_{STEPS}")
    result = t5x(
        "infer",
        files / "model.gin",
        f"gin_configs/adaptation/{adaptation}.gin",
        "gin_configs/t5x/infer.gin",
        CHECKPOINT_PATH=str(whole / f"checkpoint_{STEPS}"),
        INFER_OUTPUT_DIR=str(files / "none"),
        VOCABULARY_PATH=f"{model_dir}/vocabulary",
        INPUT=str(files / "p.jsonl"),
        **given,
    )
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"detox-jax: error: {said}")
    assert "Traceback" not in result.stderr


def test_a_validation_split_that_is_not_cached_is_read_from_its_source(files, model_dir, tmp_path):
    from t5x import utils

    from detox_jax.interop import t5x as ours

    documents = str(files / "d.jsonl")
    task = corpora.documents_task(documents, f"{model_dir}/vocabulary", documents, "validated")
    dataset = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    caching_test.write_cache(tmp_path, task, list(dataset.as_numpy_iterator()))
    config = utils.DatasetConfig(
        mixture_or_task_name=corpora.register(task),
        task_feature_lengths={"targets": 32},
        split="validation",
        batch_size=4,
        shuffle=False,
        seed=42,
        use_cached=True,
        pack=True,
    )
    before = list(seqio.get_global_cache_dirs())
    cached_tasks.add_cache_dir(str(tmp_path))
    try:
        found = ours.get_training_eval_datasets(config, 0, 1, 2, seqio.LMFeatureConverter)
    finally:
        seqio.set_global_cache_dirs(before)
        seqio.TaskRegistry.remove(task.name)
    assert {len(batch["decoder_target_tokens"]) for batch in found[task.name]} == {4}


def test_frozen_parameters_are_handed_on_untouched():
    import optax

    from detox_jax.interop.t5x import TrainedOnly

    own = adaptations.trainable_pattern(ADAPTER)
    params = {"a": np.float32(-0.0), "layers": {"mlp_adapter": {"up": np.float32(1.0)}}}
    definition = TrainedOnly(optax.adam(0.1), own)
    state = definition.init_state(params)
    new, state = definition.apply_gradient(None, params, state, params)
    assert np.signbit(new["a"]) and new["layers"]["mlp_adapter"]["up"] < 1
    assert len(jax.tree.leaves(state.param_states)) == 3  # A count, and two moments of one.


@pytest.mark.parametrize("network", [beside_t5x.theirs, beside_t5x.ours])
def test_the_benchmarks_sides_draw_every_token_that_is_asked_for(network):
    """No text ends before; a count of what was asked for would not show it."""
    sizes = {"emb_dim": 16, "num_heads": 2, "num_layers": 1, "mlp_dim": 16}
    model, params = network(**sizes)
    prompts_PL = gpt2.random_prompts(3, 5)
    assert beside_t5x.infer(model, params, prompts_PL, 4, 6)() == 3 * 4 * 6
    assert beside_t5x.infer(model, params, prompts_PL[:, :1], 1, 9)() == 3 * 9
    if network is beside_t5x.theirs:
        assert beside_t5x.from_nothing(model, params, 3, 9)() == 3 * 9
