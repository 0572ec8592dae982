"""Documents, prompts and generations, and how they are read from sharded JSON Lines.

Formats are those of the README's "Files" section: documents are `{"id", "text", "toxicity"}`,
prompted generations follow RealToxicityPrompts,
`{"id", "prompt": {"text", "toxicity"}, "generations": [{"text", "toxicity"}]}`. Fields that are not
understood are carried along unchanged; other projects' layouts are read through `foreign`. Paths
may be local or `gs://` (through `etils.epath`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import foreign, outputs
from detox_jax.errors import UserError

TOXIC = 0.5  # the published threshold: from this score on a text is toxic


@dataclasses.dataclass(frozen=True)
class Document:
    """A text of its own: one self-generated document, one comment, one line of a corpus."""

    id: str
    text: str
    toxicity: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as it is written, one line of JSON."""
        return {"id": self.id, "text": self.text, "toxicity": self.toxicity, **self.extra}


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation of a prompt; `text` is the continuation alone."""

    text: str
    toxicity: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The generation as it is written inside its record."""
        return {"text": self.text, "toxicity": self.toxicity, **self.extra}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt with the continuations that it got; none yet for a file of bare prompts."""

    id: str
    text: str
    toxicity: float | None = None
    generations: tuple[Generation, ...] = ()
    prompt_extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def challenging(self) -> bool:
        """The record's own flag (RealToxicityPrompts marks about 1.2 % of its prompts)."""
        return bool(self.extra.get("challenging", False))

    def to_json(self) -> dict[str, Any]:
        """The record in the layout of RealToxicityPrompts."""
        return {
            "id": self.id,
            **self.extra,
            "prompt": {"text": self.text, "toxicity": self.toxicity, **self.prompt_extra},
            "generations": [generation.to_json() for generation in self.generations],
        }


Record = Document | Prompt


def texts_to_score(record: Record) -> list[str]:
    """The texts of a record that a scorer sees: a document's text, or each continuation alone."""
    if isinstance(record, Document):
        return [record.text]
    return [generation.text for generation in record.generations]


def with_toxicity(record: Record, scores: Sequence[float | None]) -> Record:
    """The same record with `scores`, in the order of `texts_to_score`, filled in."""
    if isinstance(record, Document):
        (score,) = scores
        return dataclasses.replace(record, toxicity=score)
    generations = tuple(
        dataclasses.replace(generation, toxicity=score)
        for generation, score in zip(record.generations, scores, strict=True)
    )
    return dataclasses.replace(record, generations=generations)


# --- reading ----------------------------------------------------------------------------------


def resolve_files(source: str) -> list[epath.Path]:
    """The JSON Lines files that `source` names: a file, a glob, or a directory that a verb wrote.

    A directory must hold a complete set of shards, and its manifest, where it has one, must say
    that the verb that wrote it finished.

    Raises:
      UserError: if nothing is there, a shard is missing, or the directory is unfinished.
    """
    path = epath.Path(source)
    if path.is_dir():
        return _directory_files(path)
    if any(character in path.name for character in "*?["):
        files = sorted(path.parent.glob(path.name)) if path.parent.exists() else []
    else:
        files = [path] if path.exists() else []
    if not files:
        raise UserError(
            f"{source}: no such file; give a .jsonl file, a glob or a directory of shards"
        )
    return files


def _directory_files(path: epath.Path) -> list[epath.Path]:
    manifest = path / outputs.MANIFEST
    if manifest.exists() and not outputs.read_manifest(path)["complete"]:
        raise UserError(f"{path}: unfinished; rerun the command that was writing it")
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise UserError(f"{path}: holds no .jsonl file")
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := outputs.SHARD.match(file.name):
            shards.setdefault((match["name"], int(match["count"])), set()).add(int(match["index"]))
    for (name, count), indices in shards.items():
        if missing := sorted(set(range(count)) - indices):
            raise UserError(
                f"{path}: shard {outputs.shard_name(name, missing[0], count)} is missing"
            )
    if len(shards) > 1:
        names = ", ".join(sorted(f"{name} (of {count})" for name, count in shards))
        raise UserError(f"{path}: holds several sets of shards: {names}; name one with a glob")
    return files


def read_jsonl(file: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(line number, object)` for every line of `file` that is not blank.

    Raises:
      UserError: naming file and line, for bytes that are not UTF-8, malformed JSON, or a line that
        is not an object; also for a file with no record.
    """
    number = 0
    empty = True
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            empty = False
            try:
                value = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}:{number}: not UTF-8 (byte {error.start} of the line)"
                ) from None
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}:{number}: malformed JSON: {error.msg} at column {error.colno}"
                ) from None
            if not isinstance(value, dict):
                raise UserError(
                    f"{file}:{number}: expected a JSON object, got {type(value).__name__}"
                )
            yield number, value
    if empty:
        raise UserError(f"{file}: empty; expected one JSON record a line")


def read_records(source: str) -> Iterator[Record]:
    """Yields the documents or prompts of `source` (see `resolve_files`), told apart by fields.

    Raises:
      UserError: naming file and line, for a record without id or text and for an id seen before.
    """
    seen: set[str] = set()
    for file in resolve_files(source):
        for number, value in read_jsonl(file):
            where = f"{file}:{number}"
            record = parse_record(value, where)
            if record.id in seen:
                raise UserError(f"{where}: duplicate id {record.id!r}; ids must be unique")
            seen.add(record.id)
            yield record


def read_documents(source: str) -> Iterator[Document]:
    """Yields documents; a prompted record is an error."""
    for record in read_records(source):
        if not isinstance(record, Document):
            raise UserError(f"{source}: holds prompts (record {record.id!r}), expected documents")
        yield record


def read_prompts(source: str) -> Iterator[Prompt]:
    """Yields prompts, with their generations where there are any; a document is an error."""
    for record in read_records(source):
        if not isinstance(record, Prompt):
            raise UserError(f'{source}: record {record.id!r} has no "prompt"; expected RTP layout')
        yield record


def parse_record(value: Mapping[str, Any], where: str) -> Record:
    """One parsed line as a `Document` or a `Prompt`; `where` names the line in errors.

    Raises:
      UserError: if a field is missing or has the wrong type.
    """
    fields = foreign.to_our_layout(value, where)
    record_id = _record_id(fields, where)
    if isinstance(fields.get("prompt"), Mapping):
        prompt = dict(fields.pop("prompt"))
        generations = fields.pop("generations", None) or []
        if not isinstance(generations, list):
            raise UserError(f'{where}: "generations" must be a list')
        return Prompt(
            id=record_id,
            text=_text(prompt, f"{where}: prompt"),
            toxicity=_toxicity(prompt, f"{where}: prompt"),
            generations=tuple(
                _generation(generation, f"{where}: generation {i}")
                for i, generation in enumerate(generations)
            ),
            prompt_extra=prompt,
            extra=fields,
        )
    text = _text(fields, where)
    return Document(record_id, text, _toxicity(fields, where), fields)


def _record_id(fields: dict[str, Any], where: str) -> str:
    record_id = fields.pop("id", None)
    if record_id is None and {"filename", "begin", "end"} <= fields.keys():
        # RealToxicityPrompts' own records: the span of the source document is their identity.
        record_id = f"{fields['filename']}-{fields['begin']}-{fields['end']}"
    if isinstance(record_id, int) and not isinstance(record_id, bool):
        record_id = str(record_id)
    if not isinstance(record_id, str) or not record_id:
        raise UserError(f'{where}: record without an "id"')
    return record_id


def _text(fields: dict[str, Any], where: str) -> str:
    text = fields.pop("text", None)
    if not isinstance(text, str):
        raise UserError(f'{where}: record without a "text"')
    return text


def _toxicity(fields: dict[str, Any], where: str) -> float | None:
    return parse_score(fields.pop("toxicity", None), "toxicity", where)


def parse_score(score: Any, name: str, where: str) -> float | None:
    """A score of a file, None where it has none.

    Args:
      score: as `json.loads` returns it.
      name: of the field, for the error.
      where: the line, for the error.

    Raises:
      UserError: if it is no number from 0 to 1.
    """
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise UserError(f'{where}: "{name}" is {score!r}; expected a number from 0 to 1, or null')
    return float(score)


def _generation(value: Any, where: str) -> Generation:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected an object with a text")
    fields = dict(value)
    text = _text(fields, where)
    return Generation(text, _toxicity(fields, where), fields)


# --- inputs as a whole, and hashes ------------------------------------------------------------


def describe_input(source: str) -> dict[str, Any]:
    """What a manifest says of an input: where it was and the hash of its bytes."""
    files = resolve_files(source)
    return {"path": str(source), "files": len(files), "sha256": outputs.hash_files(files)}


def manifest_of(source: str) -> tuple[epath.Path, dict[str, Any]] | None:
    """The manifest beside an input and its path; None where no verb of ours wrote the input."""
    directory = resolve_files(source)[0].parent
    path = directory / outputs.MANIFEST
    return (path, outputs.read_manifest(directory)) if path.exists() else None


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same everywhere: the first 8 bytes of SHA-256, big-endian.

    By it records are drawn and held out, so that a record's part does not depend on the others.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
