#!/usr/bin/env bash
# vendi-score calls texts of fewer than four words less diverse, however different they are, and score_X forgets q.
#
# Guess: ngram_vendi_score(texts) is "the effective number of unique elements": of 51 texts that share no word, 51.
#   score_X(X, q=2) is the score of order 2, as score_K and score_dual of the same texts give it.
# Seen (vendi-score 0.0.3, with scipy 1.13.1, the last that n-grams work with): similarities are averaged over n-grams
#   of 1 to 4 words. A text of two words has none of 3 and 4, so it is like itself only by half; k(x, x) = 1, which the
#   score asks for, does not hold, and the eigenvalues sum to less than 1. 50 texts without a common word and a longer
#   one have 51 where they have four words each, 24 with three, 10.4 with two. Alike texts seem diverse as well: 49
#   times "thank you" and a longer text have 1.53 in place of 1.10. score_X has order 1 whatever q is: 2.59 for q=1, 2
#   and "inf", where score_dual has 2.59, 2.27 and 1.67.
# Hurt: a detoxified model that answers briefly, or refuses, looks as if it repeated itself, and a table of orders says
#   that rare and common texts weigh the same. Give ns=[1] for short texts, or normalize=True to a matrix of one's own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vendi-score==0.0.3 scipy==1.13.1 numpy==1.26.4 scikit-learn==1.5.2 nltk==3.9.2
cd "$work"
# What only embeddings need; n-grams do without.
touch torch.py datasets.py
echo "AutoModel = AutoTokenizer = None" > transformers.py
PYTHONPATH=. "$work/venv/bin/python" -W ignore - <<'P'
from importlib import metadata

import numpy as np
from vendi_score import text_utils, vendi

print(*(f"{name} {metadata.version(name)}" for name in ("vendi-score", "scikit-learn", "scipy", "numpy")))


def entropy(eigenvalues, q):
    shares = eigenvalues[eigenvalues > 1e-12]
    if q == "inf":
        return -np.log(shares.max())
    return -(shares * np.log(shares)).sum() if q == 1 else np.log((shares**q).sum()) / (1 - q)


def texts_without_a_common_word(length, count=50):
    return [" ".join(f"word{i}x{j}" for j in range(length)) for i in range(count)]


longer = " ".join(f"other{j}" for j in range(8))
for length, expected in ((6, 51), (4, 51), (3, 24.0), (2, 10.4)):
    # One longer text, so that there are n-grams of each order.
    texts = [*texts_without_a_common_word(length), longer]
    seen = text_utils.ngram_vendi_score(texts, tokenizer=str.split)
    print(f"50 different texts of {length} words and a longer one: {seen:.1f}")
    assert abs(seen - expected) < 0.1, "no longer so"
    assert abs(text_utils.ngram_vendi_score(texts, ns=[1], tokenizer=str.split) - 51) < 1e-6
    eigenvalues = np.full(50, min(length, 4) / 4 / 51)
    assert abs(seen - np.exp(entropy(np.append(eigenvalues, 1 / 51), 1))) < 1e-6

texts = ["thank you"] * 49 + [longer]
seen = text_utils.ngram_vendi_score(texts, tokenizer=str.split)
right = np.exp(entropy(np.array([49, 1]) / 50, 1))
print(f"49 times the same text and a longer one: {seen:.2f}, should be {right:.2f}")
assert seen > 1.5 and right < 1.2, "no longer so"

rows = np.eye(3)[[0, 0, 0, 1, 2]]
for q in (1, 2, "inf"):
    seen, dual, whole = vendi.score_X(rows, q=q), vendi.score_dual(rows, q=q), vendi.score_K(rows @ rows.T, q=q)
    right = np.exp(entropy(np.array([3, 1, 1]) / 5, q))
    print(f"q={q}: score_X {seen:.2f}, score_dual {dual:.2f}, score_K {whole:.2f}")
    assert np.allclose([dual, whole], right) and np.isclose(seen, vendi.score_X(rows)), "no longer so"
assert not np.isclose(seen, right), "no longer so"
print("as found")
P
