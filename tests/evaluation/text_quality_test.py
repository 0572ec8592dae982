"""Figures of many prompts at once are those of `diversity`, text after text."""

import json
import math
import random
import sys

import numpy as np
import pytest

from detox_jax.evaluation import diversity, scored_texts, text_quality
from detox_jax.formats import plain_prompts
from detox_jax.records import Generation

FIGURES = (
    *("self_bleu", "empty_fraction", "degenerate_fraction", "mean_words"),
    "unspaced_fraction",
)
SPACES = [" ", " ", " ", " ", "  ", "\n", "\t ", "\u00a0", "\u3000", "\x1f"]


def made(seed, num_prompts=40):
    """Texts of few words, so that n-grams are shared, with loops, odd spaces and empty ones."""
    rng = random.Random(seed)

    def text():
        words = rng.choices("a b c d E é 我们".split(), k=rng.choice([0, 1, 2, 3, 5, 8, 13, 21]))
        if rng.random() < 0.2:
            words += rng.choices("x y z w".split(), k=rng.choice([1, 2, 3, 4])) * rng.choice([3, 4])
        ends = rng.choice(["", "", " ", "\n"]), rng.choice(["", " ", "  "])
        return ends[0] + "".join(word + rng.choice(SPACES) for word in words) + ends[1]

    return [[text() for _ in range(rng.choice([0, 1, 2, 3, 6]))] for _ in range(num_prompts)]


def read(prompts):
    reader = text_quality.TextReader()
    for texts in prompts:
        reader.add([Generation(text) for text in texts])
    return reader.finish()


