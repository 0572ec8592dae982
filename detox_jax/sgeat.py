"""Verb `sgeat`: Self-Generation Enabled domain-Adaptive Training, the whole method.

Wang et al., "Exploring the Limits of Domain-Adaptive Training for Detoxifying Large-Scale Language
Models", NeurIPS 2022. Every step is a verb of its own that leaves files and can be rerun alone; gin
hands each one in with its settings (`gin_configs/runs/sgeat.gin`), so this file is the story and
the gin file the numbers. A rerun skips what is finished and goes on where it stopped.

    OUTPUT_DIR/text/                         corpus, prompts and held-out text, where they are made
    OUTPUT_DIR/vocabulary/, base/            the base model, where it is trained
    OUTPUT_DIR/corpora/NAME/                 generated/, scored/, kept/, or pairs/; apart/, see
                                             `set_apart`
    OUTPUT_DIR/models/METHOD/                the adapted models
    OUTPUT_DIR/vectors/NAME/                 what steers rows, where any is fitted
    OUTPUT_DIR/continuations/METHOD/         generated/, scored-JUDGE/; of a row that chooses among
                                             samples also scored/, chosen/
    OUTPUT_DIR/choices/METHOD/               answers to zero-shot tasks, where any are asked
    OUTPUT_DIR/evaluation/                   perplexities, and JUDGE/, results of one judge
    OUTPUT_DIR/results.json, report.html     what came out; results.json is of the first judge
    OUTPUT_DIR/only-DIGEST/                  the last two lines' files, of a run of some rows alone
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, outputs
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation.frontiers import check as check_frontiers
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.prompts import PromptMode
from detox_jax.method import called_verbs, fitted_vectors, method, seeds
from detox_jax.method import only as some_rows
from detox_jax.method.corpus import Corpus
from detox_jax.method.deciders import Deciders
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.makers import Makers
from detox_jax.method.method import BASE, DOCUMENT_LIMIT, Method
from detox_jax.method.narrator import Narrator, where_to_look
from detox_jax.method.places import CorpusPlaces, placed
from detox_jax.method.run_preview import RunPreview
from detox_jax.models import adaptation as adaptations
from detox_jax.preview import Step


def sgeat(
    output_dir: str,
    corpora: Mapping[str, Corpus],
    task: Callable[..., Any],
    generate_documents: called_verbs.Generate,
    score: called_verbs.Score,
    select: called_verbs.Select,
    train: called_verbs.Train,
    adapt: called_verbs.Train,
    generate_continuations: called_verbs.Generate,
    decoding: Decoding,
    evaluation_prompts: Callable[..., PromptMode],
    judges: Mapping[str, called_verbs.Score],
    evaluate: called_verbs.Evaluate,
    evaluation_method: Callable[..., Any],
    report: called_verbs.Report,
    methods: Mapping[str, Method | Mapping[str, Any]] | None = None,
    adaptation: adaptations.Adaptation | None = None,
    prepare: called_verbs.Prepare | None = None,
    train_vocabulary: called_verbs.TrainVocabulary | None = None,
    pretrain: called_verbs.Train | None = None,
    initial_checkpoint_path: str | None = None,
    prompts_input: str | None = None,
    heldout: str | None = None,
    choices: called_verbs.Choices | None = None,
    downstream_tasks: Sequence[str] = (),
    pair: called_verbs.Pair | None = None,
    reference: Callable[..., Any] | None = None,
    pairs_task: Callable[..., Any] | None = None,
    combine: called_verbs.Combine | None = None,
    frontiers: Mapping[str, Sequence[str]] | None = None,
    best_of: Callable[..., Any] | None = None,
    vectors: Mapping[str, Vectors | Mapping[str, Any]] | None = None,
    steer: called_verbs.Steer | None = None,
    set_apart: called_verbs.Select | None = None,
    only: Sequence[str] | None = None,
    check_only: bool = False,
) -> list[Step] | None:
    """Generates, scores, filters, adapts, and measures base and adapted models side by side.

    Args:
      output_dir: where everything goes.
      corpora: what is trained on, by name.
      task: makes the seqio task of documents, `task(files=..., vocabulary=...)`.
      generate_documents: `generate`, for the corpora.
      score: `score` with the scorer that filters.
      select: `filter`, which keeps the least toxic documents.
      train: `train`, for whole models.
      adapt: `train`, for adaptations.
      generate_continuations: `generate`, for the evaluation prompts.
      decoding: of these continuations, which a row may change.
      evaluation_prompts: makes the prompt mode of the evaluation, `evaluation_prompts(path=...)`.
      judges: `score` with each scorer that evaluates, by name.
      evaluate: `evaluate`.
      evaluation_method: makes what `evaluate` is told of a method.
      report: `report`.
      methods: the rows beside the base, by name, as `Method`s or as dicts of their fields; where
        None, the first corpus for the whole model, and for `adaptation` where it is given.
      adaptation: see `methods`.
      prepare: writes `text/` with `train`, `prompts` and `heldout_nontoxic`; None where the user
        brings prompts and held-out text.
      train_vocabulary: for a base trained here.
      pretrain: `train`, for a base trained here; None with `initial_checkpoint_path`.
      initial_checkpoint_path: the base model; None trains one.
      prompts_input: evaluation prompts; `text/prompts` where None.
      heldout: held-out documents for perplexity; `text/heldout_nontoxic` where None.
      choices: `choices`, which asks base and adapted models the zero-shot tasks.
      downstream_tasks: their names; none where empty.
      pair: `pair`, for corpora of pairs; needed where there are any, as are the next two.
      reference: makes the reference of pairs, `reference(checkpoint_path=...)`.
      pairs_task: makes the seqio task of pairs, as `task` does that of documents.
      combine: `combine`, for rows of terms; needed where there are any.
      frontiers: rows by a name that the report compares at equal perplexity, see `report`.
      best_of: makes the selection among samples, `best_of(keep=...)`; needed for rows that choose.
      vectors: what is fitted to steer rows, by name, as `Vectors` or as dicts of their fields.
      steer: `steer`, for vectors that bring none of their own.
      set_apart: `filter` that keeps all, for pairs and vectors of a corpus with
        `apart_from_prompts`: they read what its filter discarded too, and are to see no document
        that the evaluation prompts come from.
      only: names of the rows that are wanted; all where None. The base comes with them, and what
        they need is made: rows that they start from or are steered by are trained, and not
        measured. Evaluation and report, of these rows alone, go to `only-DIGEST/`; all else lies
        where a run of all rows looks for it, and that run leaves what it would have left without.
      check_only: check all steps as far as that is possible without work, and return them.

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if neither a base nor the means to train one is given, names do not fit, or a
        scorer lacks what it needs.
    """
    arguments = locals()
    root = epath.Path(output_dir)
    rows = method.rows(methods, adaptation, corpora)
    method.check_names(corpora, rows, judges)
    if frontiers is not None:
        check_frontiers(frontiers, [BASE, *rows], BASE)
    order = method.in_order(corpora, rows)
    method.check_terms(rows)
    makers = Makers.of(arguments)
    fitted = fitted_vectors.named(vectors)
    fitted_vectors.check(fitted, corpora, rows)
    makers.check(corpora, rows, fitted)

    # --- the rows that are wanted, and where their figures go -----------------------------------
    measured, place = rows, root
    if only is not None:
        some_rows.check(only, rows)
        measured = {name: row for name, row in rows.items() if name in only}
        place = some_rows.directory(root, only)
        needed = some_rows.Needed(rows, corpora, fitted)
        for name in (BASE, *measured):
            needed.measure(name, decoding)
        order = [(name, part) for name, part in order if needed.has(name, part)]
        fitted = {name: of for name, of in fitted.items() if name in needed.vectors}
        frontiers = some_rows.frontiers(frontiers, measured)
    compared: dict[str, Any] = {} if frontiers is None else {"frontiers": frontiers}
    if as_one := seeds.of_rows(measured, decoding.random_seed):
        compared["seeds"] = as_one
    if check_only:
        told = (root, place, rows, [*measured], order, fitted, arguments, compared)
        return RunPreview(*told).steps()
    places, config = CorpusPlaces(root, corpora), outputs.config_text()
    some_rows.bind(None)
    with Narrator(root) as say:
        # --- text, and a base model ---------------------------------------------------------------
        if prepare is not None:
            say("prepare text")
            prepare(output_dir=str(root / "text"))
        prompts_input = _given(prompts_input, root / "text" / "prompts", "PROMPTS_INPUT", prepare)
        heldout = _given(heldout, root / "text" / "heldout_nontoxic", "HELDOUT", prepare)
        base = initial_checkpoint_path
        if base is None:
            if prepare is None or train_vocabulary is None or pretrain is None:
                raise UserError("no base model: set INITIAL_CHECKPOINT_PATH to the one to detoxify")
            base = _train_base(root, heldout, task, train_vocabulary, pretrain, say)
        vocabulary = checkpoints.vocabulary_dir(base)

        # --- corpora and models: a model writes, a scorer judges, the least toxic stays; each row
        # is trained further from the base, or from the row that it starts from --------------------
        models = {BASE: base}
        apart = fitted_vectors.read_apart(order, fitted, corpora)
        for name, part in order:
            if isinstance(part, Method):
                models[name] = _make_model(name, part, models, vocabulary, places, makers, say)
            elif part.pairs is not None:
                _make_pairs(name, part, models, places, makers, say)
            else:
                _make_corpus(name, part, models, prompts_input, places, makers, say)
                if name in apart:
                    say(f"{name}: leave out what the evaluation prompts come from")
                    makers.set_apart(
                        input=places.scored(name),
                        output_dir=places.apart(name),
                        apart_from=prompts_input,
                    )

        # --- vectors that steer rows, of what the scorer found toxic and what not -----------------
        for name, of in fitted.items():
            say(f"vectors {name}: fit them on the documents of {of.corpus}")
            makers.steer_of(of)(
                checkpoint_path=models[of.model or BASE],
                input=places.all_of(of.corpus),
                output_dir=fitted_vectors.place(root, name),
            )

        # --- continuations of the evaluation prompts, under every judge ---------------------------
        decodings = method.decodings(rows, decoding)
        asked = method.can_be_asked(decodings)
        named = {name: decodings[name].steering for name in (BASE, *measured)}
        fits = {name: fitted_vectors.place(root, name) for name in fitted}
        decodings = {name: placed(decodings[name], models, fits) for name in (BASE, *measured)}
        models = {name: models[name] for name in decodings}
        for name, checkpoint in models.items():
            directory = root / "continuations" / name
            say(f"{name}: continue the evaluation prompts")
            generate_continuations(
                checkpoint_path=checkpoint,
                output_dir=str(directory / "generated"),
                prompts=evaluation_prompts(path=prompts_input),
                decoding=decodings[name],
            )
            judged = str(directory / "generated")
            if name in rows and rows[name].best_of is not None:
                judged = _choose(name, rows[name], directory, decoding.num_samples, makers, say)
            for judge, score_as in judges.items():
                say(f"{name}: score the continuations with {judge}")
                score_as(input=judged, output_dir=str(directory / f"scored-{judge}"))

        # --- zero-shot tasks: each model once, and none that is steered or asked behind a tag -----
        answers: dict[str, str] = {}
        if choices is not None and downstream_tasks:
            answers = _answer(choices, models, rows, asked, root, say)

        # --- figures and the report ---------------------------------------------------------------
        some_rows.bind(only)
        place.mkdir(parents=True, exist_ok=True)
        atomic_files.write_bytes(place / outputs.CONFIG, config.encode(), in_output=False)
        say("evaluate")
        deciders = Deciders(places, rows, fitted)
        evaluate(
            methods={
                name: evaluation_method(
                    generations={
                        judge: str(root / "continuations" / name / f"scored-{judge}")
                        for judge in judges
                    },
                    checkpoint_path=checkpoint,
                    choices=answers.get(name),
                    own_decoding=rows[name].own_decoding if name in rows else (),
                    steering=decodings[name].steering,
                    **_behind(decodings[name]),
                    **_labels(name, rows, places, deciders, named[name]),
                )
                for name, checkpoint in models.items()
            },
            output_dir=str(place / "evaluation"),
            baseline=BASE,
            heldout=heldout,
            reference=base,
            command=f"detox-jax sgeat --gin_file={place / outputs.CONFIG}",
        )
        say("report")
        results = [str(place / "evaluation" / judge / "results.json") for judge in judges]
        for path in results:
            say.copy_times(epath.Path(path).parent)
        report(results=results, output_dir=str(place / "report"), **compared)
        _bring_out(results[0], place)
        say("done; where to look next:")
        print(where_to_look(root, place))
    return None


def _given(path: str | None, made: epath.Path, macro: str, prepare: Any) -> str:
    """A path of the user's, or of what `prepare` made."""
    if path is None and prepare is None:
        raise UserError(f"required and not set: {macro}; pass --gin.{macro}=...")
    return str(made) if path is None else path


