"""Copies of models' directories that lie in a bucket: safetensors are mapped from a disk.

A file is copied once for each of its generations, into the user's cache directory, and never
changed there; a directory of links shows those of one time together:

    ~/.cache/detox-jax/models/DIGEST OF THE PLACE-NAME/GENERATION.model.safetensors
    ~/.cache/detox-jax/models/DIGEST OF THE PLACE-NAME/DIGEST OF ALL/model.safetensors

All of it may be removed while nothing runs.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from etils import epath

from detox_jax import atomic_files, terminal, user_cache
from detox_jax.errors import Unavailable, UserError, in_one_line, no_access, without_role

_BUCKET = "gs://"


def local(directory: epath.Path, patterns: Collection[str]) -> epath.Path:
    """The directory itself, or of one in a bucket a copy on this machine's disk.

    Args:
      directory: of a model.
      patterns: of the names of its files; others are not copied, nor what lies deeper.

    Raises:
      UserError: for another object store, or a directory without such files.
      Unavailable: where the storage fails, or files change meanwhile.
    """
    if atomic_files.is_local(directory):
        return directory
    if not str(directory).startswith(_BUCKET):
        raise UserError(f"{directory}: models are read from a disk or from {_BUCKET}; copy it")
    with _reading(directory):
        listed = _blobs(str(directory))
    blobs = {
        name: blob
        for name, blob in listed.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not blobs:
        raise UserError(f"{directory}: holds no file of a model ({', '.join(patterns)})")
    place = (
        user_cache.directory("models") / f"{_digest(str(directory).rstrip('/'))}-{directory.name}"
    )
    together = _digest(*(f"{blob.generation} {name}" for name, blob in sorted(blobs.items())))
    shown = place / together
    kept = {name: place / _kept(name, blob) for name, blob in blobs.items()}
    if not (shown.is_dir() and all(_is_whole(kept[name], blobs[name]) for name in blobs)):
        place.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place)
        with terminal.stage(f"copy {directory}"), _reading(directory):
            for name, blob in blobs.items():
                _fetch(blob, kept[name])
        _link({name: file.name for name, file in kept.items()}, shown)
        print(f"{directory}: copied to {shown}")
    return epath.Path(shown)


def _blobs(directory: str) -> dict[str, Any]:
    """The objects right in a directory, by name."""
    from google.cloud import storage

    bucket, _, folder = directory.removeprefix(_BUCKET).partition("/")
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    listed = storage.Client().list_blobs(bucket, prefix=prefix, delimiter="/")
    found = {blob.name.removeprefix(prefix): blob for blob in listed}
    found.pop("", None)  # what stands for the directory
    return found


@contextlib.contextmanager
def _reading(directory: epath.Path) -> Iterator[None]:
    """Says in one line what Google's client meets."""
    from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed

    try:
        yield
    except (NotFound, PreconditionFailed):
        raise Unavailable(
            f"{directory}: was written anew while it was copied; run the same command again"
        ) from None
    except GoogleAPIError as error:
        if no_access(error):
            raise UserError(f"{directory}: cannot be read: {without_role(error)}") from error
        raise Unavailable(
            f"{directory}: cannot be read: {in_one_line(error)}; run the same command again"
        ) from error


def _fetch(blob: Any, file: Path) -> None:
    """Copies an object, of the generation that was listed, unless it is there."""
    if _is_whole(file, blob):
        return
    partial = file.parent / atomic_files.partial_name(file.name)
    try:
        with partial.open("wb") as stream:
            _locks(stream)  # as long as it is open: else it is a leftover
            blob.download_to_file(stream, if_generation_match=blob.generation)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _is_whole(file: Path, blob: Any) -> bool:
    """Whether a copy is there; an earlier version's may have been cut by a power cut."""
    # What is stored packed is unpacked on the way, and has another size.
    return file.exists() and (bool(blob.content_encoding) or file.stat().st_size == blob.size)


def _remove_leftovers(place: Path) -> None:
    """Removes what killed processes were copying, and not what others copy now."""
    for partial in place.glob("*.partial"):
        if atomic_files.is_partial(partial.name) and partial.is_file():
            with contextlib.suppress(FileNotFoundError), partial.open("rb+") as stream:
                if _locks(stream):
                    partial.unlink()


def _locks(stream: IO[bytes]) -> bool:
    """Whether a file that is open is locked now, until it is closed."""
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system knows no locks
        return False
    return True


def _link(files: dict[str, str], directory: Path) -> None:
    """A directory in which each file has its name; another process may make the same one."""
    partial = directory.parent / atomic_files.partial_name(directory.name)
    partial.mkdir()
    try:
        for name, kept in files.items():
            (partial / name).symlink_to(Path("..") / kept)
        if not directory.is_dir():
            partial.replace(directory)
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _kept(name: str, blob: Any) -> str:
    return f"{blob.generation}.{name}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
