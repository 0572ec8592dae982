"""What `evaluate` and `sgeat` return: figures with intervals, and where the rest lies."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from markupsafe import Markup

from detox_jax.api import show
from detox_jax.api.calls import Place
from detox_jax.api.model import Model, load
from detox_jax.api.texts import data_frame
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.results_files import Sample
from detox_jax.report import charts, drawing, figures, table_formats
from detox_jax.report.headline import headline
from detox_jax.report.tables import key_table


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows without more ado.

    Attributes:
      figure: a `matplotlib.figure.Figure`; `figure.savefig(...)` writes it.
    """

    figure: Any

    def _repr_png_(self) -> bytes:
        return figures.png(self.figure, dpi=90)


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Base and methods side by side under one scorer.

    A path too: where one is wanted, the directory of `results.json` is taken.

    Attributes:
      files: what `evaluate` wrote, as `report` reads it.
    """

    files: results_files.Evaluation
    _place: Place | None = dataclasses.field(default=None, compare=False)

    @property
    def results(self) -> Results:
        """Every figure: rows by method and split, differences to the baseline, provenance."""
        return self.files.results

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        return headline(self.results)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Prompts with the first continuation of each method."""
        return self.files.samples

    def plot(self) -> Picture:
        """The report's first picture: toxicity of each method, and perplexity where it is known."""
        return Picture(drawing.overview(charts.measured(self.results, self.results.splits[0])))

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of a row a method and split, as the report's CSV has them.

        Raises:
          UserError: where pandas is not installed.
        """
        rows = json.loads(table_formats.json_table(self.results))["rows"]
        return data_frame(rows)

    def __fspath__(self) -> str:
        return self.files.directory

    def __repr__(self) -> str:
        table = key_table(self.results, self.results.splits[0])
        lines = [f"Evaluation({table.counts})", f"  {self.headline}"]
        for row in table.rows:
            lines.append("  " + ", ".join(f"{name} {cell}" for name, cell in row.items()))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = key_table(self.results, self.results.splits[0])
        notes = [self.headline, table.counts, "In brackets 95 % intervals."]
        return show.table([*table.rows[0]], [[*row.values()] for row in table.rows], notes)


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """What `sgeat` left in its directory.

    Attributes:
      output_dir: the directory.
      evaluations: figures by the name of the judge; the first one's are `results.json`'s.
      figures: where `report.html` is: `output_dir`, or of some rows alone a directory in it.
    """

    output_dir: str
    evaluations: Mapping[str, Evaluation]
    figures: str

    @property
    def evaluation(self) -> Evaluation:
        """By the first judge."""
        return next(iter(self.evaluations.values()))

    @property
    def report(self) -> str:
        """The path of the page."""
        return str(epath.Path(self.figures) / "report.html")

    def model(self, method: str = "sgeat-whole") -> Model:
        """Loads a model that was trained, or `base` where it was trained here.

        Raises:
          UserError: if the run has none of that name.
        """
        directory = epath.Path(self.output_dir)
        models = {path.name: path for path in sorted((directory / "models").glob("*"))}
        if (directory / "base").is_dir():
            models["base"] = directory / "base"
        if method not in models:
            raise UserError(f"no model {method!r} in {self.output_dir}; one of {', '.join(models)}")
        return load(models[method])

    def __fspath__(self) -> str:
        return self.output_dir

    def __repr__(self) -> str:
        return f"Run({self.output_dir!r})\n{self.evaluation!r}"

    def _repr_html_(self) -> str:
        parts = []
        for judge, evaluation in self.evaluations.items():
            title = f"<p><b>judged by {html.escape(judge)}</b></p>"
            parts.append((title if len(self.evaluations) > 1 else "") + evaluation._repr_html_())
        place = Markup("<p>Pictures, samples and provenance: <code>{}</code></p>")
        return "".join(parts) + str(place.format(self.report))
