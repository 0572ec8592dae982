"""Where the corpora of a run of `sgeat` lie, and what its rows are steered by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax import manifests
from detox_jax.generation.decoding import Decoding
from detox_jax.method.corpus import Corpus
from detox_jax.method.method import Method

# What a method of steering names in these was fitted on scored text; in its other files, a model.
FITTED = ("vectors", "subspace", "linear", "reward")


def named_by(method: Any) -> Iterator[tuple[str, str]]:
    """The fields of a method of steering that take files, each with what it names.

    Args:
      method: of steering; what it names is fitted by the run, or a row of it, or a path.
    """
    for field in getattr(method, "files", ()):
        if isinstance(value := getattr(method, field), str):
            yield field, value


def trained_by(rows: Mapping[str, Method], name: str) -> Method | None:
    """The row that trained what a row decodes; None where nothing was trained.

    Args:
      rows: all of them, by name.
      name: of the row, or the base.
    """
    row = rows.get(name)
    while row is not None and row.corpus is None:
        row = rows.get(row.start or "")
    return row


def placed(decoding: Decoding, models: Mapping[str, str], vectors: Mapping[str, str]) -> Decoding:
    """A decoding in which places stand for the names of what a run makes.

    Args:
      decoding: of a row. What steers it may name vectors of the run and, wherever else it takes a
        file, a row, for the row's model, or the base. A path that is no such name stays.
      models: where the models are, by row, and the base's.
      vectors: where the vectors are, by name.
    """

    def in_place(method: Any) -> Any:
        named = {}
        for field, value in named_by(method):
            places = vectors if field in FITTED else models
            if value in places:
                named[field] = places[value]
        return dataclasses.replace(method, **named) if named else method

    return dataclasses.replace(decoding, steering=[in_place(m) for m in decoding.steering])


@dataclasses.dataclass(frozen=True)
class CorpusPlaces:
    """The directories of a run's corpora.

    Attributes:
      root: of the run.
      corpora: by name.
    """

    root: epath.Path
    corpora: Mapping[str, Corpus]

    def kept(self, name: str) -> str:
        """Where what is trained on lies."""
        return str(self.root / "corpora" / name / self.corpora[name].directory)

    def scored(self, name: str) -> str:
        """Where the documents lie that a corpus is selected from."""
        corpus = self.corpora[name]
        if corpus.prompts is None and corpus.source is not None:
            return self.scored(corpus.source)
        if corpus.is_scored:
            return str(self.given_documents(corpus))
        return str(self.root / "corpora" / name / "scored")

    def apart(self, name: str) -> str:
        """Where the documents lie that a corpus is selected from, apart from the evaluation's."""
        return str(self.root / "corpora" / name / "apart")

    def all_of(self, name: str) -> str:
        """All documents that a corpus was selected from, those that its filter discarded too."""
        return self.apart(name) if self.corpora[name].apart_from_prompts else self.scored(name)

    def scored_of(self, pairs: Corpus) -> dict[str, str]:
        """What a pairing reads beside the kept documents of its source: all that it is of."""
        return {} if pairs.source is None else {"documents": self.all_of(pairs.source)}

    def given_documents(self, corpus: Corpus) -> str | None:
        """Where the documents of a corpus are that nobody generates."""
        if corpus.documents is None:
            return None
        made = self.root / "text" / corpus.documents
        return str(made) if made.exists() else corpus.documents

    def labels(self, rows: Mapping[str, Method], name: str) -> dict[str, Any]:
        """What `evaluate` is told of a row beside its files; nothing where nothing was trained.

        Args:
          rows: all of them, by name.
          name: of the row.
        """
        row = trained_by(rows, name)
        if row is None:
            return {}
        manifest = manifests.read_manifest(epath.Path(self.kept(str(row.corpus))))
        by = manifest["filtered_by"] if "filtered_by" in manifest else manifest["scored_by"]
        return {"corpus": row.corpus, "adaptation": row.label, "filtered_by": by}
