"""Best of n: of every n continuations the least toxic, chosen among what `score` scored.

No steering: n samples are written for each result, and a scorer chooses. It is the bound that
methods which steer are compared with, and costs n times as much as plain decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from detox_jax import records
from detox_jax.errors import UserError

CHOSEN = "chosen_with_toxicity"  # the score that chose a continuation, in its record


@dataclasses.dataclass(frozen=True)
class BestOf:
    """A `Selection` over prompts that keeps `keep` continuations of each.

    For 25 results of the best of 4, `generate` writes 100 samples a prompt: each result is the best
    of n samples of its own. (The best 25 of 100 would be other texts, and less toxic.)

    Attributes:
      keep: continuations a prompt that are kept; a prompt's samples are n times as many.
    """

    keep: int = 25

    uses_toxicity: ClassVar[bool] = True

    def __post_init__(self):
        if self.keep < 1:
            raise UserError(f"BestOf.keep is {self.keep}; must be at least 1")

    def choose(self, prompt: records.Prompt) -> tuple[records.Generation, ...]:
        """The best continuation of every group of n, in their order, with its score beside it.

        A continuation without a score is never chosen, and of equal ones the first is; a group in
        which none has a score has no result.

        Raises:
          UserError: if the prompt's samples are no multiple of `keep`.
        """
        samples = prompt.generations
        n, left = divmod(len(samples), self.keep)
        if left or not n:
            raise UserError(
                f"{prompt.named} has {len(samples)} continuations; BestOf needs n for each "
                f"of the {self.keep} that it keeps: generate with NUM_SAMPLES = n x {self.keep}, "
                "or set KEEP"
            )
        groups = [samples[first : first + n] for first in range(0, len(samples), n)]
        chosen = [choose([sample.toxicity for sample in group]) for group in groups]
        return tuple(
            _unscored(group[index])
            for group, index in zip(groups, chosen, strict=True)
            if index is not None
        )


def choose(scores: Sequence[float | None]) -> int | None:
    """The index of the lowest score, the first of equals; None where none is there."""
    known = [(score, index) for index, score in enumerate(scores) if score is not None]
    return min(known)[1] if known else None


def _unscored(generation: records.Generation) -> records.Generation:
    """A chosen continuation: another scorer is to judge it, so its score stands beside."""
    extra = {**generation.extra, CHOSEN: generation.toxicity}
    return dataclasses.replace(generation, toxicity=None, extra=extra)


def counts(before: Iterable[records.Prompt], after: Sequence[records.Prompt]) -> dict[str, Any]:
    """What was chosen of how much.

    Returns:
      Numbers of prompts, of samples, of those without a score and of those kept; and
      `acceptance_rate`, the share of samples that are kept.
    """
    samples = [generation for prompt in before for generation in prompt.generations]
    kept = sum(len(prompt.generations) for prompt in after)
    return {
        "prompts": len(after),
        "samples": len(samples),
        "unscored": sum(sample.toxicity is None for sample in samples),
        "kept": kept,
        "acceptance_rate": kept / max(1, len(samples)),
    }


def mean_toxicity(values: Iterable[float | None]) -> float | None:
    """The mean of the scores that are there; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
