"""Verb `human_results`: what raters answered on the sheets of `human_sheets`, opened by the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detox_jax import atomic_files, manifests, output_settings, outputs, preview
from detox_jax.evaluation.typed_json import from_json, read_json, to_json
from detox_jax.human import answers, outcomes, tables
from detox_jax.human import key as keys
from detox_jax.human.answers import Answered
from detox_jax.human.key import Key
from detox_jax.human.results import SCHEMA_VERSION, HumanResults
from detox_jax.kinds import Draws, Seed
from detox_jax.preview import Step

RESULTS_FILE = "human_results.json"
FREE = ("output_dir", "check_only")  # see `output_settings`


def human_results(
    key: str,
    sheets: str | Sequence[str],
    output_dir: str,
    allow_missing: bool = False,
    bootstrap_draws: Draws = 10_000,
    random_seed: Seed = 0,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes how often a method won, tied and lost, and how far raters agree.

    Writes `human_results.json`, unrounded, with `human_results.csv`, and `human_results.md`, for
    people. A rater whose sheet is not given is left out, and that is noted.

    Args:
      key: the output of `human_sheets`, or its `key.json`.
      sheets: filled sheets: files, globs or directories of CSV, one or several.
      output_dir: where the results go.
      allow_missing: whether answers may be missing; they are counted.
      bootstrap_draws: resamples of the prompts behind each 95 % interval, and sign flips.
      random_seed: of both.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: naming file and row, for what is not an answer on a sheet of this key.
    """
    arguments = locals()

    def decides() -> dict[str, Any]:
        files = answers.files_of(sheets)
        return output_settings.of_verb(
            human_results,
            arguments,
            free=FREE,
            instead={
                "key": {"key": {"path": key, "sha256": manifests.hash_files([keys.file_of(key)])}},
                "sheets": {
                    "sheets": [{"path": str(f), "sha256": manifests.hash_files([f])} for f in files]
                },
            },
        )

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "human_results", decides):
            return [Step("human_results", output_dir)]
    opened = keys.read(key)
    files = answers.files_of(sheets)
    if check_only:
        answered = answers.read(opened, files, allow_missing)
        number = sum(len(item.answers) for item in answered)
        return [Step("human_results", output_dir, {"sheets": len(files), "answers": number})]
    settings = decides()
    output = outputs.OutputDirectory(output_dir, "human_results", settings)
    if not output.complete:
        answered = answers.read(opened, files, allow_missing)
        results = HumanResults(
            schema_version=SCHEMA_VERSION,
            outcomes=outcomes.outcomes(opened, answered, bootstrap_draws, random_seed),
            agreement=outcomes.agreements(opened, answered, bootstrap_draws, random_seed),
            raters=outcomes.raters(opened, answered),
            notes=_notes(opened, answered),
            statistics=outcomes.STATISTICS,
            settings=settings,
            versions=output.manifest["versions"],
        )
        atomic_files.write_json(output.path / RESULTS_FILE, atomic_files.finite(to_json(results)))
        markdown, csv = tables.markdown(results), tables.csv_table(results)
        atomic_files.write_bytes(output.path / "human_results.md", markdown.encode())
        atomic_files.write_bytes(output.path / "human_results.csv", csv.encode())
        output.finish(raters=len(results.raters), answers=sum(x.answers for x in results.raters))
    file = output.path / RESULTS_FILE
    print(tables.markdown(from_json(HumanResults, read_json(file), str(file)), is_short=True))
    print(f"{output.path / 'human_results.md'}: these tables, by split of prompts and by pair")
    return None


def _notes(key: Key, answered: Sequence[Answered]) -> tuple[str, ...]:
    """Sentences on what is missing."""
    there = {item.rater for item in answered}
    notes = []
    if absent := [str(sheet.rater) for sheet in key.sheets if sheet.rater not in there]:
        notes.append(f"Without the sheets of raters {', '.join(absent)}.")
    asked = sum(len(s.rows) for s in key.sheets if s.rater in there) * len(key.questions)
    if missing := asked - sum(len(item.answers) for item in answered):
        notes.append(f"{missing:,} of {asked:,} answers are missing.")
    if same := sum(x.method_text == x.against_text for x in key.comparisons):
        notes.append(f"{same:,} of {len(key.comparisons):,} comparisons are of two equal texts.")
    return tuple(notes)
