"""No file, however damaged, is a traceback: a reader succeeds, or says so in one line."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given

from detox_jax.errors import UserError
from tests.fuzz import damage
from tests.fuzz.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_succeeds_or_says_in_one_line_why_not(name):
    reader = READERS[name]

    @damage.PROFILE
    @given(reader.contents)
    def check(content):
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made)
            for file, beside in reader.beside.items():
                (directory / file).write_bytes(beside)
            (directory / reader.file).write_bytes(content)
            try:
                reader.read(directory)
            except UserError as error:
                assert "\n" not in str(error)
                assert str(directory) in str(error) or reader.file in str(error)

    check()
