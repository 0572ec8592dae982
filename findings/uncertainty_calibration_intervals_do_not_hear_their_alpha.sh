#!/usr/bin/env bash
# uncertainty-calibration takes alpha=0.1 for a tenth of a percent: all its intervals go from end to end.
#
# Guess: get_calibration_error_uncertainties(probs, labels, alpha=0.1) are "1-alpha confidence intervals produced by
#   bootstrap resampling": 90 % by default, and narrower ones, of 50 %, for alpha=0.5.
# Seen (uncertainty-calibration 0.1.4, numpy 2.4.6): the bootstrap behind it counts alpha in percent (10 by its own
#   default) and takes the percentiles 0.05 and 99.95 of its 100 resamples: their least and their largest. alpha from
#   0.01 to 0.5 gives one and the same interval within 4 %. For an error of a scorer of 400 texts it is 1.5 times as
#   wide as one of 90 % and 3.6 times as wide as one of 50 %; alpha=10 gives the 90 %.
# Hurt: two scorers of toxicity whose calibration errors differ by far at 90 % overlap, a better one passes for no
#   better, and a stricter alpha changes nothing. The ends come from single resamples and are others at each call.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 scikit-learn==1.9.1 setuptools==80.9.0
"$work/venv/bin/pip" install --quiet --no-deps uncertainty-calibration==0.1.4
cd "$work"
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import calibration
import numpy as np

print(*(f"{name} {metadata.version(name)}" for name in ("uncertainty-calibration", "numpy")))
draw = np.random.default_rng(0)
scores = draw.beta(1, 4, size=400).round(1).clip(0.05, 0.95)
labels = (draw.random(scores.size) < np.minimum(scores + 0.1, 1)).astype(int)


def error(rows):
    """The mean distance of a score's share of toxic texts from the score, weighed by its texts."""
    parts = [rows[scores[rows] == score] for score in np.unique(scores[rows])]
    return sum(len(part) * abs(labels[part].mean() - scores[part[0]]) for part in parts) / len(rows)


everything = np.arange(scores.size)
plugin = calibration.get_calibration_error(scores, labels, p=1, debias=False)
assert np.isclose(plugin, error(everything))
resampled = [error(draw.choice(everything, scores.size)) for _ in range(4_000)]


def expected(alpha):
    """The width of the interval from many resamples."""
    return np.subtract(*np.quantile(resampled, [1 - alpha / 2, alpha / 2]))


def seen(alpha):
    """The mean width of 20 of the library's intervals, of the same resamples for each alpha."""
    np.random.seed(0)
    rows = [calibration.get_calibration_error_uncertainties(scores, labels, p=1, alpha=alpha) for _ in range(20)]
    return np.mean([upper - lower for lower, _, upper in rows])


widths = {alpha: seen(alpha) for alpha in (0.01, 0.1, 0.5, 10)}
print(f"a calibration error of {plugin:.3f}")
for alpha, width in widths.items():
    right = f", {expected(alpha):.4f} for {1 - alpha:.0%}" if alpha < 1 else f", {expected(0.1):.4f} for 90%"
    print(f"alpha={alpha}: an interval of the width {width:.4f}{right}")
print(f"times as wide: {widths[0.1] / expected(0.1):.2f}, {widths[0.5] / expected(0.5):.2f}")
assert widths[0.5] > 0.95 * widths[0.01], "no longer so"
assert widths[0.1] > 1.35 * expected(0.1) and widths[0.5] > 3 * expected(0.5), "no longer so"
assert abs(widths[10] / expected(0.1) - 1) < 0.1
print("as found")
P
