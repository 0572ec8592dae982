"""Verb `evaluate`: toxicity and quality of several methods on the same prompts, side by side."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, output_settings, outputs, preview, records, segmenters, terminal
from detox_jax.checkpoints import places
from detox_jax.checkpoints.identity import with_weights
from detox_jax.errors import UserError
from detox_jax.evaluation import (
    accuracy,
    console,
    decoding,
    figures,
    joined,
    judges,
    notes,
    picture_data,
    resampling,
    results_files,
    scored_texts,
    soundness,
)
from detox_jax.evaluation.metric_names import Accuracy
from detox_jax.evaluation.perplexity_cache import (
    HeldoutPerplexity,
    PerplexityReader,
    describe_steering,
)
from detox_jax.evaluation.results import EvaluatedBy, Provenance, Results
from detox_jax.evaluation.results_files import RESULTS_FILE
from detox_jax.evaluation.rows import Quality, Row, Scorer
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.statistics import Interval
from detox_jax.evaluation.typed_json import from_json
from detox_jax.kinds import Count, Draws, Seed, Share, is_file_name
from detox_jax.output_settings import NOT_YET
from detox_jax.preview import Step
from detox_jax.records import TOXIC
from detox_jax.segmenters import Segmenter
from detox_jax.tags import Tags

STATISTICS = (
    "percentile bootstrap over prompts, 95 %; of shares Wilson's interval, continuations clustered "
    "by prompt; sign-flip permutation p-values, Holm-adjusted over all differences of toxicity in "
    f"a split, and over those of accuracies; resamples of {resampling.COUNTED_FROM:,} prompts and "
    "more drawn as counts"
)


# See `output_settings`.
FREE = ("output_dir", "batch_size", "mesh_shape", "power", "command", "check_only")


# In this file, since gin files say `evaluate.Method`, and so do the lines of calls from Python.
@dataclasses.dataclass(frozen=True)
class Method:
    """One model's continuations.

    Attributes:
      generations: `score`'s output for them; of several scorers `{"name": output, ...}`.
      checkpoint_path: the model, for perplexity and training curves.
      corpus: what it was adapted to, for the table.
      adaptation: how, for the table.
      filtered_by: the scorer that filtered its corpus, `{"name", "fingerprint"}`, if one did.
      decided_by: scorers by whose scores it was made otherwise, such as by tags, by vectors that
        steer it or by a probe, each like that.
      choices: what `choices` wrote of it, for zero-shot accuracy.
      own_decoding: names of the settings of decoding in which the method is meant to differ from
        the baseline, such as `sampling`; all others must be equal. Never the limit of tokens.
      steering: the methods that its continuations were generated under, as `generate` took them;
        held-out text is read under them too. Without them a steered model has no perplexity.
      behind: tags with which the model was trained: held-out text is read behind the good one,
        which is not scored.
    """

    generations: str | Mapping[str, str]
    checkpoint_path: str | None = None
    corpus: str | None = None
    adaptation: str | None = None
    filtered_by: Mapping[str, str] | None = None
    choices: str | None = None
    own_decoding: Sequence[str] = ()
    steering: Sequence[Any] = ()
    behind: Tags | None = None
    decided_by: Sequence[Mapping[str, str]] = ()


Evaluated = Method  # its earlier name, for Python


def evaluate(
    methods: Mapping[str, Method | str | Mapping[str, str]],
    output_dir: str,
    baseline: str = "base",
    heldout: str | None = None,
    reference: str | None = None,
    batch_size: Count = 32,
    mesh_shape: Mapping[str, int] | None = None,
    min_coverage: Share = 0.95,
    bootstrap_draws: Draws = 10_000,
    random_seed: Seed = 0,
    power: bool = False,
    group_by: Sequence[str] = (),
    word_segmenter: Segmenter | None = None,
    command: str | None = None,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes `results.json`: every metric with its interval, and every difference to the baseline.

    Of several scorers each has a directory of its own in `output_dir`, since their scores do not
    compare; perplexity and the quality of the texts, which no scorer changes, are computed once.
    Methods are joined by prompt id, must be of the same prompts, decoded alike, and are cut to
    equally many continuations of each (`joined.join`). A prompt is toxic when its own score is at
    least 0.5, nontoxic below; one without a score is in neither split.

    Args:
      methods: scored continuations by name; what is no `Method` is the generations of one.
      output_dir: where `results.json` and the files for the report's pictures go.
      baseline: the method that the others are compared with.
      heldout: documents for perplexity, of methods with a checkpoint.
      reference: checkpoint under which continuations are read for their perplexity.
      batch_size: of the perplexity.
      mesh_shape: size of the mesh axes for it; all devices on `data` where None.
      min_coverage: the smallest share of continuations that must have a score.
      bootstrap_draws: resamples of the prompts behind each 95 % interval.
      random_seed: of the resampling.
      power: also print how many prompts it takes to see a difference.
      group_by: fields of the records, such as `group` or `language`, several joined by `+`: the
        toxicity of each method is also told by their values, with the largest gap (`groups`).
      word_segmenter: tells the words of scripts without spaces (`segmenters`), wherever words are
        counted; white space alone where None.
      command: what repeats the run, for the provenance; `evaluate` with its own configuration
        where None.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if methods have other prompts, another decoding or another scorer, or too few
        scores; if scorers have other texts; for a method's name that is no file's.
    """
    arguments = locals()
    named = {k: v if isinstance(v, Method) else Method(v) for k, v in methods.items()}
    generations = _checked(named, baseline, output_dir, group_by, mesh_shape)

    def has_results() -> bool:
        return _has_results(output_dir)

    if check_only:
        preview.checked_output(output_dir)
        known = functools.partial(_settings, arguments, named)
        if outputs.check(output_dir, "evaluate", known, has_results):
            return [Step("evaluate", output_dir)]
        return [_preview(output_dir, generations, named, heldout, reference)]
    filtered_by = {name: _filtered_by(name, method) for name, method in named.items()}
    decided_by = {name: _decided_by(name, method) for name, method in named.items()}
    settings = _settings(arguments, named)
    output = outputs.OutputDirectory(output_dir, "evaluate", settings, has_results)

    if not output.complete:
        # --- the scores, and what no scorer changes ------------------------------------------
        own_decoding = {name: method.own_decoding for name, method in named.items()}
        judged, joining = judges.read(
            generations, baseline, min_coverage, own_decoding, group_by, word_segmenter
        )
        texts = next(iter(judged.values()))
        reader = PerplexityReader(
            output.path, heldout, reference, batch_size, mesh_shape, word_segmenter
        )
        quality = _quality_of_all(named, texts, next(iter(generations.values())), reader)
        draw = figures.Draws(bootstrap_draws, random_seed)
        answers = accuracy.read({name: method.choices for name, method in named.items()})
        splits = scored_texts.splits(texts[baseline].prompts)
        paired_answers = accuracy.paired(answers, baseline, splits, draw.draws, draw.seed)
        chosen_by = {name: of.chosen_by for name, of in texts.items() if of.chosen_by}

        # --- every metric and difference, for each scorer ------------------------------------
        for scorer, scored in judged.items():
            judge = scored[baseline].scorer
            rows = _rows_of_all(named, scored, scorer, draw, quality, answers)
            with terminal.stage("resample the differences"):
                compared = (*figures.paired(scored, baseline, draw), *paired_answers)
            results = Results(
                rows=soundness.judged(
                    rows, baseline, [name for name in chosen_by if chosen_by[name] == judge]
                ),
                paired=compared,
                power=tuple(figures.power(scored, baseline)),
                **figures.by_group(scored, group_by, draw),
                provenance=Provenance(
                    evaluated_by=EvaluatedBy(judge, scored[baseline].reliability),
                    filtered_by=judges.named_beside_rows(filtered_by, chosen_by, judge, decided_by),
                    statistics=STATISTICS,
                    notes=(
                        *joining[scorer],
                        *_notes(named, scored, quality, reader, answers),
                    ),
                    decoded_with=_decoded_with(scored),
                    settings=settings,
                    versions=output.manifest["versions"],
                    command=command or f"detox-jax evaluate --gin_file={output_dir}/config.gin",
                ),
            )
            paths = {name: method.checkpoint_path for name, method in named.items()}
            place = output.path / scorer
            atomic_files.make_subdirectory(place)
            picture_data.write(place, scored, paths, generations[scorer])
            results_files.write(place / RESULTS_FILE, results)
        named_scorers = {} if "" in judged else {"scorers": [*judged]}
        counts = {"methods": len(named), "prompts": len(texts[baseline].prompts)}
        output.finish(**counts, **named_scorers, **_steering_not_given(named, texts))

    # --- what a reader sees ------------------------------------------------------------------
    for scorer in generations:
        results = results_files.read(output.path / scorer / RESULTS_FILE)
        console.print_table(results)
        if power:
            console.print_power(results)
    return None


