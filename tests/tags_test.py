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
