"""Row: a RoBERTa of the base size as a classifier of the labelled texts, beside transformers.

The weights are random, and the byte-level BPE is trained on the texts. Texts become ids within
the time. Sorted by length, a batch of transformers has as little padding as it can have.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any

import numpy as np

from benchmarks.speed import comments
from benchmarks.speed.sides import Row, Side, Work, main

NUMBER, BATCH_SIZE = 512, 32
VOCAB_SIZE, POSITIONS = 50_265, 514  # of roberta-base; two positions are padding's
VOCABULARY_TEXTS = 40_000  # Words of fewer fit into the vocabulary, and would be a token each.


def _tokenizer() -> Any:
    """RoBERTa's class of tokenizer."""
    import tokenizers
    import transformers
    from tokenizers import models, pre_tokenizers, trainers

    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(comments.texts(VOCABULARY_TEXTS), trainer)
    bpe = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in bpe["merges"]]
    longest = POSITIONS - 2
    return transformers.RobertaTokenizer(
        vocab=bpe["vocab"], merges=merges, model_max_length=longest
    )


def _model() -> Any:
    """The network of transformers, with two outputs."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    return transformers.RobertaForSequenceClassification(config).eval()


def _ours() -> Work:
    from detox_jax.classifiers.classifier import ClassifierScorer

    with tempfile.TemporaryDirectory() as directory:
        _tokenizer().save_pretrained(directory)
        _model().save_pretrained(directory)
        scorer = ClassifierScorer(directory, label="LABEL_1", batch_size=BATCH_SIZE)
    texts = comments.texts(NUMBER)
    return lambda: float(len(scorer.score(texts)))


def scores(model: Any, tokenizer: Any, texts: list[str], *, by_length: bool) -> np.ndarray:
    """What a user of transformers writes: batches that are padded to their longest text."""
    import torch

    scores = np.zeros(len(texts))
    ids = tokenizer(texts, truncation=True)["input_ids"]
    order = np.argsort([-len(tokens) for tokens in ids]) if by_length else np.arange(len(ids))
    for first in range(0, len(ids), BATCH_SIZE):
        rows = order[first : first + BATCH_SIZE]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
        with torch.inference_mode():
            scores[rows] = torch.softmax(model(**batch).logits, -1)[:, 1].numpy()
    return scores


def _theirs(by_length: bool) -> Work:
    model, tokenizer, texts = _model(), _tokenizer(), comments.texts(NUMBER)
    return lambda: float(len(scores(model, tokenizer, texts, by_length=by_length)))


ROW = Row(
    f"RoBERTa-base classifier, {NUMBER} labelled texts, batches of {BATCH_SIZE}, float32",
    "texts",
    {
        "ours": Side(_ours),
        "transformers, sorted by length": Side(lambda: _theirs(True)),
        "transformers, as the texts come": Side(lambda: _theirs(False)),
    },
)

if __name__ == "__main__":
    main(ROW)
