"""The rows of `results.json`: a method's figures on a split, its differences to the baseline.

A number that was not measured is NaN here and null in the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from detox_jax.evaluation import statistics
from detox_jax.evaluation.metric_names import EMT, MEAN, TP, Accuracy, Metric, ToxicityMetric
from detox_jax.evaluation.statistics import UNMEASURED, Difference, Interval
from detox_jax.evaluation.typed_json import FLAT, SPARSE


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A scorer of toxicity; scores of different fingerprints do not compare."""

    name: str
    fingerprint: str


UNKNOWN_SCORER = Scorer("unknown", "unknown")


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """A model's perplexity on held-out documents, through what steers it where something does.

    A document that holds what a method never writes has an infinite perplexity: such are counted,
    and the figures are those of the others, infinite where there are none.

    Attributes:
      value: of a token.
      words: the same likelihood spread over white-space words and document ends.
      tokens: how many were read, each end-of-text included.
      num_words: how many words they make up.
      documents: how many they are.
      impossible: documents that hold what a method never writes.
    """

    value: float
    words: float
    tokens: int
    num_words: int
    documents: int
    impossible: int = dataclasses.field(default=0, metadata=SPARSE)

    @property
    def of_all(self) -> float:
        """Of a token of all documents, which alone compares with another model's."""
        return math.inf if self.impossible else self.value

    @property
    def impossible_share(self) -> float:
        """The share of documents whose perplexity is infinite."""
        return self.impossible / max(1, self.documents + self.impossible)


@dataclasses.dataclass(frozen=True)
class ContinuationPerplexity:
    """The perplexity of at most two continuations of a prompt, the first, under a reference model.

    Attributes:
      value: of a token.
      words: the same likelihood spread over white-space words.
      tokens: how many were read.
      num_words: how many words they make up.
      reference: fingerprint of the model that read them.
    """

    value: float
    words: float
    tokens: int
    num_words: int
    reference: str


@dataclasses.dataclass(frozen=True)
class Toxicity:
    """What a scorer says of a method's continuations.

    Attributes:
      num_prompts: of the split; None where a file does not say.
      num_scored_prompts: those with a score of a continuation, over which the means are; None where
        a file does not say.
      samples_per_prompt: continuations that every prompt should have, k; None where a file does not
        say.
      num_samples: continuations, scored or not; None where a file does not say.
      num_prompts_without_score: prompts whose own toxicity is unknown.
      coverage: the share of all k continuations of all prompts that has a score.
      unreadable_fraction: the share of them that has none since the scorer cannot read its letters.
      expected_maximum_toxicity: mean over prompts of the highest score.
      toxicity_probability: share of prompts with a toxic continuation.
      mean_toxicity: over continuations.
      toxic_fraction: share of toxic continuations.
    """

    num_prompts: int | None
    num_scored_prompts: int | None
    samples_per_prompt: int | None
    num_samples: int | None
    num_prompts_without_score: int | None
    coverage: float
    unreadable_fraction: float
    expected_maximum_toxicity: Interval
    toxicity_probability: Interval
    mean_toxicity: Interval
    toxic_fraction: Interval


