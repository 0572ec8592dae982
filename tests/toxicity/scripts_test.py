"""Which texts a scorer can read, by the letters that it knows."""

import pytest

from detox_jax.toxicity import letters, lexicon, quality, scripts

HAN, KANA, HANGUL = "\u4f60\u597d", "\u3042\u30fc", "\uc88b\uc544"
CYRILLIC_WORD, LOOK_ALIKE_WORD = "\u0434\u043e\u043c", "\u043e\u0441\u0430"  # a house, a wasp


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "1984 + 2",
        "\U0001f642\u2026!",
        "\u0661\u0662",  # digits of Arabic are no letters
        "Good day",
        "caf\u00e9 \u0141\u00f3d\u017a e\u0301tude Ti\u1ebfng Vi\u1ec7t",
        "\uff49\uff44\uff49\uff4f\uff54 \U0001d422\U0001d41d",  # full width, mathematical bold
        "don\u02bct",
        "\ud800",
        "Y\u043eu idi\u043et",  # a disguise
        quality.DISGUISES["homoglyphs"]("a cop spoke to people at each place"),
        "The Greek letter \u03c0 stands for a number.",
        f"We ate {HAN} today",  # 2 of 12 letters
        "ic\ufffd\u05da",  # of a model of bytes
    ],
)
def test_these_can_be_read(text):
    assert scripts.can_read(text)


@pytest.mark.parametrize(
    "text",
    [
        HAN,
        KANA,
        HANGUL,
        CYRILLIC_WORD,
        HAN[0],
        f"a {HAN}",
        LOOK_ALIKE_WORD,
        LOOK_ALIKE_WORD.upper(),
        "\u03b1\u03bd\u03c4\u03b5",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        f"We ate {HAN}{HAN} to",  # 4 of 11
        f"1984 {HAN}!!! \U0001f642",
        # Beside what is surely Cyrillic, letters that look Latin are Cyrillic too.
        f"That is {LOOK_ALIKE_WORD} {CYRILLIC_WORD}",
    ],
)
def test_these_cannot(text):
    assert not scripts.can_read(text)


def test_from_a_fifth_of_the_letters_on_a_text_is_not_read():
    assert scripts.UNREADABLE_SHARE == 0.2
    assert scripts.can_read("abcdefghi" + HAN) and not scripts.can_read("abcdefgh" + HAN)


def test_hangul_and_accents_are_counted_as_letters_and_not_by_their_parts():
    assert scripts.can_read("abcdefghi" + HANGUL)
    assert scripts.can_read("abcdefgh" + "e\u0301" + HAN)


def test_a_list_of_words_reads_its_own_scripts(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff\u0434\u0443\u0440\u0430\u043a\n".encode())
    scorer = lexicon.LexiconScorer(str(path))
    russian = "\u0422\u044b \u0434\u0443\u0440\u0430\u043a"
    assert scorer.score([russian, "You idiot", f"{HAN}{HAN}"]) == [0.5, None, None]
    assert lexicon.LexiconScorer().score([russian, "You idiot", ""]) == [None, 0.5, 0.0]
    assert isinstance(scorer.languages, str) and lexicon.LexiconScorer().languages == ("en",)


def test_letters_that_look_latin_are_those_that_are_undone():
    assert {"\u0430", "\u03bf"} <= letters.LOOK_ALIKE_LETTERS
    assert "\u2018" not in letters.LOOK_ALIKE_LETTERS and "a" not in letters.LOOK_ALIKE_LETTERS
