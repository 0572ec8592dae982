"""The figures of `results.json`: each method's row, differences to the baseline, groups, power."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax.evaluation import groups, metrics, scored_texts, statistics
from detox_jax.evaluation.metric_names import EMT, MEAN, TP, Metric, ToxicityMetric
from detox_jax.evaluation.perplexity_cache import HeldoutPerplexity
from detox_jax.evaluation.rows import (
    ContinuationPerplexity,
    Paired,
    Power,
    Quality,
    Toxicity,
    paired_rows,
)
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.statistics import Difference, Interval
from detox_jax.evaluation.text_quality import TextQuality
from detox_jax.records import TOXIC

POWER_EFFECTS = (0.01, 0.02, 0.05, 0.1)


@dataclasses.dataclass(frozen=True)
class Draws:
    """How prompts are resampled: `draws` times, from `seed` on."""

    draws: int
    seed: int

    def ratios(self, *ratios: tuple[np.ndarray, np.ndarray]) -> list[Interval]:
        """Of each pair of numerators and denominators, shape `P`, the ratio of their sums."""
        return statistics.bootstrap_ratios(ratios, self.draws, self.seed)

    def paired(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Difference]:
        """Of each pair of a method's values and the baseline's, shape `P`, their difference."""
        return statistics.paired_differences(pairs, self.draws, self.seed)


def toxicity(scored: Scored, draw: Draws) -> Toxicity:
    """The toxicity of a method's continuations, each figure with its 95 % interval."""
    scores_PK = scored.scores_PK
    counts_P = metrics.scored_count_per_prompt(scores_PK)
    maxima_P = metrics.maximum_toxicity(scores_PK)
    maximum, mean = draw.ratios(
        (maxima_P, np.ones_like(maxima_P)), (metrics.toxicity_sum_per_prompt(scores_PK), counts_P)
    )
    return Toxicity(
        num_prompts=len(scored.prompts),
        num_scored_prompts=int(np.sum(counts_P > 0)),
        samples_per_prompt=scored.samples_per_prompt,
        num_samples=scored.num_samples,
        num_prompts_without_score=sum(p.toxicity is None for p in scored.prompts),
        coverage=scored.coverage,
        unreadable_fraction=scored.unreadable / max(1, scored.scores_PK.size),
        expected_maximum_toxicity=maximum,
        toxicity_probability=statistics.share(metrics.any_toxic(scores_PK, TOXIC)),
        mean_toxicity=mean,
        toxic_fraction=statistics.share(metrics.toxic_count_per_prompt(scores_PK, TOXIC), counts_P),
    )


def quality(
    texts: TextQuality,
    on_heldout: HeldoutPerplexity,
    of_continuations: ContinuationPerplexity | None,
) -> Quality:
    """The figures that no scorer changes: of held-out text and of the continuations."""
    return Quality(
        perplexity=on_heldout.perplexity,
        continuation_perplexity=of_continuations,
        distinct=texts.distinct,
        distinct_per_ngram=texts.distinct_per_ngram,
        self_bleu=texts.self_bleu,
        empty_fraction=texts.empty_fraction,
        degenerate_fraction=texts.degenerate_fraction,
        mean_words=texts.mean_words,
        mean_tokens=texts.mean_tokens,
        early_stop_fraction=texts.early_stop_fraction,
        perplexity_undefined=on_heldout.undefined,
        unspaced_fraction=0.0 if math.isnan(texts.unspaced_fraction) else texts.unspaced_fraction,
    )


def _per_prompt(scored: Scored) -> dict[ToxicityMetric, np.ndarray]:
    """What the paired comparisons compare, one value a prompt."""
    return {
        EMT: metrics.maximum_toxicity(scored.scores_PK),
        TP: metrics.any_toxic(scored.scores_PK, TOXIC),
        MEAN: metrics.mean_toxicity_per_prompt(scored.scores_PK),
    }


def paired(scored: Mapping[str, Scored], baseline: str, draw: Draws) -> list[Paired]:
    """Differences to the baseline on the same prompts; p-values corrected over all of a split."""
    reference = _per_prompt(scored[baseline])
    values = {name: _per_prompt(method) for name, method in scored.items() if name != baseline}
    rows = []
    for split, mask in scored_texts.splits(scored[baseline].prompts).items():
        pairs: dict[tuple[str, Metric], tuple[np.ndarray, np.ndarray]] = {
            (name, metric): (values_P[mask], reference[metric][mask])
            for name in values
            for metric, values_P in values[name].items()
        }
        differences = dict(zip(pairs, draw.paired([*pairs.values()]), strict=True))
        rows += paired_rows(differences, baseline, split)
    return rows


def by_group(
    scored: Mapping[str, Scored], group_by: Sequence[str], draw: Draws
) -> dict[str, tuple[Any, ...]]:
    """The figures by group, and the largest gaps; nothing where nobody asked."""

    def mean(values_P: np.ndarray) -> Interval:
        return draw.ratios((values_P, np.ones_like(values_P)))[0]

    rows, gaps = [], []
    for by in group_by:
        masks = groups.masks(scored_texts.labels(scored, by))
        for name, method in scored.items():
            rows += groups.rows(name, by, masks, method.scores_PK, mean)
            gaps += groups.gaps(name, by, masks, method.scores_PK)
    return {"groups": tuple(rows), "gaps": tuple(gaps)}


def power(scored: Mapping[str, Scored], baseline: str) -> list[Power]:
    """Prompts that show a difference, of a given size and of the size found, with power 0.8."""
    reference = _per_prompt(scored[baseline])
    rows = []
    for name, method in scored.items():
        if name == baseline:
            continue
        for metric, values_P in _per_prompt(method).items():
            differences_P = values_P - reference[metric]
            present_P = differences_P[~np.isnan(differences_P)]
            observed = float(np.mean(present_P)) if present_P.size else 0.0
            for effect in (*POWER_EFFECTS, observed):
                possible = effect != 0 and present_P.size > 1
                needed = statistics.prompts_needed(present_P, effect) if possible else None
                rows.append(Power(name, metric, effect, effect == observed, needed))
    return rows
