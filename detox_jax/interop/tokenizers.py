"""A vocabulary as transformers.AutoTokenizer loads it."""

from __future__ import annotations

import json

from etils import epath

from detox_jax import atomic_files, tokenizer_files
from detox_jax.errors import UserError
from detox_jax.tokenizer_files import END_OF_TEXT, GPT2_CLASS, TOKENIZER_CONFIG_FILE


def export(vocabulary_dir: str, to: str) -> None:
    """Writes the files from which `AutoTokenizer.from_pretrained` loads a vocabulary.

    A foreign tokenizer's own files, chat template and generation_config.json included, are copied
    byte for byte. Where none of
    them is a `tokenizer_config.json`, one is written that names the class and the special tokens
    (for a bare SentencePiece model one that transformers 5 reads and transformers 4 does not).

    Args:
      vocabulary_dir: a directory that `Vocabulary.load` reads.
      to: directory, created where it is missing; may hold a model already.

    Raises:
      UserError: if the vocabulary cannot be read, or `to` holds another tokenizer.
    """
    tokenizer = tokenizer_files.read(vocabulary_dir)
    files = {
        name: content
        for name, content in tokenizer.files.items()
        if name != tokenizer_files.CONFIG_FILE  # The model's export writes that.
    }
    if TOKENIZER_CONFIG_FILE not in files:
        config = _config(tokenizer)
        files[TOKENIZER_CONFIG_FILE] = (json.dumps(config, indent=2) + "\n").encode()
    directory = epath.Path(to)
    for name, content in files.items():
        if (directory / name).exists() and (directory / name).read_bytes() != content:
            raise UserError(f"{directory / name}: another tokenizer's; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        atomic_files.write_bytes(directory / name, content)


def _config(tokenizer: tokenizer_files.TokenizerFiles) -> dict[str, object]:
    """The least that transformers needs to know beside the vocabulary."""
    bos = tokenizer.codec.id_to_token(tokenizer.bos)
    eos = tokenizer.codec.id_to_token(tokenizer.eos)
    config: dict[str, object] = {"bos_token": bos, "eos_token": eos}
    # Transformers' LlamaTokenizer would ignore how a SentencePiece model normalises its text.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer_files.is_of_merges(tokenizer.files):
        named, _ = tokenizer_files.tokenizer_class(tokenizer_files.settings_of(tokenizer.files))
        config["tokenizer_class"] = named or GPT2_CLASS
    if eos == END_OF_TEXT:  # GPT-2's convention; bytes leave nothing unknown.
        config["unk_token"] = END_OF_TEXT
    return {**config, "clean_up_tokenization_spaces": False}
