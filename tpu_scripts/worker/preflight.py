"""On a worker: can the workers reach each other, write to the bucket, and see their memory?

Prints a line for each check that passed. The first that fails ends it, with a line and status 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import sys
import time

from etils import epath


def main() -> None:
    """Runs the checks in the order of their cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for peers")
    args = parser.parse_args()
    index, workers = int(os.environ["WORKER_INDEX"]), int(os.environ["NUM_WORKERS"])
    try:
        meet(os.environ["COORDINATOR_IP"], args.port, index, workers, args.timeout)
        print(f"port: {args.port} of worker 0 answers")
        write_to(epath.Path(args.bucket) / "preflight" / f"worker-{index}")
        print(f"bucket: {args.bucket} can be written and read")
        print(f"devices: {describe_devices(workers)}")
    except Exception as error:  # every kind of bucket has errors of its own
        sys.exit(f"preflight: {' '.join(str(error).split())}")


def meet(coordinator: str, port: int, index: int, workers: int, timeout: float) -> None:
    """Lets every worker connect to worker 0, as `jax.distributed` will.

    Raises:
      RuntimeError: if the port of worker 0 does not answer, or a worker does not come.
    """
    if index:
        _connect(coordinator, port, timeout)
        return
    with socket.create_server(("", port)) as server:
        server.settimeout(timeout)
        for come in range(1, workers):
            try:
                server.accept()[0].close()
            except TimeoutError:
                raise RuntimeError(
                    f"port {port}: {come} of {workers} workers came within {timeout:.0f} s; open "
                    f"tcp:{port} between them, or choose an open one with --coordinator_port"
                ) from None


def _connect(coordinator: str, port: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((coordinator, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"coordinator {coordinator}:{port} does not answer ({error}); open tcp:{port} "
                    "between the workers, or choose an open one with --coordinator_port"
                ) from None
            time.sleep(0.2)


def write_to(path: epath.Path) -> None:
    """Writes, reads and removes a file.

    Raises:
      RuntimeError: if what is read is not what was written.
    """
    content = f"{platform.node()} {time.time()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if path.read_text() != content:
        raise RuntimeError(f"{path} reads differently from what was written")
    path.unlink()


def describe_devices(workers: int) -> str:
    """Starts JAX on all workers together; what this worker then sees.

    Raises:
      RuntimeError: if JAX does not start, or counts other workers or no memory.
    """
    import jax  # takes the TPU, so only once the cheap checks have passed

    if workers > 1:
        jax.distributed.initialize()
    if jax.process_count() != workers:
        raise RuntimeError(f"JAX counts {jax.process_count()} workers, Google Cloud {workers}")
    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices]
    if devices[0].platform != "tpu" or not min(limits):
        raise RuntimeError(f"no TPU memory to be seen: {devices}, bytes {limits}")
    return (
        f"{len(devices)} of {jax.device_count()} {devices[0].device_kind}, "
        f"{min(limits) / 2**30:.2f} GiB each"
    )


if __name__ == "__main__":
    main()
