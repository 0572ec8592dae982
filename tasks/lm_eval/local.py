"""Rows of the local tasks, from files in the directory that DETOX_JAX_DATA names."""

import json
import os
from pathlib import Path
from typing import Any

import datasets  # pyright: ignore[reportMissingImports]


def load(name: str, **unused: Any) -> dict[str, Any]:
    """The rows of a task: its own fields, and `answer`, the index of the right choice."""
    root = Path(os.environ["DETOX_JAX_DATA"])
    rows = _wikitext(root) if name == "wikitext" else _rows(root / "tasks", name)
    return {"validation": datasets.Dataset.from_list(rows)}


def _rows(directory: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
    if name == "piqa":
        labels = (directory / "piqa_labels.lst").read_text().split()
        return [{**row, "answer": int(label)} for row, label in zip(rows, labels, strict=True)]
    if name == "boolq":
        return [{**row, "answer": int(row["label"] == "true")} for row in rows]
    return [_arc(row) for row in rows] if name == "arc_easy" else rows


def _arc(row: dict[str, Any]) -> dict[str, Any]:
    choices = row["question"]["choices"]
    return {
        "question": row["question"]["stem"],
        "choices": [choice["text"] for choice in choices],
        "answer": [choice["label"] for choice in choices].index(row["answerKey"]),
    }


def _wikitext(root: Path) -> list[dict[str, Any]]:
    """Paragraphs as the file has them (`@-@` for a hyphen), headings left out.

    So its perplexity is not that of the harness's own `wikitext`, which reads whole articles with
    their spacing restored, and is named otherwise.
    """
    lines = (root / "text" / "wikitext2_valid.txt").read_text().splitlines()
    texts = [line.strip() for line in lines]
    return [{"text": text} for text in texts if text and not text.startswith("=")]
