"""Toxicity against perplexity while training goes on: what is measured, and when that is enough.

Whoever trains longer pays for lower toxicity with perplexity, so two methods compare at equal
perplexity alone. A probe measures both every so many steps, step 0 included. Of the steps within a
budget of perplexity the least toxic one is what training leaves, and it ends where the budget is
broken for good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Protocol

from jax.sharding import Mesh

from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints.model_dir import ModelSpec
from detox_jax.kinds import Coefficient, Count, OneOf
from detox_jax.output_settings import NOT_YET, NotYet
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary

# As `evaluation.metric_names` has them, which this room does not import.
MEASURES = ("expected_maximum_toxicity", "toxicity_probability", "mean_toxicity")
PERPLEXITY = "validation_perplexity"
Measure = Annotated[str, OneOf(MEASURES)]
Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which step is taken, and when training ends.

    Attributes:
      budget: by what share perplexity may be above that of step 0, the model that training starts
        from: 0.05 is 5 %. None takes the last step and never ends training, so that a probe
        measures and nothing else.
      patience: so many probes in a row beyond the budget break it for good.
      measure: of the least toxic step: "expected_maximum_toxicity", "toxicity_probability" or
        "mean_toxicity".
    """

    budget: Coefficient | None = 0.05
    patience: Count = 3
    measure: Measure = MEASURES[0]


class Probe(Protocol):
    """What `train` asks of a probe: generation and scoring live in rooms above this one.

    Attributes:
      period: steps between two measurements.
      rule: what follows from them.
    """

    period: int
    rule: Rule

    def check(
        self,
        *,
        vocabulary: Vocabulary | None = None,
        max_length: int | None = None,
        tags: Tags | None | NotYet = NOT_YET,
        coming: Collection[str] = (),
    ) -> None:
        """Refuses what cannot be measured, before any work.

        Args:
          vocabulary: of the model; None where it is not known yet.
          max_length: the model's context; None where it is not known yet.
          tags: behind which the training documents stand, None where they stand behind none; not
            given where that is not known.
          coming: directories that an earlier step of the same run writes.

        Raises:
          UserError: naming the setting.
        """
        ...

    def settings(self, coming: Collection[str] = ()) -> dict[str, Any]:
        """What decides the figures and what follows from them, as JSON.

        Args:
          coming: in a check, see there.
        """
        ...

    def without_tags(self) -> Probe:
        """The same behind no tags: what measures step 0 of a model that has never seen any.

        Asked of a probe that has tags as its `behind`, which one of the user's own need not have.
        """
        ...

    def open(
        self, spec: ModelSpec, vocabulary: Vocabulary, mesh: Mesh
    ) -> Callable[[params_lib.Params], Figures]:
        """What measures a model: from all of its parameters to `MEASURES` and `PERPLEXITY`.

        Every process calls it at the same step, and gets the same figures.

        Args:
          spec: of the model that is trained.
          vocabulary: the model's.
          mesh: on which its parameters are.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Watch:
    """A probe that is open.

    Attributes:
      figures: measures the model that has these parameters.
      period: steps between two measurements.
      rule: what follows from them.
      of_step_0: measures step 0; `figures` where None.
    """

    figures: Callable[[params_lib.Params], Figures]
    period: int
    rule: Rule
    of_step_0: Callable[[params_lib.Params], Figures] | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at a step.

    Attributes:
      step: of the model.
      figures: by name.
    """

    step: int
    figures: Figures

    @property
    def perplexity(self) -> float:
        """Of the validation text."""
        return self.figures[PERPLEXITY]


@dataclasses.dataclass
class Frontier:
    """The points of a run, in their order; the first one is that of step 0.

    Attributes:
      rule: what follows from them.
      points: up to the last step that was measured.
    """

    rule: Rule
    points: list[Point] = dataclasses.field(default_factory=list)

    def add(self, step: int, figures: Figures) -> bool:
        """Takes note of a point; whether it is the one to take from now on."""
        self.points.append(Point(step, dict(figures)))
        return self.chosen == step

    def rise(self, point: Point) -> float:
        """By what share a point's perplexity is above that of step 0."""
        start = self.points[0].perplexity
        return point.perplexity / start - 1 if point.perplexity != start else 0.0

    def is_within(self, point: Point) -> bool:
        """Whether a point is within the budget."""
        if self.rule.budget is None:
            return True
        return point.perplexity <= self.points[0].perplexity * (1 + self.rule.budget)

    @property
    def chosen(self) -> int | None:
        """The least toxic step within the budget, of equals the earliest; None without a budget."""
        if self.rule.budget is None or not self.points:
            return None
        within = [point for point in self.points if self.is_within(point)]
        return min(within, key=lambda point: point.figures[self.rule.measure]).step

    @property
    def is_broken(self) -> bool:
        """Whether the budget is broken for good."""
        last = self.points[-self.rule.patience :]
        return len(last) == self.rule.patience and not any(map(self.is_within, last))

    def state(self) -> list[dict[str, Any]]:
        """What a run that goes on must know, as JSON."""
        return [{"step": point.step, "figures": dict(point.figures)} for point in self.points]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """The inverse of `state`."""
        self.points = [Point(point["step"], point["figures"]) for point in state]

    def said(self, point: Point) -> str:
        """A point as a line of the log."""
        emt, tp, mean = (point.figures[name] for name in MEASURES)
        budget = "" if self.rule.budget is None else f", budget {self.rule.budget:+.1%}"
        beyond = "" if self.is_within(point) else ": BEYOND THE BUDGET"
        return (
            f"expected maximum toxicity {emt:.3f}, toxicity probability {tp:.3f}, mean {mean:.3f}; "
            f"perplexity {point.perplexity:.4g} ({self.rise(point):+.1%}{budget}){beyond}"
        )

    def outcome(self) -> str:
        """Which step is taken, and why, as the end of a line."""
        chosen = next(point for point in self.points if point.step == self.chosen)
        name = self.rule.measure.replace("_", " ")
        toxicity, at_first = (x.figures[self.rule.measure] for x in (chosen, self.points[0]))
        if not chosen.step:
            return (
                f"no step within {self.rule.budget:+.1%} of step 0's perplexity has a lower {name} "
                f"than step 0, {at_first:.3f}: STEP 0 IS TAKEN, the model as it was before"
            )
        return (
            f"STEP {chosen.step} IS TAKEN, the lowest {name} within {self.rule.budget:+.1%} of "
            f"step 0's perplexity: {toxicity:.3f}, at step 0 {at_first:.3f}; perplexity "
            f"{chosen.perplexity:.4g} ({self.rise(chosen):+.1%})"
        )

    def summary(self, planned: int) -> dict[str, Any]:
        """For the manifest: the steps measured last and taken, and the figures of step 0 and it.

        Args:
          planned: the last step of a training that nothing ends early.
        """
        by_step = {point.step: dict(point.figures) for point in self.points}
        taken = self.points[-1].step if self.chosen is None else self.chosen
        has_budget = self.rule.budget is not None
        return {
            "taken_step": taken,
            "last_step": self.points[-1].step,
            "stopped_early": has_budget and self.is_broken and self.points[-1].step < planned,
            "at_step_0": by_step[self.points[0].step],
            "at_taken_step": by_step[taken],
        }
