"""What a verb leaves behind: a directory that is opened with settings and closed with a manifest.

A verb opens its `OutputDirectory` with the settings that decide what it writes; that is where the
promise is kept that a rerun skips what is complete, redoes what is half-written and refuses to mix
two configurations. Paths may be local or `gs://` (through `etils.epath`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pprint
import shutil
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from etils import epath
from gin import config as gin_config

from detox_jax import atomic_files, directory_lock, manifests, output_settings, shared_steps
from detox_jax.errors import (
    Unavailable,
    UserError,
    as_one_line,
    shortened,
    storage_trouble,
    takes_no_files,
)
from detox_jax.parallel import processes

CONFIG = "config.gin"
TIMES_FILE = "times.json"  # how long each step took, in all runs of it that nobody killed
_KEPT = (manifests.MANIFEST, CONFIG, directory_lock.LOCK)  # where another run's files are put
_HALF_TAKEN = "is_half_taken"  # in the manifest meanwhile
_APPEARS_WITHIN_S = 10.0
_SHOWN = 100  # characters of a setting in an error
_SHOWN_NAME = 300  # and of its name

# Whether settings may take the place of those there, `(there, now)`, without notes.
Replaces = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


def config_text() -> str:
    """The configuration as `config.gin` has it: each dict in the order in which it was given.

    The first of JUDGES is another scorer than the last, and `gin.config_str` sorts them.
    """
    printer = gin_config.pprint
    in_order = functools.partial(pprint.pformat, sort_dicts=False)
    gin_config.pprint = types.SimpleNamespace(pformat=in_order)  # type: ignore
    try:
        return gin.config_str()
    finally:
        gin_config.pprint = printer


@dataclasses.dataclass(frozen=True)
class Parts:
    """Of what an output has a file each, which nothing else of its settings' list decides.

    Attributes:
      setting: that lists them: names, or what decides each by its name.
      file_of: the name of the file of each.
    """

    setting: str
    file_of: Callable[[str], str]


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
      parts: of a verb whose output has a file for each of a list of things, such as tasks: a run
        that lists more of them than an earlier one goes on with its output, finished or not.
      replaces: which other settings are not refused.
      made: globs of what the verb writes there, which is removed where other settings have left it;
        whatever else lies there is nobody's to remove.

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
        parts: Parts | None = None,
        replaces: Replaces | None = None,
        made: Sequence[str] = (),
    ):
        self.path = epath.Path(directory)
        self._made = made
        self._parts = parts
        self._replaces = replaces
        self._has_results = has_results
        self._shards_of: dict[str, int] = {}  # how many, by what they are of
        self._manifest = {
            "schema_version": output_settings.SCHEMA_VERSION,
            "verb": verb,
            "complete": False,
            "settings": json.loads(json.dumps(settings, sort_keys=True)),
            "versions": manifests.versions(),
        }
        run = processes.current()
        run.agree(
            {"settings": output_settings.without_notes(self._manifest["settings"])},
            "all processes need the same command and the same data",
        )
        self.is_taken_over = False
        self._is_half_taken = False
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
            if self._is_half_taken:  # Half of a step is no step to go on from.
                shared_steps.clear(self.path, _KEPT)
            elif self._made:
                self._remove_replaced()
            atomic_files.write_json(self.path / manifests.MANIFEST, self._manifest)
            atomic_files.write_bytes(self.path / CONFIG, config_text().encode())
            if self._take_over():
                return True, self._manifest
        except directory_lock.InUseError:
            raise
        except (OSError, Unavailable) as error:
            cause = error.__cause__ if isinstance(error, Unavailable) else error
            if takes_no_files(cause):
                reason = getattr(cause, "strerror", None) or cause
                raise UserError(f"{self.path}: cannot be written: {reason}") from None
            raise Unavailable(f"{self.path}: cannot be written: {storage_trouble(cause)}") from None
        return False, self._manifest

    def _is_finished(self) -> tuple[bool, dict[str, Any]]:
        print(f"nothing to do: {self.path} is finished")
        return True, self._manifest

    def _offer(self) -> None:
        """Says to other runs that this is finished; of two that are alike, the first is the one."""
        mark = _mark_of(self._manifest)
        if mark is not None and shared_steps.finished_elsewhere(mark, self.path) is None:
            mark.parent.mkdir(parents=True, exist_ok=True)
            place = {"output_dir": shared_steps.absolute(self.path)}
            atomic_files.write_json(mark, place, in_output=False)

    def _remove_replaced(self) -> None:
        """Removes what other settings have left, which is no longer finished from then on."""
        if not (self.path / manifests.MANIFEST).exists():
            return
        there = manifests.read_manifest(self.path)
        if output_settings.difference(there, self._manifest) is None:
            return
        atomic_files.write_json(self.path / manifests.MANIFEST, {**there, "complete": False})
        for name in self._made:
            # A name without a pattern is asked for itself: in a bucket that is one request.
            for path in self.path.glob(name) if "*" in name else [self.path / name]:
                path.unlink(missing_ok=True)

    def _take_over(self) -> bool:
        """Whether another run has finished the same, which is then here too (`shared_steps`)."""
        there = shared_steps.finished_elsewhere(_mark_of(self._manifest), self.path)
        if there is None or not (there / manifests.MANIFEST).exists():
            return False
        manifest = manifests.read_manifest(there)
        if not manifest["complete"] or output_settings.difference(manifest, self._manifest):
            return False
        begun = {**self._manifest, _HALF_TAKEN: True}
        atomic_files.write_json(self.path / manifests.MANIFEST, begun)
        shared_steps.take_over(there, self.path, _KEPT)
        # What it says of places is of this run's.
        self._manifest = {**manifest, "settings": self._manifest["settings"]}
        atomic_files.write_json(self.path / manifests.MANIFEST, self._manifest)
        directory_lock.release(self.path)
        print(f"{self.path}: taken over from {there}")
        self.is_taken_over = True
        return True

    def _check_shared(self) -> None:
        """Refuses a directory that is not the same one on every host; a bucket is by its name."""
        run = processes.current()
        if not run.several or not atomic_files.is_local(self.path):
            return
        # Not the manifest, which an earlier run may have left on every host's own disk. Named as
        # what the next run removes where this one is killed before it does.
        token = self.path / run.first_decides(lambda: atomic_files.partial_name("shared"))
        run.first_decides(lambda: atomic_files.write_bytes(token, b""))
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
        there = _manifest_there(self.path, verb)
        self._is_half_taken = there is not None and _HALF_TAKEN in there
        if there is None:
            return False
        agreed = _agreed(
            self.path, there, self._manifest, self._has_results, self._parts, self._replaces
        )
        if agreed is None:
            return False
        if agreed:
            self._manifest = there
        elif "shards" in there:
            self._manifest["shards"] = there["shards"]
        return agreed

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands."""
        return self._manifest

    def has_shard(self, name: str, index: int, count: int) -> bool:
        """Whether a shard is already there, as it was written: its bytes are those it had."""
        self._shards_of[name] = count
        shard = self.path / manifests.shard_name(name, index, count)
        known = self._manifest.get("shards", {}).get(shard.name)
        return processes.current().first_decides(
            lambda: (
                known is not None and shard.exists() and known["sha256"] == manifests.hash_of(shard)
            )
        )

    def write_shard(
        self, name: str, index: int, count: int, records: Iterable[atomic_files.Line]
    ) -> int:
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
            name, index, count, (atomic_files.encoded(record.to_json()) for record in records)
        )

    def write_lines(
        self, name: str, index: int, count: int, lines: Iterable[bytes], noted: bool = True
    ) -> int:
        """Writes one shard, whole or not at all, and holds no more of it than what `lines` gives.

        Args:
          name: what the shard is of.
          index: its number.
          count: the number of shards of that name.
          lines: its lines in order, one or several in each of the bytes, with their ends.
          noted: whether the manifest names it at once, for a rerun that asks `has_shard`; else it
            does when the next that is noted, or the output, is finished.

        Returns:
          The number of its records.
        """
        self._shards_of[name] = count
        shard = self.path / manifests.shard_name(name, index, count)
        digest, number = hashlib.sha256(), 0

        def passing() -> Iterator[bytes]:
            nonlocal number
            for block in lines:
                digest.update(block)
                number += block.count(b"\n")
                yield block
            directory_lock.check(self.path)

        atomic_files.write_blocks(shard, passing())
        written = {"records": number, "sha256": digest.hexdigest()}
        shards = {**self._manifest.get("shards", {}), shard.name: written}
        self._manifest = {**self._manifest, "shards": dict(sorted(shards.items()))}
        if noted:
            atomic_files.write_json(self.path / manifests.MANIFEST, self._manifest)
        return number

    def finish(self, **counts: Any) -> None:
        """Marks the output complete; `counts` and other results join the manifest.

        Shards that an earlier version has cut in another number go: of the two sets neither would
        be read.
        """
        directory_lock.check(self.path)
        others = [*filter(self._is_cut_otherwise, self._manifest.get("shards", {}))]
        self._manifest = {**self._manifest, "complete": True, **counts}
        for name in others:
            del self._manifest["shards"][name]

        def write() -> None:
            for name in others:
                (self.path / name).unlink(missing_ok=True)
            atomic_files.write_json(self.path / manifests.MANIFEST, self._manifest)

        processes.current().first_decides(write)
        self.complete = True
        if processes.current().is_first:
            self._offer()
            directory_lock.release(self.path)

    def _is_cut_otherwise(self, shard: str) -> bool:
        found = manifests.SHARD.match(shard)
        if found is None:
            return False
        count = int(found["count"])
        return self._shards_of.get(found["name"], count) != count


