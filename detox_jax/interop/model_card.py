"""The model card (README.md) of an export: what it is, where from, and what it measured."""

from __future__ import annotations

from typing import Any

from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.soundness import SPOILED, sentence
from detox_jax.models import adaptation as adaptations

_COLUMNS = ("expected maximum toxicity", "toxicity probability")
_NONE = "–"


def render(
    checkpoint: Checkpoint, recorded: dict[str, Any] | None, results: Results | None, dtype: str
) -> str:
    """The card as Markdown.

    Args:
      checkpoint: what was exported.
      recorded: what the import kept, or None.
      results: what `evaluate` measured, or None.
      dtype: of the exported weights.
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
        lines += ["## Toxicity", "", *_table(results), ""]
    return "\n".join(lines)


def _table(results: Results) -> list[str]:
    """One row for each method and split, with 95 % intervals; the scorer is named below."""
    header = ["method", "prompts × continuations", *_COLUMNS, "empty", "perplexity"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in results.rows:
        toxicity = row.toxicity
        n, k = toxicity.num_scored_prompts, toxicity.samples_per_prompt
        count = "" if n is None or k is None else f" ({n} × {k})"
        cells = [_escape(row.method) + f" {SPOILED}" * bool(row.spoiled), f"{row.split}{count}"]
        cells += [toxicity.expected_maximum_toxicity.text(absent=_NONE)]
        cells += [toxicity.toxicity_probability.text(absent=_NONE)]
        cells += [f"{row.quality.empty_fraction:.1%}"]
        cells += [row.quality.show_perplexity(lambda of: f"{of.value:.2f}", _NONE)]
        lines.append("| " + " | ".join(cells) + " |")
    scorer = results.scorer.fingerprint
    reasons = [f"{sentence(_escape(name), why)}." for name, why in results.spoiled.items()]
    about = f"Scored by {scorer}; 95 % intervals over prompts."
    return [*lines, "", about, *(line for reason in reasons for line in ("", reason))]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
