"""What raters compare: prompts, continuations, order and sides, drawn by a seed.

All draws are orders of hashes of what is drawn, its id and the seed, so that they depend neither on
the order of a file nor on a library's version.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from detox_jax.errors import UserError
from detox_jax.human.key import A, B, Comparison, Pair, Row, Sheet, Side
from detox_jax.records import TOXIC, Prompt

# No vowels: a code is no word, and no month, which a spreadsheet takes for a date.
_LETTERS = "bcdfghjklmnpqrstvwxz"
_CODE_LENGTH = 6


def _rank(seed: int, *parts: Any) -> bytes:
    """What things are ordered by."""
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()


# --- what is compared -------------------------------------------------------------------------


def prompts(
    candidates: Sequence[Prompt], number: int, toxic_share: float | None, seed: int
) -> list[Prompt]:
    """Prompts to ask about.

    Args:
      candidates: of which they are drawn.
      number: of prompts.
      toxic_share: the share of them that is toxic, by the prompt's own score, the others being
        nontoxic, as RealToxicityPrompts is divided; as it comes where None.
      seed: of the draw.

    Raises:
      UserError: if there are not enough.
    """
    ordered = sorted(candidates, key=lambda prompt: _rank(seed, "prompt", prompt.id))
    if toxic_share is None:
        return _first(ordered, number, "prompts", "lower NUM_PROMPTS")
    scored = [prompt for prompt in ordered if prompt.toxicity is not None]
    toxic = [prompt for prompt in scored if (prompt.toxicity or 0.0) >= TOXIC]
    nontoxic = [prompt for prompt in scored if (prompt.toxicity or 0.0) < TOXIC]
    wanted = round(toxic_share * number)
    advice = "lower NUM_PROMPTS, or give another TOXIC_SHARE"
    return [
        *_first(toxic, wanted, f"prompts of toxicity {TOXIC} and more", advice),
        *_first(nontoxic, number - wanted, f"prompts of toxicity below {TOXIC}", advice),
    ]


def _first(ordered: Sequence[Prompt], number: int, what: str, advice: str) -> list[Prompt]:
    if len(ordered) < number:
        raise UserError(
            f"NUM_PROMPTS: {number} {what} are asked for, and there are {len(ordered)} with "
            f"enough continuations that differ; {advice}"
        )
    return list(ordered[:number])


def needed(pairs: Sequence[Pair], samples: int) -> dict[str, int]:
    """How many continuations of a prompt each system needs: none is shown in two comparisons.

    A text that came back beside several others would be known for the baseline's.
    """
    counts = collections.Counter(name for pair in pairs for name in (pair.method, pair.against))
    return {name: samples * count for name, count in counts.items()}


def comparisons(
    prompt: Prompt,
    texts: Mapping[str, Sequence[str]],
    pairs: Sequence[Pair],
    samples: int,
    seed: int,
) -> tuple[Comparison, ...] | None:
    """Every pair of systems on a prompt, `samples` times, with other texts each time.

    Systems share the random numbers of a prompt, so one that seldom acts wrote texts of another: a
    text that is on the sheet already is passed over, whoever wrote it, unless its writer has no
    other, and the one who shows it has.

    Args:
      prompt: what is continued, with its text as raters read it.
      texts: continuations as raters read them, by system.
      pairs: the systems.
      samples: comparisons of a pair.
      seed: of the draw of continuations.

    Returns:
      None where too few texts differ.
    """
    samples_by_text: dict[str, dict[str, int]] = {}  # by system, in the order of the draw
    for name, of_system in texts.items():
        by_text = samples_by_text[name] = {}
        for sample in _order_of_samples(seed, name, prompt.id, len(of_system)):
            by_text.setdefault(of_system[sample], sample)
    systems = [
        name for pair in pairs for _ in range(samples) for name in (pair.method, pair.against)
    ]
    shown = _one_each([[*samples_by_text[name]] for name in systems])
    if shown is None:
        return None
    made = []
    for i, (here, there) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
        pair = pairs[i // samples]
        made.append(
            Comparison(
                pair=i // samples,
                prompt_id=prompt.id,
                prompt=prompt.text,
                toxicity=prompt.toxicity,
                method_sample=samples_by_text[pair.method][here],
                against_sample=samples_by_text[pair.against][there],
                method_text=here,
                against_text=there,
            )
        )
    return tuple(made)


def _one_each(choices: Sequence[Sequence[str]]) -> list[str] | None:
    """A text for every place, none twice; None where there are too few.

    It is the first that no place before has, else one of theirs that can have another.

    Args:
      choices: the texts that a place may have, by place.
    """
    owners: dict[str, int] = {}

    def is_given(place: int, tried: set[str]) -> bool:
        for text in choices[place]:
            if text not in owners:
                owners[text] = place
                return True
        for text in choices[place]:
            if text not in tried:
                tried.add(text)
                if is_given(owners[text], tried):
                    owners[text] = place
                    return True
        return False

    if not all(is_given(place, set()) for place in range(len(choices))):
        return None
    by_place = {place: text for text, place in owners.items()}
    return [by_place[place] for place in range(len(choices))]


def _order_of_samples(seed: int, name: str, prompt_id: str, number: int) -> list[int]:
    return sorted(range(number), key=lambda i: _rank(seed, "continuation", name, prompt_id, i))


# --- how raters see it ------------------------------------------------------------------------


def code(comparisons: Sequence[Comparison], raters: int, seed: int) -> str:
    """Letters for all items of these sheets; others' begin with other ones."""
    texts = [[x.prompt, x.method_text, x.against_text] for x in comparisons]
    number = int.from_bytes(_rank(seed, "code", raters, texts), "big")
    letters = []
    for _ in range(_CODE_LENGTH):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


