"""What `evaluate` prints: the figures of all prompts, and how many prompts a difference takes.

In a notebook rich would display its tables past standard output, where nobody can redirect them;
hence `force_jupyter=False`.
"""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from detox_jax import terminal
from detox_jax.evaluation import accuracy, groups
from detox_jax.evaluation.groups import Gap
from detox_jax.evaluation.metric_names import EMT, TP
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Perplexity
from detox_jax.evaluation.soundness import SPOILED, sentence

FEW = 20  # The bootstrap's intervals hold the truth less often than they say.
NO_GROUP = "(none)"
_NO_SCORES = "no scores"


def print_table(results: Results) -> None:
    """The figures of all splits as a table on standard output."""
    table = Table(title=f"scored by {results.scorer.fingerprint}")
    for column in ("split", "method", "n x k", "EMT", "empty", "TP", "EMT - base", "TP - base"):
        table.add_column(column)
    table.add_column("PPL")
    table.add_column("words")
    for row in sorted(results.rows, key=lambda row: results.splits.index(row.split)):
        pairs = [results.pair(row, metric) for metric in (EMT, TP)]
        table.add_row(
            row.split,
            row.method + f" {SPOILED}" * bool(row.spoiled),
            f"{row.toxicity.num_scored_prompts} x {row.toxicity.samples_per_prompt}",
            row.toxicity.expected_maximum_toxicity.text(absent=_NO_SCORES),
            f"{row.quality.empty_fraction:.1%}",
            row.toxicity.toxicity_probability.text(absent=_NO_SCORES),
            *("" if pair is None else pair.interval.text(absent=_NO_SCORES) for pair in pairs),
            row.quality.show_perplexity(_perplexity, absent=""),
            f"{row.quality.mean_words:.1f}",
        )
    Console(width=140, force_jupyter=False).print(table)
    print("EMT: expected maximum toxicity. TP: toxicity probability. In brackets 95 % intervals.")
    print("n x k: prompts with a score, and continuations of each. Empty texts are not toxic.")
    if any((row.toxicity.num_scored_prompts or 0) < FEW for row in results.rows):
        terminal.note(
            f"Below {FEW} prompts the intervals of EMT and of differences are too narrow."
        )
    for row in results.rows:
        if row.spoiled:
            terminal.note(sentence(f"{row.method} on the {row.split} prompts", row.spoiled))
    for note in results.provenance.notes:
        terminal.note(note)
    _print_groups(results)
    accuracy.print_table(results)


def _print_groups(results: Results) -> None:
    """The toxicity by group, and which two groups differ most; nothing without groups."""
    for by, rows in groups.by_field(results.groups).items():
        table = Table(title=f"by {by}")
        for column in (by, "method", "n", "scored", "EMT", "TP"):
            table.add_column(column)
        for row in rows:
            table.add_row(
                row.group or NO_GROUP,
                row.method,
                str(row.num_prompts),
                f"{row.coverage:.1%}",
                row.expected_maximum_toxicity.text(absent=_NO_SCORES),
                row.toxicity_probability.text(absent=_NO_SCORES),
            )
        Console(width=140, force_jupyter=False).print(table)
    for gap in results.gaps:
        print(gap_sentence(gap))


def gap_sentence(gap: Gap) -> str:
    """Which two groups differ most, by how much, and whether chance explains it."""
    name = {EMT: "EMT", TP: "TP"}.get(gap.metric, gap.metric)
    end = "" if gap.difference.excludes_zero else "; chance may explain it"
    if gap.difference.value == 0:
        return (
            f"{gap.method}: {name} is the same for all of {gap.num_groups} groups by {gap.by}: "
            f"{gap.difference.text(absent='-')}, an interval for all pairs at once."
        )
    return (
        f"{gap.method}: of {gap.num_groups} groups by {gap.by}, {name} is highest for "
        f"{gap.highest} and lowest for {gap.lowest}: {gap.difference.text(absent='-')}, an "
        f"interval for all pairs at once{end}."
    )


def print_power(results: Results) -> None:
    """How many prompts show a difference to the baseline with probability 0.8, as a table."""
    if not results.power:
        terminal.note("power: METHODS has the baseline alone; a difference needs a second method")
        return
    table = Table(title="prompts needed to see a difference (two-sided 5 %, power 0.8)")
    effects = dict.fromkeys(power.effect for power in results.power if not power.observed)
    for column in ("method", "metric", *(f"{effect:g}" for effect in effects), "found here"):
        table.add_column(column)
    cells: dict[tuple[str, str], list[str]] = {}
    for power in results.power:
        count = "-" if power.num_prompts is None else f"{power.num_prompts:,}"
        if power.observed:
            count += f" ({power.effect:+.3f})"
        cells.setdefault((power.method, power.metric), []).append(count)
    for names, counts in cells.items():
        table.add_row(*names, *counts)
    Console(width=120, force_jupyter=False).print(table)


def _perplexity(of: Perplexity) -> str:
    return f"{of.value:.2f}" if math.isfinite(of.value) else "infinite"
