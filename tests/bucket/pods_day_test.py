"""A day of a pod: created, preempted in a save, resumed on another slice, finished, deleted.

watch.sh and all that it calls, against a stand-in for gcloud, whose workers are processes here, and
a stand-in for the bucket. The workers run the checkout that setup.sh brought them, on virtual
devices, and find each other as on GKE, by what the machine's environment says.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.bucket.chain import commands
from tests.bucket.conftest import LOCK_PYTHON, cut_sentences, put_tiny_run, start, succeed
from tests.chaos.trees import read_item
from tests.tpu_scripts.conftest import Cloud

pytestmark = pytest.mark.bucket
ROOT = Path(__file__).resolve().parents[2]
SLICES = {"v5p-16": 2, "v5p-8": 1}  # workers, of four chips each
STEPS, PERIOD = 28, 4
# What a worker's machine and libtpu say where there are TPUs; MEGASCALE is for several slices.
BEHAVIOUR = """\
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 JAX_FORCE_TPU_INIT=1 TPU_WORKER_ID=$WORKER_INDEX
TPU_WORKER_HOSTNAMES=$(yes 127.0.0.1 | head -n "$NUM_WORKERS" | paste -sd,)
export TPU_WORKER_HOSTNAMES MEGASCALE_COORDINATOR_ADDRESS= MEGASCALE_NUM_SLICES= MEGASCALE_SLICE_ID=
PYTHONPATH= exec "$FAKE_PYTHON" -m detox_jax "$@"
"""


@pytest.fixture
def data(storage, tmp_path, vocabulary) -> Path:
    """Documents, prompts and a vocabulary, at the top of the bucket; the model's sizes, here."""
    return put_tiny_run(storage, tmp_path / "data", vocabulary, prompts=cut_sentences())


