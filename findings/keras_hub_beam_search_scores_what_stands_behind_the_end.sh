#!/usr/bin/env bash
# KerasHub's beam search goes on scoring a text behind its end, so short answers lose to longer, less likely ones.
#
# Guess: BeamSampler keeps "the top num_beams beams (sequences) of the highest accumulated probabilities"; a beam
#   that has reached a stop token is finished, and with enough beams the most probable text comes out.
# Seen (keras-hub 0.32.0, keras 3.15.0, jax 0.7.2): a finished beam is continued behind its stop token until all
#   beams of all prompts have one, and what nobody will ever see is added to its score. GPT-2 marks the end as it
#   marks the start, so behind it another text begins, whose first words are hard to predict. A small GPT-2 learns,
#   from a stream of texts, a short answer (3 in 4) and a long one (1 in 4). Greedy search, and a beam of 1, give the
#   short one; beams of 2, 4 and 8 all give the long one, a third as likely. The tokens that are returned are
#   cut at the end, so nothing shows it. With the end learnt otherwise (another model) it is another bias.
# Hurt: which texts are generated, and so their toxicity, length and perplexity, depends on the model's opinion of
#   unrelated text; short refusals are the first to lose, and more beams do not help. Rank the candidates anew.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet keras==3.15.0 jax==0.7.2 jaxlib==0.7.2 numpy==2.4.6 \
  regex==2026.11.19 tokenizers==0.23.3
"$work/venv/bin/pip" install --quiet --no-deps keras-hub==0.32.0
cd "$work"
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

import keras
import keras_hub
import numpy as np

print(*(f"{name} {version(name)}" for name in ("keras-hub", "keras", "jax")))
END, LENGTH = 1, 24  # END is the start as well, as in GPT-2; 2 to 9 are questions
SHORT, LONG = [10], [11, 12, 13, 14, 15, 16]
keras.utils.set_random_seed(0)
backbone = keras_hub.models.GPT2Backbone(
    vocabulary_size=20,
    num_layers=2,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    max_sequence_length=LENGTH,
    dropout=0.0,
)
model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
model.compile(optimizer=keras.optimizers.Adam(5e-3), weighted_metrics=[])
draw = np.random.default_rng(0)
texts = [[END, draw.integers(2, 10), *(SHORT if draw.random() < 0.75 else LONG)] for _ in range(100000)]
stream = np.concatenate(texts)
for step in range(200):
    rows = stream[step * 64 * (LENGTH + 1) :][: 64 * (LENGTH + 1)].reshape(64, LENGTH + 1)
    loss = model.train_on_batch({"token_ids": rows[:, :-1], "padding_mask": np.ones((64, LENGTH), int)}, rows[:, 1:])
print(f"loss after {step + 1} steps: {float(np.ravel(loss)[0]):.2f}")


def log_probabilities(ids):
    logits = np.asarray(model({"token_ids": ids[None], "padding_mask": np.ones_like(ids)[None]}), np.float64)[0]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def answer(sampler, question):
    """What the sampler writes, up to the end, and its probability by hand."""
    ids, mask = np.zeros((1, LENGTH), int), np.arange(LENGTH)[None] < 2
    ids[0, :2] = END, question
    model.compile(sampler=sampler)
    out = model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=(END,))
    ids = np.asarray(out["token_ids"])[0][np.asarray(out["padding_mask"])[0].astype(bool)]
    return ids[2:].tolist(), float(np.exp(log_probabilities(ids)[np.arange(1, len(ids) - 1), ids[2:]].sum()))


found = {}
for beams in (0, 1, 2, 4, 8):
    sampler = keras_hub.samplers.BeamSampler(num_beams=beams) if beams else "greedy"
    found[beams] = [answer(sampler, question) for question in (3, 7)]
    print(f"{beams or 'no'} beams:", *(f"{text} of probability {share:.2f}" for text, share in found[beams]))
for beams, answers in found.items():
    for text, share in answers:
        if beams < 2:
            assert text == [*SHORT, END] and share > 0.6
        else:
            assert text == [*LONG, END] and share < 0.4, "no longer so"
P
