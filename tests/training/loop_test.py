"""The loop by itself: what happens at which step, what it refuses, what it finds again."""

import contextlib
import dataclasses
import errno
import json
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from detox_jax import atomic_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import steps as saved
from detox_jax.errors import Unavailable, UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.training import loop as loops
from detox_jax.training import step as steps_lib
from detox_jax.training.frontier import MEASURES, PERPLEXITY, Frontier, Rule, Watch
from tests.parallel.processes_test import on_all, threads_as_processes
from tests.training.conftest import Numbered

pytestmark = pytest.mark.usefixtures("no_tensorboard")


def _ones(noise):
    return {"x": np.ones((8, 2), np.float32)}


def _state(step=0, value=0.0):
    count = jnp.asarray(step, jnp.int32)
    opt_state = {"mu": jnp.zeros(2), "schedule": optax.ScaleByScheduleState(count)}
    return steps_lib.TrainState(count, {"w": jnp.full(2, value)}, opt_state)


def _step(state, frozen, batch):
    """Counts, and calls a step's number its loss."""
    step = state.step + 1
    more = lambda tree: jax.tree.map(lambda x: x + 1, tree)  # noqa: E731
    state = state.replace(step=step, params=more(state.params), opt_state=more(state.opt_state))
    return state, {"loss": step * 1.0, "tokens": jnp.sum(batch["x"])}


@pytest.fixture
def run(tmp_path, monkeypatch, one_device_mesh):
    """Runs a loop in `tmp_path`; gives its last state and what was saved, by step."""
    saved = {}
    original = loops._save

    def save(saves, step, state, data, *others):
        saved[step] = data
        original(saves, step, state, data, *others)

    monkeypatch.setattr(loops, "_save", save)

    def run(state=None, total=7, step_fn=_step, batches=None, **changes):
        settings = {
            "periods": loops.Periods(checkpoint=3, eval=4, log=2),
            "eval_fns": {},
            "validation": None,
            **changes,
        }
        loop = loops.Loop(
            model_dir=epath.Path(tmp_path),
            total_steps=total,
            mesh=one_device_mesh,
            step_fn=step_fn,
            learning_rate=lambda step: step / 10,
            **settings,
        )
        return loop.run(state or _state(), {}, batches or Numbered(_ones)), saved

    return run


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "metrics.jsonl"
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


