"""Texts and files that the rows of scoring and filtering share, from real comments."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np


def texts(number: int) -> list[str]:
    """Real comments in random order, over again where there are fewer."""
    from detox_jax.toxicity import labelled

    data = os.environ.get("DETOX_JAX_DATA")
    if data is None:
        raise SystemExit("DETOX_JAX_DATA: not set; give the directory of the labelled comments")
    directory = Path(data)
    comments = [example.text for example in labelled.read_examples(directory)]
    order = np.random.default_rng(0).permutation(len(comments))
    return [comments[order[n % len(order)]] for n in range(number)]


def write(file: Path, number: int, scored: bool) -> None:
    """Documents as JSON Lines."""
    toxicity = np.random.default_rng(1).random(number)
    with file.open("w") as lines:
        for n, text in enumerate(texts(number)):
            document = {"id": f"document-{n:08d}", "text": text}
            if scored:
                document["toxicity"] = round(float(toxicity[n]), 6)
            lines.write(json.dumps(document) + "\n")
