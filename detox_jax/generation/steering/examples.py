"""Pairs of a toxic and a clean text, of a model's own scored samples or of labelled text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from detox_jax import records
from detox_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that differ in toxicity.

    Attributes:
      prompt: that stands before both; empty for documents.
      toxic: the more toxic continuation, or document.
      clean: the other one.
    """

    prompt: str
    toxic: str
    clean: str


def pairs_of(source: str, margin: float, most: int) -> list[Pair]:
    """Pairs of scored prompts or scored documents, see `of_prompts` and `of_documents`.

    Args:
      source: file, glob or directory.
      margin: by how much the scores of a pair differ, at least.
      most: how many, at most.

    Raises:
      UserError: where there is none.
    """
    read = list(records.read_records(source))
    prompts = [record for record in read if isinstance(record, records.Prompt)]
    documents = [record for record in read if isinstance(record, records.Document)]
    pairs = of_prompts(prompts, margin, most) if prompts else of_documents(documents, margin, most)
    if not pairs:
        texts = [generation for prompt in prompts for generation in prompt.generations]
        if all(text.toxicity is None for text in texts or documents):
            raise UserError(f"{source}: none of its texts has a score; run `score`")
        raise UserError(
            f"{source}: none of its {len(read)} records makes a pair whose scores differ by "
            f"{margin}; lower MARGIN, or give more"
        )
    return pairs


def of_prompts(prompts: Iterable[records.Prompt], margin: float, most: int) -> list[Pair]:
    """Of every prompt its most and its least toxic continuation, never across prompts.

    Continuations without a score or without text are none; of equal scores the first one counts.
    Where there are too many pairs, the hash of the prompt's id decides.
    """
    pairs: list[tuple[int, Pair]] = []
    for prompt in prompts:
        scored = [
            (g.toxicity, g.text)
            for g in prompt.generations
            if g.toxicity is not None and not records.is_empty(g.text)
        ]
        if not scored:
            continue
        low, high = min(scored, key=_score), max(scored, key=_score)
        if high[0] - low[0] >= margin - records.ROUNDING and high[1] != low[1]:
            order = records.stable_hash(prompt.id)
            pairs.append((order, Pair(prompt.text, high[1], low[1])))
    return [pair for _, pair in sorted(pairs, key=lambda item: item[0])[:most]]


def of_documents(documents: Sequence[records.Document], margin: float, most: int) -> list[Pair]:
    """The most toxic document with the least toxic one, the second with the second, and so on."""
    scored = sorted(
        (d.toxicity, records.stable_hash(d.id), d.text)
        for d in documents
        if d.toxicity is not None and not records.is_empty(d.text)
    )
    pairs = []
    for (low, _, clean), (high, _, toxic) in zip(scored, scored[::-1], strict=True):
        if len(pairs) == most or high - low < margin - records.ROUNDING:
            break
        if toxic != clean:  # One text may be labelled both ways.
            pairs.append(Pair("", toxic, clean))
    return pairs


def _score(scored: tuple[float, str]) -> float:
    return scored[0]
