"""Verb `panel`: what detoxification does to the text of groups, and what a scorer makes of it.

Models that were made polite read the dialects of minorities, and text that names them, worse than
before, and more so than other text (Xu et al., "Detoxifying Language Models Risks Marginalizing
Minority Voices", NAACL 2021; Welbl et al., "Challenges in Detoxifying Language Models", 2021).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import atomic_files, output_settings, outputs, preview, records
from detox_jax.checkpoints.identity import text_rules, with_weights
from detox_jax.checkpoints.model_dir import read_spec, resolve
from detox_jax.errors import UserError
from detox_jax.evaluation import joined, statistics
from detox_jax.evaluation.rows import Scorer
from detox_jax.evaluation.statistics import UNMEASURED, Interval
from detox_jax.evaluation.typed_json import from_json, read_json, to_json
from detox_jax.kinds import Count, Draws, Seed
from detox_jax.preview import Step
from detox_jax.records import TOXIC
from detox_jax.report.table_formats import csv_lines, markdown_rows
from detox_jax.zero_shot.reference import Reference

PANEL_FILE = "panel.json"
FREE = ("output_dir", "batch_size", "mesh_shape", "check_only")  # see `output_settings`


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a model reads a group's texts.

    Attributes:
      method: the model's name.
      group: of texts.
      perplexity: of a token, each text read from its start token to its end.
      change: over the baseline's, 1.1 is a tenth more; of the same texts, resampled together.
      disparity: the change over the reference group's; above 1 this group lost more. Resampled in
        pairs where the groups' texts have the same ids.
    """

    method: str
    group: str
    perplexity: Interval
    change: Interval
    disparity: Interval


@dataclasses.dataclass(frozen=True)
class Group:
    """A group's texts.

    Attributes:
      group: its name.
      documents: how many texts were read.
      tokens: of them.
      too_long: texts beyond the context, which are left out.
      false_positives: share of the texts that the scorer calls toxic (>= 0.5), as none is;
        unmeasured where they carry no scores, or were chosen by them.
      scorer: whose.
    """

    group: str
    documents: int
    tokens: int
    too_long: int
    false_positives: Interval
    scorer: Scorer | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """What `panel.json` holds.

    Attributes:
      baseline: the method that changes are over.
      reference: the group that disparities are over.
      groups: the texts.
      readings: by method and group.
      settings: of the verb.
    """

    baseline: str
    reference: str
    groups: tuple[Group, ...]
    readings: tuple[Reading, ...]
    settings: Mapping[str, Any]