def check(
    directory: str,
    verb: str,
    settings: Callable[[], Mapping[str, Any] | output_settings.NotYet],
    has_results: Callable[[], bool] | None = None,
    parts: Parts | None = None,
    replaces: Replaces | None = None,
) -> bool:
    """Refuses before any work what `OutputDirectory` would refuse of what is there.

    Args:
      directory: the place.
      verb: whose output it is to be.
      settings: gives what is going to decide it, with `output_settings.NotYet` for what is not
        known; it is asked where there is something to compare with.
      has_results: see `OutputDirectory`.
      parts: see `OutputDirectory`.
      replaces: see `OutputDirectory`.

    Returns:
      Whether a finished one is there, as `preview.is_done`, and stays.

    Raises:
      UserError: see `OutputDirectory`.
    """
    path = epath.Path(directory)
    # Each further question about a place in a bucket is a request.
    if not atomic_files.is_local(path) and not (path / manifests.MANIFEST).exists():
        return False
    there = _manifest_there(path, verb)
    if there is None:
        return False
    # Of an older version's, which named less, the verb itself says what differs.
    if there.get("schema_version") == output_settings.SCHEMA_VERSION:
        with output_settings.ahead():
            known = output_settings.as_far_as_known(settings(), there["settings"])
        now = {"verb": verb, "settings": json.loads(json.dumps(known, sort_keys=True))}
        if _agreed(path, there, now, has_results, parts, replaces) is None:
            return False
    return there["complete"]


