#!/usr/bin/env bash
# A 0/1 mask that seqio packs beside tokens comes out wrong: it takes zeros for padding.
#
# Guess: LMFeatureConverter and the packing under it cut every feature to the length it was given, so
#   a loss mask (0 for what a user asked, 1 for the answer) can be packed as a feature beside targets.
# Seen (seqio 0.0.20, tensorflow-cpu 2.21.0): trim_and_pack_dataset takes a feature's length from its
#   nonzero values. Masks 0 0 1 1 0 and 0 1 become a packed row of eight zeros; the tokens beside them are
#   whole.
# Hurt: every shape is right and nothing is learnt, or the wrong half. Roles of 1 and 2 in place of 0
#   and 1 are packed as they are.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps seqio==0.0.20
"$work/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 tensorflow-datasets==4.9.10 absl-py clu==0.0.12 \
    jax==0.10.2 jaxlib==0.10.2 pyglove==0.4.5 sentencepiece==0.2.1 editdistance==0.8.1 packaging
"$work/venv/bin/pip" install --quiet --no-deps tensorflow-text==2.21.1
cd "$work"
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" - <<'P' 2>/dev/null
from importlib import metadata

import seqio
import tensorflow as tf

examples = [
    {"targets": [5, 6, 7, 8, 9], "mask": [0, 0, 1, 1, 0], "role": [1, 1, 2, 2, 1]},
    {"targets": [3, 4], "mask": [0, 1], "role": [1, 2]},
]
kinds = {name: tf.TensorSpec([None], tf.int32) for name in examples[0]}
dataset = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=kinds)
lengths = dict.fromkeys(kinds, 8)
(row,) = seqio.trim_and_pack_dataset(dataset, lengths, use_custom_ops=False).as_numpy_iterator()
print("seqio", metadata.version("seqio"))
for name in kinds:
    print(f"{name:8}", row[name].tolist())
assert row["targets"].tolist() == [5, 6, 7, 8, 9, 3, 4, 0], "no longer so"
assert row["role"].tolist() == [1, 1, 2, 2, 1, 1, 2, 0], "no longer so"
assert row["mask"].tolist() == [0] * 8, "no longer so"
P
