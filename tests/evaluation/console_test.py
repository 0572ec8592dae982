"""What `evaluate` prints beside its table."""

import dataclasses

import pytest

from detox_jax.evaluation import console
from tests.evaluation.results_made import made_results


@pytest.mark.parametrize(("prompts", "is_said"), [(19, True), (20, False)])
def test_few_prompts_are_said(prompts, is_said, capsys):
    results = made_results()
    rows = tuple(
        dataclasses.replace(
            row, toxicity=dataclasses.replace(row.toxicity, num_scored_prompts=prompts)
        )
        for row in results.rows
    )
    console.print_table(dataclasses.replace(results, rows=rows))
    assert ("Below 20 prompts" in capsys.readouterr().out) == is_said
