"""Documents apart from what a model is evaluated on: those that the prompts were taken from go.

A document goes for its id, where it is that of an evaluation record or of the file that the record
says it was cut from (`filename` of RealToxicityPrompts), or for its text, where the words of a
prompt stand in it one behind the other, whatever the case, the punctuation and the line breaks.
Vowel signs and accents are parts of words, as letters are. A prompt of fewer than five words says
too little; it counts together with the continuation that its record has, and where that is short
too, by its id alone. Of an evaluation *document*, such as held-out text, all words are looked for.

In scripts without spaces a segmenter says how many words there are, where one is given. Which they
are depends on what stands beside them, so that there letter by letter is compared.
"""

from __future__ import annotations

import collections
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from detox_jax import records, segmenters
from detox_jax.segmenters import Segmenter

_FEWEST_WORDS = 5
_ASCII_WORD = re.compile(r"\w+")
_LETTER = segmenters.UNSPACED.pattern

Words = tuple[str, ...]


class Evaluated:
    """What a model is evaluated on, by ids and by words.

    Args:
      evaluated: the records.
      segmenter: of words; white space and punctuation alone where None.

    Attributes:
      by_id_alone: the number of records that are too short to be told by their words.
    """

    def __init__(self, evaluated: Iterable[records.Record], segmenter: Segmenter | None = None):
        self._segmenter = segmenter
        self._ids: set[str] = set()
        # By their first words, so that one look at each place of a document is enough.
        self._phrases: dict[Words, set[Words]] = collections.defaultdict(set)
        self.by_id_alone = 0
        for record in evaluated:
            self._ids |= {record.id, *_files(record.extra)}
            phrase, num_words = self._phrase(record)
            if num_words < _FEWEST_WORDS:
                self.by_id_alone += 1
            else:
                self._phrases[phrase[:_FEWEST_WORDS]].add(phrase)

    def why(self, document: records.Document) -> str | None:
        """`id` or `text`, by which a document is one that a record comes from; None if it is not.

        Args:
          document: of a corpus to train on.
        """
        if not self._ids.isdisjoint({document.id, *_files(document.extra)}):
            return "id"
        words = self._words(document.text)
        for start in range(len(words) - _FEWEST_WORDS + 1):
            phrases = self._phrases.get(words[start : start + _FEWEST_WORDS], ())
            if any(words[start : start + len(phrase)] == phrase for phrase in phrases):
                return "text"
        return None

    def _phrase(self, record: records.Record) -> tuple[Words, int]:
        """What is looked for of a record, and how many words that is."""
        text = record.text
        if self._num_words(text) < _FEWEST_WORDS and isinstance(record, records.Prompt):
            continuation = record.extra.get("continuation")
            if isinstance(continuation, Mapping) and isinstance(continuation.get("text"), str):
                text = f"{text}{continuation['text']}"
        return self._words(text), self._num_words(text)

    def _num_words(self, text: str) -> int:
        return len(_found(_word, segmenters.spaced(text, self._segmenter)))

    def _words(self, text: str) -> Words:
        return tuple(_found(_word if self._segmenter is None else _word_or_letter, text))


def _found(pattern: Callable[[], re.Pattern[str]], text: str) -> list[str]:
    if text.isascii():  # no marks: what both patterns find, several times as fast
        return _ASCII_WORD.findall(text.lower())
    return pattern().findall(unicodedata.normalize("NFC", text.casefold()))


@functools.cache
def _word() -> re.Pattern[str]:
    return re.compile(rf"(?:\w+[{_marks()}]*)+")


@functools.cache
def _word_or_letter() -> re.Pattern[str]:
    return re.compile(rf"{_LETTER}|(?:(?:(?!{_LETTER})\w)+[{_marks()}]*)+")


def _marks() -> str:
    """Those of scripts without spaces are left out: a run of their letters is no word."""
    return "".join(mark for mark in segmenters.marks() if not segmenters.UNSPACED.match(mark))


def _files(extra: Mapping[str, object]) -> list[str]:
    """The file that a record names, with and without its ending."""
    name = extra.get("filename")
    return [name, PurePosixPath(name).stem] if isinstance(name, str) and name else []