# --- what is checked before any work ------------------------------------------------------------


def _checked(
    named: Mapping[str, Method],
    baseline: str,
    output_dir: str,
    group_by: Sequence[str],
    mesh_shape: Mapping[str, int] | None,
) -> dict[str, dict[str, str]]:
    """Each scorer's output for each method, once the settings have passed."""
    _check_names(named)
    _check_fields(group_by)
    if mesh_shape is not None:
        from detox_jax.parallel import mesh  # loads JAX: only where it is used

        mesh.create_mesh(mesh_shape)
    joined.check_some(named)
    joined.check_baseline(named, baseline)
    decoding.check_own({name: method.own_decoding for name, method in named.items()})
    generations = judges.by_scorer({name: method.generations for name, method in named.items()})
    for paths in generations.values():
        joined.check_apart("METHODS", paths)
    if group_by and not preview.is_done(output_dir):
        paths = next(iter(generations.values())).values()
        if not any(isinstance(path, preview.Coming) for path in paths):
            scored_texts.check_fields(paths, group_by)
    return generations


def _preview(
    output_dir: str,
    generations: Mapping[str, Mapping[str, str]],
    named: Mapping[str, Method],
    heldout: str | None,
    reference: str | None,
) -> Step:
    """What there is to evaluate; of several scorers the texts are the same."""
    given = [reference, *(method.checkpoint_path for method in named.values())]
    for path in given:
        if path is not None and not isinstance(path, preview.Coming):
            places.require(path)
    for method in named.values():
        if not isinstance(method.choices, preview.Coming):
            accuracy.describe(method.choices)
        if method.steering:
            from detox_jax.generation.steering import steering  # loads the model code

            steering.check(method.steering)
    counts = {"methods": len(named)}
    if heldout is not None and not isinstance(heldout, preview.Coming):
        has_text = [bool(held.text.strip()) for held in records.read_documents(heldout)]
        counts["held-out documents"] = len(has_text)
        if not any(has_text):
            what = "text" if has_text else "document"
            raise UserError(f"{heldout}: holds no {what}; HELDOUT needs some")
    paths = [path for of in generations.values() for path in of.values()]
    read = [path for path in paths if not isinstance(path, preview.Coming)]
    numbers = []
    for path in read:
        limit = preview.to_check(path, records.resolve_files(path))
        number = sum(1 for _ in itertools.islice(records.read_prompts(path), limit))
        numbers += [number] if limit is None else []
    if numbers:
        counts["prompts"] = max(numbers)
    return Step("evaluate", output_dir, counts)


