"""A published classifier as a scorer: an encoder of Hugging Face, run by JAX on the mesh.

Texts stand side by side in rows of a few shapes, see `packed_texts`. A batch of rows is split over
the mesh's `data` and `fsdp` axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from detox_jax import manifests, terminal
from detox_jax.classifiers import classifier_files, packed_texts, published
from detox_jax.classifiers.classifier_text import ClassifierTokenizer
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.interop import hub
from detox_jax.interop.config_fields import ignored_names
from detox_jax.models.encoder import Encoder
from detox_jax.parallel import mesh as meshes
from detox_jax.toxicity.scorer import prepare
from detox_jax.vocabulary import ID_SHIFT

VERSION = 1
RELIABILITY_FILE = "reliability.json"
_DTYPES = ("float32", "bfloat16")


class ClassifierScorer:
    """Scores by one output of a sequence classifier.

    Every text has a score. One without a token of its own (empty, or whitespace that the tokenizer
    drops) has 0.0: there is nothing in it that could be toxic.

    Attributes:
      name: last part of the directory or hub name.
      languages: that the encoder's own card says.
      fingerprint: of config, weights, tokenizer, label, activation, cut and dtype.
      label: of the output.
      activation: that makes it a probability, `sigmoid` or `softmax`.
      max_length: tokens of a text that are read.
      reliability: how its scores compare with labels, see `ToxicityScorer`; None where the
        directory does not say, or says it of another label.
    """

    on_mesh = True
    languages = "as the encoder says"

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        label: str | None = None,
        dtype: str = "float32",
        batch_size: int = 32,
        mesh_shape: Mapping[str, int] | None = None,
        max_length: int | None = None,
        activation: str | None = None,
        ignore_fields: Sequence[str] | str = (),
    ):
        """Reads the classifier.

        Args:
          path: a Hugging Face directory or hub name: BERT, DistilBERT, RoBERTa, XLM-R, DeBERTa-v2
            or v3 with a sequence classification head.
          revision: of a hub name.
          label: of the output that is toxicity; known for the classifiers of `published`.
          dtype: of weights and computation, `float32` or `bfloat16`.
          batch_size: rows of 64 tokens that are computed at once, at least one for each device
            that batches are split over; a row holds a text, or several. Of longer rows fewer.
          mesh_shape: see `parallel.mesh.create_mesh`.
          max_length: tokens at which texts are cut; the tokenizer's own where None.
          activation: `sigmoid` where a text can have several labels, `softmax` where it has one; as
            the classifier says where None, see `published.choose_output`.
          ignore_fields: of config.json, those that are unknown here and change no output.

        Raises:
          UserError: if the classifier cannot be read or its label is not known.
        """
        if dtype not in _DTYPES:
            raise UserError(f"ClassifierScorer.dtype is {dtype!r}; one of {', '.join(_DTYPES)}")
        if batch_size < 1:
            raise UserError(f"ClassifierScorer.batch_size is {batch_size}; must be positive")
        directory, _ = hub.resolve(path, revision)
        ignored = ignored_names(ignore_fields, classifier_files.IGNORE_FIELDS)
        opened = classifier_files.open_classifier(directory, dtype, ignored)
        self._index, self.activation = published.choose_output(
            path, label, opened.labels, opened.problem_type, activation
        )
        said = published.warning(path, opened.labels, opened.problem_type, activation)
        if said is not None:
            terminal.note(said)
        self.label = opened.labels[self._index]
        self._num_labels = len(opened.labels)
        self.reliability = _read_reliability(directory, self.label)
        config = opened.config
        self._tokenizer = ClassifierTokenizer(
            directory, config.vocab_size - ID_SHIFT, config.max_length, max_length
        )
        self.max_length = self._tokenizer.max_length
        self._mesh = meshes.create_mesh(mesh_shape)
        self._shards = meshes.num_batch_shards(self._mesh)
        self._batch_size = batch_size
        model = Encoder(config)
        with meshes.sharding_scope(self._mesh):
            self._params = opened.read_parameters(meshes.param_shardings(model, self._mesh))
        self._compute = _program(model, self.activation)
        self.name = path.rstrip("/").split("/")[-1]
        self.fingerprint = self._fingerprint(opened)

    def _fingerprint(self, opened: classifier_files.Classifier) -> str:
        """Batches and mesh are left out: they change a score by rounding alone."""
        digest = hashlib.sha256(manifests.hash_files(opened.files).encode())
        digest.update(manifests.hash_files(self._tokenizer.files).encode())
        settings = (self.label, self.activation, self.max_length, opened.config.dtype)
        digest.update(repr(settings).encode())
        return f"classifier-{VERSION}-{self.label}-{digest.hexdigest()[:12]}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        return [float(score) for score in self.score_labels(texts)[:, self._index]]

    def score_labels(self, texts: Sequence[str]) -> np.ndarray:
        """The probabilities of all labels, float64 `[texts, labels]`."""
        ids = self._tokenizer.encode([prepare(text) for text in texts])
        scores = np.zeros((len(ids), self._num_labels))
        with_words = {
            text: np.asarray(tokens, np.int32) + ID_SHIFT
            for text, tokens in enumerate(ids)
            if len(tokens) > self._tokenizer.num_special
        }
        pending: list[tuple[packed_texts.Batch, jax.Array]] = []
        batches = packed_texts.batches(
            with_words,
            rows=self._batch_size,
            multiple=self._shards,
            shortest=self._tokenizer.num_special + 1,
        )
        sharding = meshes.batch_sharding(self._mesh)
        with meshes.sharding_scope(self._mesh):
            for batch in batches:
                arrays = meshes.to_mesh((batch.tokens_BL, batch.starts_BT), sharding)
                pending.append((batch, self._compute(self._params, *arrays)))
        for batch, scores_BTC in pending:  # Read when all are under way.
            scores[batch.texts] = meshes.to_host(scores_BTC)[batch.rows, batch.places]
        return scores


def _read_reliability(directory: epath.Path, label: str) -> Any:
    """What `train_scorer` measured of this label."""
    file = directory / RELIABILITY_FILE
    if not file.exists():
        return None
    reliability = jsonl.json_object(file.read_bytes(), str(file))
    return reliability if reliability.get("label") == label else None


def _program(model: Encoder, activation: str) -> Any:
    """Parameters, tokens `[B, L]` and starts `[B, T]` to probabilities `[B, T, C]`.

    Compiled once for each shape.
    """

    @jax.jit
    def compute(params: Any, tokens_BL: jax.Array, starts_BT: jax.Array) -> jax.Array:
        logits_BTC = model.apply({"params": params}, tokens_BL, starts_BT, enable_dropout=False)
        assert isinstance(logits_BTC, jax.Array)
        if activation == published.SIGMOID:
            return jax.nn.sigmoid(logits_BTC)
        return jax.nn.softmax(logits_BTC, axis=-1)

    return compute
