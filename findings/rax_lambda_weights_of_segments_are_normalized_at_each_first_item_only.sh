#!/usr/bin/env bash
# Rax's normalized lambda weights divide, with segments, each list's first item only: the loss depends on their order.
#
# Guess: rax.dcg_lambdaweight(normalize=True) and dcg2_lambdaweight, "the normalized DCG formulation", give lists that
#   share a row, told apart by segments, the weights that they have in rows of their own; the order of the answers
#   within a list does not matter; items that `where` leaves out change nothing.
# Seen (rax 0.4.0, jax 0.10.2): with segments the ideal DCG is known at the first item of each list and is 1 at all
#   others, so that one normalized gain is compared with others that are not. Of five graded answers to each of six
#   prompts the pairs weigh 0.4 to 14 times what they should. The loss, 0.51 in rows of their own, is 2.0 in one row
#   with each best answer first and 4.8 with it last; pairs with the best answer have 0.31 of all weights with it
#   first, and should have 0.71. Without normalize the lists of a row are told apart rightly. All weights also grow
#   with the width of the row, padding counted, as no formula says: three places behind five make the loss 1.6 times as
#   large.
# Hurt: a reward model that is trained on graded answers (harmless, borderline, toxic), several prompts packed in a row,
#   is taught other pairs than it should be, by the order in which the answers happen to lie, and batches of another
#   width train at another rate. Nothing fails. Give each list a row and mask it with `where`, at one width.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rax==0.4.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import functools
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import rax

print(*(f"{name} {metadata.version(name)}" for name in ("rax", "jax")))
PROMPTS, ANSWERS = 6, 5
draw = np.random.default_rng(0)
scores = draw.normal(size=(PROMPTS, ANSWERS)).astype(np.float32)
grades = np.stack([draw.permutation([3, 2, 1, 0, 0]) for _ in range(PROMPTS)]).astype(np.float32)
grades[0] = [3, 2, 1, 0, 0]  # as where answers come sorted
segments = np.repeat(np.arange(PROMPTS), ANSWERS)
weight_of = functools.partial(rax.dcg_lambdaweight, normalize=True)
loss_of = functools.partial(rax.pairwise_logistic_loss, lambdaweight_fn=weight_of)


def meant(scores, grades):
    """|gain_i - gain_j| / ideal DCG * |discount_i - discount_j| for the pairs of one list, by the definition."""
    ranks = np.argsort(np.argsort(-scores.astype(np.float64))) + 1
    gains, discounts = 2.0**grades - 1, 1 / np.log2(ranks + 1)
    ideal = (np.sort(gains)[::-1] / np.log2(np.arange(len(gains)) + 2)).sum()
    return np.abs(np.subtract.outer(gains, gains)) / ideal * np.abs(np.subtract.outer(discounts, discounts))


def row_of_its_own(scores, grades):
    return np.asarray(weight_of(jnp.asarray(scores), jnp.asarray(grades))).reshape(ANSWERS, ANSWERS) / ANSWERS


def packed(weight_of):
    """The weights within each list of one row that holds them all, without the factor of the row's width."""
    size = PROMPTS * ANSWERS
    weights = weight_of(jnp.asarray(scores.ravel()), jnp.asarray(grades.ravel()), segments=jnp.asarray(segments))
    weights = np.asarray(weights).reshape(PROMPTS, ANSWERS, PROMPTS, ANSWERS) / size
    return np.stack([weights[prompt, :, prompt] for prompt in range(PROMPTS)])


right = np.stack([meant(*rows) for rows in zip(scores, grades, strict=True)])
assert np.allclose(right, [row_of_its_own(*rows) for rows in zip(scores, grades, strict=True)], atol=1e-5)
as_seen = packed(weight_of)
for prompt in range(PROMPTS):
    best, second = np.argsort(-grades[prompt])[:2]
    print(f"best answer at place {best}, second at {second}: weight {as_seen[prompt, best, second]:.3f}", end=", ")
    print(f"should be {right[prompt, best, second]:.3f}")
ratios = as_seen[right > 1e-6] / right[right > 1e-6]
print(f"weights of all pairs are {ratios.min():.2f} to {ratios.max():.1f} times what they should be")
assert ratios.min() < 0.5 and ratios.max() > 7, "no longer so"
plain = functools.partial(rax.dcg_lambdaweight, normalize=False)
single = np.stack([np.asarray(plain(*map(jnp.asarray, rows))) for rows in zip(scores, grades, strict=True)]) / ANSWERS
assert np.allclose(packed(plain), single.reshape(right.shape), atol=1e-4)  # without normalize they are right

own = float(loss_of(jnp.asarray(scores), jnp.asarray(grades)))
losses, shares = {}, {}
for name, sign in (("best first", -1), ("best last", 1)):
    order = np.argsort(sign * grades, axis=1, kind="stable")
    sorted_scores, sorted_grades = (np.take_along_axis(table, order, 1) for table in (scores, grades))
    assert abs(float(loss_of(jnp.asarray(sorted_scores), jnp.asarray(sorted_grades))) - own) < 1e-4
    flat = (jnp.asarray(sorted_scores.ravel()), jnp.asarray(sorted_grades.ravel()))
    losses[name] = float(loss_of(*flat, segments=jnp.asarray(segments))) / PROMPTS
    weights = np.asarray(weight_of(*flat, segments=jnp.asarray(segments))).reshape([PROMPTS, ANSWERS] * 2)
    weights = np.stack([weights[prompt, :, prompt] for prompt in range(PROMPTS)])
    best = 0 if sign < 0 else ANSWERS - 1
    shares[name] = weights[:, best].sum() * 2 / weights.sum()
best = grades.argmax(1)
true_share = right[np.arange(PROMPTS), best].sum() * 2 / right.sum()
print(f"loss in rows of their own {own:.2f}, in one row over the factor of its width", end=": ")
print(", ".join(f"{name} {value:.2f}" for name, value in losses.items()))
print(f"share of the pairs with the best answer in all weights {true_share:.2f}; in one row", end=": ")
print(", ".join(f"{name} {value:.2f}" for name, value in shares.items()))
assert losses["best last"] > 1.5 * losses["best first"] > 3 * own, "no longer so"
assert shares["best first"] < 0.8 * true_share, "no longer so"
for padding in (0, 3, 11):
    padded = [np.pad(table, [(0, 0), (0, padding)]) for table in (scores, grades)]
    where = np.arange(ANSWERS + padding) < ANSWERS
    value = float(loss_of(*map(jnp.asarray, padded), where=jnp.asarray(np.broadcast_to(where, padded[0].shape))))
    print(f"rows padded by {padding}: loss {value:.2f}, {value / own:.1f} times")
    assert abs(value / own - (ANSWERS + padding) / ANSWERS) < 1e-3, "no longer so"
P
