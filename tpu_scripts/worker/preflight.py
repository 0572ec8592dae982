"""On a worker: can the workers reach each other, keep checkpoints in the bucket, see their memory?

Prints a line for each check that passed. The first that fails ends it, with a line and status 1, or
2 where no restart mends it: a role, a package or the bucket is missing.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


class Mistake(RuntimeError):
    """What no restart mends."""


def main() -> None:
    """Runs the checks in the order of their cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for peers")
    # The check takes seconds, but TensorFlow may wait for a bucket without end.
    parser.add_argument(
        "--bucket_timeout", type=float, default=300.0, help="seconds for the bucket"
    )
    args = parser.parse_args()
    index, workers = int(os.environ["WORKER_INDEX"]), int(os.environ["NUM_WORKERS"])
    try:
        meet(os.environ["COORDINATOR_IP"], args.port, index, workers, args.timeout)
        print(f"port: {args.port} of worker 0 answers", flush=True)
        try_bucket(args.bucket, index, args.bucket_timeout)
        found = f"{args.bucket} can be written and read, and a checkpoint restored from it"
        print(f"bucket: {found}", flush=True)  # before what libraries say on stderr
        print(f"devices: {describe_devices(workers)}")
    except Exception as error:
        print(f"preflight: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, Mistake) else 1)


def meet(coordinator: str, port: int, index: int, workers: int, timeout: float) -> None:
    """Lets every worker connect to worker 0, as `jax.distributed` will.

    Raises:
      RuntimeError: if the port of worker 0 is taken or does not answer, or a worker does not come.
    """
    if index:
        _connect(coordinator, port, timeout)
        return
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise RuntimeError(
            f"port {port} of worker 0 cannot be listened on ({error}); end what holds it, "
            "or choose another with --coordinator_port"
        ) from None
    with server:
        server.settimeout(timeout)
        for come in range(1, workers):
            try:
                server.accept()[0].close()
            except (TimeoutError, BlockingIOError):  # the second where there is no time at all
                raise RuntimeError(
                    f"port {port}: {come} of {workers} workers came within {timeout:g} s; open "
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


def try_bucket(bucket: str, index: int, timeout: float) -> None:
    """Lets bucket.py save and restore a checkpoint, on the CPU: JAX is not started here yet.

    Raises:
      Mistake: if a role, a package or the bucket is missing.
      RuntimeError: if it fails otherwise, or does not end.
    """
    script = Path(__file__).with_name("bucket.py")
    command = [sys.executable, str(script), f"--bucket={bucket}", f"--worker={index}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{bucket}: no checkpoint saved and restored within {timeout:.0f} s"
        ) from None
    if result.returncode:
        reason = result.stdout.strip() or f"{script.name} ended with {result.returncode}"
        raise (Mistake if result.returncode == 2 else RuntimeError)(reason)


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