@pytest.fixture
def cloud(storage, data, tmp_path) -> Iterator[Cloud]:
    """Workers that reach the bucket, and a checkout of all that they run."""
    (tmp_path / "cloud").mkdir()
    cloud = Cloud(tmp_path / "cloud")
    for room in ("detox_jax", "gin_configs", "tasks"):
        shutil.copytree(
            ROOT / room, cloud.checkout / room, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(data / "model.gin", cloud.checkout)
    cloud.behave(BEHAVIOUR)
    cloud.environment |= {
        **storage.environment(),
        "FAKE_PYTHON": LOCK_PYTHON or sys.executable,
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    yield cloud
    if cloud.exists:  # The test failed, and they may still run.
        with contextlib.suppress(ProcessLookupError):
            cloud.preempt(signal.SIGKILL)


def flags_of(verb: str, root: str, model_file: str) -> list[str]:
    """Of a verb whose outputs lie below a root, which may lie anywhere in the bucket."""
    flags = [
        re.sub(r"gs://bkt/[a-z]+/(documents|vocabulary|prompts)", r"gs://bkt/\1", flag)
        for flag in commands(root, model_file)[verb]
    ]
    more = {"train": [f"--gin.TRAIN_STEPS={STEPS}", f"--gin.CHECKPOINT_PERIOD={PERIOD}"]}
    return [verb, *flags, *more.get(verb, [])]


def watch(cloud: Cloud, port: int, types: str, *command: str) -> str:
    """Runs watch.sh to its end; what it said."""
    process = cloud.start(
        "watch.sh",
        *("--name=q", "--zone=z", "--spot", f"--type={types}", "--bucket=gs://bkt/day"),
        *(f"--coordinator_port={port}", "--poll=0.2", "--grace=120", "--wait_timeout=2"),
        *("--", "detox-jax", *command),
    )
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    return output


def quiet_run(storage, model_file: Path) -> None:
    """The same in one process with one device, and no script."""
    for verb in ("train", "generate"):
        flags = flags_of(verb, "gs://bkt/quiet", str(model_file))
        succeed(start(storage, "-m", "detox_jax", *flags))


def fetched(storage, name: str, to: Path) -> Path:
    """The files of a run, on the disk."""
    for path, held in storage.buckets["bkt"].items():
        if path.startswith(f"{name}/") and not path.endswith("/"):
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            (to / path).write_bytes(held.data)
    return to / name


def assert_equal_but_for_rounding(day: Path, quiet: Path) -> None:
    """What other devices add up in another order differs by that, and nothing else does."""
    saved = [run / "model" / "checkpoints" for run in (day, quiet)]
    steps = [sorted(step.name for step in checkpoints.iterdir()) for checkpoints in saved]
    assert steps[0] == steps[1] == [str(STEPS - PERIOD), str(STEPS)]
    last = [checkpoints / str(STEPS) for checkpoints in saved]
    for item in ("params", "opt_state"):
        ours, expected = [jax.tree.leaves(read_item(step / item)) for step in last]
        assert len(ours) == len(expected) > 10
        for array, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(array, other, rtol=1e-4, atol=1e-5)
    ours, expected = [(step / "data" / "metadata").read_bytes() for step in last]
    assert ours == expected  # the position in the data
    lines, others = [(run / "model/metrics.jsonl").read_text().splitlines() for run in (day, quiet)]
    assert len(lines) == len(others)
    for line, other in zip(map(json.loads, lines), map(json.loads, others), strict=True):
        assert line.keys() == other.keys()
        np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-4)
    assert manifest_of(day / "model") == manifest_of(quiet / "model")
    assert manifest_of(day / "generations") == manifest_of(quiet / "generations")
    texts = [
        {path.name: path.read_bytes() for path in (run / "generations").glob("*.jsonl")}
        for run in (day, quiet)
    ]
    assert texts[0] == texts[1] != {}


def manifest_of(directory: Path) -> dict[str, Any]:
    """The manifest, without which model was read: its place and its last bits are the run's own."""
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["complete"]
    manifest["settings"].pop("checkpoint", None)
    return manifest


def asked_for(cloud: Cloud) -> list[str]:
    """The types of the slices that were created, in their order."""
    flags = [flag for call in cloud.calls("create") for flag in call]
    return [flag.partition("=")[2] for flag in flags if flag.startswith("--accelerator-type")]


def exit_codes(cloud: Cloud) -> list[str]:
    """Of every attempt to run the command, in their order."""
    codes = sorted((cloud.checkout / "runs/tpu/q").glob("*/run/exit_codes.txt"))
    return [" ".join(path.read_text().split()[1::2]) for path in codes]


def test_a_pod_s_day_ends_as_a_quiet_run(storage, cloud, data, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    quiet = threading.Thread(target=quiet_run, args=(storage, data / "model.gin"))
    quiet.start()
    no_capacity = ["WAITING_FOR_RESOURCES"]
    cloud.play(workers=SLICES, lives=[["ACTIVE"], ["ACTIVE"], no_capacity, ["ACTIVE"], ["ACTIVE"]])
    # Without a word, in the midst of the save of a step; and half a minute ahead.
    save = "^POST .*name=day/model/checkpoints/{}/.*/d/"
    storage.on_first(save.format(8), lambda: cloud.preempt(signal.SIGKILL))
    storage.on_first(save.format(12), lambda: cloud.preempt(signal.SIGTERM))
    for step in (16, 20):  # JAX looks for the signal once a second
        storage.on_first(save.format(step), lambda: time.sleep(3))

    said = watch(cloud, port, "v5p-16,v5p-8", *flags_of("train", "gs://bkt/day", "model.gin"))
    assert asked_for(cloud) == ["v5p-16", "v5p-16", "v5p-16", "v5p-8"]
    codes = exit_codes(cloud)
    assert codes[0] == "255 255" and "75 75" in codes and codes[-1] == "0", said
    assert re.search("stopped: gs://bkt/day/model: step [0-9]+ is saved", said)
    assert not cloud.exists

    watch(cloud, port, "v5p-16", *flags_of("generate", "gs://bkt/day", "model.gin"))
    assert not cloud.exists
    quiet.join()
    day = fetched(storage, "day", tmp_path / "fetched")
    assert_equal_but_for_rounding(day, fetched(storage, "quiet", tmp_path / "fetched"))
