#!/usr/bin/env bash
# tunix's PPO and GRPO compare probabilities at two temperatures: a model that has not moved is far from itself.
#
# Guess: where policy and reference are the same weights, PPOLearner's KL penalty is 0 on all tokens, and the importance
#   ratio of GRPOLearner's first update, before any weight has changed, is 1, whatever temperature answers are drawn at.
# Seen (google-tunix 0.1.7, jax 0.10.2): the reference's probabilities, and in GRPO the policy's, are taken at the
#   temperature of the rollouts, 0.9 where none is given; the policy's before the update are taken at 1. PPO's KL of a
#   model to itself is 0.04 nats a token at 0.7, and the penalty is least where the policy at 1 is the reference at 0.7.
#   GRPO with num_iterations above 1 starts at ratios from 0.1 to 1.5 at 0.7, and clips 28% of the tokens before any
#   weight has moved; at 0.9 they are 0.5 to 1.1. At temperature 1 all is as it should be.
# Hurt: in PPO the penalty that should keep the detoxified model near its base sharpens it, and the KL in the log is not
#   the distance to the base; in GRPO a part of the tokens gets no gradient and others too much, so that a run at
#   another temperature differs by more than its answers. Draw at temperature 1, or keep GRPO's num_iterations at 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-tunix==0.1.7 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 \
  sentencepiece==0.2.3 qwix==0.1.8 google-metrax==0.2.4
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import random
from importlib import metadata

import jax
import numpy as np
import optax
import sentencepiece
from flax import nnx
from tunix.models.qwen2 import model as qwen2
from tunix.rl import algo_core, common, rl_cluster, utils
from tunix.rl.grpo import grpo_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

print(*(f"{name} {metadata.version(name)}" for name in ("google-tunix", "jax")))
print("temperature that rollouts have where none is given:", base_rollout.RolloutConfig().temperature)
draw = random.Random(0)
words = "the bus was late again and we walked home in the rain while it was dark outside nobody said a word".split()
with open("corpus.txt", "w") as file:
    file.writelines(" ".join(draw.choices(words, k=8)) + "\n" for _ in range(500))
sentencepiece.SentencePieceTrainer.train(
    input="corpus.txt", model_prefix="pieces", vocab_size=60, hard_vocab_limit=False, minloglevel=2,
    pad_id=0, eos_id=1, bos_id=2, unk_id=3,
)
tokenizer = sentencepiece.SentencePieceProcessor(model_file="pieces.model")
config = qwen2.ModelConfig(
    num_layers=1, vocab_size=len(tokenizer), embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16, num_kv_heads=2,
    rope_theta=10_000, norm_eps=1e-5,
)
prompts = np.array([" ".join(draw.choices(words, k=4)) for _ in range(16)])
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def new_model():
    model = qwen2.Qwen2(config, rngs=nnx.Rngs(0))
    model.lm_head.w[...] *= 4  # as sure of some tokens as a trained model is
    return model


def example_of(kind, settings, temperature, critic=None):
    """What the learner makes of the first batch, before any update: the policy is the reference."""
    cluster = rl_cluster.RLCluster(
        actor=new_model(), critic=critic, reference=new_model(), tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={role: mesh for role in rl_cluster.Role},
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.0), critic_optimizer=optax.sgd(0.0), eval_every_n_steps=1000, max_steps=1
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=8, max_prompt_length=16, kv_cache_size=64, temperature=temperature
            ),
        ),
    )
    examples = []

    class Learner(kind):
        def _generate_and_compute_advantage(self, *inputs, **more):
            examples.append(super()._generate_and_compute_advantage(*inputs, **more))
            return examples[-1]

    learner = Learner(cluster, settings, lambda completions, **_: [len(text) for text in completions])
    learner.train([{"prompts": prompts}])
    return examples[0]


def by_hand(example, temperature):
    return np.asarray(common.compute_per_token_logps(
        *nnx.split(new_model()), example.prompt_ids, example.completion_ids, tokenizer.pad_id(), tokenizer.eos_id(),
        temperature=temperature,
    ))


for temperature in (1.0, 0.9, 0.7):
    settings = ppo_learner.PPOConfig(kl_method="low_var_kl")
    example = example_of(ppo_learner.PPOLearner, settings, temperature, utils.create_critic_model(new_model()))
    mask = np.asarray(example.completion_mask)
    old, reference = (np.asarray(part) for part in (example.old_per_token_logps, example.ref_per_token_logps))
    kl = {
        method: float((np.asarray(common.compute_kl_divergence(old, reference, method)) * mask).sum() / mask.sum())
        for method in ("kl", "low_var_kl")
    }
    print(f"PPO at {temperature}: KL to itself per token", {name: round(value, 3) for name, value in kl.items()})
    assert np.allclose(old, by_hand(example, 1.0), atol=1e-3)
    assert np.allclose(reference, by_hand(example, temperature), atol=1e-3), "no longer so"
    settings = grpo_learner.GRPOConfig(num_iterations=2, beta=0.0)
    example = example_of(grpo_learner.GRPOLearner, settings, temperature)
    settings.temperature = temperature
    loss, seen = algo_core.grpo_loss_fn(new_model(), example, settings, tokenizer.pad_id(), tokenizer.eos_id())
    names = ("is_ratio/mean", "is_ratio/min", "is_ratio/max", "pg_clipfrac")
    ratio = {name: float(seen[name]) for name in names}
    print(f"GRPO at {temperature}:", {name: round(value, 3) for name, value in ratio.items()})
    if temperature == 1:
        assert abs(kl["low_var_kl"]) < 1e-5 and ratio["pg_clipfrac"] == 0
        assert max(abs(ratio["is_ratio/min"] - 1), abs(ratio["is_ratio/max"] - 1)) < 1e-3
    else:
        assert kl["low_var_kl"] > 0.002 and ratio["is_ratio/min"] < 0.7 and ratio["pg_clipfrac"] > 0.01, "no longer so"
assert kl["low_var_kl"] > 0.02 and ratio["is_ratio/min"] < 0.3 and ratio["pg_clipfrac"] > 0.15, "no longer so"
P
