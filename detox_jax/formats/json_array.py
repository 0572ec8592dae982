"""A JSON array of objects, element by element: the file may be larger than memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import jsonl

# An element that is longer is an open bracket.
_LONGEST = 1 << 26


def rows(file: epath.Path) -> Iterator[Mapping[str, Any]]:
    """Yields the objects of a file that holds a JSON array.

    Raises:
      UserError: naming file and element, counted from 1, for malformed JSON and what is no object.
    """
    reader = _Characters(file)
    reader.take("[")
    number = 0
    while reader.peek() != "]":
        where = f"{file}:{number + 1}"
        if number and reader.peek() and not reader.take(","):
            raise UserError(f"{where}: malformed JSON: no ',' before this element of the array")
        number += 1
        if (character := reader.peek()) != "{":
            said = f"begins with {character!r}" if character else "is missing: the file is cut"
            raise UserError(f"{where}: element of the array {said}; expected a JSON object")
        yield jsonl.parsed(reader.element(where).encode("utf-8", "surrogatepass"), where)
    reader.take("]")
    if reader.peek():
        raise UserError(f"{file}:{number + 1}: text after the end of the JSON array; remove it")


class _Characters:
    """The characters of a JSON file, of which only what is being parsed is held."""

    def __init__(self, file: epath.Path):
        self._file = file
        self._blocks = jsonl.blocks(file)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._held, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._held):
                if not self._held[self._at].isspace():
                    return self._held[self._at]
                self._at += 1
            if not self._read():
                return ""

    def take(self, character: str) -> bool:
        """Steps over a character, where it is the next one."""
        is_next = self.peek() == character
        self._at += is_next
        return is_next

    def element(self, where: str) -> str:
        """The object that begins at the next character, as it is written.

        Raises:
          UserError: for malformed JSON.
        """
        while True:
            try:
                _, end = json.JSONDecoder().raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                held = len(self._held) - self._at
                # What is read only in part is malformed too: double it, so that no element is
                # parsed more than a few times.
                enough = held <= _LONGEST and not isinstance(error, RecursionError)
                if enough and self._read(at_least=held):
                    continue
                reason = getattr(error, "msg", "nested too deeply")
                raise UserError(
                    f"{where}: malformed JSON in an element of the array: {reason}"
                ) from None
            text = self._held[self._at : end]
            self._at = end
            return text

    def _read(self, at_least: int = 1) -> bool:
        """Reads on; False at the end of the file."""
        parts, size = [self._held[self._at :]], 0
        self._at = 0
        while size < at_least:
            block = next(self._blocks, b"")
            try:
                parts.append(self._decoder.decode(block, final=not block))
            except UnicodeDecodeError:
                raise UserError(f"{self._file}: not UTF-8; convert it (iconv -t UTF-8)") from None
            size += len(parts[-1])
            if not block:
                break
        self._held = "".join(parts)
        return size > 0
