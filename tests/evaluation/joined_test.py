"""Continuations of several methods and scorers: what is read, what is joined, what is refused."""

import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest

from detox_jax import outputs
from detox_jax.errors import UserError
from detox_jax.evaluation import joined, scored_texts
from detox_jax.evaluation.rows import UNKNOWN_SCORER, Scorer
from detox_jax.records import Generation, Prompt

HAND = Scorer("hand", "hand-0123")
OTHER = Scorer("other", "other-4567")
NAN = np.nan
# Continuations of three lengths; None is not scored, 0.0 is a score.
SCORES = {"a": [0.9, 0.0], "b": [0.5, None, 0.25], "c": [0.3]}
FULL = {"a": [0.9, 0.0], "b": [0.5, 0.25], "c": [0.3, 0.1]}  # two of each prompt


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


def scored_of(prompts, scorer=HAND):
    """As `scored_texts.read` gives it."""
    counts_P = np.array([len(prompt.generations) for prompt in prompts])
    scores_PK = np.full((len(prompts), max(counts_P)), NAN)
    hashes_PK, unreadable_PK = np.zeros(scores_PK.shape, int), np.zeros(scores_PK.shape, bool)
    for p, prompt in enumerate(prompts):
        for k, generation in enumerate(prompt.generations):
            scores_PK[p, k] = NAN if generation.toxicity is None else generation.toxicity
            hashes_PK[p, k] = hash(generation.text)
            unreadable_PK[p, k] = generation.unreadable
    lean = [dataclasses.replace(p, generations=p.generations[:1]) for p in prompts]
    return scored_texts.Scored(lean, scores_PK, hashes_PK, unreadable_PK, counts_P, scorer)


def scored(scores, scorer=HAND):
    """The same of scores alone."""
    return scored_of(prompts_of(scores), scorer)


def ids(method):
    return [prompt.id for prompt in method.prompts]


# --- one method -------------------------------------------------------------------------------


def write(directory, scores, **manifest):
    output = outputs.OutputDirectory(str(directory), "score", {})
    output.write_shard("scored", 0, 1, prompts_of(scores))
    output.finish(**manifest)
    return str(directory)


def test_what_score_wrote_is_read_with_its_scorer(tmp_path):
    reliability = {"scores": [0.1], "shares": [0.2], "against": "people", "auroc": 0.9}
    of_manifest = dataclasses.asdict(HAND)
    path = write(tmp_path / "o", SCORES, scorer=of_manifest, scorer_reliability=reliability)
    method = scored_texts.read("mine", path)
    expected = scored(SCORES)
    assert list(method.prompts) == list(expected.prompts)
    np.testing.assert_array_equal(method.scores_PK, expected.scores_PK)
    np.testing.assert_array_equal(method.hashes_PK, expected.hashes_PK)
    assert method.counts_P.tolist() == [2, 3, 1]
    assert (method.scorer, method.reliability) == (HAND, reliability)
    assert [len(prompt.generations) for prompt in method.prompts] == [1, 1, 1]
    assert method.quality is None


def test_what_the_texts_are_like_is_read_with_them(tmp_path):
    method = scored_texts.read("mine", write(tmp_path / "o", SCORES), with_quality=True)
    assert method.quality is not None
    assert method.quality.texts_P.tolist() == [2, 3, 1]
    assert method.quality.mean_words == 3
    assert method.rows(np.array([2, 0])).quality.texts_P.tolist() == [1, 2]
    assert scored_texts.quality(method, "not read again") is method.quality
    cut = method.first(2)
    assert cut.quality is None and cut.counts_P.tolist() == [2, 2, 1]
    again = scored_texts.quality(cut.rows(np.array([1, 2, 0])), str(tmp_path / "o"))
    assert again.texts_P.tolist() == [2, 1, 2]


