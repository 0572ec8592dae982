#!/usr/bin/env bash
# SetFit's DistillationTrainer gives each pair of texts the label 1, the teacher's likeness of the first text to itself.
#
# Guess: DistillationTrainer trains the student's embeddings to have the teacher's cosine similarities: it encodes the
#   texts by the teacher, makes the matrix of similarities and gives each pair its entry as the label.
# Seen (setfit 1.2.0, sentence-transformers 6.2.0, torch 2.13.0): ContrastiveDistillationDataset makes its pairs in its
#   parent's __init__, before it numbers its sentences: then each sentence still has the label 0 where its number should
#   stand, and each pair reads cos_sim_matrix[0][0], which is 1, whatever the teacher thinks of it (0.08 to 1). Training
#   by cosine similarity moves all texts to one place: clean and rude ones, which the teacher has at 0.20,
#   stand at 0.92 in the student. The same trainer with the labels right has them where the teacher has them.
# Hurt: a small classifier of toxicity, distilled from a larger one on texts without labels, loses in its body what
#   tells texts apart; the loss falls nicely, since 1 for all is easy to learn. The head is fitted behind it on what is
#   left, so that the damage looks like the price of a smaller model. The pairs' labels are in trainer.get_dataset(...).
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
from setfit import DistillationTrainer, SetFitModel, TrainingArguments
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("setfit", "sentence-transformers", "torch")))
WORDS = ["tea", "bus", "rain", "bread", "rude", "harsh", "nasty", "mean"]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "?", "-"])}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
draw = np.random.default_rng(0)
TEXTS = [" ".join(draw.choice(WORDS[:4] if i % 2 else WORDS[4:], 3, replace=False)) for i in range(16)]
rude = np.arange(16) % 2 == 0


def model(weights):
    """A SetFit model whose body is the mean of its words' vectors."""
    body = SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=weights)], device="cpu")
    return SetFitModel(model_body=body, model_head=LogisticRegression())


def alike(setfit_model):
    rows = setfit_model.model_body.encode(TEXTS).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


weights = draw.normal(size=(10, 8)).astype(np.float32) * 0.3
weights[:4, 0] += 1
weights[4:8, 1] += 1
start = draw.normal(size=(10, 8)).astype(np.float32)
teacher = model(weights)
teacher.model_head.fit(teacher.model_body.encode(TEXTS), rude)
likeness = alike(teacher)
number = {text: i for i, text in enumerate(TEXTS)}


def expected(row):
    return likeness[number[row["sentence_1"]], number[row["sentence_2"]]]


class WithTheTeachersLabels(DistillationTrainer):
    def get_dataset(self, *args, **kwargs):
        pairs, loss = super().get_dataset(*args, **kwargs)
        return pairs.map(lambda row: {"label": expected(row)}), loss


settings = TrainingArguments(
    output_dir="out",
    num_iterations=20,
    num_epochs=6,
    batch_size=16,
    body_learning_rate=3e-2,
    report_to="none",
    logging_strategy="no",
    save_strategy="no",
)
between = rude[:, None] != rude
seen = {"the teacher": likeness[between].mean(), "the student before": alike(model(start.copy()))[between].mean()}
for kind in (DistillationTrainer, WithTheTeachersLabels):
    student = model(start.copy())
    data = Dataset.from_dict({"text": TEXTS})
    trainer = kind(teacher_model=teacher, student_model=student, args=settings, train_dataset=data)
    pairs, _ = trainer.get_dataset(TEXTS, None, settings)
    if kind is DistillationTrainer:
        wanted = np.array([expected(row) for row in pairs])
        print(f"{len(pairs)} pairs; the teacher's similarities are {wanted.min():.2f} to {wanted.max():.2f}", end=", ")
        print("the labels", set(np.round(pairs["label"], 4).tolist()))
        assert wanted.min() < 0.1 and np.allclose(pairs["label"], 1, atol=1e-4), "no longer so"
    trainer.train()
    seen[kind.__name__] = alike(student)[between].mean()
for name, value in seen.items():
    print(f"a clean and a rude text in {name}: {value:.2f} on the average")
assert abs(seen["WithTheTeachersLabels"] - seen["the teacher"]) < 0.1
assert seen["DistillationTrainer"] > 0.85 and seen["the teacher"] < 0.3, "no longer so"
print("as found")
P
