#!/usr/bin/env bash
# jax.random.categorical draws its noise in the logits' dtype: in bfloat16 no rare token is ever drawn.
#
# Guess: logits in bfloat16, as models give them, cost some rounding of each probability, a hundredth
#   at most; what jax.random.categorical draws follows their softmax.
# Seen (jax 0.10.2): the Gumbel noise has the logits' dtype, and bfloat16 has 128 numbers between 1/2 and 1.
#   The noise never gets above 4.9 and ties go to the lower id. Of 50,257 equal logits only ids below
#   some 1,200 are drawn. Of 1/rank (Zipf) 34 % of the draws should be beyond rank 1,000; none is
#   beyond rank 200. mode="high", which is there for rare events, turns it around: 90 % are. In float16 the
#   highest rank is about 1,000.
# Hurt: "temperature 1" is a hard truncation that nobody asked for: perplexity, diversity and the rate of
#   toxic text are those of another model, without a warning. Cast the logits to float32 before sampling.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
TOKENS, DRAWS, AT_ONCE = 50_257, 1_000, 50
RANKS = np.random.default_rng(0).permutation(TOKENS) + 1
ZIPF = -np.log(RANKS)


def drawn(logits, dtype, mode=None):
    @jax.jit
    def some(key, logits):
        keys = jax.random.split(key, AT_ONCE)
        return jax.vmap(lambda key: jax.random.categorical(key, logits, mode=mode))(keys)

    logits = jnp.asarray(logits, dtype)
    keys = jax.random.split(jax.random.key(0), DRAWS // AT_ONCE)
    return np.concatenate([some(key, logits) for key in keys])


greatest, highest, beyond = {}, {}, {}
for dtype, mode in (("float32", None), ("float16", None), ("bfloat16", None), ("bfloat16", "high")):
    if mode is None:
        greatest[dtype] = drawn(np.zeros(TOKENS), dtype).max()
    ranks = RANKS[drawn(ZIPF, dtype, mode)]
    highest[dtype, mode], beyond[dtype, mode] = ranks.max(), (ranks > 1_000).mean()
    print(
        f"{dtype}, mode {mode}: equal logits: greatest id {greatest[dtype]:,}; Zipf: highest rank "
        f"{ranks.max():,}, beyond rank 1,000: {beyond[dtype, mode]:.1%}"
    )
softmax = np.asarray(jax.nn.softmax(jnp.asarray(ZIPF, "bfloat16").astype("float32")))
expected = softmax[RANKS > 1_000].sum()
print(f"the softmax of the bfloat16 logits has {expected:.1%} beyond rank 1,000")
assert 0.33 < expected < 0.36
assert abs(beyond["float32", None] - expected) < 0.06 and greatest["float32"] > 49_000
assert greatest["bfloat16"] < 3_000 and highest["bfloat16", None] < 300, "no longer so"
assert beyond["bfloat16", "high"] > 0.8, "no longer so"
print("as found")
P
