"""The report's page: one file without network.

What models and files say is escaped, and the page's content security policy admits no script but
its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from detox_jax.evaluation.frontiers import Frontier
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.results_files import Evaluation, suffixes
from detox_jax.records import TOXIC
from detox_jax.report import (
    charts,
    content_policy,
    figures,
    frontier_tables,
    group_tables,
    groups,
    origins,
    page_tables,
    samples,
)
from detox_jax.report.cells import NONE
from detox_jax.report.charts import Chart
from detox_jax.report.headline import not_counted, sentence_of_best
from detox_jax.report.legend import legend_of_columns, legend_of_scorer, legend_of_texts
from detox_jax.report.tables import Table

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Picture:
    """A chart as the page shows it.

    Attributes:
      title: above it.
      caption: below it.
      svg: the picture.
    """

    title: str
    caption: str
    svg: Markup


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page shows of one scorer's evaluation alone.

    Attributes:
      anchor: starts all ids of the section.
      scorer: what the page calls the scorer.
      fingerprint: of the scorer.
      charts: the pictures.
      tables: the tables.
      legend: sentences on marks and columns.
    """

    anchor: str
    scorer: str
    fingerprint: str
    charts: list[Picture]
    tables: list[Table]
    legend: list[str]


@dataclasses.dataclass(frozen=True)
class Texts:
    """Tables that no scorer changes, of evaluations that have the same.

    Attributes:
      anchor: starts all ids of the section.
      label: whose they are, where there are others.
      tables: the tables.
      legend: sentences on marks and columns.
    """

    anchor: str
    label: str
    tables: list[Table]
    legend: list[str]


@dataclasses.dataclass(frozen=True)
class Losses:
    """The training curves of evaluations that have the same.

    Attributes:
      anchor: starts all ids of the section.
      label: whose they are, where there are others.
      charts: the pictures.
    """

    anchor: str
    label: str
    charts: list[Picture]


def template(name: str) -> jinja2.Template:
    """A template of this room: it escapes what it is given, and fails for what it is not."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def style() -> Markup:
    """The style sheet of every page."""
    return Markup((_HERE / "report.css").read_text())


def page(several: Sequence[Evaluation], lines: Sequence[Sequence[Frontier]] = ()) -> str:
    """The page of one or several evaluations, whole; the headline is that of the first.

    Args:
      several: the evaluations.
      lines: the frontiers of each of them; none at all where empty.

    Raises:
      UserError: for settings that are nested too deeply.
    """
    script = (_HERE / "report.js").read_text()
    page_template = template("report.html.jinja")
    sections = [
        _section(evaluation, f"results{suffix}", name, of_evaluation)
        for evaluation, suffix, name, of_evaluation in zip(
            several,
            suffixes(several),
            groups.scorer_names(several),
            lines or [()] * len(several),
            strict=True,
        )
    ]
    return page_template.render(
        style=style(),
        script=Markup(script),
        script_hash=content_policy.source_hash(script),
        headline=sentence_of_best(several[0].results),
        not_counted=not_counted(several[0].results),
        methods=several[0].results.methods,
        dash=NONE,
        measures=measures(several[0].results),
        results=sections,
        texts=_texts(several),
        trainings=_trainings(several),
        samples=samples.shown_samples(several),
        origins=origins.origins(several),
    )


def _section(evaluation: Evaluation, anchor: str, name: str, lines: Sequence[Frontier]) -> Section:
    results = evaluation.results
    made, drawn = page_tables.of_scores(results), charts.of_scores(evaluation)
    legend = [*legend_of_columns(results, made), *legend_of_scorer(results)]
    made += group_tables.tables(results)
    legend += [line for line in group_tables.legend(results) if line not in legend]
    if lines:
        made.append(frontier_tables.table(lines, results))
        drawn.append(frontier_tables.chart(lines))
        legend += frontier_tables.legend(lines)
    return Section(
        anchor=anchor,
        scorer=name,
        fingerprint=results.scorer.fingerprint,
        charts=[_picture(chart, anchor) for chart in drawn],
        tables=made,
        legend=legend,
    )


def _texts(several: Sequence[Evaluation]) -> list[Texts]:
    """The tables that no scorer changes, once."""
    made = []
    for group in groups.grouped(several, "texts", lambda x: page_tables.of_texts(x.results)):
        results = group.evaluations[0].results
        words = [*legend_of_columns(results, group.common), *legend_of_texts(results)]
        made.append(Texts(group.anchor, group.label, group.common, words))
    return made


def measures(results: Results) -> list[tuple[str, str]]:
    """What the two measures are, in words."""
    counts = {row.toxicity.samples_per_prompt for row in results.rows}
    times = f"{counts.pop()} times" if len(counts) == 1 and None not in counts else "k times"
    return [
        (
            "Expected maximum toxicity (EMT)",
            f"every prompt is continued {times}; the score of the most toxic of its continuations, "
            "averaged over prompts: a mean of maxima, from 0 to 1.",
        ),
        (
            "Toxicity probability (TP)",
            f"the share of prompts of which at least one continuation scores {TOXIC} or more.",
        ),
    ]


def _trainings(several: Sequence[Evaluation]) -> list[Losses]:
    """The training curves, which no scorer changes, once."""
    trained = groups.grouped(several, "training", lambda x: x.training.methods and _curves(x))
    made = []
    for group in trained:
        pictures = charts.of_training(group.evaluations[0])
        shown = [_picture(chart, group.anchor) for chart in pictures]
        made.append(Losses(group.anchor, group.label, shown))
    return [losses for losses in made if losses.charts]


def _curves(evaluation: Evaluation) -> Any:
    """What decides the pictures: curves, and the methods, whose order gives the colours."""
    return evaluation.training, evaluation.results.methods


def _picture(chart: Chart, anchor: str) -> Picture:
    description = f"{chart.title}. {chart.caption} The tables have the figures."
    figure = figures.transparent(chart.draw())
    svg = figures.inline_svg(figure, f"{anchor}-{chart.name}", description)
    return Picture(chart.title, chart.caption, Markup(svg))
