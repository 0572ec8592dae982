"""The shape of GPT-2 small with random weights, for us and for transformers."""

from __future__ import annotations

from typing import Any

import numpy as np

VOCAB_SIZE = 50_257
LAYERS, WIDTH, HEADS, POSITIONS = 12, 768, 12, 1024
# By the names that our configuration and T5X's share.
SIZES = {
    "vocab_size": VOCAB_SIZE + 1,  # with padding
    "emb_dim": WIDTH,
    "num_heads": HEADS,
    "num_layers": LAYERS,
    "mlp_dim": 4 * WIDTH,
    "dropout_rate": 0.0,
}


def ours(adaptation: Any = None, **sizes: Any) -> tuple[Any, Any, Any]:
    """Our network, its mesh of one device, and random parameters."""
    import jax

    from detox_jax.models.config import TransformerConfig
    from detox_jax.models.transformer import TransformerLM
    from detox_jax.parallel import mesh as meshes

    fields = {**SIZES, "max_length": POSITIONS, **sizes}
    model = TransformerLM(TransformerConfig(**fields), adaptation)
    mesh = meshes.create_mesh({"data": 1}, meshes.all_devices()[:1])
    params = jax.jit(
        lambda: model.init(jax.random.key(0), np.ones((1, 1), np.int32), enable_dropout=False)[
            "params"
        ]
    )()
    return model, mesh, params


def torchs(**sizes: Any) -> Any:
    """The network of transformers, of sizes by the names of ours."""
    import torch
    import transformers

    torch.manual_seed(0)
    fields = {**SIZES, "vocab_size": VOCAB_SIZE, "max_length": POSITIONS, **sizes}
    config = transformers.GPT2Config(
        vocab_size=fields["vocab_size"],
        n_positions=fields["max_length"],
        n_embd=fields["emb_dim"],
        n_layer=fields["num_layers"],
        n_head=fields["num_heads"],
        n_inner=fields["mlp_dim"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def decoder(max_new_tokens: int, end_ids: tuple[int, ...] = (0,), **sizes: Any) -> Any:
    """A `Decoder` with the evaluation protocol's nucleus; id 0 is padding, which nobody draws."""
    from detox_jax.generation.decoding import Decoder
    from detox_jax.generation.sampling import TopPSampling

    model, mesh, params = ours(**sizes)
    return Decoder(
        model,
        params,
        mesh,
        sampling=TopPSampling(0.9),
        max_new_tokens=max_new_tokens,
        end_ids=end_ids,
        seed=0,
    )


def decode(
    prompts: np.ndarray, samples: int, new_tokens: int, *, at_once: int, bucket: int, **sizes: Any
) -> Any:
    """What our verb does, for prompts of equal length; returns the work.

    Args:
      prompts: ids `[prompts, length]`.
      samples: of each.
      new_tokens: of each sample.
      at_once: prompts of a batch.
      bucket: to whose multiple prompts are padded.
      **sizes: of the network, see `ours`.
    """
    decodes = decoder(new_tokens, **sizes)
    ids, names = prompts.tolist(), [str(n) for n in range(len(prompts))]

    def work() -> float:
        groups = decodes(ids, names, num_samples=samples, num_rows=at_once, bucket=bucket)
        return float(sum(len(sample.tokens) for group in groups for sample in group))

    return work


def generate(
    prompts: np.ndarray,
    samples: int,
    new_tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    at_once: int | None = None,
) -> Any:
    """What a user of transformers calls, for prompts of equal length; returns the work.

    Args:
      prompts: ids `[prompts, length]`.
      samples: of each.
      new_tokens: of each sample.
      device: of torch.
      dtype: of the parameters.
      at_once: prompts of a call; all where None.
    """
    import torch

    model = torchs().eval().to(device, getattr(torch, dtype))
    batches = torch.tensor(prompts).to(device).split(at_once or len(prompts))

    def work() -> float:
        with torch.inference_mode():
            for ids in batches:
                samples_of_ids = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=0,
                    top_p=0.9,
                    num_return_sequences=samples,
                    min_new_tokens=new_tokens,
                    max_new_tokens=new_tokens,
                    pad_token_id=VOCAB_SIZE - 1,
                )
                samples_of_ids.cpu()
        return float(len(prompts) * samples * new_tokens)

    return work


def random_prompts(number: int, length: int, vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    """Ids that neither side gives a meaning."""
    return np.random.default_rng(0).integers(5, vocab_size - 5, (number, length))
