"""Verb `report`: a page, pictures and tables of what `evaluate` measured."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, output_settings, outputs, preview, records, terminal
from detox_jax.errors import UserError
from detox_jax.evaluation import frontiers as of_evaluation
from detox_jax.evaluation.frontiers import Frontier
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.results_files import (
    Evaluation,
    files,
    load,
    of_each_scorer,
    results_file,
    suffixes,
)
from detox_jax.output_settings import NOT_YET
from detox_jax.preview import Step
from detox_jax.report import (
    drawing,
    figures,
    frontier_tables,
    judge_tables,
    latex_tables,
    table_formats,
)
from detox_jax.report import seeds as seeds_as_one
from detox_jax.report.charts import charts, measured, subject
from detox_jax.report.group_tables import csv_table
from detox_jax.report.headline import headline
from detox_jax.report.page import page
from detox_jax.report.seeds import Seeds

_TABLES = {
    "md": table_formats.markdown,
    "csv": table_formats.csv_table,
    "json": table_formats.json_table,
    "tex": latex_tables.latex,
}
_UNROUNDED = ("csv", "json")
# All that a report writes, for one that takes its place.
_MADE = (
    *(f"table*.{extension}" for extension in _TABLES),
    *("groups*.csv", "frontiers*.md", "frontiers*.csv", "judges.md", "judges.csv", "report.html"),
    *(f"{place}.{kind}" for place in ("toxicity*", "figures/*") for kind in ("svg", "png", "pdf")),
)


FREE = ("output_dir", "replace", "check_only")  # see `output_settings`


def report(
    results: str | Sequence[str],
    output_dir: str,
    frontiers: Mapping[str, Sequence[str]] | None = None,
    frontiers_by: of_evaluation.By = of_evaluation.HELDOUT,
    seeds: Seeds | None = None,
    replace: bool = False,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes `report.html`, and of each results tables, `toxicity.png` and `figures/`.

    Tables are `table.md`, `table.csv`, `table.json` and `table.tex`; every picture is a PNG, an
    SVG and a PDF. With several results or scorers, whose scores do not compare, each has a section
    of its own on the page and files of its own, whose names end with the scorer: `table-ngram.csv`.
    Of scorers that judged the same continuations `judges.md` and `judges.csv` have one table: what
    each says of every row, with its interval, beside what none changes.

    Args:
      results: the `results.json` that `evaluate` wrote, or its directory, or a list of them; what
        lies beside it is shown too: `prompts.json` (distribution, k-curve), `samples.json`
        (continuations), `training.json` (losses), `times.json` (how long each step took).
      output_dir: where the report goes.
      frontiers: rows by a name, such as one training of several numbers of steps: the report
        compares them at equal perplexity and at equal toxicity (`frontiers.csv`, `.md`), see
        `evaluation.frontiers`; of a row that has seeds, by their mean.
      frontiers_by: whose perplexity that is: `heldout` text, or `continuations` under the reference
        model, which rows have too that are decoded by what is no distribution over all tokens.
      seeds: rows that differ in nothing but their seed, by the name that they have as one: page,
        pictures, Markdown and LaTeX show their mean, the least and the most (`report.seeds`), CSV
        and JSON every row.
      replace: make a report again, in its place, that is there of other results or other `seeds`;
        it is refused where False.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if results cannot be read, hold no row, or mix two scorers in one file; it names
        the file and the field.
    """
    arguments = locals()
    replaces = _takes_the_place if replace else None
    is_there = not _waits(results)
    sources = _sources(results) if is_there else results
    several = [load(source) for source in sources] if is_there else []
    if seeds is not None and is_there:
        seeds_as_one.check(seeds, [one.results for one in several])
    for one in several:
        of_evaluation.check_figures(one, frontiers or {}, seeds, frontiers_by)
    if check_only:
        preview.checked_output(output_dir)
        known = functools.partial(_settings, arguments, sources)
        stays = outputs.check(output_dir, "report", known, replaces=replaces)
        again = preview.is_done(output_dir) and not stays
        return [Step("report", output_dir, {"results": len(sources)}, again=again)]
    settings = _settings(arguments, sources)
    output = outputs.OutputDirectory(output_dir, "report", settings, replaces=replaces, made=_MADE)
    shown = [seeds_as_one.merged(one, seeds or {}) for one in several]
    if not output.complete:
        lines = [
            of_evaluation.frontiers(one, frontiers or {}, seeds, frontiers_by) for one in several
        ]
        for one, whole, suffix, drawn in zip(shown, several, suffixes(several), lines, strict=True):
            write(one, output.path, suffix, drawn, whole.results)
        if judge_tables.are_of_one_run([one.results for one in shown]):
            made = judge_tables.markdown([one.results for one in shown])
            atomic_files.write_bytes(output.path / "judges.md", made.encode())
            made = judge_tables.csv_table([one.results for one in several])
            atomic_files.write_bytes(output.path / "judges.csv", made.encode())
        with terminal.stage("make the page"):
            atomic_files.write_bytes(output.path / "report.html", page(shown, lines).encode())
        output.finish(rows=sum(len(evaluation.results.rows) for evaluation in several))
    print(headline(shown[0].results))
    print(f"{output.path / 'report.html'}: open it in a browser")
    return None


