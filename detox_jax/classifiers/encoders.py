"""BERT, DistilBERT, RoBERTa, XLM-R, DeBERTa-v2 and v3 as sequence classifiers.

A line of a map is a tensor there and its parameters here, as in the families of language models;
lines whose parameters a config lacks drop out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from etils import epath

from detox_jax.errors import UserError
from detox_jax.interop.config_fields import Fields, checked_config, named_type
from detox_jax.interop.family import ACTIVATIONS, ATTENTION, Map, linear
from detox_jax.interop.layouts import Copied, Flat, Rows, Tensor
from detox_jax.models.encoder_config import EncoderConfig, RelativePositions
from detox_jax.vocabulary import ID_SHIFT

_NEVER_BUFFERS = r"(?!)"


@dataclasses.dataclass(frozen=True)
class EncoderFamily:
    """One `model_type` of Hugging Face with a sequence classification head.

    Attributes:
      model_type: as config.json names it.
      architecture: the class that `AutoModelForSequenceClassification` loads.
      read: fields of config.json and a number of labels to a config.
      tensors: the map, for a number of tokens.
      buffers: pattern of stored tensors that are no weights of a classifier.
    """

    model_type: str
    architecture: str
    read: Callable[[Fields, int], EncoderConfig]
    tensors: Callable[[int], Map]
    buffers: str = _NEVER_BUFFERS


def _norm(name: str, path: str) -> Map:
    return {
        f"{name}.weight": Tensor(Flat(), f"{path}/scale"),
        f"{name}.bias": Tensor(Flat(), f"{path}/bias"),
    }


def _embeddings(name: str, num_tokens: int) -> Map:
    return {
        f"{name}.word_embeddings.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{name}.position_embeddings.weight": Tensor(Copied(), "position_embedder/embedding"),
        f"{name}.token_type_embeddings.weight": Tensor(Copied(), "type_embedder/embedding"),
        **_norm(f"{name}.LayerNorm", "embedding_norm"),
    }


def _layer(name: str, suffix: str = "") -> Map:
    """BERT's names, which all but DistilBERT share; `suffix` ends those of projections."""
    own = f"{name}.attention.self"
    return {
        **linear(f"{own}.query{suffix}", f"{ATTENTION}/query"),
        **linear(f"{own}.key{suffix}", f"{ATTENTION}/key"),
        **linear(f"{own}.value{suffix}", f"{ATTENTION}/value"),
        **linear(f"{name}.attention.output.dense", f"{ATTENTION}/out", num_in=2),
        **_norm(f"{name}.attention.output.LayerNorm", "layers/attention_norm"),
        **linear(f"{name}.intermediate.dense", "layers/wi"),
        **linear(f"{name}.output.dense", "layers/wo"),
        **_norm(f"{name}.output.LayerNorm", "layers/mlp_norm"),
    }


def _read_bert_like(fields: Fields, num_labels: int, **changes: Any) -> EncoderConfig:
    fields.expect("position_embedding_type", "absolute", None)
    fields.expect("embedding_size", fields.require("hidden_size"))
    fields.expect("is_decoder", False)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "tie_word_embeddings"):
        fields.take(name, None)  # Only training and language modelling read them.
    return EncoderConfig(
        vocab_size=fields.require("vocab_size") + ID_SHIFT,
        emb_dim=fields.require("hidden_size"),
        num_heads=fields.require("num_attention_heads"),
        num_layers=fields.require("num_hidden_layers"),
        mlp_dim=fields.require("intermediate_size"),
        num_labels=num_labels,
        activation=fields.choose("hidden_act", "gelu", ACTIVATIONS),
        init_std=fields.take("initializer_range", 0.02),
        **{
            "max_length": fields.require("max_position_embeddings"),
            "type_vocab_size": fields.take("type_vocab_size", 2),
            "norm_epsilon": fields.take("layer_norm_eps", 1e-12),
            **changes,
        },
    )


# Fields of some BERT configs that the code of transformers never reads.
_UNREAD_BY_BERT = (
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
)

# --- BERT -------------------------------------------------------------------------------------


def _read_bert(fields: Fields, num_labels: int) -> EncoderConfig:
    for name in _UNREAD_BY_BERT:
        fields.take(name, None)
    return _read_bert_like(fields, num_labels)


