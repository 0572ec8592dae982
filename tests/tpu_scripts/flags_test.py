"""What every script does with its flags, and what shellcheck says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import linters

SCRIPTS = Path(__file__).parent.parent.parent / "tpu_scripts"
COMMAND = ("--", "detox-jax", "train")
PLACE = ("--name=q", "--zone=z")
RESOURCE = (*PLACE, "--type=v6e-16")
BUCKET = "--bucket=gs://b/runs"
CALLS = {
    "create.sh": RESOURCE,
    "setup.sh": PLACE,
    "preflight.sh": (*PLACE, BUCKET),
    "run.sh": (*PLACE, *COMMAND),
    "watch.sh": (*RESOURCE, BUCKET, *COMMAND),
    "delete.sh": PLACE,
    "sgeat.sh": (*RESOURCE, BUCKET, "--gin_file=tpu_scripts/run.sh"),
    "run_xpk.sh": (
        "--cluster=c",
        "--workload=w",
        "--zone=z",
        "--type=v6e-16",
        "--docker_image=i",
        *COMMAND,
    ),
}


def test_every_script_is_tested():
    scripts = {path.name for path in SCRIPTS.glob("*.sh")} - {"common.sh"}
    assert scripts == set(CALLS)


@pytest.mark.parametrize("script", CALLS)
def test_help_says_how_to_call_it_and_calls_nothing(cloud, script):
    status, output = cloud.run(script, "--help")
    assert status == 0
    assert f"  {script} --" in output
    assert "--dry_run" in output
    assert "set -euo" not in output
    assert cloud.calls() == []


@pytest.mark.parametrize("script", CALLS)
def test_dry_run_prints_and_calls_nothing(cloud, script):
    status, output = cloud.run(script, "--dry_run", *CALLS[script])
    assert status == 0, output
    program = "xpk workload create" if script == "run_xpk.sh" else "gcloud compute tpus"
    assert f"+ {program}" in output
    assert cloud.calls() == []
    assert not (cloud.checkout / "runs").exists()


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("flags", [(), ("--nmae=q",), ("stray",), ("--name",)], ids=str)
def test_a_wrong_command_line_is_one_line_and_exit_2(cloud, script, flags):
    status, output = cloud.run(script, *flags)
    assert status == 2
    assert output.startswith(f"{script}: error: ") and output.count("\n") == 1
    assert cloud.calls() == []


@pytest.mark.parametrize("script", ["run.sh", "watch.sh", "run_xpk.sh"])
def test_a_command_is_required(cloud, script):
    status, output = cloud.run(script, *CALLS[script][: -len(COMMAND)])
    assert status == 2
    assert (
        output
        == f"{script}: error: no command: end with -- detox-jax VERB ...; see {script} --help\n"
    )


@pytest.mark.parametrize(
    ("script", "flag", "what"),
    [
        ("create.sh", "--node_count=two", "a whole number"),
        ("preflight.sh", "--timeout=010", "a whole number"),  # 8 to bash, and 08 an error of its
        ("run_xpk.sh", "--poll=ten", "a number of seconds"),
        ("watch.sh", "--poll=1.", "a number of seconds"),
        ("delete.sh", "--pause=", "a number of seconds"),
    ],
)
def test_numbers_must_be_numbers(cloud, script, flag, what):
    """Before anything is asked for: no script is to end in a pause, with what costs money left."""
    status, output = cloud.run(script, flag, *CALLS[script])
    assert status == 2
    assert output == f"{script}: error: {flag} is not {what}; see {script} --help\n"
    assert cloud.calls() == []


def test_shellcheck_has_nothing_to_say():
    scripts = [
        *SCRIPTS.glob("*.sh"),
        *SCRIPTS.glob("worker/*.sh"),
        Path(__file__).parent / "fake_uv.sh",
    ]
    result = linters.lint("shellcheck", scripts)
    assert result.returncode == 0, result.stdout
