"""The encoder: bidirectional layers, scanned, and a classification head on the first token.

Dimensions beside those of `models/config.py`: T texts of a row, where several share one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.models.disentangled import Distances, distance_scores
from detox_jax.models.encoder_config import EncoderConfig
from detox_jax.models.layers import Dense, Embed, Norm, activate, scan_layers

ACTIVATION_AXES = ("batch", "length", "embed")
_MASKED = -1e30


def _heads(cfg: EncoderConfig, name: str) -> Dense:
    """A projection to heads; called within the module that owns it."""
    out_shape = (cfg.num_heads, cfg.head_size)
    return Dense(cfg, (cfg.emb_dim,), out_shape, ("embed",), ("heads", "kv"), name=name)


class EncoderAttention(nn.Module):
    """Attention of every token to every token of its text."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, is_read_BLM: jax.Array, distances: Distances | None
    ) -> jax.Array:
        """Attends; shape stays.

        Args:
          x_BLD: what the layer reads.
          is_read_BLM: whether a token reads another one; an axis of 1 stands for all of its own.
          distances: of disentangled attention.
        """
        cfg = self.config
        query, key = _heads(cfg, "query"), _heads(cfg, "key")
        query_BLHK, key_BLHK = query(x_BLD), key(x_BLD)
        value_BLHK = _heads(cfg, "value")(x_BLD)
        relative = cfg.relative_positions
        # The scale goes to the queries, which are fewer than the scores.
        terms = 1 if relative is None else relative.num_terms
        query_BLHK = query_BLHK * jnp.asarray((cfg.head_size * terms) ** -0.5, query_BLHK.dtype)
        scores_BHLM = jnp.einsum(
            "BLHK,BMHK->BHLM", query_BLHK, key_BLHK, preferred_element_type=jnp.float32
        )
        if relative is not None and distances is not None:
            if not relative.shared_projections:
                query, key = _heads(cfg, "position_query"), _heads(cfg, "position_key")
            scores_BHLM += distance_scores(
                relative, distances, query_BLHK, key_BLHK, query=query, key=key, terms=terms
            )
        scores_BHLM = jnp.where(is_read_BLM[:, None], scores_BHLM, _MASKED)
        weights_BHLM = jax.nn.softmax(scores_BHLM, axis=-1).astype(cfg.activation_dtype)
        out_BLHK = jnp.einsum("BHLM,BMHK->BLHK", weights_BHLM, value_BLHK)
        in_shape = (cfg.num_heads, cfg.head_size)
        return Dense(cfg, in_shape, (cfg.emb_dim,), ("heads", "kv"), ("embed",), name="out")(
            out_BLHK
        )


class EncoderLayer(nn.Module):
    """Attention and MLP, LayerNorm behind each residual (post-norm, BERT's)."""

    config: EncoderConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, is_read_BLM: jax.Array, distances: Distances | None
    ) -> tuple[jax.Array, None]:
        """One layer as a step of `nn.scan`: the carry is the text."""
        cfg = self.config
        x_BLD = partitioning.with_sharding_constraint(x_BLD, ACTIVATION_AXES)
        a_BLD = EncoderAttention(cfg, name="attention")(x_BLD, is_read_BLM, distances)
        x_BLD = Norm(cfg, name="attention_norm")(x_BLD + self._dropout("attention", a_BLD))
        D, F = (cfg.emb_dim,), (cfg.mlp_dim,)
        h_BLF = activate(cfg.activation, Dense(cfg, D, F, ("embed",), ("mlp",), name="wi")(x_BLD))
        m_BLD = Dense(cfg, F, D, ("mlp",), ("embed",), name="wo")(h_BLF)
        return Norm(cfg, name="mlp_norm")(x_BLD + self._dropout("mlp", m_BLD)), None

    def _dropout(self, sublayer: str, x_BLD: jax.Array) -> jax.Array:
        dropout = nn.Dropout(self.config.dropout_rate, name=f"{sublayer}_dropout")
        return dropout(x_BLD, deterministic=self.deterministic)


