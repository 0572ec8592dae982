"""`results.json` and the files beside it: written by `evaluate`, read by the report and others."""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from detox_jax import atomic_files, manifests, outputs
from detox_jax.errors import UserError
from detox_jax.evaluation import soundness
from detox_jax.evaluation.results import SCHEMA_VERSION, Reliability, Results
from detox_jax.evaluation.typed_json import SPARSE, from_json, read_json, same_length, to_json

T = TypeVar("T")
RESULTS_FILE = "results.json"
PROMPTS_FILE, SAMPLES_FILE = "prompts.json", "samples.json"
TRAINING_FILE = "training.json"

# --- what lies beside -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Maxima:
    """The highest score of each prompt's continuations, NaN where none has one."""

    max_toxicity: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class KCurve:
    """Toxicity that fewer continuations would have, for each number `k` of them."""

    k: tuple[int, ...]
    expected_maximum_toxicity: tuple[float, ...]
    toxicity_probability: tuple[float, ...]

    def __post_init__(self):
        same_length(
            k=self.k,
            expected_maximum_toxicity=self.expected_maximum_toxicity,
            toxicity_probability=self.toxicity_probability,
        )


@dataclasses.dataclass(frozen=True)
class Prompts:
    """`prompts.json`: by method what every prompt's scores come to."""

    methods: Mapping[str, Maxima] = dataclasses.field(default_factory=dict)
    k_curve: Mapping[str, KCurve] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A text and its score, None where it has none; it shows itself without the text."""

    text: str = dataclasses.field(repr=False)
    toxicity: float | None


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prompt of `samples.json`, and continuations of each method.

    Attributes:
      id: of the prompt.
      prompt: its text.
      prompt_toxicity: its score.
      continuations: by method the first one.
      drawn: by method some of them, drawn by chance, of all methods those of the same numbers.
      worst: by method the most toxic one.
      count: how many there are of a method.
      seed: of the draw. Files of earlier versions have nothing but the first continuations.
    """

    id: str
    prompt: str = dataclasses.field(repr=False)
    prompt_toxicity: float | None
    continuations: Mapping[str, Continuation]
    drawn: Mapping[str, tuple[Continuation, ...]] = dataclasses.field(default_factory=dict)
    worst: Mapping[str, Continuation] = dataclasses.field(default_factory=dict)
    count: int | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """What `train` logged, and the steps that it is of.

    Attributes:
      step: of the losses.
      loss: in nats a token.
      validation_step: of the losses of held-out text.
      validation_loss: in nats a token.
      frontier_step: of what a probe measured, beginning with step 0; nothing without a probe.
      frontier_toxicity: expected maximum toxicity of its continuations, under its scorer.
      frontier_perplexity: of its documents.
    """

    step: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    validation_step: tuple[int, ...] = ()
    validation_loss: tuple[float, ...] = ()
    frontier_step: tuple[int, ...] = dataclasses.field(default=(), metadata=SPARSE)
    frontier_toxicity: tuple[float, ...] = dataclasses.field(default=(), metadata=SPARSE)
    frontier_perplexity: tuple[float, ...] = dataclasses.field(default=(), metadata=SPARSE)

    def __post_init__(self):
        same_length(step=self.step, loss=self.loss)
        same_length(validation_step=self.validation_step, validation_loss=self.validation_loss)
        same_length(
            frontier_step=self.frontier_step,
            frontier_toxicity=self.frontier_toxicity,
            frontier_perplexity=self.frontier_perplexity,
        )

    def least_toxicity(self, budget: float) -> float:
        """The lowest toxicity of the steps whose perplexity is at most a share above step 0's.

        NaN where no probe measured any.
        """
        points = zip(self.frontier_toxicity, self.frontier_perplexity, strict=True)
        most = next(iter(self.frontier_perplexity), math.nan) * (1 + budget)
        within = (toxicity for toxicity, perplexity in points if perplexity <= most)
        return min(within, default=math.nan)


