"""Files written whole or not at all, and what becomes of those that a kill left half written."""

import errno
import io
import json
import math
import os
import pathlib

import pytest
from etils import epath

from detox_jax import atomic_files, records
from detox_jax.errors import Unavailable
from detox_jax.parallel import processes


def test_bytes_of_json_and_of_json_lines(tmp_path):
    path = epath.Path(tmp_path / "file")
    atomic_files.write_json(path, {"b": ["é"], "a": 1})
    assert path.read_text() == '{\n  "b": [\n    "é"\n  ],\n  "a": 1\n}\n'
    texts = ["é", "lone \ud800"]  # A lone surrogate has no bytes of its own.
    assert atomic_files.write_jsonl(path, [records.Generation(text) for text in texts]) == 2
    assert path.read_text() == (
        '{"text": "é", "toxicity": null}\n{"text": "lone \\ud800", "toxicity": null}\n'
    )


def test_of_several_processes_the_first_one_writes(tmp_path, monkeypatch):
    for index in (1, 0):
        run = processes.Processes(index, ("a", "b"))
        monkeypatch.setattr(processes, "current", lambda run=run: run)
        atomic_files.write_bytes(epath.Path(tmp_path / "file"), b"x")
        assert (tmp_path / "file").exists() == (index == 0)


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_full_disk_is_said_by_the_name_of_the_file_however_small(size, tmp_path, monkeypatch):
    """What fits the buffer meets the disk when it is flushed, and once more when it is closed."""

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = io.BufferedWriter(Full())
    monkeypatch.setattr(pathlib.Path, "open", lambda *_: file)
    with pytest.raises(Unavailable, match=f"^{tmp_path}/file: cannot be written: No space left"):
        atomic_files.write_bytes(epath.Path(tmp_path / "file"), b"x" * size)
    assert file.closed


def test_what_json_does_not_have_becomes_null():
    value = {"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf}, "d": "text", "e": True}
    finite = atomic_files.finite(value)
    assert finite == {"a": [None, 1.5, [None]], "b": {"c": None}, "d": "text", "e": True}
    json.dumps(finite, allow_nan=False)


def test_what_a_kill_left_of_a_file_outside_of_outputs_goes_when_it_is_written(tmp_path):
    left = (".a.html.0123abcd.partial", ".b.html.0123abcd.partial", ".a.html.0123abcd")
    for name in left:
        (tmp_path / name).write_text("half")
    (tmp_path / ".a.html.89abcdef.partial").mkdir()  # No file that was being written.
    atomic_files.write_bytes(epath.Path(tmp_path / "a.html"), b"whole", in_output=False)
    assert {*os.listdir(tmp_path)} == {*left[1:], ".a.html.89abcdef.partial", "a.html"}
    assert (tmp_path / "a.html").read_text() == "whole"


def test_two_that_write_a_file_outside_of_outputs_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Either removes what the other is writing."""
    fsync, removed = os.fsync, []

    def remove_first(descriptor):
        if not removed:
            removed.extend(tmp_path.glob("*.partial"))
            removed[0].unlink()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remove_first)
    atomic_files.write_json(epath.Path(tmp_path / "a.json"), {"a": 1}, in_output=False)
    assert len(removed) == 1 and os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(Unavailable, match="removed"):
        removed.clear()
        atomic_files.write_json(epath.Path(tmp_path / "a.json"), {"a": 1})
