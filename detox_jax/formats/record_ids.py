"""Ids of records: those that they bring, and those that are made of their texts."""

from __future__ import annotations

import hashlib
from typing import Any

from detox_jax.errors import UserError

# RealToxicityPrompts holds the same prompt under several ids: 5 of 2,419 records of its development
# set, 0.2 %, repeat one. Where ten times as many do, the rows are in another order.
REPEATED_PROMPTS = 0.02


def content_id(text: str) -> str:
    """The id of a record that brings none, from its text: a prompt's, or a document's."""
    # A lone surrogate, which JSON can hold, counts as itself.
    return f"sha256-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def given(fields: dict[str, Any], where: str) -> str | None:
    """Takes the id that a record brings out of its fields; None where it has none.

    Raises:
      UserError: for an id that is neither text, nor a whole number, nor null.
    """
    record_id = _integral(fields.pop("id", None))
    if record_id is None:
        # RealToxicityPrompts' own records: the span of the source document is their identity.
        span = [_integral(fields.get(name)) for name in ("filename", "begin", "end")]
        return None if None in span else "-".join(map(str, span))
    if isinstance(record_id, int) and not isinstance(record_id, bool):
        record_id = str(record_id)
    if not isinstance(record_id, str) or not record_id:
        raise UserError(
            f'{where}: record without an "id" that can be used: it is {record_id!r}; expected '
            "text, a whole number or null"
        )
    try:
        record_id.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: the id {record_id!r} holds half a character (a lone surrogate), which no "
            "file name and no hash can; give another"
        ) from None
    return record_id


def _integral(value: Any) -> Any:
    """A whole number that pandas made a float of, because others of its column are missing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Ids:
    """The ids of one source's records; each is given once.

    Where ids are made of texts, or rows are samples, a prompt that comes back is either one that
    the data set holds twice, or the sign of rows in another order than prompt by prompt. The first
    is rare; the second would count one prompt many times, and is refused.
    """

    def __init__(self, source: str):
        """`source` is what errors name."""
        self._source = source
        self._seen: set[str] = set()
        self._times: dict[str, int] = {}
        self._prompts = self._repeats = 0
        self._first_repeat = ""
        self._are_continued = False

    def of_document(self, brought: str | None, text: str, where: str) -> str:
        """The id of a document, and that none has it yet."""
        return self._once(brought or self._made(text), where)

    def of_prompt(
        self, brought: str | None, text: str, where: str, is_sample: bool, is_continued: bool
    ) -> str:
        """The id of a prompt.

        Args:
          brought: the id that its record brings.
          text: of the prompt.
          where: its file and line.
          is_sample: whether its row may be one of several of its samples.
          is_continued: whether it holds a continuation.
        """
        self._are_continued |= is_continued
        if brought and not is_sample:
            return self._once(brought, where)
        made = self._made(text)
        self._prompts += 1
        if self._times[content_id(text)] > 1:
            self._repeats += 1
            self._first_repeat = self._first_repeat or where
        return self._once(brought or made, where)

    def check_repeats(self) -> None:
        """Refuses a source of which too many prompts come back."""
        if self._repeats > REPEATED_PROMPTS * self._prompts:
            advice = "put the samples of a prompt in one record, or in rows one after another"
            if not self._are_continued:
                advice = (
                    "no row has a field that is known as a continuation (docs/FILES.md): rename it "
                    "to completion, or leave each prompt once"
                )
            raise UserError(
                f"{self._source}: {self._repeats} of {self._prompts} prompts come back after "
                f"others (first in {self._first_repeat}); {advice}"
            )

    def _made(self, text: str) -> str:
        made = content_id(text)
        times = self._times[made] = self._times.get(made, 0) + 1
        return made if times == 1 else f"{made}-{times}"

    def _once(self, record_id: str, where: str) -> str:
        if record_id in self._seen:
            raise UserError(f"{where}: duplicate id {record_id!r}; ids must be unique")
        self._seen.add(record_id)
        return record_id