def panel(
    methods: Mapping[str, str],
    groups: Mapping[str, str],
    output_dir: str,
    baseline: str = "base",
    reference: str | None = None,
    batch_size: Count = 64,
    mesh_shape: Mapping[str, int] | None = None,
    bootstrap_draws: Draws = 10_000,
    random_seed: Seed = 0,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes `panel.json`, `panel.md` and `panel.csv`: perplexities before and after, by group.

    Args:
      methods: checkpoints by name, all of one vocabulary.
      groups: nontoxic documents by the name of their group. Two groups whose documents have the
        same ids are pairs that mean the same. What `score` wrote of them also says how often the
        scorer is wrong.
      output_dir: where the panel goes.
      baseline: the method before.
      reference: the group that the others are compared with; the first where None.
      batch_size: texts at once.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      bootstrap_draws: resamples of the texts behind each 95 % interval.
      random_seed: of the resampling.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for names that do not fit, groups without text, models of other vocabularies.
    """
    arguments = locals()
    reference = _checked_names(methods, groups, baseline, reference)

    def decides() -> dict[str, Any]:
        described = {name: records.describe_input(path) for name, path in groups.items()}
        decided = output_settings.of_verb(
            panel,
            arguments,
            free=FREE,
            instead={
                "methods": {
                    "methods": {name: with_weights(path) for name, path in methods.items()}
                },
                "groups": {"groups": described},
            },
        )
        decided[output_settings.REFERENCE_GROUP] = reference
        for path in methods.values():
            decided |= text_rules(path)
        return decided

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "panel", decides):
            return [Step("panel", output_dir)]
        return [_preview(methods, groups, output_dir, mesh_shape)]
    settings = decides()
    output = outputs.OutputDirectory(output_dir, "panel", settings)
    if not output.complete:
        texts = {name: list(records.read_documents(path)) for name, path in groups.items()}
        read = _read_all(methods, texts, batch_size, mesh_shape)
        names = [baseline, *(name for name in methods if name != baseline)]
        figures = _Figures(read, texts, baseline, reference, bootstrap_draws, random_seed)
        result = Panel(
            baseline,
            reference,
            tuple(_group(name, texts[name], groups[name], read[baseline, name]) for name in groups),
            tuple(figures.reading(method, group) for method in names for group in groups),
            settings,
        )
        atomic_files.write_json(output.path / PANEL_FILE, atomic_files.finite(to_json(result)))
        atomic_files.write_bytes(output.path / "panel.md", markdown(result).encode())
        atomic_files.write_bytes(output.path / "panel.csv", csv_table(result).encode())
        output.finish(methods=len(methods), groups=len(groups))
    file = output.path / PANEL_FILE
    print(markdown(from_json(Panel, read_json(file), str(file))))
    return None


def _checked_names(methods: Any, groups: Any, baseline: str, reference: str | None) -> str:
    """The reference group's name."""
    for setting, given in (("METHODS", methods), ("GROUPS", groups)):
        if not isinstance(given, Mapping) or not given:
            raise UserError(f"{setting} is {given!r}; give paths by name: {{'name': 'DIR'}}")
        for name, path in given.items():
            if not isinstance(name, str) or not isinstance(path, str):
                raise UserError(f"{setting}: {name!r} is {path!r}; expected a path as text")
        joined.check_apart(setting, given)
    joined.check_baseline(methods, baseline)
    reference = next(iter(groups)) if reference is None else reference
    if reference not in groups:
        raise UserError(f"REFERENCE {reference!r} is none of the groups: {', '.join(groups)}")
    return reference


def _preview(
    methods: Mapping[str, str],
    groups: Mapping[str, str],
    output_dir: str,
    mesh_shape: Mapping[str, int] | None,
) -> Step:
    vocabularies: dict[str, str] = {}
    for method, path in methods.items():
        Reference(path, mesh_shape=mesh_shape).check()
        vocabularies[method] = read_spec(resolve(path)[0]).vocabulary
    _require_one(vocabularies)
    counts = {f"texts of {name}": _count(name, path) for name, path in groups.items()}
    return Step("panel", output_dir, {"methods": len(methods), **counts})


def _require_one(vocabularies: Mapping[str, str]) -> None:
    first, *others = vocabularies
    for method in others:
        if vocabularies[method] != vocabularies[first]:
            raise UserError(
                f"METHODS: {method!r} has another vocabulary than {first!r}; a "
                "perplexity by token compares models of one vocabulary"
            )


def _count(name: str, path: str) -> int:
    number = sum(1 for _ in records.read_documents(path))
    if not number:
        raise UserError(f"GROUPS: {name!r} has no text: {path} holds no document")
    return number


# --- figures --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Texts:
    """A group's texts under a model; one value a text, NaN where it is beyond the context.

    Attributes:
      nll_N: negative log-likelihood in nats.
      tokens_N: how many tokens that is of.
    """

    nll_N: np.ndarray
    tokens_N: np.ndarray


def _read_all(
    methods: Mapping[str, str],
    texts: Mapping[str, Sequence[records.Document]],
    batch_size: int,
    mesh_shape: Mapping[str, int] | None,
) -> dict[tuple[str, str], _Texts]:
    """Every group under every model, one model in memory at a time."""
    read: dict[tuple[str, str], _Texts] = {}
    vocabularies: dict[str, str] = {}
    for method, path in methods.items():
        model = Reference(
            path, batch_size=batch_size, mesh_shape=mesh_shape, counts_spare_rows=False
        ).load()
        vocabularies[method] = model.vocabulary.fingerprint
        _require_one(vocabularies)
        for group, documents in texts.items():
            found = model.likelihoods([("", document.text, True) for document in documents])
            pairs = [(math.nan, math.nan) if x is None else (-x[0], float(x[1])) for x in found]
            values = np.asarray(pairs, np.float64)
            read[method, group] = _Texts(values[:, 0], values[:, 1])
            if np.isnan(values).all():
                raise UserError(f"GROUPS: every text of {group!r} is beyond the model's context")
    return read


def _group(name: str, documents: Sequence[records.Document], path: str, read: _Texts) -> Group:
    scores = np.asarray([math.nan if d.toxicity is None else d.toxicity for d in documents])
    toxic = np.where(np.isnan(scores), np.nan, scores >= TOXIC)
    _, beside = records.manifest_of(path) or ("", {})
    scorer = beside.get("scorer")
    is_chosen = beside.get("filtered_by") is not None
    return Group(
        name,
        documents=int(np.sum(~np.isnan(read.nll_N))),
        tokens=int(np.nansum(read.tokens_N)),
        too_long=int(np.sum(np.isnan(read.nll_N))),
        false_positives=UNMEASURED if is_chosen else statistics.share(toxic),
        scorer=from_json(Scorer, scorer, path, "scorer") if scorer else None,
    )


@dataclasses.dataclass(frozen=True)
class _Figures:
    """Makes the readings; see `panel`."""

    read: Mapping[tuple[str, str], _Texts]
    texts: Mapping[str, Sequence[records.Document]]
    baseline: str
    reference: str
    draws: int
    seed: int

    def reading(self, method: str, group: str) -> Reading:
        """How a method reads a group."""
        now = self.read[method, group]
        perplexity = self._ratio(now.nll_N, now.tokens_N)
        if method == self.baseline:
            return Reading(method, group, perplexity, UNMEASURED, UNMEASURED)
        change = self._ratio(*self._rise(method, group))
        disparity = UNMEASURED if group == self.reference else self._disparity(method, group)
        return Reading(method, group, perplexity, change, disparity)

    def _ratio(self, nats_N: np.ndarray, tokens_N: np.ndarray) -> Interval:
        return _exp(statistics.bootstrap_ratio(nats_N, tokens_N, self.draws, self.seed))

    def _rise(self, method: str, group: str) -> tuple[np.ndarray, np.ndarray]:
        """By how many nats a text rises over the baseline, and its tokens, in the order of ids."""
        order = np.argsort(self._ids(group), kind="stable")
        now, before = self.read[method, group], self.read[self.baseline, group]
        return (now.nll_N - before.nll_N)[order], now.tokens_N[order]

    def _ids(self, group: str) -> list[str]:
        return [document.id for document in self.texts[group]]

    def _disparity(self, method: str, group: str) -> Interval:
        return _exp(
            statistics.bootstrap_ratio_difference(
                self._rise(method, group),
                self._rise(method, self.reference),
                is_paired=sorted(self._ids(group)) == sorted(self._ids(self.reference)),
                draws=self.draws,
                seed=self.seed,
            )
        )


def _exp(nats: Interval) -> Interval:
    return Interval(*(math.exp(x) for x in (nats.value, nats.low, nats.high)))


# --- tables ---------------------------------------------------------------------------------------


def markdown(result: Panel) -> str:
    """Both tables, and what their columns mean."""
    readings = [
        {
            "group": reading.group,
            "method": reading.method,
            "perplexity": reading.perplexity.text("–"),
            f"change over {result.baseline}": reading.change.text("–"),
            f"over that of {result.reference}": reading.disparity.text("–"),
        }
        for reading in sorted(result.readings, key=lambda r: _place(result, r.group))
    ]
    groups = [
        {
            "group": group.group,
            "texts": str(group.documents),
            "tokens": str(group.tokens),
            "too long": str(group.too_long),
            "false positives": group.false_positives.text("–"),
            "scorer": "–" if group.scorer is None else group.scorer.fingerprint,
        }
        for group in result.groups
    ]
    legend = (
        f"Change: perplexity of the same texts over that of {result.baseline}. The last column is "
        f"above 1 where a group lost more than {result.reference}; an interval that holds 1 shows "
        f"nothing. False positives: share of these texts that the scorer puts at {TOXIC} or more; "
        "of texts that `filter` chose by their scores there are none to be told."
    )
    return f"{markdown_rows(readings)}\n\n{markdown_rows(groups)}\n\n{legend}\n"


def _place(result: Panel, group: str) -> int:
    return [each.group for each in result.groups].index(group)


def csv_table(result: Panel) -> str:
    """Every figure unrounded, one line for each method and group."""
    lines = []
    for reading in result.readings:
        line: dict[str, Any] = {"method": reading.method, "group": reading.group}
        for name in ("perplexity", "change", "disparity"):
            interval: Interval = getattr(reading, name)
            for end, value in dataclasses.asdict(interval).items():
                line[f"{name}_{end}"] = value if math.isfinite(value) else ""
        lines.append(line)
    return csv_lines(lines)
