"""What a verb leaves behind: files written whole or not at all, and the manifest beside them.

A verb opens its `OutputDirectory` with the settings that decide what it writes; that is where the
promise is kept that a rerun skips what is complete, redoes what is half-written and refuses to mix
two configurations. Paths may be local or `gs://` (through `etils.epath`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import re
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from typing import Any, Protocol

import gin
from etils import epath

from detox_jax.errors import UserError
from detox_jax.parallel import processes

MANIFEST = "manifest.json"
CONFIG = "config.gin"
TIMES_FILE = "times.json"  # how long each step took, in every run of it
SCHEMA_VERSION = 2
_NOTE = "path"  # a key of settings that says where something was
_APPEARS_WITHIN_S = 10.0
_SEEDS = ("random_seed", "seed")
_SHOWN = 100  # characters of a setting in an error
SHARD = re.compile(r"^(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.jsonl$")


class Line(Protocol):
    """What is written as one line of JSON."""

    def to_json(self) -> dict[str, Any]:
        """The line."""
        ...


def shard_name(name: str, index: int, count: int) -> str:
    """`documents-00003-of-00010.jsonl`."""
    return f"{name}-{index:05d}-of-{count:05d}.jsonl"


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes a file whole or not at all; of several processes, the first one does."""
    if not processes.current().is_first:
        return
    temporary = path.parent / f".{path.name}.partial"
    temporary.write_bytes(content)
    temporary.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_jsonl(path: epath.Path, records: Iterable[Line]) -> int:
    """Writes records as JSON Lines, whole or not at all, and returns how many there were."""
    lines = [_encode_line(record.to_json()) for record in records]
    write_bytes(path, b"".join(lines))
    return len(lines)


