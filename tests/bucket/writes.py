"""Run by one_writer_test: opens DIRECTORY, waits, writes a shard and finishes."""

from __future__ import annotations

import sys
import time

from detox_jax import directory_lock, outputs
from detox_jax.errors import Unavailable
from detox_jax.records import Document


def _main(directory: str, lapses_after: str, waits: str) -> None:
    directory_lock.LAPSES_AFTER_S = float(lapses_after)
    try:
        output = outputs.OutputDirectory(directory, "score", {"seed": 1})
    except Unavailable as error:
        sys.exit(f"error: {error}")
    print("opened", flush=True)
    time.sleep(float(waits))
    output.write_shard("d", 0, 1, [Document("0", "x")])
    output.finish()


if __name__ == "__main__":
    _main(*sys.argv[1:])
