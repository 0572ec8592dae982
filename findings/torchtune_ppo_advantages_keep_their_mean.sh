#!/usr/bin/env bash
# torchtune's PPO puts the mean back into advantages that it has just centred: a bad batch unlearns all its answers.
#
# Guess: rlhf.estimate_advantages "normalizes advantages across the batch": mean 0 and deviation 1, as TRL's
#   masked_whiten, from which rlhf.whiten says that it is taken, gives by its default shift_mean=True.
# Seen (torchtune 0.6.1, torch 2.13.0, torchao 0.10.0): whiten adds the mean where shift_mean is True; TRL does so where
#   it is False. The PPO recipe takes the default: advantages have deviation 1 and the mean that they had, and a batch
#   whose returns are 5 below the values has -7 to -3. Each sampled token is pushed down, the best too, and what was not
#   sampled goes up in its place. A small policy whose rewards are minus a penalty of 4 to 6, with values that start at
#   0, goes from 11 to 97 of 100 draws of tokens that it had nearly never drawn, the worst ones, and its reward from
#   -5.4 to about -9; centred advantages bring it to -4. Where the values are right, both learn.
# Hurt: rewards of detoxification are penalties, and a new value head answers about 0: then the first steps of PPO teach
#   the model to say anything but what it says. It looks like a learning rate too high or a KL penalty too small. Call
#   whiten(..., shift_mean=False) on what estimate_advantages gives.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet torchtune==0.6.1 torchao==0.10.0 numpy==2.4.6
cd "$work"
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=""
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
from torchtune import rlhf
from torchtune.rlhf.loss import PPOLoss

print(*(f"{name} {metadata.version(name)}" for name in ("torchtune", "torchao", "torch")))
torch.set_num_threads(1)


def centred(values, rewards, masks):
    """Generalised advantages with gamma 1 and lambda 0.95, in float64, and the same with mean 0 and deviation 1."""
    values, rewards = values.double(), rewards.double()
    raw, carried = torch.zeros_like(values), torch.zeros(len(values), dtype=torch.float64)
    for t in reversed(range(values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else 0
        carried = rewards[:, t] + following - values[:, t] + 0.95 * carried
        raw[:, t] = carried
    chosen = raw[masks]
    return raw, torch.where(masks, (raw - chosen.mean()) / chosen.std(), 0).float()


torch.manual_seed(0)
masks = torch.arange(12) < torch.randint(4, 13, (16, 1))
ends = masks.sum(1) - 1
values = 0.1 * torch.randn(16, 12) * masks
rewards = torch.zeros(16, 12)
rewards[torch.arange(16), ends] = -5 - torch.rand(16)
raw, expected = centred(values, rewards, masks)
got, _ = rlhf.estimate_advantages(values, rewards, 1.0, 0.95, masks=masks)
for name, figures in (("before", raw), ("torchtune's", got), ("centred", expected)):
    kept = figures[masks]
    above = (kept > 0).double().mean()
    print(f"advantages {name}: mean {kept.mean():.2f}, deviation {kept.std():.2f}, {above:.0%} above 0")
assert torch.allclose(got[masks], (expected + raw[masks].mean())[masks].float(), atol=1e-4), "no longer so"
assert (got[masks] < 0).all() and 0.3 < (expected[masks] > 0).double().mean() < 0.7, "no longer so"
whitened = rlhf.whiten(got, mask=masks, shift_mean=False)
assert torch.allclose(whitened[masks], expected[masks], atol=1e-4)

# A policy over 1000 answers of one token: it says 20 of them nine times in ten, at penalties of 4 to 6; others cost 9.
REWARDS = torch.cat([torch.linspace(-6, -4, 20), torch.full((980,), -9.0)])


def learnt(advantages_of, value):
    torch.manual_seed(1)
    scores = torch.nn.Parameter(torch.cat([torch.full((20,), 6.0), torch.zeros(980)]))
    optimizer, loss_of = torch.optim.Adam([scores], lr=0.05), PPOLoss(epsilon=0.2)
    trace = []
    for _ in range(31):
        chances = scores.softmax(-1).detach()
        trace.append(((chances * REWARDS).sum().item(), chances[20:].sum().item()))
        drawn = torch.multinomial(chances, 64, replacement=True)
        old, values, rewards = chances.log()[drawn, None], torch.full((64, 1), value), REWARDS[drawn, None]
        advantages = advantages_of(values, rewards)
        for _ in range(4):
            now = scores.log_softmax(-1)[drawn, None]
            loss, *_ = loss_of(old, now, advantages, values, values, rewards)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return trace


seen = {}
for value in (0.0, -5.0):
    for name, function in (
        ("torchtune's", lambda values, rewards: rlhf.estimate_advantages(values, rewards, 1.0, 0.95)[0]),
        ("centred", lambda values, rewards: centred(values, rewards, torch.ones_like(values, dtype=bool))[1]),
    ):
        seen[value, name] = learnt(function, value)
        shown = ", ".join(f"{reward:.1f} ({other:.0%})" for reward, other in seen[value, name][::6])
        print(f"values of {value:.0f}, {name}: mean reward (other answers) {shown}")
assert seen[0.0, "torchtune's"][-1][0] < -8.5 and seen[0.0, "torchtune's"][-1][1] > 0.9, "no longer so"
assert all(seen[key][-1][0] > -4.3 for key in seen if key != (0.0, "torchtune's")), "no longer so"
print("as found")
P
