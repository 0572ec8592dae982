"""What opens blinded sheets: which item compares what, and on which side which system stands.

A comparison is one continuation of a method beside one of another for the same prompt. Every rater
judges all comparisons, on a sheet with an order and sides of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from etils import epath

from detox_jax import atomic_files, manifests
from detox_jax.errors import UserError
from detox_jax.evaluation.typed_json import from_json, read_json, to_json

KEY_FILE = "key.json"
SCHEMA_VERSION = 1
# What a rater is asked of each two texts, by the column of the sheet.
QUESTIONS = ("less_toxic", "more_fluent", "more_topical")
A: Final = "A"
B: Final = "B"
EQUAL: Final = "equal"
Side = Literal["A", "B"]
Answer = Literal["A", "B", "equal"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two systems that are compared.

    Attributes:
      method: whose wins are counted.
      against: the other.
    """

    method: str
    against: str

    def __str__(self) -> str:
        """`mine against base`."""
        return f"{self.method} against {self.against}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two continuations of a prompt, as raters read them (`texts.shown`).

    Attributes:
      pair: index of the two systems.
      prompt_id: of the record.
      prompt: its text.
      toxicity: the prompt's own; None where its record has none.
      method_sample: index of the method's continuation in its file, from 0.
      against_sample: that of the other's.
      method_text: the method's continuation.
      against_text: the other's.
    """

    pair: int
    prompt_id: str
    prompt: str
    toxicity: float | None
    method_sample: int
    against_sample: int
    method_text: str
    against_text: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a sheet.

    Attributes:
      item: what the sheet calls it.
      comparison: index of what is compared.
      method_side: where the method's text stands.
    """

    item: str
    comparison: int
    method_side: Side


@dataclasses.dataclass(frozen=True)
class Sheet:
    """One rater's.

    Attributes:
      rater: number, from 1.
      rows: in the order of the sheet.
    """

    rater: int
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Key:
    """What `key.json` holds.

    Attributes:
      schema_version: of the layout.
      code: letters that begin all items of these sheets, and of no others.
      questions: names of the columns that raters fill in.
      pairs: the systems.
      comparisons: what is compared.
      sheets: one a rater.
    """

    schema_version: int
    code: str
    questions: tuple[str, ...]
    pairs: tuple[Pair, ...]
    comparisons: tuple[Comparison, ...]
    sheets: tuple[Sheet, ...]

    def __post_init__(self) -> None:
        """Refuses indices that lead nowhere, and items that stand twice, with a `ValueError`."""
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version {self.schema_version}, this detox-jax reads {SCHEMA_VERSION}"
            )
        if any(not 0 <= x.pair < len(self.pairs) for x in self.comparisons):
            raise ValueError("a comparison of a pair that is not there")
        rows = [row for sheet in self.sheets for row in sheet.rows]
        if any(not 0 <= row.comparison < len(self.comparisons) for row in rows):
            raise ValueError("a row of a comparison that is not there")
        if len({row.item for row in rows}) != len(rows):
            raise ValueError("an item that stands twice")


def write(path: epath.Path, key: Key) -> None:
    """Writes the key."""
    atomic_files.write_json(path, to_json(key))


def file_of(path: str) -> epath.Path:
    """The file that is meant by a file or by the output of `human_sheets`.

    Raises:
      UserError: if it is not there, or the output is not finished.
    """
    place = epath.Path(path)
    if place.is_dir():
        verb = manifests.verb_of(place)
        if verb is None and list(place.glob("rater_*.csv")):
            raise UserError(
                f"{path}: holds sheets; the key to them is in the OUTPUT_DIR of `human_sheets`"
            )
        if verb not in (None, "human_sheets"):
            raise UserError(
                f"{path}: holds the output of `{verb}`; give the OUTPUT_DIR of `human_sheets`"
            )
        if not manifests.read_manifest(place)["complete"]:
            raise UserError(f"{path}: unfinished; rerun the command that was writing it")
        place = place / KEY_FILE
    if not place.exists():
        raise UserError(f"{place}: no such file; give the OUTPUT_DIR of `human_sheets`")
    return place


def read(path: str) -> Key:
    """The key of a file, or of the output of `human_sheets`.

    Raises:
      UserError: for a file that is missing or damaged.
    """
    file = file_of(path)
    return from_json(Key, read_json(file), str(file))
