"""Dataclasses from JSON and back: what is written, what is read, how a misfit is named."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from etils import epath

from detox_jax.errors import UserError
from detox_jax.evaluation.typed_json import FLAT, SPARSE, from_json, read_json, same_length, to_json


class Even(str):
    """Text of even length."""

    def __new__(cls, text):
        if len(text) % 2:
            raise ValueError(f"{text!r} is odd")
        return super().__new__(cls, text)


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Ends:
    from_: int
    to: int


@dataclasses.dataclass(frozen=True)
class Lists:
    a: tuple[int, ...]
    b: tuple[float, ...]

    def __post_init__(self):
        same_length(a=self.a, b=self.b)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    is_set: bool = False
    kind: Literal["red", "green"] = "red"
    point: Point
    places: tuple[Point, ...]
    lists: Lists
    by_name: Mapping[str, Point | None]
    open: Mapping[str, Any]
    count: int | None
    either: Literal["one"] | Even = "one"
    ends: Ends | None = dataclasses.field(metadata=FLAT)
    rest: Mapping[Even, Point] = dataclasses.field(metadata=FLAT)


WHOLE = Whole(
    name="a",
    is_set=True,
    kind="green",
    point=Point(1.5, 2.0),
    places=(Point(0.0, 1.0), Point(2.0, 3.0)),
    lists=Lists((1,), (0.5,)),
    by_name={"one two": Point(4.0, 5.0), "none": None},
    open={"anything": [1, {"at": None}]},
    count=3,
    either=Even("four"),
    ends=Ends(1, 2),
    rest={Even("ab"): Point(6.0, 7.0)},
)
WRITTEN = {
    "name": "a",
    "is_set": True,
    "kind": "green",
    "point": {"x": 1.5, "y": 2.0},
    "places": [{"x": 0.0, "y": 1.0}, {"x": 2.0, "y": 3.0}],
    "lists": {"a": [1], "b": [0.5]},
    "by_name": {"one two": {"x": 4.0, "y": 5.0}, "none": None},
    "open": {"anything": [1, {"at": None}]},
    "count": 3,
    "either": "four",
    "from": 1,
    "to": 2,
    "ab": {"x": 6.0, "y": 7.0},
}


def test_a_dataclass_is_an_object_whose_keys_are_its_fields_in_their_order():
    assert json.dumps(to_json(WHOLE)) == json.dumps(WRITTEN)


def test_what_was_written_is_read():
    read = from_json(Whole, json.loads(json.dumps(WRITTEN)), "file")
    assert read == WHOLE
    assert isinstance(read.either, Even) and isinstance(read.places, tuple)


def test_null_and_a_missing_key_are_nothing_of_their_kind():
    for empty in ({}, dict.fromkeys(WRITTEN.keys() - {"name", "from", "to", "ab"})):
        read = from_json(Whole, {"name": "a", **empty}, "file")
        assert math.isnan(read.point.x) and math.isnan(read.point.y)
        assert (read.is_set, read.kind, read.either) == (False, "red", "one")
        assert (read.places, read.by_name, read.open, read.rest) == ((), {}, {}, {})
        assert (read.count, read.ends) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name: is missing; expected text"),
        ({"name": 3}, "name: expected text, got 3"),
        ({"is_set": 1}, "is_set: expected true or false, got 1"),
        ({"kind": "blue"}, "kind: expected one of red, green, got 'blue'"),
        ({"point": [1]}, "point: expected an object, got [1]"),
        ({"point": {"x": "1", "y": 2}}, "point.x: expected a number, got '1'"),
        ({"point": {"x": True, "y": 2}}, "point.x: expected a number, got True"),
        ({"point": {"x": 10**400, "y": 2}}, "point.x: expected a number, got 1000"),
        ({"point": {"x": 1, "z": 2}}, "point.z: no such field"),
        ({"places": {}}, "places: expected a list, got {}"),
        ({"places": [{"x": 1}, {"x": []}]}, "places[1].x: expected a number, got []"),
        ({"lists": {"a": [1, 2], "b": [1]}}, "lists: lists of different lengths: 2 a, 1 b"),
        ({"lists": {"a": [1.5], "b": [1]}}, "lists.a[0]: expected a whole number, got 1.5"),
        ({"lists": {"a": [None], "b": [1]}}, "lists.a[0]: is missing; expected a whole number"),
        ({"by_name": {"one two": 3}}, "by_name['one two']: expected an object, got 3"),
        ({"by_name": {"a\nb": 3}}, r"by_name['a\nb']: expected an object, got 3"),
        ({"open": []}, "open: expected an object, got []"),
        ({"count": True}, "count: expected a whole number, got True"),
        ({"count": -(1 << 63)}, "count: expected a whole number, got -9223372036854775808"),
        ({"either": "odd"}, "either: 'odd' is odd"),
        ({"from": None}, "from: is missing; expected a whole number"),
        ({"ab": 3}, "ab: expected an object, got 3"),
        ({"abc": {}}, "abc: no such field"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(change, message):
    with pytest.raises(UserError) as caught:
        from_json(Whole, {**WRITTEN, **change}, "a/file.json")
    assert str(caught.value).startswith(f"a/file.json: {message}")
    assert "\n" not in str(caught.value)


def test_a_value_that_is_no_object_and_a_place_within_a_file():
    with pytest.raises(UserError, match="^file: expected an object, got 3$"):
        from_json(Point, 3, "file")
    with pytest.raises(UserError, match=r"^file: at\.x: expected a number, got 'a'$"):
        from_json(Point, {"x": "a"}, "file", "at")


def test_a_long_value_is_shown_short():
    with pytest.raises(UserError) as caught:
        from_json(Point, {"x": "y" * 10_000}, "file")
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": NaN, "b": [-Infinity, 1e999, 0.5]}', {"a": None, "b": [None, None, 0.5]}),
        (b'{"a": "\\ud800"}', {"a": "?"}),
        ('{"é": 1}'.encode(), {"é": 1}),
    ],
)
def test_a_file_is_read_with_null_for_what_is_not_finite(tmp_path, content, value):
    file = epath.Path(tmp_path / "file.json")
    file.write_bytes(content)
    assert read_json(file) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": ' * 900 + b"1" + b"}" * 900, "cannot be read as JSON"),
        (b'{"a": ' * 201 + b"1" + b"}" * 201, "cannot be read as JSON: nested too deeply"),
        (b"1" * 5000, "cannot be read as JSON"),
        (b"[]", "expected a JSON dict, got list"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, message):
    file = epath.Path(tmp_path / "file.json")
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: {message}") and "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Sparse:
    x: int
    left: int = dataclasses.field(default=0, metadata=SPARSE)


def test_a_sparse_field_is_written_where_it_says_something():
    assert to_json(Sparse(1)) == {"x": 1} and to_json(Sparse(1, 2)) == {"x": 1, "left": 2}
    assert [from_json(Sparse, to_json(x), "f") for x in (Sparse(1), Sparse(1, 2))] == [
        Sparse(1),
        Sparse(1, 2),
    ]
