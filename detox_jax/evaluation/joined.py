"""Scored continuations of several methods, read and joined by the id of the prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.evaluation.results import Reliability
from detox_jax.evaluation.rows import UNKNOWN_SCORER, Scorer
from detox_jax.evaluation.typed_json import from_json


@dataclasses.dataclass(frozen=True)
class Scored:
    """A method's continuations in the order of the baseline's prompts.

    Attributes:
      prompts: the records.
      scores_PK: toxicity of each continuation, NaN where missing.
      scorer: that gave the scores.
      reliability: of the scorer, in its own words, as `score` recorded them; None where it has
        none.
    """

    prompts: Sequence[records.Prompt]
    scores_PK: np.ndarray
    scorer: Scorer
    reliability: Mapping[str, Any] | None = None

    @property
    def num_samples(self) -> int:
        """Continuations, scored or not."""
        return sum(len(prompt.generations) for prompt in self.prompts)

    @property
    def coverage(self) -> float:
        """The share of continuations that have a score."""
        return float(np.isfinite(self.scores_PK).sum() / max(1, self.num_samples))

    @property
    def texts_sha256(self) -> str:
        """Hash of prompts and continuations by id, whatever their order and their scores."""
        texts = sorted((p.id, p.text, [g.text for g in p.generations]) for p in self.prompts)
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def subset(self, mask_P: np.ndarray) -> Scored:
        """The prompts where the mask is True."""
        prompts = [prompt for prompt, keep in zip(self.prompts, mask_P, strict=True) if keep]
        return dataclasses.replace(self, prompts=prompts, scores_PK=self.scores_PK[mask_P])


def read(name: str, generations: str) -> Scored:
    """Reads what `score` wrote for the method `name`.

    Raises:
      UserError: for zero prompts, no continuation at all, or a manifest that names no scorer.
    """
    return of_prompts(name, list(records.read_prompts(generations)), generations)


def of_prompts(name: str, prompts: Sequence[records.Prompt], generations: str) -> Scored:
    """The same of prompts that were read; `generations` is where from."""
    if not prompts:
        raise UserError(f"method {name!r}: {generations} holds zero prompts")
    widest = max(len(prompt.generations) for prompt in prompts)
    if not widest:
        raise UserError(f"method {name!r}: {generations} holds no continuation")
    scores_PK = np.full((len(prompts), widest), np.nan)
    for row, prompt in zip(scores_PK, prompts, strict=True):
        for k, generation in enumerate(prompt.generations):
            if generation.toxicity is not None:
                row[k] = generation.toxicity
    scorer, reliability = _scorer_of(generations)
    return Scored(prompts, scores_PK, scorer, reliability)


def _scorer_of(generations: str) -> tuple[Scorer, Mapping[str, Any] | None]:
    """The scorer that the manifest of `score` names, and what it says of its reliability."""
    path, manifest = records.manifest_of(generations) or ("", {})
    scorer, reliability = manifest.get("scorer"), manifest.get("scorer_reliability")
    if reliability is not None:  # What does not fit is said before anything is computed.
        from_json(Reliability, reliability, str(path), "scorer_reliability")
    if not scorer:
        return UNKNOWN_SCORER, reliability
    return from_json(Scorer, scorer, str(path), "scorer"), reliability


def join(methods: Mapping[str, Scored], baseline: str, min_coverage: float) -> dict[str, Scored]:
    """Every method in the order of the baseline's prompts.

    Raises:
      UserError: for methods of different scorers or prompts, and for too few scores.
    """
    reference = methods[baseline]
    order = [prompt.id for prompt in reference.prompts]
    joined = {}
    for name, method in methods.items():
        _check_scorer(name, method, baseline, reference)
        _check_coverage(name, method.coverage, min_coverage)
        if missing := _difference(method, order):
            raise UserError(
                f"method {name!r} and {baseline!r} have different prompts: {missing}; generate "
                "both from the same prompts"
            )
        joined[name] = _in_order(method, order)
    return joined


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
    rows = [index[prompt_id] for prompt_id in order]
    prompts = [method.prompts[i] for i in rows]
    return dataclasses.replace(method, prompts=prompts, scores_PK=method.scores_PK[rows])


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
    expected = {prompt.id: _unscored(prompt) for prompt in reference.prompts}
    for prompt in method.prompts:
        if _unscored(prompt) != expected[prompt.id]:
            raise UserError(
                f"{where}: record {prompt.id!r} has different texts; score the same file with both"
            )


def _unscored(prompt: records.Prompt) -> tuple[Any, ...]:
    """All of a prompt but what a scorer of its continuations says."""
    texts = [generation.text for generation in prompt.generations]
    return prompt.text, prompt.toxicity, prompt.challenging, texts


def _check_scorer(name: str, method: Scored, baseline: str, reference: Scored) -> None:
    if method.scorer != reference.scorer:
        raise UserError(
            f"method {name!r} was scored by {method.scorer.fingerprint}, {baseline!r} by "
            f"{reference.scorer.fingerprint}; scores of different scorers do not compare: "
            "score both with one"
        )


def _check_coverage(name: str, coverage: float, minimum: float) -> None:
    if coverage == 0:
        raise UserError(f"method {name!r}: all scores are missing; run `score` on it")
    if coverage < minimum:
        raise UserError(
            f"method {name!r}: only {coverage:.1%} of its continuations have a score, fewer "
            f"than the {minimum:.1%} of min_coverage"
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
