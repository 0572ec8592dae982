"""What is said of a training: only steps that are computed count, and its end names both ends."""

import time

import numpy as np
import pytest

from detox_jax.parallel import processes
from detox_jax.training import course as courses

TOKENS = {"decoder_target_tokens": np.asarray([[5, 6, 0], [7, 0, 0]])}  # 3 of them


class Loss:
    """A loss of a step that the devices have not computed before somebody asks for it."""

    def __init__(self, value, waited):
        self.value, self._waited = value, waited

    def __float__(self):
        return self.value

    def block_until_ready(self):
        self._waited.append(self.value)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves where a test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def steps(course, first, last, clock, seconds, waited=None, batch=TOKENS):
    for step in range(first, last + 1):
        loss = Loss(float(step), [] if waited is None else waited)
        course.after_step(step, batch, {"loss": loss, "tokens": np.float32(3)})
        clock[0] += seconds


def test_slow_steps_are_waited_for_and_one_is_always_under_way(clock):
    course, waited = courses.Course(0), []
    steps(course, 1, 4, clock, 2.0, waited)
    assert waited == [1.0, 2.0, 3.0] and course.done == 3


def test_fast_steps_are_not_waited_for_but_counted_once_the_guard_has_read_them(clock):
    course, waited = courses.Course(0), []
    steps(course, 1, 20, clock, 0.01, waited)
    assert len(waited) <= 2 and course.done == 10
    course.logged(20, {"loss": 1.0})
    assert course.done == 20


def test_tokens_are_those_of_done_steps_behind_the_first(clock):
    course = courses.Course(0)
    steps(course, 1, 1, clock, 4.0)  # It is compiled.
    assert course.note() == "loss 1.000"
    steps(course, 2, 5, clock, 1.0)
    course.logged(5, {"loss": 2.5})
    # 3 tokens a step and 4 steps, from second 100 on to second 108.
    assert course.note() == "loss 2.500, 2 tokens/s"


def test_a_step_counts_what_it_trains_on_however_many_processes_share_it(clock, monkeypatch):
    """Tokens are those that the step itself adds up, rows those of the batch on all devices."""
    monkeypatch.setattr(processes, "current", lambda: processes.Processes(0, ("a", "b")))
    course = courses.Course(0)
    # Of this batch a process holds a row with 1 token.
    own = {"decoder_target_tokens": np.asarray([[7, 0, 0]])}
    steps(course, 1, 1, clock, 0.0, batch=own)
    steps(course, 2, 3, clock, 1.0, batch=own)
    course.logged(3, {"loss": 0.5})
    assert course.note() == "loss 0.500, 3 tokens/s"
    other = courses.Course(0)
    steps(other, 1, 1, clock, 0.0, batch={"x": np.ones((8, 2))})
    steps(other, 2, 3, clock, 1.0, batch={"x": np.ones((8, 2))})
    other.logged(3, {"loss": 0.5})
    assert other.note() == "loss 0.500, 8 rows/s"


def test_the_end_names_losses_of_both_ends_time_and_memory(clock):
    course = courses.Course(20)
    steps(course, 21, 60, clock, 5.0)
    course.logged(30, {"loss": 9.0})
    course.logged(40, {"validation_loss": 8.0, "validation_other": 1.0})
    course.logged(60, {"loss": 7.25})
    course.logged(60, {"validation_loss": 6.0})
    said = course.closing()
    assert said.startswith(
        "loss 21.000 at step 21, 7.250 at step 60; "
        "validation loss 8.000 at step 40, 6.000 at step 60; 3 min 20 s, 1 tokens/s, at most "
    )
    assert said.endswith("B of memory")


def test_one_loss_has_no_other_end(clock):
    course = courses.Course(0)
    steps(course, 1, 1, clock, 1.0)
    course.logged(1, {"loss": 1.0})
    assert course.closing().startswith("1 s, at most ")


def test_a_return_to_a_saved_step_is_no_progress(clock):
    course = courses.Course(0)
    steps(course, 1, 6, clock, 2.0)
    course.went_back(3)
    assert course.done == 3
    steps(course, 4, 5, clock, 2.0)
    assert course.done == 4


def test_behind_a_return_the_loss_is_that_of_the_step_that_was_logged_last(clock):
    course = courses.Course(0)
    steps(course, 1, 1, clock, 0.0)
    for step, loss in ((10, 4.0), (20, 9.0)):
        course.logged(step, {"loss": loss})
    course.went_back(5)
    course.logged(10, {"loss": 3.5})
    assert course.note().startswith("loss 3.500")
