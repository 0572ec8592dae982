"""Scored continuations of several methods, read, and joined to what compares.

Prompts are joined by their ids, and must be the same texts with the same scores. What can be cut to
a common part is, and said; what cannot is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.evaluation import decoding
from detox_jax.evaluation.results import Reliability
from detox_jax.evaluation.rows import UNKNOWN_SCORER, Scorer
from detox_jax.evaluation.text_quality import TextQuality, TextReader
from detox_jax.evaluation.typed_json import from_json

_SHOWN = 60  # characters of a text in an error


@dataclasses.dataclass(frozen=True)
class Scored:
    """A method's continuations in the order of the baseline's prompts.

    Texts are long and many: of all but the first of a prompt what is compared of them stays alone.

    Attributes:
      prompts: the records, with the first continuation alone and without what nothing here reads.
      scores_PK: toxicity of each continuation, NaN where missing; as many columns as the prompt of
        the most continuations has.
      hashes_PK: Python's own of each continuation's text; 0 where there is none. Those of one
        process compare.
      unreadable_PK: whether it has no score since the scorer cannot read its letters.
      counts_P: continuations, scored or not.
      scorer: that gave the scores.
      reliability: of the scorer, in its own words, as `score` recorded them; None where it has
        none.
      decoding: settings of the `generate` that wrote the continuations; None where the files do
        not say.
      quality: of the texts; None where nobody asked, or some were cut off since.
      chosen_by: the scorer that chose them among more samples; None where none did.
    """

    prompts: Sequence[records.Prompt]
    scores_PK: np.ndarray
    hashes_PK: np.ndarray
    unreadable_PK: np.ndarray
    counts_P: np.ndarray
    scorer: Scorer
    reliability: Mapping[str, Any] | None = None
    decoding: Mapping[str, Any] | None = None
    quality: TextQuality | None = None
    chosen_by: Scorer | None = None

    @property
    def is_steered(self) -> bool:
        """Whether something changed the model's distribution before the draws."""
        return bool((self.decoding or {}).get("steering"))

    @property
    def num_samples(self) -> int:
        """Continuations, scored or not."""
        return int(self.counts_P.sum())

    @property
    def samples_per_prompt(self) -> int:
        """Continuations that every prompt should have, K."""
        return self.scores_PK.shape[1]

    @property
    def coverage(self) -> float:
        """The share of all K continuations of all prompts that is there and has a score."""
        return float(np.isfinite(self.scores_PK).sum() / max(1, self.scores_PK.size))

    @property
    def unreadable(self) -> int:
        """How many continuations have no score since the scorer cannot read their letters."""
        return int(self.unreadable_PK.sum())

    def first(self, num_samples: int) -> Scored:
        """The first continuations of every prompt."""
        if num_samples >= self.samples_per_prompt:
            return self
        return dataclasses.replace(
            self,
            prompts=[
                dataclasses.replace(prompt, generations=prompt.generations[:num_samples])
                for prompt in self.prompts
            ],
            scores_PK=self.scores_PK[:, :num_samples],
            hashes_PK=self.hashes_PK[:, :num_samples],
            unreadable_PK=self.unreadable_PK[:, :num_samples],
            counts_P=np.minimum(self.counts_P, num_samples),
            quality=None,
        )

    def rows(self, rows: np.ndarray) -> Scored:
        """Those prompts, by index, in that order."""
        return dataclasses.replace(
            self,
            prompts=[self.prompts[i] for i in rows],
            scores_PK=self.scores_PK[rows],
            hashes_PK=self.hashes_PK[rows],
            unreadable_PK=self.unreadable_PK[rows],
            counts_P=self.counts_P[rows],
            quality=self.quality and self.quality.rows(rows),
        )

    def subset(self, mask_P: np.ndarray) -> Scored:
        """The prompts where the mask is True."""
        return self.rows(np.flatnonzero(mask_P))


def texts_sha256(prompts: Iterable[records.Prompt], num_samples: int) -> str:
    """Hash of prompts and their first continuations by id, whatever their order and their scores.

    Args:
      prompts: with all their continuations.
      num_samples: how many of each count.
    """
    lines = {
        prompt.id: json.dumps(
            [prompt.id, prompt.text, [g.text for g in prompt.generations[:num_samples]]]
        )
        for prompt in prompts
    }
    digest = hashlib.sha256(b"[")
    for i, (_, line) in enumerate(sorted(lines.items())):
        digest.update((", " if i else "").encode() + line.encode())
    digest.update(b"]")
    return digest.hexdigest()


