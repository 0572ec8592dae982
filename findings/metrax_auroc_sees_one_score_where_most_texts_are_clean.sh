#!/usr/bin/env bash
# metrax's AUCROC puts scores into 200 boxes of one width: among clean texts, which share a box, it sees no order.
#
# Guess: AUCROC is the area under the ROC curve: the share of pairs of a toxic and a clean text that the scorer puts in
#   the right order, up to an error of 1/200, its 200 thresholds; only the order of scores counts.
# Seen (google-metrax 0.2.4, jax 0.10.2, scikit-learn 1.9.1): the thresholds are even in [0, 1]. A scorer of comments
#   gives nearly all of them less than 1/100; of such scores, with 8 % of toxic texts and an area of 0.813, it says
#   0.703, and AUCPR 0.320 for 0.360. One and the same order, its logits divided by 4, has 0.812. Scores
#   of a rarer kind of toxicity, all of them under 1/200, have 0.5, whatever they are worth. AUCROC and AUCPR take
#   num_thresholds; 20,000 of them help.
# Hurt: a sharp scorer is put behind a blunt one that orders texts alike or worse, a calibration seems to raise the
#   area, and rare labels look like chance. scikit-learn's figures of the same scores are others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-metrax==0.2.4 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scikit-learn==1.9.1
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import jax.numpy as jnp
import metrax
import numpy as np
from sklearn import metrics

print(*(f"{name} {metadata.version(name)}" for name in ("google-metrax", "jax", "scikit-learn")))
draw = np.random.default_rng(0)
toxic = draw.random(5_000) < 0.08
logits = draw.normal(size=toxic.size) * 2 + np.where(toxic, 2.5, 0) - 8


def areas(logits, **settings):
    """Areas under the ROC and the precision-recall curve, by scikit-learn and by metrax."""
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    given = {"predictions": jnp.asarray(scores), "labels": jnp.asarray(toxic.astype(np.float32))}
    return (
        metrics.roc_auc_score(toxic, scores), float(metrax.AUCROC.from_model_output(**given, **settings).compute()),
        metrics.average_precision_score(toxic, scores), float(metrax.AUCPR.from_model_output(**given, **settings).compute()),
    )


rows = {
    "a scorer of comments": areas(logits),
    "its logits divided by 4": areas(logits / 4),
    "a rarer label, logits less 10": areas(logits - 10),
    "the first, 20,000 thresholds": areas(logits, num_thresholds=20_000),
}
for name, (roc, seen, precision, seen_precision) in rows.items():
    print(f"{name:30} AUROC {roc:.3f}, metrax {seen:.3f}; AP {precision:.3f}, metrax {seen_precision:.3f}")
sharp, blunt, rare, fine = rows.values()
assert abs(sharp[0] - blunt[0]) < 1e-4 and abs(sharp[0] - rare[0]) < 1e-4
assert sharp[1] < sharp[0] - 0.1 and abs(blunt[1] - blunt[0]) < 0.005 and sharp[3] < sharp[2] - 0.03, "no longer so"
assert rare[1] < 0.51, "no longer so"
assert abs(fine[1] - fine[0]) < 0.001
P
