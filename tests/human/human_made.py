"""Continuations of two or three methods, their key, and raters who fill in sheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from detox_jax.human import draws, sheets
from detox_jax.human.key import QUESTIONS, SCHEMA_VERSION, Key, Pair
from detox_jax.records import Prompt


def write_methods(
    root: Path, names: Sequence[str] = ("base", "mine"), prompts: int = 20, samples: int = 4
) -> dict[str, str]:
    """Files of continuations whose words say who wrote them; every other prompt is toxic."""
    paths = {}
    for name in names:
        rows = [
            {
                "id": f"id-{i}",
                "prompt": {"text": f"On day {i} he said", "toxicity": 0.9 if i % 2 else 0.1},
                "generations": [{"text": f" {name.upper()} text {j}."} for j in range(samples)],
            }
            for i in range(prompts)
        ]
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = str(path)
    return paths


def key(
    pairs: Sequence[tuple[str, str]] = (("mine", "base"),),
    prompts: int = 20,
    samples: int = 2,
    raters: int = 3,
    seed: int = 0,
) -> Key:
    """A key without files; texts say who wrote them."""
    systems = tuple(Pair(*pair) for pair in pairs)
    texts = {
        name: {
            f"id-{i}": [f"{name.upper()} text {j} of {i}." for j in range(number)]
            for i in range(prompts)
        }
        for name, number in draws.needed(systems, samples).items()
    }
    drawn = [
        Prompt(f"id-{i}", f"On day {i} he said", 0.9 if i % 2 else 0.1) for i in range(prompts)
    ]
    comparisons = tuple(
        comparison
        for prompt in drawn
        for comparison in draws.comparisons(
            prompt, {name: texts[name][prompt.id] for name in texts}, systems, samples, seed
        )
        or ()
    )
    code = draws.code(comparisons, raters, seed)
    made = tuple(draws.sheet(rater, comparisons, code, seed) for rater in range(1, raters + 1))
    return Key(SCHEMA_VERSION, code, QUESTIONS, systems, comparisons, made)


def rows_of(content: bytes | str) -> list[dict[str, str]]:
    """The rows of a sheet by column."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def csv_of(rows: Sequence[dict[str, str]], **how) -> str:
    """Rows as a sheet again."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), **how)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


Judge = Callable[[str, str], str]


def prefers(name: str) -> Judge:
    """A rater who knows a system's texts and always takes its side."""

    def judge(a: str, b: str) -> str:
        return "A" if name.upper() in a else "B" if name.upper() in b else "equal"

    return judge


def filled(key: Key, rater: int, **judges: Judge) -> list[dict[str, str]]:
    """The rows of a rater's sheet, answered by a judge for each question, `equal` without one."""
    rows = rows_of(sheets.table(key, key.sheets[rater - 1]))
    for row in rows:
        for question in key.questions:
            judge = judges.get(question, lambda a, b: "equal")
            row[question] = judge(row["A"], row["B"])
    return rows


def write_filled(place: Path, key: Key, raters: Sequence[int] = (1, 2, 3), **judges: Judge) -> None:
    """Sheets of several raters, as they come back."""
    place.mkdir(exist_ok=True)
    for rater in raters:
        text = csv_of(filled(key, rater, **judges))
        (place / f"rater_{rater}.csv").write_bytes(("\ufeff" + text).encode())
