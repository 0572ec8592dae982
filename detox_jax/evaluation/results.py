"""What `evaluate` writes and the report reads: `results.json` and the files beside it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import outputs
from detox_jax.errors import UserError
from detox_jax.evaluation.statistics import Interval

RESULTS_FILE = "results.json"
EMT = "expected_maximum_toxicity"
TP = "toxicity_probability"
MEAN = "mean_toxicity"
SPLITS = ("full", "toxic", "nontoxic", "challenging")
PROMPTS_FILE, SAMPLES_FILE = "prompts.json", "samples.json"
TRAINING_FILE = "training.json"


@dataclasses.dataclass(frozen=True)
class Results:
    """What one `evaluate` wrote: the figures of one scorer.

    Attributes:
      directory: where the files lie, as the user named it.
      rows: one for each method and split, in the order of methods; the baseline is the first.
      baseline: the method that the others are compared with.
      paired: differences to the baseline by (method, split, metric).
      provenance: settings, versions, scorer and command, nested.
      prompts: maxima and k-curves by method; empty where `prompts.json` is absent.
      samples: continuations to show; empty where `samples.json` is absent.
      training: losses by method; empty where `training.json` is absent.
      times: seconds by step; empty where `times.json` is absent.
    """

    directory: str
    rows: Sequence[Mapping[str, Any]]
    baseline: str
    paired: Mapping[tuple[str, str, str], Mapping[str, Any]]
    provenance: Mapping[str, Any]
    prompts: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    training: Mapping[str, Any]
    times: Mapping[str, float]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the baseline first."""
        names = list(dict.fromkeys(row["method"] for row in self.rows))
        return sorted(names, key=lambda name: name != self.baseline)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, the full one first."""
        names = list(dict.fromkeys(row["split"] for row in self.rows))
        return sorted(names, key=lambda x: SPLITS.index(x) if x in SPLITS else len(SPLITS))

    @property
    def scorer_name(self) -> str:
        """The name of the scorer that evaluated."""
        scorer = self.rows[0].get("scorer")
        name = scorer.get("name") if isinstance(scorer, Mapping) else scorer
        return str(name or self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """The scorer that evaluated, with its version and the hash of its weights."""
        return _fingerprint(self.rows[0].get("scorer"))

    def of_split(self, split: str) -> list[Mapping[str, Any]]:
        """The rows of a split in the order of `methods`."""
        rows = {row["method"]: row for row in self.rows if row["split"] == split}
        return [rows[name] for name in self.methods if name in rows]

    def difference(self, method: str, split: str, metric: str) -> Interval | None:
        """The paired difference of a method to the baseline."""
        return interval(self.paired.get((method, split, metric)), "difference")

    def p_value_holm(self, method: str, split: str, metric: str) -> float | None:
        """The p-value of that difference, adjusted for the number of comparisons."""
        return number(mapping(self.paired.get((method, split, metric))).get("p_value_holm"))

    def is_significant(self, method: str, split: str, metric: str) -> bool:
        """Whether the adjusted p-value is below 0.05; without one, the interval excludes zero."""
        if (p_value := self.p_value_holm(method, split, metric)) is not None:
            return p_value < 0.05
        return excludes_zero(self.difference(method, split, metric))

    def filtered_by_same(self, method: str) -> bool:
        """Whether the scorer that evaluates also chose the method's training texts."""
        scorer = mapping(self.provenance.get("filtered_by")).get(method)
        return bool(scorer) and _fingerprint(scorer) == self.fingerprint


def load(source: str) -> Results:
    """Reads `results.json`, named itself or by its directory, and what lies beside it.

    Raises:
      UserError: for a missing or malformed file, no rows, or rows of two scorers.
    """
    path = results_file(source)
    if not path.exists():
        raise UserError(f"{path}: no such file; give the results.json that `evaluate` wrote")
    value = _read_json(path, dict)
    rows = _checked_rows(path, value.get("rows"))
    paired = mappings(value.get("paired"))
    prompts, samples, training, times = _beside(path)
    return Results(
        directory=str(path.parent),
        rows=rows,
        baseline=_baseline(rows, paired),
        paired={
            (str(row.get("method")), str(row.get("split")), str(row.get("metric"))): row
            for row in paired
        },
        provenance=mapping(value.get("provenance")),
        prompts=_read_json(prompts, dict) if prompts.exists() else {},
        samples=mappings(_read_json(samples, list)) if samples.exists() else [],
        training=mapping(_read_json(training, dict).get("methods")) if training.exists() else {},
        times=_seconds(_read_json(times, dict).get("steps")) if times.exists() else {},
    )


