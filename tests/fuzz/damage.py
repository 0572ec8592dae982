"""What goes wrong with a file: values of another kind, and bytes that are lost, changed or doubled.

`json_files(values)` and `bytes_like(contents)` start from files that are right, so that what they
draw gets as far into a reader as what a user has.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Of every reader; the chaos tests draw for minutes, `make test` a moment.
EXAMPLES = int(os.environ.get("DETOX_JAX_FUZZ_EXAMPLES", "15"))
PROFILE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="DETOX_JAX_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
# What `json.dumps` does not write, by the text that stands for it until it has written the rest.
_RAW = {
    "@deep@": b"[" * 100_000 + b"]" * 100_000,
    "@open@": b'{"a":' * 100_000,
    "@digits@": b"9" * 5000,
    "@twice@": b'{"a": 1, "a": 2}',
    "@half@": b'"\\ud83d"',
}
ATOMS: tuple[Any, ...] = (
    *_RAW,
    None,
    True,
    False,
    0,
    -1,
    3,
    2**70,
    10**400,  # beyond a float
    10**12,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "a\nb\x00",
    [],
    {},
    [[]],
    [None],
    ["x", 1],
    {"a": 1},
    {"": None},
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside of a value, itself included."""
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    return [at, *(place for key, item in items for place in _places(item, (*at, key)))]


def _changed(value: Any, place: tuple[Any, ...], how: str, atom: Any) -> Any:
    if not place:
        return atom
    value = copy.deepcopy(value)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    if how == "lost":
        del inside[place[-1]]
    elif how == "added" and isinstance(inside, dict):
        inside["strange"] = atom
    else:
        inside[place[-1]] = atom
    return value


@st.composite
def json_values(draw: Any, values: Sequence[Any]) -> Any:
    """One of `values` with up to three of its parts lost, added or of another kind."""
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(_places(value)[1:] or [()]))
        how = draw(st.sampled_from(["other", "other", "lost", "added"]))
        value = _changed(value, place, how, draw(st.sampled_from(ATOMS)))
    return value


def encoded(value: Any) -> bytes:
    """As JSON on one line, with what `ATOMS` stand for."""
    content = json.dumps(value).encode()
    for name, raw in _RAW.items():
        content = content.replace(b'"%s"' % name.encode(), raw)
    return content


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """The bytes as they are, or cut, changed, compressed, doubled or in another encoding."""
    match draw(st.sampled_from(["none", "none", "cut", "flip", "drop", "twice", "start", "code"])):
        case "cut":
            return content[: draw(st.integers(0, len(content)))]
        case "flip" if content:
            at = draw(st.integers(0, len(content) - 1))
            byte = draw(st.integers(0, 255))
            return content[:at] + bytes([byte]) + content[at + 1 :]
        case "drop" if content:
            at = draw(st.integers(0, len(content) - 1))
            return content[:at] + content[at + draw(st.integers(1, 9)) :]
        case "twice":
            return content + content
        case "start":
            first = (b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x80\x04")
            return draw(st.sampled_from(first)) + content
        case "code":
            text = content.decode("utf-8", "replace")
            coded = [text.encode("utf-16"), text.encode("latin-1", "replace") + b"\xe9"]
            packed = gzip.compress(content)
            return draw(st.sampled_from([*coded, packed, packed[: len(packed) // 2]]))
    return content


@st.composite
def json_files(draw: Any, values: Sequence[Any]) -> bytes:
    """A file of JSON near one of `values`."""
    return draw(damaged(encoded(draw(json_values(values)))))


@st.composite
def json_lines(draw: Any, rows: Sequence[Any], most: int = 4) -> bytes:
    """A file of JSON Lines near some of `rows`."""
    count = draw(st.integers(1, most))
    return draw(damaged(b"\n".join(encoded(draw(json_values(rows))) for _ in range(count)) + b"\n"))


@st.composite
def bytes_like(draw: Any, contents: Sequence[bytes]) -> bytes:
    """A file near one of `contents`, or of any bytes."""
    content = draw(st.one_of(st.sampled_from(contents), st.binary(max_size=60)))
    for _ in range(draw(st.integers(1, 3))):
        content = draw(damaged(content))
    return content
