#!/usr/bin/env bash
# TensorBoard's EventAccumulator gives ten random points of a curve that clu or flax wrote.
#
# Guess: EventAccumulator(directory), which is how one reads event files in Python, holds every scalar that was
#   logged, or up to 10,000 of a tag, which is its limit for scalars.
# Seen (tensorboard 2.21.0, clu 0.0.12, flax 0.12.8, tensorflow-cpu 2.21.0): clu's and flax's SummaryWriter write
#   scalars as tensors, so Tags()["scalars"] is empty, and the limit is that of tensors: 10 a tag. Of 3,000
#   losses ten are there, nine of them drawn at random, the last one kept. All are there with
#   size_guidance={"tensors": 0}.
# Hurt: the best step, the mean of the last hundred or "when did toxicity fall below 0.1" are answered from ten
#   points: here the lowest loss that is found is at another step, and four times as high. The curve looks
#   smooth and nothing says that it is a sample.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tensorboard==2.21.0 clu==0.0.12 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 \
    tensorflow-cpu==2.21.0
cd "$work"
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
import tensorflow as tf
from clu import metric_writers
from flax.metrics import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

print(*(f"{name} {metadata.version(name)}" for name in ("tensorboard", "clu", "flax")))
STEPS = 3_000
# Loss falls, has its best step at 1,234, and rises again.
LOSSES = 0.1 + (np.arange(STEPS) / 1_234 - 1) ** 2 + np.where(np.arange(STEPS) == 1_234, 0, 0.3)

clu, flax = metric_writers.SummaryWriter("clu"), tensorboard.SummaryWriter("flax")
for step, loss in enumerate(LOSSES):
    clu.write_scalars(step, {"loss": loss})
    flax.scalar("loss", loss, step)
clu.close()
flax.close()


def read(directory, **settings):
    events = EventAccumulator(directory, **settings)
    events.Reload()
    assert not events.Tags()["scalars"], "scalars are scalars now"
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")}


for directory in ("clu", "flax"):
    points, everything = read(directory), read(directory, size_guidance={"tensors": 0})
    best, truly = min(points, key=points.get), min(everything, key=everything.get)
    print(f"{directory}: {len(points)} points of {STEPS:,}, at {sorted(points)}")
    print(
        f"  the lowest loss is {points[best]:.2f} at step {best:,}; "
        f"with size_guidance {len(everything):,} points, and {everything[truly]:.2f} at step {truly:,}"
    )
    assert len(points) == 10, "no longer so"
    assert len(everything) == STEPS and truly == 1_234 and best != truly
    assert points[best] > 3 * everything[truly]
print("as found")
P
