#!/usr/bin/env bash
# metrax's Perplexity of a padded corpus depends on the batches: each one's mean counts by its rows, not its tokens.
#
# Guess: Perplexity.from_model_output(..., sample_weights=mask), merged over batches, is what its docstring writes, the
#   exponential of the sum of w * loss over the sum of w, whatever the batch size is and in whatever order rows
#   come; a label of -100 has no prediction and counts nothing.
# Seen (google-metrax 0.2.4, jax 0.10.2): the tokens' sum is taken within a batch; batches are then averaged by their
#   number of rows. Of 64 rows of 2 to 32 tokens, sorted by length as they are to save padding, whose short ones are
#   the harder, the perplexity is 36 in one batch, 102 in batches of 16 and 118 in batches of 1; in random order
#   37, 38, 44, 71 and 118, from batches of 16 down to 1. Labels of -100 without a mask are zero loss at a token that counts:
#   36 becomes 7.
# Hurt: perplexities of one model and one text differ threefold by a setting that is chosen by memory, and the row of
#   a table measured on a smaller machine is worse. Sum losses and tokens over all batches and divide once.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-metrax==0.2.4 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import jax.numpy as jnp
import metrax
import numpy as np

print(*(f"{name} {metadata.version(name)}" for name in ("google-metrax", "jax")))
ROWS, TOKENS, VOCABULARY = 64, 32, 50
draw = np.random.default_rng(1)
logits = draw.normal(size=(ROWS, TOKENS, VOCABULARY)) * 3
labels = draw.integers(0, VOCABULARY, (ROWS, TOKENS))
lengths = np.sort(draw.integers(2, TOKENS + 1, ROWS))
mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.float32)
long = (lengths > TOKENS // 2)[:, None, None]
logits += 6 * long * (labels[..., None] == np.arange(VOCABULARY))  # long texts are the easier ones
log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
losses = -np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
true = np.exp((losses * mask).sum() / mask.sum())


def perplexity(batch, order):
    metric = metrax.Perplexity.empty()
    for start in range(0, ROWS, batch):
        rows = order[start : start + batch]
        metric = metric.merge(
            metrax.Perplexity.from_model_output(
                predictions=jnp.asarray(logits[rows]), labels=jnp.asarray(labels[rows]),
                sample_weights=jnp.asarray(mask[rows]), from_logits=True,
            )
        )
    return float(metric.compute())


sizes = (1, 2, 4, 8, 16, 64)
by_length = [perplexity(size, np.arange(ROWS)) for size in sizes]
at_random = [perplexity(size, np.random.default_rng(2).permutation(ROWS)) for size in sizes]
ignored = metrax.Perplexity.from_model_output(
    predictions=jnp.asarray(logits), labels=jnp.asarray(np.where(mask > 0, labels, -100)), from_logits=True
).compute()
print(f"by hand {true:.1f}; by batch size {sizes}:")
print("sorted by length", [round(value, 1) for value in by_length])
print("at random       ", [round(value, 1) for value in at_random])
print(f"labels of -100 in place of the mask, one batch: {ignored:.1f}")
assert abs(by_length[-1] - true) < 0.1 and abs(at_random[-1] - true) < 0.1
assert by_length[0] > 3 * true and by_length[-2] > 2 * true and at_random[1] > 1.5 * true, "no longer so"
assert ignored < true / 3, "no longer so"
P