@dataclasses.dataclass(frozen=True)
class Quality:
    """What no scorer changes: perplexities, and how the texts are.

    Attributes:
      perplexity: of the model, where it has a checkpoint and there are held-out documents.
      continuation_perplexity: of at most the first two texts of each prompt, in every split those
        of all prompts, where there is a reference model.
      distinct: distinct n-grams of a prompt's continuations by their words, for n of 1, 2, 3.
      distinct_per_ngram: the same by their n-grams.
      self_bleu: likeness of a prompt's continuations to each other.
      empty_fraction: share of continuations without a word.
      degenerate_fraction: share of continuations that loop.
      mean_words: length of a continuation.
      mean_tokens: the same in tokens.
      early_stop_fraction: share of continuations that end by themselves.
      perplexity_undefined: why the model as it is steered has no perplexity; None where it has one,
        or where nobody asked.
      unspaced_fraction: share of continuations in scripts that put no space between words, whose
        words are not counted by any of these.
    """

    perplexity: Perplexity | None
    continuation_perplexity: ContinuationPerplexity | None
    distinct: tuple[float, ...]
    distinct_per_ngram: tuple[float, ...]
    self_bleu: float
    empty_fraction: float
    degenerate_fraction: float
    mean_words: float
    mean_tokens: float
    early_stop_fraction: float
    perplexity_undefined: str | None = dataclasses.field(default=None, metadata=SPARSE)
    unspaced_fraction: float = dataclasses.field(default=0.0, metadata=SPARSE)

    def show_perplexity(self, show: Callable[[Perplexity], str], absent: str) -> str:
        """The perplexity on held-out text, or that there is none; with what it leaves out.

        Args:
          show: makes text of a figure.
          absent: the text where nothing was measured.
        """
        of = self.perplexity
        if self.perplexity_undefined is not None:
            return "not defined"
        if of is None or not of.impossible:
            return absent if of is None else show(of)
        if not of.documents:
            return "∞"
        return f"{show(of)} (∞ on {100 * of.impossible_share:.1f} %)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one split of the prompts.

    Attributes:
      method: its name.
      corpus: what it was adapted to.
      adaptation: how.
      split: of the prompts.
      scorer: that evaluated.
      spoiled: why low toxicity is no success here, a clause each (see `soundness`).
      toxicity: by this scorer.
      quality: by none.
      accuracies: zero-shot; only of tasks that it was asked.
    """

    method: str
    corpus: str | None
    adaptation: str | None
    split: str = "full"
    scorer: Scorer = UNKNOWN_SCORER
    spoiled: tuple[str, ...] = ()
    toxicity: Toxicity = dataclasses.field(metadata=FLAT)
    quality: Quality = dataclasses.field(metadata=FLAT)
    accuracies: Mapping[Accuracy, Interval] = dataclasses.field(metadata=FLAT)

    def estimate(self, metric: Metric) -> Interval:
        """The figure of a metric; `UNMEASURED` where there is none."""
        toxicity = self.toxicity
        if metric == EMT:
            return toxicity.expected_maximum_toxicity
        if metric == TP:
            return toxicity.toxicity_probability
        if metric == MEAN:
            return toxicity.mean_toxicity
        return self.accuracies.get(metric, UNMEASURED)


@dataclasses.dataclass(frozen=True)
class Paired:
    """A method's difference to the baseline on the same prompts, or on the same questions.

    Attributes:
      method: its name.
      baseline: that of the other.
      metric: what differs.
      difference: method less baseline.
      low: end of its 95 % interval.
      high: the other end.
      p_value: two-sided.
      p_value_holm: the same, corrected for the number of comparisons.
      split: of the prompts.
      num_pairs: prompts, or questions, that both have a value of; None where a file does not say.
    """

    method: str
    baseline: str
    metric: Metric
    difference: float
    low: float
    high: float
    p_value: float
    p_value_holm: float
    split: str
    num_pairs: int | None = None

    @property
    def interval(self) -> Interval:
        """The difference with its ends."""
        return Interval(self.difference, self.low, self.high)

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is below 0.05; without one, the interval excludes zero."""
        if math.isfinite(self.p_value_holm):
            return self.p_value_holm < 0.05
        return self.interval.excludes_zero


def paired_rows(
    differences: Mapping[tuple[str, Metric], Difference], baseline: str, split: str
) -> list[Paired]:
    """Rows of differences, p-values corrected (Holm) over all of them.

    Args:
      differences: to the baseline, by method and metric.
      baseline: name of the method that the others are compared with.
      split: of the prompts.
    """
    adjusted = statistics.holm([difference.p_value for difference in differences.values()])
    return [
        Paired(
            method=method,
            baseline=baseline,
            metric=metric,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p_value=difference.p_value,
            p_value_holm=float(p_value_holm),
            split=split,
            num_pairs=difference.num_pairs,
        )
        for ((method, metric), difference), p_value_holm in zip(
            differences.items(), adjusted, strict=True
        )
    ]


@dataclasses.dataclass(frozen=True)
class Power:
    """How many prompts it takes to see an effect.

    Attributes:
      method: compared with the baseline.
      metric: that differs.
      effect: the difference to be seen.
      observed: whether it is the one that was found here.
      num_prompts: that show it with probability 0.8; None where that cannot be said.
    """

    method: str
    metric: ToxicityMetric
    effect: float
    observed: bool
    num_prompts: int | None
