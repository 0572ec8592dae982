"""A checkout with the scripts alone, and a stand-in for Google Cloud on PATH."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parent.parent / "tpu_scripts"
# A sitecustomize.py: JAX with two chips, but the real one for who asks for the CPU.
FAKE_JAX = """\
import os, sys, types
if os.environ.get("JAX_PLATFORMS") != "cpu":
    jax = sys.modules["jax"] = types.ModuleType("jax")
    jax.distributed = types.SimpleNamespace(initialize=lambda: None)
    jax.process_count = lambda: int(os.environ["NUM_WORKERS"])
    jax.device_count = lambda: 2 * jax.process_count()
    chip = types.SimpleNamespace(
        platform="tpu", device_kind="TPU v6 lite", memory_stats=lambda: {"bytes_limit": 32 * 2**30}
    )
    jax.local_devices = lambda: [chip, chip]
"""


@pytest.fixture(autouse=True)
def heard_signals():
    """Signals that whoever started the tests ignores, as `nohup` does: bash cannot trap those."""
    ignored = [s for s in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(s) == signal.SIG_IGN]
    for each in ignored:
        signal.signal(each, signal.SIG_DFL)
    yield
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)


class Cloud:
    """The stand-in: what it is to play, and what it was asked."""

    def __init__(self, root: Path):
        self.root = root
        self.checkout = root / "checkout"
        self.cloud = root / "cloud"
        shutil.copytree(SCRIPTS, self.checkout / "tpu_scripts")
        subprocess.run(["git", "init", "--quiet", str(self.checkout)], check=True)
        (self.cloud / "python").mkdir(parents=True)
        (self.cloud / "python" / "sitecustomize.py").write_text(FAKE_JAX)
        programs = root / "bin"
        programs.mkdir()
        (programs / "gcloud").write_text(f"#!{sys.executable} -S\n")
        with (programs / "gcloud").open("a") as program:
            program.write((HERE / "fake_gcloud.py").read_text())
        shutil.copy(HERE / "fake_uv.sh", programs / "uv")
        for program in programs.iterdir():
            program.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(self.cloud),
            "FAKE_PYTHON": sys.executable,
            "TPU_SCRIPTS_POLL_SECONDS": "0.1",
        }
        self.play()
        self.behave("echo step 100")

    def play(self, **scenario) -> None:
        """What happens: each life of the resource goes through its states; the last one stays."""
        usual = {
            "nodes": 1,
            "workers": 2,  # a slice, or {TYPE: of a slice of that type}
            "lives": [["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]],
            "preempted_lives": [],  # counted from 1: the command is cut off, then SUSPENDED
            "unreachable": [],  # "NODE-WORKER"
            "quota_error": False,
            "no_answer": False,
            "refused_deletions": 0,
            "seconds_to_ask": 0,
        }
        (self.cloud / "scenario.json").write_text(json.dumps(usual | scenario))

    def behave(self, shell: str) -> None:
        """What detox-jax does on each worker."""
        (self.cloud / "behaviour").write_text(shell)

    def answer_of_bucket(self, status: int, reason: str = "") -> None:
        """What preflight.py hears of the bucket, in place of trying one."""
        program = f"import sys\nprint({reason!r})\nsys.exit({status})\n"
        (self.checkout / "tpu_scripts" / "worker" / "bucket.py").write_text(program)

    def prepare(self, **scenario) -> None:
        """Is as after create.sh and setup.sh, without their time."""
        self.play(lives=[["ACTIVE"]], **scenario)
        gcloud, uv = self.root / "bin" / "gcloud", self.root / "bin" / "uv"
        subprocess.run(
            [gcloud, *"compute tpus queued-resources create q".split()], env=self.environment
        )
        for home in (self.cloud / "workers").iterdir():
            shutil.copytree(SCRIPTS, home / "detox_jax" / "tpu_scripts")
            subprocess.run([uv, "venv", home / "detox_jax_env"], env=self.environment)

    def start(self, script: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [f"tpu_scripts/{script}", *flags],
            cwd=self.checkout,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # as from a terminal, where Ctrl-C reaches the whole group
        )

    def run(self, script: str, *flags: str) -> tuple[int, str]:
        """Exit status and all output."""
        process = self.start(script, *flags)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def calls(self, verb: str = "") -> list[list[str]]:
        """What gcloud was called with, all of it or a verb's."""
        log = self.cloud / "calls.jsonl"
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [call for call in calls if not verb or verb in call]

    def preempt(self, signal_: signal.Signals) -> None:
        """Takes the machines back: their command gets the signal, and the state is SUSPENDED."""
        (self.cloud / "preempted").touch()
        for group in (self.cloud / "workers").glob("*/.detox_jax/group"):
            os.killpg(int(group.read_text()), signal_)

    @property
    def exists(self) -> bool:
        state = self.cloud / "state.json"
        return state.exists() and json.loads(state.read_text())["exists"]

    def worker(self, place: str) -> Path:
        return self.cloud / "workers" / place


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
