"""Words where white space tells none: in Chinese, Japanese, Thai, Lao, Khmer and Burmese.

A segmenter puts a space between such words, and what counts words then splits at white space as
ever. So one setting, WORD_SEGMENTER, holds wherever words decide something, and no figure of a
language with spaces changes by it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import unicodedata
from collections.abc import Iterator
from importlib import util
from typing import Any, Protocol

from detox_jax.errors import UserError

_PACKAGE = "icu4py"
# Thai, Lao, Burmese, Khmer, kana, Han: ICU has dictionaries of them.
_DIVIDED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Tibetan, Tai and Javanese scripts.
_NOT_DIVIDED = "\u0f00-\u0fff\u1950-\u19df\u1a20-\u1aad\ua980-\ua9df"
UNSPACED = re.compile(f"[{_DIVIDED}{_NOT_DIVIDED}]")  # letters of words without a space
_OF_DIVIDED = re.compile(f"[{_DIVIDED}]")
_OF_NOT_DIVIDED = re.compile(f"[{_NOT_DIVIDED}]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_OPENING = ("Ps", "Pi")  # brackets and quotation marks that belong to the word behind them


@functools.cache
def marks() -> tuple[str, ...]:
    """Vowel signs, accents and other marks that make another word of the letters before them.

    Python counts none of them among the characters of words.
    """
    characters = map(chr, range(0x300, 0x20000))
    return tuple(mark for mark in characters if unicodedata.category(mark) in ("Mn", "Mc"))


class Segmenter(Protocol):
    """Tells the words of scripts without spaces."""

    def spaced(self, text: str) -> str:
        """The text with a space between such words; of others nothing changes."""
        ...

    def left(self) -> re.Pattern[str]:
        """The letters of scripts without spaces whose words it does not tell."""
        ...

    def described(self) -> dict[str, Any]:
        """What decides the words, as settings hold it."""
        ...


@dataclasses.dataclass(frozen=True)
class Icu:
    """Unicode's boundaries of words and the dictionaries of ICU (icu4py, extra `words`).

    A space comes between two words of which at least one is in such a script; punctuation stays
    with the word before it, as it does where there are spaces, and an opening bracket with the word
    behind.

    Raises:
      UserError: without the library.
    """

    def __post_init__(self):
        if util.find_spec(_PACKAGE) is None:
            raise UserError(f"WORD_SEGMENTER Icu needs {_PACKAGE}: pip install 'detox-jax[words]'")

    def spaced(self, text: str) -> str:
        """See `Segmenter`.

        >>> Icu().spaced("我今天去了商店，买了 two apples。")
        '我 今天 去了 商店， 买 了 two apples。'
        """
        if text.isascii() or not _OF_DIVIDED.search(text):
            return text
        ends = [0, *_places(text), len(text)]
        return " ".join(text[start:end] for start, end in zip(ends, ends[1:], strict=False))

    def left(self) -> re.Pattern[str]:
        """See `Segmenter`."""
        return _OF_NOT_DIVIDED

    def described(self) -> dict[str, Any]:
        """See `Segmenter`: the dictionaries are those of a version."""
        return {"method": "Icu", "version": importlib.import_module(_PACKAGE).icu_version}


def _places(text: str) -> Iterator[int]:
    """Where spaces are missing."""
    breakers: Any = importlib.import_module(f"{_PACKAGE}.breakers")
    # ICU takes no half of a character; in its place one of the same length.
    whole = _SURROGATES.sub("\ufffd", text)
    start = 0  # Counted here: icu4py's own places are of UTF-16, and lie wrong behind an emoji.
    opened = None  # where brackets before the next word begin
    before = False  # whether a word stands before, no white space between
    before_divided = False
    for segment in breakers.WordBreaker(whole, "und"):
        if segment[0].isspace():
            opened, before = None, False
        elif any(map(str.isalnum, segment)):
            divided = _OF_DIVIDED.search(segment) is not None
            if before and (divided or before_divided):
                yield start if opened is None else opened
            opened, before, before_divided = None, True, divided
        elif unicodedata.category(segment[0]) in _OPENING:
            opened = start if opened is None else opened
        else:
            opened = None
        start += len(segment)


def spaced(text: str, segmenter: Segmenter | None) -> str:
    """A text whose words stand between white space, as far as a segmenter tells them.

    Args:
      text: any.
      segmenter: None where white space alone tells words; the text is then as it was.
    """
    return text if segmenter is None else segmenter.spaced(text)


def num_words(text: str, segmenter: Segmenter | None) -> int:
    """Words of a text, as white space parts them, and a segmenter where there is one."""
    return len(spaced(text, segmenter).split())


def settings(segmenter: Segmenter | None) -> dict[str, Any]:
    """What stands in settings; nothing without one, so that older outputs go on."""
    return {} if segmenter is None else {"word_segmenter": segmenter.described()}
