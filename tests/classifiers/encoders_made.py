"""Small randomly initialised sequence classifiers of every family, made by transformers itself."""

import importlib
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 400
_SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_ROBERTA = {**_SMALL, "max_position_embeddings": 66, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_DISTIL = {
    "dim": 32,
    "n_heads": 4,
    "n_layers": 3,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_MULTI = {"problem_type": "multi_label_classification"}
# As microsoft/deberta-v3-base, but smaller; a text of 64 tokens reaches the logarithmic buckets.
_V3 = {
    **_SMALL,
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_relative_positions": -1,
    "pooler_hidden_size": 32,
}

# Name: (class prefix in transformers, number of labels, config fields).
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bert-multi-label": ("Bert", 6, {**_SMALL, **_MULTI}),
    "bert-other": (
        "Bert",
        2,
        {**_SMALL, "hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-3},
    ),
    "bert-relu-one-layer": ("Bert", 3, {**_SMALL, "hidden_act": "relu", "num_hidden_layers": 1}),
    "distilbert": ("DistilBert", 2, _DISTIL),
    "distilbert-sinusoidal": (
        "DistilBert",
        4,
        {**_DISTIL, **_MULTI, "sinusoidal_pos_embds": True, "activation": "relu"},
    ),
    "roberta": ("Roberta", 2, _ROBERTA),
    "roberta-padding-0": ("Roberta", 5, {**_ROBERTA, **_MULTI, "pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", 1, {**_ROBERTA, **_MULTI}),
    "xlm-roberta-two-types": ("XLMRoberta", 2, {**_ROBERTA, "type_vocab_size": 2}),
    "deberta-v3": ("DebertaV2", 2, _V3),
    "deberta-v3-c2p": ("DebertaV2", 1, {**_V3, "pos_att_type": "c2p", "position_buckets": 8}),
    "deberta-v2-own-projections": (
        "DebertaV2",
        2,
        {**_V3, "share_att_key": False, "norm_rel_ebd": "none", "position_biased_input": True},
    ),
    "deberta-v2-no-buckets": (
        "DebertaV2",
        3,
        {
            **_V3,
            "position_buckets": -1,
            "max_relative_positions": 12,
            "share_att_key": False,
            "pos_att_type": ["p2c"],
            "type_vocab_size": 2,
        },
    ),
    "deberta-v2-absolute": (
        "DebertaV2",
        2,
        {**_SMALL, "relative_attention": False, "pooler_hidden_act": "tanh"},
    ),
}


def make(name: str, directory: Path, **changes: Any) -> Any:
    """Makes a case's model, in which no weight is constant, and saves it; returns the model."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    prefix, num_labels, fields = CASES[name]
    fields = {"vocab_size": VOCAB_SIZE, **fields, **changes}
    config = getattr(transformers, f"{prefix}Config")(num_labels=num_labels, **fields)
    torch.manual_seed(sum(map(ord, name)))
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval().save_pretrained(directory)
    return model


def save_tokenizer(name: str, directory: Path, max_length: int = 64) -> Any:
    """A small tokenizer of a case's own class of transformers; returned as AutoTokenizer reads it.

    Trained on `TEXTS`; `max_length` is what `truncation=True` cuts at.
    """
    transformers = importlib.import_module("transformers")
    prefix = CASES[name][0]
    cls = getattr(transformers, f"{_TOKENIZERS[prefix]}Tokenizer")
    made = cls(**_VOCABULARIES[_TOKENIZERS[prefix]](), model_max_length=max_length)
    made.save_pretrained(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


TEXTS = [
    "The bus was late again this morning.",
    "Thanks for the recipe, it worked well!",
    "You are an idiot and nobody likes your garden.",
    "I think the second film is better than the first one.",
    "What a stupid idea, moron.",
    "Could you please tell me where you bought the lamp?",
]
_TOKENIZERS = {
    "Bert": "Bert",
    "DistilBert": "Bert",
    "Roberta": "Roberta",
    "XLMRoberta": "XLMRoberta",
    "DebertaV2": "DebertaV2",
}


def _word_pieces() -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return {"vocab": tokenizer.get_vocab()}


def _byte_pairs() -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def _pieces(special: list[str]) -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    vocab = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return {"vocab": vocab}


_VOCABULARIES = {
    "Bert": _word_pieces,
    "Roberta": _byte_pairs,
    "XLMRoberta": lambda: _pieces(["<s>", "<pad>", "</s>", "<unk>"]),
    "DebertaV2": lambda: _pieces(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]),
}
