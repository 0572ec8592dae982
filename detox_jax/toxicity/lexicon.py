"""A word list as a scorer: the simplest baseline, and the reference that needs no training."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from detox_jax import segmenters
from detox_jax.formats.word_lists import read_words
from detox_jax.toxicity import scripts

VERSION = 2  # 2: a text in other scripts than the list's has no score
# Of a list with letters beyond ASCII; 3: a mark belongs to the letter before it
_MARKS_VERSION = 3
# Marks without which a word is the same one, and the signs that make an emoji coloured.
_OPTIONAL_MARKS = ("ARABIC", "HEBREW", "SYRIAC", "VARIATION")
# Mild on purpose; give a list of your own (one phrase a line) for anything stronger.
MILD_INSULTS = (
    "clown",
    "clowns",
    "dumb",
    "fool",
    "fools",
    "garbage",
    "idiot",
    "idiotic",
    "idiots",
    "imbecile",
    "imbeciles",
    "jerk",
    "jerks",
    "loser",
    "losers",
    "moron",
    "moronic",
    "morons",
    "pathetic",
    "shut up",
    "stupid",
    "trash",
)


class LexiconScorer:
    """1 - 2^-n for n listed words or phrases: 0.5 for one, 0.75 for two.

    A text in other scripts than the list's has no score, see `scripts.can_read`. Words are told
    apart by what stands beside them, so a list in a script without spaces finds little. With a list
    that has letters beyond ASCII a letter is the same whether its accent is a character of its own
    or not, and vowel signs are parts of words, as letters are.

    Attributes:
      name: "lexicon".
      fingerprint: of the list, and of how it is read.
      languages: English, or a sentence where the list is a file's.
    """

    name = "lexicon"

    def __init__(self, words_file: str | None = None):
        """Reads the list.

        Args:
          words_file: one phrase a line, `#` before comments; the built-in mild insults where None.

        Raises:
          UserError: if the file is missing or holds no phrase.
        """
        phrases = MILD_INSULTS if words_file is None else read_words(words_file)
        marked = _has_other_letters(phrases)
        self._fold = _composed if marked else str.lower
        # Longest first, so that a phrase is counted and not the words in it.
        ordered = sorted({self._fold(phrase) for phrase in phrases}, key=lambda p: (-len(p), p))
        of_words = rf"[\w{_marks()}]" if marked else r"\w"
        listed = "|".join(map(re.escape, ordered))
        self._pattern = re.compile(rf"(?<!{of_words})(?:{listed})(?!{of_words})")
        self.languages = ("en",) if words_file is None else "as its list of words says"
        self._scripts = scripts.scripts_of(ordered) or scripts.LATIN
        digest = hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:12]
        self.fingerprint = f"lexicon-{_MARKS_VERSION if marked else VERSION}-{digest}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        return [self._score(text) if self.can_read(text) else None for text in texts]

    def can_read(self, text: str) -> bool:
        """See `ToxicityScorer`."""
        return scripts.can_read(text, self._scripts)

    def _score(self, text: str) -> float:
        return 1 - 0.5 ** len(self._pattern.findall(self._fold(text)))


def _has_other_letters(phrases: Iterable[str]) -> bool:
    """Whether phrases have letters or marks beyond ASCII."""
    others = {character for phrase in phrases for character in phrase if not character.isascii()}
    return any(unicodedata.category(character)[0] in "LM" for character in others)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def _marks() -> str:
    return "".join(
        mark
        for mark in segmenters.marks()
        if unicodedata.name(mark, "").split(" ")[0] not in _OPTIONAL_MARKS
    )
