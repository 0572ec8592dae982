"""AdamW: schedules, what decays, how moments are stored, settings that make no sense."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.models.transformer import TransformerLM
from detox_jax.training import step as steps
from detox_jax.training.optimizer import AdamW, updates
from tests.conftest import random_params


def _updated(optimizer, params, gradients):
    """Parameters after one update."""
    transformation = optimizer.transformation(1)

    @jax.jit
    def update(params, gradients):
        updates, _ = transformation.update(gradients, transformation.init(params), params)
        return optax.apply_updates(params, updates)

    return update(params, gradients)


def test_schedules():
    constant = AdamW(learning_rate=2e-5).learning_rate_at(100)
    assert float(constant(0)) == float(constant(99)) == pytest.approx(2e-5)
    cosine = AdamW(1e-3, "cosine", warmup_steps=10, min_learning_rate=1e-4).learning_rate_at(100)
    assert float(cosine(0)) == 0 and float(cosine(5)) == pytest.approx(5e-4)
    assert float(cosine(10)) == pytest.approx(1e-3)
    assert float(cosine(55)) == pytest.approx((1e-3 + 1e-4) / 2)
    assert float(cosine(100)) == pytest.approx(1e-4)


def test_updates_are_counted_by_the_optimizer():
    transformation = AdamW(1e-3, "cosine", warmup_steps=10).transformation(100)
    params = {"w": jnp.ones(2)}
    state = transformation.init(params)
    assert updates(state) == 0
    for number in (1, 2):
        _, state = transformation.update(params, state, params)
        assert updates(state) == number


def test_a_constant_rate_is_warmed_up_too():
    rate = AdamW(learning_rate=1e-3, warmup_steps=4).learning_rate_at(100)
    assert [float(rate(i)) for i in (0, 2, 4, 99)] == pytest.approx([0, 5e-4, 1e-3, 1e-3])


def test_a_run_shorter_than_its_warm_up_still_ends():
    rate = AdamW(1e-3, "cosine", warmup_steps=10).learning_rate_at(5)
    assert float(rate(5)) == pytest.approx(5e-4)


def test_weight_decay_spares_biases_and_norms(config):
    """With gradients clipped to almost nothing, only decay moves parameters."""
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5, max_grad_norm=1e-30, eps=1.0)
    _, before = random_params(config)
    after = _updated(optimizer, before, jax.tree.map(jnp.ones_like, before))
    old, new = before["layers"]["mlp"]["wi"], after["layers"]["mlp"]["wi"]
    np.testing.assert_array_equal(new["bias"], old["bias"])
    np.testing.assert_allclose(new["kernel"], old["kernel"] * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(after["final_norm"]["scale"], before["final_norm"]["scale"])


def test_gradients_are_clipped_by_their_common_norm():
    """Adam divides a gradient by itself, but for eps: a large one shows how large it was."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    optimizer = AdamW(learning_rate=1.0, weight_decay=0.0, max_grad_norm=1.0, eps=1e3)
    large = _updated(optimizer, params, {"a": jnp.full(1, 30.0), "b": jnp.full(1, 40.0)})
    small = _updated(optimizer, params, {"a": jnp.full(1, 0.6), "b": jnp.full(1, 0.8)})
    assert float(large["b"][0]) == pytest.approx(-0.8 / 1e3, rel=1e-2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), large, small)


@pytest.mark.parametrize("norm", [50.0, 0.5])
def test_a_norm_that_is_known_clips_as_one_that_is_computed(norm):
    gradients = {"a": jnp.full(1, 0.6 * norm), "b": jnp.full(1, 0.8 * norm)}
    transformation = AdamW(max_grad_norm=2.0, eps=1e3).transformation(1)
    state = transformation.init(gradients)
    computed, _ = transformation.update(gradients, state, gradients)
    known, _ = optax.with_extra_args_support(transformation).update(
        gradients, state, gradients, grad_norm=jnp.asarray(norm)
    )
    other, _ = optax.with_extra_args_support(transformation).update(
        gradients, state, gradients, grad_norm=jnp.asarray(100 * norm)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), known, computed)
    assert abs(float(other["a"][0])) < abs(float(known["a"][0]))


def test_the_first_moment_alone_may_be_smaller(config, one_device_mesh):
    model = TransformerLM(config)
    state = steps.abstract_state(
        checkpoints.abstract_on_mesh(model, one_device_mesh),
        one_device_mesh,
        AdamW(mu_dtype="bfloat16").transformation(1),
    )
    dtypes = {
        name: {x.dtype.name for x in jax.tree.leaves(optax.tree.get(state.opt_state, name))}
        for name in ("mu", "nu")
    }
    assert dtypes == {"mu": {"bfloat16"}, "nu": {"float32"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "AdamW.schedule is 'linear'; one of constant, cosine"),
        ({"mu_dtype": "float16"}, "AdamW.mu_dtype is 'float16'"),
        ({"learning_rate": 0.0}, "AdamW.learning_rate is 0.0; must be positive"),
        ({"eps": 0.0}, "AdamW.eps is 0.0; must be positive"),
        ({"min_learning_rate": -1e-4}, "AdamW.min_learning_rate is -0.0001; must not be negative"),
        ({"weight_decay": -0.1}, "AdamW.weight_decay is -0.1; must not be negative"),
        ({"b1": 1.0}, "AdamW.b1 is 1.0; must be at least 0 and below 1"),
        ({"b2": 1}, "AdamW.b2 is 1; must be at least 0 and below 1"),
        ({"b2": -0.1}, "AdamW.b2 is -0.1; must be at least 0 and below 1"),
        ({"max_grad_norm": 0}, "AdamW.max_grad_norm is 0; must be positive, or None, which clips"),
        ({"max_grad_norm": -1.0}, "AdamW.max_grad_norm is -1.0; must be positive, or None"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        AdamW(**changes)


def test_no_bound_is_narrower_than_its_use():
    AdamW(min_learning_rate=0.0, weight_decay=0.0, b1=0.0, b2=0.0, max_grad_norm=1e-30)


def test_gradients_are_not_clipped_without_a_norm():
    """The state is that of a training that clips, so that either goes on with it."""
    params, gradients = {"a": jnp.zeros(1)}, {"a": jnp.full(1, 50.0)}
    optimizer = AdamW(learning_rate=1.0, weight_decay=0.0, max_grad_norm=None, eps=1e3)
    after = _updated(optimizer, params, gradients)
    assert float(after["a"][0]) == pytest.approx(-50 / (50 + 1e3), rel=1e-3)
    states = (AdamW(max_grad_norm=norm).transformation(1).init(params) for norm in (None, 1.0))
    assert len({str(jax.tree.structure(state)) for state in states}) == 1
