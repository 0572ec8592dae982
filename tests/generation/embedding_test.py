"""Texts as points of a model's own, for `filter`'s selection by distance."""

import shutil

import numpy as np
import pytest
from etils import epath

from detox_jax import output_settings
from detox_jax.checkpoints import model_dir
from detox_jax.errors import UserError
from detox_jax.generation import embedding
from tests.conftest import initial_params

TEXTS = ["the ferry was late", "bread and butter", "the ferry was late", ""]


def write(root, vocabulary, config, seed=0):
    root.mkdir()
    spec = model_dir.ModelSpec(config, None, None, vocabulary.fingerprint)
    params = initial_params(config, seed=seed)
    model_dir.save_model(epath.Path(root), params, spec, vocabulary)
    return str(root)


@pytest.fixture(scope="module")
def base(tmp_path_factory, vocabulary, config):
    return write(tmp_path_factory.mktemp("embedding") / "base", vocabulary, config)


def test_points_are_the_models_and_have_length_one(base, monkeypatch):
    monkeypatch.setattr(embedding, "_AT_ONCE", 2)
    states = embedding.ModelStates(base, batch_size=3)
    states.check()
    x, y = states.embed(TEXTS, TEXTS[1:2] + TEXTS)
    assert x.dtype == np.float32 and x.shape[0] == 4 and y.shape[0] == 5
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(x, y[1:], atol=1e-5)
    np.testing.assert_allclose(x[0], x[2], atol=1e-5)
    assert np.abs(x[0] - x[1]).max() > 0.1
    # The batch that a text is in changes nothing.
    alone, _ = embedding.ModelStates(base, batch_size=1).embed(TEXTS, TEXTS[1:2] + TEXTS)
    np.testing.assert_allclose(alone, x, atol=1e-4)


def test_it_is_the_content_of_the_model_that_decides(base, tmp_path, vocabulary, config):
    described = embedding.ModelStates(base).described()
    assert described == embedding.ModelStates(base, 7).described()
    elsewhere = embedding.ModelStates(shutil.copytree(base, tmp_path / "elsewhere")).described()
    assert output_settings.agree(described, elsewhere)
    other = write(tmp_path / "other", vocabulary, config, seed=1)
    assert not output_settings.agree(described, embedding.ModelStates(other).described())
    with pytest.raises(UserError, match="nosuch"):
        embedding.ModelStates(str(tmp_path / "nosuch")).check()
    with pytest.raises(UserError, match="needs EMBEDDING_MODEL"):
        embedding.ModelStates()
