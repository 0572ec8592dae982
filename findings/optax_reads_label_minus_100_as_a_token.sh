#!/usr/bin/env bash
# optax's cross-entropy takes the label -100, torch's and transformers' "ignore", for the hundredth token from the end.
#
# Guess: labels of -100, as transformers' collators write them behind a text and over a prompt, are left out of
#   optax.softmax_cross_entropy_with_integer_labels, or raise an error.
# Seen (optax 0.2.8, jax 0.10.2): with a vocabulary of 50,257 the loss at -100 is that of token 50,157, and its gradient
#   raises that token there; -1 is the last token. Only below minus the size of the vocabulary, as in a test with
#   eight tokens, is the loss NaN.
# Hurt: batches that were made for torch train, without a word, every padded place and every place of a prompt to
#   predict one rare token. Where three quarters of the labels are -100, eighty steps make it the likeliest token
#   behind most tokens, and the loss falls all the while. Take these places out of the mean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
import jax
import jax.numpy as jnp
import optax

print("optax", optax.__version__, "jax", jax.__version__)
TOKENS, SMALL, IGNORE, READ, LENGTH = 50_257, 1_000, -100, 16, 16
loss_of = optax.softmax_cross_entropy_with_integer_labels
logits = jax.random.normal(jax.random.key(0), [TOKENS])
at_ignore, at_token = (loss_of(logits, jnp.asarray(label)) for label in (IGNORE, TOKENS + IGNORE))
at_last = loss_of(logits, jnp.asarray(-1)), loss_of(logits, jnp.asarray(TOKENS - 1))
small = loss_of(logits[:8], jnp.asarray(IGNORE))
print(f"label {IGNORE}: {at_ignore}; label {TOKENS + IGNORE}: {at_token}; of eight tokens: {small}")
assert at_ignore == at_token and at_last[0] == at_last[1] and jnp.isnan(small), "no longer so"

# A table of logits by the token before, of SMALL tokens: the first READ follow each other at random.
texts = jax.random.randint(jax.random.key(1), [READ, LENGTH + 1], 0, READ)
inputs, meant = texts[:, :-1], texts[:, 1:]
labels = jnp.where(jnp.arange(LENGTH) < 3 * LENGTH // 4, IGNORE, meant)


def trained(loss, steps=80):
    """The losses at both ends and how many tokens are followed by the ignored label's token."""
    table = jnp.zeros([READ, SMALL])
    optimizer = optax.adam(0.1)
    state = optimizer.init(table)

    @jax.jit
    def step(table, state):
        value, gradient = jax.value_and_grad(loss)(table)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(table, updates), state, value

    values = []
    for _ in range(steps):
        table, state, value = step(table, state)
        values.append(float(value))
    return values[0], values[-1], int((table.argmax(-1) == SMALL + IGNORE).sum())


as_they_are = trained(lambda table: loss_of(table[inputs], labels).mean())
left_out = trained(
    lambda table: loss_of(table[inputs], jnp.maximum(labels, 0)).mean(where=labels != IGNORE)
)
for name, (first, last, wrong) in (("as they are", as_they_are), ("left out", left_out)):
    print(f"{name}: loss {first:.2f} to {last:.2f}; {wrong} of {READ} tokens lead to {SMALL + IGNORE}")
assert as_they_are[2] > READ // 2 and as_they_are[1] < as_they_are[0] / 2, "no longer so"
assert left_out[2] == 0
print("as found")
P
