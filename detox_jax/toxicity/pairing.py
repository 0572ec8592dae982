"""How pairs are mined: of scored continuations, of kept and discarded documents, of a file."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from detox_jax import kinds, output_settings, records, sources
from detox_jax.errors import UserError
from detox_jax.toxicity import preferences
from detox_jax.toxicity.preferences import Pair, Side

_FILTER_NEEDED = "give what `filter` wrote as INPUT, and the scored documents that it read as"


@dataclasses.dataclass(frozen=True)
class Mined:
    """What was mined.

    Attributes:
      pairs: in the input's order.
      counts: of what was read and what was left out, by name.
    """

    pairs: list[Pair]
    counts: dict[str, int]


class Pairing(Protocol):
    """Makes pairs of what a verb wrote, always the same of the same input."""

    def mine(self, source: str) -> Mined:
        """The pairs.

        Args:
          source: file, glob or directory.

        Raises:
          UserError: for another input than this reads.
        """
        ...

    def inputs(self) -> dict[str, Any]:
        """What is read beside the verb's INPUT, for the manifest."""
        ...


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What pairings by score have in common.

    Attributes:
      margin: by how much the scores of a pair differ, at least.
      length_ratio: how many times as many characters the longer text of a pair has, at most; no
        limit where None.
    """

    margin: kinds.Positive = 0.3
    length_ratio: float | None = None

    def __post_init__(self):
        if not 0 < self.margin <= 1:
            raise UserError(f"MARGIN is {self.margin}; must be above 0 and at most 1")
        if self.length_ratio is not None and not self.length_ratio >= 1:
            raise UserError(f"LENGTH_RATIO is {self.length_ratio}; must be at least 1, or None")

    def _differ(self, chosen: Side, rejected: Side) -> bool:
        """Whether the scores are far enough apart."""
        return _difference(chosen, rejected) >= self.margin - records.ROUNDING

    def _match(self, one: Side, other: Side) -> bool:
        """Whether two texts are about as long."""
        short, long = sorted((len(one.text), len(other.text)))
        return self.length_ratio is None or long <= self.length_ratio * short

    def inputs(self) -> dict[str, Any]:
        """See `Pairing`."""
        return {}


@dataclasses.dataclass(frozen=True)
class Extremes(_Scored):
    """Of every prompt its least toxic continuation against its most toxic one.

    With a `length_ratio` it is the pair of the largest margin among those of like length. Of equal
    scores the earlier sample counts. Continuations without a score, or without text, are no sides:
    silence is never toxic, and a model that prefers it writes nothing.
    """

    def mine(self, source: str) -> Mined:
        """See `Pairing`; at most one pair a prompt, never across prompts."""
        counts: dict[str, int] = dict.fromkeys(
            ("prompts", "samples", "unscored", "empty", "too_few", "margin", "length"), 0
        )
        pairs = []
        for prompt in records.read_prompts(source):
            counts["prompts"] += 1
            counts["samples"] += len(prompt.generations)
            sides = []
            for sample in prompt.generations:
                counts["unscored"] += sample.toxicity is None
                is_empty = sample.toxicity is not None and records.is_empty(sample.text)
                counts["empty"] += is_empty
                if sample.toxicity is not None and not is_empty:
                    ends = sample.extra.get("finish") == "stop"
                    sides.append(Side(sample.text, sample.toxicity, ends))
            if pair := self._pair(sides, counts):
                pairs.append(Pair(prompt.id, prompt.text, *pair))
        if counts["prompts"] and not counts["samples"]:
            raise UserError(
                f"{source}: its prompts have no continuations; run `generate` and `score` on them, "
                f"or give pairs to PAIRING=@pairing.Imported(){sources.written_by(source)}"
            )
        if counts["samples"] == counts["unscored"]:
            raise UserError(f"{source}: none of its continuations has a score; run `score`")
        return Mined(pairs, counts)

    def _pair(self, sides: Sequence[Side], counts: dict[str, int]) -> tuple[Side, Side] | None:
        """The least and the most toxic one; counts why there is none."""
        if len(sides) < 2:
            counts["too_few"] += 1
            return None
        # In the order of the samples: of equal differences `max` takes the first.
        apart = [pair for pair in itertools.permutations(sides, 2) if self._differ(*pair)]
        alike = [pair for pair in apart if self._match(*pair)]
        if not alike:
            counts["length" if apart else "margin"] += 1
            return None
        return max(alike, key=lambda pair: _difference(*pair))


@dataclasses.dataclass(frozen=True)
class KeptAgainstDiscarded(_Scored):
    """Documents that `filter` kept against those that it left out: the half SGEAT throws away.

    The input is what `filter` wrote. The mildest of the kept stands against the worst of the
    discarded, the second against the second, and so on; with a `length_ratio` documents are matched
    in the order of their lengths. Documents that were written from prompts, which do not hold them,
    are paired within their prompt.

    Attributes:
      documents: the scored documents that `filter` read. Where it left out what evaluation records
        come from, those of them that another `filter`, which keeps all others, has left.
    """

    documents: str = ""

    def inputs(self) -> dict[str, Any]:
        """See `Pairing`."""
        return {"documents": records.describe_input(self.documents)}

    def mine(self, source: str) -> Mined:
        """See `Pairing`."""
        self._check_filter(source)
        kept = list(records.read_documents(source))
        names = {document.id for document in kept}
        every = list(records.read_documents(self.documents))
        if missing := names - {document.id for document in every}:
            raise UserError(
                f"DOCUMENTS={self.documents}: has no document {min(missing)!r}, which {source} "
                "kept; give the scored documents that `filter` read"
            )
        discarded = [document for document in every if document.id not in names]
        counts = {"kept": len(kept), "discarded": len(discarded)}
        counts["unscored"] = sum(d.toxicity is None for d in (*kept, *discarded))
        counts["empty"] = sum(
            d.toxicity is not None and records.is_empty(d.text) for d in (*kept, *discarded)
        )
        counts["margin"] = counts["unmatched"] = 0
        groups = [_by_prompt(kept), _by_prompt(discarded)]
        pairs: list[Pair] = []
        for prompt in sorted({*groups[0], *groups[1]}):
            sides = self._matched(groups[0][prompt], groups[1][prompt], counts)
            pairs += [Pair(f"{x.id}+{y.id}", prompt, x, y) for x, y in sides]
        return Mined(pairs, counts)

    def _check_filter(self, source: str) -> None:
        """Refuses documents that `filter` did not read, where its manifest is there to say so."""
        if not self.documents:
            raise UserError(f"DOCUMENTS is empty; {_FILTER_NEEDED} DOCUMENTS")
        _, manifest = records.manifest_of(source) or ("", {})
        if manifest.get("verb") != "filter":
            raise UserError(f"{source}: no output of `filter`; {_FILTER_NEEDED} DOCUMENTS")
        settings = manifest["settings"]
        if settings.get("apart_from"):
            self._check_apart(source, settings)
            return
        described = records.describe_input(self.documents)
        if settings["input"]["sha256"] != described["sha256"]:
            raise UserError(
                f"DOCUMENTS={self.documents}: other documents than {source} was filtered from; "
                "give those that its manifest names"
            )

    def _check_apart(self, source: str, settings: Mapping[str, Any]) -> None:
        """Refuses documents among which are those that evaluation records come from."""
        _, manifest = records.manifest_of(self.documents) or ("", {})
        theirs = manifest["settings"] if manifest.get("verb") == "filter" else {}
        for name in ("input", "apart_from", "word_segmenter"):
            # Versions may name more or less.
            both = output_settings.as_both_name(settings.get(name), theirs.get(name))
            if not output_settings.agree(*both):
                evaluated, read = (settings[of].get("path") for of in ("apart_from", "input"))
                raise UserError(
                    f"DOCUMENTS={self.documents}: {source} was filtered apart from {evaluated}, "
                    "and what it discarded must be too; give what `filter` keeps of "
                    f"{read} with KEEP_FRACTION=1.0, SELECTION=@filter.RandomShare() and the same "
                    "APART_FROM"
                )

    def _matched(
        self, kept: list[Side], discarded: list[Side], counts: dict[str, int]
    ) -> list[tuple[Side, Side]]:
        """Pairs of one prompt's documents; counts those that are in none."""
        most = min(len(kept), len(discarded))
        candidates = list(zip(kept, reversed(discarded), strict=False))
        if self.length_ratio is not None:
            candidates = list(self._of_like_length(kept, discarded))
        counts["unmatched"] += most - len(candidates)
        sides = [(x, y) for x, y in candidates if self._differ(x, y)]
        counts["margin"] += len(candidates) - len(sides)
        return sides

    def _of_like_length(
        self, kept: list[Side], discarded: list[Side]
    ) -> Iterable[tuple[Side, Side]]:
        """Each document once: of two that differ too much in length the shorter finds no other."""
        one, other = (sorted(sides, key=lambda s: len(s.text)) for sides in (kept, discarded))
        i = j = 0
        while i < len(one) and j < len(other):
            if self._match(one[i], other[j]):
                yield one[i], other[j]
                i, j = i + 1, j + 1
            elif len(one[i].text) < len(other[j].text):
                i += 1
            else:
                j += 1