def results_file(source: str) -> epath.Path:
    """`results.json` itself, or the one in the directory."""
    path = epath.Path(source)
    return path / RESULTS_FILE if path.is_dir() else path


def of_each_scorer(source: str) -> list[str]:
    """Where each scorer's results lie, of a directory that `evaluate` wrote with several scorers.

    Any other source is its own only one.
    """
    path = epath.Path(source)
    if not path.is_dir() or not (path / outputs.MANIFEST).exists():
        return [source]
    scorers = outputs.read_manifest(path).get("scorers") or []
    return [str(path / scorer) for scorer in scorers] or [source]


def files(source: str) -> list[epath.Path]:
    """Every file that `load` reads."""
    path = results_file(source)
    return [file for file in (path, *_beside(path)) if file.exists()]


def suffixes(several: Sequence[Results]) -> list[str]:
    """What tells the files of several results apart; nothing where there is one.

    The scorer's name where that suffices, or else its fingerprint, the directory as well, and at
    last a number.
    """
    if len(several) == 1:
        return [""]
    names = [(x.scorer_name, x.fingerprint, epath.Path(x.directory).name) for x in several]
    for parts in (slice(0, 1), slice(1, 2), slice(1, 3)):
        found = [_slug("-".join(name[parts])) for name in names]
        if len(set(found)) == len(found):
            return [f"-{slug}" for slug in found]
    return [f"-{_slug(name)}-{i}" for i, (name, *_) in enumerate(names, start=1)]


def _slug(text: str) -> str:
    """Lower-case ASCII letters, digits, dots and hyphens: fit for a file and for an id."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "scorer"


def _checked_rows(path: epath.Path, rows: Any) -> list[Mapping[str, Any]]:
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path}: holds no "rows"; give the results.json that `evaluate` wrote')
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("method"), str):
            raise UserError(f'{path}: row {i} has no "method"; run `evaluate` again')
        row["split"] = str(row.get("split") or "full")
    scorers = sorted({_fingerprint(row.get("scorer")) for row in rows})
    if len(scorers) > 1:
        raise UserError(
            f"{path}: holds scores of different scorers ({', '.join(scorers)}), which do not "
            "compare; evaluate each by itself and give `report` both results"
        )
    return rows


def _baseline(rows: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]) -> str:
    """What the differences are to; without any, the method `base`, or else the first."""
    names = [row["method"] for row in rows]
    named = [str(row["baseline"]) for row in paired if row.get("baseline")]
    return next((name for name in [*named, "base"] if name in names), names[0])


def _beside(path: epath.Path) -> list[epath.Path]:
    names = (PROMPTS_FILE, SAMPLES_FILE, TRAINING_FILE, outputs.TIMES_FILE)
    return [path.parent / name for name in names]


def _read_json(path: epath.Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_bytes().decode())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    # A lone surrogate, which JSON can spell, has no UTF-8 form and no glyph; it becomes "?".
    value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value


def _seconds(steps: Any) -> dict[str, float]:
    """Seconds by step; those of a step that was resumed are added up."""
    seconds: dict[str, float] = {}
    for step in mappings(steps):
        if (took := number(step.get("seconds"))) is not None:
            name = str(step.get("step"))
            seconds[name] = seconds.get(name, 0.0) + took
    return seconds


def _fingerprint(scorer: Any) -> str:
    if isinstance(scorer, Mapping):
        return str(scorer.get("fingerprint") or scorer.get("name"))
    return str(scorer)


# --- values -----------------------------------------------------------------------------------


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a JSON list; none for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers(value: Any) -> list[float]:
    """A JSON list of numbers, NaN where an item is none; empty for anything else."""
    if not isinstance(value, list):
        return []
    return [math.nan if (x := number(item)) is None else x for item in value]


def interval(value: Any, key: str = "value") -> Interval | None:
    """An estimate with its bounds (NaN where it has none), or None where there is no estimate."""
    fields = value if isinstance(value, Mapping) else {key: value}
    if (estimate := number(fields.get(key))) is None:
        return None
    low, high = number(fields.get("low")), number(fields.get("high"))
    if low is None or high is None:
        low = high = math.nan
    return Interval(estimate, low, high)


def excludes_zero(difference: Interval | None) -> bool:
    """Whether a difference has an interval without zero in it."""
    return difference is not None and (difference.low > 0 or difference.high < 0)
