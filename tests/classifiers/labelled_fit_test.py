"""What training on labelled texts refuses before its first step, and how far a step goes."""

import dataclasses
import gc
import weakref

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.classifiers import train_linear, train_reward
from detox_jax.classifiers.labelled_fit import require_two_kinds
from detox_jax.errors import UserError
from detox_jax.training.optimizer import AdamW
from tasks.classification import _FEATURES, LabelledSource, LabelledText
from tests.classifiers import labelled_made
from tests.generation.steering import made


def _task(*scores):
    texts = [LabelledText(f"text {i}", (score,)) for i, score in enumerate(scores)]
    source = LabelledSource({"train": lambda: iter(texts)})
    return seqio.Task("made", source=source, output_features=_FEATURES, preprocessors=[])


def test_texts_of_one_kind_teach_nothing_of_the_other():
    require_two_kinds(_task(0.2, 0.3))
    require_two_kinds(_task(0.2, 0.2, 0.5), threshold=0.5)
    for scores, threshold, said in [
        ((0.2, 0.2), None, "all of its training texts have the toxicity 0.2; give clean and"),
        ((0.2, 0.3), 0.5, "are below THRESHOLD, 0.5; give toxic ones too, or move THRESHOLD"),
        ((0.5, 0.9), 0.5, "are at or above THRESHOLD, 0.5; give clean ones too, or move"),
        # In the loss, too, the label 0.7 is not below 0.7: float32(0.7) is below the double.
        ((0.7, 0.9), 0.7, "are at or above THRESHOLD, 0.7; give clean ones too, or move"),
    ]:
        with pytest.raises(UserError, match=f"task 'made': .*{said}"):
            require_two_kinds(_task(*scores), threshold)


@pytest.mark.parametrize("verb", ["train_linear", "train_reward"])
def test_the_verbs_ask_for_both_before_they_write(verb, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(labelled_made, "SCORES", (0.25, 0.25))
    assert labelled_made.train(verb, model_dir, tmp_path / "out") == 2
    assert "all of its training texts " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_model_that_a_reward_starts_from_is_not_held_beside_it(
    config, vocabulary, tmp_path, monkeypatch
):
    """In fewer bits it is not what is trained, and lay beside that to the end."""
    config = dataclasses.replace(config, param_dtype="bfloat16")
    path = made.save_whole(tmp_path / "model", config, vocabulary, 0)
    load_model, leaves, held = checkpoints.load_model, [], []

    def load(*arguments, **how):
        loaded = load_model(*arguments, **how)
        leaves.extend(map(weakref.ref, jax.tree.leaves(loaded.params)))
        return loaded

    def fit(network, params, *arguments, **how):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        gc.collect()
        held.append(sum(leaf() is not None for leaf in leaves))
        raise UserError("that is enough")

    monkeypatch.setattr(checkpoints, "load_model", load)
    monkeypatch.setattr(train_reward, "fit_labels", fit)
    assert labelled_made.train("train_reward", path, tmp_path / "out") == 2
    assert leaves and held == [0]


_STEERING = ["sgeat", "--gin_file=gin_configs/experiments/steering.gin"]


@pytest.mark.parametrize(
    ("verb", "command", "scope", "rate"),
    [
        (train_linear, [], "", 1e-2),
        (train_linear, ["train_linear"], "", 1e-2),
        (train_linear, _STEERING, "map", 1e-2),
        (train_reward, [], "", 2e-5),
        (train_reward, ["train_reward"], "", 2e-5),
        (train_reward, _STEERING, "reward", 1e-3),
    ],
)
def test_small_gradients_move_what_is_trained_by_the_rate(verb, command, scope, rate):
    """The first update of Adam is g / (|g| + eps) of the rate.

    Those of a map carry SCALE, 1e-3; those of a reward an imported head, which begins at 0.
    """
    optimizer = verb._OPTIMIZER
    if command:
        cli.load_config(cli.parse_arguments(command))
        with gin.config_scope(scope or None):
            optimizer = gin.get_configurable(AdamW)()
    assert optimizer.learning_rate == rate
    # A norm of 1.5 is not clipped in a reward; a map's clip is 1.
    gradient = np.array({train_linear: [1e-7, -1e-6], train_reward: [1e-6, -1.5]}[verb])
    transformation = optimizer.transformation(10)
    params = {"up": jnp.zeros(2)}
    gradients = {"up": jnp.asarray(gradient, jnp.float32)}
    updates, _ = transformation.update(gradients, transformation.init(params), params)
    moved = -rate * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(updates["up"], moved, rtol=1e-4)
