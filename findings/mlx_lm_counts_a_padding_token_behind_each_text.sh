#!/usr/bin/env bash
# Guess: mlx-lm's loss, in training and as the "Val loss" that it reports, is the mean over the tokens of the texts,
#   their end included; padding is masked.
# Seen (mlx-lm 0.32.2, mlx 0.32.4 on a CPU): the mask is one longer than the text. Behind each text's end the first
#   padding, token 0, is a target too, which counts as a token. Of a model before training the loss is the one over
#   texts with a 0 behind, to the last digit. It learns that 0 at once: of four texts of 5 to 13 tokens what is
#   reported goes from 0.7 % above their own loss to 11 % below it in twelve steps on others.
# Hurt: the shorter the texts, the lower the loss: one token in ten of comments counts as predicted. Perplexities of
#   corpora whose lengths differ, and those of another library, do not compare, and most of the fall in the
#   first steps is the padding's. Compare by a sum over the texts of one's own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P'
import contextlib
import io
import types
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
from mlx_lm.models import llama
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import TrainingArgs, evaluate, train


class Words:
    """A tokenizer whose words are numbers."""

    eos_token_id = 1

    def encode(self, text):
        return [int(word) for word in text.split()]


def texts(lengths):
    return [" ".join(str(token) for token in draw.integers(2, 100, length)) for length in lengths]


def data_of(texts):
    return CacheDataset(create_dataset([{"text": text} for text in texts], Words(), types.SimpleNamespace()))


def loss(texts, behind):
    """The mean over every token but the first of each text, read alone."""
    rows = [mx.array([[*Words().encode(text), 1, *behind]]) for text in texts]
    losses = [nn.losses.cross_entropy(model(row[:, :-1]), row[:, 1:]).flatten() for row in rows]
    return mx.concatenate(losses).mean().item()


print(*(f"{name} {version(name)}" for name in ("mlx-lm", "mlx")))
draw = np.random.default_rng(0)
mx.random.seed(0)
np.random.seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}
model = llama.Model(llama.ModelArgs(model_type="llama", vocab_size=100, rms_norm_eps=1e-5, **sizes))
held_out, others = texts([4, 9, 6, 12]), texts([4, 9, 6, 12] * 12)


def reported():
    return evaluate(model, data_of(held_out), batch_size=2, num_batches=-1, max_seq_length=64)


def said(when):
    its, own, with_0 = reported(), loss(held_out, []), loss(held_out, [0])
    print(f"{when}: reported {its:.4f}, over the texts {own:.4f}, with a 0 behind each {with_0:.4f}")
    assert abs(its - with_0) < 1e-4, "no longer so"
    return its / own


before = said("before")
settings = TrainingArgs(batch_size=4, iters=12, steps_per_report=100, steps_per_save=100, adapter_file="a.safetensors")
with contextlib.redirect_stdout(io.StringIO()):
    train(model, mlx.optimizers.Adam(learning_rate=1e-2), data_of(others), args=settings)
after = said("after ")
print(f"reported over own: {before:.3f}, then {after:.3f}")
assert before > 1 and after < 0.95, "no longer so"
P
