"""Verb `compare`: what several scorers say of the same texts, and of the methods that wrote them.

`detox-jax score --compare` is another name for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from detox_jax import atomic_files, output_settings, outputs, preview, records, terminal
from detox_jax.comparison import agreement, drawing, rankings, tables
from detox_jax.comparison.comparison import Comparison, Pair, Provenance
from detox_jax.errors import UserError
from detox_jax.evaluation import decoding, joined, scored_texts
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.typed_json import from_json, read_json, to_json
from detox_jax.kinds import Draws, Seed
from detox_jax.preview import Step
from detox_jax.report import figures

COMPARISON_FILE = "comparison.json"


FREE = ("output_dir", "check_only")  # see `output_settings`


def compare(
    scores: Mapping[str, str | Mapping[str, str]],
    output_dir: str,
    bootstrap_draws: Draws = 1000,
    random_seed: Seed = 0,
    check_only: bool = False,
) -> list[Step] | None:
    """Compares scorers on the same documents, or the same continuations of one or several methods.

    Writes `comparison.json`, unrounded; `comparison.md`, for people; `agreement.csv`, a line for
    each two scorers; `agreement.png` and `.svg`, how the scores of one read as the other's; and of
    several methods `ranking.csv`, `ranking.png` and `.svg`. Records are joined by id, and their
    texts must be equal. A text that a scorer has no score for is counted and left out, of rankings
    where any scorer has none. Methods may be decoded in ways of their own, which is said, but for
    the limit of tokens, and are cut to equally many continuations.

    Args:
      scores: what `score` wrote with each scorer, by a name of the user's choice; of several
        methods, that for each by its name. The first scorer is the one that others are read as.
      output_dir: where the comparison goes.
      bootstrap_draws: resamples of the records behind each 95 % interval.
      random_seed: of the resampling.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for fewer than two scorers, one that stands twice, different texts, or methods of
        different prompts or limits of tokens.
    """
    arguments = locals()
    sources = _by_scorer(scores)

    def decides() -> dict[str, Any]:
        described = {
            scorer: {name: records.describe_input(path) for name, path in paths.items()}
            for scorer, paths in sources.items()
        }
        # JSON's objects have no order, and the first scorer is the one that others are read as.
        order = {"scorers": [*sources], "methods": [*next(iter(sources.values()))]}
        return output_settings.of_verb(
            compare,
            arguments,
            free=FREE,
            instead={"scores": {"scores": described, output_settings.SCORES_ORDER: order}},
        )

    if check_only:
        preview.checked_output(output_dir)
        outputs.check(output_dir, "compare", decides)
        scored, _ = _read(sources)
        texts = len(_flat(next(iter(scored.values())))[0])
        return [Step("compare", output_dir, {"scorers": len(sources), "texts": texts})]
    settings = decides()
    output = outputs.OutputDirectory(output_dir, "compare", settings)
    if not output.complete:
        scored, notes = _read(sources)
        provenance = Provenance(settings, output.manifest["versions"])
        comparison = _comparison(scored, bootstrap_draws, random_seed, provenance, notes)
        points = {scorer: _flat(methods)[0] for scorer, methods in scored.items()}
        files = {**tables.files(comparison), **_pictures(comparison, points)}
        for name, content in files.items():
            atomic_files.write_bytes(output.path / name, content)
        atomic_files.write_json(
            output.path / COMPARISON_FILE, atomic_files.finite(to_json(comparison))
        )
        texts = comparison.pairs[0].compared.texts
        output.finish(scorers=to_json(comparison.scorers), texts=texts)
    file = output.path / COMPARISON_FILE
    _print(from_json(Comparison, read_json(file), str(file)))
    print(f"{output.path / 'comparison.md'}: tables; agreement.png beside it")
    return None


def _by_scorer(scores: Any) -> dict[str, dict[str, str]]:
    """Where the scores of each scorer are, by method; an only method needs no name."""
    if not isinstance(scores, Mapping) or not scores:
        raise UserError(f"SCORES is {scores!r}; give {{'SCORER': 'DIR', 'OTHER': 'DIR'}}")
    methods = {"texts": scores} if all(isinstance(x, str) for x in scores.values()) else scores
    found: dict[str, dict[str, str]] = {}
    for name, paths in methods.items():
        if not isinstance(paths, Mapping) or not all(isinstance(x, str) for x in paths.values()):
            raise UserError(f"SCORES: {name!r} is {paths!r}; expected {{'SCORER': 'DIR', ...}}")
        for scorer, path in paths.items():
            found.setdefault(scorer, {})[name] = path
    for scorer, places in found.items():
        if missing := methods.keys() - places.keys():
            raise UserError(f"SCORES: {min(missing)!r} has no scores of {scorer!r}")
    if len(found) < 2:
        raise UserError(f"SCORES names {len(found)} scorer; a comparison takes two or more")
    for places in found.values():
        joined.check_apart("SCORES", places)
    return found


def _read(
    sources: Mapping[str, Mapping[str, str]],
) -> tuple[dict[str, dict[str, Scored]], tuple[str, ...]]:
    """The methods by scorer, and a sentence for what was cut, differs or could not be checked."""
    scored, notes = {}, {}
    for scorer, paths in sources.items():
        methods = {name: _read_one(name, path) for name, path in paths.items()}
        first = next(iter(methods))
        # Scorers are what compares: they read the same texts, whatever these were drawn with.
        own = dict.fromkeys(methods, decoding.MAY_DIFFER)
        found = joined.join(methods, first, min_coverage=0.0, own_decoding=own)
        scored[scorer] = found.methods
        if len(methods) > 1:
            decodings = {name: method.decoding for name, method in methods.items()}
            notes |= dict.fromkeys((*found.notes, *decoding.said(decodings, first)))
    return joined.align(scored), tuple(notes)


def _read_one(name: str, path: str) -> Scored:
    """What `score` wrote; a document is taken for the one continuation of an empty prompt."""
    found = scored_texts.of_prompts(name, map(_as_prompt, records.read_records(path)), path)
    if not found.coverage:
        raise UserError(f"{path}: no text has a score; give what `score` wrote")
    return found


def _as_prompt(record: records.Record) -> records.Prompt:
    if isinstance(record, records.Prompt):
        return record
    text = records.Generation(record.text, record.toxicity)
    return records.Prompt(record.id, "", generations=(text,))


def _flat(methods: Mapping[str, Scored]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of all texts, and the number of the record that each belongs to; both [N]."""
    scores, record = [], []
    for method in methods.values():
        exists_PK = np.arange(method.samples_per_prompt) < method.counts_P[:, None]
        scores.append(method.scores_PK[exists_PK])
        # Methods continue the same prompts, which are what is resampled.
        record.append(np.nonzero(exists_PK)[0])
    return np.concatenate(scores), np.concatenate(record)


