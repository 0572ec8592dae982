"""What ends a verb without being a fault of the program: a mistake, or the world around it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Of the operating system: the storage fails, not the program, and no file name is at fault.
_STORAGE_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC EDQUOT EIO EROFS ESTALE EFBIG ETIMEDOUT ENETDOWN ENETUNREACH EHOSTDOWN"
        " EHOSTUNREACH ECONNRESET ECONNREFUSED ECONNABORTED EREMOTEIO"
    ).split()
    if hasattr(errno, name)
)
# As tensorstore, TensorFlow and Google's clients name the same, in errors of every class.
_STORAGE_WORDS = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in sorted(_STORAGE_ERRORS))
    + r"|\b(RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED|PERMISSION_DENIED)\b"
)


# Of TensorFlow, which reads what lies in a bucket and tells by the class what fails; Aborted is
# what is left of tries without an answer.
_NO_ANSWER = frozenset({"UnavailableError", "AbortedError", "DeadlineExceededError"})
# Of the HTTP libraries that downloads are made with; the others are of what was asked for.
_OF_NETWORK = frozenset(
    "TransportError ConnectionError Timeout ChunkedEncodingError URLError gaierror"
    " DownloadError".split()
)
_OF_AN_ADDRESS = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidProxyURL"})
# Statuses of a server that may answer otherwise a little later, beside its faults, 500 and more.
TRY_AGAIN = (408, 425, 429)


# How JAX refuses what a variable of the environment says, while it is imported.
_OF_JAX = re.compile(
    r"""invalid truth value '(.*)' for environment '(JAX_\w+)'"""
    r"""|Invalid value "(.*)" for JAX flag (jax_\w+)"""
)
# What gin appends to an error that passes through a call of its own, once for each.
IN_CALL = "\n  In call to configurable"
_TRANSLATED = re.compile(r'File "([^"\n]+)", line (\d+), in ')
_MADE = "__autograph_generated_file"


class UserError(ValueError):
    """A mistake in a file, a flag or a setting; `cli` prints it as one line and exits with 2.

    The message names the file, line or flag at fault and says what to do.
    """


class Unavailable(RuntimeError):
    """Network, peers or storage fail; `cli` prints it as one line and exits with 1.

    No setting is wrong: the same command may go on, at once or when what fails is mended.
    """


def storage_trouble(error: BaseException | None) -> str | None:
    """What fails, in a few words, where an error is the storage's or the network's; else None.

    A missing or damaged file is neither: it stays missing.
    """
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return error.strerror or str(error)
    if isinstance(error, UserError | Unavailable | MemoryError):
        return None
    if error is not None and has_no_answer(error):
        return in_one_line(error)
    found = _STORAGE_WORDS.search(str(error))
    # XLA says RESOURCE_EXHAUSTED of a device's memory, which no disk mends.
    if found is None or "memory" in str(error)[:2000].lower() or peers_are_late(error):
        return None
    return found.group()


def has_no_answer(error: BaseException) -> bool:
    """Whether TensorFlow says that a bucket does not answer, which is no OSError."""
    kind = type(error)
    return kind.__module__.startswith("tensorflow.") and kind.__name__ in _NO_ANSWER


def network_trouble(error: BaseException) -> str | None:
    """What fails where network, server or storage are at fault for a download; else None."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return in_one_line(error) if status >= 500 or status in TRY_AGAIN else None
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _OF_NETWORK and not names & _OF_AN_ADDRESS:
        return in_one_line(error)
    return storage_trouble(error)


def unread(place: Any, error: BaseException) -> Unavailable | None:
    """What a failed read is where the storage is at fault, and not what was read; else None.

    Args:
      place: the file or directory.
      error: what was raised.
    """
    reason = storage_trouble(error)
    if reason is None:
        return None
    return Unavailable(
        f"{place}: cannot be read: {reason}; mend it, then run the same command again"
    )


def takes_no_files(error: BaseException | None) -> bool:
    """Whether a place is not to be written to, however often: it is read-only, or another's."""
    is_read_only = isinstance(error, OSError) and error.errno == errno.EROFS
    return is_read_only or storage_trouble(error) is None


def peers_are_late(error: BaseException | None) -> bool:
    """Whether the processes of a run on CPUs did not find each other within Gloo's 30 seconds."""
    return bool(re.search(r"\bGloo\b.*DEADLINE_EXCEEDED", str(error), re.DOTALL))


def no_access(error: BaseException | None) -> bool:
    """Whether a storage's client says that the account lacks a role, or that there is none."""
    named = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError", "Forbidden")
    return named or bool(re.search(r"\b(PERMISSION_DENIED|UNAUTHENTICATED)\b", str(error)))


