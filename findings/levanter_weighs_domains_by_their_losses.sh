#!/usr/bin/env bash
# levanter weighs the domains below a parent tag by their losses, not by their tokens: the worst one is the mean.
#
# Guess: with tags such as forum/calm and forum/rude "eval/forum/micro_loss" is the mean over the tokens of both
#   ("total loss for parent tags", "macro is the average of the averages"), and "eval/forum/bpb" the bits of both by
#   their bytes. Where nothing else is evaluated that is "eval/loss" once more.
# Seen (levanter 1.2.dev1644, haliax 1.4.dev453, jax 0.7.2): the weights are the mean losses themselves. Of 60 rows at
#   a loss near 0 and 4 rows at one near 10 the micro loss is that of the 4 rows, more than ten times what
#   "eval/loss" says beside it and above the macro loss; the number of rows does not matter at all. The bits
#   per byte likewise. marin-levanter 0.2.20, its successor, has the tokens as weights (by its source).
# Hurt: the loss of a group of domains, by which one sees whether a detoxified model still knows ordinary text, is
#   the loss of its hardest domain; of two models the one whose domains differ less looks better. Add up the
#   leaves' losses by hand.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.7.2 jaxlib==0.7.2 numpy==2.4.6 equinox==0.13.8 chex==0.1.91 optax==0.2.6 \
  jaxtyping==0.3.11 jmp==0.0.4 transformers==4.57.6 datasets==4.8.0 fsspec==2025.10.0 filelock==3.20.0 \
  protobuf==6.33.1 safetensors==0.6.2 tensorstore==0.1.86 ray==2.60.0 draccus==0.11.6 deepdiff==9.1.0 lenses==1.2.0 \
  gitpython==3.2.1 dataclasses-json==0.6.7 async-lru==2.4.0 rich==15.0.0 tqdm-loggable==0.4.1 braceexpand==0.1.7 \
  pytimeparse==1.1.10 humanfriendly==10.0 tblib==3.2.2 msgpack==1.2.4
"$work/venv/bin/pip" install --quiet --no-deps levanter==1.2.dev1644 haliax==1.4.dev453 aqtp==0.9.0 flax==0.11.2
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

import equinox as eqx
import haliax as hax
import jax
import numpy as np
from levanter.data.dataset import ListAsyncDataset
from levanter.eval import TaggedEvaluator, eval_model
from levanter.models.gpt2 import Gpt2Config
from levanter.models.lm_model import LmExample
from levanter.utils.tree_utils import inference_mode
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("levanter", "haliax", "jax")))
VOCABULARY, LENGTH, ROWS = 32, 16, {"forum/calm": 60, "forum/rude": 4}
words = Tokenizer(models.WordLevel({".": 0} | {f"w{index:02}": index for index in range(1, VOCABULARY)}, unk_token="."))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
config = Gpt2Config(seq_len=LENGTH, hidden_dim=16, num_layers=1, num_heads=2)
model = config.build(hax.Axis("vocab", VOCABULARY), key=jax.random.PRNGKey(0))
model = jax.tree.map(lambda leaf: leaf * 30 if eqx.is_inexact_array(leaf) else leaf, inference_mode(model, True))


def losses(rows):
    """The losses of all tokens but the first of each row, in float64."""
    ids = hax.named(rows.astype(np.int32), (hax.Axis("batch", len(rows)), config.Pos))
    logits = np.asarray(model(ids, LmExample.causal(ids["batch", 0]).attn_mask).array, np.float64)[:, :-1]
    logits -= logits.max(-1, keepdims=True)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]


# Calm rows repeat the token that the model repeats most surely, rude rows are drawn at random.
repeated = np.repeat(np.arange(1, VOCABULARY)[:, None], LENGTH, 1)
surest = repeated[losses(repeated).mean(-1).argmin()]
draw = np.random.default_rng(0)
texts = {
    "forum/calm": np.repeat(surest[None], ROWS["forum/calm"], 0),
    "forum/rude": draw.integers(1, VOCABULARY, (ROWS["forum/rude"], LENGTH)),
}
sets = [
    (ListAsyncDataset([LmExample.causal(hax.named(row.astype(np.int32), config.Pos)) for row in rows], True), [tag])
    for tag, rows in texts.items()
]
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("replica", "data", "model"))
with mesh:
    evaluator = TaggedEvaluator(hax.Axis("batch", 4), sets, tokenizer, mesh, {"batch": "data"})
    log = {key: float(value) for key, value in eval_model(evaluator, model).items() if "time" not in key}
leaves = np.array([log[f"{tag}/loss"] for tag in texts])
bits = np.array([log[f"{tag}/bpb"] for tag in texts])
by_hand = {tag: losses(rows).mean() for tag, rows in texts.items()}
true = np.concatenate([losses(rows).ravel() for rows in texts.values()]).mean()
counts = np.array(list(ROWS.values()))
true_bits = (bits * counts).sum() / counts.sum()  # All words have the same number of bytes.
print(*(f"{key} {value:.3f}" for key, value in log.items()), sep="\n")
print(f"by hand: {by_hand}, all tokens {true:.3f}, bits per byte {true_bits:.3f}")
assert np.allclose(leaves, list(by_hand.values()), atol=2e-3), "the leaves' losses are those by hand"
assert abs(log["loss"] - true) < 2e-3, "the loss of all is that by hand"
assert abs(log["forum/micro_loss"] - (leaves**2).sum() / leaves.sum()) < 2e-3, "no longer so"
assert abs(log["forum/bpb"] - (bits**2).sum() / bits.sum()) < 2e-3, "no longer so"
assert log["forum/micro_loss"] > 10 * true and log["forum/micro_loss"] > log["forum/macro_loss"], "no longer so"
assert log["forum/bpb"] > 10 * true_bits, "no longer so"
P