def read(name: str, generations: str, with_quality: bool = False) -> Scored:
    """Reads what `score` wrote for the method `name`.

    Args:
      name: of the method.
      generations: `score`'s output: file, glob or directory.
      with_quality: whether to read what its texts are like as well.

    Raises:
      UserError: for zero prompts, no continuation at all, or a manifest that names no scorer.
    """
    return of_prompts(name, records.read_prompts(generations), generations, with_quality)


def of_prompts(
    name: str, prompts: Iterable[records.Prompt], generations: str, with_quality: bool = False
) -> Scored:
    """The same of prompts as they are read; `generations` is where from."""
    lean, counts = [], array("q")
    scores, hashes, unreadable, texts = array("d"), array("q"), array("b"), TextReader()
    for prompt in prompts:
        lean.append(_lean(prompt))
        counts.append(len(prompt.generations))
        scores.extend(
            np.nan if generation.toxicity is None else generation.toxicity
            for generation in prompt.generations
        )
        hashes.extend(hash(generation.text) for generation in prompt.generations)
        unreadable.extend(generation.unreadable for generation in prompt.generations)
        if with_quality:
            texts.add(prompt.generations)
    if not lean:
        raise UserError(f"method {name!r}: {generations} holds zero prompts")
    if not any(counts):
        raise UserError(f"method {name!r}: {generations} holds no continuation")
    counts_P = np.array(counts)
    exists_PK = np.arange(counts_P.max()) < counts_P[:, None]

    def matrix(values: array[Any], missing: Any, dtype: type) -> np.ndarray:
        filled_PK = np.full(exists_PK.shape, missing, dtype)
        filled_PK[exists_PK] = values
        return filled_PK

    return Scored(
        lean,
        matrix(scores, np.nan, np.float64),
        matrix(hashes, 0, np.int64),
        matrix(unreadable, False, np.bool_),
        counts_P,
        quality=texts.finish() if with_quality else None,
        **_said_by_manifest(generations),
    )


def _lean(prompt: records.Prompt) -> records.Prompt:
    flag = prompt.extra.get("challenging")
    return records.Prompt(
        prompt.id,
        prompt.text,
        prompt.toxicity,
        prompt.generations[:1],
        extra={} if flag is None else {"challenging": flag},
    )


def quality(scored: Scored, generations: str) -> TextQuality:
    """What the texts that compare are like; where some were cut off, they are read again.

    Args:
      scored: the method, joined.
      generations: where it was read from.
    """
    if scored.quality is not None:
        return scored.quality
    texts, places = TextReader(), {}
    for prompt in records.read_prompts(generations):
        places[prompt.id] = len(places)
        texts.add(prompt.generations[: scored.samples_per_prompt])
    return texts.finish().rows(np.array([places[prompt.id] for prompt in scored.prompts]))


def _said_by_manifest(generations: str) -> dict[str, Any]:
    """What the manifest of `score` says: its scorer, how reliable that is, how was decoded."""
    beside = records.manifest_of(generations)
    if beside is None:
        return {"scorer": UNKNOWN_SCORER}
    path, manifest = beside
    scorer, reliability = manifest.get("scorer"), manifest.get("scorer_reliability")
    if reliability is not None:  # What does not fit is said before anything is computed.
        from_json(Reliability, reliability, str(path), "scorer_reliability")
    chooser, at = (manifest.get("chosen") or {}).get("filtered_by"), "chosen.filtered_by"
    return {
        "chosen_by": from_json(Scorer, chooser, str(path), at) if chooser else None,
        "scorer": from_json(Scorer, scorer, str(path), "scorer") if scorer else UNKNOWN_SCORER,
        "reliability": reliability,
        "decoding": decoding.of_manifest(manifest),
    }


@dataclasses.dataclass(frozen=True)
class Joined:
    """Methods that compare.

    Attributes:
      methods: all in the baseline's order of prompts, with as many continuations of each.
      notes: a sentence for what was cut to a common part, and for what could not be checked.
    """

    methods: dict[str, Scored]
    notes: tuple[str, ...]


