"""What rows of whole processes share: the verb, and a user's script."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.speed.sides import Work


def of_command(command: list[str], **environment: str) -> None:
    """Runs a command whose output nobody reads."""
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def verb(name: str, file: Path, amount: int, *bindings: str) -> Work:
    """A verb from a file into a new directory."""

    def work() -> float:
        with tempfile.TemporaryDirectory() as output:
            flags = [f"--gin.INPUT={file}", f"--gin.OUTPUT_DIR={output}/out", *bindings]
            of_command([sys.executable, "-m", "detox_jax", name, *flags])
        return float(amount)

    return work


def script(text: str, file: Path, amount: int) -> Work:
    """A script of a user's, from a file into a new one."""

    def work() -> float:
        with tempfile.TemporaryDirectory() as output:
            of_command([sys.executable, "-c", text, str(file), f"{output}/out.jsonl"])
        return float(amount)

    return work


def memory() -> Mapping[str, float]:
    """The largest memory of a process that was run."""
    return {"child_peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}
