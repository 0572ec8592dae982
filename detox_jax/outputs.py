"""What a verb leaves behind: files written whole or not at all, and the manifest beside them.

A verb opens its `OutputDirectory` with the settings that decide what it writes; that is where the
promise is kept that a rerun skips what is complete, redoes what is half-written and refuses to mix
two configurations. Paths may be local or `gs://` (through `etils.epath`).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import gin
from etils import epath

from detox_jax import directory_lock, output_settings, shared_steps
from detox_jax.errors import (
    Unavailable,
    UserError,
    as_one_line,
    shortened,
    storage_trouble,
    writing,
)
from detox_jax.formats import jsonl
from detox_jax.parallel import processes

MANIFEST = "manifest.json"
CONFIG = "config.gin"
_PARTIAL = ".partial"  # ends the name of a file that is being written
TIMES_FILE = "times.json"  # how long each step took, in every run of it
_APPEARS_WITHIN_S = 10.0
_SHOWN = 100  # characters of a setting in an error
_SHOWN_NAME = 300  # and of its name
SHARD = re.compile(r"^(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.jsonl$")


class Line(Protocol):
    """What is written as one line of JSON."""

    def to_json(self) -> dict[str, Any]:
        """The line."""
        ...


def shard_name(name: str, index: int, count: int) -> str:
    """`documents-00003-of-00010.jsonl`."""
    return f"{name}-{index:05d}-of-{count:05d}.jsonl"


def write_bytes(path: epath.Path, content: bytes, *, in_output: bool = True) -> None:
    """Writes a file whole or not at all; of several processes, the first one does.

    A file that stands there has reached the disk: a power cut leaves it whole. In a bucket an
    object appears whole, and is written at its place at once.

    Args:
      path: of the file.
      content: of the file.
      in_output: whether it lies in an output directory, from which `remove_partial_files` removes
        what killed runs were writing; what they were of any other file goes here.

    Raises:
      Unavailable: where the storage fails, such as a full disk.
    """
    if not processes.current().is_first:
        return
    if not is_local(path):
        with writing(path):
            path.write_bytes(content)
        return
    if not in_output:
        _remove_leftovers(Path(path))
        # Another run that writes the same file may take this one's for a leftover.
        with contextlib.suppress(Unavailable):
            _write_durably(Path(path), [content])
            return
    _write_durably(Path(path), [content])


def _write_blocks(path: epath.Path, blocks: Iterable[bytes]) -> None:
    """As `write_bytes`, of blocks that are not held; a bucket's object is, as it appears whole.

    All processes take the blocks, which may be computed by all together.
    """
    if not processes.current().is_first:
        for _ in blocks:
            pass
    elif not is_local(path):
        write_bytes(path, b"".join(blocks))
    else:
        _write_durably(Path(path), blocks)


def _write_durably(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes as the blocks come; what goes wrong with these is not the storage's trouble."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}"
    with writing(path), staying(path.parent):
        file = temporary.open("wb")
    try:
        with file:
            for block in blocks:
                with writing(path):
                    file.write(block)
            with writing(path):
                file.flush()
                os.fsync(file.fileno())
        with writing(path), staying(path.parent):
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def is_local(path: str | epath.Path) -> bool:
    """Whether a path is on a disk, not in an object store."""
    return "://" not in str(path)


def make_subdirectory(path: epath.Path) -> None:
    """Makes a directory in an output, which is there.

    Raises:
      Unavailable: where the output is no longer there.
    """
    with staying(path.parent):
        path.mkdir(exist_ok=True)


@contextlib.contextmanager
def staying(directory: object) -> Iterator[None]:
    """Says in one line that a directory that is being written to was removed.

    Raises:
      Unavailable: where a file or directory is missing inside.
    """
    try:
        yield
    except FileNotFoundError:
        raise Unavailable(directory_lock.removed(directory)) from None


def _sync_directory(directory: Path) -> None:
    """Makes the names in a directory last, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial_files(directory: epath.Path) -> None:
    """Removes what a killed run was writing, files and scratch directories.

    Only who holds the directory's lock may.
    """
    if not is_local(directory):
        return
    for place, folders, files in os.walk(directory):
        if place != str(directory) and {MANIFEST, directory_lock.LOCK} & set(files):  # another's
            folders.clear()
            continue
        for name in filter(_is_partial, files):
            (Path(place) / name).unlink(missing_ok=True)
        for path in [Path(place) / name for name in filter(_is_partial, folders)]:
            if not any((path / name).exists() for name in (MANIFEST, directory_lock.LOCK)):
                shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Removes what killed runs were writing of one file."""
    for beside in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}{_PARTIAL}"):
        if beside.is_file():
            beside.unlink(missing_ok=True)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PARTIAL)


def write_json(path: epath.Path, value: Any, *, in_output: bool = True) -> None:
    """Writes `value` as indented JSON, as `write_bytes` does."""
    write_bytes(path, _encoded(value, indent=2), in_output=in_output)


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_jsonl(path: epath.Path, records: Iterable[Line]) -> int:
    """Writes records as JSON Lines, whole or not at all, and returns how many there were."""
    lines = encode_lines(records)
    write_bytes(path, b"".join(lines))
    return len(lines)


def encode_lines(records: Iterable[Line]) -> list[bytes]:
    """Each record as its line of JSON."""
    return [_encoded(record.to_json()) for record in records]


_LINE = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` makes one for each line.


def _encoded(value: Any, indent: int | None = None) -> bytes:
    try:
        encoder = _LINE if indent is None else json.JSONEncoder(indent=indent, ensure_ascii=False)
        return (encoder.encode(value) + "\n").encode()
    except UnicodeEncodeError:  # A lone surrogate has no UTF-8 form; JSON's escape keeps it.
        return (json.dumps(value, indent=indent) + "\n").encode()


def hash_files(files: Iterable[epath.Path]) -> str:
    """SHA-256 over the bytes of `files`, in order.

    Raises:
      UserError: for a shard that is not as its verb wrote it, by the manifest beside it.
    """
    digest = hashlib.sha256()
    expected: dict[epath.Path, Mapping[str, Any]] = {}
    for file in files:
        if file.parent not in expected:
            expected[file.parent] = _written_shards(file.parent)
        known = expected[file.parent].get(file.name)
        of_file = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
            if known is not None:
                of_file.update(block)
        if known is not None and known["sha256"] != of_file.hexdigest():
            raise UserError(
                f"{file}: damaged: its bytes are not those that `{expected[file.parent]['']}` "
                f"wrote; remove the directory ({removal(file.parent)}) and run that command again"
            )
    return digest.hexdigest()


def _hash_of(file: epath.Path) -> str:
    """SHA-256 of one file, whatever its manifest says."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: epath.Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _written_shards(directory: epath.Path) -> dict[str, Any]:
    """What a finished manifest says of its shards, and under the empty name its verb."""
    if not (directory / MANIFEST).exists():
        return {}
    manifest = read_manifest(directory)
    shards = manifest.get("shards") if manifest["complete"] else None
    return {**shards, "": manifest.get("verb")} if isinstance(shards, Mapping) else {}


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
        manifest = jsonl.json_object(path.read_bytes(), str(path))
    except UserError:
        manifest = {}
    if not _is_manifest(manifest):
        raise UserError(f"{path}: not a manifest of detox-jax")
    if (version := manifest.get("schema_version", 1)) > output_settings.SCHEMA_VERSION:
        raise UserError(
            f"{path}: of version {version}, this is version {output_settings.SCHEMA_VERSION}; a "
            "later detox-jax wrote it: install that"
        )
    return manifest


