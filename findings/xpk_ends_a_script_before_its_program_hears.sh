#!/usr/bin/env bash
# xpk's container hands SIGTERM to a shell and not to the program: a command in several steps is killed.
#
# Guess: `xpk workload create --command=...` traps SIGTERM and passes it on, as its manifest shows, so that
#   a program that saves on SIGTERM has --termination-grace-period-seconds to do so.
# Seen (xpk 1.16.0, bash 5.2): the trap signals the subshell that runs the command. Where bash has put the
#   command in that shell's place ("python3 train.py", also behind "cd /app &&") the program hears, up to
#   5 s late. With "| tee log", with anything behind it ("; gsutil cp ...") or from a script ("bash run.sh")
#   it never does: the shell dies, the container's first process ends with 143 within seconds, and the
#   program is killed with it, whatever the grace period. `exec` in front of a script's last line helps.
# Hurt: every preemption loses what was trained since the last save, though the save on SIGTERM was tried
#   by hand; a longer grace period changes nothing. 143 is a status that xpk restarts, so nobody looks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Without what it depends on: its template is all that is looked at.
"$work/venv/bin/pip" install --quiet --no-deps xpk==1.16.0
cd "$work"
cat >train.py <<'P'
import pathlib
import signal
import sys
import time


def save(*_):
    pathlib.Path("saved").touch()
    sys.exit(75)


signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(60)
P
echo "python3 train.py
echo done" >run.sh
venv/bin/python - <<'P'
import os
import pathlib
import re
import signal
import subprocess
import time
from importlib import metadata

print("xpk", metadata.version("xpk"))
source = pathlib.Path(metadata.distribution("xpk").locate_file("xpk/core/docker_container.py"))
(template,) = re.findall(r"echo XPK Start.*?exit \$EXIT_CODE\n", source.read_text(), re.DOTALL)
assert "trap _sigterm SIGTERM;" in template and "({command}) & PID=$!;" in template


def preempted(command):
    """The container's status, and whether the program saved before its first process was gone."""
    for name in ("ready", "saved"):
        pathlib.Path(name).unlink(missing_ok=True)
    names = dict.fromkeys(re.findall(r"{(\w+)}", template), "")
    script = template.format(**{**names, "command": command})
    first = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, start_new_session=True)
    while not pathlib.Path("ready").exists():
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    status, saved = first.wait(timeout=50), pathlib.Path("saved").exists()
    try:
        os.killpg(first.pid, signal.SIGKILL)  # As the end of a container's first process does.
    except ProcessLookupError:
        pass
    return status, saved


for command, expected in {
    "python3 train.py": (75, True),
    "cd . && python3 train.py": (75, True),
    "python3 train.py | tee log": (143, False),
    "python3 train.py; echo done": (143, False),
    "bash run.sh": (143, False),
}.items():
    found = preempted(command)
    print(f"{command:30} status {found[0]}, {'saved' if found[1] else 'killed unsaved'}")
    assert found == expected, "no longer so"
print("as found")
P