def join(
    methods: Mapping[str, Scored],
    baseline: str,
    min_coverage: float,
    own_decoding: Mapping[str, Collection[str]] | None = None,
) -> Joined:
    """Every method in the order of the baseline's prompts, cut to equally many continuations.

    A score or a flag of a prompt that one method's file has and another's lacks is that of the
    prompt; two that differ are refused.

    Args:
      methods: as they were read, by name.
      baseline: that of the method that the others are compared with.
      min_coverage: the smallest share of continuations that must have a score.
      own_decoding: names of the settings of decoding in which a method is meant to differ.

    Raises:
      UserError: for methods of different scorers, prompts or decoding, and for too few scores.
    """
    reference = methods[baseline]
    order = [prompt.id for prompt in reference.prompts]
    joined = {}
    for name, method in methods.items():
        _check_scorer(name, method, baseline, reference)
        _check_coverage(name, method, min_coverage)
        if missing := _difference(method, order):
            raise UserError(
                f"method {name!r} and {baseline!r} have different prompts: {missing}; generate "
                "both from the same prompts"
            )
        joined[name] = _in_order(method, order)
    notes = decoding.compare(
        {name: method.decoding for name, method in methods.items()}, baseline, own_decoding or {}
    )
    joined, cut = _equally_many(_of_same_prompts(joined))
    return Joined(joined, (*cut, *notes))


def _of_same_prompts(methods: Mapping[str, Scored]) -> dict[str, Scored]:
    """The methods with what any of them says of its prompts, which must not contradict."""
    said: list[tuple[str, records.Prompt]] = []
    for name, method in methods.items():
        for i, prompt in enumerate(method.prompts):
            if i == len(said):
                said.append((name, prompt))
                continue
            other, known = said[i]
            _check_prompt(f"methods {other!r} and {name!r}: prompt {prompt.id!r}", known, prompt)
            said[i] = (other, _with_split(known, prompt.toxicity, _challenging(prompt)))
    agreed = [(known.toxicity, _challenging(known)) for _, known in said]
    return {
        name: dataclasses.replace(
            method,
            prompts=[
                _with_split(prompt, *split)
                for prompt, split in zip(method.prompts, agreed, strict=True)
            ],
        )
        for name, method in methods.items()
    }


def _check_prompt(where: str, known: records.Prompt, prompt: records.Prompt) -> None:
    for what, a, b in (
        ("texts", known.text, prompt.text),
        ("toxicity", known.toxicity, prompt.toxicity),
        ('"challenging"', _challenging(known), _challenging(prompt)),
    ):
        if None not in (a, b) and a != b:
            raise UserError(
                f"{where} has different {what}: {_short(a)} and {_short(b)}; the same id must be "
                "the same prompt: generate both from one file"
            )


def _with_split(
    prompt: records.Prompt, toxicity: float | None, challenging: bool | None
) -> records.Prompt:
    """A prompt with what it lacks of the two that decide its splits."""
    if prompt.toxicity is None and toxicity is not None:
        prompt = dataclasses.replace(prompt, toxicity=toxicity)
    if _challenging(prompt) is None and challenging is not None:
        extra = {**prompt.extra, "challenging": challenging}
        prompt = dataclasses.replace(prompt, extra=extra)
    return prompt


def _challenging(prompt: records.Prompt) -> bool | None:
    """The flag; None where the record has none."""
    return prompt.challenging if prompt.extra.get("challenging") is not None else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _equally_many(methods: Mapping[str, Scored]) -> tuple[dict[str, Scored], tuple[str, ...]]:
    """The first K continuations of every prompt, K the fewest that a method has; and what is cut.

    A maximum over more continuations is higher, so other numbers of them do not compare.
    """
    counts = {name: method.samples_per_prompt for name, method in methods.items()}
    fewest = min(counts.values())
    more = [f"{name} has {count}" for name, count in counts.items() if count > fewest]
    if not more:
        return dict(methods), ()
    least = [name for name, count in counts.items() if count == fewest]
    note = (
        f"Compared on the first {fewest} continuations of each prompt, as many as "
        f"{', '.join(least)} has ({', '.join(more)})."
    )
    return {name: method.first(fewest) for name, method in methods.items()}, (note,)


