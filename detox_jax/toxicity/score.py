"""Verb `score`: the same records with `toxicity` filled in."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from detox_jax import (
    atomic_files,
    manifests,
    output_settings,
    outputs,
    preview,
    record_blocks,
    records,
    sources,
    terminal,
)
from detox_jax import bad_records as bad_records_lib
from detox_jax.errors import UserError
from detox_jax.formats import plain_documents
from detox_jax.parallel import processes
from detox_jax.preview import Step
from detox_jax.toxicity import scorer as scorers

SHARD_NAME = "scored"
FREE = ("output_dir", "check_only")  # see `output_settings`
# What the manifest counts; `missing` is all that has no score, the unreadable among it.
_COUNTS: tuple[str, ...] = (
    "records",
    "texts",
    "missing",
    "unreadable",
    "empty",
    "toxic",
    "without_texts",
)
_RECORDS_AT_ONCE = 500


def score(
    input: str,
    output_dir: str,
    scorer: scorers.ToxicityScorer,
    check_only: bool = False,
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
) -> list[Step] | None:
    """Scores documents, or the continuations of prompts, alone and without their prompts.

    Writes as many shards as there are input files; a rerun continues with the first that is
    missing. Of several processes, all take part where the scorer is `on_mesh`; else process 0
    scores and the others wait, so that no service is asked twice.

    Args:
      input: JSON Lines documents or generations: file, glob or directory.
      output_dir: where the scored records go.
      scorer: see `detox_jax.toxicity.scorer`.
      check_only: check what can be checked without work, and return the steps (`preview`).
      bad_records: what becomes of records that cannot be read.

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for input that cannot be read, a prompt without generations, or a scorer that lacks
        what it needs.
    """
    if check_only:
        return [_preview(input, output_dir, scorer, bad_records)]
    work = functools.partial(_score, input, output_dir, scorer, bad_records)
    if getattr(scorer, "on_mesh", False):
        work()
    else:
        processes.current().first_does(work)
    return None


def _preview(
    input: str,
    output_dir: str,
    scorer: scorers.ToxicityScorer,
    bad_records: bad_records_lib.BadRecords,
) -> Step:
    """What there is to score; a scorer without its key, or the user's consent, is none."""
    preview.checked_output(output_dir)
    decides = functools.partial(_settings, input, output_dir, scorer, bad_records)
    if output_dir and outputs.check(output_dir, "score", decides):
        return Step("score", output_dir)
    scorers.check(scorer)
    if not input or isinstance(input, preview.Coming):
        return Step("score", output_dir)
    files = records.resolve_files(input)
    limit = preview.to_check(input, files)
    aside = bad_records_lib.opened(bad_records, writes=False)
    count, texts, first = 0, 0, ""
    for block in record_blocks.first(input, limit, aside):
        count += len(block)
        if isinstance(block, plain_documents.Plain):
            texts += len(block)
            continue
        first = first or block[0].id
        texts += sum(len(records.texts_to_score(record)) for record in block)
    if limit is not None:  # What the first ones lack, those behind them may have.
        return Step("score", output_dir, {}, preview.total_size(files))
    if not count:
        raise UserError(f"{input}: holds no record; there is nothing to score")
    if not texts:
        raise _without_texts(input, first)
    counts = {"records": count, "texts": texts}
    return Step("score", output_dir, counts, preview.total_size(files))


def _settings(
    input: str,
    output_dir: str,
    scorer: scorers.ToxicityScorer,
    bad_records: bad_records_lib.BadRecords,
) -> dict[str, Any]:
    """What decides the scores."""
    return output_settings.of_verb(
        score,
        {
            "input": input,
            "output_dir": output_dir,
            "scorer": scorer,
            "check_only": False,
            "bad_records": bad_records,
        },
        free=FREE,
        instead={
            "bad_records": bad_records_lib.settings(bad_records),
            "input": {"input": records.describe_input(input)},
            "scorer": {"scorer": scorers.identity(scorer)},
        },
    )


def _score(
    input: str,
    output_dir: str,
    scorer: scorers.ToxicityScorer,
    bad_records: bad_records_lib.BadRecords,
) -> None:
    aside = bad_records_lib.opened(bad_records)
    files = records.resolve_files(input)
    settings = _settings(input, output_dir, scorer, bad_records)
    output = outputs.OutputDirectory(output_dir, "score", settings)
    if output.complete:
        return
    # All is read once before the first text is scored: a service is asked nothing for a file that
    # is refused. Of a batch's files the one with the requests gives no record, and no shard.
    numbers = _numbers(input, aside)
    count = sum(map(bool, numbers))
    counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
    earlier: list[epath.Path] = []
    what = f"score with {scorer.name}"
    with terminal.bar(what, sum(numbers), unit="records") as advance:
        again = record_blocks.read_by_file(
            input, bad_records_lib.opened(bad_records, writes=False), again=True
        )
        indices = itertools.count()
        for number, (_, blocks) in zip(numbers, again, strict=True):
            index = next(indices) if number else count
            if not number or output.has_shard(SHARD_NAME, index, count):
                for _ in blocks:  # Ids that are made of texts depend on all before them.
                    pass
                if number:
                    earlier.append(output.path / manifests.shard_name(SHARD_NAME, index, count))
                    advance(number, earlier=True)
                continue
            scored = _score_blocks(blocks, scorer, counts, advance)
            output.write_lines(SHARD_NAME, index, count, scored)
    # What an earlier run wrote is counted from its files, which other processes may not see yet.
    counts = processes.current().first_decides(lambda: _with_files(counts, earlier))
    activation = scorers.activation(scorer)
    output.finish(
        scorer=scorers.identity(scorer),
        scorer_reliability=getattr(scorer, "reliability", None),
        scorer_languages=scorers.languages(scorer),
        **({} if activation is None else {"scorer_activation": activation}),
        counts=counts,
        **_generated(files),
        **bad_records_lib.counts(aside),
    )
    said = [scorer.fingerprint] if activation is None else [scorer.fingerprint, activation]
    print(
        f"{output_dir}: {counts['texts']} texts of {counts['records']} records scored by "
        f"{scorer.name} ({', '.join(said)}); {counts['missing']} without a score, "
        f"{counts['toxic']} at or above {records.TOXIC}{_notes(counts)}; {len(files)} files"
    )


