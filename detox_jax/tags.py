"""Tags before documents: a model that reads them learns which text is good, and is asked for it.

Conditional training (Korbak et al., 2023) writes `<|good|>` or `<|bad|>` before a text, by its
score; an instruction sentence in place of a tag is INST of SGEAT's authors. Here a tag is any text.
It is written with the tokens that the vocabulary has: a model needs no row more, so checkpoints,
adaptations and exports stay what they are. A vocabulary in which a tag is a token of its own writes
it as that one.

With tags `between` there are more than two classes, and a document's class is by its rank among all
that are read, as Quark has it (Lu et al., 2022): as many documents in each, the remainder in the
worst. Of equal scores the hash of the id decides: earlier rounds, which are read first, have no
better ranks than later ones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from detox_jax.errors import UserError
from detox_jax.kinds import Share
from detox_jax.records import stable_hash
from detox_jax.vocabulary import Vocabulary

_PARTS = 1_000_000  # in which the hash of an id falls, for the share without a tag


@dataclasses.dataclass(frozen=True)
class Tags:
    """Two tags or more, and which documents have them.

    Attributes:
      good: stands before documents whose score is below the threshold, and before what is asked of
        the model.
      bad: stands before the others.
      threshold: from this score on a document is bad; of no account with tags `between`.
      untagged: the share of the documents that have no tag, drawn by their ids, so that the model
        also knows text without one.
      between: tags of the classes between the best and the worst, the better ones first; documents
        are then cut into equal classes by their rank.

    Raises:
      UserError: for tags that cannot be told apart.
    """

    good: str = "<|good|>"
    bad: str = "<|bad|>"
    threshold: Share = 0.5
    untagged: Share = 0.01
    between: tuple[str, ...] = ()

    def __post_init__(self):
        if isinstance(self.between, str):
            raise UserError(f"BETWEEN_TAGS is {self.between!r}; give a list: ['{self.between}']")
        object.__setattr__(self, "between", tuple(self.between))  # gin has lists
        by_setting = self._by_setting
        for name, tag in by_setting:
            if not tag.strip():
                raise UserError(f"{name} is {tag!r}; give text, such as '<|good|>'")
        for (one, tag), (other, another) in itertools.combinations(by_setting, 2):
            if tag.startswith(another) or another.startswith(tag):
                raise UserError(
                    f"{one} is {tag!r} and {other} {another!r}; one may not begin the other"
                )

    @property
    def _by_setting(self) -> list[tuple[str, str]]:
        """All tags, each with the setting that holds it: good, bad, between."""
        between = [("BETWEEN_TAGS", tag) for tag in self.between]
        return [("GOOD_TAG", self.good), ("BAD_TAG", self.bad), *between]

    @property
    def all(self) -> tuple[str, ...]:
        """All tags, the best first."""
        return self.good, *self.between, self.bad

    @property
    def named(self) -> dict[str, Any]:
        """The tags, for manifests."""
        named: dict[str, Any] = {"good": self.good, "bad": self.bad}
        return {**named, "between": list(self.between)} if self.between else named

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of documents as manifests name them: without a tag, then as `all`."""
        between = (f"between_{number}" for number, _ in enumerate(self.between, start=1))
        return "untagged", "good", *between, "bad"

    def classes(self, documents: Sequence[tuple[str, float | None]]) -> list[int]:
        """The class of each document: 0 has no tag, 1 the best one, the last the worst one.

        Args:
          documents: ids and scores, of all that are read.

        Raises:
          UserError: for fewer scored documents than classes that go by rank.
        """
        if not self.between:
            numbers = {None: 0, self.good: 1, self.bad: 2}
            return [numbers[self.of(*document)] for document in documents]
        scored = [i for i, (_, toxicity) in enumerate(documents) if toxicity is not None]
        size = len(scored) // len(self.all)
        if not size:
            raise UserError(
                f"BETWEEN_TAGS: {len(scored)} scored documents are fewer than {len(self.all)} tags"
            )
        made = [0] * len(documents)

        def rank_of(i: int) -> tuple[float, int]:
            record_id, toxicity = documents[i]
            return toxicity or 0.0, stable_hash(f"rank:{record_id}")

        for rank, i in enumerate(sorted(scored, key=rank_of)):
            if not self._is_untagged(documents[i][0]):
                made[i] = min(rank // size, len(self.all) - 1) + 1
        return made

    def _is_untagged(self, record_id: str) -> bool:
        return stable_hash(f"tag:{record_id}") % _PARTS < self.untagged * _PARTS

    def of(self, record_id: str, toxicity: float | None) -> str | None:
        """The tag of a document by the threshold; None where it has none, as without a score.

        Args:
          record_id: its id.
          toxicity: its score.
        """
        if toxicity is None or self._is_untagged(record_id):
            return None
        return self.good if toxicity < self.threshold else self.bad

    def ids(self, vocabulary: Vocabulary) -> tuple[tuple[int, ...], ...]:
        """The token ids of all tags, the best one first.

        Raises:
          UserError: where the vocabulary cannot write one, or writes two so that one begins the
            other.
        """
        by_setting = self._by_setting
        encoded = vocabulary.encode_batch([tag for _, tag in by_setting])
        good, bad, *between = (tuple(ids) for ids in encoded)
        written = list(zip(by_setting, (good, bad, *between), strict=True))
        for (name, tag), ids in written:
            # A tag that is a special token of its own has no text.
            if not ids or (len(ids) > 1 and vocabulary.decode(ids).strip() != tag.strip()):
                raise UserError(f"{name}: {vocabulary.source} cannot write {tag!r}; give another")
        for ((one, tag), ids), ((other, another), others) in itertools.combinations(written, 2):
            shorter = min(len(ids), len(others))
            if ids[:shorter] == others[:shorter]:
                raise UserError(
                    f"{one} {tag!r} and {other} {another!r}: {vocabulary.source} writes the "
                    "beginning of one for the other; give others"
                )
        return good, *between, bad

    def check_text(self, text: str, where: str) -> None:
        """Refuses a text in which a tag stands: nobody could tell it from a tag.

        Raises:
          UserError: naming where.
        """
        for name, tag in self._by_setting:
            if tag in text:
                raise UserError(f"{where}: its text holds the tag {tag!r}; choose another {name}")
