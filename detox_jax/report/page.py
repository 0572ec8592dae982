"""The report's page: one file without network.

What models and files say is escaped, and the page's content security policy admits no script but
its own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from detox_jax.evaluation.results import Results, mapping, mappings, number, suffixes
from detox_jax.records import TOXIC
from detox_jax.report import figures
from detox_jax.report.charts import charts
from detox_jax.report.headline import headline
from detox_jax.report.tables import NONE, legend, tables


def page(several: Sequence[Results]) -> str:
    """The page of one or several results, whole; the headline is that of the first."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = (here / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        style=Markup((here / "report.css").read_text()),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        headline=headline(several[0]),
        methods=several[0].methods,
        dash=NONE,
        results=[
            _section(data, f"results{suffix}", _toxic_to_others(data, several))
            for data, suffix in zip(several, suffixes(several), strict=True)
        ],
    )


def _section(data: Results, anchor: str, toxic: Collection[str]) -> dict[str, Any]:
    """What the page shows of one scorer's results; `anchor` starts all its ids."""
    shown = []
    for chart in charts(data):
        description = f"{chart.title}. {chart.caption} The tables have the figures."
        figure = figures.transparent(chart.draw())
        svg = figures.inline_svg(figure, f"{anchor}-{chart.name}", description)
        shown.append({"title": chart.title, "caption": chart.caption, "svg": Markup(svg)})
    return {
        "anchor": anchor,
        "scorer": data.scorer_name,
        "fingerprint": data.fingerprint,
        "directory": data.directory,
        "charts": shown,
        "tables": tables(data),
        "legend": legend(data),
        "samples": _samples(data, toxic),
        "filters": _filters(data),
        "command": data.provenance.get("command"),
        "provenance": _provenance(data),
    }


# --- samples ----------------------------------------------------------------------------------


def _samples(data: Results, toxic: Collection[str]) -> list[dict[str, Any]]:
    """Prompts and continuations in the order of methods, each marked where it is to be masked."""
    samples = []
    for sample in data.samples:
        prompt = _passage(sample.get("prompt"), sample.get("prompt_toxicity"))
        texts = [
            (name, [_passage(text.get("text"), text.get("toxicity")) for text in found])
            for name in data.methods
            if (found := _continuations(sample, name))
        ]
        samples.append(
            {
                "prompt": _masked(prompt, toxic),
                "continuations": [
                    (name, [_masked(text, toxic) for text in found]) for name, found in texts
                ],
            }
        )
    return samples


def _continuations(sample: Mapping[str, Any], method: str) -> list[Mapping[str, Any]]:
    """A method's continuations of a prompt: one object, or a list of them."""
    value = mapping(sample.get("continuations")).get(method)
    return [value] if isinstance(value, Mapping) and value else mappings(value)


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text of a model or of a file.

    Attributes:
      text: as it is.
      toxicity: its score, or None.
      masked: whether it stays hidden until somebody asks for it.
      label: what the button that shows it says.
    """

    text: str
    toxicity: float | None
    masked: bool
    label: str


def _passage(text: Any, toxicity: Any) -> Passage:
    """A text that is masked where it is toxic, and where nobody has scored it."""
    shown, score = "" if text is None else str(text), number(toxicity)
    masked = bool(shown.strip()) and (score is None or score >= TOXIC)
    label = "Show text without a rating" if score is None else f"Show text rated {score:.2f}"
    return Passage(shown, score, masked, label)


def _masked(passage: Passage, toxic: Collection[str]) -> Passage:
    """Also masks what another scorer on the page finds toxic: to hide it once is not to hide it."""
    if passage.masked or passage.text not in toxic:
        return passage
    label = "Show text that another scorer rates toxic"
    return dataclasses.replace(passage, masked=True, label=label)


def _toxic_to_others(data: Results, several: Sequence[Results]) -> set[str]:
    return {text for other in several if other is not data for text in _toxic_texts(other)}


def _toxic_texts(data: Results) -> set[str]:
    texts = set()
    for sample in data.samples:
        found = [_passage(sample.get("prompt"), sample.get("prompt_toxicity"))]
        for method in data.methods:
            for text in _continuations(sample, method):
                found.append(_passage(text.get("text"), text.get("toxicity")))
        texts |= {passage.text for passage in found if passage.masked}
    return texts


# --- provenance -------------------------------------------------------------------------------


def _filters(data: Results) -> list[tuple[str, str]]:
    """Which scorer chose each method's training texts."""
    found = []
    for method, scorer in mapping(data.provenance.get("filtered_by")).items():
        if not mapping(scorer):
            found.append((method, "not filtered"))
            continue
        words = f"{scorer.get('name')} ({scorer.get('fingerprint')})"
        found.append((method, words + ", the same scorer" * data.filtered_by_same(method)))
    return found


def _provenance(data: Results) -> dict[str, Any]:
    """Everything that the results say of where they come from, and how long it took."""
    shown = {k: v for k, v in data.provenance.items() if k not in ("command", "filtered_by")}
    if data.times:
        total = sum(data.times.values())
        shown["times"] = {
            **{step: duration(seconds) for step, seconds in data.times.items()},
            "all steps": duration(total),
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
