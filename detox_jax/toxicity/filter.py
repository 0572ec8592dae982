"""Verb `filter`: keeps the least toxic documents, in an order that says nothing of their scores.

Of prompts it keeps the least toxic continuations (`best_of.BestOf`). Corpora for controls are made
here too: apart from what is evaluated on, of the lengths and the size of another corpus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

from detox_jax import (
    atomic_files,
    output_settings,
    outputs,
    preview,
    record_blocks,
    records,
    segmenters,
    terminal,
)
from detox_jax import bad_records as bad_records_lib
from detox_jax.errors import UserError
from detox_jax.kinds import Seed, Share
from detox_jax.parallel import processes
from detox_jax.preview import Step
from detox_jax.segmenters import Segmenter
from detox_jax.toxicity import best_of, controls, corpus, selections

# The verb names few of these, but gin files and Python say `filter.MostToxic` of all.
from detox_jax.toxicity.selections import (  # noqa: F401 (public names)
    AtMost,
    InTurn,
    LeastToxic,
    LeastToxicPerLength,
    MostToxic,
    RandomShare,
    Selection,
)

SHARD_NAME = "documents"
CHOSEN_SHARD_NAME = "chosen"
FREE = ("output_dir", "check_only")  # see `output_settings`
_SHARD_SIZE = 10_000


def filter(
    input: str,
    output_dir: str,
    selection: Selection | InTurn | best_of.BestOf | None = None,
    seed: Seed = 0,
    size_of: str | None = None,
    lengths_of: str | None = None,
    size_share: Share = 1.0,
    apart_from: str | None = None,
    word_segmenter: Segmenter | None = None,
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes the selected part of scored documents, shuffled; of prompts, chosen continuations.

    Documents without a score, and those without text, are left out before the selection and
    counted. `BestOf` reads scored continuations and writes the same prompts in their order, with
    what it chose, for another scorer to judge. Of several processes, all take part where the
    selection is `on_mesh`; else process 0 selects and the others wait.

    Args:
      input: scored documents, for `BestOf` scored prompts: file, glob or directory.
      output_dir: where the kept ones go.
      selection: what to keep; the least toxic half where None.
      seed: of the shuffle, and of a random selection.
      size_of: documents whose number of words is not to be exceeded, so that controls train on as
        much text as what they are compared with; no limit where None.
      lengths_of: documents to whose lengths those of the output are matched: as many documents,
        each of the same words as one of them, taken at random from what `selection` keeps. Of
        equal words and equal lengths, that is; any lengths where None.
      size_share: the share of the words of `size_of`, and of the documents of `lengths_of`, that
        is meant: a third is 0.3333.
      apart_from: evaluation records, such as prompts in RealToxicityPrompts' layout: the documents
        that they come from are left out before the selection (`apart`); nothing where None.
      word_segmenter: tells the words of scripts without spaces (`segmenters`), wherever lengths are
        counted and words compared; white space alone where None.
      bad_records: what becomes of records that cannot be read.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if nothing is scored, or nothing would be left.
    """
    arguments = locals()
    selection = selection or LeastToxic()
    control = controls.Control(size_of, lengths_of, size_share, apart_from, word_segmenter)
    if isinstance(selection, best_of.BestOf) and (lengths_of or apart_from):
        raise UserError(
            "LENGTHS_OF and APART_FROM are for documents, and BestOf chooses continuations; leave "
            "them None"
        )

    def settings() -> dict[str, Any]:
        """What decides the output."""
        return output_settings.of_verb(
            filter,
            arguments,
            free=FREE,
            instead={
                "input": {"input": records.describe_input(input)},
                "selection": {"selection": selections.settings(selection)},
                **control.settings(),
                # Without any, so that older outputs go on.
                "word_segmenter": segmenters.settings(word_segmenter),
                "bad_records": bad_records_lib.settings(bad_records),
            },
        )

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "filter", settings):
            return [Step("filter", output_dir)]
        return [_preview(input, output_dir, selection, control, bad_records)]

    def select_alone() -> None:
        filter(**arguments)

    if processes.current().several and not selections.on_mesh(selection):
        processes.current().first_does(select_alone)
        return None
    aside = bad_records_lib.opened(bad_records)
    output = outputs.OutputDirectory(output_dir, "filter", settings())
    if output.complete:
        return None
    if isinstance(selection, best_of.BestOf):
        _choose(input, output, selection, aside)
        return None

    # --- what may be selected, and what is ---------------------------------------------------
    directory = output_dir if atomic_files.is_local(output_dir) else None
    documents = corpus.read(input, aside, directory, word_segmenter)
    scored = corpus.taken(documents, np.flatnonzero(~np.isnan(corpus.toxicity_of(documents))))
    if not scored:
        raise _unscored(input, len(documents))
    candidates = corpus.taken(scored, np.flatnonzero(corpus.words_of(scored)))
    details: dict[str, Any] = {}
    if apart_from is not None:
        candidates, details["apart"] = control.apart(candidates, aside)
    generator = np.random.default_rng(seed)
    with terminal.stage(f"select of {len(candidates):,} documents"):
        selected, told = selections.select(selection, candidates, generator)
    details |= told
    if not len(selected):
        raise UserError(f"{input}: {_why_nothing(selection, scored, candidates, details)}")
    # A selection may come in the order of the scores: the first shard would be the mildest.
    selected = corpus.taken(selected, generator.permutation(len(selected)))
    if lengths_of is not None:
        more = selections.way_to_more(selection)
        selected, details["lengths"] = control.of_lengths(selected, aside, more)
    if size_of is not None:
        selected = control.as_many_words(selected, aside)
    count = -(-len(selected) // _SHARD_SIZE)
    with terminal.bar("write", len(selected), unit="documents") as advance:
        for index, lines in enumerate(corpus.encoded(selected, _SHARD_SIZE)):
            # A rerun selects, and writes, all again.
            advance(output.write_lines(SHARD_NAME, index, count, lines, noted=False))

    # --- what that did to toxicity and length ------------------------------------------------
    counts = {
        "documents": len(documents),
        "unscored": len(documents) - len(scored),
        "empty": int(np.sum(corpus.words_of(scored) == 0)),
        "kept": len(selected),
    }
    threshold = float(np.max(corpus.toxicity_of(selected)))
    before, after = _describe(candidates), _describe(selected)
    output.finish(
        filtered_by=_filtered_by(selection, input),
        scored_by=records.scorer_of(input),
        counts=counts,
        highest_kept=threshold,
        before=before,
        after=after,
        **details,
        **bad_records_lib.counts(aside),
    )
    print(
        f"{output_dir}: kept {len(selected)} of {len(documents)} documents (unscored "
        f"{counts['unscored']}, empty {counts['empty']}), toxicity at most {threshold:.3f}; mean "
        f"toxicity {before['mean_toxicity']:.3f} -> {after['mean_toxicity']:.3f}, mean length "
        f"{before['mean_words']:.1f} -> {after['mean_words']:.1f} words"
    )
    for line in controls.said(details):
        print(f"{output_dir}: {line}")


def _preview(
    input: str,
    output_dir: str,
    selection: Any,
    control: controls.Control,
    bad_records: bad_records_lib.BadRecords,
) -> Step:
    """What there is to select from."""
    control.check(bad_records_lib.opened(bad_records, writes=False))
    selections.check(selection)
    if isinstance(input, preview.Coming):
        return Step("filter", output_dir)
    aside = bad_records_lib.opened(bad_records, writes=False)
    if isinstance(selection, best_of.BestOf):
        prompts = list(records.read_prompts(input, aside))
        if not any(g.toxicity is not None for p in prompts for g in p.generations):
            raise UserError(f"{input}: none of its continuations has a score; run `score`")
        return Step("filter", output_dir, {"prompts": len(prompts)})
    files = records.resolve_files(input)
    limit = preview.to_check(input, files)
    number, has_scores = 0, False
    for block in record_blocks.first(input, limit, aside, documents=True):
        number += len(block)
        has_scores = has_scores or corpus.has_scores(block)
    if not has_scores and limit is None:  # else those behind the first ones may have some
        raise _unscored(input, number)
    counts = {"documents": number} if limit is None else {}
    return Step("filter", output_dir, counts, preview.total_size(files))


def _why_nothing(
    selection: Any, scored: Sized, candidates: Sized, details: Mapping[str, Any]
) -> str:
    """Why nothing is selected, and what to do."""
    if len(candidates):
        return (
            f"the filter would leave nothing of {len(candidates)} scored documents; "
            f"{selections.way_to_more(selection)} or give more"
        )
    apart = details.get("apart")
    if apart is None or not apart["id"] + apart["text"]:
        return f"none of its {len(scored)} scored documents has a word; give some with text"
    return (
        f"APART_FROM leaves out all {apart['id'] + apart['text']} scored documents with text; give "
        "others, or other records there"
    )


def _unscored(input: str, number: int) -> UserError:
    return UserError(f"{input}: none of its {number} documents has a score; run `score`")


def _choose(
    input: str,
    output: outputs.OutputDirectory,
    selection: best_of.BestOf,
    aside: bad_records_lib.Aside | None,
) -> None:
    """Writes what `BestOf` chooses, shard by shard as it was read."""
    files = records.resolve_files(input)
    before = [list(records.read_prompts(str(file), aside)) for file in files]
    after = [
        [dataclasses.replace(prompt, generations=selection.choose(prompt)) for prompt in prompts]
        for prompts in before
    ]
    scored = [prompt for prompts in before for prompt in prompts]
    chosen = [prompt for prompts in after for prompt in prompts]
    counts = best_of.counts(scored, chosen)
    if not counts["kept"]:
        raise UserError(f"{input}: none of its continuations has a score; run `score`")
    for index, prompts in enumerate(after):
        output.write_shard(CHOSEN_SHARD_NAME, index, len(after), prompts)
    means = {
        "before": best_of.mean_toxicity(g.toxicity for p in scored for g in p.generations),
        "after": best_of.mean_toxicity(
            g.extra[best_of.CHOSEN] for p in chosen for g in p.generations
        ),
    }
    _, manifest = records.manifest_of(input) or ("", {})
    output.finish(
        filtered_by=manifest.get("scorer"),
        generated=manifest.get("generated"),
        counts=counts,
        samples_per_result=counts["samples"] / (selection.keep * counts["prompts"]),
        mean_toxicity=means,
        **bad_records_lib.counts(aside),
    )
    print(
        f"{output.path}: kept {counts['kept']} of {counts['samples']} continuations of "
        f"{counts['prompts']} prompts (accepted {counts['acceptance_rate']:.1%}, unscored "
        f"{counts['unscored']}); mean toxicity {means['before']:.3f} -> {means['after']:.3f} by "
        "the scorer that chose them; let another one judge"
    )


def _filtered_by(selection: Any, input: str) -> Any:
    """The scorer that decides what is kept, so that results can say so; None where none does."""
    if not selection.uses_toxicity:
        return selections.scorer_of_target(selection)
    return records.scorer_of(input)


def _describe(documents: Sequence[records.Document]) -> dict[str, float]:
    toxicity_N, words_N = corpus.toxicity_of(documents), corpus.words_of(documents)
    return {
        "mean_toxicity": float(np.mean(toxicity_N)) if len(documents) else 0.0,
        "mean_words": float(np.mean(words_N)) if len(documents) else 0.0,
    }
