"""What rows on a GPU share: the shapes, their arithmetic, and torch as its users run it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work
from benchmarks.speed.training import packed, torch_step

LENGTH, STEPS = 1024, 8
_notes: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model of the paper, with GPT-2's vocabulary.

    Attributes:
      layers: of the network.
      width: of the residual stream.
      heads: of attention.
      rows: of `LENGTH` tokens in a training step.
    """

    layers: int
    width: int
    heads: int
    rows: int

    @property
    def flops_per_token(self) -> float:
        """Of a training step, forward and backward, without what is computed again (PaLM, B)."""
        matrices = 12 * self.layers * self.width**2 + gpt2.VOCAB_SIZE * self.width
        attention = self.layers * self.width * LENGTH  # causal: half of all pairs
        return 6.0 * matrices + 6.0 * attention


SHAPES = {
    "126m": Shape(12, 768, 12, 32),
    "357m": Shape(24, 1024, 16, 16),
    "1.3b": Shape(24, 2048, 32, 8),
}


def row(name: str) -> Row:
    """Training steps of a shape, in bfloat16 with float32 parameters."""
    shape = SHAPES[name]
    return Row(
        f"training steps of {shape.rows} x {LENGTH} tokens on a GPU, the paper's {name}, bfloat16",
        "tokens",
        {
            "ours": Side(lambda: ours(shape), notes=lambda: _notes),
            "torch.compile, SDPA": Side(lambda: theirs(shape), notes=lambda: _notes),
            "ours, all logits at once": Side(
                lambda: ours(shape, logits_chunk=None), notes=lambda: _notes
            ),
            "ours, plain attention": Side(
                lambda: ours(shape, attention_kernel="plain"), notes=lambda: _notes
            ),
            "ours, nothing computed again": Side(
                lambda: ours(shape, remat="none"), notes=lambda: _notes
            ),
        },
    )


def ours(shape: Shape, **settings: Any) -> Work:
    """Our steps.

    Args:
      shape: of the model.
      **settings: of its configuration, in place of those of gin_configs/models.
    """
    import jax

    from detox_jax.training import step
    from detox_jax.training.optimizer import AdamW

    model, mesh, params = gpt2.ours(
        num_layers=shape.layers,
        emb_dim=shape.width,
        num_heads=shape.heads,
        mlp_dim=4 * shape.width,
        max_length=LENGTH,
        dtype="bfloat16",
        **{"remat": "dots", "logits_chunk": 512, **settings},
    )
    optimizer = AdamW().transformation(total_steps=1000)
    batch = packed(gpt2.random_prompts(shape.rows, LENGTH + 1))
    with jax.set_mesh(mesh):
        state = step.create_state(params, mesh, optimizer)
        del params
        started = time.perf_counter()
        compiled = step.jit_train_step(model, optimizer, 0).lower(state, {}, batch).compile()
    _notes["compile_seconds"] = time.perf_counter() - started
    memory = compiled.memory_analysis()
    _notes["xla_mib"] = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
    held = [state]

    def work() -> None:
        for _ in range(STEPS):
            held[0], metrics = compiled(held[0], {}, batch)
        jax.block_until_ready(metrics)

    return _timed(shape, work)


def theirs(shape: Shape) -> Work:
    """Torch's steps: compiled, scaled-dot-product attention, autocast, a fused AdamW."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=50_304,  # a multiple of 64, as fast trainers of GPT-2 pad it
        n_positions=LENGTH,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.set_float32_matmul_precision("high")
    model = transformers.GPT2LMHeadModel(config).cuda().train()
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=2e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids = torch.tensor(gpt2.random_prompts(shape.rows, LENGTH + 1)).cuda()

    def work() -> None:
        for _ in range(STEPS):
            torch_step(compiled, optimizer, ids, bf16=True)
        torch.cuda.synchronize()
        _notes["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20

    return _timed(shape, work)


def _timed(shape: Shape, steps: Callable[[], None]) -> Work:
    """Steps three times over, and what they reach of the arithmetic, for the notes."""

    def work() -> float:
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            steps()
            seconds.append(time.perf_counter() - started)
        tokens = STEPS * shape.rows * LENGTH
        rate = shape.flops_per_token * tokens / statistics.median(seconds)
        _notes["teraflops"] = rate / 1e12
        _notes["seconds_of_steps"] = seconds
        return 3.0 * tokens

    return work


def matrix_product() -> Mapping[str, float]:
    """What a large bfloat16 product reaches on this device, the ceiling of the rows above."""
    import jax
    import jax.numpy as jnp

    size, repeats = 8192, 20
    left, right = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in (0, 1))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(left, right))
    started = time.perf_counter()
    for _ in range(repeats):
        result = product(left, right)
    jax.block_until_ready(result)
    return {"teraflops": 2 * size**3 * repeats / (time.perf_counter() - started) / 1e12}
