"""Row: documents of very different lengths beside documents that all reach the limit."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.speed import gpt2, processes
from benchmarks.speed.sides import Row, Side, Work, main

DOCUMENTS, ROWS, TOKENS, STOPS = 128, 32, 256, 60
_row_steps: dict[str, float] = {}


def _ours(end_ids: tuple[int, ...], documents: int) -> Work:
    decoder = gpt2.decoder(TOKENS, end_ids)
    prompts = gpt2.random_prompts(documents, 1).tolist()
    names = [str(n) for n in range(documents)]

    def work() -> float:
        before = decoder.row_steps
        groups = decoder(prompts, names, num_samples=1, num_rows=ROWS, bucket=1)
        tokens = sum(len(group[0].tokens) for group in groups)
        _row_steps["row_steps_per_token"] = (decoder.row_steps - before) / tokens
        return float(tokens)

    return work


def _ends() -> tuple[int, ...]:
    """One id in so many, since a random network draws nearly evenly."""
    ids = np.random.default_rng(1).permutation(np.arange(1, gpt2.VOCAB_SIZE))
    return tuple(ids[: gpt2.VOCAB_SIZE // STOPS].tolist())


@dataclasses.dataclass(frozen=True)
class _OneEnd:
    """A nucleus of 0.9 in which the first of the ids that end a text stands for all of them."""

    nucleus: Any

    def sample(self, logits_RV: Any, keys_R: Any) -> Any:
        import jax.numpy as jnp

        ends_V = np.isin(np.arange(logits_RV.shape[-1]), _ends())
        drawn_R = self.nucleus.sample(logits_RV, keys_R)
        return jnp.where(jnp.asarray(ends_V)[drawn_R], _ends()[0], drawn_R)


def _earlier() -> Work:
    """A batch went on until the last of its texts had ended, and took no others meanwhile."""
    sys.path.insert(0, str(processes.earlier()))
    import jax

    from detox_jax.generation import decoding, sampling
    from detox_jax.models.config import TransformerConfig
    from detox_jax.models.transformer import TransformerLM
    from detox_jax.parallel import mesh as meshes

    model = TransformerLM(TransformerConfig(**gpt2.SIZES, max_length=gpt2.POSITIONS))
    token = np.ones((1, 1), np.int32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), token, enable_dropout=False))()
    decoder: Any = decoding.Decoder
    decode = decoder(
        model,
        variables["params"],
        meshes.create_mesh({"data": 1}, jax.devices()[:1]),
        sampling=_OneEnd(sampling.TopPSampling(0.9)),
        max_new_tokens=TOKENS,
        eos_id=_ends()[0],
        seed=0,
    )
    how = {"num_samples": 1, "num_rows": ROWS, "bucket": 1}
    prompts = gpt2.random_prompts(DOCUMENTS, 1).tolist()
    decode([], [], **how)  # Compiles.

    def work() -> float:
        tokens = 0
        for first in range(0, DOCUMENTS, ROWS):
            names = [str(n) for n in range(first, first + ROWS)]
            groups = decode(prompts[first : first + ROWS], names, **how)
            tokens += sum(len(group[0].tokens) for group in groups)
        return float(tokens)

    return work


def _notes() -> Mapping[str, float]:
    return _row_steps


ROW = Row(
    f"{DOCUMENTS} documents, {ROWS} at a time, each token the last with probability 1/{STOPS}, "
    f"at most {TOKENS}",
    "tokens",
    {
        "ours": Side(lambda: _ours(_ends(), DOCUMENTS), notes=_notes),
        "ours, full rows": Side(lambda: _ours((0,), ROWS), notes=_notes),
        processes.EARLIER: Side(_earlier, warm_up=False),
    },
)

if __name__ == "__main__":
    main(ROW)