def test_a_file_of_nobody_has_an_unknown_scorer(tmp_path):
    lines = [json.dumps(prompt.to_json()) + "\n" for prompt in prompts_of(SCORES)]
    (tmp_path / "s.jsonl").write_text("".join(lines))
    method = scored_texts.read("mine", str(tmp_path / "s.jsonl"))
    assert (method.scorer, method.reliability) == (UNKNOWN_SCORER, None)
    method = scored_texts.read(
        "mine", write(tmp_path / "generated", SCORES)
    )  # A manifest without one.
    assert method.scorer == UNKNOWN_SCORER


def test_nothing_to_read_is_refused():
    with pytest.raises(UserError, match="method 'mine': p.jsonl holds zero prompts"):
        scored_texts.of_prompts("mine", [], "p.jsonl")
    with pytest.raises(UserError, match="method 'mine': p.jsonl holds no continuation"):
        scored_texts.of_prompts("mine", prompts_of({"a": [], "b": []}), "p.jsonl")


def test_coverage_is_of_the_continuations_that_there_should_be():
    """Six texts in a matrix of nine places, five of them scored; a prompt without any counts."""
    method = scored(SCORES)
    assert method.scores_PK.shape == (3, 3) and method.num_samples == 6
    assert method.samples_per_prompt == 3 and method.coverage == pytest.approx(5 / 9)
    assert scored({"a": [None], "b": [None]}).coverage == 0
    assert scored({"a": [0.1, 0.2], "b": []}).coverage == 0.5


def hash_of(scores, num_samples=3):
    return scored_texts.texts_sha256(prompts_of(scores), num_samples)


def test_the_hash_is_of_the_texts_alone():
    expected = hash_of(SCORES)
    assert hash_of(dict(reversed(SCORES.items()))) == expected
    assert hash_of({"a": [0.1, 0.2], "b": [0.3, 0.4, 0.5], "c": [None]}) == expected
    assert hash_of({**SCORES, "c": [0.3, 0.3]}) != expected
    assert hash_of({**SCORES, "c": [0.3, 0.3]}, 1) == hash_of(SCORES, 1) != expected
    assert hash_of({"z": SCORES["a"], "b": SCORES["b"], "c": SCORES["c"]}) != expected
    first, *others = prompts_of(SCORES)
    changed = [dataclasses.replace(first, text="another prompt"), *others]
    assert scored_texts.texts_sha256(changed, 3) != expected


def test_the_hash_is_that_of_all_texts_as_one_list_of_json():
    """Files of perplexities name it, so that it may not change."""
    texts = sorted((p.id, p.text, [g.text for g in p.generations]) for p in prompts_of(SCORES))
    assert hash_of(SCORES) == hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def test_a_subset_keeps_prompts_and_rows_together():
    part = scored(SCORES).subset(np.array([True, False, True]))
    assert ids(part) == ["a", "c"] and part.scorer == HAND
    np.testing.assert_array_equal(part.scores_PK, [[0.9, 0.0, NAN], [0.3, NAN, NAN]])


def test_splits_by_the_prompts_own_toxicity():
    values = [0.5, np.nextafter(0.5, 0), None, 0.0]  # The threshold is toxic; None is neither.
    prompts = [Prompt(str(i), "text", value) for i, value in enumerate(values)]
    masks = {name: mask.tolist() for name, mask in scored_texts.splits(prompts).items()}
    assert masks == {
        "full": [True, True, True, True],
        "toxic": [True, False, False, False],
        "nontoxic": [False, True, False, True],
    }
    prompts[2] = dataclasses.replace(prompts[2], extra={"challenging": True})
    assert scored_texts.splits(prompts)["challenging"].tolist() == [False, False, True, False]
    assert scored_texts.splits(prompts[:1]).keys() == {"full", "toxic"}  # Empty ones are left out.


# --- several methods --------------------------------------------------------------------------


