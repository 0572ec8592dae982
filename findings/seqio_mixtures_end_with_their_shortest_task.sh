#!/usr/bin/env bash
# One epoch of a seqio mixture ends with its shortest task, and a task without the split is left out.
#
# Guess: seqio.Mixture.get_dataset(num_epochs=1), "the number of times to iterate through the dataset", gives
#   each example of each task once; a mixture of which one task has no such split is refused.
# Seen (seqio 0.0.20, tensorflow-cpu 2.21.0): it ends when the first task does. Of tasks of 1,000 and of 10
#   examples at equal rates some 20 are read. Shuffled with another seed it begins anew within the long
#   task's shuffle buffer, so that 100 such epochs still read only a part of it. And a task that has no split
#   of the name is skipped with a log warning, though its rate is 9 of 10.
# Hurt: the loss on a mixture's validation split is that of a few examples; a loop that asks for one epoch
#   after another, to be able to resume, never reads most of its largest corpus. Use num_epochs=None to
#   train, and a sample_fn with stop_on_empty_dataset=False to evaluate.
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
import functools
from importlib import metadata

import numpy as np
import seqio
import tensorflow as tf

print("seqio", metadata.version("seqio"))
FEATURES = {"targets": seqio.Feature(seqio.PassThroughVocabulary(10_000), dtype=tf.int32, add_eos=False)}


def task(name, numbers, splits):
    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": np.array(numbers, np.int32)[:, None]})

    source = seqio.FunctionDataSource(read, splits)
    return seqio.TaskRegistry.add(
        name, source=source, preprocessors=[], output_features=FEATURES, shuffle_buffer_size=100
    )


LONG, SHORT = range(1_000), range(5_000, 5_010)
task("long", LONG, ["train", "validation"])
task("short", SHORT, ["train", "validation"])
task("answers", range(6_000, 6_100), ["train"])


def read(mixture, split, seed=None):
    dataset = mixture.get_dataset(
        {"targets": 1}, split, shuffle=seed is not None, seed=seed, num_epochs=1, try_in_mem_cache=False
    )
    return [int(row["targets"][0]) for row in dataset.as_numpy_iterator()]


both = seqio.Mixture("both", [("long", 1), ("short", 1)])
once = read(both, "validation")
print(f"both, validation: {len(once)} of {len(LONG) + len(SHORT):,} examples, no two alike")
assert len(set(once)) == len(once) < 60, "no longer so"
epochs = [set(read(both, "train", seed)) & set(LONG) for seed in range(100)]
seen = set.union(*epochs)
print(f"both, 100 shuffled epochs: {len(seen)} of {len(LONG):,} of the long task were ever read")
assert len(seen) < 250, "no longer so"
rest = seqio.Mixture("rest", [("short", 1), ("answers", 9)])
assert set(read(rest, "validation")) == set(SHORT), "no longer so"
print("rest, validation: the task of rate 9 of 10 has none, and is left out")
whole = functools.partial(tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False)
both = seqio.Mixture("whole", [("long", 1), ("short", 1)], sample_fn=whole)
assert sorted(read(both, "validation")) == [*LONG, *SHORT]
print("as found; with stop_on_empty_dataset=False all are read")
P
