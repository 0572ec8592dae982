"""Preference pairs: a prompt and two texts that follow it, of which one is to be preferred.

Records are `{"id", "prompt", "chosen", "rejected"}`, TRL's explicit standard layout, so that TRL
reads what `pair` writes, and `read` reads what was made for TRL; the fields beside them are ours.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.formats import jsonl

SIDES = ("chosen", "rejected")
_LAYOUT = '{"id", "prompt", "chosen", "rejected"}'


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """How probable a reference model finds a text behind its prompt.

    Attributes:
      log_likelihood: natural logarithm, summed over the text's tokens.
      tokens: how many those are, an end-of-text among them where the text ends with one.
    """

    log_likelihood: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Side:
    """One of a pair's two texts.

    Attributes:
      text: that follows the prompt.
      toxicity: its score, where one is known.
      ends: whether end-of-text follows it: a continuation that was cut has none.
      id: of the document that it was, where the pair is of two.
      reference: its likelihood under the reference model, where it was computed.
    """

    text: str
    toxicity: float | None = None
    ends: bool = True
    id: str | None = None
    reference: Likelihood | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts behind one prompt.

    Attributes:
      id: of the pair.
      prompt: before both; may be empty.
      chosen: the one to be preferred.
      rejected: the other one.
      model: fingerprint of the reference model, where likelihoods were computed.
    """

    id: str
    prompt: str
    chosen: Side
    rejected: Side
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as it is written, one line of JSON; what is not known is left out."""
        sides = {"chosen": self.chosen, "rejected": self.rejected}
        value: dict[str, Any] = {"id": self.id, "prompt": self.prompt}
        value |= {name: side.text for name, side in sides.items()}
        for name, side in sides.items():
            value[f"{name}_ends"] = side.ends
            for field in ("toxicity", "id"):
                if (known := getattr(side, field)) is not None:
                    value[f"{name}_{field}"] = known
        if self.model is not None:
            likelihoods = {
                name: dataclasses.asdict(side.reference)
                for name, side in sides.items()
                if side.reference is not None
            }
            value["reference"] = {"model": self.model, **likelihoods}
        return value


def read(source: str, reference: bool = True) -> Iterator[Pair]:
    """Yields the pairs of files in our layout or in TRL's.

    TRL's prompt may be implicit: what both sides begin with, without the space at its end. A
    record without an id gets one of its file and line.

    Args:
      source: see `sources`.
      reference: read the likelihoods of `pair` too. Without, a field of that name may hold
        anything: files of other projects have texts in it.

    Raises:
      UserError: naming file and line, for a record that is no pair: a side without text,
        conversations, sides of two prompts, or an id seen before.
    """
    seen: dict[str, str] = {}
    for file, number, value in records.read_rows(source):
        where = f"{file}:{number}"
        given = value if reference else {**value, "reference": None}
        pair = parse(given, where, f"{jsonl.plain_name(file.name)}-{number}")
        if pair.id in seen:
            raise UserError(f"{where}: id {pair.id!r} is also that of {seen[pair.id]}")
        seen[pair.id] = where
        yield pair


def parse(value: Mapping[str, Any], where: str, name: str) -> Pair:
    """One parsed line as a pair.

    Args:
      value: the line.
      where: names the line in errors.
      name: the pair's id where the record has none.

    Raises:
      UserError: if it is none.
    """
    for field in SIDES:
        if isinstance(value.get(field), list):
            raise UserError(
                f'{where}: "{field}" is a conversation; put the model\'s chat template on it and '
                "give text"
            )
        if not isinstance(value.get(field), str):
            raise UserError(f'{where}: no text "{field}"; a pair is {_LAYOUT}')
    prompt, chosen, rejected = _with_prompt(value, where)
    _check_one_prompt(value, where)
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if records.is_empty(text):
            raise UserError(f'{where}: "{field}" has no text; a pair needs two')
    model, likelihoods = _reference(value.get("reference"), where)
    return Pair(
        _id(value.get("id"), where, name),
        prompt,
        _side(value, "chosen", chosen, likelihoods, where),
        _side(value, "rejected", rejected, likelihoods, where),
        model,
    )


def _with_prompt(value: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """Prompt and sides; an implicit prompt is taken out of the sides."""
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if isinstance(prompt, str):
        return prompt, chosen, rejected
    if prompt is not None:
        raise UserError(f'{where}: "prompt" is {str(prompt)[:40]!r}; expected text')
    prompt = os.path.commonprefix([chosen, rejected]).removesuffix(" ")
    if not prompt:
        raise UserError(
            f'{where}: "chosen" and "rejected" begin differently, so they are of two prompts; give '
            'their "prompt", which may be empty'
        )
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _check_one_prompt(value: Mapping[str, Any], where: str) -> None:
    prompts = [value.get(f"{field}_prompt_id") for field in SIDES]
    if None not in prompts and prompts[0] != prompts[1]:
        raise UserError(
            f"{where}: chosen belongs to prompt {prompts[0]!r}, rejected to {prompts[1]!r}; a pair "
            "has one prompt"
        )


def _side(
    value: Mapping[str, Any],
    field: str,
    text: str,
    likelihoods: Mapping[str, Likelihood],
    where: str,
) -> Side:
    score, ends = value.get(f"{field}_toxicity"), value.get(f"{field}_ends", True)
    if not isinstance(ends, bool):
        raise UserError(f'{where}: "{field}_ends" is {ends!r}; expected true or false')
    name = value.get(f"{field}_id")
    return Side(
        text,
        records.parse_score(score, f"{field}_toxicity", where),
        ends,
        None if name is None else str(name),
        likelihoods.get(field),
    )


def _id(value: Any, where: str, name: str) -> str:
    if value is None:
        return name
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f'{where}: "id" is {value!r}; expected text')
    return str(value)


def _reference(value: Any, where: str) -> tuple[str | None, dict[str, Likelihood]]:
    """The reference model's fingerprint, and the likelihood of each side."""
    if value is None:
        return None, {}
    try:
        model = value["model"]
        likelihoods = {
            field: Likelihood(value[field]["log_likelihood"], value[field]["tokens"])
            for field in SIDES
        }
    except (TypeError, KeyError):
        model, likelihoods = None, {}
    numbers = [(x.log_likelihood, x.tokens) for x in likelihoods.values()]
    if not isinstance(model, str) or not all(map(_is_likelihood, numbers)):
        raise UserError(
            f'{where}: "reference" is not what `pair` writes: a model, and of each side a '
            "log_likelihood and its tokens; run `pair` on the file"
        )
    return model, likelihoods


def _is_likelihood(numbers: tuple[Any, Any]) -> bool:
    total, tokens = numbers
    if isinstance(total, bool) or not isinstance(total, int | float):
        return False
    counts = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0
    return counts and math.isfinite(total) and total <= 0
