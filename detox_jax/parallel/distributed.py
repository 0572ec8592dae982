"""Runs a verb in several processes, one a host: they meet, agree on what they run, end together."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from detox_jax.errors import UserError
from detox_jax.parallel import links, preemption, processes

MULTIHOST_VARIABLE = "DETOX_JAX_MULTIHOST"
# The names are T5X's, but for the first, which says what it is on all platforms.
SWITCHES = ("--multihost", "--multiprocess_gpu")
VALUE_FLAGS = {
    "--coordinator_address": str,
    "--process_count": int,
    "--process_index": int,
    "--initialization_timeout": float,
}
# What computes, and what makes token ids. Each host reads, shuffles and packs the whole data for
# itself: with another TensorFlow or seqio on one of them rows would come twice, and others never.
_PACKAGES = (
    *("detox-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tokenizers", "sentencepiece", "seqio", "tensorflow", "tensorflow-datasets"),
)
_ALSO_AS = {"tensorflow": "tensorflow-cpu"}  # the same package, of which one is installed
_POLL_MS = 5000
# JAX's own limits come after those of the links, which name the process that is lost.
_JAX_START_S = 120


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the processes meet; what is None is found by JAX: Cloud TPU, GKE, Slurm, Open MPI.

    Attributes:
      coordinator_address: HOST:PORT of process 0.
      process_count: how many there are.
      process_index: which one this is, from 0.
      initialization_timeout: seconds for all to come.
    """

    coordinator_address: str | None = None
    process_count: int | None = None
    process_index: int | None = None
    initialization_timeout: float = links.Patience.start


def take_flags(argv: Sequence[str]) -> tuple[Options | None, list[str]]:
    """Takes the flags of several processes off a command line.

    Returns:
      Options, None where one process runs alone, and the other arguments.

    Raises:
      UserError: if a value is no number.
    """
    given: dict[str, Any] | None = {} if os.environ.get(MULTIHOST_VARIABLE) else None
    rest: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        flag, equals, value = argument.partition("=")
        if argument in SWITCHES:
            given = given or {}
        elif flag in VALUE_FLAGS:
            if not equals:
                value = arguments.pop(0) if arguments else ""
            try:
                given = {**(given or {}), flag.removeprefix("--"): VALUE_FLAGS[flag](value)}
            except ValueError:
                raise UserError(f"{flag}={value}: expected a number") from None
        else:
            rest.append(argument)
    return None if given is None else Options(**given), rest


def run(options: Options, verb: Callable[[], int], report: Callable[[BaseException], int]) -> int:
    """Starts `jax.distributed`, runs a verb, and waits until all processes are done.

    Where a process fails, all end: this one with the status that `report` returns for its own
    error, the others with the same status and a line that names it.

    Args:
      options: where the processes meet.
      verb: the same on all processes; must not have called JAX before.
      report: prints an exception and returns the exit status.

    Returns:
      The status that the verb returns.

    Raises:
      UserError: if the processes cannot meet.
      PeerError: if some do not come.
      Stopped: where a signal ended all processes at the same step.
    """
    (address, count, index), device_ids = discover(options)
    patience = links.Patience(start=options.initialization_timeout)
    linked = links.open_links(address, index, count, patience)
    linked.watch()
    try:
        _initialize_jax(address, count, index, device_ids)
        preemption.take_over_from_jax()
        processes.join(processes.Processes(index, linked.hosts, _Store()))
        print(
            f"detox-jax: process {index} of {count} on {linked.hosts[index]}, coordinator "
            f"{address}",
            file=sys.stderr,
            flush=True,
        )
        if index:
            sys.stdout = open(os.devnull, "w")  # What a verb says, process 0 says.
        status = verb()
        linked.finish()
        return status
    except preemption.Stopped as stopped:
        if not stopped.by_all:
            linked.fail(stopped, report)
        linked.finish()  # All have saved the same step, and leave together.
        raise
    except BaseException as error:  # noqa: B036 (ends the process, after it told the others)
        linked.fail(error, report)


def discover(options: Options) -> tuple[tuple[str, int, int], list[int] | None]:
    """Address, count and index, and the local devices where a launcher assigns them.

    Raises:
      UserError: if the flags do not fit each other, or JAX finds no cluster.
    """
    given = (options.coordinator_address, options.process_count, options.process_index)
    device_ids = None
    if None in given:
        given, device_ids = _detect(options)
    address, count, index = given
    if address is None or count is None or index is None:
        flags = ("--coordinator_address", "--process_count", "--process_index")
        missing = ", ".join(f for f, value in zip(flags, given, strict=True) if value is None)
        raise UserError(
            f"--multihost: found no cluster (Cloud TPU, GKE, Slurm, Open MPI) that says {missing}; "
            "give all of --coordinator_address=HOST:PORT --process_count=N --process_index=I"
        )
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process_index={index}: not from 0 to {count - 1}, of {count} processes")
    return (address, count, index), device_ids


def _detect(options: Options) -> tuple[tuple[Any, Any, Any], list[int] | None]:
    """As `jax.distributed.initialize` would; it offers no way to ask without starting."""
    from jax._src import clusters

    try:
        address, count, index, device_ids = (
            clusters.ClusterEnv.auto_detect_unset_distributed_params(
                options.coordinator_address,
                options.process_count,
                options.process_index,
                None,
                None,
                int(options.initialization_timeout),
            )
        )
    except Exception as error:  # whatever the launcher's environment lacks
        raise UserError(
            f"--multihost: {' '.join(str(error).split())}; give --coordinator_address=HOST:PORT "
            "--process_count=N --process_index=I"
        ) from None
    return (address, count, index), None if device_ids is None else list(device_ids)


def _initialize_jax(address: str, count: int, index: int, device_ids: list[int] | None) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address, count, index, device_ids, initialization_timeout=_JAX_START_S
    )


class _Store:
    """The key-value store that `jax.distributed` keeps on process 0."""

    def __init__(self):
        from jax._src import distributed  # Orbax and others take the client from here too.

        self._client: Any = distributed.global_state.client

    def set(self, key: str, value: str) -> None:
        """See `parallel.processes.Store`."""
        self._client.key_value_set(key, value)

    def get(self, key: str) -> str:
        """See `parallel.processes.Store`; who waits for a dead process is ended by the links."""
        import jax

        while True:
            try:  # In pieces, so that Ctrl-C is heard.
                return self._client.blocking_key_value_get(key, _POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise


def check_agreement(verb: str, config: Mapping[str, Any]) -> None:
    """Compares configuration and code of all processes, before any of them computes.

    Args:
      verb: its name.
      config: gin's bindings, by name.

    Raises:
      UserError: naming the process and host that differs, and in what.
    """
    if not processes.current().several:
        return
    fingerprint = {
        "verb": verb,
        "config": dict(config),
        "python": platform.python_version(),
        "version": {package: _version(package) for package in _PACKAGES},
        "sources of detox_jax": source_hash(),
    }
    hint = "run the same command, with the same files and versions, on every host"
    processes.current().agree(fingerprint, hint)


def _version(package: str) -> str | None:
    """Of an installed package; None where it is not, such as those of an extra."""
    for name in (package, _ALSO_AS.get(package)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return name and metadata.version(name)
    return None


def source_hash() -> str:
    """SHA-256 over names and bytes of this package's Python files, and of `tasks` beside it."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for file in sorted(p for room in ("detox_jax", "tasks") for p in (root / room).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
