"""What an input names: files here, in a bucket or on the Hugging Face hub, what is read of them.

`PLACE[#NAME=VALUE,...]`, where PLACE is a file, a glob, a directory (of shards, of `save_to_disk`,
of a data set as the hub lays it out, of TFDS) or a data set of the hub or of TFDS. The names after
`#` say which part of it and which fields are read: `split`, `config`, `text`, `prompt`, `id`,
`score`.

    reviews.csv#text=body,id=key
    allenai/real-toxicity-prompts#split=train
    hf://datasets/owner/name@REVISION/data/*.parquet#text=content
    tfds://civil_comments:1.2.4#split=test
"""

from __future__ import annotations

import dataclasses
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from detox_jax import manifests, output_settings
from detox_jax.errors import UserError
from detox_jax.formats import data_layout, hub_data, jsonl, row_formats, tfds_rows

# Behind an error about a row whose text is null.
LEAVE_OUT = ": leave such rows out, or see BAD_RECORDS"
_NO_PATHS = ("hf:", tfds_rows.SCHEME)
# Verbs whose output is no text to read, whatever the formats of its files.
_NO_TEXT = frozenset(
    "train train_vocabulary train_linear train_reward train_scorer steer fit_subspace combine"
    " convert choices panel lm_eval compare evaluate report human_sheets human_results".split()
)
# What a value after `#` cannot hold as it is, and what would be taken for it.
_MARKS = re.compile(r"[#,]|%(?=23|2C|25)")
_QUOTED = re.compile(r"%(?:23|2C|25)")
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of `save_to_disk`


@dataclasses.dataclass(frozen=True)
class Choice:
    """What stands after `#`; None where it is not said.

    Attributes:
      split: of a data set.
      config: of a data set that has several configurations.
      text: the field that holds a document's text; one inside of another as `outer.inner`.
      prompt: the field that holds a prompt's text.
      id: the field that holds the id.
      score: the field that holds the toxicity of the text or the prompt, from 0 to 1; `NAME/100` of
        one from 0 to 100.
    """

    split: str | None = None
    config: str | None = None
    text: str | None = None
    prompt: str | None = None
    id: str | None = None
    score: str | None = None

    def said(self) -> dict[str, str]:
        """What is said, as it decides an output."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @property
    def fields(self) -> bool:
        """Whether a field is chosen."""
        return bool(self.text or self.prompt or self.id or self.score)

    def applied(self, fields: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """A row with the chosen fields under our names; the others stay.

        Raises:
          UserError: for a row without such a field, or with another thing than text in it, or
            than a score.
        """
        if not self.fields:
            return fields
        row = self._named(fields, where)
        if self.score is None:
            return row
        name, scale = _scaled(self.score, fields)
        score = _score(_of(fields, name, "score", where), scale, name, where)
        prompt = row.get("prompt")
        if not isinstance(prompt, str | Mapping):
            return {**row, "toxicity": score}
        of_prompt = {"text": prompt} if isinstance(prompt, str) else prompt
        return {**row, "prompt": {**of_prompt, "toxicity": score}}

    def _named(self, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A row with its text and its id under our names."""
        row = dict(fields)
        if self.id:
            row["id"] = _of(fields, self.id, "id", where)
            if row["id"] is None:
                raise UserError(f"{where}: the field {self.id!r}, chosen as id, is empty")
        chosen = self.text or self.prompt
        if chosen is None:
            return row
        name = "text" if self.text else "prompt"
        value = _of(fields, chosen, name, where)
        is_object = name == "prompt" and isinstance(value, Mapping)
        if not isinstance(value, str) and not is_object:
            advice = LEAVE_OUT if value is None else "; expected text"
            raise UserError(
                f"{where}: the field {chosen!r}, chosen as {name}, is {_kind(value)}{advice}"
            )
        # A row is one or the other by the fields that it has.
        for other in ("prompt", "text", "generations", chosen):
            row.pop(other, None)
        return {**row, name: value if name == "text" or is_object else {"text": value}}


