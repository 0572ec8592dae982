#!/usr/bin/env bash
# tunix's ORPO takes the odds of whole answers, not of their mean token: which side is shorter decides the loss.
#
# Guess: algorithm="orpo" is the paper's objective and TRL's, which the code says it follows: odds of the probability
#   that is the geometric mean over an answer's tokens, so that answers of different lengths can be compared.
# Seen (google-tunix 0.1.7, jax 0.10.2): only the supervised part is divided by the length; the odds are of the sum.
#   A model without a preference, at whose start the paper's log odds are about 0 and the term is 0.7, gets
#   0.000 where the chosen side has 8 tokens and the rejected one 32, and 100 where it is the other way round. In
#   the first case the gradient of the term is 0: the rejected answer is left as likely as it was. The
#   odds ratio that is logged is infinite, or 0. Mean log-probabilities in their place give 0.7 in both cases.
# Hurt: mild texts are often the shorter ones, and of such pairs ORPO is plain fine-tuning on the chosen side,
#   whatever lambda_orpo is; where the chosen side is longer, it is pushed with full force for ever. Results
#   do not compare with TRL's at the same lambda. Use pairs of equal length, or a loss of one's own (with_loss_fn).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-tunix==0.1.7 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 \
  sentencepiece==0.2.3 qwix==0.1.8 google-metrax==0.2.4
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.llama3 import model as llama3
from tunix.sft.dpo import dpo_trainer

print(*(f"{name} {metadata.version(name)}" for name in ("google-tunix", "jax")))
ROWS, PROMPT, ROOM, VOCABULARY, LAMBDA = 8, 4, 32, 64, 0.1
config = llama3.ModelConfig(
    num_layers=2, vocab_size=VOCABULARY, embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16, num_kv_heads=2,
    rope_theta=10_000, norm_eps=1e-5,
)
model = llama3.Llama3(config, rngs=nnx.Rngs(0))
settings = dpo_trainer.DPOTrainingConfig(algorithm="orpo", lambda_orpo=LAMBDA, eval_every_n_steps=1000, max_steps=1)
trainer = dpo_trainer.DPOTrainer(model, None, optax.sgd(0.0), settings)
draw = np.random.default_rng(0)


def side(name, tokens):
    ids, mask = draw.integers(1, VOCABULARY, (ROWS, ROOM)), np.arange(ROOM) < np.full((ROWS, 1), tokens)
    return {f"{name}_ids": np.where(mask, ids, 0), f"{name}_mask": mask.astype(np.int32)}


def pairs(chosen, rejected):
    prompt = {"prompt_ids": draw.integers(1, VOCABULARY, (ROWS, PROMPT)), "prompt_mask": np.ones((ROWS, PROMPT), np.int32)}
    return trainer._prepare_inputs(prompt | side("chosen", chosen) | side("rejected", rejected))


def term(example):
    """The preference term as tunix has it, the norm of its gradient, and the odds ratio that is logged."""
    loss = lambda model, weight: dpo_trainer.dpo_loss_fn(model, example, algorithm="orpo", lambda_orpo=weight)[0]
    gradients = [nnx.grad(loss)(model, weight) for weight in (LAMBDA, 0.0)]
    norm = optax.global_norm(jax.tree.map(lambda with_term, without: (with_term - without) / LAMBDA, *gradients))
    logged = dpo_trainer.dpo_loss_fn(model, example, algorithm="orpo", lambda_orpo=LAMBDA)[1]
    return float(logged["or_loss"]), float(norm), float(logged["odds_ratio"])


def of_means(example):
    """The same term of mean log-probabilities, as in the paper."""
    chosen, rejected = dpo_trainer.compute_logps(
        model, example.input_ids, example.positions, example.attention_mask, example.logits_to_keep,
        example.completion_mask,
    )
    lengths = example.completion_mask.sum(-1)
    means = chosen / lengths[:ROWS], rejected / lengths[ROWS:]
    odds = [mean - jnp.log1p(-jnp.exp(mean)) for mean in means]
    return float(-jax.nn.log_sigmoid(odds[0] - odds[1]).mean())


found = {}
for chosen, rejected in ((8, 32), (32, 8), (16, 16)):
    example = pairs(chosen, rejected)
    found[chosen, rejected] = *term(example), of_means(example)
    term_seen, norm, ratio, mean = found[chosen, rejected]
    print(
        f"chosen of {chosen:2} tokens, rejected of {rejected:2}: term {term_seen:.3f}, gradient {norm:.4f}, "
        f"odds ratio {ratio:.2g}; of means {mean:.3f}"
    )
short, long = found[8, 32], found[32, 8]
assert short[0] < 1e-6 and short[1] < 1e-4 and not np.isfinite(short[2]), "no longer so"
assert long[0] > 50 and long[1] > 1, "no longer so"
assert all(abs(values[3] - np.log(2)) < 0.2 for values in found.values())
P
