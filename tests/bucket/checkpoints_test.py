"""Checkpoints in gs://, through the clients that Orbax takes there."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.bucket.conftest import finish, start, succeed

SAVES = Path(__file__).with_name("saves.py")


def asked(storage, pattern: str) -> int:
    """How many requests match."""
    return sum(bool(re.search(pattern, request)) for request in storage.requests)


def committed(storage) -> list[str]:
    """The steps that are wholly saved."""
    names = "\n".join(storage.buckets["bkt"])
    return sorted(re.findall(r"model/checkpoints/(\d+)/commit_success.txt$", names, re.MULTILINE))


def test_a_step_is_saved_restored_and_gone_on_from(storage):
    assert json.loads(succeed(start(storage, SAVES, "gs://bkt/model"))) == [3, 4]
    assert committed(storage) == ["3", "4"]
    assert not [name for name in storage.buckets["bkt"] if "checkpoints/2/" in name]
    assert asked(storage, r"^GET /storage/v1/b/bkt\?projection")  # google-cloud-storage was there


@pytest.mark.bucket
def test_faults_of_the_service_change_nothing(storage):
    storage.fault_share = 0.05
    quickly = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000"}  # TensorFlow's pause; else a second
    assert json.loads(succeed(start(storage, SAVES, "gs://bkt/model", **quickly))) == [3, 4]
    assert storage.faults > 5
    assert committed(storage) == ["3", "4"]


@pytest.mark.bucket
def test_a_process_can_be_killed_in_the_middle_of_a_save(storage):
    storage.on_first(r"^POST .*checkpoints/3/.*/d/", lambda: process.kill())
    process = start(storage, SAVES, "gs://bkt/model")
    assert finish(process)[0] == -signal.SIGKILL
    assert committed(storage) == ["1", "2"]
    assert any("checkpoints/3/" in name for name in storage.buckets["bkt"])


@pytest.mark.bucket
def test_a_role_can_be_missing(storage):
    storage.refused = [r"^POST .*name=model/checkpoints/1/"]
    status, _, errors = finish(start(storage, SAVES, "gs://bkt/model"))
    assert status == 1
    assert "tpu-worker does not have access: POST" in errors
    assert committed(storage) == []