def _is_manifest(value: Mapping[str, Any]) -> bool:
    """Whether what each run relies on is there, and of its kind."""
    version, shards = value.get("schema_version", 1), value.get("shards", {})
    return (
        isinstance(value.get("complete"), bool)
        and isinstance(value.get("verb"), str)
        and isinstance(value.get("settings"), dict)
        and isinstance(version, int)
        and isinstance(shards, dict)
        and all(isinstance(shard, dict) and "sha256" in shard for shard in shards.values())
    )


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
      settings: what decides it, see `output_settings`.
      has_results: whether there is anything that other settings would have made otherwise; any file
        but the manifest and `config.gin` where None.

    Raises:
      Unavailable: where the storage fails.
      UserError: if the directory must not be written, holds something else, is another directory on
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
            "schema_version": output_settings.SCHEMA_VERSION,
            "verb": verb,
            "complete": False,
            "settings": json.loads(json.dumps(settings, sort_keys=True)),
            "versions": versions(),
        }
        run = processes.current()
        run.agree(
            {"settings": output_settings.without_notes(self._manifest["settings"])},
            "all processes need the same command and the same data",
        )
        self.is_taken_over = False
        self.complete, self._manifest = run.first_decides(lambda: self._open(verb))
        if not self.complete:
            self._check_shared()

    def _open(self, verb: str) -> tuple[bool, dict[str, Any]]:
        """Whether the output is finished, and its manifest; makes the directory where it is not."""
        if self._matches_existing(verb):
            self._offer()
            return self._is_finished()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            directory_lock.acquire(self.path, verb)
            if self._matches_existing(verb):  # Another run may have finished it meanwhile.
                directory_lock.release(self.path)
                return self._is_finished()
            remove_partial_files(self.path)
            write_json(self.path / MANIFEST, self._manifest)
            write_bytes(self.path / CONFIG, gin.config_str().encode())
            if self._take_over():
                return True, self._manifest
        except directory_lock.InUseError:
            raise
        except (OSError, Unavailable) as error:
            cause = error.__cause__ if isinstance(error, Unavailable) else error
            is_read_only = isinstance(cause, OSError) and cause.errno == errno.EROFS
            if storage_trouble(cause) is None or is_read_only:
                reason = getattr(cause, "strerror", None) or cause
                raise UserError(f"{self.path}: cannot be written: {reason}") from None
            raise Unavailable(f"{self.path}: cannot be written: {storage_trouble(cause)}") from None
        return False, self._manifest

    def _is_finished(self) -> tuple[bool, dict[str, Any]]:
        print(f"nothing to do: {self.path} is finished")
        return True, self._manifest

    @property
    def _mark(self) -> epath.Path | None:
        settings = output_settings.without_notes(self._manifest["settings"])
        return shared_steps.mark_of(self._manifest["verb"], settings)

    def _offer(self) -> None:
        """Says to other runs that this is finished; of two that are alike, the first is the one."""
        mark = self._mark
        if mark is not None and shared_steps.finished_elsewhere(mark, self.path) is None:
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_json(mark, {"output_dir": shared_steps.absolute(self.path)})

    def _take_over(self) -> bool:
        """Whether another run has finished the same, which is then here too (`shared_steps`)."""
        there = shared_steps.finished_elsewhere(self._mark, self.path)
        if there is None or not (there / MANIFEST).exists():
            return False
        manifest = read_manifest(there)
        if not manifest["complete"] or output_settings.difference(manifest, self._manifest):
            return False
        shared_steps.take_over(there, self.path, (MANIFEST, CONFIG, directory_lock.LOCK))
        # What it says of places is of this run's.
        self._manifest = {**manifest, "settings": self._manifest["settings"]}
        write_json(self.path / MANIFEST, self._manifest)
        directory_lock.release(self.path)
        print(f"{self.path}: taken over from {there}")
        self.is_taken_over = True
        return True

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
            there = as_one_line(manifest["verb"], _SHOWN)
            raise UserError(f"{self.path}: holds the output of `{there}`; choose another")
        difference = output_settings.difference(manifest, self._manifest)
        if difference and not manifest["complete"] and not self._has_results():
            return False
        if difference:
            name, *values = difference
            there, now = (shortened(repr(value), _SHOWN) for value in values)
            raise UserError(
                f"{self.path}: holds output made with other settings "
                f"({as_one_line(name, _SHOWN_NAME)}: {there} "
                f"there, {now} now); remove this directory alone "
                f"({removal(self.path)}), or choose another; outputs beside it are kept"
                f"{_advice(verb, *difference)}"
            )
        if manifest["complete"]:
            self._manifest = manifest
        elif not difference and "shards" in manifest:
            self._manifest["shards"] = manifest["shards"]
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
        """Whether a shard is already there, as it was written: its bytes are those it had."""
        shard = self.path / shard_name(name, index, count)
        known = self._manifest.get("shards", {}).get(shard.name)
        return processes.current().first_decides(
            lambda: known is not None and shard.exists() and known["sha256"] == _hash_of(shard)
        )

    def write_shard(self, name: str, index: int, count: int, records: Iterable[Line]) -> int:
        """Writes one shard, whole or not at all.

        Args:
          name: what the shard is of.
          index: its number.
          count: the number of shards of that name.
          records: its lines, in order.

        Returns:
          The number of its records.
        """
        return self.write_lines(
            name, index, count, (_encoded(record.to_json()) for record in records)
        )

    def write_lines(self, name: str, index: int, count: int, lines: Iterable[bytes]) -> int:
        """Writes one shard, whole or not at all, and holds no more of it than what `lines` gives.

        Args:
          name: what the shard is of.
          index: its number.
          count: the number of shards of that name.
          lines: its lines in order, one or several in each of the bytes, with their ends.

        Returns:
          The number of its records.
        """
        shard = self.path / shard_name(name, index, count)
        digest, number = hashlib.sha256(), 0

        def passing() -> Iterator[bytes]:
            nonlocal number
            for block in lines:
                digest.update(block)
                number += block.count(b"\n")
                yield block
            directory_lock.check(self.path)

        _write_blocks(shard, passing())
        written = {"records": number, "sha256": digest.hexdigest()}
        shards = {**self._manifest.get("shards", {}), shard.name: written}
        self._manifest = {**self._manifest, "shards": dict(sorted(shards.items()))}
        write_json(self.path / MANIFEST, self._manifest)
        return number

    def finish(self, **counts: Any) -> None:
        """Marks the output complete; `counts` and other results join the manifest."""
        directory_lock.check(self.path)
        self._manifest = {**self._manifest, "complete": True, **counts}
        processes.current().first_decides(lambda: write_json(self.path / MANIFEST, self._manifest))
        self.complete = True
        if processes.current().is_first:
            self._offer()
            directory_lock.release(self.path)


def _advice(verb: str, name: str, there: Any, now: Any) -> str:
    """What else can be done about a setting that differs; empty for most."""
    if verb == "train" and name in ("train_steps", "epochs"):
        return "; docs/TRAINING.md says how to train on from its end"
    if name.rpartition(".")[2] == "chat_template" and there is None and now is not None:
        return "; CHAT_TEMPLATE=False keeps the raw text that it was made with"
    return ""


def removal(path: epath.Path) -> str:
    """The command that removes a directory."""
    return f"{'rm -r' if is_local(path) else 'gcloud storage rm -r'} {shlex.quote(str(path))}"


def _appears(file: epath.Path) -> bool:
    """Whether a file is there, or comes: a network file system may show it late."""
    deadline = time.monotonic() + _APPEARS_WITHIN_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
