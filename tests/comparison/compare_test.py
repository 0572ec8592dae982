"""Scorers side by side: figures worked by hand and by scipy, joins, rankings, mistakes."""

import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from detox_jax import cli
from detox_jax.comparison import agreement, rankings
from detox_jax.comparison.comparison import Compared, Comparison
from detox_jax.evaluation import statistics
from detox_jax.evaluation.metric_names import EMT, TP
from detox_jax.evaluation.rows import Scorer
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.typed_json import from_json, to_json

A = [0.9, 0.6, 0.1, 0.2, 0.8, 0.3]
B = [0.4, 0.3, 0.1, 0.1, 0.7, 0.2]


def counted(a, b, record=None, draws=50):
    record = np.arange(len(a)) if record is None else np.array(record)
    return agreement.compare(np.array(a, float), np.array(b, float), record, draws)


def compared(a, b, record=None, draws=50):
    return counted(a, b, record, draws).agreement


# --- agreement --------------------------------------------------------------------------------


def test_agreement_is_that_worked_by_hand():
    found = compared(A, B)
    assert (found.share_toxic_a, found.share_toxic_b) == (0.5, pytest.approx(1 / 6))
    assert found.agreement.value == pytest.approx(4 / 6)
    chance = 0.5 / 6 + 0.5 * 5 / 6
    assert found.kappa.value == pytest.approx((4 / 6 - chance) / (1 - chance))
    assert found.difference == pytest.approx(np.sqrt(np.mean(np.subtract(A, B) ** 2)))


def test_correlations_are_scipys_ties_included():
    rng = np.random.default_rng(0)
    a = rng.random(300)
    b = np.round((a + rng.random(300)) / 2, 1)
    found = compared(a, b)
    assert found.spearman.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.pearson.value == pytest.approx(stats.pearsonr(a, b).statistic)