def align(scorers: Mapping[str, Mapping[str, Scored]]) -> dict[str, dict[str, Scored]]:
    """What several scorers say of the same methods, all in the first one's order of prompts.

    Args:
      scorers: joined methods by the name of the scorer.

    Raises:
      UserError: if two scorers are the same, or did not score the same texts.
    """
    aligned: dict[str, dict[str, Scored]] = {}
    for scorer, methods in scorers.items():
        first, reference = next(iter(aligned.items()), (scorer, methods))
        _check_other_scorers(scorer, methods, aligned)
        for name, method in methods.items():
            _check_texts(f"{scorer!r} and {first!r}, method {name!r}", method, reference[name])
        order = [prompt.id for prompt in next(iter(reference.values())).prompts]
        aligned[scorer] = {name: _in_order(method, order) for name, method in methods.items()}
    return aligned


def _difference(method: Scored, order: Sequence[str]) -> str:
    """How the ids of prompts differ from those expected; nothing where they do not."""
    found, expected = {prompt.id for prompt in method.prompts}, set(order)
    if found == expected:
        return ""
    return f"{len(expected - found)} are missing, {len(found - expected)} are extra"


def _in_order(method: Scored, order: Sequence[str]) -> Scored:
    index = {prompt.id: i for i, prompt in enumerate(method.prompts)}
    return method.rows(np.array([index[prompt_id] for prompt_id in order]))


def _check_other_scorers(
    scorer: str, methods: Mapping[str, Scored], others: Mapping[str, Mapping[str, Scored]]
) -> None:
    identity = next(iter(methods.values())).scorer
    for other, scored in others.items():
        same = next(iter(scored.values())).scorer
        if identity == same != UNKNOWN_SCORER:
            raise UserError(
                f"scorers {other!r} and {scorer!r} are one: {same.fingerprint}; give each "
                "scorer once"
            )


def _check_texts(where: str, method: Scored, reference: Scored) -> None:
    """Both must have the same prompts with the same texts and splits."""
    if missing := _difference(method, [prompt.id for prompt in reference.prompts]):
        raise UserError(f"{where}: different records: {missing}; score the same file with both")
    expected = {prompt.id: _unscored(reference, i) for i, prompt in enumerate(reference.prompts)}
    for i, prompt in enumerate(method.prompts):
        if _unscored(method, i) != expected[prompt.id]:
            raise UserError(
                f"{where}: record {prompt.id!r} has different texts; score the same file with both"
            )


def _unscored(method: Scored, i: int) -> tuple[Any, ...]:
    """All of a prompt but what a scorer of its continuations says."""
    prompt, hashes = method.prompts[i], method.hashes_PK[i, : method.counts_P[i]]
    return prompt.text, prompt.toxicity, prompt.challenging, hashes.tobytes()


def _check_scorer(name: str, method: Scored, baseline: str, reference: Scored) -> None:
    if method.scorer != reference.scorer:
        raise UserError(
            f"method {name!r} was scored by {method.scorer.fingerprint}, {baseline!r} by "
            f"{reference.scorer.fingerprint}; scores of different scorers do not compare: "
            "score both with one"
        )


def _check_coverage(name: str, method: Scored, minimum: float) -> None:
    coverage = method.coverage
    if coverage == 0:
        raise UserError(f"method {name!r}: all scores are missing; run `score` on it")
    if coverage >= minimum:
        return
    expected = f"{method.samples_per_prompt} of each of its {len(method.prompts)} prompts"
    without = int(np.sum(method.counts_P == 0))
    raise UserError(
        f"method {name!r}: only {coverage:.1%} of its continuations, {expected}, have a score, "
        f"fewer than the {minimum:.1%} of min_coverage"
        + (f"; {without} prompts have no continuation" if without else "")
        + (f"; {method.unreadable} are in letters that it cannot read" * bool(method.unreadable))
    )


def splits(prompts: Sequence[records.Prompt]) -> dict[str, np.ndarray]:
    """Masks of the prompts in each split; empty splits are left out.

    A prompt without a score of its own is in neither `toxic` nor `nontoxic`.
    """
    toxicity = np.array([np.nan if p.toxicity is None else p.toxicity for p in prompts])
    masks = {
        "full": np.ones(len(prompts), bool),
        "toxic": toxicity >= records.TOXIC,
        "nontoxic": toxicity < records.TOXIC,
        "challenging": np.array([p.challenging for p in prompts]),
    }
    return {name: mask for name, mask in masks.items() if mask.any()}
