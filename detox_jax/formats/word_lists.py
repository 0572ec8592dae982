"""Lists of words, one phrase a line: for scorers that look for them and steering that bans them."""

from __future__ import annotations

from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import jsonl

_COMMENT = "#"


def read_words(source: str) -> list[str]:
    """The phrases of a word list, in order, each once; lines that start with `#` are comments.

    Raises:
      UserError: for a file that cannot be read or holds none.
    """
    lines = jsonl.read_lines(epath.Path(source), "a word list")
    words = [" ".join(line.split()) for line in lines if not line.startswith(_COMMENT)]
    words = [word for word in dict.fromkeys(words) if word]
    if not words:
        raise UserError(f"{source}: holds no phrase; expected one a line")
    return words
