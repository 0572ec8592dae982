"""Verb `report`: a page, pictures and tables of what `evaluate` measured.

The page is one file without network. What models and files say is escaped, and the page's content
security policy admits no script but its own.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.evaluation import figures
from detox_jax.evaluation.figures import EMT, TOXIC, TP, Measured
from detox_jax.evaluation.statistics import Interval

RESULTS_FILE = "results.json"
_INTERVALS = (EMT, TP, "mean_toxicity", "toxic_fraction")
_SPLITS = ("full", "toxic", "nontoxic", "challenging")
_NONE = "–"
# Here and not in the template, since the page states its hash.
_SCRIPT = """
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[aria-controls]");
  if (!button) return;
  const text = document.getElementById(button.getAttribute("aria-controls"));
  text.hidden = !text.hidden;
  button.setAttribute("aria-expanded", String(!text.hidden));
  button.textContent = text.hidden ? button.dataset.show : "Hide";
});
"""


def report(results: str, output_dir: str) -> None:
    """Writes `report.html`, `toxicity.png`, `toxicity.svg`, `table.md` and `table.csv`.

    Args:
      results: the `results.json` that `evaluate` wrote, or its directory; `prompts.json` and
        `samples.json` beside it add the distribution, the k-curve and sample continuations.
      output_dir: where the report goes.

    Raises:
      UserError: if the results cannot be read, hold no row, or mix two scorers.
    """
    path = epath.Path(results)
    if path.is_dir():
        path = path / RESULTS_FILE
    data = load(path)
    inputs = [file for file in (path, *_details(path)) if file.exists()]
    settings = {file.name: records.describe_input(str(file)) for file in inputs}
    output = records.OutputDirectory(output_dir, "report", settings)
    if not output.complete:
        write(data, output.path)
        output.finish(rows=len(data.rows))
    print(headline(data))
    print(f"{output.path / 'report.html'}: open it in a browser")


# --- reading ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Results:
    """What `evaluate` wrote.

    Attributes:
      rows: one for each method and split, in the order of methods; the baseline is the first.
      baseline: the method that the others are compared with.
      paired: differences to the baseline by (method, split, metric).
      provenance: settings, versions, scorer and command, nested.
      prompts: maxima and k-curves by method; empty where `prompts.json` is absent.
      samples: continuations to show; empty where `samples.json` is absent.
    """

    rows: Sequence[Mapping[str, Any]]
    baseline: str
    paired: Mapping[tuple[str, str, str], Mapping[str, Any]]
    provenance: Mapping[str, Any]
    prompts: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the baseline first."""
        names = list(dict.fromkeys(row["method"] for row in self.rows))
        return sorted(names, key=lambda name: name != self.baseline)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, the full one first."""
        names = list(dict.fromkeys(row["split"] for row in self.rows))
        return sorted(names, key=lambda x: _SPLITS.index(x) if x in _SPLITS else len(_SPLITS))

    def of_split(self, split: str) -> list[Mapping[str, Any]]:
        """The rows of a split in the order of `methods`."""
        rows = {row["method"]: row for row in self.rows if row["split"] == split}
        return [rows[name] for name in self.methods if name in rows]

    def measured(self, split: str) -> list[Measured]:
        """The rows of a split as the pictures show them."""
        return [
            Measured(
                row["method"],
                self.methods.index(row["method"]),
                {key: found for key in _INTERVALS if (found := interval(row.get(key)))},
                interval(row.get("perplexity")),
            )
            for row in self.of_split(split)
        ]


def load(path: epath.Path) -> Results:
    """Reads `results.json` and what lies beside it.

    Raises:
      UserError: for a missing or malformed file, no rows, or rows of two scorers.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; give the results.json that `evaluate` wrote")
    value = _read_json(path, dict)
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path}: holds no "rows"; give the results.json that `evaluate` wrote')
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("method"), str):
            raise UserError(f'{path}: row {i} has no "method"; run `evaluate` again')
        row["split"] = str(row.get("split") or "full")
    scorers = sorted({_scorer(row) for row in rows})
    if len(scorers) > 1:
        raise UserError(
            f"{path}: holds scores of different scorers ({', '.join(scorers)}), which do not "
            "compare; evaluate and report each by itself"
        )
    paired = _mappings(value.get("paired"))
    prompts, samples = _details(path)
    return Results(
        rows,
        _baseline(rows, paired),
        {(row.get("method"), row.get("split"), row.get("metric")): row for row in paired},  # type: ignore
        _mapping(value.get("provenance")),
        _read_json(prompts, dict) if prompts.exists() else {},
        _mappings(_read_json(samples, list)) if samples.exists() else [],
    )


