"""The model card (README.md) of an export: what it is, where from, and what it measured."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations

_RESULTS_FILE = "results.json"
_COLUMNS = {
    "expected_maximum_toxicity": "expected maximum toxicity",
    "toxicity_probability": "toxicity probability",
}


def render(
    checkpoint: Checkpoint, recorded: dict[str, Any] | None, results: str | None, dtype: str
) -> str:
    """The card as Markdown.

    Args:
      checkpoint: what was exported.
      recorded: what the import kept, or None.
      results: path of a `results.json` of `evaluate`, or None.
      dtype: of the exported weights.

    Raises:
      UserError: if the results cannot be read.
    """
    source = (recorded or {}).get("source", {})
    base = source.get("repo") or source.get("path")
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags: [detoxification, sgeat]"]
    if source.get("repo"):
        lines += [f"base_model: {source['repo']}"]
    lines += ["---", "", "# Detoxified language model", ""]
    lines += ["Trained and exported with detox_jax.", ""]
    if base:
        revision = f", revision {source['revision']}" if source.get("revision") else ""
        lines += [f"- base: {base}{revision} (sha256 {source.get('sha256', 'unknown')})"]
    else:
        lines += ["- base: none; trained from random weights"]
    kind = adaptations.to_json(checkpoint.spec.adaptation)
    trained = "the whole model" if kind is None else ", ".join(f"{k} {v}" for k, v in kind.items())
    lines += [f"- trained: {trained}", f"- step: {checkpoint.step}", f"- weights: {dtype}", ""]
    if results is not None:
        lines += ["## Toxicity", "", *_table(_load(results)), ""]
    return "\n".join(lines)


def results_file(results: str) -> epath.Path:
    """The file that RESULTS names, itself or its directory."""
    path = epath.Path(results)
    return path / _RESULTS_FILE if path.is_dir() else path


def _load(results: str) -> dict[str, Any]:
    path = results_file(results)
    try:
        value = json.loads(path.read_text())
        if not value["rows"]:
            raise KeyError("rows")
        return value
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"RESULTS={results}: not a results.json of `evaluate` ({error})") from None


def _table(results: dict[str, Any]) -> list[str]:
    """One row for each method and split, with 95 % intervals; the scorer is named below."""
    header = ["method", "prompts", *_COLUMNS.values(), "perplexity"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in results["rows"]:
        perplexity = (row.get("perplexity") or {}).get("value")
        cells = [_escape(row["method"]), f"{row['split']} ({row['num_prompts']})"]
        cells += [_interval(row[name]) for name in _COLUMNS]
        cells += ["–" if perplexity is None else f"{perplexity:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    scorers = sorted({row["scorer"]["fingerprint"] for row in results["rows"]})
    return [*lines, "", f"Scored by {', '.join(scorers)}; 95 % bootstrap intervals over prompts."]


def _interval(value: dict[str, float] | None) -> str:
    if value is None or value.get("value") is None:
        return "–"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
