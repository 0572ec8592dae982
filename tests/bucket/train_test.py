"""Verbs with all that they read and write in gs://, against the same on a local disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bucket.chain import commands
from tests.bucket.checkpoints_test import committed
from tests.bucket.conftest import finish, put_tiny_run, start, succeed

pytestmark = pytest.mark.bucket


@pytest.fixture
def data(storage, tmp_path, vocabulary) -> Path:
    """Documents, prompts and a vocabulary, here and at the top of the bucket."""
    prompts = [{"id": str(i), "prompt": {"text": "The bus was"}} for i in range(4)]
    return put_tiny_run(storage, tmp_path / "data", vocabulary, prompts=prompts)


def train(model_file: Path, root: str | Path) -> list[str]:
    return ["-m", "detox_jax", "train", *commands(str(root), str(model_file))["train"]]


def generate(root: str | Path) -> list[str]:
    return ["-m", "detox_jax", "generate", *commands(str(root), "")["generate"]]


def losses(metrics: bytes) -> dict[int, float]:
    lines = map(json.loads, metrics.splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_run_that_is_killed_and_gone_on_with_is_that_of_a_local_disk(storage, data):
    objects, model_file = storage.buckets["bkt"], data / "model.gin"
    # Between two saves: the first request about step 4 asks whether there is something.
    storage.on_first(r"^GET .*model/checkpoints/4\b", lambda: killed.kill())
    local = start(storage, *train(model_file, data))
    killed = start(storage, *train(model_file, "gs://bkt"))
    succeed(local)
    assert finish(killed)[0] < 0
    assert committed(storage) == ["2"]
    succeed(start(storage, *train(model_file, "gs://bkt")))
    assert committed(storage) == ["2", "4"]
    expected = losses((data / "model" / "metrics.jsonl").read_bytes())
    assert 4 in expected and losses(objects["model/metrics.jsonl"].data) == expected

    both = [start(storage, *generate(root)) for root in (data, "gs://bkt")]
    for process in both:
        succeed(process)
    files = {path.name: path.read_bytes() for path in (data / "generations").glob("*.jsonl")}
    assert files
    for name, content in files.items():
        assert objects[f"generations/{name}"].data == content
