"""Verb `train_scorer`: a scorer of one's own, the embedded n-grams or an encoder."""

from __future__ import annotations

from typing import Protocol

from detox_jax import preview
from detox_jax.preview import Step


class Recipe(Protocol):
    """How a scorer is trained: `train_ngram.NgramRecipe`, `train_encoder.EncoderRecipe`.

    It may also have `check(output_dir)`, which refuses what can be refused before any work.
    """

    def train(self, output_dir: str) -> None:
        """Trains a scorer, measures it on text that it never saw, and leaves it in `output_dir`."""
        ...


def train_scorer(output_dir: str, recipe: Recipe, check_only: bool = False) -> list[Step] | None:
    """Trains a toxicity scorer, or goes on where a killed run stopped.

    Args:
      output_dir: where the scorer, its measured quality and the manifest go.
      recipe: what is trained, on what, and how.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for settings that do not fit each other, or labelled text that cannot be read.
    """
    if check_only:
        preview.checked_output(output_dir)
        if (own_check := getattr(recipe, "check", None)) is not None:
            own_check(output_dir)
        return [Step("train_scorer", output_dir)]
    recipe.train(output_dir)
    return None
