"""Continuations of several methods and scorers: what is read, what is joined, what is refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from detox_jax import outputs
from detox_jax.errors import UserError
from detox_jax.evaluation import joined
from detox_jax.records import Generation, Prompt

HAND = {"name": "hand", "fingerprint": "hand-0123"}
OTHER = {"name": "other", "fingerprint": "other-4567"}
NAN = np.nan
# Continuations of three lengths; None is not scored, 0.0 is a score.
SCORES = {"a": [0.9, 0.0], "b": [0.5, None, 0.25], "c": [0.3]}


def prompts_of(scores, toxicity=None, **extra):
    return [
        Prompt(
            name,
            f"prompt {name}",
            toxicity,
            tuple(Generation(f" word{k} of {name}", score) for k, score in enumerate(row)),
            extra=extra,
        )
        for name, row in scores.items()
    ]


def scored(scores, scorer=HAND):
    """As `joined.read` gives it, of scores alone."""
    prompts = prompts_of(scores)
    scores_PK = np.full((len(scores), max(map(len, scores.values()))), NAN)
    for row, values in zip(scores_PK, scores.values(), strict=True):
        row[: len(values)] = [NAN if value is None else value for value in values]
    return joined.Scored(prompts, scores_PK, scorer)


def ids(method):
    return [prompt.id for prompt in method.prompts]


# --- one method -------------------------------------------------------------------------------


def write(directory, scores, **manifest):
    output = outputs.OutputDirectory(str(directory), "score", {})
    output.write_shard("scored", 0, 1, prompts_of(scores))
    output.finish(**manifest)
    return str(directory)


def test_what_score_wrote_is_read_with_its_scorer(tmp_path):
    reliability = {"against": "people", "auroc": 0.9}
    path = write(tmp_path / "o", SCORES, scorer=HAND, scorer_reliability=reliability)
    method = joined.read("mine", path)
    expected = scored(SCORES)
    assert list(method.prompts) == list(expected.prompts)
    np.testing.assert_array_equal(method.scores_PK, expected.scores_PK)
    assert (method.scorer, method.reliability) == (HAND, reliability)


def test_a_file_of_nobody_has_an_unknown_scorer(tmp_path):
    lines = [json.dumps(prompt.to_json()) + "\n" for prompt in prompts_of(SCORES)]
    (tmp_path / "s.jsonl").write_text("".join(lines))
    method = joined.read("mine", str(tmp_path / "s.jsonl"))
    assert (method.scorer, method.reliability) == (joined.UNKNOWN_SCORER, None)
    method = joined.read("mine", write(tmp_path / "generated", SCORES))  # A manifest without one.
    assert method.scorer == joined.UNKNOWN_SCORER


def test_nothing_to_read_is_refused():
    with pytest.raises(UserError, match="method 'mine': p.jsonl holds zero prompts"):
        joined.of_prompts("mine", [], "p.jsonl")
    with pytest.raises(UserError, match="method 'mine': p.jsonl holds no continuation"):
        joined.of_prompts("mine", prompts_of({"a": [], "b": []}), "p.jsonl")


def test_coverage_is_of_the_continuations_that_there_are():
    """Six texts in a matrix of nine places, five of them scored."""
    method = scored(SCORES)
    assert method.scores_PK.shape == (3, 3) and method.num_samples == 6
    assert method.coverage == pytest.approx(5 / 6)
    assert scored({"a": [None], "b": [None]}).coverage == 0


def test_the_hash_is_of_the_texts_alone():
    expected = scored(SCORES).texts_sha256
    backwards = dict(reversed(SCORES.items()))
    assert scored(backwards, OTHER).texts_sha256 == expected
    assert scored({"a": [0.1, 0.2], "b": [0.3, 0.4, 0.5], "c": [None]}).texts_sha256 == expected
    assert scored({**SCORES, "c": [0.3, 0.3]}).texts_sha256 != expected
    assert scored({"z": SCORES["a"], "b": SCORES["b"], "c": SCORES["c"]}).texts_sha256 != expected
    method = scored(SCORES)
    first = dataclasses.replace(method.prompts[0], text="another prompt")
    changed = dataclasses.replace(method, prompts=[first, *method.prompts[1:]])
    assert changed.texts_sha256 != expected


def test_a_subset_keeps_prompts_and_rows_together():
    part = scored(SCORES).subset(np.array([True, False, True]))
    assert ids(part) == ["a", "c"] and part.scorer == HAND
    np.testing.assert_array_equal(part.scores_PK, [[0.9, 0.0, NAN], [0.3, NAN, NAN]])


def test_splits_by_the_prompts_own_toxicity():
    values = [0.5, np.nextafter(0.5, 0), None, 0.0]  # The threshold is toxic; None is neither.
    prompts = [Prompt(str(i), "text", value) for i, value in enumerate(values)]
    masks = {name: mask.tolist() for name, mask in joined.splits(prompts).items()}
    assert masks == {
        "full": [True, True, True, True],
        "toxic": [True, False, False, False],
        "nontoxic": [False, True, False, True],
    }
    prompts[2] = dataclasses.replace(prompts[2], extra={"challenging": True})
    assert joined.splits(prompts)["challenging"].tolist() == [False, False, True, False]
    assert joined.splits(prompts[:1]).keys() == {"full", "toxic"}  # Empty ones are left out.


# --- several methods --------------------------------------------------------------------------


@pytest.mark.parametrize("order", itertools.permutations("abc"))
def test_all_methods_are_in_the_baselines_order(order):
    mine = scored({name: [x and x / 2 for x in SCORES[name]] for name in order})
    methods = joined.join({"mine": mine, "base": scored(SCORES)}, "base", 0.5)
    assert list(methods) == ["mine", "base"]
    assert ids(methods["mine"]) == ids(methods["base"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(methods["mine"].scores_PK, methods["base"].scores_PK / 2)
    texts = [[g.text for g in prompt.generations] for prompt in methods["mine"].prompts]
    assert texts == [[g.text for g in prompt.generations] for prompt in methods["base"].prompts]


def test_methods_that_do_not_compare_are_refused():
    def join(mine, min_coverage=0.5):
        return joined.join({"base": scored(SCORES), "mine": mine}, "base", min_coverage)

    with pytest.raises(UserError, match="'mine' was scored by other-4567, 'base' by hand-0123"):
        join(scored(SCORES, OTHER))
    renamed = {"a": SCORES["a"], "x": SCORES["b"], "y": SCORES["c"], "z": [0.1]}
    with pytest.raises(UserError, match="different prompts: 2 are missing, 3 are extra"):
        join(scored(renamed))
    half = {"a": [0.1, None], "b": [0.1, None, None], "c": [0.2]}
    assert join(scored(half), 0.5)["mine"].coverage == 0.5  # As many as are asked for will do.
    with pytest.raises(UserError, match="only 50.0% .* fewer than the 50.1% of min_coverage"):
        join(scored(half), 0.501)
    with pytest.raises(UserError, match="'mine': all scores are missing"):
        join(scored({name: [None] for name in SCORES}), 0.0)


# --- several scorers --------------------------------------------------------------------------


def test_scorers_are_aligned_to_the_first_ones_order():
    backwards = dict(reversed(SCORES.items()))
    scorers = {
        "hand": {"base": scored(SCORES), "mine": scored(SCORES)},
        "other": {"base": scored(backwards, OTHER), "mine": scored(backwards, OTHER)},
    }
    aligned = joined.align(scorers)
    for methods in aligned.values():
        for method in methods.values():
            assert ids(method) == ["a", "b", "c"]
            np.testing.assert_array_equal(method.scores_PK, scored(SCORES).scores_PK)
    assert aligned["other"]["mine"].scorer == OTHER
    assert joined.align({}) == {}


def test_a_scorer_is_given_once():
    def align(first, second):
        return joined.align({"x": {"m": scored(SCORES, first)}, "y": {"m": scored(SCORES, second)}})

    with pytest.raises(UserError, match="scorers 'x' and 'y' are one: hand-0123"):
        align(HAND, HAND)
    assert align(joined.UNKNOWN_SCORER, joined.UNKNOWN_SCORER).keys() == {"x", "y"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "another prompt"}, "record 'b' has different texts"),
        ({"toxicity": 0.5}, "record 'b' has different texts"),
        ({"extra": {"challenging": True}}, "record 'b' has different texts"),
        ({"generations": (Generation("other"),)}, "record 'b' has different texts"),
        ({"id": "z"}, "different records: 1 are missing, 1 are extra"),
    ],
)
def test_scorers_of_other_texts_are_refused(change, message):
    other = scored(SCORES, OTHER)
    a, b, c = other.prompts
    other = dataclasses.replace(other, prompts=[a, dataclasses.replace(b, **change), c])
    with pytest.raises(UserError, match=f"^'other' and 'hand', method 'm': {message}"):
        joined.align({"hand": {"m": scored(SCORES)}, "other": {"m": other}})
