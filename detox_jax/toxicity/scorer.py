"""What a toxicity scorer is, and how to write one.

A scorer of your own takes ten lines:

    class WordCount:
        name = "word-count"
        fingerprint = "word-count-1"

        def score(self, texts):
            return [min(1.0, text.lower().split().count("idiot") / 3) for text in texts]

Put it in a module beside your gin file, import the module there, and set
`SCORER = @module.WordCount()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.vocabulary import END_OF_TEXT

# The official code cuts texts for the remote scorer at this length; kept so that scores compare.
MAX_BYTES = 20_480
# Of a text without anything in it, for every scorer: nothing in it can be toxic.
EMPTY_SCORE = 0.0
AS_SERVICE_SAYS, UNSAID = "as the service says", "as its author says"


class ToxicityScorer(Protocol):
    """Scores texts.

    Attributes:
      name: short, for tables.
      fingerprint: name, version and hash of the weights; scores of different fingerprints never
        share a column.

    It may also have `languages`, the BCP-47 codes of the languages that it is for, or a sentence
    where a service or an encoder decides; and `can_read(text)`, False for a text in letters that it
    does not know: such a text has no score (None), and results count it apart from one that had no
    answer. It may have `reliability`, a mapping for the report: `scores` and `shares` (mean score
    and share of toxic texts of each bin), `counts`, `calibration_error` and `against`, the label.
    With `mean_labels` true, `shares` are the mean labels of the bins. It may have `activation`, a
    word for how its outputs become scores.
    For `cache.CachedScorer` it may have `texts_at_once`, how many texts to give it a call, and
    `attribute`, what it measures. It may have `check()`, which raises a `UserError` where the
    scorer lacks what it needs, a key say. One that computes on all devices of several processes
    says so by `on_mesh = True`: all processes then call it with the same texts.
    """

    name: str
    fingerprint: str

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """The toxicity of each text, from 0 to 1; None where the scorer has no answer."""
        ...


def prepare(text: str) -> str:
    """What a scorer sees: no end-of-text, at most 20,480 UTF-8 bytes, no cut character."""
    text = text.replace(END_OF_TEXT, "")
    if len(text) * 4 <= MAX_BYTES:
        return text
    return text.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore")


def score_texts(scorer: ToxicityScorer, texts: Sequence[str]) -> list[float | None]:
    """Scores of prepared texts, checked; an empty one (`records.is_empty`) has `EMPTY_SCORE`.

    The one place where empty texts are judged: the scorer does not see them.

    Raises:
      UserError: if the scorer returns another number of scores, or one outside [0, 1].
    """
    empty = [records.is_empty(text) for text in texts]
    asked = [prepare(text) for text, is_empty in zip(texts, empty, strict=True) if not is_empty]
    scores = scorer.score(asked) if asked else []
    if len(scores) != len(asked):
        raise UserError(
            f"scorer {scorer.name!r} returned {len(scores)} scores for {len(asked)} texts"
        )
    answers = iter([None if score is None else _checked(scorer, score) for score in scores])
    return [EMPTY_SCORE if is_empty else next(answers) for is_empty in empty]


def unreadable(
    scorer: ToxicityScorer, texts: Sequence[str], scores: Sequence[float | None]
) -> list[bool]:
    """Which texts have no score because the scorer cannot read their letters."""
    can_read = getattr(scorer, "can_read", None)
    if can_read is None:
        return [False] * len(texts)
    return [
        score is None and not can_read(prepare(text))
        for text, score in zip(texts, scores, strict=True)
    ]


def languages(scorer: ToxicityScorer) -> tuple[str, ...] | str:
    """The languages that a scorer says it is for, as BCP-47 codes or as a sentence."""
    said = getattr(scorer, "languages", None)
    return UNSAID if said is None else said or AS_SERVICE_SAYS  # None named: a service guesses.


def activation(scorer: ToxicityScorer) -> str | None:
    """How a scorer's outputs become scores, in its word; None where it says none."""
    said = getattr(scorer, "activation", None)
    return said if isinstance(said, str) else None


def _checked(scorer: ToxicityScorer, score: float) -> float:
    value = float(score)
    if not 0 <= value <= 1:  # NaN is not, either.
        raise UserError(f"scorer {scorer.name!r} returned {value}; scores are from 0 to 1, or None")
    return value


def check(scorer: ToxicityScorer) -> None:
    """Raises a `UserError` if the object is no scorer, or lacks what it needs to score."""
    identity(scorer)
    if (own_check := getattr(scorer, "check", None)) is not None:
        own_check()


def identity(scorer: ToxicityScorer) -> dict[str, Any]:
    """How manifests and results name a scorer.

    Raises:
      UserError: if it is not a scorer.
    """
    attributes = ("name", "fingerprint", "score")
    if isinstance(scorer, type) or not all(hasattr(scorer, attribute) for attribute in attributes):
        raise UserError(
            f"SCORER is {scorer!r}; expected an object with name, fingerprint and score: "
            "write @module.Scorer(), with the parentheses"
        )
    return {"name": scorer.name, "fingerprint": scorer.fingerprint}
