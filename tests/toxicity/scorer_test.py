"""The protocol, what a scorer sees, and the word list."""

import dataclasses
import textwrap

import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import cache, lexicon, ngram, profanity_check, remote
from detox_jax.toxicity import scorer as scorers


class Fixed:
    name = "fixed"
    fingerprint = "fixed-1"

    def __init__(self, scores):
        self.scores = scores
        self.seen = []

    def score(self, texts):
        self.seen.extend(texts)
        return self.scores


def test_the_example_of_the_documentation_runs():
    example = (scorers.__doc__ or "").split("lines:\n")[1].split("\nPut it")[0]
    namespace = {}
    exec(textwrap.dedent(example), namespace)
    scorer = namespace["WordCount"]()
    assert scorers.score_texts(scorer, ["an idiot", "Good day", "idiot " * 9]) == [1 / 3, 0, 1]
    assert scorers.identity(scorer) == {"name": "word-count", "fingerprint": "word-count-1"}


def test_prepare_strips_end_of_text_and_cuts_whole_characters():
    assert scorers.prepare("<|endoftext|>Hello<|endoftext|>") == "Hello"
    assert scorers.prepare("a" * 20_480) == "a" * 20_480
    assert scorers.prepare("a" * 20_481) == "a" * 20_480
    assert scorers.prepare("a" * 20_479 + "\u00e9") == "a" * 20_479
    assert scorers.prepare("\u20ac" * 7000) == "\u20ac" * 6826  # 3 bytes each


def test_scorers_see_prepared_text():
    scorer = Fixed([0.5])
    assert scorers.score_texts(scorer, ["Hello<|endoftext|>"]) == [0.5]
    assert scorer.seen == ["Hello"]


def test_a_missing_score_stays_missing():
    assert scorers.score_texts(Fixed([None, 0, 1]), ["a", "b", "c"]) == [None, 0.0, 1.0]


EMPTIES = ["", " \n\t", "<|endoftext|>", " <|endoftext|> <|endoftext|>"]


def test_empty_texts_have_one_score_and_no_scorer_sees_them():
    scorer = Fixed([0.5])
    assert scorers.score_texts(scorer, [*EMPTIES, "x"]) == [0.0] * 4 + [0.5]
    assert scorer.seen == ["x"]
    assert scorers.score_texts(Fixed(["not asked"]), EMPTIES) == [0.0] * 4
    assert all(map(records.is_empty, EMPTIES)) and not records.is_empty(".")


def test_what_has_no_score_is_unreadable_or_unscored():
    scorer = ngram.NgramScorer()
    texts = ["Good day.", "\u4f60\u597d", "\u4f60\u597d", "You"]
    scores = [0.1, None, 0.5, None]
    assert scorers.unreadable(scorer, texts, scores) == [False, True, False, False]
    assert scorers.unreadable(Fixed([]), texts, scores) == [False] * 4


def test_every_scorer_says_which_languages_it_is_for(tmp_path):
    perspective = remote.PerspectiveScorer()
    german = dataclasses.replace(perspective, languages=("de",))
    cached = cache.CachedScorer(scorer=ngram.NgramScorer(), path=str(tmp_path / "c.sqlite"))
    said = {
        scorers.languages(scorer)
        for scorer in (ngram.NgramScorer(), lexicon.LexiconScorer(), cached)
    }
    assert said == {("en",)}
    assert not cached.can_read("\u4f60\u597d") and profanity_check.ProfanityCheckScorer.languages
    assert scorers.languages(perspective) == "as the service says"
    assert scorers.languages(remote.ModerationScorer()) == "as the service says"
    assert scorers.languages(german) == ("de",)
    assert scorers.languages(Fixed([])) == "as its author says"
    other = cache.CachedScorer(scorer=Fixed([]), path=str(tmp_path / "c.sqlite"))
    assert other.can_read("\u4f60\u597d")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5], "1 scores for 2 texts"),
        ([0.5, 1.5], "1.5"),
        ([float("nan"), 0], "nan"),
        ([-1, 0], "-1"),
    ],
)
def test_wrong_scores_are_errors(scores, message):
    with pytest.raises(UserError, match=message):
        scorers.score_texts(Fixed(scores), ["a", "b"])