def _comparison(
    scored: Mapping[str, Mapping[str, Scored]],
    draws: int,
    seed: int,
    provenance: Provenance,
    notes: tuple[str, ...],
) -> Comparison:
    flat = {scorer: _flat(methods) for scorer, methods in scored.items()}
    methods = next(iter(scored.values()))
    return Comparison(
        scorers={name: next(iter(x.values())).scorer for name, x in scored.items()},
        pairs=tuple(_pair(a, b, flat, draws, seed) for a, b in itertools.combinations(scored, 2)),
        methods=tuple(methods) if len(methods) > 1 else (),
        rankings=rankings.rank(scored, draws, seed) if len(methods) > 1 else {},
        provenance=provenance,
        notes=notes,
        coverage=rankings.coverage(scored) if len(methods) > 1 else (),
    )


def _pair(
    a: str, b: str, flat: Mapping[str, tuple[np.ndarray, np.ndarray]], draws: int, seed: int
) -> Pair:
    with terminal.stage(f"{a} beside {b}, {draws:,} resamples"):
        return Pair(a, b, agreement.compare(flat[a][0], *flat[b], draws, seed))


def _pictures(comparison: Comparison, points: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    pictures = {"agreement": drawing.agreement(comparison.pairs, points)}
    if comparison.rankings:
        pictures["ranking"] = drawing.ranking(comparison)
    return {
        f"{name}.{kind}": content
        for name, figure in pictures.items()
        for kind, content in (
            ("svg", figures.svg(figure, name).encode()),
            ("png", figures.png(figure)),
        )
    }


def _print(comparison: Comparison) -> None:
    made = tables.tables(comparison)
    for title, rows in made:
        table = Table(title=title)
        for column in rows[0]:
            table.add_column(column)
        for row in rows:
            table.add_row(*row.values())
        Console(width=140).print(table)
    for sentence in (*tables.summary(comparison), *tables.mark_said(made), *comparison.notes):
        print(sentence)
