"""Experts from disk: shared weights, smaller models, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import preview
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.generation import prompts
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.generate import generate
from detox_jax.generation.steering import steering
from detox_jax.generation.steering.contrast import PrefixContrast
from detox_jax.generation.steering.experts import Experts
from detox_jax.models.adaptation import AdapterConfig, PrefixConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import Vocabulary
from tests.generation.steering import made
from tests.marks import slow_but

PROMPTS = [[5, 9, 30], [7], [40, 41, 42]]


@pytest.fixture(scope="module")
def steered(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def adapted(model_dir, one_device_mesh, tmp_path_factory):
    """An expert and an anti-expert of one kind, and one of another size."""
    root = tmp_path_factory.mktemp("experts")
    return {
        name: made.save_adaptation(root / name, model_dir, one_device_mesh, seed, kind)
        for name, seed, kind in [
            ("expert", 1, AdapterConfig(8)),
            ("anti", 2, AdapterConfig(8)),
            ("other", 3, AdapterConfig(4)),
            ("prefix", 4, PrefixConfig(4)),
        ]
    }


@pytest.fixture(scope="module")
def smaller(config, vocabulary, tmp_path_factory):
    """A model of one layer and half the context, of the same vocabulary."""
    small = dataclasses.replace(config, num_layers=1, max_length=32)
    return made.save_whole(tmp_path_factory.mktemp("small") / "model", small, vocabulary, 5)


def _steered(loaded, base):
    """The logits of the first step, of base and steering."""
    prompts_NP = jnp.array([[*p, *[0] * (3 - len(p))] for p in PROMPTS], jnp.int32)
    lengths_N = jnp.array([len(p) for p in PROMPTS])
    logits_NV = _last(base)
    size = base.module.config.vocab_size
    after = made.first_step(loaded.steering, prompts_NP, lengths_N, logits_NV, size)
    return logits_NV[:, 1:size], np.asarray(after.logits_RV)[:, 1:size]


def _last(loaded):
    """A model's logits behind each prompt, without a cache."""
    return np.stack([made.read(loaded.module, loaded.params, p)[-1] for p in PROMPTS])


def _logits(path, mesh, size):
    return np.asarray(_last(checkpoints.load_model(path, mesh)))[:, 1:size]


@pytest.mark.parametrize(
    ("expert", "anti"),
    slow_but([("expert", "anti")], [("expert", "anti"), ("expert", "other")]),
)
def test_adaptations_of_the_model(steered, adapted, one_device_mesh, expert, anti):
    """What they add is what whole models of the same parameters add; the base is held once."""
    method = Experts(adapted[expert], adapted[anti], alpha=1.5)
    loaded = method.load(steered, one_device_mesh)
    base, logits = _steered(loaded, steered)
    plus, minus = (
        _logits(adapted[name], one_device_mesh, base.shape[1] + 1) for name in (expert, anti)
    )
    np.testing.assert_allclose(logits, base + 1.5 * (plus - minus), atol=1e-4)
    held = {id(leaf) for leaf in jax.tree.leaves(loaded.steering)}
    assert {id(leaf) for leaf in jax.tree.leaves(steered.params)} <= held
    assert len(loaded.steering.branches) == (1 if anti == "anti" else 2)
    base_size, held_size = (
        sum(leaf.size for leaf in {id(x): x for x in jax.tree.leaves(tree)}.values())
        for tree in (steered.params, loaded.steering)
    )
    assert held_size < 1.5 * base_size


@pytest.mark.slow
def test_a_smaller_expert_and_none(steered, adapted, smaller, one_device_mesh):
    loaded = Experts(None, smaller, alpha=0.5).load(steered, one_device_mesh)
    base, logits = _steered(loaded, steered)
    minus = _logits(smaller, one_device_mesh, base.shape[1] + 1)
    np.testing.assert_allclose(logits, base + 0.5 * (base - minus), atol=1e-4)
    assert loaded.longest == 32
    loaded = Experts(adapted["expert"], None, alpha=0.5).load(steered, one_device_mesh)
    base, logits = _steered(loaded, steered)
    plus = _logits(adapted["expert"], one_device_mesh, base.shape[1] + 1)
    np.testing.assert_allclose(logits, base + 0.5 * (plus - base), atol=1e-4)


def test_an_adapted_model_is_steered_by_adaptations_of_its_base(steered, adapted, one_device_mesh):
    calm = checkpoints.load_model(adapted["other"], one_device_mesh)
    loaded = Experts(adapted["expert"], adapted["anti"], alpha=1.0).load(calm, one_device_mesh)
    base, logits = _steered(loaded, calm)
    plus, minus = (
        _logits(adapted[name], one_device_mesh, base.shape[1] + 1) for name in ("expert", "anti")
    )
    np.testing.assert_allclose(logits, base + plus - minus, atol=1e-4)


def test_a_trained_prefix_as_contrast(steered, adapted, one_device_mesh):
    loaded = PrefixContrast(prefix=adapted["prefix"], alpha=2.0).load(steered, one_device_mesh)
    base, logits = _steered(loaded, steered)
    minus = _logits(adapted["prefix"], one_device_mesh, base.shape[1] + 1)
    np.testing.assert_allclose(logits, 3 * base - 2 * minus, atol=2e-4)


