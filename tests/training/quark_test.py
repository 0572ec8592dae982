"""Quark's loss, on figures that were worked out by hand."""

import jax
import numpy as np
import pytest

from detox_jax.training.per_target import compared
from detox_jax.training.quark import Quark
from tests.training.pairs_made import Fixed

PARAMS = {
    "logits": np.array([2.5, 0.5, 0.0]),
    "base": {"logits": np.array([2.0, 1.0, 0.0])},
}


def batch(*targets):
    """Targets behind a tag, which weighs nothing, with padding behind them."""
    ids = [1, *targets, 0]
    weights = [0, *[1] * len(targets), 0]
    return {
        "decoder_input_tokens": np.array([[1, *ids[:-1]]]),
        "decoder_target_tokens": np.array([ids]),
        "decoder_loss_weights": np.array([weights]),
        "decoder_segment_ids": np.ones((1, len(ids)), int),
        "decoder_positions": np.arange(len(ids))[None],
    }


@pytest.mark.parametrize(("target", "expected"), [(0, 0.164776), (1, 2.164776)])
def test_a_target_costs_its_surprise_and_the_kl_and_less_for_entropy(target, expected):
    with jax.enable_x64(True):
        total, weight = Quark().loss(Fixed(), PARAMS, batch(target), None)
        figures = Quark().figures(Fixed(), PARAMS, batch(target))
    assert float(weight) == 1 and float(total) == pytest.approx(expected, abs=1e-6)
    assert float(figures["kl_to_base"][0]) == pytest.approx(0.065994, abs=1e-6)
    assert float(figures["entropy"][0]) == pytest.approx(0.587629, abs=1e-6)
    assert float(figures["nll_good"][0]) == pytest.approx(
        expected - 0.05 * 0.065994 + 0.035258, abs=1e-6
    )


def test_without_a_kl_no_base_is_read():
    objective = Quark(kl_to_base=0.0, entropy=0.0)
    params = {"logits": PARAMS["logits"]}
    with jax.enable_x64(True):
        total, weight = objective.loss(Fixed(), params, batch(0, 2), None)
    assert not objective.reads_base() and float(weight) == 2
    assert float(total) == pytest.approx(2.893468, abs=1e-6)


def test_columns_that_no_token_has_add_no_entropy_and_break_no_gradient():
    logits = np.array([[[2.5, 0.5, 0.0, -np.inf]]])

    def entropy(x):
        return compared([x], np.array([[0]]), with_entropy=True).entropy_BL.sum()

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(entropy))(logits)
    assert float(value) == pytest.approx(0.587629, abs=1e-6)
    assert np.isfinite(gradient).all()
    assert compared([logits], np.array([[0]])).entropy_BL is None
