"""Tokenizers of every kind, made for tests: byte-level, LLaMA-like, Unigram, SentencePiece."""

import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from detox_jax.vocabulary import Vocabulary
from tests.conftest import SENTENCES

# What puts the start token before every text: `post_processor` of a tokenizer.json.
START_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    },
}


def byte_fallback_tokenizer():
    """LLaMA's kind: metaspace BPE whose unknown characters become bytes, `<s>` put in front."""
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    letters = ["\u2581", *"ThebuslatrgicdowpR.", "la", "\u2581la", "te", "\u2581la" + "te"]
    vocab = {token: i for i, token in enumerate([*special, *byte_tokens, *letters])}
    merges = [("l", "a"), ("\u2581", "la"), ("t", "e"), ("\u2581la", "te")]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(special)
    return tokenizer


def unigram_tokenizer():
    pieces = [("<unk>", 0.0), ("<bos>", 0.0), ("<eos>", 0.0), ("\u2581la", -1.0), ("te", -1.5)]
    pieces += [(letter, -4.0) for letter in "\u2581Thebuslatrgicdowp.aR"]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<bos>", "<eos>"])
    return tokenizer


def write(path, tokenizer, **files):
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))


def sentencepiece_model(tmp_path):
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))


def llama_tokenizer():
    """As LLaMA 2 and Mistral ship it: a space belongs to the word behind it."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {f"<0x{i:02X}>": len(vocab) + i for i in range(256)}
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def save_sentencepiece(path):
    sentencepiece_model(path)


def save_byte_level(path):
    Vocabulary.train(SENTENCES * 4, 350).save(str(path))


def save_llama(path):
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    write(path, llama_tokenizer(), tokenizer_config=config)