def _baseline(rows: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]) -> str:
    """What the differences are to; without any, the method `base`, or else the first."""
    names = [row["method"] for row in rows]
    named = [str(row["baseline"]) for row in paired if row.get("baseline")]
    return next((name for name in [*named, "base"] if name in names), names[0])


def _details(path: epath.Path) -> tuple[epath.Path, epath.Path]:
    return path.parent / "prompts.json", path.parent / "samples.json"


def _read_json(path: epath.Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_bytes().decode())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    # A lone surrogate, which JSON can spell, has no UTF-8 form and no glyph; it becomes "?".
    value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _scorer(row: Mapping[str, Any]) -> str:
    scorer = row.get("scorer")
    if isinstance(scorer, Mapping):
        return str(scorer.get("fingerprint") or scorer.get("name"))
    return str(scorer)


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(value: Any, key: str = "value") -> Interval | None:
    """An estimate with its bounds (NaN where it has none), or None where there is no estimate."""
    fields = value if isinstance(value, Mapping) else {key: value}
    if (estimate := number(fields.get(key))) is None:
        return None
    low, high = number(fields.get("low")), number(fields.get("high"))
    if low is None or high is None:
        low = high = math.nan
    return Interval(estimate, low, high)


# --- words ------------------------------------------------------------------------------------


def show(found: Interval | None, signed: bool = False) -> str:
    """`0.441 [0.420, 0.462]`, or a dash."""
    if found is None:
        return _NONE
    style = "+.3f" if signed else ".3f"
    text = f"{found.value:{style}}"
    if math.isfinite(found.low):
        text += f" [{found.low:{style}}, {found.high:{style}}]"
    return text.replace("-", "−")


def is_significant(difference: Interval | None) -> bool:
    """Whether the interval of a difference excludes zero."""
    return difference is not None and (difference.low > 0 or difference.high < 0)


def show_difference(difference: Interval | None) -> str:
    """A difference with its sign, starred where its interval excludes zero."""
    return show(difference, signed=True) + (" *" if is_significant(difference) else "")


def difference_of(data: Results, method: str, split: str, metric: str) -> Interval | None:
    """The paired difference of a method to the baseline."""
    return interval(data.paired.get((method, split, metric)), "difference")


def headline(data: Results) -> str:
    """The result in one sentence: the method of least toxicity beside the baseline."""
    split = data.splits[0]
    rows = {row["method"]: row for row in data.of_split(split)}
    values = {name: found for name, row in rows.items() if (found := interval(row.get(EMT)))}
    others = {name: found for name, found in values.items() if name != data.baseline}
    if data.baseline not in values or not others:
        return (
            "; ".join(
                f"{name}: expected maximum toxicity {show(found)}" for name, found in values.items()
            )
            or "Expected maximum toxicity was not measured"
        )
    best = min(others, key=lambda name: others[name].value)
    before, after = values[data.baseline], others[best]
    digits = 2 if abs(after.value - before.value) >= 0.01 else 3
    sentence = _change("expected maximum toxicity", before.value, after.value, digits)
    difference = difference_of(data, best, split, EMT)
    if difference is not None and math.isfinite(difference.low):
        value, low, high = (f"{x:.{digits}f}" for x in dataclasses.astuple(difference))
        zero = "" if is_significant(difference) else ", which includes zero"
        interval_text = f" (difference {value}, 95 % interval {low} to {high}{zero})"
        sentence += interval_text.replace("-", "−")
    sentence += _perplexity_words(rows[data.baseline], rows[best]) + "."
    if len(others) > 1:
        return f"With {best}, the least toxic of {len(others)} methods, {sentence}"
    return sentence[0].upper() + sentence[1:]


def _change(what: str, before: float, after: float, digits: int) -> str:
    old, new = f"{before:.{digits}f}", f"{after:.{digits}f}"
    if old == new:
        return f"{what} stays at {new}"
    return f"{what} {'falls' if after < before else 'rises'} from {old} to {new}"