def _map_bert(num_tokens: int) -> Map:
    return {
        **_embeddings("bert.embeddings", num_tokens),
        **_layer("bert.encoder.layer.{}"),
        **linear("bert.pooler.dense", "head_dense"),
        **linear("classifier", "head_logits"),
    }


# --- RoBERTa, XLM-R ---------------------------------------------------------------------------


def _read_roberta(fields: Fields, num_labels: int) -> EncoderConfig:
    padding = fields.take("pad_token_id", 1)
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        fields.refuse("pad_token_id", padding, "expected the id of a token")
    rows = fields.require("max_position_embeddings")
    return _read_bert_like(
        fields,
        num_labels,
        max_length=rows - padding - 1,
        position_offset=padding + 1,
        uncounted_id=padding + ID_SHIFT,
    )


def _map_roberta(num_tokens: int) -> Map:
    return {
        **_embeddings("roberta.embeddings", num_tokens),
        **_layer("roberta.encoder.layer.{}"),
        **linear("classifier.dense", "head_dense"),
        **linear("classifier.out_proj", "head_logits"),
    }


# --- DistilBERT -------------------------------------------------------------------------------


def _read_distilbert(fields: Fields, num_labels: int) -> EncoderConfig:
    for name in ("dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_"):
        fields.take(name, None)  # Only training reads them.
    fields.take("sinusoidal_pos_embds", False)  # How the table began; the file holds the table.
    fields.take("tie_word_embeddings", None)
    return EncoderConfig(
        vocab_size=fields.require("vocab_size") + ID_SHIFT,
        emb_dim=fields.require("dim"),
        num_heads=fields.require("n_heads"),
        num_layers=fields.require("n_layers"),
        mlp_dim=fields.require("hidden_dim"),
        num_labels=num_labels,
        max_length=fields.require("max_position_embeddings"),
        type_vocab_size=0,
        activation=fields.choose("activation", "gelu", ACTIVATIONS),
        head_activation="relu",
        init_std=fields.take("initializer_range", 0.02),
    )


def _map_distilbert(num_tokens: int) -> Map:
    layer = "distilbert.transformer.layer.{}"
    return {
        **_embeddings("distilbert.embeddings", num_tokens),
        **linear(f"{layer}.attention.q_lin", f"{ATTENTION}/query"),
        **linear(f"{layer}.attention.k_lin", f"{ATTENTION}/key"),
        **linear(f"{layer}.attention.v_lin", f"{ATTENTION}/value"),
        **linear(f"{layer}.attention.out_lin", f"{ATTENTION}/out", num_in=2),
        **_norm(f"{layer}.sa_layer_norm", "layers/attention_norm"),
        **linear(f"{layer}.ffn.lin1", "layers/wi"),
        **linear(f"{layer}.ffn.lin2", "layers/wo"),
        **_norm(f"{layer}.output_layer_norm", "layers/mlp_norm"),
        **linear("pre_classifier", "head_dense"),
        **linear("classifier", "head_logits"),
    }


# --- DeBERTa-v2, v3 ---------------------------------------------------------------------------


_HEAD_ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "relu": "relu", "tanh": "tanh"}


