"""Models on disk whose parameters are noise."""

from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import streamed
from detox_jax.models import adaptation as adaptations
from tests.conftest import random_params


def write_model(path, config, vocabulary, seed=0):
    """A whole model."""
    _, params = random_params(config, seed=seed)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    return _write(path, params, spec, vocabulary)


def write_adaptation(path, base_path, config, vocabulary, adaptation, seed=1):
    """What was trained of an adaptation of `base_path`."""
    _, params = random_params(config, adaptation, seed=seed)
    trained, _ = params_lib.partition(params, adaptations.trainable_pattern(adaptation))
    base = {
        "path": checkpoints.base_reference(str(base_path), epath.Path(path)),
        "fingerprint": streamed.Checkpoint.open(str(base_path)).fingerprint,
    }
    spec = checkpoints.ModelSpec(config, adaptation, base, vocabulary.fingerprint)
    return _write(path, trained, spec, vocabulary)


def _write(path, params, spec, vocabulary):
    directory = epath.Path(path)
    directory.mkdir(parents=True)
    checkpoints.save_model(directory, params, spec, vocabulary)
    return str(path)
