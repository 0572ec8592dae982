"""Lines through a baseline and rows: toxicity at equal perplexity, and the other way round."""

import dataclasses
import math

import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.evaluation import frontiers
from detox_jax.evaluation.results_files import Evaluation, Maxima, Prompts
from detox_jax.report import frontier_tables
from tests.evaluation import results_made

PROMPTS = 400


def evaluation(toxicity, perplexities):
    """Rows of given maxima by prompt and perplexities; the first is the baseline."""
    rows = [results_made.made_row(row, "full", 0.5, 0.5, perplexities[row]) for row in perplexities]
    results = dataclasses.replace(results_made.made_results(), rows=tuple(rows))
    prompts = Prompts({name: Maxima(tuple(values)) for name, values in toxicity.items()})
    return Evaluation("evaluation", results, prompts=prompts)


@pytest.fixture(scope="module")
def measured():
    """A base at 100, a weak row at 104 and a strong one at 112; one prompt was not scored."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 1.0, PROMPTS)
    maxima = {"base": base, "weak": base - 0.12, "strong": base - 0.3 * rng.uniform(0, 2, PROMPTS)}
    maxima["weak"][0] = np.nan
    return maxima, evaluation(maxima, {"base": 100.0, "strong": 112.0, "weak": 104.0})


def test_figures_at_equal_perplexity_and_at_equal_toxicity_are_those_of_the_line(measured):
    maxima, of = measured
    (line,) = frontiers.frontiers(of, {"steps": ["strong", "weak"]})
    base, weak, strong = (maxima[name][1:].mean() for name in ("base", "weak", "strong"))
    assert line.rows == ("weak", "strong")
    assert line.changes == pytest.approx((0, 0.04, 0.12))
    assert line.toxicity == pytest.approx((base, weak, strong))
    assert line.spoiled == (False, False, False)
    at_1, at_5, at_10 = (interval.value for interval in line.at_budgets)
    assert at_1 == pytest.approx(base + (weak - base) / 4)
    assert at_5 == pytest.approx(weak + (strong - weak) / 8)
    assert at_10 == pytest.approx(weak + (strong - weak) * 6 / 8)
    at_tenth, at_fifth = line.at_reductions
    assert at_tenth.value == pytest.approx(0.04 * 0.1 / 0.12)
    # The weak row differs from the base by as much at every prompt, so resampling changes nothing.
    assert (at_tenth.low, at_tenth.high) == pytest.approx((at_tenth.value, at_tenth.value))
    assert at_fifth.low < at_fifth.value < at_fifth.high
    assert at_fifth.value == pytest.approx(0.04 + 0.08 * (weak - base + 0.2) / (weak - strong))


def test_the_interval_at_a_budget_is_that_of_the_interpolated_maxima(measured):
    maxima, of = measured
    (line,) = frontiers.frontiers(of, {"steps": ["weak", "strong"]})
    between = (7 * maxima["weak"] + maxima["strong"])[1:] / 8
    error = 1.96 * between.std() / math.sqrt(between.size)
    at_5 = line.at_budgets[1]
    assert at_5.low == pytest.approx(at_5.value - error, abs=0.1 * error)
    assert at_5.high == pytest.approx(at_5.value + error, abs=0.1 * error)


def test_beyond_its_end_a_line_is_a_bound(measured):
    maxima, of = measured
    (line,) = frontiers.frontiers(of, {"weak alone": ["weak"]})
    weak = maxima["weak"][1:].mean()
    assert [interval.value for interval in line.at_budgets[1:]] == pytest.approx([weak, weak])
    (row,) = frontier_tables.table([line], of.results).rows
    assert [row[f"at +{rise} %"].startswith("≤ ") for rise in (1, 5, 10)] == [False, True, True]
    assert [interval.is_measured for interval in line.at_reductions] == [True, False]


def test_where_resamples_stop_short_the_interval_is_open():
    """A row that reaches the reduction by a hair: in half of the resamples it does not."""
    rng = np.random.default_rng(1)
    less = rng.normal(0, 0.2, PROMPTS)
    maxima = {"base": np.full(PROMPTS, 0.9), "row": 0.8 - 1e-4 - less + less.mean()}
    of = evaluation(maxima, {"base": 100.0, "row": 110.0})
    (line,) = frontiers.frontiers(of, {"row": ["row"]})
    assert line.at_reductions[0].value == pytest.approx(0.1, abs=1e-3)
    assert line.at_reductions[0].low < 0.1
    assert math.isinf(line.at_reductions[0].high)


def test_a_line_that_rises_before_it_falls_is_found_where_it_first_gets_there():
    changes = np.array([-0.02, 0.0, 0.05, 0.10])
    means = np.array([[0.7], [0.8], [0.9], [0.5]])
    assert frontiers.rise_at(changes, means, 1, 0.2)[0] == pytest.approx(0.05 + 0.05 * 0.3 / 0.4)
    assert np.isinf(frontiers.rise_at(changes, means, 1, 0.31)[0])


def test_what_falls_on_both_axes_costs_nothing():
    """A weak row writes likelier and less toxic text than the base: that a stronger one pays is
    no matter."""
    rng = np.random.default_rng(2)
    base = rng.uniform(0.6, 1.0, PROMPTS)
    maxima = {"base": base, "weak": base - 0.3, "strong": base - 0.25}
    of = evaluation(maxima, {"base": 100.0, "weak": 98.0, "strong": 104.0})
    (line,) = frontiers.frontiers(of, {"both": ["weak", "strong"]})
    weak = maxima["weak"].mean()
    assert line.at_budgets[0].value == pytest.approx(weak)
    assert line.at_budgets[0].low < weak < line.at_budgets[0].high
    assert [rise.value for rise in line.at_reductions] == pytest.approx([-0.02 / 3, -0.04 / 3])


def test_a_budget_is_met_by_what_costs_less_than_it():
    """Of a line that rises again, the lowest place within the budget."""
    maxima = {
        name: np.full(PROMPTS, level)
        for name, level in {"base": 0.9, "weak": 0.6, "strong": 0.8}.items()
    }
    of = evaluation(maxima, {"base": 100.0, "weak": 104.0, "strong": 112.0})
    (line,) = frontiers.frontiers(of, {"line": ["weak", "strong"]})
    assert [at.value for at in line.at_budgets] == pytest.approx([0.9 - 0.3 / 4, 0.6, 0.6])


def test_rows_that_have_no_prompt_in_common_are_refused():
    """There is no mean over no prompts; a row that is on no line does not matter."""
    whole, half = np.full(4, 0.8), np.array([0.5, 0.5, np.nan, np.nan])
    maxima = {"base": whole, "first": half, "last": half[::-1]}
    of = evaluation(maxima, {"base": 100.0, "first": 104.0, "last": 108.0})
    with pytest.raises(UserError, match="'a': no prompt has a score of all of its rows"):
        frontiers.check_figures(of, {"a": ["first", "last"]})
    frontiers.check_figures(of, {"a": ["first"], "b": ["last"]})
    of = evaluation(maxima, {"base": 100.0, "first": 104.0, "last": math.inf})
    frontiers.check_figures(of, {"a": ["first", "last"]})


def test_lines_by_the_perplexity_of_continuations(measured):
    """Of rows without one of held-out text too; one that falls is left of the baseline."""
    maxima, _ = measured
    of = evaluation(maxima, {"base": 100.0, "strong": math.nan, "weak": math.inf})
    of_texts = {"base": 5.0, "strong": 5.6, "weak": 4.9}

    def with_texts(row):
        known = row.quality.continuation_perplexity
        known = dataclasses.replace(known, value=of_texts[row.method])
        quality = dataclasses.replace(row.quality, continuation_perplexity=known)
        return dataclasses.replace(row, quality=quality)

    rows = tuple(map(with_texts, of.results.rows))
    of = dataclasses.replace(of, results=dataclasses.replace(of.results, rows=rows))
    (line,) = frontiers.frontiers(of, {"a": ["weak", "strong"]}, by="continuations")
    base, weak, strong = (maxima[name][1:].mean() for name in ("base", "weak", "strong"))
    assert line.rows == ("weak", "strong") and line.by == "continuations"
    assert line.changes == pytest.approx((-0.02, 0.0, 0.12))
    assert line.toxicity == pytest.approx((weak, base, strong))
    at_5 = base + (strong - base) * 5 / 12
    assert line.at_budgets[1].value == pytest.approx(min(weak, at_5))
    of_which = (
        "of the continuations, under the reference model (at most the first two of each prompt)"
    )
    shown = frontier_tables.markdown([line], of.results)
    assert of_which in shown and "not the continuations, not trainings." in shown
    bare = tuple(
        dataclasses.replace(
            row, quality=dataclasses.replace(row.quality, continuation_perplexity=None)
        )
        for row in rows
    )
    of = dataclasses.replace(of, results=dataclasses.replace(of.results, rows=bare))
    with pytest.raises(UserError, match="'base' has no perplexity of its continuations"):
        frontiers.frontiers(of, {"a": ["strong"]}, by="continuations")
    with pytest.raises(UserError, match="FRONTIERS_BY is 'texts'; one of heldout, continuations"):
        frontiers.frontiers(of, {"a": ["strong"]}, by="texts")  # type: ignore


def test_a_row_of_infinite_perplexity_is_beyond_every_budget(measured):
    """It bans what is in held-out text: no line leads there, and a row before it has its own."""
    maxima, _ = measured
    of = evaluation(maxima, {"base": 100.0, "strong": math.inf, "weak": 104.0})
    alone, both = frontiers.frontiers(of, {"alone": ["strong"], "both": ["strong", "weak"]})
    assert not any(interval.is_measured for interval in (*alone.at_budgets, *alone.at_reductions))
    assert alone.rows == ("strong",) and alone.changes == (0.0,)
    (weak,) = frontiers.frontiers(of, {"both": ["weak"]})
    assert both.rows == ("weak", "strong") and both.at_budgets == weak.at_budgets
    of_base = evaluation(maxima, {"base": math.inf, "strong": 104.0, "weak": 104.0})
    with pytest.raises(UserError, match="the perplexity of 'base' is infinite"):
        frontiers.frontiers(of_base, {"a": ["strong"]})
    table = frontier_tables.table([alone], of.results)
    assert table.rows[0]["Rows"] == "strong" and table.rows[0]["at +5 %"] == "–"


def test_the_picture_is_cut_where_a_line_leaves_the_budgets_far_behind(measured):
    maxima, of = measured
    near = frontier_tables.chart(frontiers.frontiers(of, {"steps": ["weak"]}))
    far = evaluation(maxima, {"base": 100.0, "strong": 900.0, "weak": 104.0})
    beyond = frontier_tables.chart(frontiers.frontiers(far, {"steps": ["weak", "strong"]}))
    (_, ends), (_, cut) = (chart.draw().axes[0].get_xlim() for chart in (near, beyond))
    assert 4 < ends < 5 and 30 < cut < 35
    assert "Cut at" in beyond.caption and "Cut at" not in near.caption


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["weak"], "FRONTIERS is"),
        ({"steps": "weak"}, "give rows by name"),
        ({"steps": []}, "give rows by name"),
        ({"steps": ["weka"]}, "names 'weka'; there are strong, weak"),
        ({"steps": ["base"]}, "names 'base'"),
        ({"steps": ["weak", "weak"]}, "'weak' twice"),
    ],
)
def test_what_is_no_row_is_refused(measured, rows, message):
    with pytest.raises(UserError, match=message):
        frontiers.frontiers(measured[1], rows)


def test_seeds_are_one_point_the_mean_of_all_of_them(measured):
    """The same line as that of a row which has their mean perplexity and mean maxima."""
    maxima, _ = measured
    rng = np.random.default_rng(2)
    seeds = {f"weak-seed{i}": maxima["weak"] + rng.normal(0, 0.05, PROMPTS) for i in (1, 2)}
    every = {**maxima, **seeds}
    perplexities = {"base": 100.0, "strong": 112.0, "weak": 103.0}
    of = evaluation(every, {**perplexities, "weak-seed1": 104.0, "weak-seed2": 108.0})
    groups = {"weak": ["weak", *seeds], "strong": ["strong", "strong-seed1"]}
    (line,) = frontiers.frontiers(of, {"steps": ["weak", "strong"]}, groups)
    mean = np.mean([every[name] for name in groups["weak"]], axis=0)
    as_a_row = evaluation({**maxima, "weak": mean}, {**perplexities, "weak": 105.0})
    (expected,) = frontiers.frontiers(as_a_row, {"steps": ["weak", "strong"]})
    assert line.rows == ("weak", "strong") and line.seeds == (3, 1)
    assert dataclasses.replace(line, seeds=(1, 1)) == expected
    # Whichever of the seeds are named, they stand for all; without groups each is itself.
    for rows in (["weak-seed1", "strong"], ["weak-seed2", "weak", "strong"]):
        assert frontiers.frontiers(of, {"steps": rows}, groups) == [line]
    (alone,) = frontiers.frontiers(of, {"steps": ["weak", "strong"]})
    assert alone.seeds == (1, 1) and alone.toxicity != line.toxicity
    # A group may have a name that is no row's.
    named = {"all of weak": groups["weak"]}
    (other,) = frontiers.frontiers(of, {"steps": ["all of weak", "strong"]}, named)
    assert other.rows == ("all of weak", "strong") and other.toxicity == line.toxicity
    table = frontier_tables.table([line], of.results)
    assert table.rows[0]["Rows"] == "weak (3 seeds), strong"
    assert "A row of several seeds is their mean" in frontier_tables.markdown([line], of.results)
    assert "several seeds" not in frontier_tables.markdown([alone], of.results)


def test_a_seed_without_perplexity_is_refused_too(measured):
    maxima, _ = measured
    every = {**maxima, "weak-seed1": maxima["weak"]}
    of = evaluation(every, {"base": 100.0, "strong": 112.0, "weak": 104.0, "weak-seed1": math.nan})
    with pytest.raises(UserError, match="'weak-seed1' has no perplexity"):
        frontiers.frontiers(of, {"steps": ["weak"]}, {"weak": ["weak", "weak-seed1"]})


def test_a_spoiled_row_is_marked_on_its_line(measured):
    maxima, of = measured
    rows = [
        dataclasses.replace(row, spoiled=("it writes 3 words",) if row.method == "weak" else ())
        for row in of.results.rows
    ]
    of = dataclasses.replace(of, results=dataclasses.replace(of.results, rows=tuple(rows)))
    (line,) = frontiers.frontiers(of, {"steps": ["weak", "strong"]})
    assert line.spoiled == (False, True, False)
    table = frontier_tables.table([line], of.results)
    assert table.rows[0]["Rows"] == "weak §, strong"


def test_a_row_without_perplexity_is_refused(measured):
    maxima, _ = measured
    of = evaluation(maxima, {"base": 100.0, "strong": math.nan, "weak": 104.0})
    with pytest.raises(UserError, match="'strong' has no perplexity"):
        frontiers.frontiers(of, {"steps": ["weak", "strong"]})
