"""A stand-in for gcloud: one queued resource, whose workers are directories and whose ssh is bash.

The directory $FAKE_CLOUD holds `scenario.json` (see `Cloud` in conftest.py), `calls.jsonl` (every
call, in order), `state.json`, and `workers/NODE-WORKER`, each worker's home. States, formats, exit
codes and messages are those of Google Cloud SDK 528.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
SCENARIO = json.loads((CLOUD / "scenario.json").read_text())
STATE = CLOUD / "state.json"
PREEMPTED = CLOUD / "preempted"


def main(words: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    verbs = [word for word in words if not word.startswith("--")]
    state = json.loads(STATE.read_text()) if STATE.exists() else {"lives": 0, "exists": False}
    match verbs:
        case ["compute", "tpus", "queued-resources", verb, *rest]:
            if verb == "create":
                return create(state, flags)
            if not state["exists"]:
                return error(
                    "NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/q' was not found"
                )
            return {"describe": describe, "delete": delete, "ssh": ssh, "scp": scp}[verb](
                state, flags, rest
            )
        case ["compute", "tpus", "tpu-vm", "describe", _]:
            print(";".join(["127.0.0.1"] * state["workers"]))
            return 0
        case ["storage", "cp", *_]:
            return 0
    return error(f"stand-in does not know {words}", 2)


def error(message: str, status: int = 1) -> int:
    print(f"ERROR: (gcloud.compute.tpus.queued-resources) {message}", file=sys.stderr)
    return status


def save(state: dict) -> None:
    half = STATE.with_suffix(f".{os.getpid()}")  # A signal may end this at any moment.
    half.write_text(json.dumps(state))
    half.replace(STATE)


def create(state: dict, flags: dict) -> int:
    if SCENARIO["quota_error"]:
        return error(
            "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded."
        )
    import shutil  # here, and likewise below: most calls are to start fast
    import time

    time.sleep(SCENARIO["seconds_to_ask"])
    PREEMPTED.unlink(missing_ok=True)
    workers = SCENARIO["workers"]
    if isinstance(workers, dict):
        workers = workers[flags["accelerator-type"]]
    state = {"lives": state["lives"] + 1, "exists": True, "asked": 0, "refused": 0}
    save(state | {"workers": workers})
    for home in homes(workers):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
    return 0


def describe(state: dict, flags: dict, _rest: list[str]) -> int:
    if "nodeSpec" in flags["format"]:
        print(";".join(f"q-{node}" for node in range(SCENARIO["nodes"])))
    elif "failedData" in flags["format"]:
        print("no more capacity in this zone")
    elif SCENARIO["no_answer"]:
        return error("UNAVAILABLE: the service is currently unavailable")
    else:
        life = SCENARIO["lives"][min(state["lives"], len(SCENARIO["lives"])) - 1]
        states = ["SUSPENDING", "SUSPENDED"] if PREEMPTED.exists() else life
        if PREEMPTED.exists() and "preempted_at" not in state:
            state["preempted_at"] = state["asked"]
        print(states[min(state["asked"] - state.get("preempted_at", 0), len(states) - 1)])
        save(state | {"asked": state["asked"] + 1})
    return 0


def delete(state: dict, flags: dict, _rest: list[str]) -> int:
    if "force" not in flags or "quiet" not in flags:
        return error("would ask a question")
    if state["refused"] < SCENARIO["refused_deletions"]:
        save(state | {"refused": state["refused"] + 1})
        return error("FAILED_PRECONDITION: the queued resource is being provisioned")
    for home in homes(state["workers"]):  # the machines, and what runs on them, are gone
        group = home / ".detox_jax" / "group"
        if group.exists():
            os.system(f"kill -KILL -{group.read_text().strip()} 2>/dev/null")
    save(state | {"exists": False})
    return 0


def ssh(state: dict, flags: dict, _rest: list[str]) -> int:
    import subprocess

    place = f"{flags['node']}-{flags['worker']}"
    if place in SCENARIO["unreachable"]:
        print("ssh: connect to host 127.0.0.1 port 22: Connection timed out", file=sys.stderr)
        return 255
    is_run = "worker/run.sh" in flags["command"] and "preflight" not in flags["command"]
    if is_run and state["lives"] in SCENARIO["preempted_lives"]:
        PREEMPTED.touch()
        print("step 100\nConnection to 127.0.0.1 closed by remote host.")
        return 255
    home = CLOUD / "workers" / place
    environment = os.environ | {"HOME": str(home)}
    # A session of its own, as sshd gives: a closed connection leaves the command running.
    status = subprocess.run(
        ["bash", "-c", flags["command"]], cwd=home, env=environment, start_new_session=True
    ).returncode
    return status if status >= 0 else 255  # ssh's own, of a command that a signal ended


def scp(state: dict, _flags: dict, rest: list[str]) -> int:
    import shutil

    for home in homes(state["workers"]):
        shutil.copy(rest[0], home)
    return 0


def homes(workers: int) -> list[Path]:
    return [
        CLOUD / "workers" / f"{node}-{worker}"
        for node in range(SCENARIO["nodes"])
        for worker in range(workers)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
