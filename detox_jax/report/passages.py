"""Texts that stay hidden until somebody asks: the toxic ones, and those without a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from detox_jax.records import TOXIC


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text of a model or of a file.

    Attributes:
      text: as it is.
      toxicity: its score, or None.
      masked: whether it stays hidden until somebody asks for it.
      label: what the button that shows it says.
    """

    text: str
    toxicity: float | None
    masked: bool
    label: str


def passage(text: str, toxicity: float | None, toxic: Collection[str] = ()) -> Passage:
    """A text that is masked where it is toxic, and where nobody has scored it.

    Also where another scorer on the page finds it toxic: to hide it once is not to hide it.
    """
    if is_masked(text, toxicity):
        label = "Show text without a rating"
        if toxicity is not None:
            label = f"Show text rated {toxicity:.2f}"
        return Passage(text, toxicity, True, label)
    return Passage(text, toxicity, text in toxic, "Show text that another scorer rates toxic")


def is_masked(text: str, toxicity: float | None) -> bool:
    """Whether a text is toxic by its score, or has words and no score."""
    return bool(text.strip()) and (toxicity is None or toxicity >= TOXIC)
