"""What the guard makes of losses and gradients: when it judges, and what it counts."""

import jax.numpy as jnp
import pytest

from detox_jax.training import guard as guards
from detox_jax.training.guard import Guard


def after(guard, losses, norm=1.0):
    for step, loss in enumerate(losses, start=1):
        guard.after(step, {"loss": jnp.asarray(loss), "grad_norm": jnp.asarray(norm)})


class Unread:
    """A scalar that must not be waited for."""

    def __float__(self):
        pytest.fail("the host waited for the devices")


def test_the_last_steps_are_not_waited_for():
    guard = Guard()
    for step in range(1, guards.SKIPPED_IN_A_ROW + 1):
        guard.after(step, {"loss": Unread(), "grad_norm": Unread()})


@pytest.mark.parametrize("bad", [{"loss": jnp.inf}, {"grad_norm": jnp.nan}])
def test_loss_and_gradient_are_judged(bad):
    guard = Guard()
    guard.after(1, {"loss": jnp.asarray(1.0), "grad_norm": jnp.asarray(1.0), **bad})
    guard.settle()
    assert guard.skipped_steps == guard.in_a_row == 1 and not guard.is_lost


def test_ten_in_a_row_are_lost_and_a_good_one_begins_anew():
    guard = Guard()
    after(guard, [jnp.nan] * 9 + [1.0] + [jnp.nan] * 9)
    guard.settle()
    assert not guard.is_lost and guard.skipped_steps == 18
    after(guard, [jnp.nan])
    guard.settle()
    assert guard.is_lost
    guard.rolled_back()
    assert not guard.is_lost and guard.scalars() == {"skipped_steps": 19.0, "rollbacks": 1.0}


def test_a_jump_of_the_loss_is_said_and_counted(capsys):
    guard = Guard()
    after(guard, [2.0] * 32 + [2.9, 3.1, 2.0])
    guard.settle()
    assert guard.scalars() == {"loss_spikes": 1.0}
    assert capsys.readouterr().err == (
        "detox-jax: warning: step 34 has a loss of 3.100, after a median of 2.000 over 32 steps\n"
    )


def test_what_it_knows_survives():
    guard = Guard()
    after(guard, [2.0] * 31 + [jnp.nan])
    guard.settle()
    again = Guard.from_state(guard.state())
    after(again, [2.0, 9.0])
    again.settle()
    assert again.skipped_steps == again.loss_spikes == 1 and Guard.from_state({}).scalars() == {}
