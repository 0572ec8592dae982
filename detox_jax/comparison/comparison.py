"""What `compare` finds, as `comparison.json` holds it.

Of two scorers A is the reference, B the one that is read as A. A number that cannot be said is
NaN here and null in the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from detox_jax.evaluation.metric_names import RankedMetric
from detox_jax.evaluation.rows import Scorer
from detox_jax.evaluation.statistics import UNMEASURED, Difference, Interval
from detox_jax.evaluation.typed_json import FLAT, SPARSE

# --- two scorers ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of the isotonic curve.

    Attributes:
      from_: B's lowest score on it.
      to: B's highest.
      value: what A gives there on average.
      texts: how many there are.
    """

    from_: float
    to: float
    value: float
    texts: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """A tenth of B's scale.

    Attributes:
      from_: where it begins.
      texts: how many there are.
      mean_b: B's mean score of them.
      mean_a: A's.
    """

    from_: float
    texts: int
    mean_b: float
    mean_a: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How B's scores read as A's.

    Attributes:
      isotonic: steps of the increasing curve that is nearest to A's scores.
      bins: A's mean score in tenths of B's scale; empty ones are left out.
    """

    isotonic: tuple[Step, ...]
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Where B calls as many texts toxic as A does.

    Attributes:
      value: the score of B from which on a text is toxic; infinite where none is to be.
      share: of texts that are then toxic.
      agreement: with A.
      kappa: with A.
    """

    value: float
    share: float
    agreement: float
    kappa: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two scorers on the texts that both scored.

    Attributes:
      share_toxic_a: toxic for A.
      share_toxic_b: toxic for B.
      agreement: share of texts that both call the same.
      kappa: the same beyond chance.
      spearman: correlation of ranks; NaN where a scorer tells no texts apart.
      pearson: correlation; NaN there too.
      calibration: how B's scores read as A's.
      difference: root mean square of A - B.
      calibrated_difference: the same once B is read through an isotonic curve that was fitted to
        the other half of the records.
      threshold: where B calls as many texts toxic.
      records: whose texts these are, over which the intervals are; files of earlier versions do
        not say.
    """

    share_toxic_a: float
    share_toxic_b: float
    agreement: Interval
    kappa: Interval
    spearman: Interval
    pearson: Interval
    calibration: Calibration
    difference: float
    calibrated_difference: float
    threshold: Threshold
    records: int | None = dataclasses.field(default=None, metadata=SPARSE)


NO_AGREEMENT = Agreement(
    share_toxic_a=math.nan,
    share_toxic_b=math.nan,
    agreement=UNMEASURED,
    kappa=UNMEASURED,
    spearman=UNMEASURED,
    pearson=UNMEASURED,
    calibration=Calibration((), ()),
    difference=math.nan,
    calibrated_difference=math.nan,
    threshold=Threshold(math.nan, math.nan, math.nan, math.nan),
)


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two scorers on the same texts.

    Attributes:
      texts: all of them.
      scored_by_a: those with a score of A.
      scored_by_b: those with one of B.
      scored_by_both: those with both.
      agreement: on these; None where there are none.
    """

    texts: int
    scored_by_a: int
    scored_by_b: int
    scored_by_both: int
    agreement: Agreement | None = dataclasses.field(metadata=FLAT)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two scorers by name, and how they compare."""

    a: str
    b: str
    compared: Compared = dataclasses.field(metadata=FLAT)


# --- rankings ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rank:
    """A method by one scorer.

    Attributes:
      scorer: its name.
      method: its name.
      estimate: the metric.
      rank: 1 the least toxic; equal values have their mean.
      prompts: those with a score, over which the interval is; files of earlier versions do not say.
    """

    scorer: str
    method: str
    estimate: Interval = dataclasses.field(metadata=FLAT)
    rank: float
    prompts: int | None = dataclasses.field(default=None, metadata=SPARSE)


@dataclasses.dataclass(frozen=True)
class Tau:
    """Kendall's tau-b of two scorers' values."""

    a: str
    b: str
    value: float


@dataclasses.dataclass(frozen=True)
class Swap:
    """Two methods that two scorers order differently.

    Attributes:
      a: a scorer.
      b: the other.
      methods: first and second.
      difference_a: of the first to the second, by A.
      difference_b: by B.
      beyond_intervals: whether both exclude zero.
    """

    a: str
    b: str
    methods: tuple[str, ...]
    difference_a: Difference
    difference_b: Difference
    beyond_intervals: bool


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How scorers rank the methods by one metric.

    Attributes:
      ranks: one for each scorer and method.
      kendall_tau: one for each two scorers.
      swaps: methods that change places.
    """

    ranks: tuple[Rank, ...]
    kendall_tau: tuple[Tau, ...]
    swaps: tuple[Swap, ...]


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How many of a method's texts a scorer scored.

    Attributes:
      scorer: its name.
      method: its name.
      texts: all of the method's.
      scored: those with a score of this scorer.
      scored_by_all: those with a score of every scorer, which alone are ranked.
    """

    scorer: str
    method: str
    texts: int
    scored: int
    scored_by_all: int


# --- the whole --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Settings and versions, as the manifest has them."""

    settings: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several scorers on the same texts.

    Attributes:
      scorers: by the name that the user gave them.
      pairs: each two of them.
      methods: whose continuations the texts are; empty for one method, or for documents.
      rankings: of several methods, by metric.
      provenance: settings and versions.
      notes: sentences on what was cut to a common part, on methods that were decoded otherwise than
        the first, and on what could not be checked; files of earlier versions have none.
      coverage: of several methods, one for each scorer and method; nothing where all texts have all
        scores, and in files of earlier versions, which ranked whatever each scorer scored.
    """

    scorers: Mapping[str, Scorer]
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...]
    rankings: Mapping[RankedMetric, Ranking]
    provenance: Provenance
    notes: tuple[str, ...] = dataclasses.field(default=(), metadata=SPARSE)
    coverage: tuple[Coverage, ...] = dataclasses.field(default=(), metadata=SPARSE)
