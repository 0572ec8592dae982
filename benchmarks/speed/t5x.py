"""What rows beside T5X share: its `temperature_sample`, nucleus 0.9, from its network or ours.

Both networks have GPT-2's matrices and vocabulary in float32, and each way of calling T5X is one
compiled call on all rows. The id that ends a text is none of the vocabulary's, so that no row ends
before its array is full; what is counted are the tokens in what comes back. A prompt's first token
stands where T5X has the beginning of a sequence, so that it reads as many positions as we do.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Work

NO_END = -1


def theirs(**sizes: Any) -> tuple[Any, Any]:
    """T5X's own example of a decoder-only network, and random parameters.

    Beside GPT-2's matrices it has RMS norms, no biases, and a bias of attention by distance, which
    it caches, in place of positions. It looks tokens up by a product of one-hot rows with the
    embedding, which its code prescribes; our network under T5X does not.
    """
    import jax
    from t5x.examples.decoder_only import network

    fields = {**gpt2.SIZES, "mlp_activations": ("gelu",), "logits_via_embedding": True, **sizes}
    fields["head_dim"] = fields["emb_dim"] // fields["num_heads"]
    model = network.DecoderWrapper(network.TransformerConfig(**fields))
    token = np.ones((1, 1), np.int32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), token, token, enable_dropout=False))()
    params = variables["params"]
    # GPT-2's scale: at T5X's, 1, random weights say their last token again and again.
    params["decoder"]["token_embedder"]["embedding"] *= 0.02
    return model, params


def ours(**sizes: Any) -> tuple[Any, Any]:
    """Our network, as `gin_configs/t5x/infer.gin` puts it under T5X, and random parameters."""
    network, _, params = gpt2.ours(**sizes)
    return network, params


def infer(network: Any, params: Any, prompts: np.ndarray, samples: int, new_tokens: int) -> Work:
    """What T5X's `infer.py` compiles, for prompts of equal length; returns the work.

    It fills a cache from prompts that are padded to the whole length, and copies it for every
    sample.

    Args:
      network: T5X's or ours.
      params: its parameters.
      prompts: ids `[prompts, length]`.
      samples: of each.
      new_tokens: of each sample.
    """
    import jax
    import seqio
    from t5x import models

    model = models.DecoderOnlyModel(
        network,
        seqio.PassThroughVocabulary(gpt2.VOCAB_SIZE + 1),
        optimizer_def=None,
        decode_fn=_temperature_sample(),
    )
    batch = {
        "decoder_input_tokens": _padded(prompts, new_tokens),
        "decoder_causal_attention": _padded(np.ones_like(prompts), new_tokens),
    }

    @jax.jit
    def predict(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        how = {"num_decodes": samples, "decoder_params": {"eos_id": NO_END}}
        return model.predict_batch_with_aux(params, batch, key, return_all_decodes=True, **how)[0]

    return lambda: _count(predict(params, batch, jax.random.key(0)))


def from_nothing(network: Any, params: Any, rows: int, new_tokens: int) -> Work:
    """T5X's `temperature_sample` alone, from an empty cache, which its `infer.py` always fills.

    Args:
      network: T5X's.
      params: its parameters.
      rows: texts; each is begun with id 0.
      new_tokens: of each.
    """
    import jax

    apply = functools.partial(network.apply, enable_dropout=False, decode=True, mutable=["cache"])
    nothing = np.zeros((rows, new_tokens), np.int32)

    @jax.jit
    def sample(params: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
        def logits(state: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "cache": state.cache}
            logits_B1V, new = apply(
                variables, state.cur_token, state.cur_token, max_decode_length=new_tokens
            )
            return logits_B1V[:, 0], new["cache"]

        _, empty = apply({"params": params}, inputs, inputs)
        draw = _temperature_sample()
        return draw(inputs, empty["cache"], logits, NO_END, key)[0]

    return lambda: _count(sample(params, nothing, jax.random.key(0)))


def _temperature_sample() -> Any:
    from t5x import decoding

    return functools.partial(decoding.temperature_sample, temperature=1.0, topk=0, topp=0.9)


def _padded(ids: np.ndarray, new_tokens: int) -> np.ndarray:
    """As long as what is read: of each text all tokens but the last."""
    return np.pad(ids, ((0, 0), (0, new_tokens - 1))).astype(np.int32)


def _count(texts: Any) -> float:
    """Tokens behind the prompts; padding is 0 (T5X's network draws it once in 50,000 tokens)."""
    return float(np.count_nonzero(np.asarray(texts)))
