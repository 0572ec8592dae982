"""By whose scores a row of `sgeat` came to be what it is, beside the filter of its corpus.

A scorer that is a judge too flatters what was made by its scores, however that was done: by tags,
pairs or terms, by vectors or models that steer, by a probe that chose the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import manifests, records
from detox_jax.checkpoints import identity
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.method import Method
from detox_jax.method.places import FITTED, CorpusPlaces, named_by

Scorer = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Deciders:
    """The scorers behind the rows of a run, whose corpora, models and vectors are made.

    Attributes:
      places: of its corpora.
      rows: all of them, by name.
      vectors: what it fits, by name.
    """

    places: CorpusPlaces
    rows: Mapping[str, Method]
    vectors: Mapping[str, Vectors]

    def of(self, name: str, steering: Sequence[Any], filtered_by: Scorer | None) -> list[Scorer]:
        """The scorers by whose scores a row was made, each once, as manifests name them.

        Args:
          name: of the row, or the base.
          steering: what steers it, by the names of the run.
          filtered_by: the scorer that filtered its corpus, which is left out.
        """
        found = [*self._of_model(name), *self._of_steering(steering)]
        known = {} if filtered_by is None else {filtered_by["fingerprint"]: filtered_by}
        others: dict[str, Scorer] = {}
        for scorer in found:
            if scorer is not None and scorer["fingerprint"] not in known:
                by = {"name": scorer["name"], "fingerprint": scorer["fingerprint"]}
                others.setdefault(scorer["fingerprint"], by)
        return list(others.values())

    def _of_model(self, name: str) -> Iterator[Scorer | None]:
        """Of a row's own training, of what it starts from, and of its terms."""
        row = self.rows.get(name)
        if row is None:
            return
        if row.corpus is not None:
            yield from self._of_training(name, row.corpus)
        for other in (row.start, *(row.terms or ())):
            yield from self._of_model(other or "")

    def _of_training(self, name: str, corpus: str) -> Iterator[Scorer | None]:
        kept = manifests.read_manifest(epath.Path(self.places.kept(corpus)))
        source = self.places.corpora[corpus].source
        yield kept.get("filtered_by")
        if self.places.corpora[corpus].pairs is not None:
            yield kept.get("scored_by")
            # Pairs of before name the scorer that filtered, or none.
            yield None if source is None else records.scorer_of(self.places.all_of(source))
        model = str(self.places.root / "models" / name)
        if identity.trained_behind(model) is not None:
            for part in (corpus, *self.places.corpora[corpus].pool):
                yield records.scorer_of(self.places.scored(part))
        probe = manifests.read_manifest(epath.Path(model))["settings"].get("probe")
        # A probe of the user's own says of itself what it likes.
        rule, scorer = (
            probe.get(name) if isinstance(probe, Mapping) else None for name in ("rule", "scorer")
        )
        if isinstance(rule, Mapping) and rule.get("budget") is not None:
            yield scorer if isinstance(scorer, Mapping) and "fingerprint" in scorer else None

    def _of_steering(self, steering: Sequence[Any]) -> Iterator[Scorer | None]:
        for field, value in (named for method in steering for named in named_by(method)):
            if field not in FITTED:
                yield from self._of_model(value)
            elif value in self.vectors:
                yield records.scorer_of(self.places.all_of(self.vectors[value].corpus))