def _scaled(chosen: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a field with scores, which may have slashes too, and their scale."""
    name, slash, scale = chosen.rpartition("/")
    is_scale = bool(slash) and scale.isdigit() and chosen not in fields
    return (name, scale) if is_scale else (chosen, "")


def _of(fields: Mapping[str, Any], name: str, role: str, where: str) -> Any:
    """A field by its name, or one inside of others by its path.

    A prompt may be its text, which is `prompt.text` too.
    """
    if name in fields:
        return fields[name]
    value: Any = fields
    if name == "prompt.text" and isinstance(fields.get("prompt"), str):
        return fields["prompt"]
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(map(repr, list(fields)[:12]))
            raise UserError(f"{where}: no field {name!r}, chosen as {role}; there are {known}")
        value = value[part]
    return value


def _score(value: Any, scale: str, name: str, where: str) -> float | None:
    """A score from 0 to 1, or none; a cell of a table is text."""
    if value is None or value == "":
        return None
    try:
        number = float(value) / (100 if scale else 1)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or scale not in ("", "100") or not 0 <= number <= 1:
        raise UserError(
            f"{where}: the field {name!r}, chosen as score, is {value!r}; expected a number from 0 "
            f"to 1, or from 0 to 100 with score={name}/100"
        )
    return number


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


@dataclasses.dataclass(frozen=True)
class Source:
    """An input as it is read.

    Attributes:
      address: what was named; of the hub with the commit in it.
      files: what is read, in order.
      choice: of it.
    """

    address: str
    files: tuple[epath.Path, ...]
    choice: Choice

    def rows(
        self, file: epath.Path, text_field: str = "text"
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yields `(number, fields)` of a file, see `row_formats.rows`, with the choice applied."""
        name = str(file)
        for number, fields in row_formats.rows(file, text_field):
            yield number, self.choice.applied(fields, f"{name}:{number}")

    def describe(self) -> dict[str, Any]:
        """What a manifest says: where it was, the hash of its bytes, what was taken of it."""
        sha256 = manifests.hash_files(self.files)
        described = {"path": self.address, "files": len(self.files), "sha256": sha256}
        if kinds := row_formats.kinds_by_name(self.files):
            described[output_settings.READ_AS] = kinds
        # Which files a split is, the hash says.
        taken = {n: v for n, v in self.choice.said().items() if n not in ("split", "config")}
        return {**described, "fields": taken} if taken else described


def with_fields(
    path: str | None,
    text: str | None = None,
    id: str | None = None,
    prompt: str | None = None,
) -> str | None:
    """An input with the fields that are to be read of it, for gin: `INPUT` with `TEXT_FIELD`.

    Args:
      path: the input; fields that it names itself go first. None where there is none.
      text: the field with a document's text.
      id: the field with the id.
      prompt: the field with a prompt's text.

    Returns:
      The input as it was where no field is named.
    """
    wanted = {"text": text, "id": id, "prompt": prompt}
    if path is None or not any(wanted.values()):
        return path
    place, choice = split(path)
    said = {**{name: value for name, value in wanted.items() if value}, **choice.said()}
    return joined(place, said)


def joined(place: str, said: Mapping[str, str]) -> str:
    """What `split` takes apart: a place, and what is chosen of it; the place alone for nothing."""

    def quoted(value: str) -> str:
        return _MARKS.sub(lambda mark: f"%{ord(mark[0]):02X}", value)

    chosen = ",".join(f"{name}={quoted(value)}" for name, value in said.items())
    return f"{place}#{chosen}" if chosen else place


def split(source: str) -> tuple[str, Choice]:
    """The place and the choice that an input names; a file whose name has a `#` is itself.

    In a value `%23` is `#`, and `%2C` a comma.

    Raises:
      UserError: for a name after `#` that is none, or stands there twice.
    """
    place, mark, said = source.rpartition("#")
    if not mark or (not source.startswith(_NO_PATHS) and _path(source).exists()):
        return source, Choice()
    if "/" in said.partition("=")[0]:  # The mark is in the name of a directory.
        return source, Choice()
    known = [field.name for field in dataclasses.fields(Choice)]
    choice: dict[str, str] = {}
    for part in said.split(","):
        name, _, value = part.partition("=")
        if name not in known or not value or name in choice:
            raise UserError(
                f"{source}: {part!r} after '#' is not one of {', '.join(known)} with its value, "
                "such as #split=train,text=content"
            )
        choice[name] = _QUOTED.sub(lambda quoted: urllib.parse.unquote(quoted[0]), value)
    return place, Choice(**choice)


def known_as(source: str) -> tuple[str, Choice]:
    """Where an input is, however its path is spelt, and what is chosen of it.

    Raises:
      UserError: as `split`.
    """
    place, choice = split(source)
    is_here = "://" not in place and not place.startswith(_NO_PATHS)
    return (os.path.realpath(place) if is_here else place.rstrip("/")), choice


def resolve(source: str) -> Source:
    """What an input names, with its files, downloaded where they are the hub's.

    A directory must hold a complete set of shards, and its manifest, where it has one, must say
    that the verb that wrote it finished.

    Raises:
      UserError: if nothing is there, a shard is missing, the directory is unfinished, or a split is
        to be named.
    """
    place, choice = split(source)
    if not place:
        raise UserError(f"{source!r} names no input; give a file, a glob or a directory")
    if place.startswith(tfds_rows.SCHEME):
        path, name = tfds_rows.directory(place)
        files = _directory_files(path, choice, source)
        return Source(name + source.removeprefix(place), tuple(files), choice)
    if place.startswith(_NO_PATHS):
        return _of_hub(hub_data.address(place), source, choice)
    path = _path(place)
    if path.is_dir():
        return Source(source, tuple(_directory_files(path, choice, source)), choice)
    files = named_files(path)
    if not files:
        is_file = place.endswith(row_formats.SUFFIXES)  # A typing mistake asks nobody.
        return _of_hub(None if is_file else hub_data.address(place), source, choice)
    if choice.split or choice.config:
        raise UserError(f"{source}: only a directory or a data set of the hub has splits")
    return Source(source, tuple(files), choice)


def written_by(source: str) -> str:
    """`; it is what `pair` wrote`, for an error about an input of a wrong kind, or nothing."""
    place, _ = split(source)
    verb = None if place.startswith(_NO_PATHS) else manifests.verb_of(_path(place))
    return f"; it is what `{verb}` wrote" if verb else ""


def named_files(path: epath.Path) -> list[epath.Path]:
    """The file at a path, else those that a glob matches: one whose name has [ ] is itself."""
    if path.exists():
        return [path]
    is_glob = any(character in path.name for character in "*?[")
    return sorted(path.parent.glob(path.name)) if is_glob and path.parent.exists() else []


def _path(place: str) -> epath.Path:
    """A path here or in a bucket.

    Raises:
      UserError: for another kind of address.
    """
    # epath knows no other scheme, but for one that needs a plug-in of TensorFlow's.
    if (scheme := re.match(r"\w+://", place)) and scheme[0] != "gs://":
        raise UserError(
            f"{place}: such an address cannot be read; give a file, gs://, "
            "hf://datasets/OWNER/NAME or tfds://NAME"
        )
    return epath.Path(place)


# --- the hub ----------------------------------------------------------------------------------


def _of_hub(address: hub_data.Address | None, source: str, choice: Choice) -> Source:
    if address is None:
        raise UserError(
            f"{source}: no such file; give a .jsonl file, a glob or a directory of shards, or a "
            "data set of the hub, OWNER/NAME (docs/FILES.md lists what can be read)"
        )
    repository = hub_data.repository(address.repo, address.revision)
    if address.inside:
        names = data_layout.matching(repository.files, address.inside)
        if not names:
            raise UserError(f"{source}: the data set holds no such file")
        if choice.split or choice.config:
            raise UserError(f"{source}: names files; leave split and config out")
    else:
        readme = repository.read(data_layout.README)
        parts = data_layout.splits(repository.files, readme, choice.config, address.repo)
        names = _part(parts, choice, source)
    pinned = joined(address.at(repository.commit), choice.said())
    return Source(pinned, tuple(repository.fetch(names)), choice)


def _part(parts: Mapping[str, list[str]], choice: Choice, source: str) -> list[str]:
    """The files of the chosen split, or of the only one."""
    wanted = choice.split or (next(iter(parts)) if len(parts) == 1 else None)
    if wanted is not None and wanted in parts:
        return parts[wanted]
    said = "has several splits" if wanted is None else f"has no split {wanted!r}"
    raise UserError(f"{source}: {said}; name one of {', '.join(parts)} with #split=NAME")


# --- directories ------------------------------------------------------------------------------


def _refuse_run(directory: epath.Path) -> None:
    """Refuses the directory of a run of `sgeat`, in which many texts lie."""
    written = sorted(directory.glob(f"continuations/*/generated/{manifests.MANIFEST}"))
    if written:
        rows = ", ".join(file.parent.parent.name for file in written)
        raise UserError(
            f"{directory}: is a run of `sgeat`, with many texts; give those of one row, "
            f"{directory / 'continuations'}/ROW/generated, where ROW is one of {rows}"
        )


def _directory_files(path: epath.Path, choice: Choice, source: str) -> list[epath.Path]:
    if (path / manifests.MANIFEST).exists():
        manifest = manifests.read_manifest(path)
        if manifest["verb"] in _NO_TEXT:
            raise UserError(
                f"{path}: holds the output of `{manifest['verb']}`, which is no text; give what "
                "`generate`, `score` or `filter` wrote, or text of your own"
            )
        if not manifest["complete"]:
            raise UserError(f"{path}: unfinished; rerun the command that was writing it")
    elif "://" not in str(path):  # a search that a bucket answers with many requests
        _refuse_run(path)
    if not choice.split and not choice.config and (files := _shards(path)):
        return files
    if (path / _SPLITS).exists():
        names = jsonl.json_object((path / _SPLITS).read_bytes(), str(path / _SPLITS)).get("splits")
        parts = {str(name): [str(name)] for name in names} if isinstance(names, list) else {}
        (name,) = _part(parts, choice, source)
        return _saved_files(path / name)
    if (path / _STATE).exists():
        if choice.split or choice.config:
            raise UserError(f"{source}: one data set that `save_to_disk` wrote has no splits")
        return _saved_files(path)
    if (path / tfds_rows.FEATURES).exists():
        if choice.config:
            raise UserError(f"{source}: a configuration of TFDS stands in its name, NAME/CONFIG")
        return [path / name for name in _part(tfds_rows.splits(path), choice, source)]
    names = [file.relative_to(path).as_posix() for file in _below(path)]
    readme = path / data_layout.README
    text = readme.read_bytes().decode(errors="replace") if readme.exists() else ""
    if not any(name.endswith(row_formats.SUFFIXES) for name in names):
        raise UserError(
            f"{path}: holds no .jsonl file, nor another that can be read "
            f"({', '.join(row_formats.KINDS[1:])})"
        )
    parts = data_layout.splits(names, text, choice.config, str(path))
    return [path / name for name in _part(parts, choice, source)]


def _below(path: epath.Path) -> Iterator[epath.Path]:
    """The files of a directory and of those in it, but for hidden ones."""
    for child in sorted(path.iterdir()):
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _below(child)
        else:
            yield child


def _saved_files(path: epath.Path) -> list[epath.Path]:
    """The files of a data set that `save_to_disk` of `datasets` wrote, in the order of its rows."""
    state = jsonl.json_object((path / _STATE).read_bytes(), str(path / _STATE))
    if any(value for name, value in state.items() if name.startswith("_indices")):
        raise UserError(
            f"{path}: its order and choice of rows stand in a table beside it, as `datasets` below "
            "version 2 saved them; write it again with flatten_indices()"
        )
    listed = state.get("_data_files")
    listed = listed if isinstance(listed, list) else []
    names = [str(item.get("filename")) for item in listed if isinstance(item, Mapping)]
    if not names or not all(PurePosixPath(name).name == name for name in names):
        raise UserError(f"{path / _STATE}: names no data file; write the data set again")
    files = [path / name for name in names]
    if missing := next((file for file in files if not file.exists()), None):
        raise UserError(f"{missing}: missing, and {_STATE} beside it names it; copy it too")
    return files


def _shards(path: epath.Path) -> list[epath.Path]:
    """JSON Lines that lie in a directory itself, such as what a verb wrote; none where none do."""
    files = sorted(file for suffix in jsonl.SUFFIXES for file in path.glob(f"*{suffix}"))
    names = [jsonl.plain_name(file.name) for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: holds {twice} plain and compressed; remove one, or name one")
    shards: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := manifests.SHARD.match(name):
            shards.setdefault((match["name"], int(match["count"])), set()).add(int(match["index"]))
    for (name, count), indices in shards.items():
        if missing := sorted(set(range(count)) - indices):
            raise UserError(
                f"{path}: shard {manifests.shard_name(name, missing[0], count)} is missing"
            )
    if len(shards) > 1:
        names = ", ".join(sorted(f"{name} (of {count})" for name, count in shards))
        raise UserError(f"{path}: holds several sets of shards: {names}; name one with a glob")
    return files