def test_every_period_has_its_steps_and_the_last_step_has_all(run, log):
    evaluate = lambda *_: (jnp.asarray(1.0), jnp.asarray(1.0))  # noqa: E731
    state, saved = run(
        eval_fns={"validation_loss": evaluate}, validation=lambda: [_ones(None), _ones(None)]
    )
    assert int(state.step) == 7 and list(saved) == [3, 6, 7]
    assert [line["step"] for line in log() if "loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in log() if "validation_loss" in line] == [4, 7]
    # The learning rate is that of the update, which counts from 0.
    assert log()[0] == {"step": 2, "loss": 2.0, "tokens": 16.0, "learning_rate": 0.1}


def test_a_period_of_0_leaves_the_last_step_alone(run, log):
    _, saved = run(periods=loops.Periods(0, 0, 0))
    assert list(saved) == [7] and [line["step"] for line in log()] == [7]


def test_goes_on_behind_the_step_of_its_state(run, log):
    batches = Numbered(_ones)
    state, saved = run(_state(step=4, value=4.0), batches=batches)
    assert batches.taken == 3 and list(saved) == [6, 7]
    assert np.asarray(state.params["w"]).tolist() == [7.0, 7.0]


def test_a_position_is_that_behind_the_saved_step(run):
    _, saved = run()
    assert {step: data["taken"] for step, data in saved.items()} == {3: 3, 6: 6, 7: 7}


def test_the_next_batch_is_read_while_a_step_computes_and_none_beyond_the_last(run):
    taken = []
    batches = Numbered(_ones)

    def step_fn(*arguments):
        taken.append(batches.taken)
        return _step(*arguments)

    evaluate = lambda *_: (taken.append(batches.taken), (jnp.ones(()), jnp.ones(())))[1]  # noqa: E731
    run(
        total=4,
        batches=batches,
        step_fn=step_fn,
        eval_fns={"validation_loss": evaluate},
        validation=lambda: [_ones(None)],
        periods=loops.Periods(checkpoint=0, eval=2, log=0),
    )
    # Steps 1 and 2, a validation that waits for them, steps 3 and 4, and another one.
    assert taken == [1, 2, 3, 3, 4, 4]


def test_a_step_is_saved_before_the_next_batch_is_found_to_be_broken(run, tmp_path):
    batches = Numbered(lambda _: _ones(None) if batches.taken < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(batches=batches)
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [3]


def test_a_save_that_fails_ends_the_run_at_a_later_step(run, tmp_path, monkeypatch):
    """A full disk, which shows when a thread writes; the steps before it are kept."""
    write, steps = type(epath.Path(tmp_path)).write_text, []

    def full(path, text, **how):
        if path.parent.name.startswith("record") and "checkpoints/6" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, text, **how)

    def step_fn(*arguments):
        steps.append(1)
        time.sleep(0.005)
        return _step(*arguments)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", full)
    periods = loops.Periods(checkpoint=3, eval=0, log=0)
    with pytest.raises(Unavailable, match=r"checkpoints/6: cannot be written: .*make room"):
        run(total=100_000, step_fn=step_fn, periods=periods)
    assert 6 <= len(steps) <= 9  # The save of step 9 waits for that of step 6.
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [3]


def test_validation_is_the_mean_over_all_batches_for_every_name(run, log):
    rows = [np.full((8, 2), value, np.float32) for value in (1.0, 2.0)]
    evaluations = {
        # Sums of 16 and 32, weights of 1 and 3: no mean of means.
        "validation_loss": lambda _, __, b: (jnp.sum(b["x"]), b["x"][0, 0] * 2 - 1),
        "validation_nothing": lambda *_: (jnp.zeros(()), jnp.zeros(())),
    }
    run(total=1, eval_fns=evaluations, validation=lambda: [{"x": x} for x in rows])
    assert log()[-1] == {"step": 1, "validation_loss": 48.0 / 4, "validation_nothing": 0.0}


def test_figures_of_a_batch_are_those_before_its_step_and_validated_too(run, log):
    figures = lambda params, _, batch: {  # noqa: E731
        "w": (jnp.sum(params["w"]), jnp.asarray(2.0)),
        "x": (jnp.sum(batch["x"]), jnp.asarray(4.0)),
    }
    evaluate = lambda *_: (jnp.asarray(1.0), jnp.asarray(1.0))  # noqa: E731
    run(
        total=4,
        eval_fns={"validation_loss": evaluate},
        figures_fn=figures,
        validation=lambda: [_ones(None)],
    )
    logged, held_out = ([x for x in log() if name in x] for name in ("loss", "validation_loss"))
    assert [(x["step"], x["w"], x["x"]) for x in logged] == [(2, 1.0, 4.0), (4, 3.0, 4.0)]
    assert held_out[-1] == {
        "step": 4,
        "validation_loss": 1.0,
        "validation_w": 4.0,
        "validation_x": 4.0,
    }


def _broken_at(step, change):
    def broken(state, frozen, batch):
        state, scalars = _step(state, frozen, batch)
        return change(state, scalars) if int(state.step) == step else (state, scalars)

    return broken


def _not_finite(is_bad):
    """`_step`, but where `is_bad(state, batch)` nothing changes, as in `train_step`."""

    def step_fn(state, frozen, batch):
        after, scalars = _step(state, frozen, batch)
        if not is_bad(after, batch):
            return after, scalars
        return state.replace(step=after.step), {**scalars, "loss": jnp.nan}

    return step_fn


def test_a_step_that_is_not_finite_is_counted_said_and_not_saved(run, log, capsys):
    bad = (3, 5, 8)  # At 3 a step would be saved, at 8 one is logged.
    state, saved = run(total=9, step_fn=_not_finite(lambda state, _: int(state.step) in bad))
    assert np.asarray(state.params["w"]).tolist() == [6.0, 6.0] and list(saved) == [6, 9]
    counts = {line["step"]: line.get("skipped_steps") for line in log()}
    assert counts == {2: None, 4: 1.0, 6: 2.0, 8: 3.0, 9: 3.0}
    losses = {line["step"]: line.get("loss") for line in log()}
    assert losses == {2: 2.0, 4: 4.0, 6: 6.0, 8: None, 9: 9.0}
    # By the updates before, as the optimizer counts: before step 4 two, since 3 was left out.
    rates = {line["step"]: line["learning_rate"] for line in log()}
    assert rates == {2: 0.1, 4: 0.2, 6: 0.3, 8: 0.5, 9: 0.5}
    errors = capsys.readouterr().err
    assert "warning: step 3 is not finite (loss nan): its update is left out" in errors


def _numbered_rows():
    """Batches that hold their number."""
    batches = Numbered(lambda _: {"x": np.full((8, 2), batches.taken, np.float32)})
    return batches


def test_many_steps_that_are_not_finite_go_back_and_on_to_other_batches(run, log, tmp_path, capsys):
    step_fn = _not_finite(lambda _, batch: 8 <= batch["x"][0, 0] <= 20)
    batches = _numbered_rows()
    state, saved = run(total=24, step_fn=step_fn, batches=batches)
    # Step 6 is the last good one, and at the log of step 18 it shows: batch 19 is the next.
    assert int(state.step) == 24 and batches.taken == 18 + 18
    assert list(saved) == [3, 6, 9, 12, 15, 18, 21, 24] and saved[24]["taken"] == batches.taken
    assert [line["step"] for line in log()] == list(range(2, 25, 2))
    assert np.asarray(state.params["w"]).tolist() == [22.0, 22.0]
    assert log()[-1]["rollbacks"] == 1.0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "BACK TO" in x]
    assert "BACK TO STEP 6, on to other batches" in line


