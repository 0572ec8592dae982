"""Some rows of a run of `sgeat` alone: what they need, and where their figures go.

A run of some rows leaves the same corpora, models and continuations as a run of all of them, at the
same places, so that a later run of more rows finds them. Only evaluation and report are of these
rows, and have a directory of their own, so that they stand in no other run's way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import gin
from etils import epath
from gin import config as gin_config

from detox_jax.errors import UserError, suggestion
from detox_jax.generation.decoding import Decoding
from detox_jax.method.corpus import Corpus
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.method import BASE, Method
from detox_jax.method.places import FITTED, named_by

_MACRO = ("ONLY", "gin.macro")


def check(only: Sequence[str], rows: Mapping[str, Method]) -> None:
    """Refuses names that are no rows.

    Args:
      only: as the user gave them; the base may be among them.
      rows: all of the run's.

    Raises:
      UserError: naming the first that is none.
    """
    if not only:
        raise UserError("ONLY is empty; give names of METHODS: ['standard'], or None for all")
    for name in only:
        if name != BASE and name not in rows:
            meant = suggestion(name, rows) or f"; there are {', '.join(rows)}"
            raise UserError(f"ONLY: {name!r} is no method{meant}")


def directory(root: epath.Path, only: Sequence[str]) -> epath.Path:
    """Where evaluation and report of some rows go, in whatever order they are named.

    Args:
      root: of the run.
      only: the rows.
    """
    decided = json.dumps(sorted({*only} - {BASE})).encode()
    return root / f"only-{hashlib.sha256(decided).hexdigest()[:8]}"


def frontiers(
    given: Mapping[str, Sequence[str]] | None, rows: Mapping[str, Method]
) -> Mapping[str, Sequence[str]] | None:
    """The frontiers all of whose rows are there: a line through fewer is another line.

    Args:
      given: rows by name.
      rows: those that are there.
    """
    if given is None:
        return None
    return {name: of for name, of in given.items() if set(of) <= rows.keys()} or None


@dataclasses.dataclass
class Needed:
    """What some rows take: rows that are trained before them, corpora, vectors.

    Attributes:
      all_rows: of the run, by name.
      all_corpora: the same.
      all_vectors: the same.
      rows: names of those that are trained, those that are measured included.
      corpora: names of those that are made.
      vectors: names of those that are fitted.
    """

    all_rows: Mapping[str, Method]
    all_corpora: Mapping[str, Corpus]
    all_vectors: Mapping[str, Vectors]
    rows: set[str] = dataclasses.field(default_factory=set)
    corpora: set[str] = dataclasses.field(default_factory=set)
    vectors: set[str] = dataclasses.field(default_factory=set)

    def measure(self, name: str, decoding: Decoding) -> None:
        """Adds what it takes to measure a row: its model, and what steers its continuations.

        Args:
          name: of the row; the base is one.
          decoding: the run's, which a row may change.
        """
        self._add_row(name)
        if name in self.all_rows:
            decoding = self.all_rows[name].decode_with(decoding)
        for method in decoding.steering:
            for field, value in named_by(method):
                if field in FITTED:
                    self._add_vectors(value)
                else:
                    self._add_row(value)

    def has(self, name: str, part: Corpus | Method) -> bool:
        """Whether a part of the run is needed."""
        return name in (self.corpora if isinstance(part, Corpus) else self.rows)

    def _add_row(self, name: str | None) -> None:
        if name is None or name not in self.all_rows or name in self.rows:
            return
        self.rows.add(name)
        row = self.all_rows[name]
        self._add_corpus(row.corpus)
        for other in (row.start, *(row.terms or ())):
            self._add_row(other)

    def _add_corpus(self, name: str | None) -> None:
        if name is None or name in self.corpora:
            return
        self.corpora.add(name)
        corpus = self.all_corpora[name]
        self._add_row(corpus.writer)
        for other in corpus.waits_for:
            self._add_corpus(other)

    def _add_vectors(self, name: str) -> None:
        if name not in self.all_vectors or name in self.vectors:
            return
        self.vectors.add(name)
        self._add_corpus(self.all_vectors[name].corpus)
        self._add_row(self.all_vectors[name].model)


def bind(only: Sequence[str] | None) -> None:
    """Sets ONLY for what is written from now on of the configuration; nothing where gin has none.

    What several rows share is not decided by ONLY, so the configuration beside it says None.

    Args:
      only: names of rows, or None.
    """
    if _MACRO in gin_config._CONFIG:
        with gin.unlock_config():
            gin.bind_parameter("ONLY/gin.macro.value", only)