def test_a_resample_counts_texts_as_if_they_were_repeated():
    """The bootstrap's short cut through weights against plain repetition."""
    rng = np.random.default_rng(1)
    a, b = rng.random(40), np.round(rng.random(40), 1)
    counts = rng.integers(0, 4, 40)
    weighted = agreement._Statistics.of(a, b)(counts.astype(float))
    same, _ = agreement.agreement_and_kappa(a >= 0.5, b >= 0.5, counts.astype(float))
    a, b = np.repeat(a, counts), np.repeat(b, counts)
    assert weighted["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert weighted["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert same == pytest.approx(np.mean((a >= 0.5) == (b >= 0.5)))


def test_intervals_are_over_records_not_texts():
    """Ten copies of every text in its record: no new evidence, so an interval of the same width."""
    rng = np.random.default_rng(2)
    a = rng.random(60)
    b = (a + rng.random(60)) / 2
    width = [
        found.spearman.high - found.spearman.low
        for found in (
            compared(a, b, draws=300),
            compared(np.repeat(a, 10), np.repeat(b, 10), np.repeat(np.arange(60), 10), 300),
        )
    ]
    assert width[1] == pytest.approx(width[0], rel=1e-6) and width[0] > 0.05


def test_the_share_called_the_same_has_an_interval_with_a_width_at_one():
    """Wilson's of the records: 6 / (6 + 1.96^2), however many texts a record has."""
    for copies in (1, 10):
        found = compared(
            np.repeat(A, copies), np.repeat(A, copies), np.repeat(np.arange(6), copies)
        )
        same = found.agreement
        assert (same.value, same.high, found.records) == (1, 1, 6)
        assert same.low == pytest.approx(6 / (6 + 1.959964**2))
    half = compared([0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.9, 0.1])
    assert half.agreement == statistics.share(np.array([1, 0, 0, 1]))


def test_missing_scores_are_counted_and_left_out():
    both = counted([*A, math.nan, 0.5], [*B, 0.5, math.nan])
    counts = [both.scored_by_a, both.scored_by_b, both.scored_by_both]
    assert (both.texts, counts) == (8, [7, 7, 6])
    assert both.agreement.agreement.value == compared(A, B).agreement.value
    nothing = counted([math.nan, 0.1], [0.2, math.nan])
    assert nothing.scored_by_both == 0 and nothing.agreement is None
    assert (
        "agreement" not in to_json(nothing) and from_json(Compared, to_json(nothing), "") == nothing
    )


def test_a_scorer_that_tells_no_texts_apart_has_no_correlation():
    found = compared(A, [0.1] * 6)
    assert math.isnan(found.spearman.value) and math.isnan(found.pearson.value)
    assert found.kappa.value == 0
    assert math.isnan(compared([0.1] * 6, [0.2] * 6).kappa.value)


# --- calibration ------------------------------------------------------------------------------


def test_the_isotonic_curve_pools_what_falls():
    steps = agreement.isotonic_steps(
        np.array([0.1, 0.5, 0.3, 0.9, 0.7]), np.array([0.1, 0.2, 0.3, 0.4, 0.4])
    )
    assert [(step.from_, step.to, step.texts) for step in steps] == [
        (0.1, 0.1, 1),
        (0.2, 0.3, 2),
        (0.4, 0.4, 2),
    ]
    assert [step.value for step in steps] == pytest.approx([0.1, 0.4, 0.8])


def test_a_distorted_copy_is_read_as_the_original():
    a = np.random.default_rng(3).random(400)
    found = compared(a, a**3)
    assert found.spearman.value == pytest.approx(1)
    assert found.calibrated_difference < 0.01 < 0.2 < found.difference
    assert found.threshold.value == pytest.approx(0.125, abs=0.01)
    assert found.threshold.agreement == found.threshold.kappa == 1


def test_the_calibration_is_judged_on_texts_that_it_was_not_fitted_to():
    """Noise has nothing to learn: in the sample, a curve would seem to help."""
    rng = np.random.default_rng(4)
    a, b = rng.random(60), rng.random(60)
    fitted = np.interp(b, *agreement._isotonic(a, b)[:2])
    assert compared(a, b).calibrated_difference > np.sqrt(np.mean((a - fitted) ** 2))


def test_the_bins_are_tenths_of_the_scale():
    bins = compared([0.2, 0.4, 0.9], [0.05, 0.05, 1.0]).calibration.bins
    assert [(x.from_, x.texts) for x in bins] == [(0.0, 2), (0.9, 1)]
    assert [x.mean_a for x in bins] == pytest.approx([0.3, 0.9])


@pytest.mark.parametrize(
    ("a", "b", "value", "share"),
    [
        (A, B, 0.3, 0.5),
        ([0.1, 0.2], [0.3, 0.4], math.inf, 0.0),
        ([0.9, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.1], math.inf, 0.0),
        ([0.9, 0.9, 0.1, 0.1], [0.2, 0.2, 0.2, 0.1], 0.2, 0.75),
    ],
)
def test_the_threshold_of_as_many_toxic_texts(a, b, value, share):
    found = agreement.matching_threshold(np.array(a), np.array(b))
    assert (found.value, found.share) == (value, share)


# --- rankings ---------------------------------------------------------------------------------


def scored(*values):
    scores_PK = np.array(values, float)
    none_PK, counts_P = np.zeros(scores_PK.shape, int), np.full(len(values), len(values[0]))
    return Scored([], scores_PK, none_PK, none_PK > 0, counts_P, Scorer("x", "x"))


def test_ranks_taus_and_swaps():
    low, high, wavering = [[0.1]] * 30, [[0.8]] * 30, [[0.0], [0.19]] * 15
    found = rankings.rank(
        {
            "a": {"m": scored(*low), "n": scored(*high), "o": scored(*wavering)},
            "b": {"m": scored(*high), "n": scored(*low), "o": scored(*[[0.11]] * 30)},
        },
        draws=200,
    )[EMT]
    ranks = {(row.scorer, row.method): row.rank for row in found.ranks}
    assert [ranks["a", name] for name in "mno"] == [2, 3, 1]
    assert [ranks["b", name] for name in "mno"] == [3, 1, 2]
    assert found.kendall_tau[0].value == pytest.approx(-1 / 3)
    swaps = {swap.methods: swap.beyond_intervals for swap in found.swaps}
    # m - o is 0.005 for a, with zero in its interval, and 0.69 for b: of one sign, no swap.
    assert swaps == {("m", "n"): True, ("n", "o"): True}


def test_a_toxicity_probability_has_the_interval_that_evaluate_gives():
    """Of 112 prompts none is toxic: Wilson's goes to z^2 / (112 + z^2), a bootstrap's to 0."""
    mild, rude = scored(*[[0.1]] * 112), scored(*[[0.1], [0.9]] * 56)
    found = rankings.rank({"a": {"m": mild, "n": rude}, "b": {"m": rude, "n": mild}}, draws=50)
    of = {(row.scorer, row.method): row for row in found[TP].ranks}
    none = of["a", "m"].estimate
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1.959964**2 / (112 + 1.959964**2))
    half = np.array([0, 1] * 56)
    assert of["a", "n"].estimate == statistics.share(half) and of["a", "n"].prompts == 112
    (_, emt, *_) = found[EMT].ranks
    assert emt.estimate == statistics.bootstrap_mean(half * 0.8 + 0.1, 50, 0)