def _check_names(methods: Iterable[str]) -> None:
    """A method's name is part of a file's."""
    for name in methods:
        if not is_file_name(name):
            raise UserError(
                f"method {name!r}: its name becomes part of a file's name; give one without "
                "slashes, control characters and a dot in front"
            )


def _check_fields(group_by: Sequence[str]) -> None:
    if not all(all(by.split("+")) for by in group_by):
        raise UserError(
            f"GROUP_BY is {[*group_by]}; give fields, several joined by a single +: 'domain+group'"
        )


def _has_results(output_dir: str) -> bool:
    """Whether figures are there, also by other scorers.

    A perplexity that is kept names what it was computed from.
    """
    path = epath.Path(output_dir)
    return (path / RESULTS_FILE).exists() or any(path.glob(f"*/{RESULTS_FILE}"))


def _settings(arguments: Mapping[str, Any], named: Mapping[str, Method]) -> dict[str, Any]:
    """What decides the figures."""
    heldout, reference, group_by = (arguments[n] for n in ("heldout", "reference", "group_by"))
    settings = output_settings.of_verb(
        evaluate,
        arguments,
        free=FREE,
        instead={
            "methods": {"methods": {name: _describe_method(m) for name, m in named.items()}},
            "heldout": {"heldout": heldout and records.describe_input(heldout)},
            "reference": {"reference": reference and with_weights(reference)},
            # Without any, so that older outputs go on.
            "group_by": {"group_by": [*group_by]} if group_by else {},
            "word_segmenter": segmenters.settings(arguments["word_segmenter"]),
        },
    )
    settings["threshold"] = {"operator": ">=", "value": TOXIC}
    return settings


def _describe_method(method: Method) -> dict[str, Any]:
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    fields["own_decoding"] = sorted(method.own_decoding)
    del fields["checkpoint_path"]
    if method.behind is None:  # So that older outputs go on.
        del fields["behind"]
    else:
        fields["behind"] = method.behind.named
    if not method.decided_by:  # Likewise.
        del fields["decided_by"]
    else:
        fields["decided_by"] = [dict(by) for by in method.decided_by]
    fields["checkpoint"] = method.checkpoint_path and with_weights(method.checkpoint_path)
    fields["choices"] = accuracy.describe(method.choices)
    given = method.generations
    del fields["steering"]
    first = given if isinstance(given, str) else next(iter(given.values()))
    if isinstance(first, preview.Coming):
        # Files beside it say them.
        fields |= dict.fromkeys(("steering", "filtered_by", "decided_by"), NOT_YET)
    elif method.steering:
        steered_by = scored_texts.steered_by(scored_texts.decoding_of(first))
        fields["steering"] = describe_steering(method.steering, steered_by)
    if isinstance(given, str):
        return {**fields, "generations": records.describe_input(given)}
    described = {scorer: records.describe_input(path) for scorer, path in given.items()}
    return {**fields, "generations": described}


