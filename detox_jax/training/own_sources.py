"""What is known of a source of the user's own, which has no `describe`; loads no seqio."""

from __future__ import annotations

import functools
import glob
import hashlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, manifests
from detox_jax.errors import is_of_storage

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # In a `repr`, another one in each process.
_LONG = 1000  # characters; of a longer text its hash stands there
_MANY = 100  # entries; what holds more was most likely read, and not given
_HASHED = 1 << 30  # bytes; of larger files only how many there are, and their size
# What every source of seqio's has, and no example depends on.
_OF_ANY = ("_splits", "_num_input_examples", "_caching_permitted", "_performs_internal_shuffling")


def describe(source: Any, preprocessors: Sequence[Any], split: str) -> dict[str, Any]:
    """What a source and its preprocessors are, what they were made with, and the files it names.

    It is the same in each process, and nothing is read but those files.

    Args:
      source: of seqio.
      preprocessors: of its task.
      split: of the source.
    """
    made_with = dict(_made_with(source))
    described = {
        "source": _short(_ADDRESS.sub("", str(source))),
        # No mapping: settings take what a key `path` holds for a note, which decides nothing.
        "made_with": [f"{name}={_short(_said(value))}" for name, value in made_with.items()],
        "preprocessors": [_short(_said(step)) for step in preprocessors],
    }
    return {**described, **content([*_shards(source, split), *_texts(made_with)])}


def _made_with(source: Any) -> Iterator[tuple[str, Any]]:
    loader = getattr(source, "tfds_dataset", None)
    if loader is not None:  # Its `repr` names the split or slice of TFDS behind each split.
        yield "tfds", loader
    if type(source).__module__.startswith("seqio."):
        if hasattr(source, "_dataset_fn"):
            yield "function", source._dataset_fn
        return
    for name, value in sorted(getattr(source, "__dict__", {}).items()):
        if name not in _OF_ANY and _is_plain(value):
            yield name, value


def _is_plain(value: Any) -> bool:
    """Whether an attribute may be an argument, and is nothing that is read later."""
    if isinstance(value, Mapping):
        return _is_plain([*value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) <= _MANY and all(map(_is_plain, value))
    kinds = str | bytes | int | float | os.PathLike | functools.partial
    return isinstance(value, kinds) or inspect.isroutine(value)


def _said(value: Any) -> str:
    """A function by its name with what it is bound to, and anything else as it is written."""
    if isinstance(value, functools.partial):
        bound = [*map(_said, value.args)]
        bound += [f"{name}={_said(x)}" for name, x in sorted(value.keywords.items())]
        return f"{_said(value.func)}({', '.join(bound)})"
    if inspect.isroutine(value):
        name = f"{value.__module__}.{value.__qualname__}"
        return f"{name}({', '.join(map(repr, held))})" if (held := _held(value)) else name
    if isinstance(value, set | frozenset):  # In another order in each process.
        return f"{{{', '.join(sorted(map(_said, value)))}}}"
    return _ADDRESS.sub("", repr(value))


def _held(function: Any) -> list[Any]:
    """Texts and numbers among the defaults of a function and the variables around it."""
    held = [*(getattr(function, "__defaults__", None) or ())]
    held += (getattr(function, "__kwdefaults__", None) or {}).values()
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # Not assigned yet.
            continue
    return [value for value in held if isinstance(value, str | int | float | os.PathLike)]


def _texts(value: Any) -> Iterator[str]:
    """The texts in what a source was made with, some of which may name files."""
    if isinstance(value, str | os.PathLike):
        yield str(os.fspath(value))
        return
    inside: Iterable[Any] = ()
    if isinstance(value, functools.partial):
        inside = (value.func, *value.args, *value.keywords.values())
    elif inspect.isroutine(value):
        inside = _held(value)
    elif isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inside = value
    for part in inside:
        yield from _texts(part)


def _shards(source: Any, split: str) -> list[str]:
    """The names that a source has for its files; TFDS would have to be loaded for them."""
    if hasattr(source, "tfds_dataset"):
        return []
    try:
        names = source.list_shards(split)
    except Exception as error:  # One that nobody asks for them may not have any.
        if is_of_storage(error):
            raise
        return []
    return [str(name) for name in names if name != split]  # As a function's only shard is called.


def content(names: Iterable[str]) -> dict[str, Any]:
    """How many files and bytes there are behind names or globs, and what is in them.

    Of more than 1 GiB the bytes are only counted.
    """
    files = sorted({file for name in names for file in _files(name)})
    if not files:
        return {}
    size = sum(file.stat().length for file in files)
    found: dict[str, Any] = {"files": len(files), "bytes": size}
    if size <= _HASHED:
        found["sha256"] = manifests.hash_files(files)
    return found


def _files(name: str) -> list[epath.Path]:
    is_elsewhere = "://" in name and not name.startswith("gs://")
    if not name or len(name) > _LONG or "\0" in name or is_elsewhere:
        return []
    found = _matches(name) if "*" in name else [epath.Path(name)]
    return [file for file in found if file.is_file()]


def _matches(pattern: str) -> Iterable[epath.Path]:
    """What a glob matches; nothing where it names no directory first, as a text may not mean one.

    In the directory where a run begins lie its own log and output, which change meanwhile.
    """
    if os.path.dirname(pattern.partition("*")[0]) in ("", ".", "/"):
        return []
    if atomic_files.is_local(pattern):
        return map(epath.Path, glob.iglob(pattern, recursive=True))
    # Of a bucket all below a prefix would be listed.
    path = epath.Path(pattern)
    return [] if "**" in pattern else path.parent.glob(path.name)


def _short(text: str) -> str:
    return text if len(text) <= _LONG else hashlib.sha256(text.encode()).hexdigest()
