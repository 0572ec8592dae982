"""Prompts with their continuations as `score` writes them, taken from JSON Lines by the block.

Their continuations come as columns, without an object for each. A block with any line that may mean
something else, right or wrong, is left to `records`, which knows all that there may be.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from detox_jax.formats import foreign

# Of other projects' layouts, see `foreign` and `foreign_files`.
_ELSEWHERE = frozenset(foreign.PERSPECTIVE_ATTRIBUTES) | {
    "all_text",
    "arguments",
    "body",
    "custom_id",
    "filtered_resps",
    "generated_text",
    "original_prompt",
    "prompt_with_generated_text",
    "resps",
    "score",
}
_SCALARS = {str, int, float, bool, type(None)}
_NUMBERS = {float, int, type(None)}
_OBJECTS = ("prompt", "generations")
_OWN = ("id", *_OBJECTS)  # Of a record, and no field beside them.
_BEGINNING = b'{"id": "'
_DECODER = json.JSONDecoder()


@dataclasses.dataclass(frozen=True)
class Plain:
    """Prompts (P) that stand one behind the other in a file, and all their continuations (T).

    Attributes:
      ids: of each prompt, never none.
      texts: of each prompt.
      toxicity: of each prompt, None for one without a score.
      challenging: the flag of each prompt, None for one without it.
      kept: other fields of the records that were asked for, by name: of each prompt, None for one
        without it.
      firsts: the fields of each prompt's first continuation, None for one without any.
      counts: continuations of each prompt.
      continuations: their texts, of one prompt after the other.
      scores_T: float64, NaN for one without a score.
      unreadable: see `records.Generation`.
      tokens_T: "num_tokens" of each, NaN where nothing says it.
      finish: of each, None where nothing says it.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    toxicity: Sequence[float | None]
    challenging: Sequence[bool | None]
    kept: Mapping[str, Sequence[Any]]
    firsts: Sequence[Mapping[str, Any] | None]
    counts: Sequence[int]
    continuations: Sequence[str]
    scores_T: np.ndarray
    unreadable: Sequence[bool]
    tokens_T: np.ndarray
    finish: Sequence[Any]

    def __len__(self) -> int:
        return len(self.ids)


def read(block: bytes, fields: Collection[str] = ()) -> Plain | None:
    """The prompts of whole lines; None if any of these is another thing, or is wrong.

    Args:
      block: the lines, one at least; the last one may lack its end.
      fields: of the records that are kept, beside what every prompt has.
    """
    try:
        records = _records(block)
        prompts = [record["prompt"] for record in records]
        continuations = [record["generations"] for record in records]
        flat = [*itertools.chain.from_iterable(continuations)]
        if not _is_as_written(block, records, prompts, flat):
            return None
        tokens, finish = _said(flat, "num_tokens", {int}), _said(flat, "finish", {str})
        plain = Plain(
            ids=[record["id"] for record in records],
            texts=[prompt["text"] for prompt in prompts],
            toxicity=[prompt.get("toxicity") for prompt in prompts],
            challenging=[record.get("challenging") for record in records],
            kept={
                name: [record.get(name) for record in records]
                for name in fields
                if name not in _OWN
            },
            firsts=[of[0] if of else None for of in continuations],
            counts=[*map(len, continuations)],
            continuations=[generation["text"] for generation in flat],
            scores_T=_scores([generation.get("toxicity") for generation in flat]),
            unreadable=[generation.get("unreadable", False) for generation in flat],
            tokens_T=np.array(tokens, np.float64),  # None is NaN.
            finish=finish,
        )
        _scores(plain.toxicity)
        "".join(plain.ids).encode()  # A lone surrogate is refused.
    # What is missing, of another type, malformed, nested too deeply, beyond 1, or no UTF-8.
    except (
        *(KeyError, TypeError, AttributeError, ValueError),
        *(OverflowError, StopIteration, RecursionError),
    ):
        return None
    is_sound = (
        all(plain.ids)
        and _types(plain.ids, plain.texts, plain.continuations) <= {str}
        and _types(plain.challenging) <= {bool, type(None)}
        and _types(plain.unreadable) <= {bool}
    )
    if not is_sound or any(foreign.END_OF_TEXT in text for text in plain.continuations):
        return None  # `records` takes marks of the end off.
    return plain


def _records(block: bytes) -> list[dict[str, Any]]:
    lines = block.decode().split("\n")
    if not lines[-1]:
        lines.pop()
    records = []
    for line in lines:
        line = line.removesuffix("\r")
        value, end = _DECODER.raw_decode(line)
        if end < len(line) or type(value) is not dict:
            raise ValueError
        records.append(value)
    return records


def _is_as_written(
    block: bytes,
    records: Sequence[Mapping[str, Any]],
    prompts: Sequence[Mapping[str, Any]],
    generations: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether no field is one of another layout, holds more than a value, or stands twice."""
    names = {*map(tuple, records), *map(tuple, prompts), *map(tuple, generations)}
    if not _ELSEWHERE.isdisjoint(itertools.chain.from_iterable(names)):
        return False
    beside = [v for of in records for name, v in of.items() if name not in _OBJECTS]
    # RealToxicityPrompts has an object of numbers and a text for its own continuation.
    objects = [*prompts, *generations, *(value for value in beside if type(value) is dict)]
    values = [value for value in beside if type(value) is not dict]
    values += itertools.chain.from_iterable(map(dict.values, objects))
    if not set(map(type, values)) <= _SCALARS:
        return False
    strings = [value for value in values if type(value) is str]
    fields = sum(map(len, records)) + sum(map(len, objects))
    # Of a field that stands twice the parser drops the first; its quotes are still there.
    written = int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord('"')))
    quoted = 2 * (fields + len(strings)) + "".join(strings).count('"')
    return written == quoted and b"\\u0022" not in block


def _said(generations: Sequence[Mapping[str, Any]], name: str, kinds: set[type]) -> list[Any]:
    """A field of each, None where it is not there; ValueError if one is of another kind."""
    values = [generation.get(name) for generation in generations]
    there = sum(name in generation for generation in generations)
    if there != len(values) - values.count(None) or not _types(values) <= {*kinds, type(None)}:
        raise ValueError
    return values


def _types(*columns: Sequence[Any]) -> set[type]:
    return {kind for column in columns for kind in set(map(type, column))}


def _scores(scores: Sequence[float | None]) -> np.ndarray:
    """As an array, None as NaN; ValueError if one is no score."""
    array = np.array(scores, np.float64)
    missing = np.isnan(array)
    if (
        not set(map(type, scores)) <= _NUMBERS
        or int(missing.sum()) != scores.count(None)
        or not np.all(missing | ((array >= 0) & (array <= 1)))
    ):
        raise ValueError
    return array


def lines_of(block: bytes, ids: Set[bytes]) -> Iterator[bytes]:
    """The lines of those ids.

    Args:
      block: lines of which `read` has read all.
      ids: as UTF-8.
    """
    for line in block.split(b"\n"):
        end = line.find(b'"', len(_BEGINNING))
        id = line[len(_BEGINNING) : end]
        # Where it cannot be told which id a line has, the line is read.
        if line and (not line.startswith(_BEGINNING) or b"\\" in id or id in ids):
            yield line
