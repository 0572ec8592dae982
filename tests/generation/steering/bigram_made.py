"""A bigram model with the call of `TransformerLM`: what a whole loop draws can be enumerated.

Its final hidden state is one-hot, of the last token and the code, and its output table says what is
next.

Ids: 0 padding, 1 kind, 2 rude, 3 end. What a row says next depends on its last token and on whether
a code, CLEAN or DIRTY, stood before: codes are no tokens of the vocabulary and are never drawn.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from detox_jax.models.config import TransformerConfig

KIND, RUDE, END, CLEAN, DIRTY = 1, 2, 3, 4, 5
SHAPE = (3, 6, 8)  # of its table: code, last token, next token
CONFIG = TransformerConfig(
    vocab_size=4, emb_dim=3 * 6, num_heads=1, num_layers=1, mlp_dim=4, max_length=32
)
# Logits behind "kind" and "rude": of the base, behind a code or of an expert.
BASE = ((1, 0, 0.5), (0, 1, 0.5))
EXPERT = ((1.5, -0.5, 0.5), (0.5, 0, 0.5))
ANTI = ((0, 1.5, 0), (0, 2, 0))
_MODES = {CLEAN: 1, DIRTY: 2}


def params(base=BASE, clean=EXPERT, dirty=ANTI, shift=0.0):
    """A table of logits, by mode, last token and next token."""
    table = np.zeros(SHAPE, np.float32)
    for mode, rows in enumerate((base, clean, dirty)):
        table[mode, KIND, 1:4], table[mode, RUDE, 1:4] = rows
    # Behind the codes themselves, which is what the first token of a document sees.
    table[1, CLEAN, 1:4], table[2, DIRTY, 1:4] = (1, 0, 0), (0, 1, 0)
    output = np.zeros((CONFIG.padded_vocab_size, CONFIG.emb_dim), np.float32)
    output[: SHAPE[-1]] = (table + shift).reshape(CONFIG.emb_dim, SHAPE[-1]).T
    embedder = {"embedding": jnp.asarray(output)}
    return {"table": jnp.asarray(table + shift), "token_embedder": embedder}


def of_tokens(values):
    """A vector whose product with a final hidden state is its last token's number, 0 of others."""
    by_code = np.zeros(SHAPE[:2], np.float32)
    by_code[:, [*values]] = [*values.values()]
    return jnp.asarray(by_code.ravel())


class Bigram(nn.Module):
    """See above; the cache holds which codes a row has read, at the positions of its tokens."""

    config: TransformerConfig = dataclasses.field(default_factory=lambda: CONFIG)

    @property
    def vocab_size(self):
        return self.config.vocab_size

    @nn.compact
    def __call__(
        self,
        tokens_BL,
        *,
        decode=False,
        prefill=None,
        prefill_lengths=None,
        enable_dropout=True,
        with_logits=True,
        ahead=False,
    ):
        del enable_dropout
        B, L = tokens_BL.shape
        table = self.param("table", nn.initializers.zeros, SHAPE)
        ready = self.has_variable("cache", "codes")
        codes = self.variable("cache", "codes", jnp.zeros, (1, B, 1, L, 1), jnp.float32)
        index = self.variable("cache", "cache_index", jnp.zeros, (1, B), jnp.int32)
        codes_BL = sum(jnp.where(tokens_BL == code, number, 0) for code, number in _MODES.items())
        mode_BL = jax.lax.cummax(codes_BL.astype(jnp.int32), axis=1)
        new = codes_BL.astype(jnp.float32)[None, :, None, :, None]
        if ready and ahead:
            assert not with_logits  # which would have to know what each might follow
            codes.value = new
        elif ready and prefill:
            codes.value = jax.lax.dynamic_update_slice(codes.value, new, (0,) * 5)
            index.value = prefill_lengths[None].astype(jnp.int32)
        elif ready and decode:
            places = jnp.arange(codes.value.shape[3])
            here_BM = places == index.value[0][:, None]
            read_BM = codes.value[0, :, 0, :, 0]
            read_BM = jnp.where(here_BM, codes_BL, read_BM)
            codes.value = read_BM[None, :, None, :, None]
            seen_BM = places <= index.value[0][:, None]
            mode_BL = jnp.max(jnp.where(seen_BM, read_BM, 0), axis=-1, keepdims=True).astype(
                jnp.int32
            )
            index.value = index.value + 1
        if not with_logits:
            return jax.nn.one_hot(mode_BL * SHAPE[1] + tokens_BL, CONFIG.emb_dim)
        logits_BLV = table[mode_BL, tokens_BL]
        ids = jnp.arange(8)
        return jnp.where((ids > 0) & (ids < 4), logits_BLV, -1e10)


MODEL = Bigram()


@jax.jit
def step(steerings, states, logits_RV, token_R):
    """One step of the methods, as a distribution over kind, rude, end."""
    from detox_jax.generation.steering import steering

    distribution, states = steering.adjust(steerings, states, logits_RV, token_R, 4)
    masked_RV = jnp.where(distribution.allowed_RV, distribution.logits_RV, -jnp.inf)
    return jax.nn.softmax(masked_RV)[:, 1:4], states


@jax.jit
def start(steerings, prompts_NP, lengths_N):
    """What the methods know of the prompts, with room for 16 positions."""
    from detox_jax.generation.steering import steering

    return steering.start(steerings, prompts_NP, lengths_N, 16)


def enumerate_two(steerings, prompt=(KIND,)):
    """The first token's probabilities, P(no rude token) and P(rude, rude) of two new tokens."""
    table = params()["table"]
    prompts_NP, lengths_N = jnp.array([prompt], jnp.int32), jnp.array([len(prompt)])
    states = start(steerings, prompts_NP, lengths_N)
    first, states = step(steerings, states, table[0, jnp.array(prompt[-1:])], prompts_NP[:, -1])
    after = [
        step(steerings, states, table[0, jnp.array([token])], jnp.array([token]))[0][0]
        for token in (KIND, RUDE)
    ]
    kind, rude, end = np.asarray(first[0], np.float64)
    clean = end + kind * (1 - float(after[0][1]))
    return (kind, rude, end), clean, rude * float(after[1][1])
