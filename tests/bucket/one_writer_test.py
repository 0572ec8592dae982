"""One writer a directory in gs://, where there are no locks but conditions on generations."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.bucket.conftest import finish, start
from tests.bucket.stand_in import Object

WRITES = Path(__file__).with_name("writes.py")
ELSEWHERE = {"verb": "train", "host": "worker-7", "process": 9, "started": "then", "boot": "other"}


def opening(storage, lapses_after: float = 60.0, waits: float = 0.0) -> subprocess.Popen:
    return start(storage, WRITES, "gs://bkt/o", str(lapses_after), str(waits))


def names(storage) -> list[str]:
    return sorted(name for name in storage.buckets["bkt"] if not name.endswith("/"))


def put_lock(storage, generation: int) -> None:
    content = json.dumps(ELSEWHERE).encode()
    storage.buckets["bkt"]["o/.lock"] = Object(content, generation)


@pytest.mark.bucket
def test_a_second_run_is_refused_and_a_killed_one_is_followed(storage):
    first = opening(storage, waits=600.0)
    assert first.stdout is not None and first.stdout.readline() == "opened\n"
    status, _, errors = finish(opening(storage))
    assert status == 1
    assert "gs://bkt/o: in use by `score` on host" in errors
    assert f"process {first.pid}, since" in errors
    first.kill()
    first.wait()
    assert "o/.lock" in names(storage)
    status, _, errors = finish(opening(storage))
    assert status == 0, errors
    assert "the lock of a run that is gone is taken over" in errors
    assert names(storage) == ["o/config.gin", "o/d-00000-of-00001.jsonl", "o/manifest.json"]


@pytest.mark.bucket
def test_a_lock_of_another_machine_lapses(storage):
    put_lock(storage, generation=1)
    status, _, errors = finish(opening(storage, lapses_after=3.0))
    assert status == 0 and "is taken over" in errors


@pytest.mark.bucket
def test_a_lock_that_is_written_again_is_of_a_run_that_lives(storage):
    put_lock(storage, generation=1)
    process = opening(storage)

    def renew() -> None:
        while process.poll() is None:
            time.sleep(2.0)
            put_lock(storage, generation=time.time_ns())

    threading.Thread(target=renew, daemon=True).start()
    status, _, errors = finish(process)
    assert status == 1 and "in use by `train` on host worker-7, process 9, since then" in errors
