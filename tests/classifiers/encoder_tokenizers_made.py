"""Small vocabularies in the files of older directories, without tokenizer.json."""

import json
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "The bus was late again this morning.",
    "Thanks for the recipe, it worked well!",
    "You are an idiot and nobody likes your garden.",
    "What a stupid idea, moron.",
    "Could you please tell me where you bought the lamp?",
    "caf\u00e9 \u4f60\u597d na\u00efve \U0001f642",
]


def word_pieces(directory: Path, lowercase: bool = True) -> None:
    """BERT's `vocab.txt`."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    vocabulary = tokenizer.get_vocab()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (directory / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def byte_pairs(directory: Path) -> None:
    """RoBERTa's `vocab.json` and `merges.txt`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [" ".join(pair) for pair in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def _train_pieces(file: Path, **settings: object) -> None:
    with file.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(TEXTS * 4),
            model_writer=stream,
            vocab_size=100,
            model_type="unigram",
            hard_vocab_limit=False,
            num_threads=1,  # Or the same texts give other pieces the next time.
            minloglevel=2,
            **settings,
        )


def xlm_pieces(directory: Path) -> None:
    """XLM-R's `sentencepiece.bpe.model`."""
    _train_pieces(directory / "sentencepiece.bpe.model")


def deberta_pieces(directory: Path) -> None:
    """DeBERTa-v2's `spm.model`, with BERT's tokens at the ids of the published one."""
    tokens = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    ids = {f"{name}_id": i for i, name in enumerate(tokens)}
    pieces = {f"{name}_piece": piece for name, piece in tokens.items()}
    _train_pieces(directory / "spm.model", **ids, **pieces)


MAKERS: dict[str, Callable[[Path], None]] = {
    "bert": word_pieces,
    "roberta": byte_pairs,
    "xlm-roberta": xlm_pieces,
    "deberta-v2": deberta_pieces,
}
