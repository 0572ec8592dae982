"""A scorer that remembers: every text is scored once, in this run and in all that share the file.

SCORER = @cache.CachedScorer()
cache.CachedScorer.scorer = @remote.PerspectiveScorer()
cache.CachedScorer.path = 'runs/scores.sqlite'
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, manifests, records
from detox_jax.errors import UserError
from detox_jax.parallel import processes
from detox_jax.toxicity import score_store
from detox_jax.toxicity import scorer as scorers
from detox_jax.toxicity.score_store import ScoreStore
from detox_jax.toxicity.shared_scores import SharedScores

_TEXTS_AT_ONCE = 1000
# What files call an attribute beside its own name and that in lower case.
_ALIASES = {"SEXUALLY_EXPLICIT": "sexual_explicit"}


@dataclasses.dataclass(frozen=True)
class CachedScorer:
    """The scores of another scorer, each asked for once; name and fingerprint are the other's.

    What was scored before a failure is kept, so that a rerun goes on from there. Texts that the
    scorer had no answer for are kept as such.

    Attributes:
      scorer: the scorer to remember. Where it has `texts_at_once`, it is given that many texts a
        call (1,000 otherwise), and each call's scores are kept before the next; where it has
        `attribute`, that is part of what a score is found by.
      path: the SQLite file, or in a bucket a directory, which keeps the scores where a machine is
        preempted (`shared_scores`); several scorers, processes and machines may share it.
      replay_only: never call the scorer; a text that has no score in the file is an error.
      imports: files of Perspective's scores whose texts count as scored: RealToxicityPrompts'
        prompts, and the `*_gens_*.jsonl` of RealToxicityPrompts and DExperts. Only for a scorer
        named "perspective". A score that the file holds already stays.

    Raises:
      UserError: for a path that is neither local nor in a bucket, a scorer that is none, or imports
        for a scorer other than Perspective.
    """

    scorer: scorers.ToxicityScorer
    path: str
    replay_only: bool = False
    imports: tuple[str, ...] = ()

    def __post_init__(self):
        scorers.identity(self.scorer)
        if not atomic_files.is_local(self.path) and not self.path.startswith("gs://"):
            raise UserError(f"{self.path}: a score cache is a local file or a directory in gs://")
        if isinstance(self.imports, str):
            raise UserError(
                f"CachedScorer.imports is {self.imports!r}; expected a list: ['{self.imports}']"
            )
        if self.imports and self.scorer.name != "perspective":
            raise UserError(
                f"CachedScorer.imports holds Perspective's scores, and the scorer is "
                f"{self.scorer.name!r}; they would pass for its own"
            )

    @property
    def name(self) -> str:
        """The scorer's."""
        return self.scorer.name

    @property
    def fingerprint(self) -> str:
        """The scorer's."""
        return self.scorer.fingerprint

    @property
    def reliability(self) -> Any:
        """The scorer's, None where it has none."""
        return getattr(self.scorer, "reliability", None)

    @property
    def activation(self) -> str | None:
        """The scorer's, None where it has none."""
        return scorers.activation(self.scorer)

    @property
    def on_mesh(self) -> bool:
        """The scorer's, False where it has none."""
        return getattr(self.scorer, "on_mesh", False)

    @property
    def languages(self) -> tuple[str, ...] | str:
        """The scorer's."""
        return scorers.languages(self.scorer)

    def can_read(self, text: str) -> bool:
        """The scorer's, True where it has none."""
        can_read = getattr(self.scorer, "can_read", None)
        return can_read is None or can_read(text)

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`.

        Raises:
          UserError: in replay-only mode, if texts have no score; if the file cannot be used or an
            import not be read; and whatever the scorer raises.
        """
        prepared = [scorers.prepare(text) for text in texts]
        asked = list(dict.fromkeys(text for text in prepared if not records.is_empty(text)))
        # What hosts remember may differ, and all must score the same: process 0 remembers. It tells
        # no texts, which all have: what is told stays in its memory.
        run = processes.current()
        told = run.first_decides(lambda: self._remembered(asked))
        scores = {asked[index]: score for index, score in told}
        missing = [text for text in asked if text not in scores]
        if missing and self.replay_only:
            raise UserError(
                f"{self.path}: {len(missing)} of {len(asked)} texts have no score of "
                f"{self.name} ({self.fingerprint}) and replay_only is set; score them first"
            )
        at_once = getattr(self.scorer, "texts_at_once", _TEXTS_AT_ONCE)
        try:
            for first in range(0, len(missing), at_once):
                group = missing[first : first + at_once]
                fresh = dict(zip(group, scorers.score_texts(self.scorer, group), strict=True))
                if run.is_first:
                    self._store.put(fresh)
                scores |= fresh
        finally:
            if missing and run.is_first:
                self._store.flush()
        return [scores.get(text, scorers.EMPTY_SCORE) for text in prepared]

    def check(self) -> None:
        """Raises a `UserError` if the scorer cannot score, or, in replay-only mode, nothing can.

        And if there is a file that is no cache: it would be refused when the first text is scored.
        """
        if atomic_files.is_local(self.path) and os.path.isfile(self.path):
            score_store.require_ours(self.path)
        if not self.replay_only:
            scorers.check(self.scorer)
        elif not self.imports and not epath.Path(self.path).exists():
            raise UserError(f"{self.path}: no such score cache; replay-only mode needs one")

    def _remembered(self, texts: Sequence[str]) -> list[tuple[int, float | None]]:
        """Scores by the index of their text."""
        if self.replay_only:
            self.check()
        scores = self._store.get(texts)
        return [(index, scores[text]) for index, text in enumerate(texts) if text in scores]

    @functools.cached_property
    def _store(self) -> ScoreStore | SharedScores:
        """The file or the directory, with what there is to import."""
        attribute = getattr(self.scorer, "attribute", "toxicity")
        kind = ScoreStore if atomic_files.is_local(self.path) else SharedScores
        store = kind(self.path, self.fingerprint, attribute)
        for file in self.imports:
            _import_file(store, file)
        return store


def _import_file(store: ScoreStore | SharedScores, file: str) -> None:
    """Takes over the scores of a file, once for each content of the file."""
    if not epath.Path(file).is_file():
        raise UserError(f"{file}: no such file; CachedScorer.imports names files of scores")
    digest = manifests.hash_files([epath.Path(file)])
    if store.has_import(digest):
        return
    names = (store.attribute, store.attribute.lower(), _ALIASES.get(store.attribute, ""))
    scores: dict[str, float | None] = {}
    for number, line in records.read_jsonl(epath.Path(file)):
        for text, score in _scored_texts(line, names, f"{file}:{number}"):
            if scores.get(text) is None:
                scores[text] = score
    if not scores:
        raise UserError(
            f'{file}: no "text" beside a {store.attribute.lower()!r}; expected prompts or '
            "generations with Perspective's scores (prompts.jsonl, prompted_gens_*.jsonl)"
        )
    store.put_import(scores, epath.Path(file).name, digest)


def _scored_texts(
    value: Any, names: Sequence[str], where: str
) -> Iterator[tuple[str, float | None]]:
    """Every text in a parsed line that has a score, or null, beside it."""
    if isinstance(value, list):
        for item in value:
            yield from _scored_texts(item, names, where)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _scored_texts(item, names, where)
        name = next((name for name in names if name in value), None)
        if name is not None and isinstance(value.get("text"), str):
            yield scorers.prepare(value["text"]), records.parse_score(value[name], name, where)
