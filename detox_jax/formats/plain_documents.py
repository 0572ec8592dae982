"""Documents of nothing but id, text and score, taken from JSON Lines and put there by the block.

Most corpora hold no other line. Half a megabyte is taken apart at once (`plain_lines`); a block
with any other line in it, right or wrong, is left to `records`, which knows all that there may be.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring  # What the encoder calls, which asks for kinds first.

import numpy as np

from detox_jax.formats import plain_lines

# No sign: "-0" is a whole number without one to JSON, and to a float it is not.
_is_score = re.compile(r"[0-9](?:\.[0-9]+)?(?:e-?[0-9]{1,3})?|null").fullmatch
_SURE_DIGITS = 15  # of so many decimals no two are written as the same float


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """Documents (D) that stand one behind the other in a file.

    Attributes:
      lines: their lines, whole, and perhaps those of others.
      places: where these documents stand there.
      scores_D: float64, NaN for one without.
      is_as_written_D: whether the line is sure to be what `records.Document` is written as.
    """

    lines: bytes
    places: plain_lines.Places
    scores_D: np.ndarray
    is_as_written_D: np.ndarray

    def __len__(self) -> int:
        return len(self.scores_D)

    def part(self, first: int, end: int) -> Plain:
        """Some of the documents."""
        return Plain(
            self.lines,
            self.places.part(first, end),
            self.scores_D[first:end],
            self.is_as_written_D[first:end],
        )

    def followed_by(self, other: Plain) -> Plain:
        """These documents and others."""
        return Plain(
            self.lines + other.lines,
            self.places.followed_by(other.places, len(self.lines)),
            np.concatenate([self.scores_D, other.scores_D]),
            np.concatenate([self.is_as_written_D, other.is_as_written_D]),
        )

    @functools.cached_property
    def encoded_ids(self) -> Sequence[bytes]:
        """The ids, never none, in UTF-8."""
        return [self.lines[i:j] for i, j in _pairs(self.places.ids_L2)]

    @functools.cached_property
    def ids(self) -> Sequence[str]:
        """The ids."""
        return _strings(self.lines, self.places.ids_L2)

    @functools.cached_property
    def escaped(self) -> Sequence[str]:
        """The texts as they stand in the lines, see `texts`."""
        return _strings(self.lines, self.places.texts_L2)

    @property
    def scores(self) -> Sequence[float | None]:
        """The scores, None for a document without one."""
        return [None if score != score else score for score in self.scores_D.tolist()]

    def texts(self) -> list[str]:
        """The texts without the escapes with which they stand in their lines."""
        texts = list(self.escaped)
        for i, text in zip(*_read_escapes(self.escaped), strict=True):
            texts[i] = text
        return texts

    def num_words(self) -> np.ndarray:
        """How many words each text has, int64 [D]: what `str.split` parts it into."""
        return plain_lines.num_words(self.lines, self.places)


def _strings(lines: bytes, places_L2: np.ndarray) -> list[str]:
    """What stands at some places, of which the first comes first and the last one last."""
    if not len(places_L2):
        return []
    first, end = int(places_L2[0, 0]), int(places_L2[-1, 1])
    part = lines[first:end]
    if not part.isascii():
        return [lines[i:j].decode() for i, j in _pairs(places_L2)]
    text = part.decode()
    return [text[i:j] for i, j in _pairs(places_L2 - first)]


def _pairs(places_L2: np.ndarray) -> Iterator[tuple[int, int]]:
    """Beginnings and ends; a list for each pair would take longer than what is done with it."""
    return zip(places_L2[:, 0].tolist(), places_L2[:, 1].tolist(), strict=True)


def read(block: bytes) -> Plain | None:
    """The documents of whole lines; None if any of these is another thing, or is wrong.

    Args:
      block: the lines, one at least; the last one may lack its end.
    """
    lines = block if block.endswith(b"\n") else block + b"\n"
    places = plain_lines.places(lines)
    scores = None if places is None else _scores(lines, places)
    if places is None or scores is None:
        return None
    scores_D, is_as_written_D = scores
    return Plain(lines, places, scores_D, is_as_written_D & _is_as_written(lines, places))


def _scores(lines: bytes, places: plain_lines.Places) -> tuple[np.ndarray, np.ndarray] | None:
    """The scores, and whether each stands as it is written; None if any is wrong or beyond 1."""
    scored = np.flatnonzero(places.scores_L2[:, 0] < places.scores_L2[:, 1])
    scores_D = np.full(len(places.scores_L2), np.nan)
    is_as_written_D = np.zeros(len(scores_D), bool)
    if len(scored):
        places_S2 = places.scores_L2[scored]
        digits = _strings(lines, places_S2)
        is_decimal_S = plain_lines.are_decimals(lines, places_S2)
        for i in np.flatnonzero(~is_decimal_S).tolist():
            if not _is_score(digits[i]):
                return None
            digits[i] = digits[i].replace("null", "nan")
        scores_S = np.array(list(map(float, digits)))
        if np.any(scores_S > 1):
            return None
        scores_D[scored] = scores_S
        # What Python writes without an exponent, and with no digit more than these.
        last_S = np.frombuffer(lines, np.uint8)[places_S2[:, 1] - 1]
        is_short_S = places_S2[:, 1] - places_S2[:, 0] <= len("0.") + _SURE_DIGITS
        is_sure_S = is_decimal_S & is_short_S & (last_S != ord("0")) & (scores_S >= 1e-4)
        for i in np.flatnonzero(~is_sure_S).tolist():
            is_sure_S[i] = repr(float(scores_S[i])) == digits[i]
        is_as_written_D[scored] = is_sure_S
    return scores_D, is_as_written_D


def _is_as_written(lines: bytes, places: plain_lines.Places) -> np.ndarray:
    """Whether lines are, but for their scores, what we write, bool [D].

    Of the escapes that are read, two may stand where we write the character itself.
    """
    (line_D, end_D), (id_D, id_end_D) = places.lines_L2.T, places.ids_L2.T
    (text_D, text_end_D), (score_D, score_end_D) = places.texts_L2.T, places.scores_L2.T
    is_as_written_D = (
        (id_D - line_D == len('{"id": "'))
        & (text_D - id_end_D == len('", "text": "'))
        & (score_D - text_end_D == len('", "toxicity": '))
        & (end_D - score_end_D == len("}\n"))
    )
    escaped_E = np.frombuffer(lines, np.uint8)[places.escapes_E + 1]
    others = places.escapes_E[(escaped_E == ord("u")) | (escaped_E == ord("/"))]
    is_as_written_D[np.searchsorted(end_D, others, side="right")] = False
    return is_as_written_D


def _read_escapes(escaped: Sequence[str]) -> tuple[list[int], list[str]]:
    """Which texts have escapes, and what these read without them: one call reads them all."""
    places = [i for i, text in enumerate(escaped) if "\\" in text]
    quoted = '","'.join([escaped[i] for i in places])
    return places, json.loads(f'["{quoted}"]') if places else []


def encoded(plain: Plain, scores: Sequence[float | None], unreadable: Sequence[bool] = ()) -> bytes:
    """Documents as lines, the bytes that `records.Document` is written as.

    Args:
      plain: the documents.
      scores: in place of what their lines say.
      unreadable: see `records.Document`; none of them where it is empty.
    """
    ends = ["}\n", ', "unreadable": true}\n']
    marks = unreadable or [False] * len(scores)
    lines = [
        f'{{"id": "{id}", "text": "{text}", "toxicity": '
        f"{'null' if score is None else repr(score)}{ends[mark]}"
        for id, text, score, mark in zip(
            plain.ids, _quoted(plain.escaped), scores, marks, strict=True
        )
    ]
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError:  # A lone surrogate, which only escapes can write.
        return b"".join(map(_bytes, lines))


def _quoted(escaped: Sequence[str]) -> Sequence[str]:
    """Texts with the escapes that they need, and no others."""
    quoted = list(escaped)
    for i, text in zip(*_read_escapes(escaped), strict=True):
        quoted[i] = encode_basestring(text)[1:-1]
    return quoted


def _bytes(line: str) -> bytes:
    try:
        return line.encode()
    except UnicodeEncodeError:
        return f"{json.dumps(json.loads(line))}\n".encode()


def rewritten(lines: Sequence[bytes]) -> list[bytes]:
    """Plain lines, such as `read` has read, as `records.Document` is written.

    Args:
      lines: one each, with its end.
    """
    if not lines:
        return []
    plain = read(b"".join(lines))
    assert plain is not None
    return encoded(plain, plain.scores).splitlines(keepends=True)
