"""How results show themselves: in a notebook as tables, elsewhere as lines; toxic text is hidden.

As on the report's page, what is rated 0.5 or more stays hidden until somebody asks. Texts that
nobody has scored are rated by the embedded scorer, for this alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from detox_jax.errors import shortened
from detox_jax.records import TOXIC
from detox_jax.report.passages import Passage, passage
from detox_jax.toxicity import scorer as scorers
from detox_jax.toxicity.ngram import NgramScorer

MOST_ROWS, MOST_CHARACTERS = 10, 400
HIDDEN = f"Texts rated {TOXIC} or more, or that no scorer can rate, are hidden until you open them."


def passages(texts: Sequence[str], toxicity: Sequence[float | None]) -> list[Passage]:
    """Texts, each with whether it is to be hidden.

    Args:
      texts: of a model or of a file.
      toxicity: their scores; where no text has one, the embedded scorer rates them all.
    """
    if texts and all(score is None for score in toxicity):
        toxicity = scorers.score_texts(NgramScorer(), texts)
    return [passage(text, score) for text, score in zip(texts, toxicity, strict=True)]


def in_cell(shown: Passage) -> Markup:
    """A text in a table; one that is hidden opens at a click."""
    text = escape(shortened(shown.text, MOST_CHARACTERS))
    if not shown.masked:
        return text
    return Markup("<details><summary>{}</summary>{}</details>").format(shown.label, text)


def in_line(shown: Passage, most: int = 70) -> str:
    """A text in a terminal's line."""
    if shown.masked:
        rated = "not rated" if shown.toxicity is None else f"rated {shown.toxicity:.2f}"
        return f"[hidden: {rated}]"
    return repr(shortened(shown.text, most))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], notes: Sequence[str]) -> str:
    """An HTML table with sentences below it; what is no `Markup` is escaped."""
    head = Markup("").join(Markup("<th>{}</th>").format(head) for head in heads)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell) for cell in row)) for row in rows
    )
    below = Markup("").join(Markup("<p>{}</p>").format(note) for note in notes if note)
    frame = "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}"
    return str(Markup(frame).format(head, body, below))


def _cell(value: object) -> Markup:
    return Markup('<td style="text-align: left" dir="auto">{}</td>').format(value)


def number(value: float | None, digits: int = 3) -> str:
    """A score, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"
