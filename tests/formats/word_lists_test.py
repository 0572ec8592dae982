"""Lists of words, as scorers and steering read them."""

import gzip

import pytest

from detox_jax.errors import UserError
from detox_jax.formats import word_lists


def test_a_list(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# of ours\n\nshut   up\nmoron\n  moron \n")
    assert word_lists.read_words(str(path)) == ["shut up", "moron"]
    path.write_text("# nothing\n\n")
    with pytest.raises(UserError, match=r"words.txt: holds no phrase"):
        word_lists.read_words(str(path))
    with pytest.raises(UserError, match="missing.txt: not readable as a word list"):
        word_lists.read_words(str(tmp_path / "missing.txt"))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_the_first_phrase(tmp_path, compress):
    path = tmp_path / "words.txt"
    path.write_bytes(compress("\ufeffshut up\r\nmoron\r\n".encode()))
    assert word_lists.read_words(str(path)) == ["shut up", "moron"]
