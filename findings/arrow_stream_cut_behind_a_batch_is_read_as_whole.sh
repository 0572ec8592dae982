#!/usr/bin/env bash
# Guess: an Arrow file of `datasets` (save_to_disk) that was cut by a copy that failed is refused, and
#   damaged bytes in it raise an error.
# Seen (pyarrow 26.0.1): the files are Arrow streams. One that is cut behind any of its batches, so
#   without the end-of-stream mark, is read to the cut without a word, as a shorter data set; one whose
#   offsets are damaged crashes the interpreter in to_pylist(), or fails with "Negative size passed to
#   PyUnicode_New", unless batch.validate(full=True) was called.
# Hurt: rows of a data set are missing from a training or an evaluation and nothing says so. Look at the
#   last eight bytes (ff ff ff ff 00 00 00 00) before reading.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pyarrow==26.0.1"
cd "$work"
"$work/venv/bin/python" - <<'P'
import pyarrow as pa

table = pa.table({"text": ["x" * 40] * 8})
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table, max_chunksize=2)
whole = sink.getvalue().to_pybytes()
read = set()
for end in range(8, len(whole), 8):
    try:
        read.add(sum(len(batch) for batch in pa.ipc.open_stream(whole[:end])))
    except (pa.ArrowInvalid, OSError):
        pass
print("pyarrow", pa.__version__, "rows written: 8, rows read of cut streams:", sorted(read))
P
