"""Examples for containers and clusters: read, linted, and played against stand-ins."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests import linters

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}


def instructions(file):
    """A Dockerfile's instructions with their arguments."""
    text = file.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.mark.parametrize("name", ["cpu", "gpu", "tpu"])
def test_a_dockerfile_copies_what_is_there_and_installs_from_a_lock(name):
    steps = instructions(DEPLOY / f"Dockerfile.{name}")
    assert {step for step, _ in steps} <= INSTRUCTIONS and steps[0][0] == "FROM"
    copied = {}
    for step, arguments in steps:
        if step == "COPY":
            *sources, target = arguments.split()
            assert all((ROOT / source).exists() for source in sources), arguments
            copied.update(dict.fromkeys(sources, target))
        elif step == "RUN":
            assert "--no-deps" in arguments
            if lock := re.search(r"-r (\S+)", arguments):
                assert "--require-hashes" in arguments and lock[1] in copied
        elif step == "ENTRYPOINT":
            assert json.loads(arguments) == ["detox-jax"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*packages, "pyproject.toml", project["project"]["readme"], "LICENSE"} <= {*copied}


def test_conda_brings_python_and_pip_the_extra():
    environment = yaml.safe_load((DEPLOY / "environment.yml").read_text())
    python, pip, wheels = environment["dependencies"]
    assert (python, pip, wheels) == ("python=3.11", "pip", {"pip": ["-e ..[train]"]})


@pytest.fixture
def slurm(tmp_path):
    """Plays Slurm: `slurm(status, ...)` runs the script where the verb ends with that status."""
    calls = tmp_path / "calls"
    calls.write_text("")
    for program, status in (("srun", "$STATUS"), ("scontrol", "0")):
        path = tmp_path / program
        path.write_text(f'#!/bin/sh\necho "{program} $*" >>{calls}\nexit {status}\n')
        path.chmod(0o755)

    def run(status, *arguments):
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "STATUS": str(status),
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "8",
        }
        result = subprocess.run(
            [DEPLOY / "slurm.sh", *arguments], env=environment, capture_output=True, text=True
        )
        return result.returncode, calls.read_text().splitlines()

    return run


@pytest.mark.parametrize("status", [0, 1, 2, 75])
def test_a_job_that_was_stopped_is_queued_again(slurm, status):
    ended, calls = slurm(status, "sgeat", "--gin.OUTPUT_DIR=/shared/my run")
    called = (
        "srun --kill-on-bad-exit=0 --cpus-per-task=8 detox-jax sgeat --multihost "
        "--gin.OUTPUT_DIR=/shared/my run"
    )
    assert ended == status
    assert calls == [called, *(["scontrol requeue 7"] if status == 75 else [])]


def test_a_job_without_a_verb_is_a_mistake(slurm):
    assert slurm(0) == (2, [])


def test_xpk_gets_a_workload(tmp_path):
    result = subprocess.run(
        [DEPLOY / "xpk.sh", "c", "z", "i", "gs://b", "my_run.gin"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{_refusing_xpk(tmp_path)}:{os.environ['PATH']}"},
        cwd=tmp_path,
    )
    assert result.returncode == 1, "the stand-in refuses every workload"
    call = (tmp_path / "calls").read_text()
    assert call.startswith("workload create --workload=detox --cluster=c --zone=z")
    assert "--tpu-type=v5litepod-8" in call
    assert "detox-jax sgeat --gin_file=my_run.gin --gin.OUTPUT_DIR=gs://b/runs/detox" in call


def test_the_image_of_a_workload_has_its_gin_file(tmp_path):
    """The commands of docs/TPU.md: what reaches the cluster is the image alone."""
    section = (ROOT / "docs" / "TPU.md").read_text().partition("\n## 4. GKE\n")[2]
    commands = re.search(r"(?:^    .*\n)+", section, re.MULTILINE)[0]
    (_refusing_xpk(tmp_path) / "docker").write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/docker_calls\n'
        f'case "$*" in *"-f - "*) cat >{tmp_path}/Dockerfile.run ;; esac\n'
    )
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "tpu_scripts").symlink_to(ROOT / "tpu_scripts")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shell = ["bash", "-euo", "pipefail", "-c", commands]
    result = subprocess.run(shell, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr  # the stand-in refuses every workload

    whole, own, push = (tmp_path / "docker_calls").read_text().splitlines()
    base, image = whole.split()[-2], own.split()[-2]
    assert whole == f"build -f deploy/Dockerfile.tpu -t {base} ."
    assert (own, push) == (f"build -f - -t {image} .", f"push {image}")
    call = (tmp_path / "calls").read_text()
    gin_file = re.search(r"--gin_file=(\S+)", call)[1]
    assert f"--docker-image={image} " in call
    workdir = [argument for step, argument in instructions(DEPLOY / "Dockerfile.tpu")][-1]
    steps = instructions(tmp_path / "Dockerfile.run")
    assert steps == [("FROM", base), ("COPY", f"{gin_file} {workdir}/")]
    linted = linters.lint("hadolint", [tmp_path / "Dockerfile.run"])
    assert linted.returncode == 0, linted.stdout


def _refusing_xpk(directory):
    (directory / "xpk").write_text(f'#!/bin/sh\necho "$*" >>{directory}/calls\nexit 3\n')
    (directory / "gcloud").write_text("#!/bin/sh\necho p\n")
    for program in ("xpk", "gcloud"):
        (directory / program).chmod(0o755)
    return directory


def test_hadolint_has_nothing_to_say():
    result = linters.lint("hadolint", DEPLOY.glob("Dockerfile.*"))
    assert result.returncode == 0, result.stdout


def test_shellcheck_has_nothing_to_say():
    result = linters.lint("shellcheck", DEPLOY.glob("*.sh"))
    assert result.returncode == 0, result.stdout
