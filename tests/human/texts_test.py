"""Texts in cells: alike of all systems, in one line, and recognised when they come back."""

import pytest

from detox_jax.errors import UserError
from detox_jax.human import texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" so it is.<|endoftext|>", "so it is."),
        ("so it is.  ", "so it is."),
        ("one\n two\r\nthree\u2028four", "one ↵ two ↵ three ↵ four"),
        ("one\n\ntwo", "one ↵ ↵ two"),
        ("a\tb\x00c\x1bd\ud800", "a b\ufffdc\ufffdd\ufffd"),
        ("<|endoftext|>", ""),
        ("日本 été", "日本 été"),
    ],
)
def test_what_tells_systems_apart_around_a_text_is_not_shown(text, shown):
    assert texts.shown(text, "here") == shown


def test_a_text_that_no_cell_holds_is_refused():
    assert len(texts.shown("x" * texts.LONGEST, "here")) == texts.LONGEST
    with pytest.raises(UserError, match="method 'a': 32,001 characters, and a cell"):
        texts.shown("x" * (texts.LONGEST + 1), "method 'a'")


@pytest.mark.parametrize("text", ["=1+1", "+2", "-3", "@sum", "1/2", "NA", "TRUE", ""])
def test_no_cell_is_a_formula_a_number_or_nothing(text):
    for cell in (texts.prompt_cell(text), texts.continuation_cell(text)):
        assert cell[0] in "“…" and text in cell
    assert texts.continuation_cell("") == "… (no text)"


def test_a_cell_is_recognised_whatever_spaces_and_code_page_did_to_it():
    expected = texts.continuation_cell("an été of 日本, a  day")
    assert texts.same(f" {expected} ", expected, is_exact=True)
    assert texts.same("… an e\u0301te\u0301 of 日本, a day", expected, is_exact=True)
    in_code_page = expected.encode("cp1252", "replace").decode("cp1252")
    assert texts.same(in_code_page, expected, is_exact=False)
    assert not texts.same(in_code_page, expected, is_exact=True)
    for is_exact in (True, False):
        assert not texts.same("… an été of 日本, a dog", expected, is_exact)
