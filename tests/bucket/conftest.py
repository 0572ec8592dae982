"""The stand-in for Google Cloud Storage, and processes that take it for the real one.

They run under DETOX_JAX_LOCK_PYTHON where it is set (make test-lock): an environment of
requirements.lock alone, in which no package of the tests can stand in for one that is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bucket.stand_in import Object, Storage
from tests.conftest import SENTENCES, write_tiny_run

LOCK_PYTHON = os.environ.get("DETOX_JAX_LOCK_PYTHON")
WITHIN_S = 600
_started: list[subprocess.Popen] = []


@pytest.fixture
def storage(tmp_path):
    """A bucket `bkt`; the test fails if it was asked something that it does not know."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    storage = Storage(tmp_path, "bkt")
    yield storage
    for process in _started:
        process.kill()
    _started.clear()
    storage.close()
    assert storage.mistakes == []


def put_tiny_run(
    storage: Storage, root: Path, vocabulary: Path, **rows: list[dict[str, Any]]
) -> Path:
    """Documents, a vocabulary, and other records by name, here and at the top of the bucket."""
    root.mkdir()
    write_tiny_run(root, vocabulary, num_documents=60)
    for name, of in rows.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
    upload(storage, root)
    return root


def cut_sentences() -> list[dict[str, Any]]:
    """A prompt of each sentence, without its last two words."""
    return [
        {"id": str(i), "prompt": {"text": text.rsplit(" ", 2)[0]}}
        for i, text in enumerate(SENTENCES)
    ]


def upload(storage: Storage, directory: Path) -> None:
    """Puts the files of a local directory into the bucket, at its top."""
    for path in directory.rglob("*"):
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            storage.buckets["bkt"][name] = Object(path.read_bytes(), generation=1)


def start(storage: Storage, *command: str | Path, **environment: str) -> subprocess.Popen:
    """A process that finds its packages where no variable of ours leads, and gs:// in `storage`."""
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [LOCK_PYTHON or sys.executable, "-P", *map(str, command)],
        env={**others, **settings, **storage.environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    output, errors = process.communicate(timeout=WITHIN_S)
    return process.returncode, output, errors


def succeed(process: subprocess.Popen) -> str:
    """Standard output of a process that must end with 0."""
    status, output, errors = finish(process)
    assert status == 0, output + errors
    return output