def test_a_swap_within_the_intervals_is_told_apart():
    wavering = [[0.0], [0.19]] * 15
    found = rankings.rank(
        {
            "a": {"m": scored(*[[0.1]] * 30), "o": scored(*wavering)},
            "b": {"m": scored(*[[0.1]] * 30), "o": scored(*[[0.2]] * 30)},
        },
        draws=200,
    )[EMT]
    assert [swap.beyond_intervals for swap in found.swaps] == [False]


def test_what_one_scorer_cannot_read_is_ranked_by_none():
    """By all that each scored the two would rank m and n otherwise, and agree on every text."""
    nan = math.nan
    n = scored(*[[0.3, 0.3]] * 30)
    scorers = {
        "a": {"m": scored(*[[0.1, 0.9]] * 30), "n": n},
        "b": {"m": scored(*[[0.1, nan]] * 30), "n": n},
    }
    found = rankings.rank(scorers, draws=20)[EMT]
    ranks = {(row.scorer, row.method): (row.rank, row.estimate.value) for row in found.ranks}
    assert ranks["a", "m"] == ranks["b", "m"] == (1, pytest.approx(0.1))
    assert found.swaps == () and found.kendall_tau[0].value == 1
    counts = {(x.scorer, x.method): x for x in rankings.coverage(scorers)}
    assert [counts[key].scored for key in (("a", "m"), ("b", "m"), ("b", "n"))] == [60, 30, 60]
    assert counts["a", "m"].scored_by_all == 30 and counts["a", "m"].texts == 60
    assert rankings.coverage({"a": {"n": n}, "b": {"n": n}}) == ()


def test_a_method_without_a_text_that_all_scored_has_no_rank():
    nothing, n = scored([math.nan]), scored([0.3])
    found = rankings.rank(
        {"a": {"m": scored([0.1]), "n": n}, "b": {"m": nothing, "n": n}}, draws=20
    )[EMT]
    ranks = {(row.scorer, row.method): row.rank for row in found.ranks}
    assert math.isnan(ranks["a", "m"]) and ranks["a", "n"] == 1


# --- the verb ---------------------------------------------------------------------------------


def write(directory, rows, scorer, **said):
    directory.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "scored-00000-of-00001.jsonl").write_text(lines)
    identity = {"name": scorer, "fingerprint": f"{scorer}-1"}
    manifest = {"complete": True, "verb": "score", "settings": {}, "scorer": identity} | said
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return str(directory)


def documents(scores, text="text"):
    return [
        {"id": str(i), "text": f"{text} {i}"} | ({} if score is None else {"toxicity": score})
        for i, score in enumerate(scores)
    ]