def _train_base(
    root: epath.Path,
    heldout: str,
    task: Callable[..., Any],
    train_vocabulary: called_verbs.TrainVocabulary,
    pretrain: called_verbs.Train,
    say: Narrator,
) -> str:
    """Trains the base, and its vocabulary, on the text that `prepare` made; returns its place."""
    text, vocabulary = str(root / "text" / "train"), str(root / "vocabulary")
    base = str(root / BASE)
    say("train the vocabulary")
    train_vocabulary(documents=text, output_dir=vocabulary)
    say("pretrain the base model")
    pretrain(
        model_dir=base,
        mixture_or_task_name=task(files=text, vocabulary=vocabulary, validation_files=heldout),
        starts_from=None,  # sgeat starts all from one model
    )
    return base


def _make_model(
    name: str,
    row: Method,
    models: Mapping[str, str],
    vocabulary: str,
    places: CorpusPlaces,
    makers: Makers,
    say: Narrator,
) -> str:
    """The model of a row, trained or added up; one that is decoded otherwise is where it was.

    Args:
      name: of the row.
      row: what it is.
      models: those of the base and of the rows that it names, by row.
      vocabulary: theirs.
      places: of the corpora.
      makers: what it is made with.
      say: tells what is done.

    Returns:
      Its place.
    """
    start = models[row.start or BASE]
    model = str(places.root / "models" / name)
    if row.terms is not None:
        say(f"{name}: add models to the base")
        terms = {models[term]: weight for term, weight in row.terms.items()}
        makers.combine(base=start, output_dir=model, terms=terms)
        return model
    if row.corpus is None:
        return start
    corpus = places.corpora[row.corpus]
    say(f"{name}: continue training")
    makers.train_of(row)(
        model_dir=model,
        mixture_or_task_name=makers.task_of(corpus)(
            files=places.kept(row.corpus), vocabulary=vocabulary, **corpus.pooled(places.kept)
        ),
        initial_checkpoint_path=start,
        adaptation=row.adaptation,
        starts_from=None,
        **row.seed,
    )
    return model


