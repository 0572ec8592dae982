"""The table of a sweep: what stands in it of rows that are steered."""

import dataclasses
import json
import math

from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Paired, Perplexity
from detox_jax.report import matrix, tables
from tests.evaluation.results_made import made_results, made_row

PROVENANCE = made_results().provenance
UNDEFINED = "SubspaceMargin, which draws among its 20 candidates alone"


def _results():
    """A base; a row that never writes 3 of 100 texts, one that writes none, and one without."""
    toxicity = {"base": 0.5, "plain": 0.45}
    rows = {name: made_row(name, "full", emt, 0.4, 20.0) for name, emt in toxicity.items()}
    for name, of, why in (
        ("words", Perplexity(19.0, 80.0, 9000, 4000, documents=97, impossible=3), None),
        ("all", Perplexity(math.nan, math.nan, 0, 0, documents=0, impossible=9), None),
        ("sasa", None, UNDEFINED),
    ):
        row = made_row(name, "full", 0.3, 0.2, 20.0)
        quality = dataclasses.replace(row.quality, perplexity=of, perplexity_undefined=why)
        rows[name] = dataclasses.replace(row, quality=quality)
    return Results(tuple(rows.values()), (), (), made_results().provenance)


def _matrix():
    results = _results()
    names = [name for name in results.methods if name != "base"]
    runs = [matrix.Run({"method": name}, results, name) for name in names]
    return matrix.matrix(runs, [matrix.Run({}, results, "base")])


def test_what_a_row_never_writes_is_beyond_every_budget():
    """Its figure is of other texts than the base's: it would look better than it is."""
    made = _matrix()
    lines = {line["method"]: line for line in matrix.shown(made)}
    assert lines["words"]["PPL"] == "19.00 ∞" and lines["words"]["PPL − base"] == "∞"
    assert lines["all"]["PPL"] == "∞" and lines["sasa"]["PPL"] == "not defined"
    assert lines["plain"]["PPL"] == "20.00" and lines["plain"]["PPL − base"] == "+0.0 %"
    assert made.within(0.1).name == "plain"
    legend = "\n".join(matrix.legend(made))
    assert "words: never writes 3.0 % of the held-out texts" in legend
    assert f"PPL of sasa is not defined: {UNDEFINED}." in legend


def test_the_least_toxic_row_is_less_toxic_than_its_base():
    """A row that is more toxic would be recommended, if it stood alone."""
    emt = {"base": 0.5, "small": 0.4, "worse": 0.55, "better": 0.45}
    rows = tuple(made_row(name, "full", value, 0.4, 20.0) for name, value in emt.items())
    results = Results(rows, (), (), made_results().provenance)

    def table(*runs):
        bases = [matrix.Run({"size": name}, results, name) for name in ("base", "small")]
        return matrix.matrix(
            [matrix.Run({"size": of, "method": name}, results, name) for of, name in runs], bases
        )

    made = table(("base", "worse"), ("small", "better"))  # below the other size's base only
    assert made.within(0.1) is None
    assert {line["least toxic"] for line in matrix.budgets(made)} == {
        "no sound row within it is less toxic than its base"
    }
    assert table(("base", "worse"), ("base", "better")).within(0.1).name == "base better"


def test_the_columns_beside_the_axes_are_those_that_no_axis_may_be_called():
    results = _results()
    runs = [matrix.Run({"size": "1m", "seed": seed}, results, "plain") for seed in "01"]
    made = matrix.matrix(runs, [matrix.Run({}, results, "base")], "seed")
    columns = {*matrix.shown(made)[0], *json.loads(matrix.json_table(made))["rows"][1]}
    assert columns - {"size"} == matrix.COLUMNS


def _rows_of(**figures):
    """A matrix over one base of EMT 0.5 and perplexity 20; rows by EMT and perplexity."""
    rows = [made_row(name, "full", emt, 0.4, ppl) for name, (emt, ppl) in figures.items()]
    results = Results((made_row("base", "full", 0.5, 0.4, 20.0), *rows), provenance=PROVENANCE)
    runs = [matrix.Run({"method": name}, results, name) for name in figures]
    return matrix.matrix(runs, [matrix.Run({}, results, "base")])


def test_why_no_row_is_within_a_budget():
    """All were said to be no less toxic than their base, which each of these but one is."""
    told = [line["least toxic"] for line in matrix.budgets(_rows_of(a=(0.3, 20.6), b=(0.6, 20.1)))]
    assert told == ["no sound row within it is less toxic than its base", "a", "a"]
    assert matrix.budgets(_rows_of(a=(0.3, 21.1)))[1]["least toxic"] == (
        "no sound row stays within it"
    )
    (unread,) = {line["least toxic"] for line in matrix.budgets(_rows_of(a=(0.3, math.nan)))}
    assert unread == "no sound row has a perplexity beside its base's"


def test_a_row_over_seeds_is_less_toxic_than_the_mean_of_its_bases():
    """Where each seed has a base: it was compared with the first one's alone."""
    emt = {"base-0": 0.4, "base-1": 0.6, "row-0": 0.44, "row-1": 0.46}
    rows = tuple(made_row(name, "full", value, 0.4, 20.0) for name, value in emt.items())
    results = [
        Results(tuple(row for row in rows if row.method.endswith(seed)), provenance=PROVENANCE)
        for seed in "01"
    ]
    runs, bases = (
        [matrix.Run({"seed": str(i)}, of, f"{name}-{i}") for i, of in enumerate(results)]
        for name in ("row", "base")
    )
    assert matrix.matrix(runs, bases, "seed").within(0.1) is not None


def test_a_spoiled_row_has_no_mark_of_significance():
    base, *rows = (made_row(name, "full", 0.3, 0.4, 20.0) for name in ("base", "sound", "empty"))
    rows[1] = dataclasses.replace(rows[1], spoiled=("9.0 % are empty",))
    pairs = [
        Paired(row.method, "base", EMT, -0.2, -0.3, -0.1, 0.001, 0.002, "full") for row in rows
    ]
    results = Results((base, *rows), tuple(pairs), provenance=PROVENANCE)
    runs = [matrix.Run({"method": row.method}, results, row.method) for row in rows]
    made = matrix.matrix(runs, [matrix.Run({}, results, "base")])
    shown = {line["method"]: line["EMT"] for line in matrix.shown(made)}
    assert shown["sound"].endswith("]*") and shown["empty"].endswith("]§")
    assert "§ empty: 9.0 % are empty." in matrix.legend(made)
    assert made.rows[1].p_value < 0.05  # which files for programs keep


def test_the_legend_says_which_texts_a_perplexity_is_of():
    legend = " ".join(matrix.legend(_matrix()))
    assert "PPL of texts: of a token of at most the first two continuations of each" in legend


def test_the_tables_say_what_a_perplexity_leaves_out():
    table = tables.key_table(_results(), "full")
    cells = {row[tables.METHOD]: row["Perplexity"] for row in table.rows}
    assert cells == {
        "base": "20.00",
        "plain": "20.00",
        "words": "19.00 (∞ on 3.0 %)",
        "all": "∞",
        "sasa": "not defined",
    }
