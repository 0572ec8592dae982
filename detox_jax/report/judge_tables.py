"""One table of every row under several judges, and what no judge changes beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from detox_jax.evaluation.metric_names import EMT, TP, ToxicityMetric
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Quality, Row
from detox_jax.report.cells import LITTLE, NONE, marked, n_by_k, percent, says_little, show
from detox_jax.report.legend import legend_of_columns, legend_of_scorer, legend_of_texts
from detox_jax.report.page_tables import columns_named
from detox_jax.report.table_formats import csv_lines, markdown_rows
from detox_jax.report.tables import METHOD, Table, made_table, marks

_OF_ALL = (
    *("Perplexity", "Cont. perplexity (all prompts)", "Distinct 1/2/3", "Self-BLEU"),
    *("Words", "Stops early", "Empty", "Degenerate"),
)
_RISE = "Rise"
_METRICS: tuple[tuple[ToxicityMetric, str], ...] = ((EMT, "EMT"), (TP, "TP"))


def are_of_one_run(several: Sequence[Results]) -> bool:
    """Whether results are of the same continuations, under a judge each.

    Args:
      several: of any evaluations.
    """
    first, *others = several
    judges = {results.scorer.name for results in several}
    if not others or len(judges) < len(several):
        return False
    return all(
        results.methods == first.methods
        and results.baseline == first.baseline
        and _qualities(results) == _qualities(first)
        for results in others
    )


def _qualities(results: Results) -> list[str]:
    """What no judge changes, so that it compares: a NaN is not itself."""
    return [repr(row.quality) for row in results.of_split(results.splits[0])]


def table(several: Sequence[Results]) -> Table:
    """The rows, on all prompts: n, EMT and TP by each judge with their intervals, and the texts.

    A mark that a row has under all judges stands beside its name, else beside a judge's figures.

    Args:
      several: see `are_of_one_run`; as people read them, seeds as one.
    """
    first = several[0]
    split = first.splits[0]
    made = made_table(first, split, "Every row, by every judge", columns_named(_OF_ALL))
    of_judges = [{row.method: row for row in results.of_split(split)} for results in several]
    base = of_judges[0][first.baseline].quality
    rows = []
    for row, texts in zip(first.of_split(split), made.rows, strict=True):
        judged = [of_judge[row.method] for of_judge in of_judges]
        of_all, own = _marks(several, judged)
        cells = {METHOD: marked(row.method, *of_all.items()), **_counts(several, judged)}
        for metric, name in _METRICS:
            for results, here, alone in zip(several, judged, own, strict=True):
                figure = here.estimate(metric)
                little = says_little(figure, here.toxicity.num_scored_prompts)
                cells[f"{name}, {results.scorer.name}"] = marked(
                    show(figure), *alone.items(), (LITTLE, little)
                )
        for name, text in texts.items():
            if name != METHOD:
                cells[name] = text
            if name == "Perplexity":
                cells[_RISE] = _percent(_rise(row.quality, base))
        rows.append(cells)
    return Table(made.title, split, made.counts, rows)


def _counts(several: Sequence[Results], judged: Sequence[Row]) -> dict[str, str]:
    """Prompts and continuations of a row, and what is scored; by judge where one lacks scores."""
    if not any(row.toxicity.coverage < 1 for results in several for row in results.rows):
        return {"n × k": n_by_k(several[0], judged[0])}
    cells = {}
    for results, row in zip(several, judged, strict=True):
        cells[f"n × k, {results.scorer.name}"] = n_by_k(results, row)
        cells[f"Scored, {results.scorer.name}"] = percent(row.toxicity.coverage)
    return cells


def _marks(
    several: Sequence[Results], judged: Sequence[Row]
) -> tuple[dict[str, bool], list[dict[str, bool]]]:
    """The marks that a row has under all judges, and those that it has under each alone."""
    each = [marks(results, row) for results, row in zip(several, judged, strict=True)]
    of_all = {mark: all(own[mark] for own in each) for mark in each[0]}
    alone = [{mark: is_so and not of_all[mark] for mark, is_so in own.items()} for own in each]
    return of_all, alone


def _rise(quality: Quality, base: Quality) -> float:
    """Of the perplexity over the baseline's, as a share; NaN where one is not defined.

    Where a method never writes some of the texts it is infinite, whatever the others say.
    """
    if quality.perplexity is None or base.perplexity is None or quality is base:
        return math.nan
    return quality.perplexity.of_all / base.perplexity.of_all - 1


def _percent(share: float) -> str:
    if math.isinf(share):
        return "∞"
    return NONE if math.isnan(share) else f"{100 * share:+.1f} %".replace("-", "−")


def markdown(several: Sequence[Results]) -> str:
    """The table and what it means."""
    made, first = table(several), several[0]
    counts = ""
    if "n × k" not in made.rows[0]:
        counts = (
            " n × k: prompts with a score, and continuations of each; Scored: continuations that "
            "have a score;"
        )
    sentences = [
        "EMT: expected maximum toxicity, mean over prompts of the most toxic continuation's score; "
        f"TP: share of prompts with a toxic continuation;{counts} each by the judge that is named. "
        "A mark beside a figure is of that judge alone.",
        *legend_of_columns(first, [made]),
        f"{_RISE}: of the perplexity over that of {first.baseline}.",
        *legend_of_texts(first),
        *dict.fromkeys(line for results in several for line in legend_of_scorer(results)),
    ]
    return f"### {made.heading} ({made.counts})\n\n{markdown_rows(made.rows)}\n\n" + (
        f"{' '.join(sentences)}\n"
    )


def csv_table(several: Sequence[Results]) -> str:
    """The same unrounded, every row of every split; of seeds each.

    Args:
      several: see `are_of_one_run`.
    """
    first, lines = several[0], []
    of_judges = [{(row.method, row.split): row for row in results.rows} for results in several]
    for split in first.splits:
        base = next(row for row in first.of_split(split) if row.method == first.baseline)
        for row in first.of_split(split):
            line: dict[str, Any] = {"method": row.method, "split": split}
            for results, of_judge in zip(several, of_judges, strict=True):
                line |= _judged(of_judge[row.method, split], results.scorer.name)
            quality = row.quality
            line |= {
                "perplexity": quality.perplexity and quality.perplexity.value,
                "perplexity_rise": _rise(quality, base.quality),
                **{f"distinct_{n}": x for n, x in enumerate(quality.distinct, start=1)},
                "self_bleu": quality.self_bleu,
                "mean_words": quality.mean_words,
                "early_stop_fraction": quality.early_stop_fraction,
                "empty_fraction": quality.empty_fraction,
                "degenerate_fraction": quality.degenerate_fraction,
            }
            lines.append(line)
    return csv_lines([{k: None if v != v else v for k, v in line.items()} for line in lines])


def _judged(row: Row, judge: str) -> dict[str, float | None]:
    figures: dict[str, float | None] = {
        f"num_scored_prompts_{judge}": row.toxicity.num_scored_prompts,
        f"coverage_{judge}": row.toxicity.coverage,
    }
    for metric, _ in _METRICS:
        interval = row.estimate(metric)
        figures |= {
            f"{metric}_{judge}": interval.value,
            f"{metric}_{judge}_low": interval.low,
            f"{metric}_{judge}_high": interval.high,
        }
    return figures