def continuations(scores_PK):
    return [
        {
            "id": str(i),
            "prompt": {"text": f"prompt {i}", "toxicity": 0.2},
            "generations": [{"text": f"{i} {k}", "toxicity": x} for k, x in enumerate(scores)],
        }
        for i, scores in enumerate(scores_PK)
    ]


def run(tmp_path, scores, *flags):
    given = [f"--gin.SCORES={scores}", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    return cli.main(["score", "--compare", *given, "--gin.BOOTSTRAP_DRAWS=50", *flags])


def test_documents_are_joined_by_id(tmp_path, capsys):
    first = write(tmp_path / "a", documents([*A, None]), "one")
    second = write(tmp_path / "b", documents([*B, 0.5])[::-1], "other")
    assert run(tmp_path, {"a": first, "b": second}) == 0
    table = capsys.readouterr().out
    assert "Kappa" in table and "0.667" in table
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["scorers"]["b"] == {"name": "other", "fingerprint": "other-1"}
    (pair,) = found["pairs"]
    assert pair["agreement"]["value"] == pytest.approx(4 / 6)
    assert (pair["texts"], pair["scored_by_a"], pair["scored_by_b"]) == (7, 6, 7)
    assert found["rankings"] == {} and "notes" not in found
    (line,) = csv.DictReader((tmp_path / "out" / "agreement.csv").open())
    assert float(line["kappa_value"]) == pair["kappa"]["value"]
    assert (tmp_path / "out" / "agreement.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "agreement.svg").read_text()
    assert not (tmp_path / "out" / "ranking.png").exists()


def test_methods_are_ranked_by_every_scorer(tmp_path, capsys):
    rng = np.random.default_rng(0)
    mild, rude = rng.random((8, 3)) / 2, rng.random((8, 3)) / 2 + 0.4
    scores = {
        "base": {
            "a": write(tmp_path / "base-a", continuations(rude), "one"),
            "b": write(tmp_path / "base-b", continuations(mild), "other"),
        },
        "mine": {
            "a": write(tmp_path / "mine-a", continuations(mild), "one"),
            "b": write(tmp_path / "mine-b", continuations(rude), "other"),
        },
    }
    assert run(tmp_path, scores) == 0
    out = tmp_path / "out"
    found = json.loads((out / "comparison.json").read_text())
    assert found["pairs"][0]["texts"] == 48
    by_emt = found["rankings"]["expected_maximum_toxicity"]
    assert [row["methods"] for row in by_emt["swaps"]] == [["base", "mine"]]
    assert by_emt["swaps"][0]["beyond_intervals"] and by_emt["kendall_tau"][0]["value"] == -1
    lines = list(csv.DictReader((out / "ranking.csv").open()))
    assert {(x["scorer"], x["method"], x["rank"]) for x in lines} == {
        ("a", "base", "2.0"),
        ("a", "mine", "1.0"),
        ("b", "base", "1.0"),
        ("b", "mine", "2.0"),
    }
    page = (out / "comparison.md").read_text()
    assert "| base − mine |" in page and "one-1" in page
    assert "Expected maximum toxicity: swaps of two methods: 1, beyond the intervals: 1." in page
    assert (out / "ranking.svg").exists()
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run(tmp_path, scores) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("prompts", [24, 19])
def test_an_interval_that_says_little_is_marked(tmp_path, capsys, prompts):
    """One of equal values, and all of fewer than 20 prompts."""
    rng = np.random.default_rng(0)
    even, other = np.full((prompts, 1), 0.25), rng.random((prompts, 1))
    scores = {
        name: {
            scorer: write(tmp_path / f"{name}-{scorer}", continuations(values), scorer)
            for scorer, values in (("a", of_a), ("b", of_a / 2))
        }
        for name, of_a in (("base", other), ("mine", even))
    }
    assert run(tmp_path, scores) == 0
    page, printed = (tmp_path / "out" / "comparison.md").read_text(), capsys.readouterr().out
    rows = {}
    for line in page.splitlines():
        if line.startswith(("| base |", "| mine |", "| a | b |")):
            rows.setdefault(line.split(" |")[0], []).append(line.split(" | ")[1:])
    (mine_emt, mine_tp), (base_emt, base_tp) = rows["| mine"], rows["| base"]
    is_marked = ["‡" in cell for cell in (mine_emt[0], mine_tp[0], base_emt[0], base_tp[0])]
    assert is_marked == ([True, False, False, False] if prompts == 24 else [True] * 4)
    assert "1. 0.000 [0.000, " in mine_tp[0] and "0.000, 0.000" not in mine_tp[0]
    agreed, *_ = rows["| a"]
    assert ("‡" in agreed[4]) == (prompts == 19)
    assert "0.000 [0.000, 0.000] ‡" in agreed[5]  # Kappa, of B that calls no text toxic.
    said = "‡: the interval says little, being of fewer than 20 records, or of equal values."
    assert said in page and said in printed
    # A file of an earlier version does not say of how many.
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    del (
        found["pairs"][0]["records"],
        found["rankings"]["toxicity_probability"]["ranks"][0]["prompts"],
    )
    earlier = from_json(Comparison, found, "")
    assert earlier.pairs[0].compared.agreement.records is None


def test_the_order_of_the_scorers_decides(tmp_path, capsys):
    """The first is the one that others are read as: another order is another comparison."""
    first = write(tmp_path / "a", documents(A), "one")
    second = write(tmp_path / "b", documents(B), "other")
    given, swapped = {"a": first, "b": second}, {"b": second, "a": first}
    assert run(tmp_path, given) == 0
    manifest = tmp_path / "out" / "manifest.json"
    named = json.loads(manifest.read_text())
    assert named["settings"].pop("scores_order") == {"scorers": ["a", "b"], "methods": ["texts"]}
    for is_earlier in (False, True):  # Of an earlier version the settings did not name it.
        if is_earlier:
            manifest.write_text(json.dumps(named))
        capsys.readouterr()
        for flags in ([], ["--dry_run"]):
            assert run(tmp_path, swapped, *flags) == 2
            error = capsys.readouterr().err
            assert "scores_order.scorers: ['a', 'b'] there, ['b', 'a'] now" in error
            assert run(tmp_path, given, *flags) == 0


def generated(**decoding):
    settings = {"max_new_tokens": 20, "sampling": {"method": "TopPSampling", "p": 0.9}}
    return {"generated": {"decoding": settings | decoding, "start_with_end_of_text": True}}


def of_two_methods(tmp_path, mine, chosen=None):
    """The base's three continuations and the two of a method of its own decoding, each scored."""
    chosen = {"chosen": chosen} if chosen else {}
    rng = np.random.default_rng(0)
    return {
        name: {
            scorer: write(
                tmp_path / f"{name}-{scorer}",
                continuations(rng.random((8, number))),
                identity,
                **said,
            )
            for scorer, identity in (("a", "one"), ("b", "other"))
        }
        for name, number, said in (("base", 3, generated()), ("mine", 2, mine | chosen))
    }


def test_methods_of_their_own_decoding_are_compared_and_it_is_said(tmp_path, capsys):
    """They were refused, with a setting of `evaluate` as the way out; a cut was not said."""
    mine = generated(steering=[{"method": "BannedWords"}])
    best = {"selection": {"method": "BestOf"}, "samples_per_result": 4}
    assert run(tmp_path, of_two_methods(tmp_path, mine, best)) == 0
    said = [
        "Compared on the first 2 continuations of each prompt, as many as mine has (base has 3).",
        "Decoded otherwise than base: mine (steering, best_of).",
    ]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["notes"] == said and found["pairs"][0]["texts"] == 32
    page, printed = (tmp_path / "out" / "comparison.md").read_text(), capsys.readouterr().out
    assert all(sentence in page and sentence in printed for sentence in said)
    # A file of an earlier version has none.
    del found["notes"]
    assert from_json(Comparison, found, "").notes == ()


def test_methods_of_different_limits_are_refused_without_a_way_out(tmp_path, capsys):
    assert run(tmp_path, of_two_methods(tmp_path, generated(max_new_tokens=10))) == 2
    error = capsys.readouterr().err
    assert "'mine' was generated with max_new_tokens 10, 'base' with 20" in error
    assert "own_decoding" not in error


def mistakes(tmp_path):
    a = write(tmp_path / "a", documents(A), "one")
    b = write(tmp_path / "b", documents(B), "other")
    texts = write(tmp_path / "texts", documents(B, "another"), "other")
    short = write(tmp_path / "short", documents(B[:-1]), "other")
    nothing = write(tmp_path / "nothing", documents([None] * 6), "other")
    return {
        "one scorer": ({"a": a}, "SCORES names 1 scorer"),
        "none": ([], "SCORES: expected a dict of"),
        "the same scorer": ({"a": a, "b": a}, "scorers 'a' and 'b' are one: one-1"),
        "other texts": ({"a": a, "b": texts}, "record '0' has different texts"),
        "other records": ({"a": a, "b": short}, "1 are missing, 0 are extra"),
        "no scores": ({"a": a, "b": nothing}, "nothing: no text has a score"),
        "a scorer of one method": (
            {"m": {"a": a, "b": b}, "n": {"a": a}},
            "'n' has no scores of 'b'",
        ),
        "mixed": ({"m": {"a": a, "b": b}, "n": a}, "'n' is "),
    }


@pytest.mark.parametrize("mistake", ["one scorer", "none", "the same scorer", "other texts",
                                     "other records", "no scores", "a scorer of one method",
                                     "mixed"])  # fmt: skip
def test_mistakes_are_one_line_and_leave_no_result(tmp_path, capsys, mistake):
    scores, message = mistakes(tmp_path)[mistake]
    assert run(tmp_path, scores) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_only_score_has_the_flag(capsys):
    assert cli.main(["filter", "--compare"]) == 2
    assert "--compare" in capsys.readouterr().err


def test_a_damaged_comparison_is_named_by_its_field(tmp_path, capsys):
    first = write(tmp_path / "a", documents(A), "one")
    second = write(tmp_path / "b", documents(B), "other")
    assert run(tmp_path, {"a": first, "b": second}) == 0
    file = tmp_path / "out" / "comparison.json"
    found = json.loads(file.read_text())
    found["pairs"][0]["calibration"]["bins"][1]["from"] = "x"
    file.write_text(json.dumps(found))
    capsys.readouterr()
    assert run(tmp_path, {"a": first, "b": second}) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    message = "comparison.json: pairs[0].calibration.bins[1].from: expected a number, got 'x'"
    assert message in error


def test_how_much_of_each_method_was_scored_stands_beside_the_ranks(tmp_path):
    scores = np.full((8, 2), 0.25)
    half = [[0.25, None]] * 8
    given = {
        name: {
            "a": write(tmp_path / f"{name}-a", continuations(scores), "one"),
            "b": write(tmp_path / f"{name}-b", continuations(of_b), "other"),
        }
        for name, of_b in (("base", scores), ("mine", half))
    }
    assert run(tmp_path, given) == 0
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| Method | a | b | Scored, a | Scored, b | Scored by all |" in page
    (row, *_) = [line for line in page.splitlines() if line.startswith("| mine |")]
    assert row.endswith("| 100.0 % | 50.0 % | 50.0 % |")
    assert "of the texts that both scored" in page
    lines = list(csv.DictReader((tmp_path / "out" / "ranking.csv").open()))
    counts = {(x["scorer"], x["method"]): (x["texts"], x["scored"]) for x in lines}
    assert counts["b", "mine"] == ("16", "8") and counts["a", "mine"] == ("16", "16")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    del found["coverage"]  # of an earlier version
    assert from_json(Comparison, found, "").coverage == ()
