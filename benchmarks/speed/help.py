"""Row: `sgeat --help` beside an earlier commit of ours, whole processes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed import processes
from benchmarks.speed.sides import Row, Side, Work, main


def _work(package: Path) -> Work:
    """The help as the package in a directory has it."""

    def work() -> float:
        processes.of_package(package, "sgeat", "--help")
        return 1.0

    return work


ROW = Row(
    "`sgeat --help`, whole process",
    "times",
    {
        "ours": Side(lambda: _work(processes.ours())),
        processes.EARLIER: Side(lambda: _work(processes.earlier())),
    },
)

if __name__ == "__main__":
    main(ROW)
