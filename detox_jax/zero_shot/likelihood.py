"""Log-likelihoods of many continuations: shared contexts are read once, in batches by length.

Continuations of the same context stand behind it in one row, each of them a branch that sees the
context and itself and nothing of the others; and all that is predicted from the same position, as
the letters of a multiple choice are, comes from the same reading. Logits are computed where
something is scored and nowhere else, of some places at a time. What shares a row scores a bounded
number of tokens, so that room does not grow with the continuations of a context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.errors import UserError
from detox_jax.generation.steering import one_pass
from detox_jax.models import kernels
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID

# Shapes are few, since each is compiled, and the last batch of each is partly padding: at most so
# many lengths, each for several batches, of rows rounded up to a multiple; and powers of a base for
# the number of scored tokens.
_MOST_LENGTHS = 4
_BATCHES_PER_LENGTH = 4
_LENGTH_MULTIPLE = 16
_SCORED_BASE = 2

# Scored tokens of a row that several continuations share: more would be attended to in vain.
_SHARED = 512

Pair = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """How probable a continuation is.

    Attributes:
      log_probability: natural logarithm, summed over its tokens.
      is_greedy: whether each token is the most probable one at its place.
    """

    log_probability: float
    is_greedy: bool


class LikelihoodReader:
    """Reads continuations under a model.

    Attributes:
      max_length: tokens that the model reads at once.
      batch_size: rows at once, a multiple of the mesh's batch shards.
    """

    def __init__(
        self, model: TransformerLM, params: Any, mesh: Mesh, batch_size: int, max_length: int
    ):
        self.max_length = max_length
        self._shards = meshes.num_batch_shards(mesh)
        self.batch_size = -(-batch_size // self._shards) * self._shards
        self._model, self._params, self._mesh = model, params, mesh

    def __call__(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """The likelihood of each continuation after its context.

        Args:
          pairs: `(context, continuation)`, token ids; a context has at least one. What exceeds
            `max_length` is cut from the left.

        Raises:
          UserError: if a continuation alone is longer than the model reads.
        """
        likelihoods = [Likelihood(0.0, True)] * len(pairs)  # Nothing is certain to follow.
        rows = pack(pairs, self.max_length)
        with (
            meshes.sharding_scope(self._mesh),
            terminal.bar("likelihood", len(pairs), unit="continuations") as advance,
        ):
            for batch, arrays in batches(rows, self.batch_size, self._shards):
                arrays = meshes.to_mesh(arrays, meshes.batch_sharding(self._mesh))
                # Every process of a pod sees all of the answer.
                read_BT = _read(self._model, self._params, *arrays)
                log_probs_BT, is_best_BT = meshes.to_host(read_BT)
                for row, log_probs_T, is_best_T in zip(
                    batch, log_probs_BT, is_best_BT, strict=False
                ):  # The last rows of a batch may be padding.
                    for pair, scored in row.scored.items():
                        total = float(log_probs_T[scored].sum(dtype=np.float64))
                        likelihoods[pair] = Likelihood(total, bool(is_best_T[scored].all()))
                    advance(len(row.scored))
        return likelihoods


def read(
    model: TransformerLM,
    params: Any,
    tokens_BL: jax.Array,
    branches_BL: jax.Array | None,
    positions_BL: jax.Array,
    reads_BT: jax.Array,
    targets_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of `targets_BT`, each after the index of its row that `reads_BT` names.

    Args:
      model: the network.
      params: its parameters.
      tokens_BL: contexts, each with the branches that continue it, see `Row`.
      branches_BL: 0 for a context's tokens, a branch's number for its own; None where no row has
        more than one that holds tokens, which a causal kernel then attends to.
      positions_BL: how many tokens each token sees before it.
      reads_BT: the index after which each target stands.
      targets_BT: the tokens that are scored.

    Returns:
      `log_probs_BT`, and whether each target is the most probable token there.
    """
    mask_BLL = None
    kernel, _ = kernels.choose(model.config, *tokens_BL.shape, causal=branches_BL is None)
    if kernel is None:  # Plain attention is cheaper by a mask that is given, see `blocks`.
        mask_BLL = branch_mask(jnp.zeros_like(tokens_BL) if branches_BL is None else branches_BL)
    states_BTD: Any = model.apply(
        {"params": params},
        tokens_BL,
        decoder_positions=positions_BL,
        attention_mask=mask_BLL,
        logit_positions=reads_BT,
        with_logits=False,
        enable_dropout=False,
    )
    return one_pass.unsteered(model, params, states_BTD, targets_BT)


# Of the module: a second model of the same configuration finds it compiled.
_read = jax.jit(read, static_argnums=0)


def branch_mask(branches_BL: jax.Array) -> jax.Array:
    """Who sees whom, `[B, L, L]`: what is before it in the context (0) and in its own branch."""
    index_L = jnp.arange(branches_BL.shape[1])
    own_BLL = branches_BL[:, :, None] == branches_BL[:, None, :]
    return (index_L[:, None] >= index_L[None, :]) & (own_BLL | (branches_BL[:, None, :] == 0))


