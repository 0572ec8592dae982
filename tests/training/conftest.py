"""What tests of a training share: no TensorBoard, a training small enough for one test, tasks."""

import dataclasses
import functools
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.training.objective import Objective


@pytest.fixture
def no_tensorboard(monkeypatch):
    """TensorBoard's events go nowhere, as clu loads tensorflow."""
    writer = types.SimpleNamespace(
        write_scalars=lambda *_: None, flush=lambda: None, close=lambda: None
    )
    writers = types.SimpleNamespace(SummaryWriter=lambda _: writer)
    monkeypatch.setitem(sys.modules, "clu", types.SimpleNamespace(metric_writers=writers))


class Numbered:
    """Batches of eight rows, of which batch `i` follows from `i` alone; counts what was taken."""

    def __init__(self, make, name="numbers"):
        self.identity = {"name": name}
        self._make = make
        self.taken = 0

    def __next__(self):
        self.taken += 1
        return self._make(np.random.default_rng(self.taken))

    def state(self):
        return {"identity": self.identity, "taken": self.taken}

    def restore(self, state):
        if state["identity"] != self.identity:
            raise UserError(f"the position is for {state['identity']}, now it is {self.identity}")
        self.taken = state["taken"]


class Linear:
    """A network without a network: what it is trained for uses the parameters directly."""

    config = types.SimpleNamespace(dropout_rate=0.0)


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    """Learns `y = x @ w`, rows weighted."""

    name: str = "numbers"

    def batches(self, task, *, batch_size, length, seed, rows=None):
        return Numbered(_points, self.name)

    def validation_batches(self, task, *, batch_size, length, max_batches=None, rows=None):
        return (_points(np.random.default_rng(1000 + i)) for i in range(max_batches or 2))

    def loss(self, model, params, batch, dropout_key):
        assert dropout_key is None
        errors_B = (batch["x"] @ params["w"] - batch["y"]) ** 2
        return jnp.sum(errors_B * batch["weight"]), jnp.sum(batch["weight"])


def _points(noise):
    x = noise.normal(size=(8, 3)).astype(np.float32)
    weight = noise.integers(1, 5, size=8).astype(np.float32)
    return {"x": x, "y": x @ np.array([1, -2, 3], np.float32), "weight": weight}


@pytest.fixture(scope="module")
def vocabulary_path(tmp_path_factory, vocabulary):
    path = tmp_path_factory.mktemp("vocabulary")
    vocabulary.save(str(path))
    return str(path)


def numbered(count, tag, split, shuffle_files=False, seed=None):
    import tensorflow as tf  # only for the tests that read tasks

    return tf.data.Dataset.from_tensor_slices({"targets": [f"{tag}{i}" for i in range(count)]})


@pytest.fixture
def made(vocabulary_path):
    """Makes tasks and mixtures of one's own, as a module that a gin file imports does."""
    import seqio  # loads tensorflow

    from tasks.vocabularies import SeqioBPEVocabulary

    names, mixtures = [], []

    def task(name, count=40, vocabulary=vocabulary_path, read=None, **changes):
        ids = seqio.Feature(SeqioBPEVocabulary(vocabulary))
        settings = {
            "preprocessors": [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            "output_features": {"targets": ids},
            "shuffle_buffer_size": 10,
            **changes,
        }
        source = seqio.FunctionDataSource(
            read or functools.partial(numbered, count, name), ["train"]
        )
        names.append(name)
        return seqio.TaskRegistry.add(name, source=source, **settings)

    def mixture(name, parts):
        mixtures.append(name)
        return seqio.MixtureRegistry.add(name, parts)

    task.mixture, task.feature = mixture, seqio.Feature(SeqioBPEVocabulary(vocabulary_path))
    yield task
    for name in mixtures:
        seqio.MixtureRegistry.remove(name)
    for name in names:
        seqio.TaskRegistry.remove(name)