class Encoder(nn.Module):
    """A sequence classifier: BERT, DistilBERT, RoBERTa, XLM-R, DeBERTa-v2 and v3.

    Attributes:
      config: sizes and architecture.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        starts_BT: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Logits of the labels.

        Args:
          tokens_BL: ids, int32, with padding id 0 on the right; the first token of a text is the
            one that the head reads.
          starts_BT: where the texts of each row begin, one behind the other, int32; L for none.
            Each row is one text where it is None.
          enable_dropout: needs the rng `dropout` where the rate is above 0.

        Returns:
          Float32 `[B, num_labels]`, and `[B, T, num_labels]` where several texts may share a row,
          in which what stands for no text means nothing.
        """
        cfg, deterministic = self.config, not enable_dropout
        is_token_BL = tokens_BL > 0
        is_read_BLM, start_BL = is_token_BL[:, None], None
        if starts_BT is not None:
            is_behind_BLT = jnp.arange(tokens_BL.shape[1])[:, None] >= starts_BT[:, None]
            text_BL = is_behind_BLT.sum(-1) - 1
            is_read_BLM = is_read_BLM & (text_BL[:, :, None] == text_BL[:, None])
            start_BL = jnp.take_along_axis(starts_BT, text_BL, axis=1, mode="clip")
        x_BLD = self._embed(tokens_BL, is_token_BL, start_BL)
        x_BLD = nn.Dropout(cfg.dropout_rate, name="input_dropout")(
            x_BLD, deterministic=deterministic
        )
        distances = None
        if cfg.relative_positions is not None:
            distances = self._distances(tokens_BL.shape[1])
        scanned = scan_layers(
            EncoderLayer,
            cfg.num_layers,
            (nn.broadcast, nn.broadcast),
            initializing=self.is_initializing(),
        )
        layers = scanned(cfg, deterministic, name="layers")
        x_BLD, _ = layers(x_BLD, is_read_BLM, distances)
        if starts_BT is None:
            return self._head(x_BLD[:, 0], deterministic)
        first_BTD = jnp.take_along_axis(x_BLD, starts_BT[..., None], axis=1, mode="clip")
        return self._head(first_BTD, deterministic)

    def _embed(
        self, tokens_BL: jax.Array, is_token_BL: jax.Array, start_BL: jax.Array | None
    ) -> jax.Array:
        cfg = self.config
        x_BLD = Embed(cfg, cfg.padded_vocab_size, "vocab", name="token_embedder")(tokens_BL)
        if cfg.absolute_positions:
            rows = cfg.max_length + cfg.position_offset
            table = Embed(cfg, rows, "abspos_buckets", name="position_embedder")
            x_BLD = x_BLD + table(self._positions(tokens_BL, is_token_BL, start_BL))
        if cfg.type_vocab_size:
            table = Embed(cfg, cfg.type_vocab_size, "abspos_buckets", name="type_embedder")
            x_BLD = x_BLD + table(jnp.zeros((1, 1), jnp.int32))
        return Norm(cfg, name="embedding_norm")(x_BLD)

    def _positions(
        self, tokens_BL: jax.Array, is_token_BL: jax.Array, start_BL: jax.Array | None = None
    ) -> jax.Array:
        """Rows of the position table; `start_BL` is where the text of each place begins."""
        cfg = self.config
        if cfg.uncounted_id is None:
            place_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
            if start_BL is not None:  # Padding may lie further behind than the table is long.
                place_BL = jnp.where(is_token_BL, place_BL - start_BL, 0)
            return place_BL + cfg.position_offset
        counted_BL = (is_token_BL & (tokens_BL != cfg.uncounted_id)).astype(jnp.int32)
        count_BL = jnp.cumsum(counted_BL, axis=1)
        if start_BL is not None:  # Of the text alone.
            count_BL -= jnp.take_along_axis(count_BL - counted_BL, start_BL, axis=1, mode="clip")
        # Row `position_offset - 1` stands for what is not counted.
        return count_BL * counted_BL + (cfg.position_offset - 1)

    def _distances(self, length: int) -> Distances:
        cfg = self.config
        assert cfg.relative_positions is not None
        rows = 2 * cfg.relative_positions.span
        table_SD = Embed(cfg, rows, "relpos_buckets", name="distance_embedder")(jnp.arange(rows))
        if cfg.relative_positions.norm:
            table_SD = Norm(cfg, name="distance_norm")(table_SD)
        return Distances.create(cfg.relative_positions, table_SD, length)

    def _head(self, x_BD: jax.Array, deterministic: bool) -> jax.Array:
        """A hidden layer and the logits, of any number of texts."""
        cfg = self.config
        D, labels = (cfg.emb_dim,), (cfg.num_labels,)
        x_BD = Dense(cfg, D, D, ("embed",), ("mlp",), name="head_dense")(x_BD)
        x_BD = activate(cfg.head_activation, x_BD)
        x_BD = nn.Dropout(cfg.dropout_rate, name="head_dropout")(x_BD, deterministic=deterministic)
        logits_BC = Dense(cfg, D, labels, ("embed",), ("labels",), name="head_logits")(x_BD)
        return logits_BC.astype(jnp.float32)
