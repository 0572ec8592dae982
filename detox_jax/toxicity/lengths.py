"""Documents of the lengths that another corpus has: a control of the same words, alike divided.

The least toxic texts of people are short ones. A model that was trained on them writes less, and
less text is less toxic: only a corpus of the same lengths tells what the text itself teaches.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Sequence
from typing import Any

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import corpus
from detox_jax.toxicity.corpus import num_words  # noqa: F401 (a public name)

_ROUNDING = 1e-9  # 0.29 * 100 is a little less than 29


def whole_share(count: int, share: float) -> int:
    """How many a share of so many is, rounded down.

    >>> whole_share(100, 0.29)
    29
    """
    return int(count * share + _ROUNDING)


def share_of(lengths: Sequence[int], share: float) -> list[int]:
    """A share of lengths, evenly from the shortest to the longest, so that it is alike divided.

    >>> share_of([9, 1, 2, 8, 3, 7], 1 / 3)
    [2, 8]
    """
    count = int(len(lengths) * share + 0.5)
    ordered = sorted(lengths)
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def of_lengths(
    documents: Sequence[records.Document],
    wanted: Sequence[int],
    source: str,
    more: str = "raise KEEP_FRACTION",
) -> tuple[Sequence[records.Document], dict[str, Any]]:
    """For every wanted length one document of it, the first ones of each length.

    Where there is none of a length any more, the document of the nearest length is taken, of two
    as near the one that evens out the words so far; the longest lengths choose first, since long
    documents are rare.

    Args:
      documents: in the order in which they are taken, such as a random one.
      wanted: lengths in words.
      source: where these are from, for errors.
      more: what has the selection keep more, for errors.

    Returns:
      The documents, in their order, and counts: `documents` and `words` that are wanted, `exact`,
      the number that have just the length, and `words_taken`.

    Raises:
      UserError: if there are fewer documents than lengths.
    """
    if len(documents) < len(wanted):
        raise UserError(
            f"LENGTHS_OF={source}: {len(wanted)} lengths, but only {len(documents)} documents to "
            f"choose from; {more}, lower SIZE_SHARE, or give more documents"
        )
    left: dict[int, collections.deque[int]] = collections.defaultdict(collections.deque)
    for i, length in enumerate(corpus.words_of(documents).tolist()):
        left[length].append(i)
    taken: list[int] = []
    missing: list[int] = []
    for length in sorted(wanted, reverse=True):
        if left.get(length):
            taken.append(left[length].popleft())
        else:
            missing.append(length)
    exact = len(taken)
    available = sorted(length for length, positions in left.items() if positions)
    owed = 0  # words that were wanted and not taken yet
    for length in missing:
        nearest = _nearest(available, length, owed)
        taken.append(left[nearest].popleft())
        owed += length - nearest
        if not left[nearest]:
            available.remove(nearest)
    counts = {
        "documents": len(wanted),
        "words": sum(wanted),
        "exact": exact,
        "words_taken": sum(wanted) - owed,
    }
    return corpus.taken(documents, sorted(taken)), counts


def _nearest(available: list[int], length: int, owed: int) -> int:
    """The length nearest to a missing one; of two as near the longer where words are owed."""
    at = bisect.bisect(available, length)
    if at == 0:
        return available[0]
    if at == len(available):
        return available[-1]
    shorter, longer = available[at - 1], available[at]
    if length - shorter == longer - length:
        return longer if owed > 0 else shorter
    return shorter if length - shorter < longer - length else longer
