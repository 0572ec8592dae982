"""Documents that bring a corpus nearer to a target: GOT-D, by the gradient of optimal transport.

Kang et al., "Get more for less" (ICLR 2024, https://arxiv.org/abs/2405.02774): the optimal
transport of candidates onto target texts, embedded, has a potential for each candidate; how far it
lies above the mean of the others says what a little more of that candidate does to the distance.
Sinkhorn's iterations are those of OTT-JAX (extra `transport`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Sequence
from importlib import util
from typing import Any, ClassVar, Protocol, overload

import numpy as np

from detox_jax import preview, records
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Positive, Share
from detox_jax.toxicity import corpus, text_features
from detox_jax.toxicity.lengths import whole_share

_PACKAGE = "ott"
_THRESHOLD = 1e-3  # of the mass, that the solution has in other places than it should
_COSTS_AT_ONCE = 1 << 22
_EQUAL = 1e-5  # of the mean cost, up to which two gradients are the same


class Embedding(Protocol):
    """Makes texts points, whose squared distances are what moving one to another costs."""

    def check(self) -> None:
        """Looks whether what it reads is there.

        Raises:
          UserError: naming what is missing.
        """
        ...

    def described(self) -> dict[str, Any]:
        """What decides the points, as settings hold it."""
        ...

    def embed(self, candidates: Sequence[str], target: Sequence[str]) -> tuple[Any, Any]:
        """The points of both, float32 [N, D] and [M, D].

        Args:
          candidates: texts; read from a file each time that one is asked for.
          target: the same.
        """
        ...


@dataclasses.dataclass(frozen=True)
class NearTarget:
    """The share of the documents that brings the corpus nearest to a target (GOT-D).

    A document's gradient is g = f - mean of the others' f, f being its potential in the optimal
    transport from all candidates to the target, of equal weights: what moving weight from all
    others to it changes of the distance. The lowest g are kept; of equal ones, that with the lower
    hash of the id.

    Attributes:
      target: documents that the corpus is to be like: least toxic ones, say.
      fraction: of the candidates, to keep.
      away: keeps the highest g instead: those that lead away from a target, of toxic texts say.
      target_documents: how many of the target count, those with the lowest hash of the id.
      embedding: what makes texts points.
      regularization: the entropic term of Sinkhorn's iterations, in units of the mean cost: lower
        is nearer to the exact transport, and slower.
      iterations: of Sinkhorn, at most.

    Raises:
      UserError: without the library, or a target.
    """

    target: str | None = None
    fraction: Share = 0.5
    away: bool = False
    target_documents: Count = 2500
    embedding: Embedding = text_features.TextFeatures()
    regularization: Positive = 0.02
    iterations: Count = 2000

    uses_toxicity: ClassVar[bool] = False
    on_mesh: ClassVar[bool] = True  # Sinkhorn's iterations are JAX's, whatever makes the points.

    def __post_init__(self):
        if self.target is None:
            raise UserError("SELECTION NearTarget needs TARGET, the documents to be like")
        if not 0 < self.fraction <= 1:
            raise UserError(f"KEEP_FRACTION is {self.fraction}; must be in (0, 1]")
        if util.find_spec(_PACKAGE) is None:
            raise UserError(
                "SELECTION NearTarget needs ott-jax: pip install 'detox-jax[transport]'"
            )

    def check(self) -> None:
        """Looks whether the target is there, unless it is to come.

        Raises:
          UserError: naming it.
        """
        assert self.target is not None
        if not isinstance(self.target, preview.Coming):
            records.resolve_files(self.target)
        self.embedding.check()

    def described(self) -> dict[str, Any]:
        """As settings hold it: the target by its content, the embedding by its class."""
        assert self.target is not None
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        made_by = {"method": type(self.embedding).__name__, **self.embedding.described()}
        told = {"target": records.describe_input(self.target), "embedding": made_by}
        return {"method": type(self).__name__, **fields, **told}

    def filtered_by(self) -> Any:
        """The scorer by which the target was chosen, as its manifest says."""
        _, manifest = records.manifest_of(self.target or "") or ("", {})
        return manifest.get("filtered_by")

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `selections.TellingSelection`."""
        return self.select_and_count(documents, generator)[0]

    def select_and_count(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> tuple[Sequence[records.Document], dict[str, Any]]:
        """What is kept, and what the manifest says of the transport.

        Raises:
          UserError: for an empty target, or where Sinkhorn does not converge.
        """
        del generator
        if not len(documents):  # Nothing is to be carried; `filter` says that nothing is left.
            return documents, {}
        target = self._target()
        # In the order of the ids' hashes, so that the order of the input changes nothing.
        order_N = np.argsort(corpus.hashes_of(documents), kind="stable")
        candidates = _Texts(corpus.taken(documents, order_N))
        x_ND, y_MD = self.embedding.embed(candidates, _Texts(target))
        mean_cost = _mean_cost(x_ND, y_MD)
        solution = potentials(x_ND, y_MD, self.regularization * mean_cost, self.iterations)
        if not solution.converged:
            raise UserError(
                f"NearTarget: Sinkhorn did not converge in {self.iterations} iterations; raise "
                "TRANSPORT_REGULARIZATION or TRANSPORT_ITERATIONS"
            )
        gradient_N = calibrated(solution.potential_N)
        unit = max(mean_cost, np.finfo(np.float32).tiny) * _EQUAL
        ranked_N = np.round((-gradient_N if self.away else gradient_N) / unit)
        count = whole_share(len(candidates), self.fraction)
        kept_N = np.sort(order_N[np.argsort(ranked_N, kind="stable")[:count]])
        said = {
            "target_documents": len(target),
            "dimensions": x_ND.shape[1],
            "sinkhorn_iterations": solution.iterations,
            "marginal_error": solution.error,
            "mean_cost": mean_cost,
            "distance": solution.distance,
            "nearer": int(np.sum(gradient_N < 0)),
        }
        return corpus.taken(documents, kept_N), {"transport": said}

    def _target(self) -> list[records.Document]:
        assert self.target is not None
        read = [d for d in records.read_documents(self.target) if d.text.strip()]
        if not read:
            raise UserError(f"TARGET={self.target}: holds no document with a text")
        return sorted(read, key=lambda d: records.stable_hash(d.id))[: self.target_documents]


class _Texts(Sequence[str]):
    """The texts of documents, which may lie in a file."""

    def __init__(self, documents: Sequence[records.Document]):
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> _Texts: ...
    def __getitem__(self, index: Any) -> str | _Texts:
        if isinstance(index, slice):
            return _Texts(self._documents[index])
        return self._documents[index].text

    def __iter__(self) -> Iterator[str]:
        return (document.text for document in self._documents)


# --- transport --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Solution:
    """An optimal transport of N candidates to M targets, entropically regularised.

    Attributes:
      potential_N: the dual variable of each candidate, up to one constant, float64.
      distance: the regularised cost.
      iterations: how many there were.
      error: the mass that lies elsewhere than the target's weights say.
      converged: whether that is below 0.001.
    """

    potential_N: np.ndarray
    distance: float
    iterations: int
    error: float
    converged: bool


def calibrated(potential_N: np.ndarray) -> np.ndarray:
    """Each potential less the mean of the others, [N]: the gradient by a document's weight.

    >>> calibrated(np.array([3.0, 2.0, -1.0]))
    array([ 2.5,  1. , -3.5])
    """
    others = max(1, len(potential_N) - 1)
    return potential_N - (potential_N.sum() - potential_N) / others


def potentials(
    x_ND: np.ndarray,
    y_MD: np.ndarray,
    epsilon: float,
    iterations: int,
    costs_at_once: int = _COSTS_AT_ONCE,
) -> Solution:
    """Optimal transport of points of equal weights at the cost of their squared distances.

    Args:
      x_ND: candidates, float32.
      y_MD: targets, float32.
      epsilon: the entropic term, in units of the cost.
      iterations: of Sinkhorn, at most.
      costs_at_once: how many of the N x M costs are in memory at a time.
    """
    import jax
    import jax.numpy as jnp

    problem: Any = importlib.import_module(f"{_PACKAGE}.problems.linear.linear_problem")
    sinkhorn: Any = importlib.import_module(f"{_PACKAGE}.solvers.linear.sinkhorn")
    rows = max(1, min(len(x_ND), costs_at_once // len(y_MD)))
    tiny = float(np.finfo(np.float32).tiny)
    geometry = _cloud_in_blocks(rows)(
        jnp.asarray(x_ND), jnp.asarray(y_MD), epsilon=max(epsilon, tiny)
    )
    solver = sinkhorn.Sinkhorn(threshold=_THRESHOLD, max_iterations=iterations)
    out = jax.jit(solver)(problem.LinearProblem(geometry))
    errors = np.asarray(out.errors)
    measured = errors[errors >= 0] if np.isfinite(errors).all() else np.array([np.inf])
    return Solution(
        np.asarray(out.f, np.float64),
        float(out.reg_ot_cost),
        int(out.n_iters),
        float(measured[-1]),
        bool(out.converged),
    )


@functools.cache
def _cloud_in_blocks(rows: int) -> Any:
    """OTT's point cloud whose costs are computed anew at each use, some candidates at a time.

    OTT-JAX 0.6.0 has that (`batch_size`) by way of a function that JAX has no more since 0.10.
    """
    import jax
    import jax.numpy as jnp

    pointcloud: Any = importlib.import_module(f"{_PACKAGE}.geometry.pointcloud")

    @jax.tree_util.register_pytree_node_class
    class CloudInBlocks(pointcloud.PointCloud):
        def apply_lse_kernel(self, f, g, eps, vec=None, axis=0):
            assert vec is None
            N, D = self.x.shape
            padding = -N % rows
            x_BRD = jnp.pad(self.x, ((0, padding), (0, 0))).reshape(-1, rows, D)
            f_BR = jnp.pad(f, (0, padding), constant_values=-jnp.inf).reshape(-1, rows)
            squares_M = jnp.sum(self.y**2, axis=1)

            def of_block(block):
                x_RD, f_R = block
                squares_R = jnp.sum(x_RD**2, axis=1)
                cost_RM = squares_R[:, None] + squares_M - 2 * x_RD @ self.y.T
                given_R = jnp.zeros_like(f_R) if axis else f_R
                given_M = g if axis else jnp.zeros_like(g)
                exponents_RM = (given_R[:, None] + given_M - jnp.maximum(cost_RM, 0)) / eps
                return jax.nn.logsumexp(exponents_RM, axis=axis)

            log_sums = jax.lax.map(of_block, (x_BRD, f_BR))
            if axis:
                return eps * log_sums.reshape(-1)[:N], jnp.ones(N)
            return eps * jax.nn.logsumexp(log_sums, axis=0), jnp.ones(len(self.y))

    return CloudInBlocks


def _mean_cost(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    squares = np.mean(np.sum(x_ND**2, axis=1)) + np.mean(np.sum(y_MD**2, axis=1))
    return float(max(0.0, squares - 2 * x_ND.mean(axis=0) @ y_MD.mean(axis=0)))