@pytest.mark.parametrize("bad", [{7}, {6, 7, 8}])
def test_a_last_step_that_is_left_out_is_taken_again_with_the_next_batch(
    run, log, tmp_path, capsys, bad
):
    """Though no step is saved to go back to; `w` counts the updates, the log has a step once."""
    batches = _numbered_rows()
    step_fn = _not_finite(lambda _, batch: int(batch["x"][0, 0]) in bad)
    periods = loops.Periods(checkpoint=0, eval=0, log=2)
    state, saved = run(step_fn=step_fn, batches=batches, periods=periods)
    taken = max(bad) + 1
    assert int(state.step) == 7 and batches.taken == saved[7]["taken"] == taken
    assert np.asarray(state.params["w"]).tolist() == [taken - len(bad)] * 2
    assert [line["step"] for line in log()] == [2, 4, 6, 7] and log()[-1]["loss"] == 7.0
    assert log()[-1]["skipped_steps"] == len(bad) and "rollbacks" not in log()[-1]
    assert list(saved) == [7] and checkpoints.saved_steps(epath.Path(tmp_path)) == [7]
    said = f"{tmp_path}: step 7 is taken again, with the batch that is next"
    assert capsys.readouterr().err.count(said) == taken - 7


def test_a_model_that_is_lost_at_its_last_step_is_not_left(run, tmp_path):
    step_fn = _not_finite(lambda _, batch: batch["x"][0, 0] >= 7)
    batches = _numbered_rows()
    message = "10 steps up to 7 are not finite: training has diverged; no step is saved"
    with pytest.raises(UserError, match=message):
        run(step_fn=step_fn, batches=batches, periods=loops.Periods(checkpoint=0, eval=0, log=0))
    assert batches.taken == 6 + 10 and checkpoints.saved_steps(epath.Path(tmp_path)) == []


