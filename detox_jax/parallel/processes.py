"""The processes of one run: which one this is, what process 0 decides, what all must agree on.

One process is the usual case, and everything here is then free. With several, all run the same
program: they compute together, process 0 alone writes what is not sharded, and whatever depends on
files that a run changes is decided by process 0 and told to the others, so that none goes another
way. The words go through the key-value store of `jax.distributed`; no device takes part, so that
verbs which need none leave them alone. `parallel.distributed` calls `join`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from detox_jax.errors import Unavailable, UserError

_Result = TypeVar("_Result")


class PeerError(Unavailable):
    """Another process stayed away, died or failed; one line, and the same command may go on."""


class Store(Protocol):
    """Keys and values that all processes see."""

    def set(self, key: str, value: str) -> None:
        """Keeps a value; a key is set once."""
        ...

    def get(self, key: str) -> str:
        """A key's value; waits until it is there."""
        ...


class Processes:
    """The processes of a run, seen from one of them.

    `first_decides`, `gather` and `agree` are called by all processes, in the same order.

    Attributes:
      hosts: names of the machines, by process.
      index: which of them this is.
    """

    def __init__(self, index: int = 0, hosts: Sequence[str] = ("",), store: Store | None = None):
        self.hosts = tuple(hosts)
        self.index = index
        self._store = store
        self._calls = 0
        self._alone = False

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, the one that writes."""
        return self.index == 0

    @property
    def several(self) -> bool:
        """Whether others take part in what is being done."""
        return len(self.hosts) > 1 and not self._alone

    @property
    def others_wait(self) -> bool:
        """Whether there are others, which wait while this one works: see `first_does`."""
        return len(self.hosts) > 1 and self._alone

    def name(self, index: int) -> str:
        """`process 1 (HOST)`."""
        return f"process {index} ({self.hosts[index]})"

    def first_decides(self, decide: Callable[[], _Result]) -> _Result:
        """What `decide` returns on process 0, where alone it is called; the same on all.

        Args:
          decide: returns something that JSON holds.

        Raises:
          UserError, Unavailable: on all processes, if `decide` does.
        """
        if not self.several:
            return decide()
        key = self._next_key()
        if not self.is_first:
            told = json.loads(self._get(key))
            if "error" in told:
                raise {"user": UserError, "storage": Unavailable}[told["kind"]](told["error"])
            return told["value"]
        try:
            value = decide()
        except (UserError, Unavailable) as error:
            kind = "user" if isinstance(error, UserError) else "storage"
            self._set(key, {"error": str(error), "kind": kind})
            raise
        self._set(key, {"value": value})
        return value

    def first_does(self, work: Callable[[], None]) -> None:
        """Process 0 works as if it were alone; the others wait, and fail as it does."""

        def alone() -> None:
            with self._by_itself():
                work()

        self.first_decides(alone)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, on process 0; nothing on the others."""
        if not self.several:
            return [value]
        key = self._next_key()
        if not self.is_first:
            self._set(f"{key}/{self.index}", value)
            return []
        others = range(1, len(self.hosts))
        return [value, *(json.loads(self._get(f"{key}/{index}")) for index in others)]

    def first_trouble(self, trouble: str | None) -> str | None:
        """What went wrong on the first process where something did; the same on all.

        Args:
          trouble: of this process; None where all is well.
        """
        gathered = self.gather(trouble)
        return self.first_decides(lambda: next((t for t in gathered if t is not None), None))

    def agree(self, values: Mapping[str, Any], hint: str) -> None:
        """Compares what must be the same on all processes.

        Args:
          values: a tree of JSON, whose keys name what differs.
          hint: what to do about a difference.

        Raises:
          UserError: on all processes, naming the process, its host and what differs.
        """
        if not self.several:
            return
        gathered = self.gather(values)

        def compare() -> None:
            for index, theirs in enumerate(gathered[1:], start=1):
                if difference := first_difference(theirs, json.loads(json.dumps(values))):
                    name, there, here = difference
                    raise UserError(
                        f"{self.name(index)} differs from {self.name(0)}: {name} is {there!r} "
                        f"there, {here!r} on process 0; {hint}"
                    )

        self.first_decides(compare)

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
        before, self._alone = self._alone, True
        try:
            yield
        finally:
            self._alone = before

    def _next_key(self) -> str:
        self._calls += 1
        return f"detox_jax/{self._calls}"

    def _set(self, key: str, value: Any) -> None:
        assert self._store is not None
        self._store.set(key, json.dumps(value))

    def _get(self, key: str) -> str:
        assert self._store is not None
        return self._store.get(key)


def first_difference(left: Any, right: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first place in which two trees of JSON differ: its name, and the value in each."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            path = f"{name}.{key}" if name else key
            if difference := first_difference(left.get(key), right.get(key), path):
                return difference
        return None
    lists = isinstance(left, list) and isinstance(right, list) and len(left) == len(right)
    if lists and all(isinstance(item, dict) for item in (*left, *right)):
        items = enumerate(zip(left, right, strict=True))
        found = (first_difference(a, b, f"{name}[{i}]") for i, (a, b) in items)
        return next(filter(None, found), None)
    return None if left == right else (name, left, right)


_current = Processes()


def current() -> Processes:
    """The processes of this run."""
    return _current


def warn(line: str) -> None:
    """A line that must not be overlooked, on standard error; of several processes, the first's."""
    if _current.is_first:
        print(f"detox-jax: warning: {line}", file=sys.stderr, flush=True)


def join(processes: Processes) -> None:
    """Makes this process one of several, for the rest of its life."""
    global _current
    _current = processes
