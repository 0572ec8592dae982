"""One writer a directory: a second run is refused while the first is at work.

On a disk the lock is the operating system's, `flock` on a file in the directory: it ends with its
process, however that ends. In a bucket, which has no locks, it is an object that only one writer
can create (a condition on its generation), who then writes it again and again; one that is no
longer written is of a run that is gone. Either says who holds it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from detox_jax.errors import Unavailable

LOCK = ".lock"
_RENEWED_EVERY_S = 20.0
LAPSES_AFTER_S = 90.0  # without a sign of life, by the clock of whoever looks
_GIVEN_BACK_WITHIN_S = 10.0  # or left to lapse: a verb that a bucket failed is not to wait for it
_BUCKET = "gs://"
# A file system that knows no locks; a run there is as safe as it was without them.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)
_held: dict[str, _Lock] = {}


class InUseError(Unavailable):
    """Another run is writing to the directory: no setting is wrong, and later it may be free."""


def acquire(directory: epath.Path, verb: str) -> None:
    """Takes the lock of a directory for this process, which may hold it already.

    Args:
      directory: that exists.
      verb: what is done there, for whoever is refused.

    Raises:
      InUseError: naming the host, the process and the start of the run that holds it.
    """
    key = _key(directory)
    if key in _held:
        return
    lock = _of_bucket(directory) if key.startswith(_BUCKET) else _DiskLock(directory)
    if lock is not None and lock.take({**_myself(verb), "place": lock.place}):
        _held[key] = lock


def check(directory: epath.Path) -> None:
    """Raises an `InUseError` where this run's lock is no longer the directory's.

    A run that was stopped for longer than a lock in a bucket lasts loses it to another; on a disk
    it goes with its directory, in whose place another run may have begun.
    """
    lock = _held.get(_key(directory))
    if lock is not None:
        _require(lock)


def _require(lock: _Lock) -> None:
    lock.look()
    if lock.lost is not None:
        raise InUseError(lock.lost)


def release(directory: epath.Path) -> None:
    """Gives the lock back, where this process holds it."""
    lock = _held.pop(_key(directory), None)
    if lock is not None:
        lock.give_back()


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Gives back at its end, in an error too, the locks that were taken inside of it.

    A process may go on for long, as a notebook's does, in which a verb has failed.

    Raises:
      Unavailable: in place of any other error, where a directory that was locked is gone: whatever
        else met its absence, such as the storage of a checkpoint, says so in words of its own.
    """
    before = {*_held}
    try:
        yield
    except Unavailable:
        raise
    except Exception:
        for key in _held.keys() - before:
            _require(_held[key])
        raise
    finally:
        for key in _held.keys() - before:
            _held.pop(key).give_back()


def removed(directory: object) -> str:
    """The error of a run whose directory goes while it writes."""
    return f"{directory}: was removed while it was being written; run the same command again"


def _key(directory: epath.Path) -> str:
    text = str(directory)
    return text.rstrip("/") if "://" in text else str(Path(text).resolve())


def _of_bucket(directory: epath.Path) -> _Lock | None:
    try:
        return _BucketLock(str(directory))
    except ImportError:  # google-cloud-storage, which the checkpoints there need too, says so
        return None


def _myself(verb: str) -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "verb": verb,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": started,
        "boot": _boot(),
        "namespace": _namespace(),
        "began": _began(os.getpid()),
    }


def _boot() -> str:
    """What tells this start of the machine from any other; empty where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int | None:
    """In which numbers of processes this one's stands, as a container has its own; None if unknown.

    The number of a namespace that is gone may come again; the processes of the first are then gone
    too.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc of another namespace
            return None
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _began(process: int) -> int | None:
    """When a process began, in ticks since the machine did: a later one of its number differs.

    Returns:
      The ticks; 0 of one that has ended and is not waited for yet, None where nothing says so.
    """
    try:
        # Behind its name, which may hold anything: fields 3 and on of proc(5).
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _in_use(directory: object, holder: dict[str, Any]) -> str:
    return (
        f"{directory}: in use by `{holder.get('verb', '?')}` on host {holder.get('host', '?')}, "
        f"process {holder.get('process', '?')}, since {holder.get('started', '?')}; wait for it or "
        "stop it, or choose another directory"
    )


