"""Models on disk that steer `model_dir`: adaptations of it, and models of their own."""

import dataclasses
from pathlib import Path

import jax
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.models import adaptation as adaptations
from tests.conftest import random_params


def save_adaptation(path, base_dir, mesh, seed, adaptation=None, scale=1.0):
    """A random adaptation of the model in `base_dir`."""
    adaptation = adaptation or adaptations.AdapterConfig(8)
    base = checkpoints.load_model(base_dir, mesh)
    _, whole = random_params(base.spec.config, adaptation, seed)
    trained, _ = params_lib.partition(whole, adaptation.trainable_pattern)
    trained = jax.tree.map(lambda leaf: scale * leaf, trained)
    reference = {"path": base_dir, "fingerprint": base.fingerprint}
    spec = dataclasses.replace(base.spec, adaptation=adaptation, base=reference)
    return _save(path, trained, spec, base.vocabulary)


def save_whole(path, config, vocabulary, seed):
    """A random model of its own."""
    _, params = random_params(config, seed=seed)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    return _save(path, params, spec, vocabulary)


def _save(path, params, spec, vocabulary):
    Path(path).mkdir(parents=True)
    checkpoints.save_model(epath.Path(path), params, spec, vocabulary)
    return str(path)
