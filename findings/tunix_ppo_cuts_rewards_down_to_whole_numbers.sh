#!/usr/bin/env bash
# tunix's PPO cuts rewards down to whole numbers: a safety score between 0 and 1 is no reward at all.
#
# Guess: PPOLearner learns from what its reward functions return, "a list of float rewards", or from a reward model's
#   scores, as GRPOLearner does: 0.9 for a harmless answer is better than 0.1 for a toxic one.
# Seen (google-tunix 0.1.7, jax 0.10.2): the table that rewards are put into has the type of the tokens, int32, and
#   what is added to it loses its fraction: 0.95 becomes 0, 2.19 becomes 2 and -0.57 becomes 0. With beta=0 the weights
#   of the model are the same to the last bit after training with a score and with its opposite, 1 - score. Scores of
#   a reward model are cut in the same way. In the log rewards/score is what was given, rewards/reward what is left;
#   jax writes one FutureWarning, about "scatter inputs". A hundredfold reward loses its hundredths only.
# Hurt: whoever trains against a toxicity classifier, whose scores are between 0 and 1, trains on the critic's noise
#   and, with the default beta, on the distance to the reference alone: nothing is detoxified, and the log's scores
#   look sensible. Of a reward model's -3 to 3 only whole steps count. Multiply rewards by 100 or 1,000.
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
from tunix.rl import rl_cluster, utils
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

print(*(f"{name} {metadata.version(name)}" for name in ("google-tunix", "jax")))
STEPS, LENGTH = 1, 8
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


def new_model(seed=0):
    return qwen2.Qwen2(config, rngs=nnx.Rngs(seed))


def score(text):
    """A stand-in for a classifier of texts: above 0, below 1."""
    return 0.95 - 0.9 * text.count("a") / max(1, len(text))


class Learner(ppo_learner.PPOLearner):
    def _generate_and_compute_advantage(self, *inputs, **settings):
        example = super()._generate_and_compute_advantage(*inputs, **settings)
        self.examples.append(example)
        return example


def trained(reward=None):
    """What was rewarded, what the first token's return was (the undiscounted sum of rewards), the model's weights."""
    model, given = new_model(), []
    cluster = rl_cluster.RLCluster(
        actor=model, critic=utils.create_critic_model(model), reference=new_model(), tokenizer=tokenizer,
        reward=None if reward else utils.create_critic_model(new_model(1)),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={role: mesh for role in rl_cluster.Role},
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adam(3e-3), critic_optimizer=optax.adam(3e-3), eval_every_n_steps=1000,
                max_steps=STEPS,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=LENGTH, max_prompt_length=16, kv_cache_size=64, temperature=1.0
            ),
        ),
    )

    def rewards_of(completions, **_):
        return [reward(text) for text in completions]

    def note(rewards, **_):
        given.append(np.asarray(rewards, np.float64))
        return {}

    learner = Learner(
        cluster, ppo_learner.PPOConfig(beta=0.0, gamma=1.0, gae_lambda=1.0), rewards_of if reward else None, [note]
    )
    learner.examples = []
    learner.train([{"prompts": prompts}] * STEPS)
    first = learner.examples[0]
    whole = np.asarray(first.completion_mask).all(-1)  # without answers that hold padding, from an untrained model
    returns = np.asarray(first.returns, np.float64)[whole, 0]
    return given[0][whole], returns, jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(cluster.actor_trainer.model)))


def same(first, second):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


start = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(new_model())))
weights = {}
for name, reward in (
    ("score", score),
    ("1 - score", lambda text: 1 - score(text)),
    ("100 * score", lambda text: 100 * score(text)),
    ("a reward model's", None),
):
    given, returns, weights[name] = trained(reward)
    print(f"{name}: rewards {given[:5].round(2)}, returns {np.abs(returns[:5]).round(2) * np.sign(returns[:5])}")
    assert len(given) > 4 and np.abs(given - np.trunc(given)).max() > 0.1
    assert np.abs(returns - np.trunc(given)).max() < 1e-3 * max(1, np.abs(given).max()), "no longer so"
opposite = same(weights["score"], weights["1 - score"])
print("weights after a score and after its opposite:", "the same" if opposite else "others")
assert opposite and not same(weights["score"], start), "no longer so"
assert not same(weights["100 * score"], weights["score"])
P