def assert_as_diversity_says(quality, prompts):
    for name in FIGURES:
        expected = getattr(diversity, name)(prompts)
        assert getattr(quality, name) == pytest.approx(expected, rel=1e-12, nan_ok=True), name
    for name, function in (
        ("distinct", diversity.distinct_n),
        ("distinct_per_ngram", diversity.distinct_n_per_ngram),
    ):
        expected = [function(prompts, n) for n in (1, 2, 3)]
        assert getattr(quality, name) == pytest.approx(expected, rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("seed", range(8))
def test_figures_are_those_of_diversity(seed):
    prompts = made(seed)
    assert_as_diversity_says(read(prompts), prompts)


def test_all_white_space_parts_words():
    """Of every kind that Unicode has, between two words and alone."""
    kinds = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert len(kinds) > 25
    prompts = [[f"a{kind}b c", f"a {kind} b", kind, "a b"] for kind in kinds]
    quality = read(prompts)
    assert_as_diversity_says(quality, prompts)
    np.testing.assert_array_equal(quality.words_P, 3 + 2 + 0 + 2)


def test_every_prompt_and_every_split_by_itself():
    prompts = made(0)
    quality = read(prompts)
    for i, texts in enumerate(prompts):
        assert_as_diversity_says(quality.rows(np.array([i])), [texts])
    mask_P = np.arange(len(prompts)) % 3 == 1
    assert_as_diversity_says(quality.rows(mask_P), prompts[1::3])


@pytest.mark.parametrize(("name", "value"), [("_CHUNK", 1), ("_CHUNK", 100), ("_KEY_BITS", 20)])
def test_neither_chunks_nor_long_numbers_change_a_figure(monkeypatch, name, value):
    prompts = made(1)
    expected = read(prompts)
    monkeypatch.setattr(text_quality, name, value)
    for column, values in vars(read(prompts)).items():
        np.testing.assert_array_equal(values, getattr(expected, column), column)


def test_self_bleu_equals_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction().method1
    prompts = [texts for texts in made(2, num_prompts=100) if len(texts) > 1]
    scores = []
    for texts in prompts:
        words = [text.split() for text in texts if text.strip()]
        if len(words) > 1:
            scores += [
                bleu.sentence_bleu(words[:i] + words[i + 1 :], own, smoothing_function=smooth)
                for i, own in enumerate(words)
            ]
    assert len(scores) > 50
    assert read(prompts).self_bleu == pytest.approx(sum(scores) / len(scores), rel=1e-12)


def test_long_texts_of_many_different_words():
    rng = random.Random(3)
    words = [f"w{i}" for i in range(5000)]
    prompts = [[" ".join(rng.choices(words, k=700)) for _ in range(20)]]
    assert_as_diversity_says(read(prompts), prompts)


def test_what_records_say_of_tokens_and_ends():
    reader = text_quality.TextReader()
    reader.add([Generation("a", extra={"num_tokens": 3, "finish": "stop"}), Generation("b")])
    reader.add([Generation("c", extra={"num_tokens": 6, "finish": "length"})])
    quality = reader.finish()
    assert (quality.mean_tokens, quality.early_stop_fraction) == (4.5, 0.5)
    assert quality.rows(np.array([0])).early_stop_fraction == 1.0


def test_what_a_record_leaves_open_is_not_said():
    """A null, or a number of tokens that is none, as other programs write them."""
    reader = text_quality.TextReader()
    said = [{"num_tokens": None, "finish": None}, {"num_tokens": "7"}, {"num_tokens": True}]
    reader.add([Generation("a", extra=extra) for extra in said])
    quality = reader.finish()
    assert math.isnan(quality.mean_tokens) and math.isnan(quality.early_stop_fraction)
    reader = text_quality.TextReader()
    reader.add([Generation("a", extra=said[0]), Generation("b", extra={"finish": "stop"})])
    assert reader.finish().early_stop_fraction == 1.0


def test_prompts_by_the_block_are_as_those_one_by_one(monkeypatch):
    monkeypatch.setattr(text_quality, "_CHUNK", 300)
    said = [{}, {"num_tokens": 3}, {"finish": "stop"}, {"num_tokens": 5, "finish": "length"}]
    prompts = [
        [{"text": text, **said[(i + k) % 4]} for k, text in enumerate(texts)]
        for i, texts in enumerate(made(1))
    ]
    one_by_one, by_block = text_quality.TextReader(), text_quality.TextReader()
    for first in range(0, len(prompts), 7):
        part = prompts[first : first + 7]
        records = [
            {"id": f"p{i}", "prompt": {"text": "p"}, "generations": of} for i, of in enumerate(part)
        ]
        plain = plain_prompts.read("\n".join(map(json.dumps, records)).encode())
        assert plain is not None
        by_block.add_plain(plain)
        for of in part:
            more = [{name: x for name, x in g.items() if name != "text"} for g in of]
            one_by_one.add([Generation(g["text"], extra=m) for g, m in zip(of, more, strict=True)])
    expected, blocks = one_by_one.finish(), by_block.finish()
    for name, column in vars(expected).items():
        assert np.array_equal(getattr(blocks, name), column, equal_nan=True), name


@pytest.mark.parametrize("prompts", [[], [[]], [[""]], [["", " "]], [["alone"]]])
def test_nothing_is_nan(prompts):
    quality = read(prompts)
    assert_as_diversity_says(quality, prompts)
    assert math.isnan(quality.mean_tokens) and math.isnan(quality.early_stop_fraction)


@pytest.mark.parametrize(
    ("text", "is_unspaced"),
    [
        ("", False),
        ("the bus is late", False),
        ("café naïve", False),
        ("мы едем домой", False),
        ("우리는 집에 간다", False),  # Korean puts spaces
        ("مرحبا بالعالم", False),
        ("हम घर जाते हैं", False),
        ("我们回家", True),
        ("今日は電車が遅れている。", True),
        ("รถไฟมาสาย", True),
        ("ລົດໄຟມາຊ້າ", True),
        ("ရထားနောက်ကျသည်", True),
        ("រថភ្លើងមកយឺត", True),
        ("the word 我 in English", False),  # one letter of 14
        ("see 我们回家 now", True),
        ("。！", False),
    ],
)
def test_scripts_without_spaces_are_told_by_their_letters(text, is_unspaced):
    assert diversity.is_unspaced(text) == is_unspaced


def test_a_text_that_is_nothing_but_a_mark_of_its_end_is_empty(tmp_path):
    """To its scorer it was empty, score 0.0, and here it was a word, so that nothing was marked."""
    texts = ["<|endoftext|>", " late it is<|endoftext|>", " full"]
    generations = [{"text": text, "toxicity": 0.0} for text in texts]
    row = {"id": "a", "prompt": {"text": "p"}, "generations": generations}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    quality = scored_texts.read("mine", str(tmp_path / "s.jsonl"), with_quality=True).quality
    assert quality is not None and quality.empty_P.tolist() == [1]
    assert quality.words_P.tolist() == [3 + 1]
