"""The n-gram scorer: its features against a slow reference, its scores, its weights file."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax.errors import UserError
from detox_jax.toxicity import letters, ngram, quality

MASK = (1 << 64) - 1


def slow_bucket(value, salt):
    mixed = ((value ^ (salt * ngram._SALT_FACTOR & MASK)) * ngram._WORD_BASE) & MASK
    mixed = ((mixed ^ (mixed >> 29)) * ngram._MIX) & MASK
    return mixed >> (64 - ngram.BUCKET_BITS)


def code(character):
    return " abcdefghijklmnopqrstuvwxyz*".index(character)


def word_hash(word):
    total = 0
    for index, character in enumerate(word):
        total += code(character) * pow(ngram._WORD_BASE, index % 64, 1 << 64)
    return total & MASK


def slow_features(text):
    """One counter of buckets a kind, by loops over strings."""
    words = letters.normalize(text).split()
    kinds = []
    for salt, order in enumerate(ngram.CHAR_ORDERS):
        grams = collections.Counter()
        for word in words:
            padded = f" {word} "
            for start in range(len(padded) - order + 1):
                value = 0
                for character in padded[start : start + order]:
                    value = value * 32 + code(character)
                grams[slow_bucket(value, salt)] += 1
        kinds.append(grams)
    salt = len(ngram.CHAR_ORDERS)
    hashes = [word_hash(word) for word in words]
    kinds.append(collections.Counter(slow_bucket(h, salt) for h in hashes))
    pairs = zip(hashes[:-1], hashes[1:], strict=True)
    kinds.append(
        collections.Counter(
            slow_bucket((first * ngram._PAIR_FACTOR + second) & MASK, salt + 1)
            for first, second in pairs
        )
    )
    return kinds


ODD_TEXTS = [
    "You are an idiot, you know.",
    "",
    "a",
    "I",
    "...",
    "x" * 200,
    "d*mb \u0455tupid 1d10t",
    "one\ntwo\0three",
    "i a m s p a c e d",
]


def check_features(texts):
    extracted = ngram.extract(texts)
    assert len(extracted) == len(ngram.KIND_SCALES)
    for row, text in enumerate(texts):
        for features, expected in zip(extracted, slow_features(text), strict=True):
            found = collections.Counter(features.buckets_E[features.rows_E == row].tolist())
            assert found == expected, text


def test_features_equal_a_slow_reference():
    check_features(ODD_TEXTS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab iI1!*'. \0\u00e9\u0430", max_size=12), max_size=4))
def test_features_equal_a_slow_reference_on_any_text(texts):
    check_features(texts)


def test_no_texts():
    assert ngram.NgramScorer().score([]) == []


def test_a_score_is_the_logistic_of_the_scaled_weights(tmp_path):
    weights = np.random.default_rng(0).normal(size=ngram.NUM_BUCKETS).astype(np.float16)
    np.savez(tmp_path / "w.npz", weights=weights, bias=np.float32(-0.25))
    text = "You are an idiot."
    logit = -0.25
    for scale, kind in zip(ngram.KIND_SCALES, slow_features(text), strict=True):
        evidence = sum(float(weights[bucket]) * n for bucket, n in kind.items())
        logit += scale * evidence / sum(kind.values()) ** ngram.LENGTH_POWER
    (score,) = ngram.NgramScorer(str(tmp_path / "w.npz")).score([text])
    assert score == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("_LOOKED_UP", 0), ("_LOOKED_UP", 4)])
def test_scores_do_not_depend_on_what_is_looked_up(monkeypatch, name, value):
    texts = ["you are a fool", "1d10t f**k", "", "well, good morning to all of you " * 50]
    expected = ngram.NgramScorer().score(texts)
    monkeypatch.setattr(ngram, name, value)
    assert ngram.NgramScorer().score(texts) == expected


def test_scores_do_not_depend_on_the_batch(monkeypatch):
    texts = ODD_TEXTS * 3
    scorer = ngram.NgramScorer()
    together = scorer.score(texts)
    assert together == [scorer.score([text])[0] for text in texts]
    monkeypatch.setattr(ngram, "_TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(ngram, "_CHARACTERS_AT_ONCE", 50)
    assert scorer.score(texts) == together


@pytest.mark.parametrize(
    "text",
    [
        "Thank you for the help.",
        "Hello",
        "ok",
        "I disagree with you.",
        "The bus was late again this morning.",
        "Could you please tell me where you bought the lamp?",
        "I am a gay man.",
        "He is a muslim.",
        "My friend is black.",
        "She is Jewish.",
        "Bonjour, comment allez-vous?",
    ],
)
def test_harmless_sentences_score_low(text):
    assert ngram.NgramScorer().score([text])[0] < 0.2


@pytest.mark.parametrize(
    "text", ["You are an idiot.", "What a stupid idea, moron.", "shut up, you dumb jerk"]
)
def test_mild_insults_score_high_in_every_disguise(text):
    scorer = ngram.NgramScorer()
    plain = scorer.score([text])[0]
    assert plain > 0.8
    for name, disguise in quality.DISGUISES.items():
        assert scorer.score([disguise(text)])[0] > 0.6, name


def test_every_text_that_it_can_read_has_a_score():
    scorer = ngram.NgramScorer()
    texts = [
        "",
        " ",
        "12345",
        "\0\1\2\xff",
        "\ud800",
        "a" * 1_000_000,
        "x y " * 99999,
    ]
    scores = scorer.score(texts)
    assert all(0 <= score <= 1 for score in scores)
    # Without a Latin letter there is no evidence.
    assert scores[:3] == [0.0] * 3


@pytest.mark.parametrize(
    "text",
    [
        "\u4eca\u5929\u5929\u6c14\u5f88\u597d",  # Chinese, calm
        "\u4f60\u662f\u50bb\u74dc",  # Chinese, an insult
        "\u0623\u0646\u062a \u0623\u062d\u0645\u0642",  # Arabic, an insult
        "\u0418\u0434\u0451\u0442 \u0434\u043e\u0436\u0434\u044c",  # Russian, calm
        "\u0422\u044b \u0434\u0443\u0440\u0430\u043a",  # Russian, an insult
        "You idiot \u4f60\u662f\u50bb\u74dc",  # a third is unread
    ],
)
def test_what_it_cannot_read_it_does_not_score(text):
    scorer = ngram.NgramScorer()
    assert scorer.score(["You idiot.", text, "Good day."])[1] is None
    assert not scorer.can_read(text)


def test_plain_english_has_the_scores_that_it_had():
    """Those of version 1, whose weights these are; the rule of version 2 is about other texts."""
    texts = [
        "You are an idiot.",
        "Good day, caf\u00e9.",
        "Y\u043eu st\u0443pid m\u043er\u043en.",
        "1984 \U0001f642",
    ]
    expected = [0.9932085227258779, 0.013427439383697094, 0.9904048381852781, 0.0]
    assert ngram.NgramScorer().score(texts) == pytest.approx(expected, rel=1e-12)


def test_only_the_first_20480_bytes_count():
    scorer = ngram.NgramScorer()
    dots = "." * 20_480
    assert scorer.score([dots + "you idiot", "you idiot" + dots]) == [
        0,
        *scorer.score(["you idiot"]),
    ]


def test_fingerprint_is_of_the_weights(tmp_path):
    embedded = ngram.NgramScorer()
    assert embedded.fingerprint.startswith("ngram-2-")
    weights = np.zeros(ngram.NUM_BUCKETS, np.float16)
    prints = []
    for index, bias in enumerate([0.0, 0.0, 0.5]):
        path = tmp_path / f"{index}.npz"
        (np.savez if index else np.savez_compressed)(path, weights=weights, bias=np.float32(bias))
        prints.append(ngram.NgramScorer(str(path)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_the_weights_are_small():
    assert ngram.WEIGHTS_FILE.stat().st_size <= 2_000_000


def test_unreadable_weights(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "small.npz", weights=np.zeros(8, np.float16), bias=np.float32(0))
    np.savez(tmp_path / "other.npz", something=np.zeros(8))
    for name in ("bad.npz", "other.npz", "absent.npz"):
        with pytest.raises(UserError, match=f"{name}: not readable as scorer weights"):
            ngram.NgramScorer(str(tmp_path / name))
    with pytest.raises(UserError, match="holds 8 weights"):
        ngram.NgramScorer(str(tmp_path / "small.npz"))
