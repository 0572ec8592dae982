"""Whether a scorer that knows some scripts can read a text.

A word list or n-grams of English find nothing in Chinese, Arabic or Russian, insults included; a
score of 0.0 would say that there is nothing. Such texts have no score.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Collection, Iterable

from detox_jax.toxicity import letters

LATIN = frozenset({"LATIN"})
# The share of a text's letters in other scripts from which on it is not scored. A foreign name or
# two in a sentence stays below it; where a fifth is unread, what is read no longer speaks for all.
UNREADABLE_SHARE = 0.2


def can_read(text: str, scripts: Collection[str] = LATIN) -> bool:
    """Whether fewer than a fifth of a text's letters are of other scripts.

    Only letters count: a text without any (empty, digits, punctuation, emoji) can be read. Cyrillic
    and Greek letters that look like Latin ones are of their own script, unless Latin is read and
    the text holds Latin letters and nothing else that is foreign: then they are a disguise, which
    `letters` undoes. One foreign letter among Latin ones is no text: it is a symbol, or what a
    model of bytes makes of a few.

    Args:
      text: as it is.
      scripts: in Unicode's names, as `scripts_of` gives them.
    """
    if text.isascii() and "LATIN" in scripts:
        return True
    # Composed: an accented letter or a Hangul syllable is one, and full-width letters are Latin.
    composed = unicodedata.normalize("NFKC", text)
    # Quotation marks and accents, of which most such texts have a few and nothing else.
    if "LATIN" in scripts and {"", *scripts}.issuperset(map(_script, set(composed))):
        return True
    known = foreign = look_alike = 0
    for character in composed:
        script = _script(character)
        if script in scripts:
            known += 1
        elif script and character.lower() in letters.LOOK_ALIKE_LETTERS:
            look_alike += 1
        elif script:
            foreign += 1
    if known and not foreign and "LATIN" in scripts:
        return True
    unread = foreign + look_alike
    if known and unread == 1:
        return True
    return not unread or unread / (known + unread) < UNREADABLE_SHARE


def scripts_of(texts: Iterable[str]) -> frozenset[str]:
    """The scripts of all letters of `texts`."""
    found = {_script(character) for text in texts for character in text}
    return frozenset(script for script in found if script)


@functools.cache
def _script(character: str) -> str:
    """A letter's script, the first word of its name; empty for what is no letter, or of none."""
    if not unicodedata.category(character).startswith("L"):
        return ""
    script = unicodedata.name(character, "UNNAMED").split(" ")[0]
    return "" if script == "MODIFIER" else script
