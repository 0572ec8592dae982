"""What a reader sees behind disguises."""

import subprocess
import sys

import numpy as np
import pytest

from detox_jax.toxicity import letters


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("You are an IDIOT!!", "you are an idiot"),
        ("y o u  a r e  s t u p i d", "you are stupid"),
        ("i.d.i.o.t", "idiot"),
        ("1d10t", "idiot"),
        ("!d!ot b@d $tup1d", "idiot bad stupid"),
        ("stuuuupid idiottttt", "stupid idiot"),
        ("stu\u200bpid", "stupid"),
        ("\u0455tu\u0440\u0456d", "stupid"),  # Cyrillic s, p, i
        ("\uff49diot", "idiot"),  # full width
        ("Caf\u00e9 na\u00efve", "cafe naive"),
        ("du*b *dumb* d**b", "du*b dumb d*b"),
        # What must stay as it is.
        ("in 1984, no! 42 at 9", "in no at"),
        ("a good book", "a good book"),
        ("a 10k run", "a k run"),
        ("it's mine, don't", "its mine dont"),
        ("plan a b", "plan a b"),
        ("a, b, c", "a b c"),
        ("", ""),
        ("\0 \0", ""),
        ("\u4e2d\u6587 \U0001f600", ""),
        ("\ud800x", "x"),
    ],
)
def test_normalize(text, seen):
    assert letters.normalize(text) == seen


def test_texts_do_not_touch():
    texts = ["ab", "", "b\0c", "c", "c", "i d", "i o t", "\u00e9", ""]
    together = letters.read_letters(texts)
    alone = [letters.read_letters([text]) for text in texts]
    inside = together.codes_C != letters.BOUNDARY
    assert np.array_equal(
        together.codes_C[inside],
        np.concatenate([a.codes_C[a.codes_C != letters.BOUNDARY] for a in alone]),
    )
    assert together.rows_C[inside].tolist() == [0, 0, 2, 2, 3, 4, 5, 5, 6, 6, 6, 7]


def test_boundaries_are_single_and_at_both_ends():
    codes = letters.read_letters([" a  b ", "...", "c"]).codes_C
    boundary = codes == letters.BOUNDARY
    assert boundary[0] and boundary[-1]
    assert not np.any(boundary[1:] & boundary[:-1])


@pytest.mark.parametrize("characters", ["x", "1", "a1", "!", "* ", "x ", "\u0301"])
def test_work_on_long_texts_is_linear_in_what_they_hold(characters):
    """Quadratic work on a million characters would be ended here long before it was done."""
    program = (
        "from detox_jax.toxicity import letters\n"
        f"letters.read_letters([{characters!r} * 1_000_000])\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