def test_settings_name_the_models_and_the_numbers(steered, adapted, one_device_mesh):
    loaded = Experts(adapted["expert"], adapted["anti"], 2.0, 0.9).load(steered, one_device_mesh)
    whole, _, fingerprint = checkpoints.load_params(adapted["anti"], one_device_mesh)
    assert fingerprint == params_lib.fingerprint(whole)
    assert loaded.settings["anti"] == identity.described(adapted["anti"], fingerprint)
    assert loaded.settings["expert"]["fingerprint"] != fingerprint
    assert (loaded.settings["alpha"], loaded.settings["base_top_p"]) == (2.0, 0.9)
    nothing = Experts(adapted["expert"], adapted["anti"], 0.0).load(steered, one_device_mesh)
    assert nothing.steering is None and nothing.settings["alpha"] == 0.0


def test_an_expert_of_another_base(steered, adapted, config, vocabulary, one_device_mesh, tmp_path):
    whole = made.save_whole(tmp_path / "base", config, vocabulary, 7)
    foreign = made.save_adaptation(tmp_path / "foreign", whole, one_device_mesh, 8)
    with pytest.raises(UserError, match=r"Experts.anti: .*foreign is an adaptation of base"):
        Experts(None, foreign).load(steered, one_device_mesh)
    loaded = Experts(None, foreign, 1.0, base=whole).load(steered, one_device_mesh)
    base, logits = _steered(loaded, steered)
    minus = _logits(foreign, one_device_mesh, base.shape[1] + 1)
    np.testing.assert_allclose(logits, 2 * base - minus, atol=1e-4)
    with pytest.raises(UserError, match="is an adaptation of base"):
        Experts(None, adapted["anti"], base=whole).load(steered, one_device_mesh)


def test_a_base_that_no_expert_adapts(steered, adapted, smaller, model_dir, one_device_mesh):
    """It would be read and held for nothing; a check says so before anything is loaded."""
    for method, message in (
        (Experts(None, smaller, base=model_dir), "model is a whole model; leave it out"),
        (Experts(smaller, smaller, base=model_dir), "are whole models; leave it out"),
    ):
        with pytest.raises(UserError, match=f"Experts.base: .* is given, but .*{message}"):
            method.load(steered, one_device_mesh)
        with pytest.raises(UserError, match=message):
            steering.check_fit([method], model_dir)
    mixed = Experts(adapted["expert"], smaller, base=model_dir)
    steering.check_fit([mixed], model_dir)
    assert mixed.load(steered, one_device_mesh).longest == 32


def test_a_mesh_that_does_not_divide_what_steers_is_refused_before_any_work(
    steered, config, vocabulary, model_dir, tmp_path
):
    """It was refused once the model was loaded, by a parameter that no setting of it names."""
    narrow = dataclasses.replace(config, num_heads=2, num_kv_heads=2)
    path = made.save_whole(tmp_path / "narrow", narrow, vocabulary, 3)
    method, shape = Experts(None, path), {"data": 2, "model": 4}
    refused = r"STEERING Experts.anti: .*narrow: .*'model' of size 4 .*'heads' \(size 2\).*; a mesh"
    with pytest.raises(UserError, match=refused):
        method.load(steered, meshes.create_mesh(shape))

    def check(checkpoint_path, methods, mesh_shape):
        generate(
            checkpoint_path,
            str(tmp_path / "out"),
            prompts.Standard(num_documents=1),
            Decoding(num_samples=1, max_new_tokens=4, steering=methods),
            mesh_shape=mesh_shape,
            check_only=True,
        )

    # Also where a step of before has still to make the model that is steered.
    for steered_path in (model_dir, preview.Coming(tmp_path / "coming")):
        with pytest.raises(UserError, match=refused):
            check(steered_path, [method], shape)
    check(model_dir, [method], {"data": 4, "model": 2})
    check(model_dir, [Experts(None, preview.Coming(path))], shape)
    with pytest.raises(UserError, match=r"narrow: .*'heads' \(size 2\)"):
        check(path, [], shape)


def test_another_vocabulary(steered, config, one_device_mesh, tmp_path):
    other = Vocabulary.train(["some other words", "of another text"] * 4, 300)
    path = made.save_whole(tmp_path / "other", config, other, 9)
    with pytest.raises(UserError, match=r"Experts.expert: .*other has vocabulary"):
        Experts(path, None).load(steered, one_device_mesh)


def test_neither_expert_nor_anti(steered, one_device_mesh):
    with pytest.raises(UserError, match="neither an expert nor an anti-expert"):
        Experts().load(steered, one_device_mesh)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Experts("a", "b", float("nan")), "Experts.alpha is nan; must be a finite"),
        # Finite in Python, but not in the float32 of the loop.
        (
            lambda: Experts("a", "b", -1e39),
            r"Experts.alpha is -1e\+39; must be a finite number, at most",
        ),
        (lambda: Experts("a", "b", base_top_p=1.5), r"Experts.base_top_p is 1.5; must be in"),
        (lambda: PrefixContrast(alpha=float("inf")), "PrefixContrast.alpha is inf"),
        (lambda: PrefixContrast(form="odds"), "PrefixContrast.form is 'odds'; one of logits"),
        (lambda: PrefixContrast(text="a", prefix="b"), "a text and a trained prefix"),
    ],
)
def test_numbers_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()
