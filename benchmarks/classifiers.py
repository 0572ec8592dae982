"""Texts a second of ClassifierScorer beside transformers and torch, on one CPU in one run.

    pip install 'detox-jax[hf]'
    python benchmarks/classifiers.py --data=DIR [--model=distilbert] [--texts=512] [--rounds=5]

DIR is what DETOX_JAX_DATA names: held-out comments and RealToxicityPrompts' texts give the lengths
of real text. The checkpoint is random and of the full size, made by transformers, with a WordPiece
vocabulary trained on the same texts. The two sides take turns in every round; transformers pads
each batch to its longest text, once in the texts' order, as its users do, and once sorted by
length, which is the best that it can do. Both warm up first and use all processors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.toxicity import labelled

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOCAB_SIZE = 30_522
_BATCH_SIZE = 32
Scorer = Callable[[Sequence[str]], np.ndarray]


def read_texts(data_dir: Path, number: int) -> list[str]:
    """Held-out texts, in random order."""
    texts = [example.text for example in labelled.read_examples(data_dir) if example.held_out]
    order = np.random.default_rng(0).permutation(len(texts))[:number]
    return [texts[i] for i in order]


def make_checkpoint(kind: str, texts: Sequence[str], directory: str) -> tuple[Any, Any]:
    """A random DistilBERT or BERT of the base size, saved; its model and tokenizer."""
    import transformers

    wordpiece = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer()
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCAB_SIZE, special_tokens=list(_SPECIAL), show_progress=False
    )
    wordpiece.train_from_iterator(texts, trainer)
    tokenizer = transformers.BertTokenizer(vocab=wordpiece.get_vocab(), model_max_length=512)
    tokenizer.save_pretrained(directory)
    config = {
        "distilbert": transformers.DistilBertConfig,
        "bert": transformers.BertConfig,
    }[kind](vocab_size=_VOCAB_SIZE)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(directory)
    return model, transformers.AutoTokenizer.from_pretrained(directory)


def torch_scorer(model: Any, tokenizer: Any, *, by_length: bool) -> Scorer:
    """What a user of transformers writes: batches, padded to the longest, without gradients."""
    import torch

    def score(texts: Sequence[str]) -> np.ndarray:
        scores = np.zeros(len(texts))
        order = np.arange(len(texts))
        if by_length:
            encoded = tokenizer(list(texts), truncation=True)["input_ids"]
            order = np.argsort([-len(ids) for ids in encoded])
        for first in range(0, len(texts), _BATCH_SIZE):
            rows = order[first : first + _BATCH_SIZE]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                scores[rows] = torch.softmax(model(**batch).logits, -1)[:, 1].numpy()
        return scores

    return score


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f}-{values.max():.2f})"


def measure(scorers: dict[str, Scorer], texts: Sequence[str], rounds: int) -> None:
    """Prints texts a second of each scorer, and its ratio to the first, round by round.

    By the clock, and by the seconds that processors spent, which other programs disturb less.
    """
    found = {}
    for name, score in scorers.items():
        start = time.perf_counter()
        found[name] = score(texts)
        print(f"{name}: first run, compilation included, {time.perf_counter() - start:.1f} s")
    first = next(iter(scorers))
    for name, scores in found.items():
        print(f"{name}: max |Δscore| to {first} = {np.abs(scores - found[first]).max():.1e}")
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, score in scorers.items():
            wall, processor = time.perf_counter(), time.process_time()
            score(texts)
            spent = time.perf_counter() - wall, time.process_time() - processor
            speeds[name].append((len(texts) / spent[0], len(texts) / spent[1]))
            print(f"{name}: {spent[0]:.1f} s, {spent[1]:.1f} processor seconds", flush=True)
    print("| scorer | texts a second | ratio | texts a processor second | ratio |")
    for name, each in speeds.items():
        ratios = np.array(speeds[first]) / np.array(each)
        columns = (np.array(each)[:, 0], ratios[:, 0], np.array(each)[:, 1], ratios[:, 1])
        print(f"| {name} | {' | '.join(map(_spread, columns))} |")


def main() -> None:
    """Makes the checkpoint and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("DETOX_JAX_DATA"))
    parser.add_argument("--model", choices=("distilbert", "bert"), default="distilbert")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = read_texts(Path(arguments.data), arguments.texts)
    with tempfile.TemporaryDirectory() as directory:
        model, tokenizer = make_checkpoint(arguments.model, texts, directory)
        lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
        print(f"{len(texts)} texts, tokens {np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])}")
        ours = ClassifierScorer(directory, label="LABEL_1", batch_size=_BATCH_SIZE)
        scorers: dict[str, Scorer] = {
            "ClassifierScorer": lambda texts: np.array(ours.score(texts), float),
            "transformers": torch_scorer(model, tokenizer, by_length=False),
            "transformers, sorted": torch_scorer(model, tokenizer, by_length=True),
        }
        measure(scorers, texts, arguments.rounds)


if __name__ == "__main__":
    main()
