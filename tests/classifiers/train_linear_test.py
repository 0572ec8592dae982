"""The verb `train_linear`: its loss by hand, what it trains, and what it refuses."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.classifiers.train_linear import LinearLoss
from detox_jax.generation.steering.linear import LinearSteering
from tests.classifiers import labelled_made
from tests.conftest import random_params


def _train(model_dir, directory, *flags):
    settings = {"RANK": 4, "SCALE": 0.1, "SPREAD": 0.3, "MAP_LEARNING_RATE": 3e-2}
    return labelled_made.train("train_linear", model_dir, directory, *flags, **settings)


def test_the_loss_reads_clean_and_toxic_text_with_opposite_switches(config):
    """As a sum by hand over two texts, of which the toxic one is shorter and counts twice."""
    model, params = random_params(config)
    noise = np.random.default_rng(0)
    down, up = (noise.normal(size=(2, config.emb_dim, 3)) for _ in range(2))
    batch = {
        "tokens": jnp.array([[5, 6, 7, 8], [9, 10, 0, 0]]),
        "labels": jnp.array([[0.4], [0.5]]),
        "weights": jnp.array([1.0, 2.0]),
    }
    trained = {"down": jnp.asarray(down, jnp.float32), "up": jnp.asarray(up, jnp.float32)}
    loss = LinearLoss(threshold=0.5, scale=0.1)
    run = jax.jit(lambda params: loss(model, params, batch, None))
    total, weight = run({**params, "linear_edit": trained})
    by_hand, options = 0.0, {"enable_dropout": False, "with_logits": False}
    hidden = jax.jit(lambda ids: model.apply({"params": params}, ids, **options))(batch["tokens"])
    table = np.asarray(params["token_embedder"]["embedding"], np.float64)
    for row, (ids, clean, counts) in enumerate((([5, 6, 7, 8], 1, 1), ([9, 10], -1, 2))):
        h = np.asarray(hidden[row, : len(ids) - 1], np.float64)
        matrix = np.eye(config.emb_dim) + 0.1 * (clean * up[0] @ down[0].T + up[1] @ down[1].T)
        logits = h @ matrix.T @ table[1 : config.vocab_size].T
        log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        by_hand -= counts * sum(log_probs[t, ids[t + 1] - 1] for t in range(len(ids) - 1))
    assert float(weight) == 3 + 2 * 1
    assert float(total) == pytest.approx(by_hand, rel=1e-4)


@pytest.fixture(scope="module")
def trained(model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("linear") / "map"
    assert _train(model_dir, path) == 0
    return path


def test_the_clean_switch_tells_toxic_from_clean_text(trained, model_dir, one_device_mesh):
    """And what is trained is the map alone, of which validation is measured too."""
    base = checkpoints.load_model(model_dir, one_device_mesh)
    vocabulary = base.vocabulary
    options = {"enable_dropout": False}
    read = jax.jit(
        lambda ids, edit: base.module.apply({"params": base.params}, ids, edits=(edit,), **options)
    )

    def nats(text, strength):
        (edit,) = LinearSteering(str(trained), strength).load(base, one_device_mesh).steering.edits
        ids = jnp.array([[vocabulary.bos_id, *vocabulary.encode(text)]])
        logits = read(ids, edit)
        log_probs = jax.nn.log_softmax(logits[0, :-1])
        return -float(jnp.mean(jnp.take_along_axis(log_probs, ids[0, 1:, None], axis=-1)))

    toxic, clean = (nats(text, -1.0) - nats(text, 1.0) for text in labelled_made.TEXTS)
    assert toxic < -0.3 and clean > 0.3
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["parameters"] == 2 * 2 * base.module.config.emb_dim * 4
    assert manifest["settings"]["checkpoint"]["fingerprint"] == base.fingerprint
    metrics = (trained / "training" / "metrics.jsonl").read_text()
    assert "validation_loss" in metrics


def test_a_finished_map_is_left_alone(trained, model_dir):
    before = (trained / "linear.npz").stat().st_mtime_ns
    assert _train(model_dir, trained) == 0
    assert (trained / "linear.npz").stat().st_mtime_ns == before


def test_a_dry_run_says_what_is_trained(model_dir, tmp_path, capsys):
    assert _train(model_dir, tmp_path / "map", "--dry_run") == 0
    # One text in five is held out, by the hash of its id.
    plan = r"to do  train_linear .* 3\d texts, 512 parameters trained, 30 updates"
    assert re.search(plan, capsys.readouterr().out)
    assert not (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gin.LENGTH=66", "LENGTH is 66; must be from 2 to 65, one more than the model's"),
        ("--gin.RANK=0", "RANK: must be at least 1, got 0"),
        ("--gin.INPUT=none.jsonl", "none.jsonl"),
    ],
)
def test_mistakes_are_one_line(model_dir, tmp_path, capsys, flag, message):
    assert _train(model_dir, tmp_path / "map", flag) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
