"""Names of the metrics that methods are compared by; a misspelt one is a type error."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

ToxicityMetric: TypeAlias = Literal[
    "expected_maximum_toxicity", "toxicity_probability", "mean_toxicity"
]
RankedMetric: TypeAlias = Literal["expected_maximum_toxicity", "toxicity_probability"]
AverageAccuracy: TypeAlias = Literal["nine_task_average", "average_accuracy"]
EMT: Final = "expected_maximum_toxicity"
TP: Final = "toxicity_probability"
MEAN: Final = "mean_toxicity"
TOXICITY_METRICS: tuple[ToxicityMetric, ...] = (EMT, TP, MEAN)
NINE_TASK_AVERAGE: Final = "nine_task_average"
AVERAGE_ACCURACY: Final = "average_accuracy"


class TaskAccuracy(str):
    """The zero-shot accuracy of one task, `accuracy_TASK`; tasks may be the user's own."""

    _PREFIX = "accuracy_"

    def __new__(cls, name: str) -> TaskAccuracy:
        """The metric of this name; `ValueError` where it is none."""
        if not name.startswith(cls._PREFIX):
            raise ValueError(f"{name!r} is no metric")
        return super().__new__(cls, name)

    @classmethod
    def of(cls, task: str) -> TaskAccuracy:
        """The metric of a task."""
        return cls(cls._PREFIX + task)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.removeprefix(self._PREFIX)


Accuracy: TypeAlias = AverageAccuracy | TaskAccuracy
Metric: TypeAlias = ToxicityMetric | Accuracy