def sheet(rater: int, comparisons: Sequence[Comparison], code: str, seed: int) -> Sheet:
    """A rater's sheet.

    Of each pair of systems the method stands on either side equally often (of an odd number, once
    more on one of them). Rows come in rounds of one comparison of each pair, so that a rater who
    tires does so for all of them alike.

    Args:
      rater: number, from 1.
      comparisons: all of them.
      code: begins the names of the items, which are numbered as they stand on the sheet.
      seed: of order and sides.
    """
    sides = _sides(rater, comparisons, seed)
    return Sheet(
        rater,
        tuple(
            Row(f"{code}_{rater}_{number}", comparison, sides[comparison])
            for number, comparison in enumerate(_order(rater, comparisons, seed), start=1)
        ),
    )


def _by_pair(comparisons: Sequence[Comparison]) -> list[list[int]]:
    indices: dict[int, list[int]] = {}
    for index, comparison in enumerate(comparisons):
        indices.setdefault(comparison.pair, []).append(index)
    return list(indices.values())


def _sides(rater: int, comparisons: Sequence[Comparison], seed: int) -> dict[int, Side]:
    sides: dict[int, Side] = {}
    for number, indices in enumerate(_by_pair(comparisons)):
        shuffled = sorted(indices, key=lambda i: _rank(seed, "side", rater, i))
        first: tuple[Side, Side] = (A, B)
        if _rank(seed, "first side", rater, number)[0] % 2:
            first = (B, A)
        sides |= {index: first[place % 2] for place, index in enumerate(shuffled)}
    return sides


def _order(rater: int, comparisons: Sequence[Comparison], seed: int) -> list[int]:
    columns = [
        sorted(indices, key=lambda i: _rank(seed, "row", rater, i))
        for indices in _by_pair(comparisons)
    ]
    # Every pair has as many comparisons: as many as there are prompts, times the samples.
    rounds = zip(*columns, strict=True)
    return [
        index
        for indices in rounds
        for index in sorted(indices, key=lambda i: _rank(seed, "place", rater, i))
    ]