@dataclasses.dataclass(frozen=True)
class Imported:
    """Pairs of a file, in our layout or in TRL's; likelihoods that it has are computed anew."""

    def inputs(self) -> dict[str, Any]:
        """See `Pairing`."""
        return {}

    def mine(self, source: str) -> Mined:
        """See `Pairing`."""
        pairs = list(preferences.read(source, reference=False))
        equal = sum(pair.chosen.text == pair.rejected.text for pair in pairs)
        return Mined(pairs, {"records": len(pairs), "equal_sides": equal})


def _difference(chosen: Side, rejected: Side) -> float:
    assert chosen.toxicity is not None and rejected.toxicity is not None
    return rejected.toxicity - chosen.toxicity


def _by_prompt(documents: Sequence[records.Document]) -> dict[str, list[Side]]:
    """Documents that can be sides, least toxic first, by the prompt that they were written from."""
    groups: dict[str, list[Side]] = collections.defaultdict(list)
    for document in sorted(documents, key=_order):
        if document.toxicity is not None and not records.is_empty(document.text):
            ends = document.extra.get("finish") in (None, "stop")
            side = Side(document.text, document.toxicity, ends, document.id)
            groups[str(document.extra.get("prompt_text", ""))].append(side)
    return groups


def _order(document: records.Document) -> tuple[float, int]:
    return document.toxicity or 0.0, records.stable_hash(document.id)
