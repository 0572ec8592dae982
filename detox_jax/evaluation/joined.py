"""Scored continuations of several methods, joined to what compares.

Prompts are joined by their ids, and must be the same texts with the same scores. What can be cut to
a common part is, and said; what cannot is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import preview, records, sources
from detox_jax.errors import UserError, shortened
from detox_jax.evaluation import decoding
from detox_jax.evaluation.rows import UNKNOWN_SCORER
from detox_jax.evaluation.scored_texts import Scored

_SHOWN = 60  # characters of a text in an error


@dataclasses.dataclass(frozen=True)
class Joined:
    """Methods that compare.

    Attributes:
      methods: all in the baseline's order of prompts, with as many continuations of each.
      notes: a sentence for what was cut to a common part, and for what could not be checked.
    """

    methods: dict[str, Scored]
    notes: tuple[str, ...]


def check_some(methods: Mapping[str, Any]) -> None:
    """Refuses METHODS without a method.

    Raises:
      UserError: which shows what METHODS is.
    """
    if not methods:
        raise UserError("METHODS is {}; give scored continuations by name: {'base': 'DIR'}")


def check_baseline(methods: Mapping[str, Any], baseline: str) -> None:
    """Refuses a BASELINE that is none of METHODS.

    Raises:
      UserError: with the names that there are.
    """
    if baseline not in methods:
        raise UserError(f"BASELINE {baseline!r} is none of the methods: {', '.join(methods)}")


def check_apart(where: str, inputs: Mapping[str, str]) -> None:
    """Refuses one input under two names: its rows would be one, and their difference none.

    Args:
      where: the setting that names them.
      inputs: paths by name; those that are yet to be written are not looked at.

    Raises:
      UserError: with both names.
    """
    seen: dict[Any, str] = {}
    for name, path in inputs.items():
        if isinstance(path, preview.Coming):
            continue
        if (other := seen.setdefault(sources.known_as(path), name)) != name:
            raise UserError(
                f"{where}: {other!r} and {name!r} are one and the same input, {path}; give each "
                "its own, or leave one out"
            )


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
    for name, method in methods.items():
        _check_has_scores(name, method)
    for name, method in methods.items():
        _check_scorer(name, method, baseline, reference)
        _check_coverage(name, method, min_coverage)
    joined = join_texts(methods, baseline, own_decoding)
    return dataclasses.replace(joined, notes=(*joined.notes, *_on_scorer(methods)))


def join_texts(
    methods: Mapping[str, Scored],
    baseline: str,
    own_decoding: Mapping[str, Collection[str]] | None = None,
    advice: str = decoding.OWN_OF_EVALUATE,
) -> Joined:
    """What `join` does, of continuations that people judge, whatever scored them, if anything did.

    Args:
      methods: as they were read, by name.
      baseline: that of the method whose order of prompts counts.
      own_decoding: names of the settings of decoding in which a method is meant to differ.
      advice: how that is given, see `decoding.compare`.

    Raises:
      UserError: for methods of different prompts or decoding.
    """
    in_order = _in_order_of(methods, baseline)
    decodings = {name: method.decoding for name, method in methods.items()}
    notes = decoding.compare(decodings, baseline, own_decoding or {}, advice)
    joined, cut = _equally_many(_of_same_prompts(in_order))
    return Joined(joined, (*cut, *notes))


def _in_order_of(methods: Mapping[str, Scored], baseline: str) -> dict[str, Scored]:
    """All in the baseline's order of prompts, which must be everybody's."""
    order = [prompt.id for prompt in methods[baseline].prompts]
    for name, method in methods.items():
        if missing := _difference(method, order):
            raise UserError(
                f"method {name!r} and {baseline!r} have different prompts: {missing}; "
                f"{_how_to_join(method, methods[baseline])}"
            )
    return {name: _in_order(method, order) for name, method in methods.items()}


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
            here, there = (shortened(repr(value), _SHOWN) for value in (a, b))
            raise UserError(
                f"{where} has different {what}: {here} and {there}; the same id must be the same "
                "prompt: generate both from one file"
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


def _how_to_join(method: Scored, baseline: Scored) -> str:
    """What to do about other ids, which files of several projects have of the same texts."""
    mine, theirs = ({prompt.text for prompt in side.prompts} for side in (method, baseline))
    if mine != theirs:
        return "generate both from the same prompts"
    here, there = method.prompts[0].id, baseline.prompts[0].id
    return (
        f"their texts are the same under other ids ({shortened(here, _SHOWN)} and "
        f"{shortened(there, _SHOWN)}); join them by text: #id=prompt.text behind each "
        "of their paths"
    )


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


def _check_has_scores(name: str, method: Scored) -> None:
    """What nobody scored names no scorer either, and that is not what is wrong with it."""
    if method.coverage == 0:
        raise UserError(f"method {name!r}: all scores are missing; run `score` on it")


def _check_scorer(name: str, method: Scored, baseline: str, reference: Scored) -> None:
    if method.scorer != reference.scorer:
        raise UserError(
            f"method {name!r} was scored by {method.scorer.fingerprint}, {baseline!r} by "
            f"{reference.scorer.fingerprint}; scores of different scorers do not compare: "
            "score both with one"
        )


def _on_scorer(methods: Mapping[str, Scored]) -> tuple[str, ...]:
    """A sentence where nothing says that the scorers are one: two that are unknown need not be."""
    unknown = [name for name, method in methods.items() if method.scorer == UNKNOWN_SCORER]
    if len(methods) < 2 or not unknown:
        return ()
    return (
        f"Not compared, since the files do not say: who scored {', '.join(unknown)}. Scores of "
        "different scorers do not compare.",
    )


def _check_coverage(name: str, method: Scored, minimum: float) -> None:
    coverage = method.coverage
    if coverage >= minimum:
        return
    expected = f"{method.samples_per_prompt} of each of its {len(method.prompts)} prompts"
    without = int(np.sum(method.counts_P == 0))
    is_there, needed = _told_apart(coverage, minimum)
    raise UserError(
        f"method {name!r}: only {is_there} of its continuations, {expected}, have a score, "
        f"fewer than MIN_COVERAGE, {needed}"
        + (f"; {without} prompts have no continuation" if without else "")
        + (f"; {method.unreadable} are in letters that it cannot read" * bool(method.unreadable))
    )


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Two shares in per cent, with as many digits as tell them apart."""
    for digits in range(1, 15):
        shown = f"{one:.{digits}%}", f"{other:.{digits}%}"
        if shown[0] != shown[1]:
            break
    return shown