def _generated(files: Sequence[epath.Path]) -> dict[str, Any]:
    """The settings of the `generate` that wrote the files, for `evaluate`, which compares them.

    Where `filter` chose among them, also how, and by which scorer.
    """
    directory = files[0].parent
    alone = all(file.parent == directory for file in files)
    if not alone or not (directory / manifests.MANIFEST).exists():
        return {}
    manifest = manifests.read_manifest(directory)
    if manifest.get("verb") == "filter" and manifest.get("generated"):
        chosen = {
            "selection": manifest["settings"]["selection"],
            "samples_per_result": manifest["samples_per_result"],
            "acceptance_rate": manifest["counts"]["acceptance_rate"],
            "filtered_by": manifest["filtered_by"],
        }
        return {"generated": manifest["generated"], "chosen": chosen}
    if manifest.get("verb") != "generate":
        return {}
    return {"generated": output_settings.without_notes(manifest["settings"])}


def _numbers(input: str, aside: bad_records_lib.Aside | None) -> list[int]:
    """How many records each file has; all of them can be read, and some have texts."""
    numbers: list[int] = []
    first, has_texts = "", False
    for _, blocks in record_blocks.read_by_file(input, aside):
        numbers.append(0)
        for block in blocks:
            numbers[-1] += len(block)
            if isinstance(block, plain_documents.Plain):
                has_texts = True
                continue
            first = first or block[0].id
            has_texts = has_texts or any(records.texts_to_score(record) for record in block)
    if any(numbers) and not has_texts:
        raise _without_texts(input, first)
    return numbers


def _without_texts(input: str, first: str) -> UserError:
    return UserError(
        f"{input}: prompt {first!r} has no generations{sources.written_by(input)}; score what "
        "`generate` wrote, or rename the field in which another project's file has the "
        'continuations to "completion" (docs/FILES.md)'
    )


def _score_blocks(
    blocks: Iterator[record_blocks.Block],
    scorer: scorers.ToxicityScorer,
    counts: dict[str, int],
    advance: terminal.Advance,
) -> Iterator[bytes]:
    """The scored lines of a file, group by group, added to the counts as they pass."""
    for group in record_blocks.in_groups(blocks, _RECORDS_AT_ONCE):
        is_plain = isinstance(group, plain_documents.Plain)
        if is_plain:
            texts = group.texts()
        else:
            texts = [text for record in group for text in records.texts_to_score(record)]
        scores = scorers.score_texts(scorer, texts)
        unreadable = scorers.unreadable(scorer, texts, scores)
        _count(counts, texts, scores, unreadable)
        counts["records"] += len(group)
        if is_plain:
            yield plain_documents.encoded(group, scores, unreadable if any(unreadable) else ())
        else:
            counts["without_texts"] += sum(not records.texts_to_score(r) for r in group)
            yield b"".join(atomic_files.encode_lines(_filled_in(group, scores, unreadable)))
        advance(len(group))


def _filled_in(
    group: Sequence[records.Record], scores: Sequence[float | None], unreadable: Sequence[bool]
) -> Iterator[records.Record]:
    first = 0
    for record in group:
        end = first + len(records.texts_to_score(record))
        yield records.with_toxicity(record, scores[first:end], unreadable[first:end])
        first = end


def _count(
    counts: dict[str, int],
    texts: Sequence[str],
    scores: Sequence[float | None],
    unreadable: Sequence[bool],
) -> None:
    counts["texts"] += len(texts)
    counts["missing"] += sum(score is None for score in scores)
    counts["unreadable"] += sum(unreadable)
    counts["empty"] += sum(map(records.is_empty, texts))
    counts["toxic"] += sum(score is not None and score >= records.TOXIC for score in scores)


def _with_files(counts: dict[str, int], files: Sequence[epath.Path]) -> dict[str, int]:
    """The counts and those of the files' records."""
    for file in files:
        for record in records.read_records(str(file)):
            read = [record] if isinstance(record, records.Document) else record.generations
            counts["records"] += 1
            counts["without_texts"] += not read
            texts, scores = [item.text for item in read], [item.toxicity for item in read]
            _count(counts, texts, scores, [item.unreadable for item in read])
    return counts


def _notes(counts: dict[str, int]) -> str:
    """What a line about scores adds where there is something to say."""
    notes = {
        "unreadable": "in letters that it cannot read",
        "empty": f"empty, each {scorers.EMPTY_SCORE}",
        "without_texts": "records without continuations",
    }
    return "".join(f"; {counts[name]} {note}" for name, note in notes.items() if counts[name])
