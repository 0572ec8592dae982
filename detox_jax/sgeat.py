"""Verb `sgeat`: Self-Generation Enabled domain-Adaptive Training, the whole method.

Wang et al., "Exploring the Limits of Domain-Adaptive Training for Detoxifying Large-Scale Language
Models", NeurIPS 2022. Every step is a verb of its own that leaves files and can be rerun alone; gin
hands each one in with its settings (`gin_configs/runs/sgeat.gin`), so this file is the story and
the gin file the numbers. A rerun skips what is finished and goes on where it stopped.

    OUTPUT_DIR/text/                         corpus, prompts and held-out text, where they are made
    OUTPUT_DIR/vocabulary/, base/            the base model, where it is trained
    OUTPUT_DIR/corpora/NAME/                 generated/, scored/, kept/
    OUTPUT_DIR/models/METHOD/                the adapted models
    OUTPUT_DIR/continuations/METHOD/         generated/, scored/
    OUTPUT_DIR/results.json, report.html     what came out
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.training import checkpoints

Verb = Callable[..., None]
BASE = "base"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A self-generated nontoxic corpus.

    Attributes:
      prompts: makes the prompt mode (`Standard`, `Heuristic`, `Augmented`).
      source: the corpus whose kept documents are the prompts (`Augmented`); None for the others.
    """

    prompts: Callable[..., Any]
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to adapt the base: a row of the results.

    Attributes:
      corpus: name of the corpus to train on.
      adaptation: how the row is labelled: whole, adapter, lora, prefix.
      train: the verb `train` with the adaptation's settings.
    """

    corpus: str
    adaptation: str
    train: Verb


def sgeat(
    output_dir: str,
    corpora: Mapping[str, Corpus],
    methods: Mapping[str, Method],
    task: Callable[..., Any],
    generate_documents: Verb,
    score: Verb,
    select: Verb,
    generate_continuations: Verb,
    evaluation_prompts: Callable[..., Any],
    evaluate: Verb,
    evaluation_method: Callable[..., Any],
    report: Verb,
    prepare: Verb | None = None,
    train_vocabulary: Verb | None = None,
    pretrain: Verb | None = None,
    initial_checkpoint_path: str | None = None,
    prompts_input: str | None = None,
    heldout: str | None = None,
) -> None:
    """Generates, scores, filters, adapts, and measures base and adapted models side by side.

    Args:
      output_dir: where everything goes.
      corpora: the self-generated corpora, by name; a corpus stands behind its source.
      methods: the adapted models, by name.
      task: makes the seqio task of documents, `task(files=..., vocabulary=...)`.
      generate_documents: `generate`, for the corpora.
      score: `score`, for documents and continuations.
      select: `filter`, which keeps the least toxic documents.
      generate_continuations: `generate`, for the evaluation prompts.
      evaluation_prompts: makes the prompt mode of the evaluation, `evaluation_prompts(path=...)`.
      evaluate: `evaluate`.
      evaluation_method: makes what `evaluate` is told of a method.
      report: `report`.
      prepare: writes `text/` with `train`, `prompts` and `heldout_nontoxic`; None where the user
        brings prompts and held-out text.
      train_vocabulary: for a base trained here.
      pretrain: `train`, for a base trained here; None with `initial_checkpoint_path`.
      initial_checkpoint_path: the base model; None trains one.
      prompts_input: evaluation prompts; `text/prompts` where None.
      heldout: held-out documents for perplexity; `text/heldout_nontoxic` where None.

    Raises:
      UserError: if neither a base nor the means to train one is given, or names do not fit.
    """
    root = epath.Path(output_dir)
    _check_names(corpora, methods)
    say = _narrator()

    if prepare is not None:
        say("prepare text")
        prepare(output_dir=str(root / "text"))
    prompts_input = _given(prompts_input, root / "text" / "prompts", "PROMPTS_INPUT", prepare)
    heldout = _given(heldout, root / "text" / "heldout_nontoxic", "HELDOUT", prepare)

    base = initial_checkpoint_path
    if base is None:
        if prepare is None or train_vocabulary is None or pretrain is None:
            raise UserError("no base model: set INITIAL_CHECKPOINT_PATH to the one to detoxify")
        text, vocabulary, base = (
            str(root / "text" / "train"),
            str(root / "vocabulary"),
            str(root / BASE),
        )
        say("train the vocabulary")
        train_vocabulary(documents=text, output_dir=vocabulary)
        say("pretrain the base model")
        pretrain(
            model_dir=base,
            mixture_or_task_name=task(files=text, vocabulary=vocabulary, validation_files=heldout),
        )
    vocabulary = checkpoints.vocabulary_dir(base)

    for name, corpus in corpora.items():
        directory = root / "corpora" / name
        say(f"{name}: self-generate documents")
        source = {}
        if corpus.source is not None:
            source = {"documents": str(root / "corpora" / corpus.source / "kept")}
        generate_documents(
            checkpoint_path=base,
            output_dir=str(directory / "generated"),
            prompts=corpus.prompts(**source),
        )
        say(f"{name}: score them")
        score(input=str(directory / "generated"), output_dir=str(directory / "scored"))
        say(f"{name}: keep the least toxic")
        select(input=str(directory / "scored"), output_dir=str(directory / "kept"))

    models = {BASE: base}
    for name, method in methods.items():
        models[name] = str(root / "models" / name)
        kept = str(root / "corpora" / method.corpus / "kept")
        say(f"{name}: continue training")
        method.train(
            model_dir=models[name],
            mixture_or_task_name=task(files=kept, vocabulary=vocabulary),
            initial_checkpoint_path=base,
        )

    for name, checkpoint in models.items():
        directory = root / "continuations" / name
        say(f"{name}: continue the evaluation prompts")
        generate_continuations(
            checkpoint_path=checkpoint,
            output_dir=str(directory / "generated"),
            prompts=evaluation_prompts(path=prompts_input),
        )
        say(f"{name}: score the continuations")
        score(input=str(directory / "generated"), output_dir=str(directory / "scored"))

    say("evaluate")
    evaluate(
        methods={
            name: evaluation_method(
                generations=str(root / "continuations" / name / "scored"),
                checkpoint_path=checkpoint,
                corpus=methods[name].corpus if name in methods else None,
                adaptation=methods[name].adaptation if name in methods else None,
            )
            for name, checkpoint in models.items()
        },
        output_dir=str(root / "evaluation"),
        baseline=BASE,
        heldout=heldout,
    )
    say("report")
    results = root / "evaluation" / "results.json"
    report(results=str(results), output_dir=str(root / "report"))
    records.write_bytes(root / "results.json", results.read_bytes())
    records.write_bytes(root / "report.html", (root / "report" / "report.html").read_bytes())
    say("done; where to look next:")
    print(
        f"  {root / 'report.html'}     pictures, table, sample continuations\n"
        f"  {root / 'results.json'}    every figure with its interval and provenance\n"
        f"  {root / 'models'}/         the detoxified models\n"
        f"  {root / 'continuations'}/  what each model wrote, with scores"
    )


def _narrator() -> Callable[[str], None]:
    start = time.monotonic()

    def say(title: str) -> None:
        print(f"\n[{time.monotonic() - start:5.0f} s] {title}", flush=True)

    return say


def _check_names(corpora: Mapping[str, Corpus], methods: Mapping[str, Method]) -> None:
    known: set[str] = set()
    for name, corpus in corpora.items():
        if corpus.source is not None and corpus.source not in known:
            raise UserError(f"corpus {name!r}: its source {corpus.source!r} must stand before it")
        known.add(name)
    for name, method in methods.items():
        if name == BASE:
            raise UserError(f"a method may not be called {BASE!r}: that is the model before")
        if method.corpus not in known:
            raise UserError(
                f"method {name!r}: no corpus {method.corpus!r}; there are {sorted(known)}"
            )


def _given(path: str | None, made: epath.Path, macro: str, prepare: Verb | None) -> str:
    """A path of the user's, or of what `prepare` made."""
    if path is None and prepare is None:
        raise UserError(f"required and not set: {macro}; pass --gin.{macro}=...")
    return str(made) if path is None else path
