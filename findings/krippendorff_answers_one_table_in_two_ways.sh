#!/usr/bin/env bash
# Guess: krippendorff.alpha takes the same ratings as a matrix of raters and units, or as counts of values
#   for each unit, and answers both alike, whatever raters said.
# Seen (krippendorff 0.9.0): where all raters gave one answer, alpha does not exist; the matrix raises
#   ValueError, the counts return NaN with a RuntimeWarning. And a matrix written as lists, with None for a
#   rating that is missing, raises "Don't know how to construct value domain for dtype kind O": only
#   numpy.nan is a missing rating.
# Hurt: a table of human ratings that covers many questions ends at the first on which all agreed, or is
#   filled with NaN, which the mean over questions takes up; which of both depends on the layout alone.
#   Catch both, and say "undefined", which is not 1 and not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "krippendorff==0.9.0" "numpy==2.4.6"
cd "$work"
"$work/venv/bin/python" - <<'P'
import warnings
from importlib.metadata import version
import krippendorff
import numpy as np

EQUAL = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])  # two raters, three texts, one answer
COUNTS = np.array([[2, 0], [2, 0], [2, 0]])  # the same by text and answer
MIXED = [[1, 2, None], [1, 0, 0]]


def answer(**ratings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = krippendorff.alpha(**ratings, level_of_measurement="nominal")
        except (ValueError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
    return f"{value} {[warning.category.__name__ for warning in caught]}"


as_matrix, as_counts = answer(reliability_data=EQUAL), answer(value_counts=COUNTS)
with_none = answer(reliability_data=MIXED)
with_nan = answer(reliability_data=np.array(MIXED, float))
print("krippendorff", version("krippendorff"))
print("one answer, matrix:", as_matrix, "\none answer, counts:", as_counts)
print("None:", with_none, "\nnan:", with_nan)
assert as_matrix.startswith("ValueError: There has to be more than one value")
assert as_counts.startswith("nan ") and "RuntimeWarning" in as_counts
assert "dtype kind O" in with_none and "Error" not in with_nan
P
