"""No file, however damaged, is a traceback: a reader succeeds, or says so in one line."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given

from tests.fuzz import damage
from tests.fuzz.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_succeeds_or_says_in_one_line_why_not(name):
    reader = READERS[name]

    @damage.PROFILE
    @given(reader.contents)
    def check(content):
        with tempfile.TemporaryDirectory() as made:
            reader.succeeds_or_says_why_not(content, Path(made))

    check()