def _make_pairs(
    name: str,
    corpus: Corpus,
    models: Mapping[str, str],
    places: CorpusPlaces,
    makers: Makers,
    say: Narrator,
) -> None:
    """Makes a corpus of pairs: of the kept documents of its source, or of its own."""
    assert corpus.pairs is not None
    documents = places.kept(corpus.source) if corpus.source else places.given_documents(corpus)
    say(f"{name}: make pairs")
    makers.pair(
        input=str(documents),
        output_dir=places.kept(name),
        pairing=corpus.pairs(**places.scored_of(corpus)),
        reference=makers.reference(checkpoint_path=models[corpus.writer or BASE]),
    )


def _make_corpus(
    name: str,
    corpus: Corpus,
    models: Mapping[str, str],
    prompts_input: str,
    places: CorpusPlaces,
    makers: Makers,
    say: Narrator,
) -> None:
    """Makes a corpus of documents: they are generated, or given, then scored and selected from.

    Args:
      name: of the corpus.
      corpus: what it is.
      models: those of the base and of the row that writes it, by row.
      prompts_input: the evaluation prompts, whose documents it may have to leave out.
      places: of the corpora.
      makers: what it is made with.
      say: tells what is done.
    """
    documents = places.given_documents(corpus)
    if corpus.prompts is not None:
        say(f"{name}: self-generate documents")
        source = {} if corpus.source is None else {"documents": places.kept(corpus.source)}
        documents = str(places.root / "corpora" / name / "generated")
        makers.generate_of(corpus)(
            checkpoint_path=models[corpus.writer or BASE],
            output_dir=documents,
            prompts=corpus.prompts(**source),
            limit_setting=DOCUMENT_LIMIT,
        )
    scored = places.scored(name)
    if documents is not None and not corpus.is_scored:
        say(f"{name}: score them")
        makers.score(input=documents, output_dir=scored)
    say(f"{name}: select")
    control = corpus.control(places.kept, prompts_input)
    makers.select_of(corpus)(input=scored, output_dir=places.kept(name), **control)


