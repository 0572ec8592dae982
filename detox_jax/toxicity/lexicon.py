"""A word list as a scorer: the simplest baseline, and the reference that needs no training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.toxicity import scripts

VERSION = 2  # 2: a text in other scripts than the list's has no score
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
    apart by what stands beside them, so a list in a script without spaces finds little.

    Attributes:
      name: "lexicon".
      fingerprint: of the list.
      languages: English, or a sentence where the list is a file's.
    """

    name = "lexicon"

    def __init__(self, words_file: str | None = None):
        """Reads the list.

        Args:
          words_file: one phrase a line; the built-in mild insults where None.

        Raises:
          UserError: if the file is missing or holds no phrase.
        """
        phrases = MILD_INSULTS if words_file is None else _read_phrases(words_file)
        # Longest first, so that a phrase is counted and not the words in it.
        ordered = sorted({phrase.lower() for phrase in phrases}, key=lambda p: (-len(p), p))
        self._pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, ordered)) + r")(?!\w)")
        self.languages = ("en",) if words_file is None else "as its list of words says"
        self._scripts = scripts.scripts_of(ordered) or scripts.LATIN
        digest = hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:12]
        self.fingerprint = f"lexicon-{VERSION}-{digest}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        return [self._score(text) if self.can_read(text) else None for text in texts]

    def can_read(self, text: str) -> bool:
        """See `ToxicityScorer`."""
        return scripts.can_read(text, self._scripts)

    def _score(self, text: str) -> float:
        return 1 - 0.5 ** len(self._pattern.findall(text.lower()))


def _read_phrases(words_file: str) -> list[str]:
    lines = jsonl.read_lines(epath.Path(words_file), "a word list")
    phrases = [line.strip() for line in lines if line.strip()]
    if not phrases:
        raise UserError(f"{words_file}: holds no phrase; expected one a line")
    return phrases