def _perplexity_words(base: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    before, after = interval(base.get("perplexity")), interval(row.get("perplexity"))
    if before is None or after is None or before.value <= 0:
        return ""
    percent = 100 * (after.value / before.value - 1)
    if abs(percent) < 0.5:
        return " while perplexity stays the same"
    return f" while perplexity {'rises' if percent > 0 else 'falls'} {abs(percent):.0f} %"


# --- tables -----------------------------------------------------------------------------------


def table(data: Results, split: str) -> list[dict[str, str]]:
    """The rows of a split as text by column; columns in which no row has anything are left out."""
    rows = []
    for row in data.of_split(split):
        name = row["method"]
        emt, tp = (difference_of(data, name, split, metric) for metric in (EMT, TP))
        distinct = row.get("distinct")
        rows.append(
            {
                "Method": name,
                "Corpus": str(row.get("corpus") or _NONE),
                "Adaptation": str(row.get("adaptation") or _NONE),
                "Max. toxicity": show(interval(row.get(EMT))),
                "Δ max.": show_difference(emt),
                "Tox. probability": show(interval(row.get(TP))),
                "Δ prob.": show_difference(tp),
                "Mean toxicity": show(interval(row.get("mean_toxicity"))),
                "Perplexity": _fixed(interval(row.get("perplexity")), 2),
                "Distinct 1/2/3": " / ".join(_fixed(interval(d), 2) for d in distinct)
                if isinstance(distinct, list)
                else _NONE,
                "Words": _fixed(interval(row.get("mean_words")), 1),
                "Stops early": _percent(row.get("early_stop_fraction")),
                "Empty": _percent(row.get("empty_fraction")),
                "Degenerate": _percent(row.get("degenerate_fraction")),
            }
        )
    filled = {key for row in rows for key, text in row.items() if text != _NONE}
    return [{key: text for key, text in row.items() if key in filled} for row in rows]


def _fixed(found: Interval | None, digits: int) -> str:
    return _NONE if found is None else f"{found.value:.{digits}f}"


def _percent(value: Any) -> str:
    return _NONE if (share := number(value)) is None else f"{100 * share:.1f} %"


def markdown(data: Results) -> str:
    """A Markdown table for each split, and what the columns mean."""
    parts = [_markdown_text(headline(data)) + "\n"]
    for split in data.splits:
        rows = table(data, split)
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        body = "\n".join("| " + " | ".join(map(_markdown_text, line)) + " |" for line in lines)
        parts.append(f"### {_markdown_text(split)} ({_counts(data, split)})\n\n{body}\n")
    parts.append(_markdown_text(legend(data)) + "\n")
    return "\n".join(parts)


def _markdown_text(text: str) -> str:
    text = " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _counts(data: Results, split: str) -> str:
    row = data.of_split(split)[0]
    counts = [("num_prompts", "prompts"), ("num_samples", "continuations each")]
    texts = [f"{row[key]:,} {unit}" for key, unit in counts if isinstance(row.get(key), int)]
    return ", ".join(texts) or "prompts not counted"


def legend(data: Results) -> str:
    """What the columns of the table mean."""
    return (
        "Max. toxicity: mean over prompts of the most toxic continuation. Tox. probability: share "
        f"of prompts with a continuation of toxicity at least {TOXIC}. Δ: paired difference to "
        f"{data.baseline} on the same prompts; * where its interval excludes zero. In brackets "
        f"95 % intervals over prompts. Scorer: {_scorer(data.rows[0])}."
    )


def csv_table(data: Results) -> str:
    """Every figure unrounded, one line for each method and split."""
    lines = []
    for row in data.rows:
        line: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, Mapping):
                line |= {f"{key}_{name}": item for name, item in value.items()}
            elif isinstance(value, list):
                line |= {f"{key}_{i}": item for i, item in enumerate(value, start=1)}
            else:
                line[key] = value
        for metric in (EMT, TP, "mean_toxicity"):
            pair = data.paired.get((row["method"], row["split"], metric)) or {}
            for key in ("difference", "low", "high", "p_value", "p_value_holm"):
                if key in pair:
                    name = key if key == "difference" else f"difference_{key}"
                    line[f"{metric}_{name}"] = pair[key]
        lines.append(line)
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


# --- page -------------------------------------------------------------------------------------