@pytest.mark.parametrize("scorer", [ngram.NgramScorer, None, "ngram"])
def test_what_is_no_scorer_is_an_error(scorer):
    with pytest.raises(UserError, match="with the parentheses"):
        scorers.identity(scorer)


def test_lexicon_counts_whole_words_and_phrases():
    scorer = lexicon.LexiconScorer()
    texts = ["You IDIOT.", "idiot, moron", "idiotically", "Shut up!", "Good day", ""]
    assert scorer.score(texts) == [0.5, 0.75, 0, 0.5, 0, 0]


def test_lexicon_of_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("silly\nsilly goose\n\nc++\n")
    scorer = lexicon.LexiconScorer(str(path))
    # The phrase is one hit, not two.
    assert scorer.score(["a silly goose", "silly c++", "idiot"]) == [0.5, 0.75, 0]
    assert scorer.fingerprint != lexicon.LexiconScorer().fingerprint
    path.write_text("c++\nsilly goose\nsilly\n")
    assert lexicon.LexiconScorer(str(path)).fingerprint == scorer.fingerprint


def test_lexicon_reads_a_list_as_banned_words_does(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# rude: idiot\nsilly   goose\n")
    scorer = lexicon.LexiconScorer(str(path))
    assert scorer.score(["a silly goose", "# rude: idiot"]) == [0.5, 0]
    path.write_text("# Insults of Russian.\n\u0434\u0443\u0440\u0430\u043a\n")
    assert lexicon.LexiconScorer(str(path)).score(["You idiot"]) == [None]


# Of Tamil: KA TTA, which begins `kadai`, a shop, and ends `kaakada`; of Arabic: a dog.
TAMIL, DOG = "\u0b95\u0b9f", "\u0643\u0644\u0628"


@pytest.mark.parametrize(
    ("listed", "text", "score"),
    [
        (TAMIL, TAMIL, 0.5),
        (TAMIL, f"{TAMIL}\u0bc8", 0),
        (TAMIL, f"\u0b95\u0bbe{TAMIL} {TAMIL}\u0bc8", 0),
        ("b\u00eate", "Be\u0302te!", 0.5),
        ("be\u0302te", "B\u00eate!", 0.5),
        ("b\u00eate\ncon", "con\u0303o", 0),
        ("b\u00eate", "\u2764\ufe0fb\u00eate\ufe0f 1\ufe0f\u20e3b\u00eate", 0.75),
        (DOG, f"{DOG}\u064c", 0.5),  # with its ending, which most leave out
    ],
)
def test_lexicon_takes_marks_for_parts_of_words(listed, text, score, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(listed, encoding="utf-8")
    scorer = lexicon.LexiconScorer(str(path))
    assert scorer.score([text]) == [score]
    assert scorer.fingerprint.startswith("lexicon-3-")


def test_lexicon_of_ascii_is_what_it_was(tmp_path):
    """Scores and fingerprint of version 2; a sign without letters changes neither."""
    assert lexicon.LexiconScorer().fingerprint == "lexicon-2-094cf3c4b07e"
    assert lexicon.LexiconScorer().score(["You moron\u0301, \u2764\ufe0fidiot"]) == [0.75]
    path = tmp_path / "words.txt"
    path.write_text("silly\n\U0001f595\n", encoding="utf-8")
    assert lexicon.LexiconScorer(str(path)).fingerprint.startswith("lexicon-2-")


def test_lexicon_of_no_file(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in [
        ("absent.txt", "not readable"),
        ("empty.txt", "holds no phrase"),
        ("bytes.txt", "not readable"),
    ]:
        with pytest.raises(UserError, match=f"{name}: {message}"):
            lexicon.LexiconScorer(str(tmp_path / name))
