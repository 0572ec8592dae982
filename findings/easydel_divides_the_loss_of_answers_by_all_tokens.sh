#!/usr/bin/env bash
# EasyDeL divides the loss of answers (prompts are labelled -100) by all tokens, prompts too, where a mask is given.
#
# Guess: ForCausalLMLoss, which model.compute_loss and SFTTrainer use, is the mean over the labels that are not -100
#   ("not included in loss"), and the attention mask only says what is padding.
# Seen (easydel 0.3.0, jax 0.9.2): without the mask it is. With attention_mask, which the trainer's batches always have,
#   the sum over the answer's tokens is divided by the number of all tokens that are not padding. Where a quarter of a
#   text is its answer the loss is a quarter. Accuracy and weight_sum count the answer alone. The blocks of tokens or
#   of the vocabulary that LossConfig offers do the same. Only reduction="mean" is as guessed.
# Hurt: the "perplexity" that is logged is exp of that: 3.0 where the model's is 112. It falls when prompts get longer,
#   and two sets of texts, or this and another trainer, cannot be compared; a perplexity guard never trips. In a
#   batch the gradient is smaller than the learning rate was chosen for, most of all where answers are short. Leave
#   the mask out (right padding needs none under -100), or use LossConfig(reduction="mean").
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet easydel==0.3.0 jax==0.9.2 jaxlib==0.9.2 transformers==5.5.4 pillow==13.0.0
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import inspect
from importlib import metadata

import jax.numpy as jnp
import numpy as np
from easydel.infra.loss_utils import ForCausalLMLoss, LossConfig
from scipy.special import log_softmax

print(*(f"{name} {metadata.version(name)}" for name in ("easydel", "jax")))
assert "not included in loss" in inspect.getdoc(ForCausalLMLoss)
random = np.random.default_rng(0)
vocabulary = 50


def batch(prompt, answer):
    """Logits of a model that is neither good nor bad, and four texts of a prompt, an answer and some padding."""
    lengths = [prompt + answer - row for row in range(4)]
    tokens = random.integers(0, vocabulary, [4, prompt + answer])
    mask = np.arange(prompt + answer) < np.array(lengths)[:, None]
    labels = np.where(mask, tokens, -100)
    labels[:, :prompt] = -100
    return random.normal(size=[4, prompt + answer, vocabulary]), labels, mask.astype(np.int32)


def mean(logits, labels):
    """The mean over the labels that count, in float64, and how many they are."""
    target, counted = labels[:, 1:], labels[:, 1:] != -100
    chosen = np.take_along_axis(log_softmax(logits[:, :-1], -1), np.where(counted, target, 0)[..., None], -1)
    return -chosen[..., 0][counted].mean(), counted.sum()


ways = {
    "LossConfig()": LossConfig(),
    "in blocks of the vocabulary": LossConfig(chunk_vocab_size=16),
    "in blocks of tokens": LossConfig(chunk_token_size=4),
}
for prompt, answer in ((1, 32), (16, 16), (48, 16)):
    logits, labels, mask = batch(prompt, answer)
    expected, counted = mean(logits, labels)
    share = counted / mask[:, 1:].sum()
    given = {"logits": jnp.asarray(logits, jnp.float32), "labels": jnp.asarray(labels)}
    print(f"{prompt} tokens of prompt, {answer} of answer ({share:.2f} of the tokens): mean {expected:.3f}")
    for name, config in ways.items():
        masked = ForCausalLMLoss(**given, attention_mask=jnp.asarray(mask), config=config)
        loss, bare = float(masked.loss), float(ForCausalLMLoss(**given, config=config).loss)
        print(f"  {name}: {loss:.3f}, exp {np.exp(loss):.1f}; without the mask {bare:.3f}, exp {np.exp(bare):.1f}")
        assert abs(bare / expected - 1) < 1e-4
        assert abs(loss / (expected * share) - 1) < 1e-4
        assert float(masked.weight_sum) == counted
    whole = ForCausalLMLoss(**given, attention_mask=jnp.asarray(mask), config=LossConfig(reduction="mean"))
    assert abs(float(whole.loss) / expected - 1) < 1e-4
assert share < 0.26 and loss < 0.26 * expected
print("as found")
P
