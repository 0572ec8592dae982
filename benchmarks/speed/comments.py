"""Texts and files that the rows of scoring and filtering share, from the labelled texts.

These are the 112,338 that the embedded scorer is trained and measured on (docs/SCORER.md), in the
places of the comments that a user would have: 39 % are Reddit comments, 23 % others' comments
(Civil Comments, Wikipedia's talk pages), 9 % sentences of the web and of Wikipedia, 28 % sentences
made of templates, and 1 % phrases of word lists. Made sentences are short and share their words.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np


def texts(number: int) -> list[str]:
    """Labelled texts in random order, over again where there are fewer."""
    from detox_jax.toxicity import labelled

    data = os.environ.get("DETOX_JAX_DATA")
    if data is None:
        raise SystemExit("DETOX_JAX_DATA: not set; give the directory of the labelled texts")
    directory = Path(data)
    labelled_texts = [example.text for example in labelled.read_examples(directory)]
    order = np.random.default_rng(0).permutation(len(labelled_texts))
    return [labelled_texts[order[n % len(order)]] for n in range(number)]


def write(file: Path, number: int, scored: bool) -> None:
    """Documents as JSON Lines."""
    toxicity = np.random.default_rng(1).random(number)
    with file.open("w") as lines:
        for n, text in enumerate(texts(number)):
            document = {"id": f"document-{n:08d}", "text": text}
            if scored:
                document["toxicity"] = round(float(toxicity[n]), 6)
            lines.write(json.dumps(document) + "\n")
