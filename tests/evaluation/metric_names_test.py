"""Names of metrics: which there are, and that the type checker knows them."""

import os
import subprocess
import sys
import typing

import pytest

from detox_jax.evaluation import metric_names
from detox_jax.evaluation.metric_names import TaskAccuracy
from tests.evaluation import results_made
from tests.import_graph import ROOT


def test_a_task_is_named_by_its_prefix():
    piqa = TaskAccuracy.of("piqa")
    assert piqa == "accuracy_piqa" and piqa.task == "piqa"
    assert TaskAccuracy("accuracy_my_own").task == "my_own"
    with pytest.raises(ValueError, match="'mean_wrods' is no metric"):
        TaskAccuracy("mean_wrods")


def test_every_metric_has_its_constant_and_its_figure():
    names = typing.get_args(metric_names.ToxicityMetric)
    assert names == metric_names.TOXICITY_METRICS
    row = results_made.made_row("base", "full", 0.5, 0.4, 10.0)
    for name in names:
        assert row.estimate(name) is getattr(row.toxicity, name)
    averages = metric_names.NINE_TASK_AVERAGE, metric_names.AVERAGE_ACCURACY
    assert typing.get_args(metric_names.AverageAccuracy) == averages
    assert not row.estimate(averages[0]).is_measured


PROGRAM = """
from detox_jax.evaluation.metric_names import EMT, TaskAccuracy
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Row

def show(results: Results, row: Row) -> None:
    row.estimate(EMT)
    row.estimate("toxicity_probability")
    results.pair(row, TaskAccuracy.of("piqa"))
    row.toxicity.expected_maximum_toxicity.value
    row.estimate("expected_maximum_toxcity")  # wrong
    results.pair(row, "nine_tasks_average")  # wrong
    results.pair(row, "accuracy_piqa")  # wrong
    row.toxicity.expected_maximum_toxcity  # wrong
    row.accuracies["accuracy_piqa"]  # wrong
"""


def test_a_misspelt_metric_is_a_type_error(tmp_path):
    """As `make types` finds it; only the lines that are marked."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)]
    # Its wrapper would ask PyPI for a later version.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment).stdout
    lines = {int(line.split(":")[1]) for line in said.splitlines() if " - error: " in line}
    wrong = {i for i, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert lines == wrong, said