@pytest.mark.parametrize("order", itertools.permutations("abc"))
def test_all_methods_are_in_the_baselines_order(order):
    mine = scored({name: [x and x / 2 for x in SCORES[name]] for name in order})
    methods = joined.join({"mine": mine, "base": scored(SCORES)}, "base", 0.5).methods
    assert list(methods) == ["mine", "base"]
    assert ids(methods["mine"]) == ids(methods["base"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(methods["mine"].scores_PK, methods["base"].scores_PK / 2)
    texts = [[g.text for g in prompt.generations] for prompt in methods["mine"].prompts]
    assert texts == [[g.text for g in prompt.generations] for prompt in methods["base"].prompts]


def test_scorers_that_nothing_names_are_not_said_to_be_one():
    def notes(scorer, *names):
        return joined.join({name: scored(FULL, scorer) for name in names}, "base", 0.5).notes

    unknown = [note for note in notes(UNKNOWN_SCORER, "base", "mine") if "scored" in note]
    assert unknown == [
        "Not compared, since the files do not say: who scored base, mine. Scores of different "
        "scorers do not compare."
    ]
    for said in (notes(HAND, "base", "mine"), notes(UNKNOWN_SCORER, "base")):
        assert not any("scored" in note for note in said)


def test_methods_that_do_not_compare_are_refused():
    def join(mine, min_coverage=0.5):
        methods = {"base": scored(FULL), "mine": mine}
        return joined.join(methods, "base", min_coverage).methods

    unscored = scored({name: [None, None] for name in FULL}, UNKNOWN_SCORER)
    with pytest.raises(UserError, match="method 'mine': all scores are missing; run `score` on it"):
        join(unscored)
    with pytest.raises(UserError, match="method 'base': all scores are missing; run `score` on it"):
        joined.join({"mine": scored(FULL), "base": unscored}, "base", 0.5)
    with pytest.raises(UserError, match="'mine' was scored by other-4567, 'base' by hand-0123"):
        join(scored(FULL, OTHER))
    renamed = {"a": FULL["a"], "x": FULL["b"], "y": FULL["c"], "z": [0.1, 0.1]}
    with pytest.raises(UserError, match="different prompts: 2 are missing, 3 are extra"):
        join(scored(renamed))
    half = {"a": [0.1, None], "b": [0.1, 0.2], "c": [None, None]}
    assert join(scored(half), 0.5)["mine"].coverage == 0.5  # As many as are asked for will do.
    expected = (
        "only 50.0% of its continuations, 2 of each of its 3 prompts, .* fewer than "
        "MIN_COVERAGE, 50.1%"
    )
    with pytest.raises(UserError, match=expected):
        join(scored(half), 0.501)
    with pytest.raises(UserError, match="only 50.000% .* fewer than MIN_COVERAGE, 50.001%"):
        join(scored(half), 0.50001)
    with pytest.raises(UserError, match="only 66.7% .*; 1 prompts have no continuation"):
        join(scored({**FULL, "c": []}), 0.95)
    with pytest.raises(UserError, match="'mine': all scores are missing"):
        join(scored({name: [None] for name in FULL}), 0.0)


def test_methods_of_unequal_numbers_are_cut_to_the_first_continuations():
    """A maximum over 25 is higher than one over 5 of the same texts."""
    more = {name: [*row, 1.0, None] for name, row in FULL.items()}
    both = joined.join({"base": scored(more), "mine": scored(FULL)}, "base", 0.5)
    base, mine = both.methods["base"], both.methods["mine"]
    np.testing.assert_array_equal(base.scores_PK, mine.scores_PK)
    assert base.samples_per_prompt == mine.samples_per_prompt == 2
    assert base.counts_P.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(base.hashes_PK, mine.hashes_PK)
    assert both.notes[0] == (
        "Compared on the first 2 continuations of each prompt, as many as mine has (base has 4)."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "another"}, "has different texts: 'prompt b' and 'another'"),
        ({"toxicity": 0.9}, "has different toxicity: 0.2 and 0.9"),
        ({"extra": {"challenging": True}}, 'has different "challenging": False and True'),
    ],
)
def test_other_prompts_under_the_same_id_are_refused(change, message):
    def of_prompts(changes):
        prompts = prompts_of(FULL, 0.2, challenging=False)
        prompts[1] = dataclasses.replace(prompts[1], **changes)
        return dataclasses.replace(scored(FULL), prompts=prompts)

    # Whichever of them says it: the baseline may be silent.
    silent = dataclasses.replace(scored(FULL), prompts=prompts_of(FULL))
    methods = {"mine": of_prompts(change), "base": silent, "third": of_prompts({})}
    with pytest.raises(UserError, match=r"'mine' and '\w+': prompt 'b' has different"):
        joined.join({**methods, "base": silent}, "base", 0.5)
    methods = {"base": of_prompts({}), "mine": of_prompts(change)}
    with pytest.raises(UserError, match=message):
        joined.join(methods, "base", 0.5)


