"""Steps that several runs share: an output that another run finished is taken over, not made again.

`DETOX_JAX_SHARED_STEPS` names a directory; `sweep` sets it for its cells. In it a file for each
finished output, named by the verb and the hash of the settings that decide what is written, says
where that output lies. As settings hold content and no places, what was written there would be
written here; its files are linked, or copied where they cannot be.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

VARIABLE = "DETOX_JAX_SHARED_STEPS"
# `evaluate` and `report` name the runs that they are about.
VERBS = ("choices", "filter", "generate", "score", "train", "train_vocabulary")


def mark_of(verb: str, settings: Mapping[str, Any]) -> epath.Path | None:
    """The file that says where such an output lies; None where nothing is shared.

    Args:
      verb: whose output it is.
      settings: what decides it, without notes of places.
    """
    return place_of(verb, settings) if verb in VERBS else None


def place_of(name: str, decided: Any) -> epath.Path | None:
    """A shared file, named by what decides its content; None where nothing is shared."""
    if not (root := os.environ.get(VARIABLE)):
        return None
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    return epath.Path(root) / f"{name}-{digest[:24]}.json"


def finished_elsewhere(mark: epath.Path | None, here: epath.Path) -> epath.Path | None:
    """The output that a mark names, unless it is this one, or gone."""
    if mark is None or not mark.exists():
        return None
    there = epath.Path(json.loads(mark.read_text())["output_dir"])
    return there if there.exists() and str(there) != absolute(here) else None


def take_over(there: epath.Path, here: epath.Path, but: tuple[str, ...]) -> None:
    """Puts the files of a finished output here, in place of what an unfinished one has left.

    Args:
      there: the finished output.
      here: this one.
      but: names of files at the top that stay as they are in both.
    """
    clear(here, but)
    for name in _files(there):
        if name not in but:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            _put(there / name, here / name)


def clear(here: epath.Path, but: tuple[str, ...]) -> None:
    """Removes what lies in an output, but for files at the top of these names."""
    for path in here.iterdir():
        if path.name not in but:
            path.rmtree() if path.is_dir() else path.unlink()


def _files(directory: epath.Path, below: str = "") -> Iterator[str]:
    """The files of a directory, by their paths in it."""
    for path in sorted((directory / below).iterdir()):
        name = f"{below}/{path.name}" if below else path.name
        if path.is_dir():
            yield from _files(directory, name)
        else:
            yield name


def _put(source: epath.Path, target: epath.Path) -> None:
    if "://" in f"{source}{target}":
        source.copy(target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def absolute(path: epath.Path) -> str:
    """A path as other directories may name it."""
    return str(path) if "://" in str(path) else os.path.abspath(path)
