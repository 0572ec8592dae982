"""What rows of whole processes share: the verb, ours of another commit, and a user's script."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.speed.sides import Work

ROOT = Path(__file__).parent.parent.parent
# The commit that was measured first: texts were not counted in arrays yet, no compiled program was
# kept, and a verb's help imported what the verb does.
EARLIER = "3d0e76e"


def of_command(command: list[str], directory: Path | None = None, **environment: str) -> None:
    """Runs a command whose output nobody reads, in this directory or another one."""
    subprocess.run(
        command,
        check=True,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def ours() -> Path:
    """The directory of this package."""
    return _with_bytecode(ROOT)


def earlier() -> Path:
    """A directory with the files of `EARLIER`."""
    directory = Path(tempfile.mkdtemp())
    command = ["git", "archive", EARLIER]
    archive = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x"], cwd=directory, input=archive.stdout, check=True)
    return _with_bytecode(directory)


def _with_bytecode(package: Path) -> Path:
    """Modules are compiled before, or a side whose files are new would do it within the time."""
    modules = [str(package / name) for name in ("detox_jax", "tasks")]
    of_command([sys.executable, "-m", "compileall", "-q", *modules])
    return package


def of_package(package: Path, *arguments: str, **environment: str) -> None:
    """Runs a verb as the package in a directory has it, whose gin files include each other."""
    # -P: not the package of the directory that this is started in.
    command = [sys.executable, "-P", "-m", "detox_jax", *arguments]
    others = [path for path in [os.environ.get("PYTHONPATH")] if path]
    path = os.pathsep.join([str(package), *others])
    of_command(command, package, PYTHONPATH=path, **environment)


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
    """The largest memory of a process that was run, or of this one: it starts as a copy of it."""
    return {"child_peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}