def is_finished(
    directory: str, verb: str, settings: Callable[[], Mapping[str, Any] | output_settings.NotYet]
) -> bool:
    """Whether a finished output is there and stays, as a verb asks before it loads a model.

    What the settings leave open, or differs, is for the `OutputDirectory` that the verb then opens.

    Args:
      directory: the place.
      verb: whose output it is.
      settings: as `check` takes them; asked where a finished output is there.
    """
    path = epath.Path(directory)

    def is_there() -> bool:
        if not (path / manifests.MANIFEST).exists():
            return False
        with contextlib.suppress(UserError, LookupError):
            there = manifests.read_manifest(path)
            version = there.get("schema_version")
            if there["complete"] and version == output_settings.SCHEMA_VERSION:
                with output_settings.ahead():
                    known = output_settings.if_undamaged(settings())
                now = {"verb": verb, "settings": json.loads(json.dumps(known, sort_keys=True))}
                is_same = there["verb"] == verb and not output_settings.difference(there, now)
                # A run that shares its steps says so to others where it opens the output.
                return is_same and _mark_of(there) is None
        return False

    found: list[bool] = []
    run = processes.current()
    run.first_does(lambda: found.append(is_there()))
    if found == [True]:
        print(f"nothing to do: {path} is finished")
    return run.first_decides(lambda: found == [True])


def _mark_of(manifest: Mapping[str, Any]) -> epath.Path | None:
    """See `shared_steps.mark_of`."""
    settings = output_settings.without_notes(manifest["settings"])
    return shared_steps.mark_of(manifest["verb"], settings)


