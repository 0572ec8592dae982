#!/usr/bin/env bash
# repeng's default takes the mean difference out of the pairs: what they all share is what its vector has not.
#
# Guess: ControlVector.train(model, tokenizer, pairs) gives the direction from the negative to the positive texts: on
#   pairs that it has not seen the positive text lies further along it.
# Seen (repeng 0.4.0, scikit-learn 1.9.1, transformers 5.24.0, torch 2.13.0): "pca_diff", the default, hands the
#   differences to a PCA that subtracts their mean before it looks for a direction. What is found is the way in which
#   the pairs differ from each other. Of unseen pairs 0.69, 0.83 and 0.70 lie the right way in the three layers (of a
#   small random LLaMA; a coin gives 0.5), where the mean difference has 0.97 and more; its cosine with that is 0.1 to
#   0.3. method="pca_center", which hands over each difference with both signs, so that the mean is 0, has 0.97 to 0.99
#   and a cosine of 0.98 and more. The cleaner the pairs, the worse: where all differ by one vector and small noise,
#   the default's direction is the noise.
# Hurt: the vector that should be "toxic" is something else, with a sign that is hardly better than a guess; steering
#   needs large coefficients, costs perplexity, and looks weak beside a method that takes means. Use
#   method="pca_center", or the mean difference (raw directions in a ControlVector).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet repeng==0.4.0 transformers==5.24.0 scikit-learn==1.9.1 numpy==1.26.4
cd "$work"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import random
from importlib import metadata

import numpy as np
import torch
import transformers
from repeng import ControlVector, DatasetEntry
from repeng.extract import read_representations
from tokenizers import Tokenizer, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("repeng", "scikit-learn", "transformers", "torch")))
torch.manual_seed(0)
draw = random.Random(0)
words = [f"w{i}" for i in range(200)] + ["kind", "cruel", "[PAD]"]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")
config = transformers.LlamaConfig(
    vocab_size=len(words),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    initializer_range=0.2,
)
model = transformers.LlamaForCausalLM(config).eval()


def pairs(count):
    texts = [" ".join(draw.choices(words[:200], k=4)) for _ in range(count)]
    return [DatasetEntry(positive=f"kind {text}", negative=f"cruel {text}") for text in texts]


@torch.no_grad()
def differences(entries):
    """Of the last token's state behind each layer, in float64: positive minus negative, [layer, pair, width]."""
    states = [
        torch.stack(model(**tokenizer(texts, return_tensors="pt"), output_hidden_states=True).hidden_states)
        for texts in ([entry.positive for entry in entries], [entry.negative for entry in entries])
    ]
    return (states[0] - states[1])[1:, :, -1].double().numpy()


train, unseen = pairs(100), pairs(100)
known, tested = differences(train), differences(unseen)
means = known.mean(1)
means /= np.linalg.norm(means, axis=-1, keepdims=True)
default = ControlVector.train(model, tokenizer, train).directions
found = {
    "default": default,
    "pca_center": ControlVector.train(model, tokenizer, train, method="pca_center").directions,
    "mean difference": {layer: means[layer] for layer in default},
}
right, cosine = {}, {}
for name, directions in found.items():
    right[name] = [float((tested[layer] @ directions[layer] > 0).mean()) for layer in (1, 2, 3)]
    cosine[name] = [float(means[layer] @ directions[layer]) for layer in (1, 2, 3)]
    shown = (" ".join(f"{value:.2f}" for value in values) for values in (right[name], cosine[name]))
    print("{}: unseen pairs that lie the right way {}; cosine with the mean difference {}".format(name, *shown))
same = ControlVector.train(model, tokenizer, train, method="pca_diff").directions
assert all((same[layer] == default[layer]).all() for layer in default)
assert min(right["default"]) < 0.8 and max(right["default"]) < 0.9 and max(cosine["default"]) < 0.6
assert min(right["pca_center"]) > 0.9 and min(cosine["pca_center"]) > 0.9
assert min(right["mean difference"]) > 0.95

# Cleaner pairs: all differ by one vector and small noise. The states are handed over as they would be read.
noise = np.random.default_rng(0)
shift = np.zeros(64)
shift[0] = 1
texts = noise.normal(size=[100, 64])
rows = np.stack([texts + shift / 2, texts - shift / 2], 1).reshape(200, 64) + 0.05 * noise.normal(size=[200, 64])
clean = {
    method: read_representations(
        model, tokenizer, train, hidden_layers=[3], method=method, transform_hiddens=lambda _: {3: rows.copy()}
    )[3]
    for method in ("pca_diff", "pca_center")
}
for method, direction in clean.items():
    print(f"one vector and small noise, {method}: cosine with the vector {abs(direction @ shift):.2f}")
assert abs(clean["pca_diff"] @ shift) < 0.5 and abs(clean["pca_center"] @ shift) > 0.98
print("as found")
P