def _read(text: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


class _Lock:
    """A lock that this process holds, or tries to.

    Attributes:
      place: of the directory, the same however it is spelt: a lock that was copied with what lies
        beside it names another.
      lost: the error, once it is gone or another run has taken it; None while it is not.
    """

    place: str
    lost: str | None = None

    def take(self, myself: dict[str, Any]) -> bool:
        """Whether it is taken; False where there is nothing to lock with."""
        raise NotImplementedError

    def look(self) -> None:
        """Sets `lost` where that shows only when one looks."""

    def give_back(self) -> None:
        """Ends it."""
        raise NotImplementedError


class _DiskLock(_Lock):
    def __init__(self, directory: epath.Path):
        self._directory = directory
        self._path = Path(directory) / LOCK
        self.place = str(Path(directory).resolve())
        self._descriptor = -1

    def take(self, myself: dict[str, Any]) -> bool:
        import fcntl

        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _read(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    print(
                        f"{self._directory}: cannot be locked; start no second run there",
                        file=sys.stderr,
                    )
                    return False
                if not isinstance(error, BlockingIOError):
                    raise
                raise InUseError(_in_use(self._directory, holder)) from None
            if self._is_at_its_place(descriptor):
                break
            os.close(descriptor)  # Its holder has removed it since it was opened.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(myself).encode(), 0)
        self._descriptor = descriptor
        return True

    def look(self) -> None:
        if not self._is_at_its_place(self._descriptor):
            self.lost = removed(self._directory)

    def _is_at_its_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def give_back(self) -> None:
        with contextlib.suppress(OSError):  # The directory may be gone, or moved.
            if self._is_at_its_place(self._descriptor):
                self._path.unlink()
        os.close(self._descriptor)


class _BucketLock(_Lock):
    """See the module; the object is deleted at the end."""

    def __init__(self, directory: str):
        from google.cloud import storage

        bucket, _, folder = directory.removeprefix(_BUCKET).partition("/")
        name = "/".join(part for part in (folder.strip("/"), LOCK) if part)
        self._directory = directory
        self.place = f"{_BUCKET}{bucket}/{name.removesuffix(LOCK)}"
        self._blob = storage.Client().bucket(bucket).blob(name)
        self._generation: int | None = None
        self._is_known = False  # whether that is of the last write
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._content = b""

    def take(self, myself: dict[str, Any]) -> bool:
        self._content = json.dumps(myself).encode()
        seen: int | None = None
        deadline = 0.0
        while not self._write(if_generation=0):
            generation, content = self._look()
            if generation is None:
                continue  # given back since
            holder = _read(content)
            # Nobody writes a copy of another directory's, whose run may well be at work there.
            is_copied = holder.get("place", self.place) != self.place
            alive = False if is_copied else _is_alive(holder)
            # Written while we looked on: its run is alive, wherever it is.
            if alive or (seen is not None and generation != seen):
                raise InUseError(_in_use(self._directory, holder))
            if seen is None:
                seen, deadline = generation, time.monotonic() + LAPSES_AFTER_S
            if alive is False or time.monotonic() > deadline:
                print(
                    f"{self._directory}: the lock of a run that is gone is taken over",
                    file=sys.stderr,
                )
                self._delete(generation)
                continue
            time.sleep(1.0)
        self._renewing.start()
        return True

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED_EVERY_S):
            # An outage is not the end of a lock: whoever takes it over says so in its object.
            with contextlib.suppress(Exception):
                if self._write(if_generation=self._generation) or self._ended.is_set():
                    continue
                generation, content = self._look()
                if generation is None:
                    self.lost = removed(self._directory)
                else:
                    self.lost = _in_use(self._directory, _read(content))
                return
        # Behind the last write: that is another generation, and an unknown one without an answer.
        with contextlib.suppress(Exception):  # It lapses by itself.
            if self._is_known:
                self._delete(self._generation)
                return
            generation, content = self._look()
            if content == self._content:
                self._delete(generation)

    def _write(self, if_generation: int | None) -> bool:
        """Whether the object is written; False where it is another one."""
        from google.api_core.exceptions import PreconditionFailed

        self._is_known = False
        try:
            self._blob.upload_from_string(self._content, if_generation_match=if_generation)
        except PreconditionFailed:
            # A request whose answer was lost is sent again, and then meets its own object.
            generation, content = self._look()
            if content != self._content:
                return False
        else:
            generation = self._blob.generation
        self._generation, self._is_known = generation, True
        return True

    def _look(self) -> tuple[int | None, bytes]:
        """The generation of the object, None where there is none, and what it holds."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        while True:
            try:
                self._blob.reload()
                generation = self._blob.generation
                return generation, self._blob.download_as_bytes(if_generation_match=generation)
            except NotFound:
                return None, b""
            except PreconditionFailed:
                continue  # written again in between

    def _delete(self, generation: int | None) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with contextlib.suppress(NotFound, PreconditionFailed):
            self._blob.delete(if_generation_match=generation)

    def give_back(self) -> None:
        self._ended.set()
        self._renewing.join(_GIVEN_BACK_WITHIN_S)


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process runs, where its number is one of this process' own namespace.

    None of any other, of which only time tells: two machines may have one name, and two containers
    of one machine the same numbers. So of this process, which no longer has the lock that it left.
    """
    here = (socket.gethostname(), _boot(), _namespace())
    if (holder.get("host"), holder.get("boot"), holder.get("namespace")) != here or not all(here):
        return None
    process, began = holder.get("process"), holder.get("began")
    if not isinstance(process, int) or not isinstance(began, int) or process <= 0:
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, which runs
    except OverflowError:
        return None
    now = _began(process)
    if now is None or (now == began and process == os.getpid()):
        return None
    return now == began
