"""Tests of storage_watch: a client's long call about a bucket is said, and nothing else is."""

import io
import sys
import threading
import types

import pytest

from detox_jax import storage_watch
from detox_jax.storage_watch import StorageWatch, waits_for_storage


class Lines(io.StringIO):
    """Standard error that says when it holds two lines."""

    def __init__(self):
        super().__init__()
        self.are_two = threading.Event()

    def write(self, text: str) -> int:
        size = super().write(text)
        if self.getvalue().count("\n") >= 2:
            self.are_two.set()
        return size


class Clock:
    """The watch's clock: it stands still, but for what a call takes of it."""

    def __init__(self):
        self._now, self._is_read = 0.0, threading.Event()

    def monotonic(self) -> float:
        now = self._now
        self._is_read.set()
        return now

    def wait(self, seconds: float) -> None:
        """Goes on, a second at a time, each of which the watch sees."""
        for _ in range(int(seconds)):
            self._now += 1
            self._is_read.clear()
            assert self._is_read.wait(60)


def client(module: str) -> types.ModuleType:
    """A module of that name with one call, which lasts until an event or a time."""
    made = types.ModuleType(module)
    exec("def read_text(path, event, seconds):\n    event.wait(seconds)\n", made.__dict__)
    return made


def test_a_call_without_an_answer_is_said_with_its_path_and_said_again_later(monkeypatch):
    monkeypatch.setattr(sys, "stderr", lines := Lines())
    with StorageWatch(after_s=0.1, every_s=0.02):
        client("etils.epath.gpath").read_text("gs://bkt/model", lines.are_two, 60)
    first, second = lines.getvalue().splitlines()
    assert first.startswith("gs://bkt/model: ") and second.startswith("gs://bkt/model: ")
    assert "read_text" in first


def test_who_waits_for_calls_of_other_threads_says_so(monkeypatch):
    @waits_for_storage
    def wait(path):
        lines.are_two.wait(60)

    monkeypatch.setattr(sys, "stderr", lines := Lines())
    with StorageWatch(after_s=0.1, every_s=0.02):
        wait("gs://bkt/model/checkpoints/4")
    assert lines.getvalue().startswith("gs://bkt/model/checkpoints/4: ")


@pytest.mark.parametrize(
    ("module", "path", "times", "is_said"),
    [
        ("etils.epath.gpath", "gs://bkt/model", 1, True),
        ("etils.epath.gpath", "/disk/model", 1, False),  # a disk
        ("somebody.else", "gs://bkt/model", 1, False),  # no storage's client
        ("etils.epath.gpath", "gs://bkt/model", 6, False),  # many calls, each quick
    ],
)
def test_a_long_call_of_a_storage_is_said_and_no_other_wait(
    module, path, times, is_said, capsys, monkeypatch
):
    monkeypatch.setattr(storage_watch, "time", clock := Clock())
    read_text = client(module).read_text
    with StorageWatch(after_s=30, every_s=0.001):
        for _ in range(times):
            read_text(path, clock, 60 / times)
    assert ("gs://bkt/model" in capsys.readouterr().err) == is_said
