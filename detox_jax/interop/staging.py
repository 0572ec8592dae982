"""Where a conversion writes: beside its place, which it takes when all went well."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax import atomic_files, directory_lock, manifests, output_settings, outputs
from detox_jax.checkpoints import model_dir, places
from detox_jax.errors import UserError
from detox_jax.vocabulary import Vocabulary


@contextlib.contextmanager
def staged(target: str, settings: Mapping[str, Any]) -> Iterator[outputs.OutputDirectory | None]:
    """A directory beside `target` that takes its name when all went well, and is else removed.

    A bucket cannot rename: there the output is written at its place, and its manifest says last
    that it is whole; what a killed run left of the same settings is removed first.

    Yields None where `target` is the finished output of the same settings.

    Raises:
      UserError: if `target` holds anything else, or its place cannot be taken: where that shows
        behind the work alone, what was written stays, and the error says where.
      InUseError: if another conversion is writing it.
    """
    in_place = not atomic_files.is_local(target)
    # Of a link what it leads to, as to a larger disk: a link is no directory that can be replaced.
    path = epath.Path(target if in_place else os.path.realpath(target))
    if is_taken(path):
        if path.is_dir() and (path / manifests.MANIFEST).exists():
            output = outputs.OutputDirectory(target, "convert", settings)
            if output.complete:
                yield None
                return
            if in_place:
                _clear(path)
                yield output
                return
        raise UserError(f"{target}: already holds something; choose another directory")
    if in_place:
        yield outputs.OutputDirectory(target, "convert", settings)
        return
    staging = path.parent / f".{path.name}.partial"
    _try_place(path, target)
    if staging.exists():
        with atomic_files.staying(staging):
            directory_lock.acquire(staging, "convert")
            staging.rmtree()
            directory_lock.release(staging)
    is_scratch = True
    try:
        output = outputs.OutputDirectory(str(staging), "convert", settings)
        yield output
        try:
            if path.exists():
                os.rmdir(path)
            os.rename(staging, path)
        except OSError as error:
            is_scratch = False
            here, there = (shlex.quote(str(place)) for place in (staging, path))
            raise UserError(
                f"{target}: its place cannot be taken: {error.strerror or error}; all is written, "
                f"and lies in {staging}: make room for it (mv {here} {there}), or move it elsewhere"
            ) from None
    except directory_lock.InUseError:
        is_scratch = False
        raise
    finally:
        if is_scratch:
            directory_lock.release(staging)
            shutil.rmtree(staging, ignore_errors=True)


def is_taken(path: epath.Path) -> bool:
    """Whether anything lies at a place; in a bucket the lock that a killed run left alone is none.

    It lapses, or its run is still at work: whoever takes it next is told.
    """
    if not path.is_dir():
        return path.exists()
    in_place = not atomic_files.is_local(path)
    return any(not (in_place and child.name == directory_lock.LOCK) for child in path.iterdir())


def check_place(target: str) -> None:
    """Refuses a directory that is a mount, such as a container's volume: none can take its place.

    Raises:
      UserError: naming one in it.
    """
    if atomic_files.is_local(target) and os.path.ismount(target):
        raise _is_held(target, "it is a mount")


def _is_held(target: str, why: str) -> UserError:
    return UserError(
        f"{target}: its place cannot be taken by another directory: {why}; give a directory in it, "
        f"such as {os.path.join(target, 'model')}"
    )


def _try_place(path: epath.Path, target: str) -> None:
    """Tries before the work whether an empty directory may leave its place, and puts it back."""
    check_place(target)
    if not path.exists():
        return
    away = path.parent / atomic_files.partial_name(path.name)
    try:
        os.rename(path, away)
        os.rename(away, path)
    except OSError as error:
        # A mount that looks like none, or a directory of another user. (A layer of a container may
        # not let a directory be renamed that it lets be removed.)
        if error.errno in (errno.EBUSY, errno.EPERM, errno.EACCES):
            raise _is_held(target, error.strerror or str(error)) from None


def already_there(target: str, source: str) -> str:
    """The line about an output that is finished.

    Args:
      target: the output.
      source: what it was converted from, in a word.
    """
    settings = manifests.read_manifest(epath.Path(target))["settings"]
    if output_settings.names_model(settings):
        return f"{target}: is already there, from the same {source}"
    return (
        f"{target}: is already there; the version that wrote it did not record of which model: if "
        f"it may be another's than this {source}'s, remove it and convert again"
    )


def require_read_alike(target: str, vocabulary: Vocabulary) -> None:
    """Refuses a finished import of the same files whose tokenizer a version before read otherwise.

    Args:
      target: the output.
      vocabulary: of the import, as this version reads it.

    Raises:
      UserError: with the command that makes way for another import.
    """
    path = epath.Path(target)
    before = model_dir.read_spec(path).vocabulary
    if before != vocabulary.fingerprint:
        raise UserError(
            f"{target}: is already there, from the same files, but the version that wrote it read "
            f"their tokenizer as {before}, this one as {vocabulary.fingerprint}; remove it "
            f"({manifests.removal(path)}) and convert again"
        )


def _clear(path: epath.Path) -> None:
    """Removes what a killed conversion left, but for its manifest, configuration and lock."""
    for child in path.iterdir():
        if child.is_dir():
            child.rmtree()
        elif child.name in (places.MODEL_FILE, places.ORIGIN_FILE):
            child.unlink()
