"""Tags: who has which, and which cannot be told apart."""

import pytest

from detox_jax import tags
from detox_jax.errors import UserError


def test_the_threshold_decides_and_a_document_without_a_score_has_none():
    plain = tags.Tags(threshold=0.3, untagged=0.0)
    assert plain.of("a", 0.29) == "<|good|>" and plain.of("a", 0.3) == "<|bad|>"
    assert plain.of("a", None) is None


def test_a_share_has_no_tag_by_its_ids_alone():
    some = tags.Tags(untagged=0.1)
    without = {i for i in range(3000) if some.of(str(i), 0.1) is None}
    assert 240 < len(without) < 360
    assert without == {i for i in range(3000) if some.of(str(i), 0.9) is None}
    assert all(tags.Tags(untagged=1.0).of(str(i), 0.1) is None for i in range(50))


def test_tags_are_written_with_the_tokens_that_there_are(vocabulary):
    good, bad = tags.Tags().ids(vocabulary)
    assert vocabulary.decode(good) == "<|good|>" and vocabulary.decode(bad) == "<|bad|>"
    assert len(good) > 1 and max(*good, *bad) < vocabulary.vocab_size
    sentence = "The following text is kind.\n"
    assert vocabulary.decode(tags.Tags(good=sentence).ids(vocabulary)[0]) == sentence


def test_a_text_that_holds_a_tag_is_refused():
    tags.Tags().check_text("< |good|> and |bad|>", "d")
    with pytest.raises(UserError, match=r"d: its text holds the tag '<\|bad\|>'; .* BAD_TAG"):
        tags.Tags().check_text("a <|bad|> word", "d")


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("", "<|bad|>", "GOOD_TAG is ''"),
        ("<|good|>", "  ", "BAD_TAG is '  '"),
        ("kind", "kind", "one may not begin the other"),
        ("kind", "kinder", "one may not begin the other"),
    ],
)
def test_tags_that_are_none(good, bad, message):
    with pytest.raises(UserError, match=message):
        tags.Tags(good, bad)


def test_tags_that_a_vocabulary_cannot_write():
    class Vocabulary:
        source = "here"

        def encode_batch(self, texts):
            return [[7] if "?" not in text else [] for text in texts]

        def decode(self, ids):
            return ""

    with pytest.raises(UserError, match="BAD_TAG: here cannot write '[?]'"):
        tags.Tags("a", "?").ids(Vocabulary())
    with pytest.raises(UserError, match="here writes the beginning of one for the other"):
        tags.Tags("a", "b").ids(Vocabulary())


FIFTHS = tags.Tags("<1>", "<5>", untagged=0.0, between=("<2>", "<3>", "<4>"))


def test_classes_by_rank_are_equal_and_the_remainder_is_in_the_worst():
    """Seven documents in five classes, as worked out by hand."""
    scores = (0.1, 0.9, 0.4, 0.6, 0.2, 0.7, 0.3)
    numbers = FIFTHS.classes([(str(i), score) for i, score in enumerate(scores)])
    order = sorted(range(7), key=lambda i: scores[i])
    assert order == [0, 4, 6, 2, 3, 5, 1]
    assert [numbers[i] - 1 for i in order] == [0, 1, 2, 3, 4, 4, 4]


def test_equal_scores_go_by_their_ids_and_those_without_one_have_no_class():
    """Not by the order in which they are read: of a pool the earlier rounds come first."""
    documents = [("a", 0.5), ("b", None), *((x, 0.5) for x in "cdef"), ("g", 0.0)]
    numbers = FIFTHS.classes(documents)
    assert (numbers[1], numbers[6]) == (0, 1)
    assert sorted(numbers[i] for i in (0, 2, 3, 4, 5)) == [2, 3, 4, 5, 5]
    assert FIFTHS.classes(documents[::-1]) == numbers[::-1] != [2, 0, 3, 4, 5, 5, 1]
    rounds = [(f"round-{1 + i // 100}-{i}", 0.0) for i in range(300)]
    in_best = [
        name[:7] for (name, _), k in zip(rounds, FIFTHS.classes(rounds), strict=True) if k == 1
    ]
    assert len(in_best) == 60 and all(10 <= in_best.count(f"round-{r}") <= 30 for r in (1, 2, 3))
    with pytest.raises(UserError, match="BETWEEN_TAGS: 4 scored documents are fewer than 5 tags"):
        FIFTHS.classes(documents[:5])


def test_a_share_has_no_class_and_counts_in_the_ranks():
    some = tags.Tags("<1>", "<5>", untagged=0.2, between=("<2>", "<3>", "<4>"))
    documents = [(str(i), i / 1000) for i in range(1000)]
    all_of_them, numbers = FIFTHS.classes(documents), some.classes(documents)
    assert 120 < numbers.count(0) < 280
    assert all(a == b for a, b in zip(numbers, all_of_them, strict=True) if a)


def test_two_tags_go_by_the_threshold():
    plain = tags.Tags(threshold=0.3, untagged=0.0)
    assert plain.classes([("a", 0.29), ("b", 0.3), ("c", None)]) == [1, 2, 0]
    assert plain.named == {"good": "<|good|>", "bad": "<|bad|>"}
    assert FIFTHS.named == {"good": "<1>", "bad": "<5>", "between": ["<2>", "<3>", "<4>"]}
    assert plain.class_names == ("untagged", "good", "bad")


def test_ids_of_more_than_two_are_the_best_first(vocabulary):
    assert [vocabulary.decode(ids) for ids in FIFTHS.ids(vocabulary)] == [
        *("<1>", "<2>", "<3>", "<4>", "<5>")
    ]
    with pytest.raises(UserError, match="its text holds the tag '<3>'; .* BETWEEN_TAGS"):
        FIFTHS.check_text("so <3> it is", "d")


@pytest.mark.parametrize("between", [("kinder",), ("a", " "), ("x", "x"), "mild"])
def test_tags_between_that_are_none(between):
    with pytest.raises(UserError, match="BETWEEN_TAGS"):
        tags.Tags("kind", "bad", between=between)