def _encode_line(value: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # A lone surrogate has no UTF-8 form; JSON's escape keeps it.
        return (json.dumps(value) + "\n").encode()


def hash_files(files: Iterable[epath.Path]) -> str:
    """SHA-256 over the bytes of `files`, in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def settings(
    verb: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    free: Collection[str],
    instead: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The settings of a verb's output: all of its arguments that are not named as free.

    An argument that is forgotten thus decides, and at worst makes a run begin anew; named one by
    one, a forgotten one would be silently reused.

    Args:
      verb: the function.
      arguments: its arguments, `locals()` in its first line.
      free: those that change where, how fast or how often, and never what is written.
      instead: of arguments that JSON does not hold, or that name content by its place: the settings
        that stand for them. Several arguments may stand in one; the others are then given `{}`.

    Raises:
      TypeError: for an argument that is neither JSON, nor a dataclass, nor in `instead`.
      UserError: for a seed that is not one.
    """
    names = inspect.signature(verb).parameters
    return _decided(verb.__name__, {name: arguments[name] for name in names}, free, instead or {})


def struct_settings(
    struct: Any,
    *,
    free: Collection[str] = (),
    instead: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The same of the fields of a dataclass, which a verb takes in place of many arguments."""
    values = {field.name: getattr(struct, field.name) for field in dataclasses.fields(struct)}
    return _decided(type(struct).__name__, values, free, instead or {})


def _decided(
    owner: str,
    values: Mapping[str, Any],
    free: Collection[str],
    instead: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    if unknown := ({*free, *instead} - values.keys()) | (set(free) & instead.keys()):
        raise TypeError(f"{owner}: {sorted(unknown)} are no arguments, or stand twice")
    decided: dict[str, Any] = {}
    for name, value in values.items():
        if name in _SEEDS:
            _check_seed(value)
        if name in instead:
            decided |= instead[name]
        elif name not in free:
            decided[name] = describe(value, f"{owner}.{name}")
    return decided


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(
            f"RANDOM_SEED is {seed!r}; give a whole number from 0 to {2**32 - 1}: JAX "
            "would cut any other to 32 bits"
        )


def describe(value: Any, name: str) -> Any:
    """A value as settings hold it: JSON as it is, a strategy by its class and its fields.

    Raises:
      TypeError: naming what is neither.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"method": type(value).__name__, **dataclasses.asdict(value)}
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(f"{name}: {error}; say what stands for it in `instead`") from None


def versions() -> dict[str, str]:
    """The versions that a manifest records."""
    packages = ("detox-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
    return {package: metadata.version(package) for package in packages}


def read_manifest(directory: epath.Path) -> dict[str, Any]:
    """The manifest of an output directory.

    Raises:
      UserError: if there is none or it is not one of ours.
    """
    path = epath.Path(directory) / MANIFEST
    if not path.exists():
        raise UserError(f"{directory}: no {MANIFEST}; not an output of detox-jax")
    try:
        manifest = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        manifest = None
    if not isinstance(manifest, dict) or not {"complete", "settings"} <= manifest.keys():
        raise UserError(f"{path}: not a manifest of detox-jax")
    if (version := manifest.get("schema_version", 1)) > SCHEMA_VERSION:
        raise UserError(
            f"{path}: of version {version}, this is version {SCHEMA_VERSION}; a later detox-jax "
            "wrote it: install that"
        )
    return manifest


class OutputDirectory:
    """A verb's output: opened with the settings that define it, closed with its manifest.

    The manifest is written twice: when the directory is opened, with `"complete": false`, and by
    `finish`, with the counts. A rerun with the same settings finds what is there (`complete`,
    `has_shard`) and does the rest; a rerun with other settings is refused, so that two
    configurations never mix, unless nothing that an earlier one decided is there yet. Everything in
    it is a function of the settings, no time and no host: a run that was killed and repeated ends
    with the same bytes.

    Content decides, not its place: what settings call a `path` says where something was, and is not
    compared. So a tree of outputs may be moved or named in another way, and goes on.

    Several processes open it together and must bring the same settings. Process 0 looks what is
    there and writes; the others see what it wrote once `finish` returns.

    Args:
      directory: the place.
      verb: whose output it is.
      settings: what decides it, see `settings`.
      has_results: whether there is anything that other settings would have made otherwise; any file
        but the manifest and `config.gin` where None.

    Raises:
      UserError: if the directory cannot be written, holds something else, is another directory on
        another host, or its settings are others there (which includes the hashes of the data).
    """

    def __init__(
        self,
        directory: str,
        verb: str,
        settings: Mapping[str, Any],
        has_results: Callable[[], bool] | None = None,
    ):
        self.path = epath.Path(directory)
        self._has_results = has_results or self._holds_files
        self._manifest = {
            "schema_version": SCHEMA_VERSION,
            "verb": verb,
            "complete": False,
            "settings": json.loads(json.dumps(settings, sort_keys=True)),
            "versions": versions(),
        }
        run = processes.current()
        run.agree(
            {"settings": without_notes(self._manifest["settings"])},
            "all processes need the same command and the same data",
        )
        self.complete, self._manifest = run.first_decides(lambda: self._open(verb))
        if not self.complete:
            self._check_shared()

    def _open(self, verb: str) -> tuple[bool, dict[str, Any]]:
        """Whether the output is finished, and its manifest; makes the directory where it is not."""
        if self._matches_existing(verb):
            return True, self._manifest
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / MANIFEST, self._manifest)
            write_bytes(self.path / CONFIG, gin.config_str().encode())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        return False, self._manifest

    def _check_shared(self) -> None:
        """Refuses a directory that is not the same one on every host."""
        run = processes.current()
        if not run.several:
            return
        # Not the manifest, which an earlier run may have left on every host's own disk.
        token = self.path / run.first_decides(lambda: f".shared-{uuid.uuid4().hex}")
        run.first_decides(lambda: write_bytes(token, b""))
        seen = run.gather(_appears(token))

        def judge() -> None:
            token.unlink()
            if blind := [run.name(index) for index, sees in enumerate(seen) if not sees]:
                raise UserError(
                    f"{self.path}: not shared between hosts: {', '.join(blind)} does not see what "
                    "process 0 writes there; give a directory that all hosts share, such as gs://"
                )

        run.first_decides(judge)

    def _matches_existing(self, verb: str) -> bool:
        """Whether a finished output with these settings is there; refuses one with others."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; give a directory to write to")
        if not (self.path / MANIFEST).exists():
            if any(self.path.glob("*.jsonl")) or any(self.path.glob("results.json")):
                raise UserError(
                    f"{self.path}: holds files that this verb did not write; choose another"
                )
            return False
        manifest = read_manifest(self.path)
        if manifest["verb"] != verb:
            raise UserError(
                f"{self.path}: holds the output of `{manifest['verb']}`; choose another"
            )
        difference = _difference(manifest, self._manifest)
        if difference and not manifest["complete"] and not self._has_results():
            return False
        if difference:
            name, there, now = difference
            raise UserError(
                f"{self.path}: holds output made with other settings ({name}: {_short(there)} "
                f"there, {_short(now)} now); remove this directory alone "
                f"({removal(self.path)}), or choose another; outputs beside it are kept"
            )
        if manifest["complete"]:
            self._manifest = manifest
        return manifest["complete"]

    def _holds_files(self) -> bool:
        return any(
            path.name not in (MANIFEST, CONFIG) and not path.name.startswith(".")
            for path in self.path.iterdir()
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands."""
        return self._manifest

    def has_shard(self, name: str, index: int, count: int) -> bool:
        """Whether a shard is already there; shards are written whole or not at all."""
        shard = self.path / shard_name(name, index, count)
        return processes.current().first_decides(shard.exists)

    def write_shard(self, name: str, index: int, count: int, records: Iterable[Line]) -> int:
        """Writes one shard and returns the number of its records."""
        return write_jsonl(self.path / shard_name(name, index, count), records)

    def finish(self, **counts: Any) -> None:
        """Marks the output complete; `counts` and other results join the manifest."""
        self._manifest = {**self._manifest, "complete": True, **counts}
        processes.current().first_decides(lambda: write_json(self.path / MANIFEST, self._manifest))
        self.complete = True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def removal(path: epath.Path) -> str:
    """The command that removes a directory."""
    return f"{'gcloud storage rm -r' if '://' in str(path) else 'rm -r'} {shlex.quote(str(path))}"


def without_notes(value: Any) -> Any:
    """Settings without what is not compared: where things were."""
    if isinstance(value, Mapping):
        return {key: without_notes(item) for key, item in value.items() if key != _NOTE}
    return [without_notes(item) for item in value] if isinstance(value, list) else value


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting in which a manifest differs from that of this run."""
    old, new = without_notes(there["settings"]), without_notes(now["settings"])
    if there.get("schema_version") == 1:
        old, new = _as_version_2(there["verb"], old, new)
    return processes.first_difference(old, new)


def _as_version_2(verb: str, old: Any, new: Any) -> tuple[Any, Any]:
    """Settings of a run of version 1 and of this one, as far as version 1 knew them.

    It listed what decides by hand, and named models by their places in `evaluate`, results in
    `report`.
    """
    if verb == "report":  # Its order was that of the places.
        old = {"results": sorted(old["results"].values(), key=json.dumps)}
        new = {**new, "results": sorted(new["results"], key=json.dumps)}
    if verb == "evaluate":
        old = {name: value for name, value in old.items() if name != "reference"}
        for method in old["methods"].values():
            method.pop("checkpoint_path", None)
    if verb == "train":
        old["config"].pop("remat", None)
    return old, _known(new, old)


def _known(new: Any, old: Any) -> Any:
    """`new` without the keys that `old` does not have."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {name: _known(new[name], old[name]) for name in new if name in old}


def _appears(file: epath.Path) -> bool:
    """Whether a file is there, or comes: a network file system may show it late."""
    deadline = time.monotonic() + _APPEARS_WITHIN_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