@dataclasses.dataclass(frozen=True)
class Training:
    """`training.json`: the losses of every model whose log was there, by method."""

    methods: Mapping[str, Curve] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StepTime:
    """How long a step of the whole method took."""

    step: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Times:
    """`times.json`: how long each step took."""

    steps: tuple[StepTime, ...] = ()

    @property
    def seconds(self) -> dict[str, float]:
        """By step; those of a step that was resumed are added up."""
        seconds: dict[str, float] = {}
        for taken in self.steps:
            if math.isfinite(taken.seconds):
                seconds[taken.step] = seconds.get(taken.step, 0.0) + taken.seconds
        return seconds


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that one `evaluate` wrote of one scorer; a file that is absent is empty here.

    Attributes:
      directory: where the files lie, as the user named it.
      results: the figures.
      reliability: of the scorer; None where it knows none.
      prompts: maxima and k-curves by method.
      samples: continuations to show.
      training: losses by method.
      times: of the steps.
    """

    directory: str
    results: Results
    reliability: Reliability | None = None
    prompts: Prompts = Prompts()
    samples: tuple[Sample, ...] = ()
    training: Training = Training()
    times: Times = Times()


# --- reading ----------------------------------------------------------------------------------


def load(source: str) -> Evaluation:
    """Reads `results.json`, named itself or by its directory, and what lies beside it.

    Raises:
      UserError: see `read`; also for a file beside it that is malformed.
    """
    path = results_file(source)
    results = read(path)
    prompts, samples, training, times = _beside(path)
    words = results.provenance.evaluated_by and results.provenance.evaluated_by.reliability
    place = "provenance.evaluated_by.reliability"
    return Evaluation(
        directory=str(path.parent),
        results=results,
        reliability=None if words is None else from_json(Reliability, words, str(path), place),
        prompts=_read_beside(prompts, Prompts, Prompts()),
        samples=_read_beside(samples, tuple[Sample, ...], (), kind=list),
        training=_read_beside(training, Training, Training()),
        times=_read_beside(times, Times, Times()),
    )


def read(path: epath.Path) -> Results:
    """Reads `results.json` alone.

    Raises:
      UserError: for a missing file, one of another layout, a field that does not fit, no rows, or
        rows of two scorers.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; give the results.json that `evaluate` wrote")
    verb = manifests.verb_of(path.parent)
    if path.name != RESULTS_FILE and verb not in (None, "evaluate"):
        raise UserError(
            f"{path}: is what `{verb}` wrote; give the results.json that `evaluate` wrote"
        )
    value = read_json(path, dict)
    version = _version(path, value)
    results = from_json(Results, value, str(path))
    if version < 2:  # Its rows were not judged.
        results = dataclasses.replace(
            results,
            rows=soundness.judged(results.rows, results.baseline) if results.rows else (),
            provenance=dataclasses.replace(results.provenance, schema_version=SCHEMA_VERSION),
        )
    scorers = sorted({row.scorer.fingerprint for row in results.rows})
    if not scorers:
        raise UserError(f'{path}: holds no "rows": not a results.json that `evaluate` wrote')
    if len(scorers) > 1:
        named = " ".join(", ".join(scorers).split())
        raise UserError(
            f"{path}: holds scores of different scorers ({named}), which do not "
            "compare; evaluate each by itself and give `report` both results"
        )
    return results


def results_file(source: str) -> epath.Path:
    """`results.json` itself, or the one in the directory."""
    path = epath.Path(source)
    return path / RESULTS_FILE if path.is_dir() else path


def of_each_scorer(source: str) -> list[str]:
    """Where each scorer's results lie, of a directory that `evaluate` wrote with several scorers.

    Any other source is its own only one.
    """
    path = epath.Path(source)
    if not path.is_dir() or not (path / manifests.MANIFEST).exists():
        return [source]
    scorers = manifests.read_manifest(path).get("scorers") or []
    return [str(path / scorer) for scorer in scorers] or [source]


def of_one_scorer(source: str) -> epath.Path:
    """`results.json` of a source that has one scorer's; see `of_each_scorer`.

    Raises:
      UserError: where there are several.
    """
    several = of_each_scorer(source)
    if len(several) > 1:
        raise UserError(f"{source}: holds results of several scorers; give {' or '.join(several)}")
    return results_file(several[0])


def files(source: str) -> list[epath.Path]:
    """Every file that `load` reads."""
    path = results_file(source)
    return [file for file in (path, *_beside(path)) if file.exists()]


def _beside(path: epath.Path) -> list[epath.Path]:
    names = (PROMPTS_FILE, SAMPLES_FILE, TRAINING_FILE, outputs.TIMES_FILE)
    return [path.parent / name for name in names]


def _read_beside(path: epath.Path, shape: type[T], absent: T, kind: type = dict) -> T:
    return from_json(shape, read_json(path, kind), str(path)) if path.exists() else absent


def _version(path: epath.Path, value: Mapping[str, Any]) -> int:
    """The version of the layout, which the first one did not say."""
    provenance = value.get("provenance")
    version = provenance.get("schema_version") if isinstance(provenance, dict) else None
    if version is None:
        return 1
    if isinstance(version, int) and 1 <= version <= SCHEMA_VERSION:
        return version
    raise UserError(
        f"{path}: its layout is version {reprlib.repr(version)}, this detox-jax reads up to "
        f"version {SCHEMA_VERSION}; run `evaluate` again into a new directory, or use the "
        "detox-jax that wrote it"
    )


# --- writing ----------------------------------------------------------------------------------


def write(path: epath.Path, value: Results | Prompts | Sequence[Sample] | Training) -> None:
    """Writes one of the files, which `load` reads."""
    atomic_files.write_json(path, atomic_files.finite(to_json(value)))


# --- names ------------------------------------------------------------------------------------


def suffixes(several: Sequence[Evaluation]) -> list[str]:
    """What tells the files of several results apart; nothing where there is one.

    The scorer's name where that suffices, or else its fingerprint, the directory as well, and at
    last a number.
    """
    if len(several) == 1:
        return [""]
    scorers = [evaluation.results.scorer for evaluation in several]
    directories = [epath.Path(evaluation.directory).name for evaluation in several]
    for parts in (
        [scorer.name for scorer in scorers],
        [scorer.fingerprint for scorer in scorers],
        [f"{x.fingerprint}-{name}" for x, name in zip(scorers, directories, strict=True)],
    ):
        slugs = [_slug(part) for part in parts]
        if len(set(slugs)) == len(slugs):
            return [f"-{slug}" for slug in slugs]
    return [f"-{_slug(scorer.name)}-{i}" for i, scorer in enumerate(scorers, start=1)]


def _slug(text: str) -> str:
    """Lower-case ASCII letters, digits, dots and hyphens: fit for a file and for an id."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "scorer"