def test_going_back_again_and_again_ends_the_run(run, tmp_path):
    step_fn = _not_finite(lambda _, batch: batch["x"][0, 0] >= 8)
    message = r"10 steps up to \d+ are not finite, after 2 returns .* the last good step is 6"
    with pytest.raises(UserError, match=message):
        run(total=40, step_fn=step_fn, batches=_numbered_rows())
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [3, 6]


def test_what_the_guard_knows_goes_on_with_the_run(run, tmp_path):
    bad = _not_finite(lambda state, _: int(state.step) == 2)
    run(step_fn=bad)
    found = loops.restore(epath.Path(tmp_path), 7, _state())
    assert found.guard.skipped_steps == 1 and found.guard.state()["losses"] == [1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("changed", "what"),
    [("params", "parameter w is not finite"), ("opt_state", "optimizer state mu is not finite")],
)
def test_what_is_not_finite_is_not_saved(run, tmp_path, changed, what):
    def change(state, scalars):
        nan = jax.tree.map(lambda x: x * jnp.nan, getattr(state, changed))
        return state.replace(**{changed: nan}), scalars

    with pytest.raises(UserError, match=f"{what} at step 3: .* no step is saved"):
        run(step_fn=_broken_at(3, change))
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == []


def test_a_process_that_looks_late_sets_damaged_steps_aside_with_the_others(tmp_path, monkeypatch):
    """Process 0 has moved them by then: who left the call out would take its words for the next."""
    damaged = tmp_path / "checkpoints" / "4"
    for step in (damaged.with_name("2"), damaged):
        step.mkdir(parents=True)

    def work(run, index):
        def newest(*_, **__):
            for _ in range(6000 if index else 0):
                if not damaged.exists():
                    break
                time.sleep(0.01)
            return 2, f"step 2 of {index}"

        own.newest = newest
        restored = loops.resume(epath.Path(tmp_path), _state(), strict=False)
        return restored, run.first_decides(lambda: "what comes next")

    own = threading.local()
    monkeypatch.setattr(loops.saved, "newest_whole", lambda *_, **__: own.newest())
    told = on_all(threads_as_processes(monkeypatch)(work), count=2)
    assert told == [(f"step 2 of {index}", "what comes next") for index in range(2)]
    assert (tmp_path / "damaged" / "4").exists() and not damaged.exists()


def test_what_was_saved_is_restored_as_it_is_asked_for(run, tmp_path):
    state, _ = run()
    mesh = meshes.create_mesh({"data": 8})
    like = jax.device_put(_state(value=9.0), meshes.replicated(mesh))
    found = loops.restore(epath.Path(tmp_path), 7, like)
    restored = found.state
    assert int(restored.step) == 7 and found.position["taken"] == 7
    for name in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(restored, name), getattr(state, name))
    assert restored.params["w"].sharding == meshes.replicated(mesh)


def test_the_end_says_where_the_loss_began_and_ended(run, tmp_path, capsys):
    run()
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: loss 1.000 at step 1, 7.000 at step 7; ")
    assert "of memory" in said and said.count("\n") == 1
    run(_state(step=7, value=7.0))  # Nothing is left to do.
    assert capsys.readouterr().out == ""


def test_progress_is_told_as_far_as_steps_are_computed(run, monkeypatch):
    told = []

    @contextlib.contextmanager
    def bar(description, total, completed, unit):
        told.append((description, total, completed, unit))
        yield lambda amount, note=None: told.append((amount, note and note.split(",")[0]))

    monkeypatch.setattr(loops.terminal, "bar", bar)
    run(_state(step=2, value=2.0))
    assert told[0] == ("train", 7, 2, "steps") and sum(amount for amount, _ in told[1:]) == 5
    assert told[-1][1] == "loss 7.000"


# --- the frontier of toxicity and perplexity ------------------------------------------------------


