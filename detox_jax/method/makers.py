"""What the corpora, rows and vectors of a run are made with.

Some of it is needed by some kinds alone, and a run without such does not bring it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from detox_jax.errors import UserError
from detox_jax.method import fitted_vectors
from detox_jax.method.called_verbs import Combine, Generate, Pair, Score, Select, Steer, Train
from detox_jax.method.corpus import Corpus
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.method import Method


@dataclasses.dataclass(frozen=True)
class Makers:
    """What corpora, rows and vectors are made with, where they bring nothing of their own.

    The fields are arguments of `sgeat`, in the order of `of`.
    """

    documents_task: Callable[..., Any]
    generate_documents: Generate
    score: Score
    select: Select
    train: Train
    adapt: Train
    given_pair: Pair | None
    given_reference: Callable[..., Any] | None
    pairs_task: Callable[..., Any] | None
    given_combine: Combine | None
    given_best_of: Callable[..., Any] | None
    given_steer: Steer | None
    given_set_apart: Select | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Makers:
        """Those among the arguments of `sgeat`."""
        of_all = ("task", "generate_documents", "score", "select", "train", "adapt")
        of_some = ("pair", "reference", "pairs_task", "combine", "best_of", "steer", "set_apart")
        return cls(*(arguments[name] for name in (*of_all, *of_some)))

    def check(
        self,
        corpora: Mapping[str, Corpus],
        rows: Mapping[str, Method],
        vectors: Mapping[str, Vectors],
    ) -> None:
        """Refuses a run that lacks one of those that it needs.

        Raises:
          UserError: naming the corpus, the row or the vectors.
        """
        of_pairs = (self.given_pair, self.given_reference, self.pairs_task)
        for name, corpus in corpora.items():
            if corpus.pairs is not None and None in of_pairs:
                raise UserError(
                    f"corpus {name!r}: is of pairs; set sgeat.sgeat.pair, reference and "
                    "pairs_task, as gin_configs/runs/sgeat.gin does"
                )
        for name, row in rows.items():
            if row.terms is not None and self.given_combine is None:
                raise UserError(
                    f"method {name!r}: has terms; set sgeat.sgeat.combine, as "
                    "gin_configs/runs/sgeat.gin does"
                )
            if row.best_of is not None and self.given_best_of is None:
                raise UserError(
                    f"method {name!r}: has best_of; set sgeat.sgeat.best_of, as "
                    "gin_configs/runs/sgeat.gin does"
                )
        for name, of in vectors.items():
            if of.steer is None and self.given_steer is None:
                raise UserError(
                    f"vectors {name!r}: nothing fits them; set sgeat.sgeat.steer, as "
                    "gin_configs/runs/sgeat.gin does"
                )
        read_apart = fitted_vectors.read_apart([*corpora.items()], vectors, corpora)
        for name in sorted(read_apart):
            if self.given_set_apart is None:
                raise UserError(
                    f"corpus {name!r}: is apart from the evaluation prompts, and pairs or vectors "
                    "read more of it than its filter keeps; set sgeat.sgeat.set_apart, as "
                    "gin_configs/runs/sgeat.gin does"
                )

    @property
    def pair(self) -> Pair:
        """`pair`, where it is needed."""
        assert self.given_pair is not None
        return self.given_pair

    @property
    def reference(self) -> Callable[..., Any]:
        """Makes the reference of pairs, where it is needed."""
        assert self.given_reference is not None
        return self.given_reference

    @property
    def set_apart(self) -> Select:
        """`filter` that keeps all but what the evaluation prompts come from, where it is needed."""
        assert self.given_set_apart is not None
        return self.given_set_apart

    @property
    def combine(self) -> Combine:
        """`combine`, where it is needed."""
        assert self.given_combine is not None
        return self.given_combine

    @property
    def best_of(self) -> Callable[..., Any]:
        """Makes the selection among samples, where it is needed."""
        assert self.given_best_of is not None
        return self.given_best_of

    def generate_of(self, corpus: Corpus) -> Generate:
        """What writes the documents of a corpus."""
        return corpus.generate or self.generate_documents

    def select_of(self, corpus: Corpus) -> Select:
        """What keeps the documents of a corpus that are trained on."""
        return corpus.select or self.select

    def train_of(self, row: Method) -> Train:
        """What trains a row."""
        return row.train or (self.train if row.adaptation is None else self.adapt)

    def chooser_of(self, row: Method) -> Score:
        """What says which of a row's samples is the least toxic."""
        return row.chooser or self.score

    def steer_of(self, vectors: Vectors) -> Steer:
        """What fits vectors."""
        if vectors.steer is not None:
            return vectors.steer
        assert self.given_steer is not None
        return self.given_steer

    def task_of(self, corpus: Corpus) -> Callable[..., Any]:
        """What makes the seqio task of a corpus."""
        if corpus.task is not None:
            return corpus.task
        if corpus.pairs is None:
            return self.documents_task
        assert self.pairs_task is not None
        return self.pairs_task
