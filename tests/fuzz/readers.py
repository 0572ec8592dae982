"""Every reader of a file that a user may bring, with the files that it is tried on.

A reader is given a directory in which its file lies; it returns, or raises `UserError`. All else is
a finding. `READERS` serves the fast tests here and longer runs elsewhere:
`DETOX_JAX_FUZZ_EXAMPLES=10000 python -m pytest tests/fuzz`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from etils import epath
from hypothesis import strategies as st

from detox_jax import atomic_files, cli, manifests, outputs, records
from detox_jax.checkpoints import metric_lines, places, streamed
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.classifiers import classifier_files, encoder_bodies, encoder_tokenizers
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.formats import jsonl
from detox_jax.generation.prompts import Heuristic
from detox_jax.generation.steering import words
from detox_jax.interop import huggingface, safetensors_io
from detox_jax.toxicity import cache, labelled, lexicon
from detox_jax.training.metric_log import MetricLog
from detox_jax.vocabulary import Vocabulary
from tests.evaluation import results_made
from tests.fuzz import damage, models_made, records_made


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
      file: the name under which the drawn bytes lie in the directory.
      contents: what is drawn.
      read: reads the directory.
      beside: the files that must lie there too.
    """

    file: str
    contents: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def succeeds_or_says_why_not(self, content: bytes, directory: Path) -> None:
        """Reads what was drawn in an empty directory; a refusal is one line that names it."""
        for file, beside in self.beside.items():
            (directory / file).write_bytes(beside)
        (directory / self.file).write_bytes(content)
        try:
            self.read(directory)
        except UserError as error:
            assert "\n" not in str(error)
            assert str(directory) in str(error) or self.file in str(error)


def _source(directory: Path) -> None:
    source = huggingface.open_source(epath.Path(directory))
    huggingface.stored_names(source)
    huggingface.active_map(source.family, source.config)


def _weights(directory: Path) -> None:
    reader = safetensors_io.TensorReader(epath.Path(directory))
    for name in reader.shapes:
        reader.read(name)


def _spec(directory: Path) -> None:
    spec = checkpoints.read_spec(epath.Path(directory))
    streamed.shapes_of(spec.config)


def _manifest(directory: Path) -> None:
    manifests.read_manifest(epath.Path(directory))
    outputs.OutputDirectory(str(directory), "score", {"scorer": {"name": "n"}})


def _records_of(directory: Path) -> None:
    list(records.read_records(str(directory / "d.jsonl")))


def _records_in(name: str) -> Callable[[Path], Any]:
    return lambda directory: list(records.read_records(str(directory / name)))


