#!/usr/bin/env bash
# A run that goes back to an earlier step under Orbax's CheckpointManager saves nothing until it passes the old end.
#
# Guess: a training that restores step 30 of a directory that goes to 60, since what came then was bad, and trains on
#   with a save every 10 steps, overwrites 40, 50 and 60, or is told that these steps are there.
# Seen (orbax-checkpoint 0.12.8, jax 0.10.2): save(40), save(50) and save(60) return False, and nothing is logged or
#   raised. The directory still holds the old run's 40 to 60, and latest_step() is 60. Only 70 is written.
#   save(40, force=True) raises StepAlreadyExistsError.
# Hurt: whoever does not look at what save() returns has no checkpoint of the second run. After a preemption it goes
#   on from the parameters that were to be thrown away, and the best step is chosen among those too. Delete the
#   later steps with CheckpointManager.delete before going on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import logging
import pathlib
from importlib import metadata

import jax.numpy as jnp
import orbax.checkpoint as ocp

print(*(f"{name} {metadata.version(name)}" for name in ("orbax-checkpoint", "jax")))
warned = []


class Warned(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())


logging.getLogger().addHandler(Warned(logging.WARNING))
logging.getLogger("absl").addHandler(Warned(logging.WARNING))


def opened():
    options = ocp.CheckpointManagerOptions(save_interval_steps=10)
    return ocp.CheckpointManager(pathlib.Path("steps").absolute(), options=options)


def saved(manager, run, steps, **how):
    found = {}
    for step in steps:
        content = ocp.args.StandardSave({"w": jnp.full(3, run)})
        found[step] = manager.save(step, args=content, **how)
        manager.wait_until_finished()
    return found


def runs(manager):
    """Which run wrote each step."""
    return {
        step: int(manager.restore(step, args=ocp.args.StandardRestore())["w"][0])
        for step in manager.all_steps()
    }


with opened() as manager:
    saved(manager, 1, range(0, 61, 10))
with opened() as manager:
    warned.clear()
    manager.restore(30, args=ocp.args.StandardRestore())
    told = saved(manager, 2, (40, 50, 60))
    print("second run, from step 30: save() returned", told, "warnings:", warned)
    print("latest step:", manager.latest_step(), "written by run:", runs(manager))
    assert not any(told.values()) and not warned and set(runs(manager).values()) == {1}, "no longer so"
    try:
        saved(manager, 2, (40,), force=True)
        forced = "saved"
    except Exception as error:  # Whichever it is, its name is printed.
        forced = type(error).__name__
    print("save(40, force=True):", forced)
    print("save(70):", saved(manager, 2, (70,)), runs(manager))
    assert forced == "StepAlreadyExistsError", "no longer so"
    assert runs(manager)[70] == 2
    for step in (40, 50, 60, 70):
        manager.delete(step)
    print("after delete:", saved(manager, 2, (40, 50, 60)))
    assert runs(manager)[60] == 2
print("as found")
P
