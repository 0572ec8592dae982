#!/usr/bin/env bash
# ott-jax's point clouds for large data raise an AttributeError under the JAX that its metadata admits.
#
# Guess: PointCloud(x, y, batch_size=...), which never holds the matrix of costs, gives the cost that the
#   same points give without batch_size; what pip resolves for ott-jax can run it.
# Seen (ott-jax 0.6.0, jax 0.10.2): without batch_size the problem is solved. With it every solve ends in
#   an AttributeError: jax.interpreters.batching has no is_vmappable, which JAX took out. ott-jax asks
#   for jax>=0.4.0.
# Hurt: a selection by optimal transport works on the sample on which it was tried, and ends in a
#   traceback on the corpus that does not fit as a matrix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ott-jax==0.6.0 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
from importlib import metadata

import jax
from ott.geometry import pointcloud
from ott.solvers import linear

print(*(f"{name} {metadata.version(name)}" for name in ("ott-jax", "jax")))
asked = [line for line in metadata.requires("ott-jax") if line.startswith("jax")]
print("ott-jax asks for", asked)
one, other = jax.random.split(jax.random.key(0))
x, y = jax.random.normal(one, (64, 4)), jax.random.normal(other, (48, 4))
whole = linear.solve(pointcloud.PointCloud(x, y))
print("without batch_size: converged", bool(whole.converged))
try:
    linear.solve(pointcloud.PointCloud(x, y, batch_size=16))
except AttributeError as error:
    print("with batch_size=16:", error)
    assert "is_vmappable" in str(error), "another error"
else:
    raise SystemExit("no longer so")
assert whole.converged
P
