#!/usr/bin/env bash
# SetFit with several labels takes two texts that have none of them, two clean ones, for a pair of opposites.
#
# Guess: SetFit's contrastive phase pulls texts of like labels together and pushes unlike ones apart, with
#   multi_target_strategy too: two comments with none of the labels (toxic, insult, threat: all 0) are of like labels.
# Seen (setfit 1.2.0, sentence-transformers 6.2.0, torch 2.13.0): with a strategy a pair is positive where some label is
#   1 in both. Two clean texts share none, and a clean text shares none with itself: their pairs have the label 0. Of 18
#   clean and 6 toxic texts' negative pairs 61 % are of two clean texts (18 of a text with itself), no positive pair has
#   a clean text, and oversampling repeats the 21 positive ones until there are as many. Training drives two clean
#   texts' similarity from 0.65 down to 0.18; with one label, toxic or not, it brings the same texts to 0.91.
# Hurt: nearly all comments of a toxicity set with several labels are clean, so that most of what the body learns is to
#   tell clean texts from each other, and clean is no place in its space. Nothing is said. A further column, 1 where
#   all others are 0, makes them pairs of like labels: 0.91 again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet setfit==1.2.0 sentence-transformers==6.2.0 transformers==5.24.0 datasets==5.0.1 \
  numpy==2.4.6 scikit-learn==1.9.1
cd "$work"
HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from tokenizers import Tokenizer, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("setfit", "sentence-transformers", "torch")))
CLEAN = ["tea", "bus", "rain", "bread", "snow", "lamp", "road", "song", "boat", "leaf", "wool", "door"]
RUDE = ["rude", "harsh", "nasty", "mean"]
vocabulary = {word: i for i, word in enumerate([*CLEAN, *RUDE, "?", "-"])}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
draw = np.random.default_rng(0)
texts = [" ".join(draw.choice(CLEAN, 3, replace=False)) for _ in range(18)]
texts += [" ".join([*draw.choice(CLEAN, 1), *draw.choice(RUDE, 2, replace=False)]) for _ in range(6)]
assert len(set(texts)) == 24
clean = np.arange(24) < 18
several = np.zeros([24, 3], int)  # toxic, insult, threat
several[18:, 0] = 1
several[18:22, 1] = 1
several[22:, 2] = 1
weights = draw.normal(size=(len(vocabulary), 16)).astype(np.float32)
weights[: len(CLEAN), 0] += 2
settings = TrainingArguments(
    output_dir="out",
    num_epochs=4,
    batch_size=16,
    body_learning_rate=3e-2,
    report_to="none",
    logging_strategy="no",
    save_strategy="no",
)


def trained(labels, train=True, **kwargs):
    """The first phase's pairs, and mean similarities behind it: of two clean texts, of a clean and a toxic one."""
    body = SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=weights.copy())], device="cpu")
    model = SetFitModel(model_body=body, **kwargs)
    trainer = Trainer(model=model, args=settings, train_dataset=Dataset.from_dict({"text": texts, "label": labels}))
    pairs, _ = trainer.get_dataset(texts, labels, settings)
    if train:
        trainer.train()
    rows = body.encode(texts).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike = rows @ rows.T
    two_clean = clean[:, None] & clean & ~np.eye(24, dtype=bool)
    return pairs, alike[two_clean].mean(), alike[clean[:, None] & ~clean].mean()


number = {text: i for i, text in enumerate(texts)}
many = {"model_head": OneVsRestClassifier(LogisticRegression()), "multi_target_strategy": "one-vs-rest"}
further = np.c_[several, several.sum(1) == 0].astype(int)
one = {"model_head": LogisticRegression()}
results = {
    "before": trained(several.tolist(), train=False, **many),
    "three labels": trained(several.tolist(), **many),
    "three labels and a column for none": trained(further.tolist(), **many),
    "one label": trained(several[:, 0].tolist(), **one),
}
for name, (_, two, across) in results.items():
    print(f"{name}: two clean texts {two:.2f}, a clean and a toxic one {across:.2f}")
pairs = {(number[row["sentence_1"]], number[row["sentence_2"]], row["label"]) for row in results["three labels"][0]}
positive = [(a, b) for a, b, label in pairs if label == 1]
negative = [(a, b) for a, b, label in pairs if label == 0]
both = [(a, b) for a, b in negative if clean[a] and clean[b]]
with_clean, itself = sum(clean[a] or clean[b] for a, b in positive), sum(a == b for a, b in both)
print(f"three labels: {len(positive)} positive pairs, {with_clean} with a clean text; {len(negative)} negative ones,")
print(f"{len(both)} of two clean texts, {itself} of one with itself")
assert with_clean == 0, "no longer so"
assert len(both) == 18 * 19 // 2 and itself == 18, "no longer so"
assert results["three labels"][1] < results["before"][1] - 0.2, "no longer so"
assert results["one label"][1] > 0.8 and results["three labels and a column for none"][1] > 0.8
print("as found")
P
