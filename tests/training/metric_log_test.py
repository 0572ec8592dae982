"""The log of a training run while it grows, when it is killed and when it goes on."""

import contextlib
import json

import pytest
from etils import epath

from detox_jax.errors import Unavailable
from detox_jax.parallel import processes
from detox_jax.training.metric_log import MetricLog


@pytest.fixture
def log_of(tmp_path, no_tensorboard):
    """Makes logs of one directory."""
    return lambda resume_step: MetricLog(epath.Path(tmp_path), resume_step)


@pytest.fixture
def steps(tmp_path):
    file = tmp_path / "metrics.jsonl"
    return lambda: [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_a_step_can_be_read_as_soon_as_it_is_logged(log_of, steps, tmp_path):
    log = log_of(0)
    log.write(10, {"loss": 2.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10, "loss": 2.5}\n'
    log.write(20, {"loss": 2.0})
    assert steps() == [10, 20]


def test_a_resumed_run_shows_no_step_twice(log_of, steps):
    first = log_of(0)
    for step in (10, 20, 30):
        first.write(step, {"loss": 1.0})
    second = log_of(20)
    assert steps() == [10, 20], "what came after the checkpoint is computed again"
    second.write(30, {"loss": 1.0})
    second.write(40, {"loss": 1.0})
    assert steps() == [10, 20, 30, 40]


def test_a_line_that_a_kill_cut_short_is_dropped(log_of, steps, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    log_of(20).write(30, {"loss": 1.0})
    assert steps() == [10, 30]


def test_an_object_store_gets_the_whole_file_at_each_flush(log_of, steps, tmp_path):
    log = log_of(0)
    log._appends = False
    log.write(10, {"loss": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()
    log.flush()
    log.write(20, {"loss": 1.0})
    log.flush()
    assert steps() == [10, 20]


def test_the_process_that_writes_files_writes_the_log(log_of, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_current", processes.Processes(1, ("here", "there")))
    log = log_of(0)
    log.write(10, {"loss": 1.0})
    log.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damaged", [b"{garbled", b"\0\0\0\0", b"\xff\xfe", b"[]", b"7", b"{}", b'{"step": "x"}']
)
def test_a_damaged_line_costs_that_line(log_of, steps, tmp_path, damaged, capsys):
    good = [b'{"step": 10}', b'{"step": 20}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], damaged, good[1], b""]))
    log_of(20)
    assert steps() == [10, 20]
    assert "metrics.jsonl: 1 damaged line(s) dropped" in capsys.readouterr().err


def test_what_is_not_finite_is_no_json(log_of, tmp_path):
    log_of(0).write(10, {"loss": float("nan"), "tokens": 3.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 10, "tokens": 3.0}


def test_going_back_forgets_what_came_after(log_of, steps):
    log = log_of(0)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1.0})
    log.forget_after(10)
    log.write(20, {"loss": 1.0})
    assert steps() == [10, 20]


def test_events_stay_where_a_step_0_is_saved(log_of, tmp_path):
    """A probe's, say: the run goes on from it, and measures it no more."""
    events = tmp_path / "tensorboard" / "events"
    events.parent.mkdir()
    events.write_bytes(b"")
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    log_of(0)
    assert events.exists()
    (tmp_path / "checkpoints" / "0").rmdir()
    log_of(0)
    assert not events.exists()


@pytest.mark.parametrize("error", [None, ValueError("diverged"), Unavailable("no bucket")])
def test_an_object_store_gets_what_is_logged_behind_the_last_flush(log_of, steps, error):
    told = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    log = log_of(0)
    log._appends = False
    with told, log:
        log.write(10, {"loss": 1.0})
        log.flush()
        log.write(20, {"loss": 1.0})
        if error is not None:
            raise error
    assert steps() == ([10] if isinstance(error, Unavailable) else [10, 20])