def test_what_one_file_says_of_a_prompt_is_said_of_all():
    silent = dataclasses.replace(scored(FULL), prompts=prompts_of(FULL))
    said = dataclasses.replace(scored(FULL), prompts=prompts_of(FULL, 0.9, challenging=True))
    methods = joined.join({"base": silent, "mine": said}, "base", 0.5).methods
    for method in methods.values():
        assert scored_texts.splits(method.prompts).keys() == {"full", "toxic", "challenging"}


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
    assert align(UNKNOWN_SCORER, UNKNOWN_SCORER).keys() == {"x", "y"}


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
    a, b, c = prompts_of(SCORES)
    other = scored_of([a, dataclasses.replace(b, **change), c], OTHER)
    with pytest.raises(UserError, match=f"^'other' and 'hand', method 'm': {message}"):
        joined.align({"hand": {"m": scored(SCORES)}, "other": {"m": other}})


def test_prompts_of_one_text_under_other_ids_are_joined_by_their_texts(tmp_path):
    """As those of another project's files are, whose records bring no ids."""
    base, theirs = write(tmp_path / "base", FULL), tmp_path / "theirs"
    output = outputs.OutputDirectory(str(theirs), "score", {})
    renamed = [dataclasses.replace(p, id=f"sha256-{p.id}") for p in prompts_of(FULL)[::-1]]
    output.write_shard("scored", 0, 1, renamed)
    output.finish()
    advice = "the same under other ids .sha256-c and a.; join them by text: #id=prompt.text behind"
    for suffix in ("", "#id=prompt.text"):
        paths = {"base": base, "theirs": str(theirs)}
        methods = {n: scored_texts.read(n, f"{path}{suffix}") for n, path in paths.items()}
        if suffix:
            found = joined.join_texts(methods, "base").methods
            assert ids(found["theirs"]) == ids(found["base"]) == [f"prompt {x}" for x in "abc"]
        else:
            with pytest.raises(UserError, match=advice):
                joined.join_texts(methods, "base")


def test_continuations_that_people_judge_need_no_scores_of_one_scorer():
    unscored = {name: [None] * len(row) for name, row in FULL.items()}
    methods = {"base": scored(FULL), "mine": scored(unscored, OTHER)}
    found = joined.join_texts(methods, "base")
    assert ids(found.methods["mine"]) == ids(found.methods["base"])
    renamed = {"x": FULL["a"], "b": FULL["b"], "c": FULL["c"]}
    with pytest.raises(UserError, match="different prompts: 1 are missing, 1 are extra"):
        joined.join_texts({"base": scored(FULL), "mine": scored(renamed)}, "base")
    limits = [{"max_new_tokens": limit} for limit in (20, 10)]
    decoded = [dataclasses.replace(scored(FULL), decoding=limit) for limit in limits]
    with pytest.raises(UserError, match="max_new_tokens 10"):
        joined.join_texts({"base": decoded[0], "mine": decoded[1]}, "base")
