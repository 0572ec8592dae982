"""Row: `make demo`, the whole method on a tiny model, beside an earlier commit of ours.

Nothing is compiled before, as on a new machine. The sizes in their gin files are equal.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.speed import processes
from benchmarks.speed.sides import Row, Side, Work, main


def _work(package: Path) -> Work:
    """`sgeat` as `make demo` calls it."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

    def work() -> float:
        with tempfile.TemporaryDirectory() as directory:
            processes.of_package(
                package,
                "sgeat",
                f"--gin_file={package}/gin_configs/experiments/demo.gin",
                f"--gin.OUTPUT_DIR={directory}/demo",
                XDG_CACHE_HOME=f"{directory}/cache",
            )
        return 1.0

    return work


ROW = Row(
    "`make demo`, whole process, nothing compiled before",
    "times",
    {
        "ours": Side(lambda: _work(processes.ours()), warm_up=False),
        processes.EARLIER: Side(lambda: _work(processes.earlier()), warm_up=False),
    },
)

if __name__ == "__main__":
    main(ROW)
