"""Verb `train_scorer`: a scorer of one's own, the embedded n-grams or an encoder."""

from __future__ import annotations

from typing import Protocol


class Recipe(Protocol):
    """How a scorer is trained: `train_ngram.NgramRecipe`, `train_encoder.EncoderRecipe`."""

    def train(self, output_dir: str) -> None:
        """Trains a scorer, measures it on text that it never saw, and leaves it in `output_dir`."""
        ...


def train_scorer(output_dir: str, recipe: Recipe) -> None:
    """Trains a toxicity scorer, or goes on where a killed run stopped.

    Args:
      output_dir: where the scorer, its measured quality and the manifest go.
      recipe: what is trained, on what, and how.

    Raises:
      UserError: for settings that do not fit each other, or labelled text that cannot be read.
    """
    recipe.train(output_dir)
