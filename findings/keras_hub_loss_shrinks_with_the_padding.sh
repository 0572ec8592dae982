#!/usr/bin/env bash
# KerasHub's evaluate() divides the loss by padding too: exp(loss) of one model and text is 8.8, 1.7 or 1.1.
#
# Guess: CausalLM.compile's default loss is the mean over real tokens, since its docstring says that "training inputs
#   include padded tokens which are excluded from the loss"; evaluate() does not depend on sequence_length.
# Seen (keras-hub 0.32.0, keras 3.15.0, jax 0.7.2): padding adds nothing to the sum, but is counted in what it is
#   divided by. The loss of eight short texts is 2.17 in rows of 16 tokens, 0.54 in rows of 64 and 0.14 in rows of
#   256, by hand 3.91 each time; the preprocessor pads every text to sequence_length, 1,024 where nothing is said.
#   keras_hub.metrics.Perplexity in weighted_metrics says 50.1 in the very same call.
#   loss=SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight") gives the mean over
#   real tokens.
# Hurt: perplexity from evaluate() is far too good, and better the shorter the texts are, so that a model that is
#   judged on short safe answers wins; losses of two sequence_lengths, and validation losses beside another
#   library's, cannot be compared; a term that is added to it (KL, weight decay) outweighs it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet keras==3.15.0 jax==0.7.2 jaxlib==0.7.2 numpy==2.4.6 \
  regex==2026.11.19 tokenizers==0.23.3 grain==0.2.18
"$work/venv/bin/pip" install --quiet --no-deps keras-hub==0.32.0
cd "$work"
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

import keras
import keras_hub
import numpy as np

print(*(f"{name} {version(name)}" for name in ("keras-hub", "keras", "jax")))
VOCABULARY, TEXTS = 50, 8
draw = np.random.default_rng(0)
texts = [draw.integers(1, VOCABULARY, draw.integers(4, 15)) for _ in range(TEXTS)]
keras.utils.set_random_seed(0)
backbone = keras_hub.models.GPT2Backbone(
    vocabulary_size=VOCABULARY, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=256
)
model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def evaluate(length, **settings):
    """Loss and perplexity that evaluate() gives for rows of this length, and the mean loss by hand."""
    ids, mask = np.zeros((2, TEXTS, length + 1), int)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    # As CausalLMPreprocessor does: the targets are the next tokens, their weights the mask.
    inputs, targets, weights = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}, ids[:, 1:], mask[:, 1:]
    model.compile(weighted_metrics=[keras_hub.metrics.Perplexity(from_logits=True)], **settings)
    seen = model.evaluate(inputs, targets, sample_weight=weights, batch_size=4, verbose=0, return_dict=True)
    logits = np.asarray(model(inputs), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return seen["loss"], seen["perplexity"], (losses * weights).sum() / weights.sum(), weights.mean()


for length in (16, 64, 256):
    loss, perplexity, by_hand, share = evaluate(length)
    print(f"rows of {length}: loss {loss:.3f}, exp {np.exp(loss):.2f}; by hand {by_hand:.3f}; metric {perplexity:.2f}")
    assert abs(perplexity - np.exp(by_hand)) < 0.01
    assert abs(loss - by_hand * share) < 1e-3 and share < 0.6, "no longer so"
reduced = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
loss, _, by_hand, _ = evaluate(256, loss=reduced)
print(f"rows of 256 with mean_with_sample_weight: loss {loss:.3f}")
assert abs(loss - by_hand) < 0.2
P