def _arrow(write: Callable[[Any, pyarrow.Table], None]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    write(sink, pyarrow.table({"id": ["a", "b", None], "text": ["x", "y", "z"]}))
    return sink.getvalue().to_pybytes()


def _stream(sink: Any, table: pyarrow.Table) -> None:
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


_CSV = b'id,text,toxicity\r\na,"x, ""y""\nz",0.5\r\nb,c,\r\n'


def _imports(directory: Path) -> None:
    cached = cache.CachedScorer(
        _Perspective(), str(directory / "s.sqlite"), True, (str(directory / "d.jsonl"),)
    )
    cached.score(["x"])


class _Perspective:
    name, fingerprint, attribute = "perspective", "perspective-1", "TOXICITY"

    def score(self, texts):
        return [0.5 for _ in texts]


def _store(directory: Path) -> None:
    cache.CachedScorer(_Perspective(), str(directory / "s.sqlite")).score(["x"])


def _metric_log(directory: Path) -> None:
    log = MetricLog.__new__(MetricLog)  # Without TensorBoard, which takes a second to load.
    log._file, log._is_first, log._appends = epath.Path(directory) / places.METRICS_FILE, True, True
    log._lines = metric_lines.read(log._file)
    log.forget_after(5)


def _labelled(name: str) -> Callable[[Path], Any]:
    file, reader = labelled.FILES[name]
    return lambda directory: labelled._checked(directory / Path(file).name, reader)


def _gin(directory: Path) -> None:
    arguments = cli.parse_arguments(["score", f"--gin_file={directory / 'f.gin'}"])
    cli.load_config(arguments)


_GIN = b"""from __gin__ import dynamic_registration
from detox_jax.toxicity import lexicon
# A comment.
INPUT = 'in.jsonl'
OUTPUT_DIR = "out"
SCORER = @lexicon.LexiconScorer()
lexicon.LexiconScorer:
  words_file = %WORDS_FILE
"""


def _json(*values: Any) -> st.SearchStrategy[bytes]:
    return damage.json_files(values)


def _results() -> list[Any]:
    from detox_jax.evaluation.typed_json import to_json

    made = results_made.made_results()
    return [json.loads(json.dumps(atomic_files.finite(to_json(made))))]


_TEXT = {"tokenizer.json": json.dumps(models_made.TOKENIZER).encode()}
_GPT2 = {
    "vocab.json": json.dumps(models_made.VOCAB).encode(),
    "merges.txt": models_made.MERGES.encode(),
}
_TOKENIZER = lambda directory: Vocabulary.load(str(directory))  # noqa: E731
_ENCODER_TOKENIZER = lambda directory: encoder_tokenizers.build(epath.Path(directory))  # noqa: E731
_LIST = damage.bytes_like([b"you moron\nidiot\n", "na\u00efve\r\nx\n".encode(), b"\n\n"])
_MANIFEST = {
    "schema_version": 2,
    "verb": "score",
    "complete": False,
    "settings": {"scorer": {"name": "n", "path": "p"}},
    "versions": {"jax": "0.10.2"},
    "shards": {"scored-00000-of-00001.jsonl": {"records": 1, "sha256": "0"}},
}

READERS: dict[str, Reader] = {
    "documents": Reader("d.jsonl", damage.json_lines(records_made.DOCUMENTS), _records_of),
    "prompts": Reader("d.jsonl", damage.json_lines(records_made.PROMPTS), _records_of),
    "all layouts": Reader(
        "d.jsonl", damage.json_lines(records_made.DOCUMENTS + records_made.PROMPTS, 6), _records_of
    ),
    "JSON array": Reader(
        "d.json",
        damage.json_files([records_made.DOCUMENTS[:3], records_made.PROMPTS[:3]]),
        _records_in("d.json"),
    ),
    "CSV": Reader("d.csv", damage.bytes_like([_CSV]), _records_in("d.csv")),
    "text": Reader("d.txt", damage.bytes_like([b"one\n\ntwo\n"]), _records_in("d.txt")),
    "Parquet": Reader(
        "d.parquet",
        damage.bytes_like([_arrow(lambda sink, table: pyarrow.parquet.write_table(table, sink))]),
        _records_in("d.parquet"),
    ),
    "Arrow": Reader("d.arrow", damage.bytes_like([_arrow(_stream)]), _records_in("d.arrow")),
    "any bytes": Reader("d.jsonl", damage.bytes_like([b'{"id": "a", "text": "x"}\n']), _records_of),
    **{
        set_name: Reader(file, damage.json_lines(rows), _records_in(file))
        for set_name, (file, rows) in records_made.PUBLISHED.items()
    },
    "BOLD": Reader(
        "gender_prompt.json",
        damage.json_files([records_made.BOLD]),
        _records_in("gender_prompt.json"),
    ),
    "FrenchToxicityPrompts by its fields": Reader(
        "low_tox_prompt.jsonl",
        damage.json_lines([{"texte": "Le bus", "note": 0.1}]),
        _records_in("low_tox_prompt.jsonl#prompt=texte,score=note"),
    ),
    "imported scores": Reader("d.jsonl", damage.json_lines(records_made.PROMPTS), _imports),
    "manifest": Reader(manifests.MANIFEST, _json(_MANIFEST), _manifest),
    "model.json": Reader(places.MODEL_FILE, _json(*models_made.MODELS), _spec),
    "config.json": Reader(
        "config.json",
        _json(*models_made.CONFIGS),
        _source,
        {"model.safetensors": models_made.WEIGHTS},
    ),
    "config.json of a classifier": Reader(
        "config.json",
        _json(*models_made.ENCODERS),
        lambda directory: classifier_files.open_classifier(epath.Path(directory)),
        {"model.safetensors": models_made.WEIGHTS},
    ),
    "config.json of an encoder": Reader(
        "config.json",
        _json(*models_made.ENCODERS),
        lambda directory: encoder_bodies.open_body(epath.Path(directory), 2),
        {"model.safetensors": models_made.WEIGHTS},
    ),
    "model.safetensors": Reader(
        "model.safetensors", damage.bytes_like([models_made.WEIGHTS]), _weights
    ),
    "header of model.safetensors": Reader(
        "model.safetensors", _json(models_made.HEADER).map(models_made.with_header), _weights
    ),
    "model.safetensors.index.json": Reader(
        "model.safetensors.index.json",
        _json(models_made.INDEX),
        _weights,
        {"one.safetensors": models_made.WEIGHTS},
    ),
    "tokenizer.json": Reader("tokenizer.json", _json(models_made.TOKENIZER), _TOKENIZER),
    "vocab.json": Reader("vocab.json", _json(models_made.VOCAB), _TOKENIZER, _GPT2),
    "merges.txt": Reader(
        "merges.txt", damage.bytes_like([models_made.MERGES.encode()]), _TOKENIZER, _GPT2
    ),
    "tokenizer_config.json": Reader(
        "tokenizer_config.json", _json(models_made.TOKENIZER_CONFIG), _TOKENIZER, _TEXT
    ),
    "tokenizer_config.json of GPT-2": Reader(
        "tokenizer_config.json", _json(models_made.TOKENIZER_CONFIG), _TOKENIZER, _GPT2
    ),
    "special_tokens_map.json": Reader(
        "special_tokens_map.json", _json(models_made.SPECIAL_TOKENS), _TOKENIZER, _TEXT
    ),
    "added_tokens.json": Reader(
        "added_tokens.json", _json(models_made.ADDED_TOKENS), _TOKENIZER, _TEXT
    ),
    "generation_config.json": Reader(
        "generation_config.json", _json(models_made.GENERATION), _TOKENIZER, _TEXT
    ),
    "tokenizer.model": Reader(
        "tokenizer.model", damage.bytes_like([b"\n\x07\n\x03<s>"]), _TOKENIZER
    ),
    "vocab.txt": Reader(
        "vocab.txt", damage.bytes_like([models_made.WORD_PIECES.encode()]), _ENCODER_TOKENIZER
    ),
    "tokenizer_config.json of an encoder": Reader(
        "tokenizer_config.json",
        _json({"do_lower_case": True, "cls_token": "[CLS]", "unk_token": {"content": "[UNK]"}}),
        _ENCODER_TOKENIZER,
        {"vocab.txt": models_made.WORD_PIECES.encode()},
    ),
    "results.json": Reader(
        "results.json",
        _json(*_results()),
        lambda directory: results_files.read(epath.Path(directory) / "results.json"),
    ),
    "metrics.jsonl": Reader(
        places.METRICS_FILE,
        damage.json_lines([{"step": 1, "loss": 2.5}, {"step": 2, "eval/loss": 2.0}]),
        _metric_log,
    ),
    "score cache": Reader(
        "s.sqlite", damage.bytes_like([b"SQLite format 3\0" + bytes(84)]), _store
    ),
    "lexicon": Reader(
        "words",
        _LIST,
        lambda directory: lexicon.LexiconScorer(str(directory / "words")).score(["x"]),
    ),
    "banned words": Reader(
        "words", _LIST, lambda directory: words.read_words(str(directory / "words"))
    ),
    "prompts file": Reader(
        "words", _LIST, lambda directory: Heuristic(3, str(directory / "words")).requests()
    ),
    "gin file": Reader("f.gin", damage.bytes_like([_GIN]), _gin),
    "settings": Reader(
        "s.json",
        _json({"a": [1, {"b": 2}]}),
        lambda directory: jsonl.json_object((directory / "s.json").read_bytes(), "s.json"),
    ),
    "GoEmotions": Reader(
        "goemotions_train.tsv",
        damage.bytes_like([b"thanks\t1,2\ta\nso late\t0\tb\n"]),
        _labelled("goemotions"),
        {"goemotions_labels.txt": b"anger\njoy\nneutral\n"},
    ),
    "wiki_talk.csv": Reader(
        "wiki_talk.csv",
        damage.bytes_like([b'id,text,parent,label,api\n1,"a ""b""\nc",,1,0.5\n2,d,,0,0.1\n']),
        _labelled("wiki_talk"),
    ),
    "labelled records": Reader(
        "prompts_dev.jsonl", damage.json_lines(records_made.PROMPTS[1:3]), _labelled("rtp")
    ),
    "word list": Reader("ldnoobw_en.txt", _LIST, _labelled("ldnoobw_en")),
}
