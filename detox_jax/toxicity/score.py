"""Verb `score`: the same records with `toxicity` filled in."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from detox_jax import bad_records as bad_records_lib
from detox_jax import output_settings, outputs, preview, records, terminal
from detox_jax.errors import UserError
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
    if output_dir and preview.is_done(output_dir):
        return Step("score", output_dir)
    scorers.check(scorer)
    if not input or isinstance(input, preview.Coming):
        return Step("score", output_dir)
    files = records.resolve_files(input)
    limit = preview.to_check(input, files)
    aside = bad_records_lib.opened(bad_records, writes=False)
    count, texts, first = 0, 0, ""
    for record in itertools.islice(records.read_records(input, aside), limit):
        first = first or record.id
        count, texts = count + 1, texts + len(records.texts_to_score(record))
    if not count:
        raise UserError(f"{input}: holds no record; there is nothing to score")
    if not texts:
        raise UserError(
            f"{input}: prompt {first!r} has no generations; score what `generate` wrote"
        )
    counts = {"records": count, "texts": texts} if limit is None else {}
    return Step("score", output_dir, counts, preview.total_size(files))


def _score(
    input: str,
    output_dir: str,
    scorer: scorers.ToxicityScorer,
    bad_records: bad_records_lib.BadRecords,
) -> None:
    aside = bad_records_lib.opened(bad_records)
    files = records.resolve_files(input)
    settings = output_settings.of_verb(
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
    output = outputs.OutputDirectory(output_dir, "score", settings)
    if output.complete:
        return
    # Of a batch's files the one with the requests gives no record, and no shard.
    by_file = records.read_by_file(input, aside)
    shards = [shard for _, found in by_file if (shard := list(found))]
    every = [record for shard in shards for record in shard]
    if every and not any(records.texts_to_score(record) for record in every):
        raise UserError(
            f"{input}: prompt {every[0].id!r} has no generations; score what `generate` wrote"
        )
    counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
    earlier: list[epath.Path] = []
    what = f"score with {scorer.name}"
    with terminal.bar(what, sum(map(len, shards)), unit="records") as advance:
        for index, shard in enumerate(shards):
            if output.has_shard(SHARD_NAME, index, len(shards)):
                earlier.append(output.path / outputs.shard_name(SHARD_NAME, index, len(shards)))
                advance(len(shard), earlier=True)
                continue
            scored = _counted(_score_records(shard, scorer, advance), counts)
            output.write_shard(SHARD_NAME, index, len(shards), scored)
    # What an earlier run wrote is counted from its files, which other processes may not see yet.
    counts = processes.current().first_decides(lambda: _with_files(counts, earlier))
    output.finish(
        scorer=scorers.identity(scorer),
        scorer_reliability=getattr(scorer, "reliability", None),
        scorer_languages=scorers.languages(scorer),
        counts=counts,
        **_generated(files),
        **bad_records_lib.counts(aside),
    )
    print(
        f"{output_dir}: {counts['texts']} texts of {counts['records']} records scored by "
        f"{scorer.name} ({scorer.fingerprint}); {counts['missing']} without a score, "
        f"{counts['toxic']} at or above {records.TOXIC}{_notes(counts)}; {len(files)} files"
    )


def _generated(files: Sequence[epath.Path]) -> dict[str, Any]:
    """The settings of the `generate` that wrote the files, for `evaluate`, which compares them.

    Where `filter` chose among them, also how, and by which scorer.
    """
    directory = files[0].parent
    alone = all(file.parent == directory for file in files)
    if not alone or not (directory / outputs.MANIFEST).exists():
        return {}
    manifest = outputs.read_manifest(directory)
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


def _score_records(
    shard: list[records.Record], scorer: scorers.ToxicityScorer, advance: terminal.Advance
) -> Iterator[records.Record]:
    for first in range(0, len(shard), _RECORDS_AT_ONCE):
        group = shard[first : first + _RECORDS_AT_ONCE]
        texts = [text for record in group for text in records.texts_to_score(record)]
        scores = scorers.score_texts(scorer, texts)
        unreadable = scorers.unreadable(scorer, texts, scores)
        first_text = 0
        for record in group:
            end = first_text + len(records.texts_to_score(record))
            yield records.with_toxicity(record, scores[first_text:end], unreadable[first_text:end])
            first_text = end
        advance(len(group))


def _counted(scored: Iterable[records.Record], counts: dict[str, int]) -> Iterator[records.Record]:
    """The same records, added to the counts as they pass."""
    for record in scored:
        texts = [record] if isinstance(record, records.Document) else record.generations
        counts["records"] += 1
        counts["without_texts"] += not texts
        for text in texts:
            counts["texts"] += 1
            counts["missing"] += text.toxicity is None
            counts["unreadable"] += text.unreadable
            counts["empty"] += records.is_empty(text.text)
            counts["toxic"] += text.toxicity is not None and text.toxicity >= records.TOXIC
        yield record


def _with_files(counts: dict[str, int], files: Sequence[epath.Path]) -> dict[str, int]:
    """The counts and those of the files' records."""
    for file in files:
        for _ in _counted(records.read_records(str(file)), counts):
            pass
    return counts


def _notes(counts: dict[str, int]) -> str:
    """What a line about scores adds where there is something to say."""
    notes = {
        "unreadable": "in letters that it cannot read",
        "empty": f"empty, each {scorers.EMPTY_SCORE}",
        "without_texts": "records without continuations",
    }
    return "".join(f"; {counts[name]} {note}" for name, note in notes.items() if counts[name])
