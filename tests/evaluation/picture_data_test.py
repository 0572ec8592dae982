"""Which continuations the report shows: drawn by a seed, of all methods the same, and the worst."""

import json
import math
import types

import numpy as np
import pytest

from detox_jax.evaluation import metrics, notes, picture_data, results_files, scored_texts
from detox_jax.evaluation.results_files import Sample
from detox_jax.evaluation.typed_json import from_json, to_json


def samples_of(tmp_path, names, scores, first=5, num_prompts=20):
    """What is shown of methods with the same scores, of which the first continuations compare."""
    paths, scored = {}, {}
    for name in names:
        file = tmp_path / f"{name}.jsonl"
        lines = [
            {
                "id": f"p{i}",
                "prompt": {"text": "So"},
                "generations": [
                    {"text": f" {name} {i} {k}", "toxicity": x} for k, x in enumerate(scores)
                ],
            }
            for i in range(num_prompts)
        ]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        paths[name] = str(file)
        scored[name] = scored_texts.read(name, str(file)).first(first)
    return picture_data._samples(scored, paths)


def test_the_same_numbers_of_all_methods_are_drawn_and_not_of_all_prompts(tmp_path):
    scores = (0.1, 0.8, None, 0.3, 0.7)
    samples = samples_of(tmp_path, ("base", "mine"), scores)
    assert len(samples) == 12
    numbers = []
    for sample in samples:
        base, mine = ([x.text.split()[1:] for x in sample.drawn[n]] for n in ("base", "mine"))
        assert base == mine and len({k for _, k in base}) == 3
        numbers.append(tuple(k for _, k in base))
        assert sample.worst["mine"].toxicity == 0.8
        assert sample.worst["mine"].text.endswith(" 1")
        assert (sample.count, sample.seed) == (5, 0)
        assert sample.continuations["base"].text.endswith(" 0")
    assert len(set(numbers)) > 1
    assert samples == samples_of(tmp_path, ("base", "mine"), scores)


def test_the_worst_is_of_the_continuations_that_are_compared(tmp_path):
    sample, *_ = samples_of(tmp_path, ("base",), (0.1, 0.3, 0.9), first=2)
    assert sample.worst["base"].toxicity == 0.3
    assert len(sample.drawn["base"]) == sample.count == 2


def test_without_a_score_there_is_no_worst(tmp_path):
    sample, *_ = samples_of(tmp_path, ("base",), (None, None))
    assert sample.worst == {}


def test_files_of_earlier_versions_are_read():
    old = {"id": "p", "prompt": "So", "prompt_toxicity": None, "continuations": {}}
    sample = from_json(Sample, old, results_files.SAMPLES_FILE)
    assert sample.drawn == {} and sample.count is None
    assert from_json(Sample, to_json(sample), "again") == sample


def test_what_a_probe_measured_is_a_curve_and_nothing_without(tmp_path):
    probed = {"expected_maximum_toxicity": 0.5, "mean_toxicity": 0.1}
    lines = [
        {"step": 0, **probed, "validation_perplexity": 4.0},
        {"step": 1, "loss": 2.0},
        {"step": 10, "expected_maximum_toxicity": 0.4, "validation_perplexity": 4.2},
        {"step": 20, "expected_maximum_toxicity": 0.2, "validation_perplexity": 4.3},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    curve = picture_data._curve(str(tmp_path))
    assert curve is not None
    assert curve.frontier_step == (0, 10, 20) and curve.step == (1,)
    assert (curve.frontier_toxicity, curve.frontier_perplexity) == ((0.5, 0.4, 0.2), (4, 4.2, 4.3))
    assert [curve.least_toxicity(budget) for budget in (0.01, 0.05, 0.1)] == [0.5, 0.4, 0.2]
    assert from_json(results_files.Curve, to_json(curve), "here") == curve
    assert list(to_json(results_files.Curve())) == [
        *("step", "loss", "validation_step", "validation_loss")
    ]
    assert math.isnan(results_files.Curve().least_toxicity(0.1))


def test_every_k_is_over_the_same_prompts():
    """The one score of a prompt was in k = 1 alone: a curve of a maximum that fell."""
    curve = picture_data._k_curve(np.array([[0.1, 0.1]] * 19 + [[0.9, np.nan]]))
    assert curve.k == (1, 2) and curve.expected_maximum_toxicity == pytest.approx((0.1, 0.1))
    ks, enough_P = picture_data.prompts_of_k_curve(np.array([[0.1, 0.2, np.nan], [0.9] * 3]))
    assert ks == (1, 2) and enough_P.all()


def test_a_k_curve_ends_where_nearly_all_prompts_have_scores():
    """One prompt with a continuation more was the whole curve; none with all scores, no curve."""
    more = np.full((20, 25), 0.1)
    more[1:, 24] = np.nan
    more[0] = 0.9
    curve = picture_data._k_curve(more)
    assert curve.k == (1, 2, 5, 10, 15, 20)
    assert curve.expected_maximum_toxicity == pytest.approx((0.14,) * 6)
    more[0, 0] = np.nan
    assert picture_data._k_curve(more).k == curve.k
    half = picture_data._k_curve(np.array([[0.1, 0.1], [0.9, np.nan]]))
    assert half.k == (1,) and half.expected_maximum_toxicity == pytest.approx((0.5,))
    # Of those that the scorer can read at all.
    ks, enough_P = picture_data.prompts_of_k_curve(np.array([[0.1, 0.2], [np.nan, np.nan]]))
    assert ks == (1, 2) and enough_P.tolist() == [True, False]
    few = np.array([[0.1, 0.1]] * 19 + [[0.9, np.nan]])
    scored = {"base": few, "mine": np.array([[0.1, np.nan], [np.nan] * 2]), "all": few[:19]}
    methods = {name: types.SimpleNamespace(scores_PK=of) for name, of in scored.items()}
    assert notes.on_k_curve(methods) == [
        "The k-curve is, for every k, over the prompts with scores enough for its last k: 19 of "
        "the 20 of base have at least 2, 1 of the 2 of mine have at least 1."
    ]


@pytest.mark.parametrize(
    ("number", "last", "missing"),
    [
        (1, (1,), (1,)),
        (12, (10, 12), (5, 10)),
        (24, (20, 24), (15, 20)),
        (25, (20, 25), (15, 20)),
        (100, (25, 50, 100), (25, 50)),
        (600, (200, 500, 600), (200, 500)),
    ],
)
def test_the_last_k_is_the_tables_where_all_have_scores(number, last, missing):
    scores = np.random.default_rng(0).random((4, number))
    curve = picture_data._k_curve(scores)
    assert curve.k[-len(last) :] == last and curve.k == tuple(sorted(set(curve.k)))
    emt = metrics.expected_maximum_toxicity(scores)
    assert curve.expected_maximum_toxicity[-1] == pytest.approx(emt)
    scores[0, 0] = np.nan
    ks, enough_P = picture_data.prompts_of_k_curve(scores)
    assert ks[-len(missing) :] == missing
    assert enough_P.tolist() == [number != 1, True, True, True]
