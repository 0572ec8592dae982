#!/usr/bin/env bash
# grain makes batches within each worker process: how many workers there are decides which rows are read at all.
#
# Guess: IterDataset.batch(32, drop_remainder=True).mp_prefetch(num_workers=...) gives the same batches from any number
#   of workers, as grain is deterministic; at most 31 rows of a split are dropped.
# Seen (grain 0.2.18): each worker takes every n-th row and batches its own, so each drops a remainder. Of 100 rows 96
#   come in 3 batches without workers, 64 in 2 from two workers, and none at all from four: the data set is
#   empty and nothing says so. With drop_remainder=False there are up to as many short batches as workers.
#   The batches hold other rows too. MapDataset.batch before to_iter_dataset() gives the same from any number.
# Hurt: perplexity of a validation split is of a part of it, or an average over no batch; results change with the
#   number of workers, which one sets by the machine; an epoch has another number of steps on another host.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet grain==0.2.18
cat > "$work/read.py" <<'P'
from importlib import metadata

import grain
from absl import flags

ROWS, BATCH = 100, 32


def batches(workers, rest, early=False):
    dataset = grain.MapDataset.range(ROWS).shuffle(seed=1)
    if early:
        dataset = dataset.batch(BATCH, drop_remainder=not rest).to_iter_dataset()
    else:
        dataset = dataset.to_iter_dataset().batch(BATCH, drop_remainder=not rest)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return [list(map(int, batch)) for batch in dataset]


def main():
    print("grain", metadata.version("grain"))
    rows = {}
    for workers in (0, 2, 4):
        whole, short, early = batches(workers, False), batches(workers, True), batches(workers, False, early=True)
        rows[workers] = [sum(map(len, read)) for read in (whole, short, early)]
        print(
            f"{workers} workers: {len(whole)} batches of {rows[workers][0]} rows; with the remainders "
            f"{[len(batch) for batch in short]}; batched before: {len(early)} batches of {rows[workers][2]}"
        )
    assert rows == {0: [96, 100, 96], 2: [64, 100, 96], 4: [0, 100, 96]}, "no longer so"
    print("as found")


if __name__ == "__main__":
    flags.FLAGS(["read"])
    main()
P
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" read.py 2>errors || { cat errors; exit 1; }
