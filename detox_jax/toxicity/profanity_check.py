"""alt-profanity-check as a second opinion: a linear model that others trained on other data.

A model that was filtered with one scorer may merely have learnt that scorer's blind spots; a judge
that shares neither data nor features with it tells. Needs the extra `judges`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

import numpy as np

from detox_jax.errors import UserError
from detox_jax.toxicity import scripts

_PACKAGE = "alt-profanity-check"
_BATCH = 4096


class ProfanityCheckScorer:
    """The probability that `profanity_check.predict_prob` gives; a blank text has 0.0.

    A text in other letters than Latin ones has no score, see `scripts.can_read`.

    Attributes:
      name: "profanity-check".
      fingerprint: of the package's version and of its weights, and of that rule.
      languages: English, which its texts are in.
    """

    name = "profanity-check"
    languages = ("en",)

    def __init__(self):
        """Finds the package; its weights are read at the first score.

        Raises:
          UserError: if the package is not installed.
        """
        spec = util.find_spec("profanity_check")
        if spec is None or spec.origin is None:
            raise UserError(
                f"SCORER ProfanityCheckScorer needs {_PACKAGE}: pip install 'detox-jax[judges]'"
            )
        digest = hashlib.sha256()
        for file in sorted((Path(spec.origin).parent / "data").glob("*.joblib")):
            digest.update(file.read_bytes())
        version = metadata.version(_PACKAGE)
        self.fingerprint = f"{self.name}-{version}-{digest.hexdigest()[:12]}-latin"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        # Loads scikit-learn and the weights.
        predict_prob = importlib.import_module("profanity_check").predict_prob
        scores: list[float | None] = []
        for first in range(0, len(texts), _BATCH):
            part = list(texts[first : first + _BATCH])
            blank = np.array([not text.strip() for text in part])
            scores += np.where(blank, 0.0, predict_prob(part)).astype(float).tolist()
        return [
            score if self.can_read(text) else None
            for score, text in zip(scores, texts, strict=True)
        ]

    def can_read(self, text: str) -> bool:
        """See `ToxicityScorer`."""
        return scripts.can_read(text)