def _manifest_there(path: epath.Path, verb: str) -> dict[str, Any] | None:
    """The manifest of what a verb wrote; refuses what another has written."""
    if not path.exists():
        return None
    if not path.is_dir():
        raise UserError(f"{path}: is a file; give a directory to write to")
    if not (path / manifests.MANIFEST).exists():
        if any(path.glob("*.jsonl")) or any(path.glob("results.json")):
            raise UserError(f"{path}: holds files that this verb did not write; choose another")
        return None
    manifest = manifests.read_manifest(path)
    if manifest["verb"] != verb:
        there = as_one_line(manifest["verb"], _SHOWN)
        raise UserError(f"{path}: holds the output of `{there}`; choose another")
    return manifest


def _agreed(
    path: epath.Path,
    there: Mapping[str, Any],
    now: Mapping[str, Any],
    has_results: Callable[[], bool] | None,
    parts: Parts | None,
    replaces: Replaces | None,
) -> bool | None:
    """Whether an output is finished; None of one that other settings may replace. Else refuses."""
    difference = output_settings.difference(there, now)
    is_complete = there["complete"]
    if difference and replaces is not None:
        settings = (output_settings.without_notes(of["settings"]) for of in (there, now))
        if replaces(*settings):
            return None
    if difference and not is_complete and not (has_results() if has_results else _has_files(path)):
        return None
    if difference and parts:  # Without one in its parts it is gone on with.
        is_complete = False
        difference = output_settings.difference_of_parts(
            parts.setting, there, now, lambda name: (path / parts.file_of(name)).exists()
        )
    if difference:
        name, *values = difference
        before, after = _told_apart(*map(repr, values))
        raise UserError(
            f"{path}: holds output made with other settings "
            f"({as_one_line(name, _SHOWN_NAME)}: {before} there, {after} now); remove this "
            f"directory alone ({manifests.removal(path)}), or choose another; outputs beside it "
            f"are kept{_advice(there['verb'], *difference)}"
        )
    return is_complete


def _told_apart(before: str, after: str) -> tuple[str, str]:
    """Two values' first characters, or those where they begin to differ, if that is later."""
    alike = len(os.path.commonprefix([before, after]))
    start = 0 if alike < _SHOWN else alike - _SHOWN // 4
    mark = "…" if start else ""
    shown = [mark + shortened(value[start:], _SHOWN) for value in (before, after)]
    return shown[0], shown[1]


def _has_files(path: epath.Path) -> bool:
    return any(
        file.name not in (manifests.MANIFEST, CONFIG) and not file.name.startswith(".")
        for file in path.iterdir()
    )


def remove_partial_files(directory: epath.Path) -> None:
    """Removes what a killed run was writing, files and scratch directories.

    Only who holds the directory's lock may.
    """
    if not atomic_files.is_local(directory):
        return
    marks = {manifests.MANIFEST, directory_lock.LOCK}  # of an output
    for place, folders, files in os.walk(directory):
        if place != str(directory) and not marks.isdisjoint(files):  # another's
            folders.clear()
            continue
        for name in filter(atomic_files.is_partial, files):
            (Path(place) / name).unlink(missing_ok=True)
        for path in [Path(place) / name for name in filter(atomic_files.is_partial, folders)]:
            if not any((path / mark).exists() for mark in marks):
                shutil.rmtree(path, ignore_errors=True)


def _advice(verb: str, name: str, there: Any, now: Any) -> str:
    """What else can be done about a setting that differs; empty for most."""
    if verb == "train" and name in ("train_steps", "epochs"):
        return "; docs/TRAINING.md says how to train on from its end"
    if name == output_settings.RESULTS_ORDER:
        return "; it is that of JUDGES, which a config.gin of before has lost"
    if verb == "evaluate":
        return "; of this one perplexity-*.json and continuation_perplexity-*.json may stay in it"
    if name.rpartition(".")[2] == "chat_template" and there is None and now is not None:
        return "; CHAT_TEMPLATE=False keeps the raw text that it was made with"
    return ""


def _appears(file: epath.Path) -> bool:
    """Whether a file is there, or comes: a network file system may show it late."""
    deadline = time.monotonic() + _APPEARS_WITHIN_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
