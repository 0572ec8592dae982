"""One training for every objective: how long, from where, and that objectives are but arguments."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation
from detox_jax.training import loop as loops
from detox_jax.training.fit import Budget, fit
from detox_jax.training.loop import Periods
from detox_jax.training.objective import Objective
from detox_jax.training.optimizer import AdamW
from tests.training.conftest import Linear, Numbered, Regression

STEPS = 8
OPTIMIZER = AdamW(learning_rate=0.1, weight_decay=0.0, eps=1e-8)


# --- how long ---------------------------------------------------------------------------------


def test_a_budget_is_updates_or_passes():
    assert Budget(train_steps=7).steps(lambda: pytest.fail("read the data")) == 7
    assert Budget(epochs=1.5).steps(lambda: 5.1) == 8


@pytest.mark.parametrize("given", [{}, {"train_steps": 3, "epochs": 1.0}])
def test_a_budget_is_one_of_the_two(given):
    with pytest.raises(UserError, match="^set one of TRAIN_STEPS and EPOCHS, and leave the other"):
        Budget(**given)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(train_steps=0), "0 steps; set TRAIN_STEPS or EPOCHS"),
        (Budget(epochs=0.1), "the data fills 4 batches, and EPOCHS is 0.1; lower BATCH_SIZE"),
    ],
)
def test_a_budget_is_at_least_one_update(budget, said):
    with pytest.raises(UserError, match=f"^nothing to train: {said}"):
        budget.steps(lambda: 4.0)


# --- from where -------------------------------------------------------------------------------


class Killed(Exception):
    """In the place of a signal."""


def start(value=0.0):
    sharding = meshes.replicated(Computation().create_mesh())
    return jax.device_put({"w": np.full(3, value, np.float32)}, sharding)


def run(directory, objective=None, params=None, frozen=None, batches=None, **changes):
    objective = objective or Regression()
    settings = {
        "steps": STEPS,
        "optimizer": OPTIMIZER,
        "computation": Computation(),
        "periods": Periods(checkpoint=3, eval=4, log=1),
        "seed": 0,
        "directory": epath.Path(directory),
        **changes,
    }
    sizes = {"batch_size": 8, "length": 3}
    return fit(
        Linear(),
        start() if params is None else params,
        frozen or {},
        objective,
        batches or objective.batches(None, **sizes, seed=0),
        functools.partial(objective.validation_batches, None, **sizes),
        **settings,
    )


def log(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def killed(monkeypatch):
    """Kills the next run behind a save."""
    original = loops._save

    def kill_at(step):
        def save(manager, at, *args):
            original(manager, at, *args)
            if at == step:
                monkeypatch.setattr(loops, "_save", original)
                raise Killed

        monkeypatch.setattr(loops, "_save", save)

    return kill_at


@pytest.mark.usefixtures("no_tensorboard")
def test_a_killed_run_goes_on_bit_by_bit(tmp_path, killed):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    batches = Regression().batches(None, batch_size=8, length=3, seed=0)
    expected = run(tmp_path / "whole", batches=batches)
    assert int(expected.step) == batches.taken == STEPS
    killed(3)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    # Not from where the second run says, and not from its batches.
    again = run(tmp_path / "killed", params=start(99.0))
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    losses = [line["validation_loss"] for line in log(tmp_path / "whole") if len(line) == 2]
    assert len(losses) == 2 and losses[1] < losses[0]


@pytest.mark.usefixtures("no_tensorboard")
def test_a_run_that_goes_on_holds_no_second_start(tmp_path, killed, monkeypatch):
    """The caller of `fit` still names the parameters that it gave; large ones must be gone."""
    killed(3)
    with pytest.raises(Killed):
        run(tmp_path)
    given, seen = start(), []

    def looped(loop, state, frozen, batches):
        seen.extend(x.is_deleted() for x in jax.tree.leaves((given, state)))
        return state

    monkeypatch.setattr(loops.Loop, "run", looped)
    run(tmp_path, params=given)
    assert seen == [True] + [False] * (len(seen) - 1)


@pytest.mark.usefixtures("no_tensorboard")
def test_a_position_in_other_data_is_refused(tmp_path, killed):
    killed(3)
    with pytest.raises(Killed):
        run(tmp_path)
    with pytest.raises(UserError, match="the position is for {'name': 'numbers'}, now it is"):
        run(tmp_path, objective=Regression("other numbers"))


# --- how, and what for ------------------------------------------------------------------------


@pytest.mark.usefixtures("no_tensorboard")
def test_parts_of_a_batch_and_meshes_change_nothing_but_rounding(tmp_path):
    states = {}
    for name, computation in {
        "plain": Computation(),
        "parts": Computation({"data": 4, "model": 2}, accumulation_steps=2),
    }.items():
        (tmp_path / name).mkdir()
        sharding = meshes.replicated(computation.create_mesh())
        params = jax.device_put(start(), sharding)
        states[name] = run(tmp_path / name, params=params, computation=computation)
    np.testing.assert_allclose(states["parts"].params["w"], states["plain"].params["w"], rtol=1e-5)
    losses = [[line["loss"] for line in log(tmp_path / name) if "loss" in line] for name in states]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.usefixtures("no_tensorboard")
def test_a_batch_is_cut_into_the_parts_that_are_asked_for(tmp_path):
    with pytest.raises(TypeError, match="reshape"):
        run(tmp_path, computation=Computation(accumulation_steps=3))  # Of eight rows.


@dataclasses.dataclass(frozen=True)
class Preference(Objective):
    """Pairs, of which one side shall be likelier than a reference found it (Rafailov et al., 2023).

    What a row's "log-likelihood" is matters to no part of `fit`: here it is linear.
    """

    beta: float = 1.0

    def batches(self, task, *, batch_size, length, seed, rows=None):
        return Numbered(_pairs, "pairs")

    def validation_batches(self, task, *, batch_size, length, max_batches=None, rows=None):
        return (_pairs(np.random.default_rng(1000 + i)) for i in range(2))

    def loss(self, model, params, batch, dropout_key):
        losses_B = -jax.nn.log_sigmoid(self.beta * self._margin(params, batch))
        return jnp.sum(losses_B), jnp.sum(jnp.ones_like(losses_B))

    def measures(self):
        return {
            "accuracy": self._accuracy,
            "chosen_loss": functools.partial(self._negated, "chosen"),
            "rejected_loss": functools.partial(self._negated, "rejected"),
        }

    def _margin(self, params, batch):
        sides = [
            batch[side] @ params["w"] - batch[f"reference_{side}"]
            for side in ("chosen", "rejected")
        ]
        return sides[0] - sides[1]

    def _accuracy(self, model, params, batch, dropout_key):
        right_B = (self._margin(params, batch) > 0).astype(jnp.float32)
        return jnp.sum(right_B), jnp.sum(jnp.ones_like(right_B))

    def _negated(self, side, model, params, batch, dropout_key):
        values_B = -(batch[side] @ params["w"])
        return jnp.sum(values_B), jnp.sum(jnp.ones_like(values_B))


def _pairs(noise):
    """Rows are liked for their first number; the reference knows it not."""
    x, y = noise.normal(size=(2, 8, 3)).astype(np.float32)
    swap = x[:, 0] < y[:, 0]
    x[swap], y[swap] = y[swap].copy(), x[swap].copy()
    return {
        "chosen": x,
        "rejected": y,
        "reference_chosen": np.zeros(8, np.float32),
        "reference_rejected": np.zeros(8, np.float32),
    }


@pytest.mark.usefixtures("no_tensorboard")
def test_pairs_are_trained_on_and_reported_without_another_loop(tmp_path, killed):
    """What comes next: a batch of two sides, and figures beside the loss."""
    halves = Computation({"fsdp": 4, "data": 1, "model": 2}, accumulation_steps=2)
    params = jax.device_put(start(), meshes.replicated(halves.create_mesh()))
    killed(3)
    with pytest.raises(Killed):
        run(tmp_path, Preference(), params=params, computation=halves)
    params = jax.device_put(start(), meshes.replicated(halves.create_mesh()))
    state = run(tmp_path, Preference(), params=params, computation=halves)
    weights = np.asarray(state.params["w"])
    assert weights[0] > 2 * abs(weights[1:]).max()
    first, last = [line for line in log(tmp_path) if "validation_loss" in line]
    assert last["validation_loss"] < first["validation_loss"] < np.log(2)
    assert last["validation_accuracy"] >= first["validation_accuracy"] > 0.8
    assert last["validation_chosen_loss"] < last["validation_rejected_loss"]
    losses = [line["loss"] for line in log(tmp_path) if "loss" in line]
    assert len(losses) == STEPS and losses[0] == pytest.approx(np.log(2))
