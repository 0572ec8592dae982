"""What makes a corpus comparable with another: as many words, equal lengths, apart from tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import bad_records as bad_records_lib
from detox_jax import preview, records
from detox_jax.errors import UserError
from detox_jax.segmenters import Segmenter
from detox_jax.toxicity import apart as apart_lib
from detox_jax.toxicity import corpus
from detox_jax.toxicity import lengths as lengths_lib
from detox_jax.toxicity.lengths import num_words


@dataclasses.dataclass(frozen=True)
class Control:
    """The files that a corpus is compared with, see `filter`; None where it is not.

    Attributes:
      size_of: documents whose words are not to be exceeded.
      lengths_of: documents to whose lengths, one by one, those of the corpus are matched.
      size_share: of the words of the former, of the documents of the latter.
      apart_from: evaluation records.
      segmenter: of words; white space alone where None.

    Raises:
      UserError: for a share that is none, or is of nothing.
    """

    size_of: str | None
    lengths_of: str | None
    size_share: float
    apart_from: str | None
    segmenter: Segmenter | None = None

    def __post_init__(self):
        if not 0 < self.size_share <= 1:
            raise UserError(f"SIZE_SHARE is {self.size_share}; must be above 0 and at most 1")
        if self.size_share < 1 and self.size_of is self.lengths_of is None:
            raise UserError("SIZE_SHARE is of SIZE_OF or LENGTHS_OF; give one of them")

    @property
    def files(self) -> dict[str, str]:
        """What is given, by the argument's name."""
        names = ("size_of", "lengths_of", "apart_from")
        return {name: path for name in names if (path := getattr(self, name)) is not None}

    def check(self, aside: bad_records_lib.Aside | None = None) -> None:
        """Looks whether the files are there and begin as they must, but for those that are to come.

        Raises:
          UserError: naming what is missing, or of another kind.
        """
        for name, path in self.files.items():
            if not isinstance(path, preview.Coming):
                read = records.read_records if name == "apart_from" else records.read_documents
                next(read(path, aside), None)

    def settings(self) -> dict[str, dict[str, Any]]:
        """What stands for each argument in settings.

        Of what came later than `size_of` nothing is said where it is not asked for, so that older
        outputs go on.
        """
        said: dict[str, dict[str, Any]] = {
            "size_of": {"size_of": None},
            "lengths_of": {},
            "size_share": {} if self.size_share == 1 else {"size_share": self.size_share},
            "apart_from": {},
        }
        described = {name: records.describe_input(path) for name, path in self.files.items()}
        return said | {name: {name: value} for name, value in described.items()}

    def apart(
        self, documents: Sequence[records.Document], aside: bad_records_lib.Aside | None
    ) -> tuple[Sequence[records.Document], dict[str, int]]:
        """The documents that no evaluation record comes from, and how the others were told."""
        assert self.apart_from is not None
        evaluated = list(records.read_records(self.apart_from, aside))
        known = apart_lib.Evaluated(evaluated, self.segmenter)
        reasons = [known.why(document) for document in documents]
        counts = {
            "records": len(evaluated),
            "by_id_alone": known.by_id_alone,
            "id": reasons.count("id"),
            "text": reasons.count("text"),
        }
        return corpus.taken(documents, [i for i, why in enumerate(reasons) if why is None]), counts

    def of_lengths(
        self,
        documents: Sequence[records.Document],
        aside: bad_records_lib.Aside | None,
        more: str,
    ) -> tuple[Sequence[records.Document], dict[str, Any]]:
        """Documents of the lengths of others, see `lengths.of_lengths`."""
        assert self.lengths_of is not None
        documents_of = records.read_documents(self.lengths_of, aside)
        read = [num_words(d, self.segmenter) for d in documents_of]
        if not (wanted := lengths_lib.share_of(read, self.size_share)):
            raise UserError(
                f"LENGTHS_OF={self.lengths_of}: SIZE_SHARE {self.size_share} of its {len(read)} "
                "documents is none"
            )
        return lengths_lib.of_lengths(documents, wanted, self.lengths_of, more)

    def as_many_words(
        self, documents: Sequence[records.Document], aside: bad_records_lib.Aside | None
    ) -> Sequence[records.Document]:
        """The first documents, as many as together have no more words than those of `size_of`."""
        assert self.size_of is not None
        documents_of = records.read_documents(self.size_of, aside)
        words = sum(num_words(d, self.segmenter) for d in documents_of)
        limit = lengths_lib.whole_share(words, self.size_share)
        totals = np.cumsum(corpus.words_of(documents))
        count = int(np.searchsorted(totals, limit, side="right"))
        if not count:
            raise UserError(
                f"{self.size_of}: holds {limit} words, fewer than the first document kept"
            )
        return documents[:count]


def said(details: Mapping[str, Any]) -> list[str]:
    """What the steps of a selection and a control left, as lines for the user."""
    lines = [f"{s['selection']}: {s['documents']} -> {s['kept']}" for s in details.get("steps", ())]
    for step in (*details.get("steps", ()), details):
        if told := step.get("transport"):
            lines.append(
                f"transport to {told['target_documents']} target documents: distance "
                f"{told['distance']:.4f} at a mean cost of {told['mean_cost']:.4f}, "
                f"{told['sinkhorn_iterations']} iterations; {told['nearer']} documents bring the "
                "corpus nearer"
            )
    if apart := details.get("apart"):
        lines.append(
            f"apart from {apart['records']} evaluation records: left out {apart['id']} documents "
            f"by id, {apart['text']} by text"
        )
    if lengths := details.get("lengths"):
        lines.append(
            f"lengths: {lengths['exact']} of {lengths['documents']} documents have just the length "
            f"that is asked for; {lengths['words_taken']} words for {lengths['words']}"
        )
    return lines