def _read_deberta(fields: Fields, num_labels: int) -> EncoderConfig:
    width, heads = fields.require("hidden_size"), fields.require("num_attention_heads")
    fields.expect("conv_kernel_size", 0, None)
    for name in ("conv_act", "conv_groups", "pooler_dropout", "cls_dropout", "legacy"):
        fields.take(name, None)  # Of the convolution, of training, of language modelling.
    fields.expect("attention_head_size", width // heads)
    fields.expect("pooler_hidden_size", width)
    longest = fields.require("max_position_embeddings")
    return _read_bert_like(
        fields,
        num_labels,
        type_vocab_size=fields.take("type_vocab_size", 0),
        absolute_positions=fields.take("position_biased_input", True),
        relative_positions=_read_relative(fields, longest),
        head_activation=fields.choose("pooler_hidden_act", "gelu", _HEAD_ACTIVATIONS),
        norm_epsilon=fields.take("layer_norm_eps", 1e-7),
    )


def _read_relative(fields: Fields, longest: int) -> RelativePositions | None:
    kinds = fields.take("pos_att_type", None) or []
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    kinds = {kind.strip() for kind in kinds} - {"none", ""}
    if unknown := kinds - {"c2p", "p2c"}:
        fields.refuse("pos_att_type", min(unknown), "supported are c2p and p2c")
    norm = fields.choose("norm_rel_ebd", "none", {"none": "none", "layer_norm": "layer_norm"})
    shared, buckets = fields.take("share_att_key", False), fields.take("position_buckets", -1)
    span = fields.take("max_relative_positions", -1)
    span = longest if span < 1 else span
    if not fields.take("relative_attention", False):
        if kinds:
            fields.refuse("pos_att_type", sorted(kinds), "without relative_attention it is a scale")
        return None
    return RelativePositions(
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        span=buckets if buckets > 0 else span,
        max_distance=span if buckets > 0 else None,
        shared_projections=shared,
        norm=norm == "layer_norm",
    )


def _map_deberta(num_tokens: int) -> Map:
    encoder, layer = "deberta.encoder", "deberta.encoder.layer.{}"
    return {
        **_embeddings("deberta.embeddings", num_tokens),
        f"{encoder}.rel_embeddings.weight": Tensor(Copied(), "distance_embedder/embedding"),
        **_norm(f"{encoder}.LayerNorm", "distance_norm"),
        **_layer(layer, suffix="_proj"),
        **linear(f"{layer}.attention.self.pos_key_proj", f"{ATTENTION}/position_key"),
        **linear(f"{layer}.attention.self.pos_query_proj", f"{ATTENTION}/position_query"),
        **linear("pooler.dense", "head_dense"),
        **linear("classifier", "head_logits"),
    }


_POSITION_IDS = r"\w+\.embeddings\.(position_ids|token_type_ids)"

FAMILIES: dict[str, EncoderFamily] = {
    family.model_type: family
    for family in (
        EncoderFamily(
            "bert", "BertForSequenceClassification", _read_bert, _map_bert, _POSITION_IDS
        ),
        EncoderFamily(
            "distilbert",
            "DistilBertForSequenceClassification",
            _read_distilbert,
            _map_distilbert,
            _POSITION_IDS,
        ),
        # Its head reads the first token itself, so that a pooler of the body is never read.
        EncoderFamily(
            "roberta",
            "RobertaForSequenceClassification",
            _read_roberta,
            _map_roberta,
            rf"{_POSITION_IDS}|roberta\.pooler\.dense\.(weight|bias)",
        ),
        EncoderFamily(
            "xlm-roberta",
            "XLMRobertaForSequenceClassification",
            _read_roberta,
            _map_roberta,
            rf"{_POSITION_IDS}|roberta\.pooler\.dense\.(weight|bias)",
        ),
        EncoderFamily(
            "deberta-v2",
            "DebertaV2ForSequenceClassification",
            _read_deberta,
            _map_deberta,
            # Kept by some checkpoints whose config has no absolute positions.
            rf"{_POSITION_IDS}|deberta\.embeddings\.position_embeddings\.weight",
        ),
    )
}


def family_of(values: dict[str, Any], file: epath.Path, what: str) -> EncoderFamily:
    """The family that config.json names.

    Args:
      values: of config.json.
      file: where it is.
      what: it is to be, for the error.

    Raises:
      UserError: for one that is not supported.
    """
    family = FAMILIES.get(named_type(values))
    if family is None:
        raise UserError(
            f"{file}: model_type {values.get('model_type')!r} is not supported as {what}; "
            f"supported are {', '.join(FAMILIES)}"
        )
    return family


def read_config(
    family: EncoderFamily,
    values: dict[str, Any],
    file: epath.Path,
    num_labels: int,
    ignored: Collection[str] | None = None,
    setting: str = "",
) -> EncoderConfig:
    """This package's config of a classifier.

    Args:
      family: of the model.
      values: config.json.
      file: where that is, for errors.
      num_labels: outputs.
      ignored: see `Fields`.
      setting: that names them.

    Raises:
      UserError: for a field of config.json that is malformed or not supported.
    """
    fields = Fields(values, str(file), ignored, setting)
    for name in ("_num_labels", "num_labels"):
        fields.take(name, None)  # The labels say it; the weights' shapes confirm it.
    with checked_config(str(file)) as check:
        config = family.read(fields, num_labels)
        check(config)
    fields.finish()
    return config