def _watched(toxicities, perplexities, period=2, **rule):
    """What a loop takes to measure these, probe by probe; the weights tell it the step."""

    def figures(params):
        number = int(params["w"][0]) // period
        names = dict.fromkeys(MEASURES, toxicities[number])
        return {**names, PERPLEXITY: perplexities[number]}

    rule = Rule(**rule)
    return {"watch": Watch(figures, period, rule), "frontier": Frontier(rule)}


GOES_BEYOND = ([0.9, 0.5, 0.7, 0.1, 0.1, 0.1, 0.1], [4.0, 4.1, 4.1, 5.0, 5.0, 5.0, 5.0])


def test_a_step_within_the_budget_is_left_and_training_ends_early(run, log, tmp_path, capsys):
    periods = loops.Periods(checkpoint=3, eval=0, log=0)
    state, saved = run(total=12, periods=periods, **_watched(*GOES_BEYOND, patience=2))
    # Probes at 0, 2, 4, 6, 8; of the last two perplexity is 25 % higher.
    assert [line["step"] for line in log() if PERPLEXITY in line] == [0, 2, 4, 6, 8]
    assert list(saved) == [0, 2, 3, 6]
    assert int(state.step) == 2 and np.asarray(state.params["w"]).tolist() == [2.0, 2.0]
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    written = capsys.readouterr()
    assert "step 8: 2 probes in a row are beyond the budget" in written.err
    assert "TRAINING ENDS, 4 steps early" in written.err and "STEP 2 IS TAKEN" in written.out
    assert f"{tmp_path}: step 6: expected maximum toxicity 0.100" in written.out


@pytest.mark.parametrize("is_broken", [True, False])
def test_in_a_bucket_the_log_has_what_comes_behind_the_last_save(
    is_broken, run, log, tmp_path, monkeypatch
):
    """What ended the training, a budget or that it diverged, is not saved."""
    is_local = atomic_files.is_local
    monkeypatch.setattr(
        atomic_files, "is_local", lambda path: str(path) != str(tmp_path) and is_local(path)
    )
    periods = loops.Periods(checkpoint=1000, eval=0, log=1)
    if is_broken:
        run(total=12, periods=periods, **_watched(*GOES_BEYOND, patience=2))
        assert [line["step"] for line in log() if PERPLEXITY in line] == [0, 2, 4, 6, 8]
        return
    with pytest.raises(UserError, match="training has diverged"):
        run(total=12, periods=periods, step_fn=_not_finite(lambda state, _: int(state.step) > 3))
    assert [line["step"] for line in log() if "loss" in line] == [1, 2, 3]


def test_a_budget_that_the_last_step_breaks_ends_nothing_early(run, capsys):
    state, _ = run(total=4, **_watched([0.9, 0.5, 0.1], [4.0, 4.1, 9.0], patience=1))
    assert int(state.step) == 2
    written = capsys.readouterr()
    assert "TRAINING ENDS" not in written.err and "STEP 2 IS TAKEN" in written.out


def test_step_0_may_be_measured_otherwise_and_it_alone(run, log):
    watched = _watched([0.9, 0.5, 0.4, 0.3], [6.0, 4.1, 4.21, 4.0])
    plain = {**dict.fromkeys(MEASURES, 0.8), PERPLEXITY: 4.0}
    watched["watch"] = dataclasses.replace(watched["watch"], of_step_0=lambda params: plain)
    state, _ = run(total=6, **watched)
    assert [line[PERPLEXITY] for line in log() if PERPLEXITY in line] == [4.0, 4.1, 4.21, 4.0]
    assert int(state.step) == 6  # 4.21 is beyond 4 by 5 %; of 6 all would have been within.
    assert watched["frontier"].is_within(watched["frontier"].points[2]) is False


def test_a_probe_alone_changes_nothing_but_the_log(run, log, tmp_path):
    state, saved = run(**_watched(*GOES_BEYOND, budget=None))
    assert int(state.step) == 7 and list(saved) == [3, 6, 7]
    assert [line["step"] for line in log() if PERPLEXITY in line] == [0, 2, 4, 6, 7]
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [6, 7]


