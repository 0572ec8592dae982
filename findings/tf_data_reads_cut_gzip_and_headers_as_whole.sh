#!/usr/bin/env bash
# tf.data, and so seqio's sources, read files that a failed copy cut as shorter whole ones.
#
# Guess: a cut .gz of JSON Lines ends `tf.data.TextLineDataset(compression_type="GZIP")` (what
#   `seqio.TextLineDataSource` reads with) with an error, as Python's gzip and gunzip do; a cut TFRecord
#   file ends in DataLossError, wherever it was cut.
# Seen (tensorflow-cpu 2.21.0): of a .gz cut in half half of the lines are read, without an error or a
#   warning, the last one cut in its middle. A TFRecord file cut within the 12 bytes in front of a
#   record (its length and their checksum) ends there as if whole; cut elsewhere it raises.
# Hurt: half of a corpus is missing from a training and nothing says so: compare sizes or counts after a
#   copy, or run `gzip -t` first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "tensorflow-cpu==2.21.0"
cd "$work"
"$work/venv/bin/python" - <<'P' 2>/dev/null
import gzip
import random

import tensorflow as tf

print("tensorflow", tf.__version__)
random.seed(0)
lines = ["".join(random.choice("abcdefgh ") for _ in range(80)) for _ in range(20_000)]
whole = gzip.compress(("\n".join(lines) + "\n").encode())
with open("cut.gz", "wb") as file:
    file.write(whole[: len(whole) // 2])
read = [line.decode() for line in tf.data.TextLineDataset("cut.gz", "GZIP").as_numpy_iterator()]
print(f"cut.gz: {len(read):,} of {len(lines):,} lines read, the last of {len(read[-1])} letters")
assert 0.4 * len(lines) < len(read) < 0.6 * len(lines) and read[:-1] == lines[: len(read) - 1]
try:
    with gzip.open("cut.gz") as file:
        file.read()
    raise AssertionError("gzip reads it")
except EOFError as error:
    print("Python's gzip:", error)

with tf.io.TFRecordWriter("records") as writer:
    for line in lines[:3]:
        writer.write(line.encode())
record = len(open("records", "rb").read()) // 3
silent = []
for end in range(2 * record + 1, 3 * record):
    with open("records", "rb") as file, open("cut", "wb") as cut:
        cut.write(file.read(end))
    try:
        assert sum(1 for _ in tf.data.TFRecordDataset("cut")) == 2
        silent.append(end - 2 * record)
    except tf.errors.DataLossError:
        pass
print(f"TFRecord cut at {silent[0]} to {silent[-1]} bytes of a record of {record}: no error")
assert silent == list(range(1, 12)), silent
print("as found")
P
