"""Rows of an embedding beyond the vocabulary, as imported models have: they are no tokens."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.generation import sampling
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator
from detox_jax.generation.steering.experts import Experts
from detox_jax.models.transformer import TransformerLM
from detox_jax.zero_shot.reference import Reference
from tests.conftest import random_params
from tests.generation.steering import made

SPARE = 60
PROMPTS = [[5, 9, 30], [7], [40, 41, 42]]


@pytest.fixture(scope="module")
def paths(config, vocabulary, tmp_path_factory):
    """Two models, and the first one with rows more whose logits are above all others or below."""
    root = tmp_path_factory.mktemp("spare")
    wide = dataclasses.replace(config, vocab_size=config.vocab_size + SPARE)
    assert wide.padded_vocab_size > config.padded_vocab_size
    _, params = random_params(config, seed=3)
    table = np.zeros((wide.padded_vocab_size, config.emb_dim), np.float32)
    table[: config.vocab_size] = params["token_embedder"]["embedding"][: config.vocab_size]
    table[config.vocab_size :] = (
        30 * np.random.default_rng(0).normal(size=table.shape)[config.vocab_size :]
    )
    params = {**params, "token_embedder": {"embedding": jnp.asarray(table)}}
    spec = checkpoints.ModelSpec(wide, None, None, vocabulary.fingerprint)
    return {
        "plain": made.save_whole(root / "plain", config, vocabulary, 3),
        "other": made.save_whole(root / "other", config, vocabulary, 4),
        "wide": made._save(root / "wide", params, spec, vocabulary),
    }


@pytest.fixture(scope="module")
def loaded(paths, one_device_mesh):
    return {name: checkpoints.load_model(path, one_device_mesh) for name, path in paths.items()}


def _logits(model):
    return np.stack([made.read(model.module, model.params, p)[-1] for p in PROMPTS])


def test_a_model_without_them_is_what_it_was(loaded, config):
    assert loaded["plain"].module == TransformerLM(loaded["plain"].module.config)
    assert loaded["plain"].module.vocab_size == config.vocab_size


def test_they_have_no_probability(loaded, config):
    """Where a loss is taken they have: there the model is as it was saved."""
    plain, wide = (jax.nn.log_softmax(_logits(loaded[name])) for name in ("plain", "wide"))
    size = config.vocab_size
    np.testing.assert_allclose(wide[:, 1:size], plain[:, 1:size], atol=1e-4)
    whole = TransformerLM(loaded["wide"].module.config)
    trained = jax.nn.log_softmax(made.read(whole, loaded["wide"].params, PROMPTS[0])[-1])
    assert np.exp(trained[1:size]).sum() < 0.01


def test_the_reference_of_a_loss_counts_them_as_the_loss_does(loaded, paths):
    (found,) = Reference(paths["wide"]).load().reader([(PROMPTS[0], [11])])
    whole = TransformerLM(loaded["wide"].module.config)
    trained = jax.nn.log_softmax(made.read(whole, loaded["wide"].params, PROMPTS[0])[-1])
    assert found.log_probability == pytest.approx(float(trained[11]), abs=1e-3)


@pytest.mark.parametrize("method", [sampling.Greedy(), sampling.TemperatureSampling()])
def test_they_are_never_drawn(loaded, one_device_mesh, method):
    drawn = [
        made.decode(loaded[name], one_device_mesh, (), PROMPTS, 6, 8, method)
        for name in ("plain", "wide")
    ]
    size = loaded["wide"].vocabulary.vocab_size
    assert all(0 < token < size for of in drawn[1] for tokens in of for token in tokens)
    if method == sampling.Greedy():
        assert drawn[0] == drawn[1]


METHODS = {
    "expert alone": lambda expert, anti: Experts(expert, alpha=2.0),
    "experts": lambda expert, anti: Experts(expert, anti, alpha=1.5),
    "discriminator": lambda expert, anti: GenerativeDiscriminator(
        clean=expert, dirty=anti, omega=2.0, filter_mass=None
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("roles", [("wide", "plain", "other"), ("other", "wide", "plain")])
def test_models_of_other_widths_combine_as_if_they_had_none(
    loaded, paths, one_device_mesh, config, name, roles
):
    """A wide model that is steered, and one that steers, beside the same without the rows."""
    prompts_NP = jnp.array([[*p, *[0] * (3 - len(p))] for p in PROMPTS], jnp.int32)
    lengths_N = jnp.array([len(p) for p in PROMPTS])
    said = []
    for base, expert, anti in (roles, tuple("plain" if r == "wide" else r for r in roles)):
        model = loaded[base]
        steering = METHODS[name](paths[expert], paths[anti]).load(model, one_device_mesh).steering
        size = model.module.vocab_size
        arguments = (steering, prompts_NP, lengths_N, _logits(model), size)
        said.append(np.exp(made.first_step(*arguments).log_probs()))
    size = config.vocab_size
    assert (said[0][:, size:] == 0).all()
    np.testing.assert_allclose(said[0][:, :size], said[1][:, :size], atol=1e-4)


def test_the_manifest_names_the_draws(paths, tmp_path, capsys):
    """What was begun with the draws of a version before is not continued."""
    (tmp_path / "p.jsonl").write_text('{"id": "p", "prompt": {"text": "The bus"}}\n')
    out = tmp_path / "out"
    flags = ["generate", f"--gin.CHECKPOINT_PATH={paths['wide']}", "--gin.NUM_SAMPLES=2"]
    flags += [f"--gin.INPUT={tmp_path / 'p.jsonl'}", f"--gin.OUTPUT_DIR={out}"]
    flags += ["--gin.MAX_NEW_TOKENS=2"]
    assert cli.main(flags) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["sampling_draw"] == sampling.DRAW_VERSION_OF_SPARE_ROWS == 3
    assert cli.main([*flags, "--dry_run"]) == 0
    manifest["settings"]["sampling_draw"] = 2
    (out / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    for more in (["--dry_run"], []):
        assert cli.main([*flags, *more]) == 2
        assert "sampling_draw: 2 there, 3 now" in capsys.readouterr().err