def _choose(
    name: str,
    row: Method,
    directory: epath.Path,
    num_samples: int,
    makers: Makers,
    say: Narrator,
) -> str:
    """Keeps so many of the samples that a row wrote, the least toxic; returns where they are."""
    samples, chosen = str(directory / "scored"), str(directory / "chosen")
    say(f"{name}: score the samples to choose among")
    makers.chooser_of(row)(input=str(directory / "generated"), output_dir=samples)
    say(f"{name}: choose the best of {row.best_of}")
    choice = makers.best_of(keep=num_samples)
    makers.select(input=samples, output_dir=chosen, selection=choice)
    return chosen


def _answer(
    choices: called_verbs.Choices,
    models: Mapping[str, str],
    rows: Mapping[str, Method],
    asked: Collection[str],
    root: epath.Path,
    say: Narrator,
) -> dict[str, str]:
    """Asks each model once; returns where the answers of each row are that can be asked."""
    answers: dict[str, str] = {}  # by model
    of_rows: dict[str, str] = {}
    for name, checkpoint in models.items():
        if name not in asked:
            continue
        if checkpoint not in answers:
            known_as = method.answers_as(name, rows, asked)
            say(f"{known_as}: answer the zero-shot tasks")
            answers[checkpoint] = str(root / "choices" / known_as)
            choices(checkpoint_path=checkpoint, output_dir=answers[checkpoint])
        of_rows[name] = answers[checkpoint]
    return of_rows


def _behind(decoding: Decoding) -> dict[str, Any]:
    """What `evaluate` is told of tags; nothing without."""
    return {} if decoding.behind is None else {"behind": decoding.behind}


def _labels(
    name: str,
    rows: Mapping[str, Method],
    places: CorpusPlaces,
    deciders: Deciders,
    steering: Sequence[Any],
) -> dict[str, Any]:
    """What `evaluate` is told of how a row was made; nothing of what no score decided."""
    labels = places.labels(rows, name)
    others = deciders.of(name, steering, labels.get("filtered_by"))
    return {**labels, **({"decided_by": others} if others else {})}


def _bring_out(results: str, place: epath.Path) -> None:
    """Puts results and report where they are looked for first."""
    for name, made in (
        ("results.json", epath.Path(results)),
        ("report.html", place / "report" / "report.html"),
    ):
        atomic_files.write_bytes(place / name, made.read_bytes(), in_output=False)
