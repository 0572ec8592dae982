"""Tiny random classifiers in Hugging Face's layout, written without transformers."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from detox_jax.classifiers import encoders
from detox_jax.interop.config_fields import Fields
from detox_jax.interop.tensors import MappedTensors, layer_shapes
from detox_jax.models.encoder import Encoder
from detox_jax.parallel import mesh as meshes

WORDS = "the bus was late you are an idiot good day what a stupid idea moron thanks for".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*WORDS, ".", "!", "?"])]
LABELS = {"0": "neutral", "1": "toxic", "2": "threat"}
BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 40,
    "id2label": LABELS,
}
ROBERTA = {
    **BERT,
    "architectures": ["RobertaForSequenceClassification"],
    "model_type": "roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "problem_type": "multi_label_classification",
}
DISTILBERT = {
    "architectures": ["DistilBertForSequenceClassification"],
    "model_type": "distilbert",
    "vocab_size": len(VOCABULARY),
    "dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "hidden_dim": 12,
    "max_position_embeddings": 40,
    "id2label": LABELS,
}
DEBERTA = {
    **BERT,
    "architectures": ["DebertaV2ForSequenceClassification"],
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def make(directory: Path, config, seed=0) -> dict[str, np.ndarray]:
    """Writes a classifier and its tokenizer; returns the tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    family = encoders.FAMILIES[config["model_type"]]
    ours = family.read(Fields(config, "config"), len(config["id2label"]))
    shapes = meshes.param_shapes(Encoder(ours))
    lines = {
        name: tensor
        for name, tensor in family.tensors(config["vocab_size"]).items()
        if tensor.paths[0] in shapes
    }
    noise = np.random.default_rng(seed)
    tensors = {}
    for name, (line, _) in MappedTensors(lines, shapes, ours.num_layers).expected.items():
        shape = line.layout.foreign_shape(layer_shapes(line, shapes))
        tensors[name] = noise.normal(size=shape).astype(np.float32)
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    make_tokenizer().save(str(directory / "tokenizer.json"))
    return tensors


def make_tokenizer(lowercase=True) -> tokenizers.Tokenizer:
    """Words and punctuation, with BERT's special tokens around a text."""
    vocabulary = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer
