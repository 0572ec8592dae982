"""Documents, prompts and generations, and how they are read, from JSON Lines and other formats.

Formats are those of the README's "Files" section: documents are `{"id", "text", "toxicity"}`,
prompted generations follow RealToxicityPrompts,
`{"id", "prompt": {"text", "toxicity"}, "generations": [{"text", "toxicity"}]}`. Fields that are not
understood are carried along unchanged; other projects' layouts (docs/FILES.md) are read through
`formats.foreign`. What an input may be, `sources` says; `formats.row_formats` reads its files.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import manifests, preview, sources, terminal
from detox_jax.bad_records import Aside
from detox_jax.errors import UserError
from detox_jax.formats import foreign, foreign_files, record_ids, row_formats
from detox_jax.formats.jsonl import read_jsonl  # noqa: F401 (a public name)
from detox_jax.output_settings import NOT_YET

TOXIC = 0.5  # the published threshold: from this score on a text is toxic
ROUNDING = 1e-9  # of a difference of two scores: 0.7 - 0.4 is a little less than 0.3
_CHALLENGING, _UNREADABLE = "challenging", "unreadable"


@dataclasses.dataclass(frozen=True)
class Document:
    """A text of its own: one self-generated document, one comment, one line of a corpus.

    As all records it shows itself without its text, which may be toxic.
    `unreadable` says of a missing score that the scorer cannot read the text's language.
    """

    id: str
    text: str = dataclasses.field(repr=False)
    toxicity: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    unreadable: bool = False

    def to_json(self) -> dict[str, Any]:
        """The record as it is written, one line of JSON."""
        return {"id": self.id, **_scored_text(self), **self.extra}


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation of a prompt; `text` is the continuation alone, without marks of its end.

    `unreadable` says of a missing score that the scorer cannot read the text's language. `written`
    is the text as its file has it, where that holds such marks; it is written again as it was.
    """

    text: str = dataclasses.field(repr=False)
    toxicity: float | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    unreadable: bool = False
    written: str | None = dataclasses.field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The generation as it is written inside its record."""
        text = self.text if self.written is None else self.written
        return {**_scored_text(self), "text": text, **self.extra}


def _scored_text(item: Document | Generation) -> dict[str, Any]:
    """What says how a text was scored; `unreadable` is written where it is true."""
    scored = {"text": item.text, "toxicity": item.toxicity}
    return {**scored, _UNREADABLE: True} if item.unreadable else scored


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt with the continuations that it got; none yet for a file of bare prompts.

    `where` is its file and line, for errors; empty where it was not read by itself.
    """

    id: str
    text: str = dataclasses.field(repr=False)
    toxicity: float | None = None
    generations: tuple[Generation, ...] = ()
    prompt_extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    where: str = dataclasses.field(default="", repr=False, compare=False)

    @property
    def named(self) -> str:
        """What errors call it: `prompts.jsonl:3: prompt 'id'`."""
        return named_prompt(self.id, self.where)

    @property
    def challenging(self) -> bool:
        """The record's own flag (RealToxicityPrompts marks about 1.2 % of its prompts)."""
        return self.extra.get(_CHALLENGING) in (True, 1)  # No text: "False" is true to Python.

    def to_json(self) -> dict[str, Any]:
        """The record in the layout of RealToxicityPrompts."""
        return {
            "id": self.id,
            **self.extra,
            "prompt": {"text": self.text, "toxicity": self.toxicity, **self.prompt_extra},
            "generations": [generation.to_json() for generation in self.generations],
        }


Record = Document | Prompt


def named_prompt(id: str, where: str) -> str:
    """What errors call a prompt, whose id may be a hash that stands in no file."""
    return f"{where}: prompt {id!r}" if where else f"prompt {id!r}"


def texts_to_score(record: Record) -> list[str]:
    """The texts of a record that a scorer sees: a document's text, or each continuation alone."""
    if isinstance(record, Document):
        return [record.text]
    return [generation.text for generation in record.generations]


def with_toxicity(
    record: Record, scores: Sequence[float | None], unreadable: Sequence[bool] | None = None
) -> Record:
    """The same record with `scores`, in the order of `texts_to_score`, filled in.

    Args:
      record: documents and prompts alike.
      scores: None where there is none.
      unreadable: which of the missing ones the scorer cannot read; none where None.
    """
    if unreadable is None:
        unreadable = [False] * len(scores)
    if isinstance(record, Document):
        (score,), (unread,) = scores, unreadable
        return dataclasses.replace(record, toxicity=score, unreadable=unread)
    generations = tuple(
        dataclasses.replace(generation, toxicity=score, unreadable=unread)
        for generation, score, unread in zip(record.generations, scores, unreadable, strict=True)
    )
    return dataclasses.replace(record, generations=generations)


def is_empty(text: str) -> bool:
    """Whether a text is nothing but white space and end-of-text marks; all scorers give it 0.0."""
    return not foreign.without_end(text).strip()


# --- reading ----------------------------------------------------------------------------------


def resolve_files(source: str) -> list[epath.Path]:
    """The files that `source` names: a file, a glob, a directory, or a data set of the hub.

    Raises:
      UserError: as `sources.resolve`.
    """
    return list(sources.resolve(source).files)


def read_records(source: str, aside: Aside | None = None) -> Iterator[Record]:
    """Yields the documents or prompts of `source` (see `resolve_files`), told apart by fields.

    Args:
      source: file, glob or directory.
      aside: takes the records that cannot be read, see `bad_records`; they are refused where None.

    Raises:
      UserError: naming file and line, for a record without text, for an id seen before, and for
        prompts that come back in other rows.
    """
    for _, found in read_by_file(source, aside):
        yield from found


def read_by_file(
    source: str, aside: Aside | None = None, text_field: str = "text"
) -> Iterator[tuple[epath.Path, Iterator[Record]]]:
    """Yields each file of `source` with its records, to be read before the next file is.

    Args:
      source: see `sources`.
      aside: see `read_records`.
      text_field: what a line of plain text is.

    Raises:
      UserError: as `read_records`.
    """
    ids, reader = record_ids.Ids(source), foreign_files.Reader()
    opened = sources.resolve(source)
    for file in opened.files:
        if aside is not None:
            aside.begin(str(file))
        rows = parsed_rows(
            opened, str(file), row_formats.raw_rows(file, text_field), aside, text_field
        )
        is_last = file is opened.files[-1]
        yield file, of_rows(str(file), rows, reader, ids, is_last, text_field)
    if aside is not None:
        aside.finish(source, [str(file) for file in opened.files])


def read_rows(source: str) -> Iterator[tuple[epath.Path, int, Mapping[str, Any]]]:
    """Yields file, number and fields of every row of `source`, as no document or prompt.

    Raises:
      UserError: for what cannot be read.
    """
    opened = sources.resolve(source)
    for file in opened.files:
        for number, fields in opened.rows(file):
            yield file, number, fields


def parsed_rows(
    opened: sources.Source,
    file: str,
    raw_rows: Iterable[row_formats.RawRow],
    aside: Aside | None,
    text_field: str = "text",
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields number and fields of the rows that hold a record each; others are set aside.

    Args:
      opened: the source.
      file: one of its files.
      raw_rows: of the file.
      aside: see `read_records`.
      text_field: see `read_by_file`.

    Raises:
      UserError: for a row that cannot be parsed, without `aside`.
    """
    for raw in raw_rows:
        where = f"{file}:{raw.number}"
        if aside is None:
            yield raw.number, opened.choice.applied(raw.parse(), where)
            continue
        aside.count(file)
        try:
            value = opened.choice.applied(raw.parse(), where)
            if (row := foreign_files.row_alone(value, where)) is not None:
                _record(row, record_ids.Ids(where), text_field)
        except UserError as error:
            aside.put(file, raw.number, raw.raw(), error)
        else:
            yield raw.number, value


def of_rows(
    file: str,
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    reader: foreign_files.Reader,
    ids: record_ids.Ids,
    is_last: bool,
    text_field: str = "text",
) -> Iterator[Record]:
    """Yields the records of a file's rows.

    Args:
      file: its name.
      rows: number and fields of each.
      reader: of the source that the file is of.
      ids: of the source.
      is_last: whether no file comes behind it.
      text_field: see `read_by_file`.

    Raises:
      UserError: as `read_records`.
    """
    for row in reader.rows(file, rows):
        terminal.has_read(1)
        yield _record(row, ids, text_field)
    if is_last:
        for row in reader.rest(file):
            yield _record(row, ids, text_field)
        ids.check_repeats()


def read_documents(source: str, aside: Aside | None = None) -> Iterator[Document]:
    """Yields documents; a prompted record is an error."""
    for record in read_records(source, aside):
        if not isinstance(record, Document):
            raise UserError(f"{source}: holds prompts (record {record.id!r}), expected documents")
        yield record


def read_prompts(source: str, aside: Aside | None = None) -> Iterator[Prompt]:
    """Yields prompts, with their generations where there are any; a document is an error."""
    for _, found in read_by_file(source, aside, text_field="prompt"):
        for record in found:
            if not isinstance(record, Prompt):
                raise UserError(
                    f'{source}: record {record.id!r} has no "prompt"; expected RTP layout, or name '
                    f"the field that holds the prompt: {_with_prompt(source)}"
                )
            yield record


def _with_prompt(source: str) -> str:
    """The source as it reads where its texts are prompts."""
    place, choice = sources.split(source)
    said = {"prompt": choice.text or "text", **choice.said()}
    said.pop("text", None)
    return sources.joined(place, said)


def parse_record(value: Mapping[str, Any], where: str) -> Record:
    """One parsed line as a `Document` or a `Prompt`; `where` names the line in errors.

    Raises:
      UserError: if a field is missing or has the wrong type.
    """
    return _record(foreign.to_row(value, where), record_ids.Ids(where))


def _record(row: foreign.Row, ids: record_ids.Ids, text_field: str = "text") -> Record:
    fields, where = dict(row.fields), row.where
    given = record_ids.given(fields, where)
    _check_flags(fields, where)
    if isinstance(fields.get("prompt"), Mapping):
        prompt = dict(fields.pop("prompt"))
        text = _text(prompt, f"{where}: prompt")
        generations = fields.pop("generations", None) or []
        if not isinstance(generations, list):
            raise UserError(f'{where}: "generations" must be a list')
        return Prompt(
            id=ids.of_prompt(given, text, where, row.is_sample, bool(generations)),
            text=text,
            toxicity=_toxicity(prompt, f"{where}: prompt"),
            generations=tuple(
                _generation(generation, f"{where}: generation {i}")
                for i, generation in enumerate(generations)
            ),
            prompt_extra=prompt,
            extra=fields,
            where=where,
        )
    text = _text(fields, where, text_field)
    unreadable = _unreadable(fields, where)
    return Document(
        ids.of_document(given, text, where), text, _toxicity(fields, where), fields, unreadable
    )


def _check_flags(fields: Mapping[str, Any], where: str) -> None:
    value = fields.get(_CHALLENGING)
    if value not in (None, True, False):  # 0 and 1 are equal to them.
        raise UserError(f'{where}: "{_CHALLENGING}" is {value!r}; expected true, false or null')


def _text(fields: dict[str, Any], where: str, text_field: str = "text") -> str:
    is_null = "text" in fields and fields["text"] is None
    text = fields.pop("text", None)
    if isinstance(text, str):
        return text
    wanted = "text" if is_null else text_field
    raise UserError(f'{where}: record without a "{wanted}"{_hint(fields, is_null, wanted)}')


def _hint(fields: Mapping[str, Any], is_null: bool, text_field: str) -> str:
    """What to do about a record without text: where another field may hold it, or none does."""
    if is_null:
        return f" (it is null){sources.LEAVE_OUT}"
    if not fields:
        return ""
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    # An id is a word; a text has spaces, and is the longest.
    named = max(texts, key=lambda name: (" " in texts[name], len(texts[name])), default=None)
    there = f"; it has {', '.join(map(repr, list(fields)[:8]))}"
    if named is None:
        return there
    return f"{there}: name the field with the {text_field}, such as #{text_field}={named}"


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


def _unreadable(fields: dict[str, Any], where: str) -> bool:
    value = fields.pop(_UNREADABLE, None)
    if value is not None and not isinstance(value, bool):
        raise UserError(f'{where}: "{_UNREADABLE}" is {value!r}; expected true, false or null')
    return value or False


def _generation(value: Any, where: str) -> Generation:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected an object with a text")
    fields = dict(value)
    written = _text(fields, where)
    text = foreign.without_end(written)
    unreadable = _unreadable(fields, where)
    return Generation(
        text,
        _toxicity(fields, where),
        fields,
        unreadable,
        written=None if text == written else written,
    )


# --- inputs as a whole, and hashes ------------------------------------------------------------


def describe_input(source: str) -> dict[str, Any]:
    """What a manifest says of an input: where it was, the hash of its bytes, the chosen fields.

    Of a data set of the hub the place holds the commit. Of what an earlier step is to write no more
    than its place is known.
    """
    if isinstance(source, preview.Coming):
        return {"path": str(source), "files": NOT_YET, "sha256": NOT_YET}
    return sources.resolve(source).describe()


def manifest_of(source: str) -> tuple[epath.Path, dict[str, Any]] | None:
    """The manifest beside an input and its path; None where no verb of ours wrote the input."""
    directory = resolve_files(source)[0].parent
    path = directory / manifests.MANIFEST
    return (path, manifests.read_manifest(directory)) if path.exists() else None


def scorer_of(source: str) -> dict[str, str] | None:
    """The scorer of an input's scores, `{"name", "fingerprint"}`; None where no manifest names it.

    `score` and, of what it read, `filter` name it; of a `filter` of before the one that filtered.
    """
    _, manifest = manifest_of(source) or ("", {})
    names = ("scorer", "scored_by", "filtered_by")
    return next((by for name in names if (by := manifest.get(name)) is not None), None)


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same everywhere: the first 8 bytes of SHA-256, big-endian.

    By it records are drawn and held out, so that a record's part does not depend on the others.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