def _settings(arguments: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
    """What decides the report."""
    frontiers, by, seeds = (arguments[name] for name in ("frontiers", "frontiers_by", "seeds"))
    is_by_heldout = frontiers is None or by == of_evaluation.HELDOUT
    return output_settings.of_verb(
        report,
        arguments,
        free=FREE,
        instead={
            "results": {"results": [_describe(source) for source in sources]},
            "frontiers": {}
            if frontiers is None
            else {"frontiers": output_settings.describe(frontiers, "FRONTIERS")},
            "frontiers_by": {} if is_by_heldout else {"frontiers_by": by},
            "seeds": {} if not seeds else {"seeds": output_settings.describe(seeds, "SEEDS")},
        },
    )


def _takes_the_place(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a report differs from the one that is there in what is measured alone, `replace`.

    The same results in another order are what somebody asked for, or has lost.
    """
    names = (there.keys() | now.keys()) - {"results", "seeds"}
    if any(there.get(name) != now.get(name) for name in names):
        return False
    before, after = there["results"], now["results"]
    return before == after or sorted(map(str, before)) != sorted(map(str, after))


def _waits(results: Any) -> bool:
    """Whether an earlier step is to write what is shown."""
    is_list = isinstance(results, list | tuple)
    return is_list and any(isinstance(source, preview.Coming) for source in results)


def _sources(results: Any) -> list[str]:
    sources = [results] if isinstance(results, str) else results
    if not isinstance(sources, list | tuple) or not sources:
        raise UserError(
            f"RESULTS is {results!r}; give a results.json, its directory, or a list: ['a', 'b']"
        )
    for i, source in enumerate(sources):
        if not isinstance(source, str) or not source:
            raise UserError(f"RESULTS holds {source!r}; give the path of a results.json as text")
        if source in sources[:i]:
            raise UserError(f"RESULTS names {source} twice; name each results.json once")
    shown = [(place, source) for source in sources for place in of_each_scorer(source)]
    seen: dict[str, str] = {}
    for place, source in shown:
        file = atomic_files.real_path(results_file(place))
        if (other := seen.setdefault(file, source)) != source:
            raise UserError(f"RESULTS: {other} and {source} name one results.json; name it once")
    return [place for place, _ in shown]


def _describe(source: str) -> Any:
    """What is shown of a source, but for the times, which differ from run to run."""
    if isinstance(source, preview.Coming):
        return NOT_YET
    shown = [file for file in files(source) if file.name != outputs.TIMES_FILE]
    return {file.name: records.describe_input(str(file)) for file in shown}


def write(
    evaluation: Evaluation,
    directory: epath.Path,
    suffix: str = "",
    lines: Sequence[Frontier] = (),
    every_row: Results | None = None,
) -> None:
    """Writes the tables and the pictures of one evaluation.

    Args:
      evaluation: as people read it, seeds as one.
      directory: where to.
      suffix: ends the names of files.
      lines: the frontiers.
      every_row: what tables for programs hold; the evaluation's own rows where None.
    """
    results = evaluation.results
    for extension, table in _TABLES.items():
        text = table(every_row or results if extension in _UNROUNDED else results)
        atomic_files.write_bytes(directory / f"table{suffix}.{extension}", text.encode())
    if results.groups:
        groups = csv_table(every_row or results)
        atomic_files.write_bytes(directory / f"groups{suffix}.csv", groups.encode())
    first = results.splits[0]
    pictures = {"toxicity": drawing.overview(measured(results, first), subject(results, first))}
    drawn = charts(evaluation)
    if lines:
        for extension, text in {
            "md": frontier_tables.markdown(lines, results),
            "csv": frontier_tables.csv_table(lines),
        }.items():
            atomic_files.write_bytes(directory / f"frontiers{suffix}.{extension}", text.encode())
        drawn.append(frontier_tables.chart(lines, subject(results, first)))
    pictures |= {f"figures/{chart.name}": chart.draw_alone() for chart in drawn}
    atomic_files.make_subdirectory(directory / "figures")
    with terminal.bar("draw", len(pictures), unit="pictures") as advance:
        for name, figure in pictures.items():
            svg = figures.svg(figure, f"{name}{suffix}")
            atomic_files.write_bytes(directory / f"{name}{suffix}.svg", svg.encode())
            atomic_files.write_bytes(directory / f"{name}{suffix}.png", figures.png(figure))
            atomic_files.write_bytes(directory / f"{name}{suffix}.pdf", figures.pdf(figure))
            advance()
