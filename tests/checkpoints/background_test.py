"""Steps saved behind training: when they count, what is in them, and that no error is lost."""

import errno
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from detox_jax.checkpoints import steps as saved
from detox_jax.checkpoints.background import BackgroundSaves
from detox_jax.errors import Unavailable, UserError


@pytest.fixture
def model(tmp_path):
    return epath.Path(tmp_path / "model")


def _is_record(path):
    """Whether it is the file of a step that a thread writes in Python."""
    return path.parent.name.startswith("record")


@pytest.fixture
def held_back(model, monkeypatch):
    """The last file of a step is not written before this is set."""
    released = threading.Event()
    write = type(model).write_text

    def later(path, text, **how):
        assert not _is_record(path) or released.wait(60)
        return write(path, text, **how)

    monkeypatch.setattr(type(model), "write_text", later)
    yield released
    released.set()


@pytest.fixture
def full_disk(model, monkeypatch):
    write = type(model).write_text

    def full(path, text, **how):
        if _is_record(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, text, **how)

    monkeypatch.setattr(type(model), "write_text", full)


def _content(value, size=64):
    arrays = {"params": {"w": jnp.full((size, size), value)}, "opt_state": {"mu": jnp.ones(size)}}
    return saved.content_of(arrays, {"taken": 1}, {"known": 1})


def _restored(model, step, size=64):
    record = saved.read_record(model, step)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct((size, size), jnp.float32, sharding=sharding)
    tree = saved.restore_arrays(model, step, "params", {"w": shape}, record)
    return np.asarray(tree["w"])


def test_a_step_counts_when_all_of_it_is_written(model, held_back):
    with BackgroundSaves(model) as saves:
        saves.save(1, _content(1.0))
        saves.check()  # Waits for nothing.
        assert saved.saved_steps(model) == []
        held_back.set()
        saves.wait()
        assert saved.saved_steps(model) == [1]
    assert _restored(model, 1)[0, 0] == 1


def test_what_is_donated_or_deleted_meanwhile_is_saved_as_it_was(model, held_back):
    x = jax.random.normal(jax.random.key(0), (1024, 1024))
    expected = np.array(x)
    more = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    with BackgroundSaves(model) as saves:
        saves.save(1, saved.content_of({"params": {"w": x}}))
        for _ in range(5):
            x = more(x)
        jax.block_until_ready(x)
        x.delete()
        held_back.set()
    np.testing.assert_array_equal(_restored(model, 1, 1024), expected)


def test_a_save_that_fails_is_told_without_waiting_for_it(model, full_disk):
    deadline = time.monotonic() + 60
    with BackgroundSaves(model) as saves:
        saves.save(3, _content(1.0))
        with pytest.raises(Unavailable, match=r"checkpoints/3: cannot be written: .*make room"):
            while time.monotonic() < deadline:
                saves.check()
                time.sleep(0.01)
        saves.wait()  # Told once.
    assert saved.saved_steps(model) == []


@pytest.mark.parametrize("asked", ["wait", "save", "end"])
def test_a_save_that_fails_is_told_by_what_waits_for_it(model, full_disk, asked):
    with pytest.raises(Unavailable, match=r"checkpoints/3: cannot be written: "):
        with BackgroundSaves(model) as saves:
            saves.save(3, _content(1.0))
            if asked == "wait":
                saves.wait()
            if asked == "save":
                saves.save(4, _content(1.0))
            assert asked == "end"
    assert saved.saved_steps(model) == []


def test_of_two_errors_the_first_one_ends_the_run_and_both_are_told(model, full_disk, capsys):
    with pytest.raises(UserError, match="diverged"), BackgroundSaves(model) as saves:
        saves.save(3, _content(1.0))
        raise UserError("diverged")
    assert "warning: " in (said := capsys.readouterr().err)
    assert "checkpoints/3: cannot be written: " in said and "Traceback" not in said


def test_what_ends_the_run_waits_for_the_step(model, held_back):
    with pytest.raises(KeyboardInterrupt), BackgroundSaves(model) as saves:
        saves.save(3, _content(1.0))
        threading.Timer(0.2, held_back.set).start()
        raise KeyboardInterrupt
    assert saved.saved_steps(model) == [3]


def test_older_steps_go_when_a_later_one_is_whole(model, held_back):
    held_back.set()
    with BackgroundSaves(model) as saves:
        for step in (1, 2, 3):
            saves.save(step, _content(step), keep=[1])
        saves.wait()
        assert saved.saved_steps(model) == [1, 2, 3]
        held_back.clear()
        saves.save(4, _content(4.0))
        assert saved.saved_steps(model) == [1, 2, 3]  # One that fails costs none.
        held_back.set()
    assert sorted(path.name for path in (model / "checkpoints").iterdir()) == ["3", "4"]
