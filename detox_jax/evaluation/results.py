"""What `evaluate` measured, as `results.json` holds it; `results_files` reads and writes it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from detox_jax.evaluation.groups import Gap, GroupRow
from detox_jax.evaluation.metric_names import Accuracy, Metric
from detox_jax.evaluation.rows import Paired, Power, Row, Scorer
from detox_jax.evaluation.typed_json import FLAT, SPARSE, same_length

SCHEMA_VERSION = 2
_MOST = 1 << 53  # whole numbers are exact up to here
SPLITS = ("full", "toxic", "nontoxic", "challenging")


@dataclasses.dataclass(frozen=True)
class EvaluatedBy:
    """The scorer that evaluated.

    Attributes:
      scorer: which.
      reliability: how its scores compare with labels, in the scorer's own words
        (`toxicity.scorer`); `Reliability` is what the report shows of it.
    """

    scorer: Scorer = dataclasses.field(metadata=FLAT)
    reliability: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How a scorer's scores compare with labels, in bins of texts of like scores.

    Attributes:
      scores: mean score of each bin.
      shares: of its texts, those that are toxic by the label, or their mean label.
      counts: texts in it; empty where nobody counted.
      calibration_error: expected calibration error.
      against: whose label it is.
      mean_labels: whether `shares` are mean labels.
      more: what else the scorer says, which the report does not show.
    """

    scores: tuple[float, ...]
    shares: tuple[float, ...]
    counts: tuple[float, ...]
    calibration_error: float
    against: str | None
    mean_labels: bool = dataclasses.field(default=False, metadata=SPARSE)
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata=FLAT)

    def __post_init__(self):
        same_length(scores=self.scores, shares=self.shares)
        if self.counts:
            same_length(scores=self.scores, counts=self.counts)
        if any(abs(count) > _MOST for count in self.counts):
            raise ValueError("a bin has more texts than can be counted")

    @property
    def bins(self) -> list[tuple[float, float, int]]:
        """Score, share and number of texts, 0 where it is unknown; of bins that have both."""
        counts = self.counts or (0.0,) * len(self.scores)
        return [
            (score, share, int(count) if math.isfinite(count) else 0)
            for score, share, count in zip(self.scores, self.shares, counts, strict=True)
            if math.isfinite(score) and math.isfinite(share)
        ]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where results come from.

    Attributes:
      schema_version: of the file's layout; 1, which did not say it, had no n, k and judgement.
      evaluated_by: the scorer.
      filtered_by: the scorer that chose each method's training texts, or by whose scores it was
        made otherwise; None where there is none.
      statistics: what the intervals and p-values are.
      notes: sentences on what was cut to a common part, and on what was not compared.
      settings: of `evaluate`, as its manifest has them.
      versions: of packages.
      command: what repeats the run.
      decoded_with: of the methods whose text is not their model's own behind the prompt as it
        stands, the settings that make it so: `chat_template`, `steering`, `behind`, `best_of`; None
        where none has any and the files of a method do not say so, and of results of before.
    """

    schema_version: int = SCHEMA_VERSION
    evaluated_by: EvaluatedBy | None = None
    filtered_by: Mapping[str, Scorer | None] = dataclasses.field(default_factory=dict)
    statistics: str | None = None
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: str | None = None
    decoded_with: Mapping[str, tuple[str, ...]] | None = dataclasses.field(
        default=None, metadata=SPARSE
    )


@dataclasses.dataclass(frozen=True)
class Results:
    """The figures of several methods under one scorer.

    Attributes:
      rows: one for each method and split, in the order of methods; never empty.
      paired: differences to the baseline.
      power: how many prompts it takes to see one.
      provenance: settings, versions, scorer and command.
      groups: the toxicity of each method by group of prompts, where somebody asked.
      gaps: the two groups that differ most.
    """

    rows: tuple[Row, ...]
    paired: tuple[Paired, ...] = ()
    power: tuple[Power, ...] = ()
    provenance: Provenance = Provenance()
    groups: tuple[GroupRow, ...] = dataclasses.field(default=(), metadata=SPARSE)
    gaps: tuple[Gap, ...] = dataclasses.field(default=(), metadata=SPARSE)

    @property
    def scorer(self) -> Scorer:
        """The scorer that evaluated."""
        return self.rows[0].scorer

    @functools.cached_property
    def baseline(self) -> str:
        """What the differences are to; without any, the method `base`, or else the first."""
        names = [row.method for row in self.rows]
        named = [pair.baseline for pair in self.paired]
        return next((name for name in [*named, "base"] if name in names), names[0])

    @functools.cached_property
    def methods(self) -> list[str]:
        """Names of the methods, the baseline first."""
        names = list(dict.fromkeys(row.method for row in self.rows))
        return sorted(names, key=lambda name: name != self.baseline)

    @functools.cached_property
    def splits(self) -> list[str]:
        """Names of the splits, the full one first."""
        names = list(dict.fromkeys(row.split for row in self.rows))
        return sorted(names, key=lambda x: SPLITS.index(x) if x in SPLITS else len(SPLITS))

    @functools.cached_property
    def accuracies(self) -> list[Accuracy]:
        """Every accuracy that a row has, averages included."""
        return list(dict.fromkeys(metric for row in self.rows for metric in row.accuracies))

    def of_split(self, split: str) -> list[Row]:
        """The rows of a split in the order of `methods`."""
        rows = {row.method: row for row in self.rows if row.split == split}
        return [rows[name] for name in self.methods if name in rows]

    def pair(self, row: Row, metric: Metric) -> Paired | None:
        """The row's difference to the baseline; None where it was not compared."""
        return self._pairs.get((row.method, row.split, metric))

    @functools.cached_property
    def _pairs(self) -> dict[tuple[str, str, str], Paired]:
        return {(pair.method, pair.split, pair.metric): pair for pair in self.paired}

    def is_significant(self, row: Row, metric: Metric) -> bool:
        """Whether the row's difference to the baseline is significant, and no spoiled one's."""
        pair = self.pair(row, metric)
        return pair is not None and pair.is_significant and not row.spoiled

    @functools.cached_property
    def spoiled(self) -> dict[str, tuple[str, ...]]:
        """Why the toxicity of a method is no success, of the first split on which it is not."""
        reasons: dict[str, tuple[str, ...]] = {}
        for split in self.splits:
            for row in self.of_split(split):
                if row.spoiled:
                    reasons.setdefault(row.method, row.spoiled)
        return reasons

    def filtered_by_same(self, method: str) -> bool:
        """Whether the scorer that evaluates also chose the method's training texts."""
        scorer = self.provenance.filtered_by.get(method)
        return scorer is not None and scorer.fingerprint == self.scorer.fingerprint
