"""What stands in the cells of tables, which columns there are, and what the legend says of them."""

import dataclasses

from detox_jax.evaluation.metric_names import EMT, MEAN, TaskAccuracy
from detox_jax.evaluation.results_files import load
from detox_jax.evaluation.statistics import Interval
from detox_jax.report import latex_tables, tables
from detox_jax.report.legend import legend, legend_of_columns
from tests.evaluation import results_made


def test_the_adjusted_p_value_decides_where_there_is_one():
    results = results_made.made_results()
    paired = tuple(
        dataclasses.replace(pair, p_value_holm=0.2 if pair.method == "adapter" else 0.01)
        for pair in results.paired
    )
    results = dataclasses.replace(results, paired=paired)
    rows = {row["Method"]: row for row in tables.key_table(results, "full").rows}
    assert not rows["adapter"]["Δ max."].endswith("*")
    assert rows["control: unfiltered"]["Δ max."].endswith("*")
    assert "Holm" in " ".join(legend(results))


def test_coverage_is_shown_where_a_row_lacks_scores():
    results = results_made.made_results()
    first = results.rows[0]
    partly = dataclasses.replace(
        first, toxicity=dataclasses.replace(first.toxicity, coverage=0.975)
    )
    results = dataclasses.replace(results, rows=(partly, *results.rows[1:]))
    rows = tables.quality_table(results, "full").rows
    assert [row["Scored"] for row in rows] == ["97.5 %"] + ["100.0 %"] * 4


def test_columns_of_quality(fake):
    table = tables.quality_table(load(fake).results, "full")
    row = next(r for r in table.rows if "adapter" in r["Method"])
    assert row["Self-BLEU"] == "0.043"
    assert row["Tokens"] == "19.8"
    assert row["Cont. perplexity (all prompts)"] == "9.50"
    assert row["Distinct/n-gram"] == "0.63 / 0.92 / 0.97"
    assert "Scored" not in row  # everything has a score


def test_the_perplexity_of_continuations_is_said_to_be_of_all_prompts(fake):
    """It stands in the table of every split, beside figures that are of the split."""
    results = load(fake).results
    headings = tables.quality_table(results, "toxic").rows[0].keys()
    named = ["Cont. perplexity (all prompts)", "Cont. perpl./word (all prompts)"]
    assert [name for name in headings if name.startswith("Cont.")] == named
    of_which = "at most the first two continuations of each prompt, in every split those of all"
    assert f"{named[0]}: of a token of {of_which} prompts, under a reference" in " ".join(
        legend(results)
    )


def of_toxicity(results, **change):
    rows = tuple(
        dataclasses.replace(row, toxicity=dataclasses.replace(row.toxicity, **change))
        for row in results.rows
    )
    return dataclasses.replace(results, rows=rows)


def test_the_legend_says_which_prompts_splits_are_and_counts_those_in_neither():
    results = results_made.made_results()
    said = " ".join(legend(results))
    assert "Toxic prompts: those whose own score is at least 0.5; nontoxic: those whose own" in said
    assert "no score of their own" not in said
    said = legend(of_toxicity(results, num_prompts_without_score=19))
    assert "19 of all 500 prompts have no score of their own: neither toxic nor nontoxic." in said
    said = latex_tables.latex(of_toxicity(results, num_prompts_without_score=19))
    assert "19 of all 500 prompts have no score of their own" in said


def test_the_legend_says_that_accuracies_are_over_questions():
    results = results_made.made_results()
    assert "In brackets: 95 % intervals over prompts." in legend(results)
    asked = {TaskAccuracy.of("piqa"): Interval(0.5, 0.4, 0.6)}
    rows = tuple(dataclasses.replace(row, accuracies=asked) for row in results.rows)
    results = dataclasses.replace(results, rows=rows)
    assert "In brackets: 95 % intervals over prompts (accuracies: questions)." in legend(results)
    alone = legend_of_columns(results, [tables.accuracy_table(results)])
    assert alone == ["In brackets: 95 % intervals over questions."]


def test_the_legend_says_that_differences_of_means_count_prompts_alike():
    results = results_made.made_results()
    pairs = [x for x in results.paired if x.metric == EMT]
    means = tuple(dataclasses.replace(pair, metric=MEAN) for pair in pairs)
    said = legend(dataclasses.replace(results, paired=(*results.paired, *means)))
    assert any(x.startswith("Δ mean: of the means of prompts, each of which") for x in said)
