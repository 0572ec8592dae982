"""The report's page: one file without network.

What models and files say is escaped, and the page's content security policy admits no script but
its own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from detox_jax.errors import UserError
from detox_jax.evaluation.results import Provenance, Results
from detox_jax.evaluation.results_files import Evaluation, Sample, Times, suffixes
from detox_jax.evaluation.typed_json import to_json
from detox_jax.report import figures, passages
from detox_jax.report.charts import Chart, charts
from detox_jax.report.headline import headline
from detox_jax.report.tables import NONE, Table, legend, tables

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
class ShownSample:
    """A prompt, and the methods' continuations in their order, by name."""

    prompt: passages.Passage
    continuations: list[tuple[str, passages.Passage]]


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page shows of one scorer's evaluation.

    Attributes:
      anchor: starts all ids of the section.
      scorer: the name of the scorer.
      fingerprint: of the scorer.
      directory: where the results lie.
      charts: the pictures.
      tables: the tables.
      legend: sentences on marks and columns.
      samples: prompts and continuations.
      filters: which scorer chose each method's training texts.
      command: what repeats the figures.
      provenance: the rest of what the results say of where they come from, nested, and the times.
    """

    anchor: str
    scorer: str
    fingerprint: str
    directory: str
    charts: list[Picture]
    tables: list[Table]
    legend: list[str]
    samples: list[ShownSample]
    filters: list[tuple[str, str]]
    command: str | None
    provenance: dict[str, Any]


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


def page(several: Sequence[Evaluation]) -> str:
    """The page of one or several evaluations, whole; the headline is that of the first.

    Raises:
      UserError: for settings that are nested too deeply.
    """
    script = (_HERE / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page_template = template("report.html.jinja")
    sections = [
        _section(evaluation, f"results{suffix}", _toxic_to_others(evaluation, several))
        for evaluation, suffix in zip(several, suffixes(several), strict=True)
    ]
    try:
        return page_template.render(
            style=style(),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            headline=headline(several[0].results),
            methods=several[0].results.methods,
            dash=NONE,
            results=sections,
        )
    except RecursionError:
        directories = ", ".join(evaluation.directory for evaluation in several)
        raise UserError(
            f"{directories}: provenance.settings are nested too deeply for a page"
        ) from None


def _section(evaluation: Evaluation, anchor: str, toxic: Collection[str]) -> Section:
    results = evaluation.results
    return Section(
        anchor=anchor,
        scorer=results.scorer.name,
        fingerprint=results.scorer.fingerprint,
        directory=evaluation.directory,
        charts=[_picture(chart, anchor) for chart in charts(evaluation)],
        tables=tables(results),
        legend=legend(results),
        samples=[_shown(sample, results.methods, toxic) for sample in evaluation.samples],
        filters=_filters(results),
        command=results.provenance.command,
        provenance=_provenance(results.provenance, evaluation.times),
    )


def _picture(chart: Chart, anchor: str) -> Picture:
    description = f"{chart.title}. {chart.caption} The tables have the figures."
    figure = figures.transparent(chart.draw())
    svg = figures.inline_svg(figure, f"{anchor}-{chart.name}", description)
    return Picture(chart.title, chart.caption, Markup(svg))


# --- samples ----------------------------------------------------------------------------------


def _shown(sample: Sample, methods: Sequence[str], toxic: Collection[str]) -> ShownSample:
    """A sample with its continuations in the order of methods."""
    continuations = [
        (name, passages.passage(continuation.text, continuation.toxicity, toxic))
        for name in methods
        if (continuation := sample.continuations.get(name))
    ]
    prompt = passages.passage(sample.prompt, sample.prompt_toxicity, toxic)
    return ShownSample(prompt, continuations)


def _toxic_to_others(evaluation: Evaluation, several: Sequence[Evaluation]) -> set[str]:
    """The texts that the other scorers on the page have masked."""
    rated = [
        (text, toxicity)
        for other in several
        if other is not evaluation
        for sample in other.samples
        for text, toxicity in (
            (sample.prompt, sample.prompt_toxicity),
            *((x.text, x.toxicity) for x in sample.continuations.values()),
        )
    ]
    return {text for text, toxicity in rated if passages.is_masked(text, toxicity)}


# --- provenance -------------------------------------------------------------------------------


def _filters(results: Results) -> list[tuple[str, str]]:
    """Which scorer chose each method's training texts."""
    filters = []
    for method, scorer in results.provenance.filtered_by.items():
        words = "not filtered"
        if scorer is not None:
            words = f"{scorer.name} ({scorer.fingerprint})"
            words += ", the same scorer" * results.filtered_by_same(method)
        filters.append((method, words))
    return filters


def _provenance(provenance: Provenance, times: Times) -> dict[str, Any]:
    """What the results say of where they come from and has no place of its own; and the times."""
    elsewhere = ("schema_version", "filtered_by", "command")
    shown = {
        key: value
        for key, value in to_json(provenance).items()
        if key not in elsewhere and value not in (None, {})
    }
    if times.seconds:
        shown["times"] = {
            **{step: duration(seconds) for step, seconds in times.seconds.items()},
            "all steps": duration(sum(times.seconds.values())),
        }
    return shown


def duration(seconds: float) -> str:
    """`0.4 s`, `59 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