def test_no_better_step_leaves_the_model_as_it_was(run, tmp_path, capsys):
    state, _ = run(**_watched([0.5] * 4, [4.0] * 4))
    assert int(state.step) == 0 and checkpoints.saved_steps(epath.Path(tmp_path)) == [0]
    assert np.asarray(state.params["w"]).tolist() == [0.0, 0.0]
    assert "warning" in capsys.readouterr().err


def test_the_last_step_is_left_where_it_is_the_best(run, tmp_path):
    state, _ = run(total=6, **_watched([0.9, 0.8, 0.7, 0.6], [4.0] * 4))
    assert int(state.step) == 6 and checkpoints.saved_steps(epath.Path(tmp_path)) == [6]


@pytest.mark.parametrize("killed_at", ["figures 0", "figures 4", "save 2", "save 3", "remove 0"])
def test_a_probed_run_that_is_killed_ends_as_if_it_was_not(
    run, log, tmp_path, monkeypatch, killed_at
):
    """Behind each thing that the loop does."""
    what, number = killed_at.split()
    calls = dict.fromkeys(("figures", "save", "remove"), 0)
    is_armed = True

    def counted(name, function):
        def call(*arguments):
            result = function(*arguments)
            calls[name] += 1
            if is_armed and name == what and calls[name] == int(number) + 1:
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(loops, "_save", counted("save", loops._save))
    monkeypatch.setattr(loops.saved, "remove", counted("remove", loops.saved.remove))
    settings = {"total": 12, "periods": loops.Periods(checkpoint=3, eval=0, log=1)}

    def once(start):
        watched = _watched(*GOES_BEYOND, patience=2)
        figures = counted("figures", watched["watch"].figures)
        watched["watch"] = dataclasses.replace(watched["watch"], figures=figures)
        if start is None:
            return run(**settings, **watched)
        found = loops.resume(epath.Path(tmp_path), start, strict=False)
        watched["frontier"].restore(found.points)
        batches = Numbered(_ones)
        batches.restore(found.position)
        return run(found.state, batches=batches, **settings, **watched)

    with pytest.raises(KeyboardInterrupt):
        once(None)
    is_armed = False
    saved.remove_unfinished(epath.Path(tmp_path))
    has_saved = checkpoints.saved_steps(epath.Path(tmp_path))
    state, _ = once(_state() if has_saved else None)
    assert int(state.step) == 2 and np.asarray(state.params["w"]).tolist() == [2.0, 2.0]
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [2]
    steps = [line["step"] for line in log() if PERPLEXITY in line]
    assert steps == [0, 2, 4, 6, 8] and [x["step"] for x in log() if "loss" in x] == [*range(1, 9)]


def test_where_updates_are_left_out_nothing_is_measured(run, log):
    bad = _not_finite(lambda state, _: int(state.step) in (3, 4))
    run(step_fn=bad, total=6, **_watched([0.9, 0.8, 0.7], [4.0] * 3, period=2))
    assert [line["step"] for line in log() if PERPLEXITY in line] == [0, 2, 6]


def test_a_run_that_goes_back_forgets_what_it_measured_since(run, log, tmp_path):
    step_fn = _not_finite(lambda _, batch: 9 <= batch["x"][0, 0] <= 20)
    watched = _watched([0.9, 0.5] + [0.7] * 12, [4.0] * 14)
    run(total=24, step_fn=step_fn, batches=_numbered_rows(), **watched)
    steps = [line["step"] for line in log() if PERPLEXITY in line]
    # Step 8 was measured, then forgotten; when it came again its update was left out.
    assert steps == [0, 2, 4, 6, *range(10, 25, 2)]
    assert [point.step for point in watched["frontier"].points] == steps
    assert checkpoints.saved_steps(epath.Path(tmp_path)) == [2]