def write(data: Results, directory: epath.Path) -> None:
    """Writes the five files of a report."""
    overview = figures.overview(data.measured(data.splits[0]))
    records.write_bytes(directory / "toxicity.png", figures.png(overview))
    for name, text in {
        "toxicity.svg": figures.svg(overview, "toxicity"),
        "table.md": markdown(data),
        "table.csv": csv_table(data),
        "report.html": page(data),
    }.items():
        records.write_bytes(directory / name, text.encode())


def page(data: Results) -> str:
    """The page, whole."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("report.html.jinja")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return template.render(
        script=Markup(_SCRIPT),
        script_hash=f"sha256-{digest}",
        headline=headline(data),
        tables=[(split, _counts(data, split), table(data, split)) for split in data.splits],
        legend=legend(data),
        charts=_charts(data),
        samples=_samples(data),
        provenance={k: v for k, v in data.provenance.items() if k != "command"},
        command=data.provenance.get("command"),
        scorer=_scorer(data.rows[0]),
        methods=data.methods,
    )


def _charts(data: Results) -> list[dict[str, Any]]:
    """Title, caption and drawing of every chart that the results have figures for."""
    first = data.splits[0]
    methods = data.measured(first)
    drawn: list[tuple] = [
        ("toxicity", "Toxicity", f"On the {first} prompts.", figures.draw_toxicity, methods)
    ]
    if any(method.perplexity for method in methods):
        caption = "Down is less toxic, left predicts text better; dotted: the Pareto front."
        drawn.append(
            ("quality", "Toxicity against perplexity", caption, figures.draw_quality, methods)
        )
    if len(data.splits) > 1:
        splits = {split: data.measured(split) for split in data.splits}
        caption = "Prompts split by their own toxicity; bars span 95 % intervals."
        drawn.append(("splits", "By kind of prompt", caption, figures.draw_splits, splits))
    charts = []
    for name, title, caption, draw, shown in drawn + _prompt_charts(data, methods):
        figure = figures.single(draw, shown, len(methods))
        description = f"{title}. {caption} The table has the figures."
        svg = Markup(figures.inline_svg(figure, name, description))
        charts.append({"title": title, "caption": caption, "svg": svg})
    return charts


def _prompt_charts(data: Results, methods: Sequence[Measured]) -> list[tuple]:
    maxima, curves = [], []
    for method in methods:
        values = _mapping(_mapping(data.prompts.get("methods")).get(method.name))
        if found := _numbers(values.get("max_toxicity")):
            maxima.append((method, found))
        curve = _mapping(_mapping(data.prompts.get("k_curve")).get(method.name))
        ks, toxicity = _numbers(curve.get("k")), _numbers(curve.get(EMT))
        if ks and len(ks) == len(toxicity):
            curves.append((method, ks, toxicity))
    drawn = []
    if maxima:
        title = "Distribution of maximum toxicity"
        caption = f"At the dotted line, {TOXIC}, the curve is the toxicity probability."
        drawn.append(("maxima", title, caption, figures.draw_distribution, maxima))
    if curves:
        title = "Toxicity over continuations"
        caption = "More continuations find more toxicity; compare methods at the same k."
        drawn.append(("k-curve", title, caption, figures.draw_k_curve, curves))
    return drawn


def _numbers(value: Any) -> list[float]:
    return [x for x in value if number(x) is not None] if isinstance(value, list) else []


def _samples(data: Results) -> list[dict[str, Any]]:
    """Prompts and continuations in the order of methods, each marked where it is to be masked."""
    samples = []
    for sample in data.samples:
        continuations = _mapping(sample.get("continuations"))
        texts = [(name, _mapping(continuations.get(name))) for name in data.methods]
        samples.append(
            {
                "prompt": _passage(sample.get("prompt"), sample.get("prompt_toxicity")),
                "continuations": [
                    (name, _passage(text.get("text"), text.get("toxicity")))
                    for name, text in texts
                    if text
                ],
            }
        )
    return samples


def _passage(text: Any, toxicity: Any) -> dict[str, Any]:
    """A text that is masked where it is toxic, and where nobody has scored it."""
    shown, score = "" if text is None else str(text), number(toxicity)
    masked = bool(shown.strip()) and (score is None or score >= TOXIC)
    return {"text": shown, "toxicity": score, "masked": masked}