# --- rows -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """A context and branches of it.

    Attributes:
      tokens: of the context, then of each branch without its last.
      branches: 0 for the context, 1, 2, ... for its branches, one a token.
      positions: how many tokens each token sees before it.
      reads: the index in `tokens` after which each scored token stands.
      targets: the scored tokens.
      scored: the part of `targets` that belongs to each pair, by the pair's number.
    """

    tokens: list[int]
    branches: list[int]
    positions: list[int]
    reads: list[int] = dataclasses.field(default_factory=list)
    targets: list[int] = dataclasses.field(default_factory=list)
    scored: dict[int, slice] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_context(cls, context: Sequence[int]) -> Row:
        """A row without branches."""
        return cls(list(context), [0] * len(context), list(range(len(context))))

    def add(self, pair: int, continuation: Sequence[int]) -> None:
        """Adds a branch."""
        context, start, size = self.branches.count(0), len(self.tokens), len(continuation) - 1
        self.tokens += continuation[:-1]
        self.branches += [self.branches[-1] + 1] * size
        self.positions += range(context, context + size)
        self.scored[pair] = slice(len(self.targets), len(self.targets) + len(continuation))
        self.reads += [context - 1, *range(start, start + size)]
        self.targets += continuation

    def has_room(self, continuation: Sequence[int], max_length: int) -> bool:
        """Whether it may hold another branch."""
        return (
            len(self.tokens) + len(continuation) - 1 <= max_length
            and len(self.targets) + len(continuation) <= _SHARED
        )

    @property
    def is_causal(self) -> bool:
        """Whether all that stands before a token is what it sees."""
        return self.branches[-1] <= 1


def pack(pairs: Sequence[Pair], max_length: int) -> list[Row]:
    """Rows of at most `max_length` tokens that hold every pair once; empty continuations in none.

    Continuations that share a row score at most `_SHARED` tokens together.

    Raises:
      UserError: if a continuation alone is longer than that.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        if not continuation:
            continue
        if len(continuation) > max_length:
            raise UserError(
                f"a continuation has {len(continuation)} tokens, but the model reads {max_length}; "
                "leave its task out, or split it"
            )
        # The last token of all is predicted and not read.
        room = max_length + 1 - len(continuation)
        groups.setdefault(tuple(context[-room:]), []).append(number)
    rows = []
    for context, members in groups.items():
        row = Row.of_context(context)
        for number in members:
            continuation = pairs[number][1]
            if row.scored and not row.has_room(continuation, max_length):
                rows.append(row)
                row = Row.of_context(context)
            row.add(number, continuation)
        rows.append(row)
    return rows


# --- batches ----------------------------------------------------------------------------------


def batches(
    rows: Sequence[Row], batch_size: int, multiple: int = 1
) -> Iterator[tuple[list[Row], tuple[np.ndarray | None, ...]]]:
    """Rows of similar length together, with `tokens`, `branches`, `positions`, `reads`, `targets`.

    Those that are causal are apart and have None for `branches`, see `read`. The longest come
    first, so that memory that does not suffice shows at once. The last batch of a length is halved
    as often as its rows allow; its size stays a multiple of `multiple`.
    """
    groups = [
        (length, causal, members)
        for causal in (False, True)
        for length, members in _by_length([r for r in rows if r.is_causal == causal], batch_size)
    ]
    for length, causal, members in sorted(groups, key=lambda group: -group[0]):
        scored = _padded_scored(max(len(row.targets) for row in members))
        for first in range(0, len(members), batch_size):
            batch = members[first : first + batch_size]
            size = batch_size
            while size % (2 * multiple) == 0 and size // 2 >= len(batch):
                size //= 2
            tokens_BL = np.full((size, length), PAD_ID, np.int32)
            branches_BL, positions_BL = np.zeros((2, size, length), np.int32)
            reads_BT, targets_BT = np.zeros((2, size, scored), np.int32)
            for b, row in enumerate(batch):
                L, T = len(row.tokens), len(row.targets)
                tokens_BL[b, :L], branches_BL[b, :L] = row.tokens, row.branches
                positions_BL[b, :L] = row.positions
                reads_BT[b, :T], targets_BT[b, :T] = row.reads, row.targets
            branches = None if causal else branches_BL
            yield batch, (tokens_BL, branches, positions_BL, reads_BT, targets_BT)


def _by_length(rows: Sequence[Row], batch_size: int) -> list[tuple[int, list[Row]]]:
    """Rows by the length to which they are padded."""
    most = min(_MOST_LENGTHS, 1 + len(rows) // (_BATCHES_PER_LENGTH * batch_size))
    lengths = padded_lengths([len(row.tokens) for row in rows], most)
    groups: dict[int, list[Row]] = {length: [] for length in lengths}
    for row in rows:
        groups[min(length for length in lengths if length >= len(row.tokens))].append(row)
    return list(groups.items())


def _padded_scored(number: int) -> int:
    padded = 1
    while padded < number:
        padded *= _SCORED_BASE
    return padded


def padded_lengths(lengths: Sequence[int], most: int) -> list[int]:
    """At most `most` lengths to which to pad rows, chosen so that the least padding is added."""
    rounded = [-(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE for length in lengths]
    sizes, counts = np.unique(np.array(rounded, int), return_counts=True)
    # cost[j]: of the rows of the j shortest sizes, with the lengths that reach it in best[j].
    cost = np.array([0.0] + [np.inf] * len(sizes))
    best: list[list[int]] = [[] for _ in cost]
    for _ in range(most):
        new_cost, new_best = cost.copy(), list(best)
        for j in range(1, len(cost)):
            rows_below = counts[:j][::-1].cumsum()[::-1]  # of sizes i..j-1, all padded to the last
            candidates = cost[:j] + rows_below * sizes[j - 1]
            i = int(candidates.argmin())
            if candidates[i] < new_cost[j]:
                new_cost[j], new_best[j] = candidates[i], [*best[i], int(sizes[j - 1])]
        cost, best = new_cost, new_best
    return best[-1]
