"""What an encoder is trained from: a pretrained one, or random weights and a new vocabulary."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from detox_jax import atomic_files, manifests, output_settings
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers import encoder_bodies, encoder_export
from detox_jax.classifiers.classifier_text import ClassifierTokenizer
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.interop import hub
from detox_jax.interop.config_fields import ignored_names
from detox_jax.models.config import check_dropout
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import EncoderConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from detox_jax.vocabulary import ID_SHIFT

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SMALLEST_VOCABULARY = 100


@dataclasses.dataclass(frozen=True)
class Started:
    """An encoder to train.

    Attributes:
      config: of the classifier.
      fields: of its config.json; the labels' come with the export.
      tokenizer: of its texts.
      pretrained: parameters by path; those that are not there begin random.
    """

    config: EncoderConfig
    fields: Mapping[str, Any]
    tokenizer: ClassifierTokenizer
    pretrained: Mapping[str, np.ndarray]

    def parameters(self, mesh: Mesh, seed: int) -> params_lib.Params:
        """All parameters, float32, over the mesh."""
        model = Encoder(self.config)
        shardings = meshes.param_shardings(model, mesh)

        def init() -> params_lib.Params:
            tokens = jnp.ones((1, 1), jnp.int32)
            variables: Any = model.init(jax.random.key(seed), tokens, enable_dropout=False)
            return variables["params"]

        with meshes.sharding_scope(mesh):
            params = jax.jit(init, out_shardings=shardings)()
        flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
        for path, value in self.pretrained.items():
            flat[path] = jax.device_put(value, flat[path].sharding)
        return traverse_util.unflatten_dict(flat, sep="/")


@dataclasses.dataclass(frozen=True)
class EncoderStart:
    """A pretrained encoder with a head of its own, or where `path` is None a small new BERT.

    Attributes:
      path: a Hugging Face directory or hub name, for whatever task it was trained.
      revision: of a hub name.
      vocab_size: most tokens of a new vocabulary; the sizes that follow are a new encoder's too.
      emb_dim: width.
      num_heads: heads.
      num_layers: layers.
      mlp_dim: hidden units.
      init_std: of initial weights; BERT's 0.02 is for a width of 768, and slow for narrow ones.
      dropout_rate: while training, of either.
      ignore_fields: of the config.json of a pretrained encoder, those that are unknown here and
        change no output, as the user says.
    """

    path: str | None = None
    revision: str | None = None
    vocab_size: int = 8192
    emb_dim: int = 128
    num_heads: int = 4
    num_layers: int = 2
    mlp_dim: int = 512
    init_std: float = 0.05
    dropout_rate: float = 0.1
    ignore_fields: Sequence[str] | str | None = None

    def __post_init__(self):
        check_dropout(self)

    def check(self, num_labels: int, length: int) -> dict[str, Any]:
        """What decides the first weights and the ids of texts, for manifests; writes nothing.

        Args:
          num_labels: of the classifier.
          length: at which texts are cut.

        Raises:
          UserError: if the encoder or its vocabulary cannot be read, or cannot read that much.
        """
        if self.path is not None:
            source, body = self._pretrained(num_labels)
            tokenizer = _tokenizer(source, body.config, length)
            return {
                "sha256": manifests.hash_files(body.files),
                output_settings.TOKENIZER: manifests.hash_files(tokenizer.files),
            }
        if self.vocab_size < _SMALLEST_VOCABULARY:
            raise UserError(
                f"VOCAB_SIZE is {self.vocab_size}; a vocabulary of word pieces needs at least "
                f"{_SMALLEST_VOCABULARY}"
            )
        return {"sizes": dataclasses.asdict(self._new(self.vocab_size, num_labels, length))}

    def open(
        self, directory: epath.Path, texts: Iterable[str], num_labels: int, length: int
    ) -> Started:
        """Reads the encoder, or trains a vocabulary, and puts the tokenizer into a directory.

        Args:
          directory: of the classifier to be; exists.
          texts: to train a vocabulary on, read only where one is needed.
          num_labels: of the classifier.
          length: at which texts are cut; of a new encoder also the most that it can read.

        Raises:
          UserError: see `check`.
        """
        if self.path is not None:
            source, body = self._pretrained(num_labels)
            config = dataclasses.replace(body.config, dropout_rate=self.dropout_rate)
            tokenizer = _tokenizer(source, config, length)
            _copy_tokenizer(tokenizer.files, directory, length)
            return Started(config, body.fields, tokenizer, body.read_parameters())
        file = directory / TOKENIZER_FILE
        if not file.exists():  # Written last: a killed run goes on.
            _train_word_pieces(directory, texts, self.vocab_size, length)
        # How many tokens the texts gave is known only now.
        vocabulary = tokenizers.Tokenizer.from_str(file.read_text())
        config = self._new(vocabulary.get_vocab_size(), num_labels, length)
        fields = encoder_export.bert_fields(config)
        return Started(config, fields, _tokenizer(directory, config, length), {})

    def _pretrained(self, num_labels: int) -> tuple[epath.Path, encoder_bodies.Body]:
        assert self.path is not None
        source, _ = hub.resolve(self.path, self.revision)
        ignored = ignored_names(self.ignore_fields or (), encoder_bodies.IGNORE_FIELDS)
        return source, encoder_bodies.open_body(source, num_labels, ignored)

    def _new(self, num_tokens: int, num_labels: int, length: int) -> EncoderConfig:
        return EncoderConfig(
            vocab_size=num_tokens + ID_SHIFT,
            emb_dim=self.emb_dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            mlp_dim=self.mlp_dim,
            num_labels=num_labels,
            max_length=length,
            init_std=self.init_std,
            dropout_rate=self.dropout_rate,
        )


def _tokenizer(directory: epath.Path, config: EncoderConfig, length: int) -> ClassifierTokenizer:
    return ClassifierTokenizer(directory, config.vocab_size - ID_SHIFT, config.max_length, length)


def _copy_tokenizer(files: Iterable[epath.Path], directory: epath.Path, length: int) -> None:
    """Copies a tokenizer, and says where texts are cut: where they were while it was trained."""
    config: dict[str, Any] = {}
    for file in files:
        if file.name == TOKENIZER_CONFIG_FILE:
            config = jsonl.json_object(file.read_bytes(), str(file))
        else:
            atomic_files.write_bytes(directory / file.name, file.read_bytes())
    config["model_max_length"] = length
    atomic_files.write_json(directory / TOKENIZER_CONFIG_FILE, config)


def _train_word_pieces(
    directory: epath.Path, texts: Iterable[str], vocab_size: int, length: int
) -> None:
    """BERT's uncased tokenizer with pieces of its own, as transformers loads it."""
    pieces = _word_pieces(texts, vocab_size)
    tokenizer = _uncased(models.WordPiece(pieces, unk_token=_SPECIAL["unk"]))  # type: ignore
    tokenizer.add_special_tokens(list(_SPECIAL.values()))
    tokenizer.decoder = decoders.WordPiece()  # type: ignore
    first, last = _SPECIAL["cls"], _SPECIAL["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore
        single=[first, "$A", last],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": token for name, token in _SPECIAL.items()},
    }
    content = json.dumps(config, indent=2) + "\n"
    atomic_files.write_bytes(directory / TOKENIZER_CONFIG_FILE, content.encode())
    atomic_files.write_bytes(directory / TOKENIZER_FILE, tokenizer.to_str(pretty=False).encode())


def _uncased(model: models.WordPiece) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore
    return tokenizer


def _word_pieces(texts: Iterable[str], vocab_size: int) -> dict[str, int]:
    """The ids of pieces trained on texts, the same for the same texts.

    By itself the trainer numbers the letters within words in the order of a hash table, and so
    breaks ties at random: here they are numbered before.
    """
    texts = list(texts)
    tokenizer = _uncased(models.WordPiece(unk_token=_SPECIAL["unk"]))
    normalize, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _ in split(normalize(text))}
    within = sorted({letter for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL.values(), *(f"##{letter}" for letter in within)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()
