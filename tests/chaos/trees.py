"""What a run left, for comparison with what an undisturbed one left."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from detox_jax.directory_lock import LOCK
from tests.chaos.forks import Forks

# Clocks, of `sgeat`, whose page shows them.
TIMES = ("times.json", "report.html")
_BREAK = re.compile(rb" = \\\n +")


def files_of(root: Path, but: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file by its path, the place of the directory left out of what it says.

    So are gin's line breaks, which depend on the length of a path. TensorBoard's events hold times;
    of saved steps, which hold them too, see `arrays_of`.
    """
    place = str(root).encode()
    return {
        str(path.relative_to(root)): hashlib.sha256(
            _BREAK.sub(b" = ", path.read_bytes().replace(place, b"ROOT"))
        ).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not {"tensorboard", "checkpoints"} & set(path.relative_to(root).parts)
        and path.name not in (LOCK, *but)
    }


def arrays_of(forks: Forks, root: Path) -> dict[str, str]:
    """SHA-256 of every array of every saved step below `root`, and of its JSON items."""
    if not any(root.rglob("checkpoints/*")):
        return {}
    place = forks.directory / "arrays.json"
    ended = forks.run(lambda: place.write_text(json.dumps(_arrays(root))))
    assert ended.status == 0, ended.errors
    return json.loads(place.read_text())


def _arrays(root: Path) -> dict[str, str]:
    import jax
    import numpy as np

    hashes = {}
    for step in sorted(root.rglob("checkpoints/*")):
        name = str(step.relative_to(root))
        hashes[name] = "a step"
        for item in ("params", "opt_state"):
            if not (step / item).exists():
                continue
            tree = read_item(step / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                array = np.asarray(leaf)
                content = str((array.dtype, array.shape)).encode() + array.tobytes()
                key = f"{name}/{item}{jax.tree_util.keystr(path)}"
                hashes[key] = hashlib.sha256(content).hexdigest()
        for item in ("data", "record"):
            if (step / item).exists():
                content = (step / item / "metadata").read_bytes()
                hashes[f"{name}/{item}"] = hashlib.sha256(content).hexdigest()
    return hashes


def read_item(item: Path) -> Any:
    """The arrays of a saved step's `params` or `opt_state`, whichever devices held them."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        held = reader.metadata(item).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), held)
        return reader.restore(item, restore_args=as_numpy)


def differences(ours: dict[str, Any], undisturbed: dict[str, Any]) -> list[str]:
    """The names of what differs, is missing, or is too much."""
    names = sorted(ours.keys() | undisturbed.keys())
    return [name for name in names if ours.get(name) != undisturbed.get(name)]
