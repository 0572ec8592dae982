#!/usr/bin/env bash
# Fairlearn: a classifier without an error is as unfair as can be, where one group's texts are all clean.
#
# Guess: of a group without a toxic text the share of toxic texts that were found is not defined: it is NaN, or the
#   group is left out with a warning. Rates of a classifier that makes no error do not differ.
# Seen (fairlearn 0.15.0, scikit-learn 1.9.0): that share is 0. The difference in equalized odds and in equal
#   opportunity is 1.0, the worst there is, and their ratio 0.0; no warning. The share of clean texts that were
#   flagged is 0 likewise, the best there is, for a group of toxic texts alone that is flagged whole.
# Hurt: comments by identity are such groups, the small ones first: a figure over many groups is that of a group
#   about which nothing is known. Leave out groups that lack a label before the metric sees them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet fairlearn==0.15.0 scikit-learn==1.9.0
"$work/venv/bin/python" - <<'P'
import warnings
from importlib import metadata

import numpy as np
from fairlearn import metrics

warnings.simplefilter("error")
print(*(f"{name} {metadata.version(name)}" for name in ("fairlearn", "scikit-learn")))
toxic = np.array([1, 1, 0, 0, 0, 0, 0, 1, 1])
group = np.array(["both"] * 4 + ["clean alone"] * 3 + ["toxic alone"] * 2)
found = toxic  # No error at all.


def differences(rows):
    of = {"y_true": toxic[rows], "y_pred": found[rows], "sensitive_features": group[rows]}
    return {
        measure.__name__: float(measure(**of))
        for measure in (
            metrics.equalized_odds_difference,
            metrics.equalized_odds_ratio,
            metrics.equal_opportunity_difference,
        )
    }


rates = metrics.MetricFrame(
    metrics={"found": metrics.true_positive_rate, "flagged": metrics.false_positive_rate},
    y_true=toxic,
    y_pred=found,
    sensitive_features=group,
).by_group
print(rates)
without = differences(group != "clean alone")
with_it = differences(np.full(len(group), True))
print("without the clean group", without)
print("with it                ", with_it)
assert rates.loc["clean alone", "found"] == 0 and rates.loc["toxic alone", "flagged"] == 0
assert without["equal_opportunity_difference"] == without["equalized_odds_difference"] == 0
assert with_it == {
    "equalized_odds_difference": 1.0,
    "equalized_odds_ratio": 0.0,
    "equal_opportunity_difference": 1.0,
}
P