def is_of_storage(error: BaseException) -> bool:
    """Whether the storage or the network is at fault for an error, and not what was read."""
    found = isinstance(error, Unavailable) or storage_trouble(error) is not None
    return found or no_access(error)


def of_environment(error: BaseException) -> UserError | None:
    """The mistake in a variable that JAX reads, where an error is about one.

    It arises wherever JAX is imported first, such as in a gin file, which is not at fault.
    """
    found = _OF_JAX.search(str(error))
    if found is None or isinstance(error, UserError | Unavailable):
        return None
    value, name = found.group(1, 2) if found[2] else found.group(3, 4)
    return UserError(
        f"the environment variable {name.upper()} is {value!r}, which JAX does not take; unset it, "
        "or give it a value that JAX's documentation names"
    )


def out_of_memory(error: BaseException, less: str | None = None) -> UserError | None:
    """What is said where the memory of a device or of the host does not suffice; else None.

    Args:
      error: what was raised.
      less: what takes less, where the settings of what ran are known.
    """
    if isinstance(error, UserError | Unavailable):
        return None
    said = in_one_line(error)
    of_device = "RESOURCE_EXHAUSTED" in said and "memory" in said.lower()
    if not of_device and not isinstance(error, MemoryError):
        return None
    less = less or "lower BATCH_SIZE, or raise ACCUMULATION_STEPS of a training"
    return UserError(f"out of memory ({said}); {less} (docs/PARALLELISM.md)")


def lacks_role(error: BaseException | None) -> bool:
    """Whether no rerun helps: the account is known, and lacks a role.

    Without one, as where a token has run out, the next process may well have another.
    """
    return no_access(error) and "nauthenticated" not in f"{type(error).__name__} {error}".lower()


def shortened(text: str, most: int) -> str:
    """The text, or its first `most` characters and an ellipsis: a message stays a line."""
    return text if len(text) <= most else f"{text[:most]}…"


def without_role(error: BaseException | None) -> str:
    """What a client says of a role that is missing, and where the roles are named."""
    said = in_one_line(error) if error is not None else ""
    return f"no access to the storage: {said}; docs/TPU.md names the roles"


def in_one_line(error: BaseException) -> str:
    """What a library's error says, which may be several lines, or many; without gin's calls."""
    return as_one_line(str(error).split(IN_CALL)[0] or repr(error).split(IN_CALL)[0], 300)


def as_one_line(text: str, most: int) -> str:
    """Text that a file brings, for a message: its first `most` characters, without line breaks."""
    return shortened(" ".join(text.split()), most)


def own_line(error: BaseException) -> str | None:
    """`my_tasks.py, line 6`: where in a user's own code an error arose; None where in none."""
    import sysconfig  # where something failed alone: not for every start

    # Whose lines say nothing to the author of a module: Python's, packages', this project's.
    root = Path(__file__).parent
    places = [sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")]
    not_theirs = tuple(
        f"{os.path.realpath(place)}{os.sep}" for place in (*places, root, root.parent / "tasks")
    )
    frames = [
        (frame.f_code.co_filename, str(number))
        for frame, number in traceback.walk_tb(error.__traceback__)
    ]
    # TensorFlow runs a translation of what a data set maps, and tells in words what it is of.
    for file, number in reversed([*frames, *_TRANSLATED.findall(str(error))]):
        real = os.path.realpath(file)
        # What has no file is Python's own, or made at run time.
        if os.path.isfile(file) and _MADE not in file and not real.startswith(not_theirs):
            return f"{real.removeprefix(os.getcwd() + os.sep)}, line {number}"
    return None


@contextlib.contextmanager
def writing(path: Any) -> Iterator[None]:
    """Turns the storage's errors into one line that names what was being written.

    Args:
      path: the file or directory.

    Raises:
      UserError: where the account lacks a role.
      Unavailable: where the storage or the way to it fails.
    """
    try:
        yield
    except Exception as error:  # every client of a storage has errors of its own
        if lacks_role(error):
            raise UserError(f"{path}: cannot be written: {without_role(error)}") from error
        reason = storage_trouble(error)
        if reason is None:
            raise
        raise Unavailable(
            f"{path}: cannot be written: {reason}; what was finished before is kept: make room "
            "or mend the storage, then run the same command again"
        ) from error


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean NAME?`, or nothing where no name is near, whatever its case."""
    near = nearest(name, known)
    return f"; did you mean {prefix}{near}?" if near is not None else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that is most like another, whatever its case; None where none is near."""
    by_case = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.7)
    return by_case[near[0]] if near else None