def _steering_not_given(
    methods: Mapping[str, Method], texts: Mapping[str, Scored]
) -> dict[str, list[str]]:
    """The steered rows whose methods nobody gave, for the manifest; nothing without such."""
    names = [n for n, of in texts.items() if of.is_steered and not methods[n].steering]
    return {output_settings.STEERING_NOT_GIVEN: names} if names else {}


def _filtered_by(name: str, method: Method) -> Scorer | None:
    if method.filtered_by is None:
        return None
    return from_json(Scorer, method.filtered_by, f"METHODS: {name}", "filtered_by")


def _decided_by(name: str, method: Method) -> list[Scorer]:
    where = f"METHODS: {name}"
    return [from_json(Scorer, by, where, "decided_by") for by in method.decided_by]


# --- figures ----------------------------------------------------------------------------------


def _quality_of_all(
    methods: Mapping[str, Method],
    scored: Mapping[str, Scored],
    generations: Mapping[str, str],
    reader: PerplexityReader,
) -> dict[tuple[str, str], Quality]:
    """What no scorer changes, by method and split: perplexities and the quality of the texts."""
    quality = {}
    for name, method in methods.items():
        texts, checkpoint = scored[name], method.checkpoint_path
        on_heldout = _on_heldout(name, method, texts, reader)
        of_texts = reader.of_continuations(name, checkpoint, generations[name], texts)
        with terminal.stage(f"quality of the texts of {name}"):
            of_prompts = scored_texts.quality(texts, generations[name], reader.segmenter)
        for split, mask in scored_texts.splits(texts.prompts).items():
            quality[name, split] = figures.quality(of_prompts.rows(mask), on_heldout, of_texts)
    return quality


def _on_heldout(
    name: str, method: Method, texts: Scored, reader: PerplexityReader
) -> HeldoutPerplexity:
    """What is said of held-out text by what the continuations were drawn from."""
    checkpoint = method.checkpoint_path
    if texts.is_steered or method.steering:
        return reader.of_steered(name, checkpoint, method.steering, texts.steered_by, method.behind)
    return HeldoutPerplexity(reader.of_model(name, checkpoint, method.behind))


def _notes(
    methods: Mapping[str, Method],
    scored: Mapping[str, Scored],
    quality: Mapping[tuple[str, str], Quality],
    reader: PerplexityReader,
    answers: Mapping[str, accuracy.Answers],
) -> list[str]:
    """Sentences on what templates, steering and the choice mean for the figures, and such."""
    with_model = [name for name, method in methods.items() if method.checkpoint_path is not None]
    of_models = {name: quality[name, "full"] for name in methods}
    return [
        *notes.on_unread(reader.heldout, of_models, with_model),
        *notes.on_template(scored, reader.asks),
        *notes.on_perplexity(scored, of_models, with_model),
        *notes.on_choice(scored),
        *notes.on_words(of_models, reader.segmenter),
        *notes.on_k_curve(scored),
        *notes.on_questions(answers),
    ]


def _decoded_with(scored: Mapping[str, Scored]) -> dict[str, tuple[str, ...]] | None:
    """What `Provenance.decoded_with` is."""
    changed = {name: decoding.changed_by(of.decoding) for name, of in scored.items()}
    is_silent = any(of.decoding is None for of in scored.values())
    found = {name: names for name, names in changed.items() if names}
    return None if is_silent and not found else found


def _rows_of_all(
    methods: Mapping[str, Method],
    scored: Mapping[str, Scored],
    scorer: str,
    draw: figures.Draws,
    quality: Mapping[tuple[str, str], Quality],
    answers: Mapping[str, accuracy.Answers],
) -> list[Row]:
    """Every method's row for each split, by one scorer."""
    rows = []
    what = " ".join(filter(None, ("resample the scores of", scorer or "the scorer")))
    with terminal.bar(what, len(methods), unit="methods") as advance:
        for name, method in methods.items():
            accuracies = accuracy.columns(answers.get(name), draw.draws, draw.seed)
            rows += _rows(name, method, scored[name], draw, quality, accuracies)
            advance()
    return rows


def _rows(
    name: str,
    method: Method,
    scored: Scored,
    draw: figures.Draws,
    quality: Mapping[tuple[str, str], Quality],
    accuracies: Mapping[Accuracy, Interval],
) -> list[Row]:
    """The method's row for each split."""
    return [
        Row(
            method=name,
            corpus=method.corpus,
            adaptation=method.adaptation,
            split=split,
            scorer=scored.scorer,
            toxicity=figures.toxicity(scored.subset(mask), draw),
            quality=quality[name, split],
            accuracies=accuracies,
        )
        for split, mask in scored_texts.splits(scored.prompts).items()
    ]
