"""Tags before documents: a model that reads them learns which text is good, and is asked for it.

Conditional training (Korbak et al., 2023) writes `<|good|>` or `<|bad|>` before a text, by its
score; an instruction sentence in place of a tag is INST of SGEAT's authors. Here a tag is any text.
It is written with the tokens that the vocabulary has: a model needs no row more, so checkpoints,
adaptations and exports stay what they are. A vocabulary in which a tag is a token of its own writes
it as that one.
"""

from __future__ import annotations

import dataclasses

from detox_jax.errors import UserError
from detox_jax.kinds import Share
from detox_jax.records import stable_hash
from detox_jax.vocabulary import Vocabulary

_PARTS = 1_000_000  # in which the hash of an id falls, for the share without a tag


@dataclasses.dataclass(frozen=True)
class Tags:
    """Two tags, and which documents have them.

    Attributes:
      good: stands before documents whose score is below the threshold, and before what is asked of
        the model.
      bad: stands before the others.
      threshold: from this score on a document is bad.
      untagged: the share of the documents that have no tag, drawn by their ids, so that the model
        also knows text without one.

    Raises:
      UserError: for tags that cannot be told apart.
    """

    good: str = "<|good|>"
    bad: str = "<|bad|>"
    threshold: Share = 0.5
    untagged: Share = 0.01

    def __post_init__(self):
        for name, tag in (("GOOD_TAG", self.good), ("BAD_TAG", self.bad)):
            if not tag.strip():
                raise UserError(f"{name} is {tag!r}; give text, such as '<|good|>'")
        if self.good.startswith(self.bad) or self.bad.startswith(self.good):
            raise UserError(
                f"GOOD_TAG is {self.good!r} and BAD_TAG {self.bad!r}; one may not begin the other"
            )

    @property
    def named(self) -> dict[str, str]:
        """Both tags, for manifests."""
        return {"good": self.good, "bad": self.bad}

    def of(self, record_id: str, toxicity: float | None) -> str | None:
        """The tag of a document; None where it has none, as without a score.

        Args:
          record_id: its id.
          toxicity: its score.
        """
        if toxicity is None or stable_hash(f"tag:{record_id}") % _PARTS < self.untagged * _PARTS:
            return None
        return self.good if toxicity < self.threshold else self.bad

    def ids(self, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The token ids of both tags, the good one first.

        Raises:
          UserError: where the vocabulary cannot write one, or writes them so that one begins the
            other.
        """
        good, bad = (tuple(ids) for ids in vocabulary.encode_batch([self.good, self.bad]))
        for name, tag, ids in (("GOOD_TAG", self.good, good), ("BAD_TAG", self.bad, bad)):
            # A tag that is a special token of its own has no text.
            if not ids or (len(ids) > 1 and vocabulary.decode(ids).strip() != tag.strip()):
                raise UserError(f"{name}: {vocabulary.source} cannot write {tag!r}; give another")
        shorter = min(len(good), len(bad))
        if good[:shorter] == bad[:shorter]:
            raise UserError(
                f"GOOD_TAG {self.good!r} and BAD_TAG {self.bad!r}: {vocabulary.source} writes the "
                "beginning of one for the other; give others"
            )
        return good, bad

    def check_text(self, text: str, where: str) -> None:
        """Refuses a text in which a tag stands: nobody could tell it from a tag.

        Raises:
          UserError: naming where.
        """
        for name, tag in (("GOOD_TAG", self.good), ("BAD_TAG", self.bad)):
            if tag in text:
                raise UserError(f"{where}: its text holds the tag {tag!r}; choose another {name}")
