"""What T5X's eval.py computes on the tasks of text: their perplexity by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def count_tokens(target: str, example: Mapping[str, Any], is_target: bool = True) -> int:
    """A seqio `postprocess_fn`: ids of a document, its end-of-text included."""
    del target, is_target
    return len(example["targets"])


def perplexity(targets: Sequence[int], scores: Sequence[float]) -> dict[str, float]:
    """A seqio metric.

    Args:
      targets: tokens of each document, from `count_tokens`.
      scores: log-likelihood of each document, in nats.

    Returns:
      `perplexity` by token over all documents, and how many `tokens` those are.
    """
    tokens = sum(targets)
    return {"perplexity": math.exp(-float(sum(scores)) / tokens), "tokens": tokens}
