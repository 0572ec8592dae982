"""Row: a training step of 4 rows of 256 tokens beside torch."""

from __future__ import annotations

import atexit
import contextlib
import math
import resource
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

BATCH = ROWS, LENGTH = 4, 256
STEPS = 4
_memory: dict[str, float] = {}


def packed(tokens_BL: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of rows that are a document each."""
    tokens = tokens_BL.astype(np.int32)
    ones = np.ones(tokens[:, 1:].shape, np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": ones,
        "decoder_segment_ids": ones,
        "decoder_positions": np.cumsum(ones, axis=1, dtype=np.int32) - 1,
    }


def ours(
    kind: str | None = None,
    dtype: str = "float32",
    batch: tuple[int, int] = BATCH,
    num_steps: int = STEPS,
    *,
    keeps: bool = True,
    **sizes: Any,
) -> Work:
    """Our steps.

    Args:
      kind: of the adaptation; the whole model where None.
      dtype: of activations and products.
      batch: rows, and tokens of each.
      num_steps: that are taken.
      keeps: whether what a step frees is kept for the next one, as `train` keeps it.
      **sizes: where they are not those of GPT-2.
    """
    import jax

    from detox_jax.checkpoints import params as params_lib
    from detox_jax.models import adaptation
    from detox_jax.training import host_memory, step
    from detox_jax.training.optimizer import AdamW

    adapted = {
        None: None,
        "adapter": adaptation.AdapterConfig(bottleneck_dim=256),
        "lora": adaptation.LoRAConfig(rank=8),
    }[kind]
    model, mesh, params = gpt2.ours(adapted, dtype=dtype, **sizes)
    trainable, frozen = params, {}
    if adapted is not None:
        trainable, frozen = params_lib.partition(params, adaptation.trainable_pattern(adapted))
    optimizer = AdamW().transformation(total_steps=100)
    state = step.create_state(trainable, mesh, optimizer)
    arrays = packed(_tokens(batch, **sizes))
    compiled = step.jit_train_step(model, optimizer, 0).lower(state, frozen, arrays).compile()
    memory = compiled.memory_analysis()
    _memory["xla_mib"] = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
    held = [state]
    if keeps:  # From here on, as `train` does: steps behind the first find the memory of that one.
        kept = contextlib.ExitStack()
        kept.enter_context(host_memory.kept())
        atexit.register(kept.close)

    def work() -> float:
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(num_steps):
            held[0], metrics = compiled(held[0], frozen, arrays)
        jax.block_until_ready(metrics)
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
        _memory["pages_per_step"] = pages / num_steps
        return float(num_steps * math.prod(batch))

    return work


def _tokens(batch: tuple[int, int], vocab_size: int = gpt2.VOCAB_SIZE, **_: Any) -> np.ndarray:
    """Rows with a token more than is read; other sizes of the model say nothing of them."""
    rows, length = batch
    return gpt2.random_prompts(rows, length + 1, vocab_size)


def theirs(
    bf16: bool = False,
    batch: tuple[int, int] = BATCH,
    num_steps: int = STEPS,
    **sizes: Any,
) -> Work:
    """Torch's steps with a fused AdamW; products in bfloat16 by autocast, where asked for."""
    import torch

    model = gpt2.torchs(**sizes).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=2e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids = torch.tensor(_tokens(batch, **sizes))

    def work() -> float:
        for _ in range(num_steps):
            torch_step(model, optimizer, ids, bf16=bf16)
        return float(num_steps * math.prod(batch))

    return work


def torch_step(model: Any, optimizer: Any, ids_BL: Any, *, bf16: bool) -> None:
    """A step of torch's, products in bfloat16 by autocast where asked for."""
    import torch

    with torch.autocast(ids_BL.device.type, torch.bfloat16, enabled=bf16):
        logits = model(ids_BL[:, :-1]).logits
        loss: Any = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids_BL[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def notes() -> Mapping[str, float]:
    """Arguments and temporaries of the compiled step, by XLA's analysis; new pages in each."""
    return _memory


ROW = Row(
    f"training steps of {ROWS} x {LENGTH} tokens, float32",
    "tokens",
    {
        "ours": Side(ours, notes=notes),
        "torch, fused AdamW": Side(theirs),
    },
)

if __name__ == "__main__":
    main(ROW)
