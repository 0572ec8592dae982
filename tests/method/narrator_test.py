"""How long each step of a run took, in all of its runs."""

import json

import pytest
from etils import epath

from detox_jax.errors import Unavailable
from detox_jax.method import narrator


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [0.0]
    monkeypatch.setattr(narrator.time, "monotonic", lambda: now[0])
    return now


def _times(root):
    steps = json.loads((root / "times.json").read_text())["steps"]
    return {step["step"]: step["seconds"] for step in steps}


def test_a_step_that_is_interrupted_has_the_time_of_all_its_runs(tmp_path, clock):
    def run(trains_for, error=None):
        with narrator.Narrator(epath.Path(tmp_path)) as say:
            say("score")
            clock[0] += 2
            say("train")
            clock[0] += trains_for
            if error is not None:
                raise error
            say("done")

    with pytest.raises(KeyboardInterrupt):
        run(30, KeyboardInterrupt())
    assert _times(tmp_path) == {"score": 2, "train": 30}
    run(7)
    assert _times(tmp_path) == {"score": 4, "train": 37}
    # A storage that has just failed is not asked again; the step before it was written.
    with pytest.raises(Unavailable):
        run(5, Unavailable("no room"))
    assert _times(tmp_path) == {"score": 6, "train": 37}
