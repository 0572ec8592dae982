"""Verb `human_sheets`: blinded sheets on which people compare methods' continuations.

The protocol is that of DExperts (Liu et al., 2021, section 3.3): two continuations of one prompt
side by side, and which of them is less toxic, more fluent, more topical, or neither; several raters
judge each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from detox_jax import atomic_files, manifests, output_settings, outputs, preview, records
from detox_jax.errors import UserError, takes_no_files
from detox_jax.evaluation import decoding, joined, scored_texts
from detox_jax.evaluation.joined import Joined
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.human import draws, sheets, texts
from detox_jax.human import key as keys
from detox_jax.human.key import Comparison, Key, Pair
from detox_jax.kinds import Count, Seed, Share
from detox_jax.preview import Step
from detox_jax.records import Prompt

FREE = ("output_dir", "sheets_dir", "check_only")  # see `output_settings`
_OWN = "OWN_DECODING={{'{method}': ['{setting}']}}"  # see `decoding.compare`
_ALIKE = (
    "{count:,} prompts are left out: too few of their continuations differ, and no text is shown "
    "twice."
)
_WARNING = (
    "warning: {place} shows what the models wrote, toxic text unmasked, as raters must see it; "
    "tell them before, and let them stop at any time"
)


def human_sheets(
    methods: Mapping[str, str],
    output_dir: str,
    sheets_dir: str,
    baseline: str = "base",
    pairs: Sequence[Sequence[str]] | None = None,
    num_prompts: Count = 120,
    toxic_share: Share | None = None,
    samples_per_prompt: Count = 2,
    raters: Count = 3,
    own_decoding: Mapping[str, Sequence[str]] | None = None,
    random_seed: Seed = 0,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes a sheet and a page for each rater, and the key that opens them to another place.

    Every rater judges all comparisons, in an order of the rater's own and with sides of the rater's
    own. Nothing in a sheet says which system wrote what; the key, `key.json`, does, and lies beside
    the manifest in `output_dir`. A sheet that is there is never written over.

    Args:
      methods: continuations by name, scored or not: files, globs or directories.
      output_dir: where the key goes, which raters must not see.
      sheets_dir: where what raters get goes; neither directory may be in the other.
      baseline: the method that the others are compared with.
      pairs: what is compared instead, `[['mine', 'base'], ['mine', 'other']]`; wins of the first of
        two are counted.
      num_prompts: how many are drawn.
      toxic_share: the share of the prompts that are toxic (0.5 or more by their own score), the
        rest being nontoxic; as they come where None.
      samples_per_prompt: comparisons of a pair on each prompt, each of other continuations.
      raters: how many sheets are made.
      own_decoding: by method, the settings of decoding in which it is meant to differ.
      random_seed: of all draws.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for methods that do not compare, too few prompts or continuations, and a sheet
        in the way.
    """
    arguments = locals()
    compared = _pairs(methods, baseline, pairs)
    _check_apart(output_dir, sheets_dir)
    _check_handed_on(sheets_dir)
    _check_own(methods, own_decoding)
    used = {name: path for name, path in methods.items() if name in _names(compared)}

    def settings() -> dict[str, Any]:
        """What decides the output."""
        described = {name: records.describe_input(path) for name, path in used.items()}
        return output_settings.of_verb(
            human_sheets,
            arguments,
            free=FREE,
            instead={
                "methods": {"methods": described},
                "pairs": {"pairs": [[pair.method, pair.against] for pair in compared]},
                "baseline": {},
            },
        )

    if check_only:
        preview.checked_output(output_dir)
        preview.checked_output(sheets_dir)
        if outputs.check(output_dir, "human_sheets", settings):
            return [Step("human_sheets", output_dir)]

    plan = _Plan(compared, num_prompts, toxic_share, samples_per_prompt, raters, random_seed)
    if check_only:
        key, _ = _key(used, plan, own_decoding)
        _check_free(sheets.files(key), sheets_dir)
        counts = {"raters": raters, "prompts": num_prompts, "comparisons": len(key.comparisons)}
        return [Step("human_sheets", output_dir, counts)]
    output = outputs.OutputDirectory(output_dir, "human_sheets", settings())
    key_file = output.path / keys.KEY_FILE

    # --- the draw ------------------------------------------------------------------------------
    if output.complete:
        files = sheets.files(keys.read(str(key_file)))
    else:
        key, notes = _key(used, plan, own_decoding)
        files = sheets.files(key)
        _check_free(files, sheets_dir)
        with _writing(sheets_dir):  # Before the key, which is no use without them.
            epath.Path(sheets_dir).mkdir(parents=True, exist_ok=True)
        keys.write(key_file, key)

    # --- sheets --------------------------------------------------------------------------------
    place = epath.Path(sheets_dir)
    with _writing(sheets_dir):
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if not (place / name).exists():
                atomic_files.write_bytes(place / name, content, in_output=False)
    if not output.complete:
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        output.finish(
            code=key.code, comparisons=len(key.comparisons), sheets=hashes, notes=list(notes)
        )
        print(
            f"{sheets_dir}: sheets of {raters} raters, {len(key.comparisons)} comparisons on each; "
            f"{key_file} opens them, and raters must not see it"
        )
        for note in notes:
            print(note)
    print(_WARNING.format(place=sheets_dir))
    return None


@contextlib.contextmanager
def _writing(sheets_dir: str) -> Iterator[None]:
    """Says in one line that the sheets' place takes none; a full disk is the storage's."""
    try:
        yield
    except OSError as error:
        if not takes_no_files(error):
            raise
        reason = error.strerror or error
        raise UserError(f"SHEETS_DIR={sheets_dir}: cannot be written: {reason}") from None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is drawn, see `human_sheets`."""

    pairs: tuple[Pair, ...]
    num_prompts: int
    toxic_share: float | None
    samples: int
    raters: int
    seed: int


# --- checks -----------------------------------------------------------------------------------


def _pairs(
    methods: Mapping[str, str], baseline: str, pairs: Sequence[Sequence[str]] | None
) -> tuple[Pair, ...]:
    """What is compared: every method with the baseline, or as it was said."""
    joined.check_some(methods)
    if pairs is None:
        joined.check_baseline(methods, baseline)
        made = tuple(Pair(name, baseline) for name in methods if name != baseline)
        if not made:
            raise UserError(f"METHODS names {baseline!r} alone; give a method to compare it with")
        return made
    made = []
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise UserError(f"PAIRS: {list(pair)!r} is not two methods")
        if unknown := [name for name in pair if name not in methods]:
            raise UserError(f"PAIRS: {unknown[0]!r} is none of the methods: {', '.join(methods)}")
        if any({*pair} == {other.method, other.against} for other in made):
            raise UserError(f"PAIRS: {list(pair)!r} stands twice")
        made.append(Pair(*pair))
    if not made:
        raise UserError("PAIRS is empty; leave it None to compare all methods with BASELINE")
    return tuple(made)


def _names(pairs: Iterable[Pair]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in (pair.against, pair.method)))


def _check_apart(output_dir: str, sheets_dir: str) -> None:
    """The key must not be handed on with the sheets, by a copy of their directory or its parent."""
    places = (atomic_files.real_path(place) for place in (output_dir, sheets_dir))
    inside = [place.rstrip("/") + "/" for place in places]
    if inside[0].startswith(inside[1]) or inside[1].startswith(inside[0]):
        raise UserError(
            f"SHEETS_DIR={sheets_dir} and OUTPUT_DIR={output_dir}, which holds the key: one is in "
            "the other; give directories apart, so that raters never get the key"
        )


def _check_handed_on(sheets_dir: str) -> None:
    """Raters get all that lies in the directory, which may be the key of an earlier draw."""
    place = epath.Path(sheets_dir)
    if (verb := manifests.verb_of(place)) is not None:
        raise UserError(
            f"SHEETS_DIR={sheets_dir}: holds the output of `{verb}`, which raters would get with "
            "the sheets; choose another"
        )


def _check_own(
    methods: Mapping[str, str], own_decoding: Mapping[str, Sequence[str]] | None
) -> None:
    if unknown := (own_decoding or {}).keys() - methods.keys():
        raise UserError(
            f"OWN_DECODING: {min(unknown)!r} is none of the methods: {', '.join(methods)}"
        )
    decoding.check_own(own_decoding or {}, _OWN)


def _check_free(files: Mapping[str, bytes], sheets_dir: str) -> None:
    """Refuses a place with other sheets in it, which may be filled in."""
    for name, content in files.items():
        path = epath.Path(sheets_dir) / name
        if path.exists() and path.read_bytes() != content:
            raise UserError(
                f"{path}: is there, and is not this sheet: another draw, or filled in; give "
                "another SHEETS_DIR"
            )


# --- the key ----------------------------------------------------------------------------------


def _key(
    methods: Mapping[str, str], plan: _Plan, own_decoding: Mapping[str, Sequence[str]] | None
) -> tuple[Key, tuple[str, ...]]:
    """The key, and sentences on what was cut to a common part or could not be checked."""
    scored = {name: scored_texts.read(name, path) for name, path in methods.items()}
    joined_texts = joined.join_texts(scored, plan.pairs[0].against, own_decoding, _OWN)
    _check_different(joined_texts.methods, plan.pairs)
    candidates, alike = _candidates(joined_texts, draws.needed(plan.pairs, plan.samples))
    kept = next(iter(joined_texts.methods.values())).samples_per_prompt
    comparisons, passed = _comparisons(methods, plan, candidates, kept)
    notes = joined_texts.notes
    if left_out := alike + passed:
        notes = (*notes, _ALIKE.format(count=left_out))
    code = draws.code(comparisons, plan.raters, plan.seed)
    key = Key(
        schema_version=keys.SCHEMA_VERSION,
        code=code,
        questions=keys.QUESTIONS,
        pairs=plan.pairs,
        comparisons=comparisons,
        sheets=tuple(
            draws.sheet(rater, comparisons, code, plan.seed) for rater in range(1, plan.raters + 1)
        ),
    )
    return key, notes


def _check_different(scored: Mapping[str, Scored], pairs: Sequence[Pair]) -> None:
    """Raters are not asked which of two is better that are one."""
    for pair in pairs:
        mine, theirs = (scored[name].hashes_PK for name in (pair.method, pair.against))
        if np.array_equal(mine, theirs):
            raise UserError(
                f"METHODS: {pair.method!r} and {pair.against!r} have the same continuations, of "
                "which raters can say nothing; give each method its own"
            )


def _candidates(joined_texts: Joined, needed: Mapping[str, int]) -> tuple[list[Prompt], int]:
    """The prompts that every system has enough continuations of, and of how many too few differ."""
    for name, number in needed.items():
        there = joined_texts.methods[name].samples_per_prompt
        if there < number:
            raise UserError(
                f"method {name!r}: {number} continuations of each prompt are needed, so that none "
                f"is shown twice, and {there} compare; lower SAMPLES_PER_PROMPT, name fewer PAIRS, "
                "or generate more"
            )
    prompts = next(iter(joined_texts.methods.values())).prompts
    compared = [(joined_texts.methods[name], number) for name, number in needed.items()]
    candidates, alike = [], 0
    for i, prompt in enumerate(prompts):
        if any(method.counts_P[i] < number for method, number in compared):
            continue
        hashes = [{*method.hashes_PK[i, : method.counts_P[i]].tolist()} for method, _ in compared]
        enough = all(
            len(of) >= number for of, (_, number) in zip(hashes, compared, strict=True)
        ) and len(set().union(*hashes)) >= sum(needed.values())
        if enough:
            candidates.append(prompt)
        else:
            alike += 1
    return candidates, alike


def _comparisons(
    methods: Mapping[str, str], plan: _Plan, candidates: Sequence[Prompt], kept: int
) -> tuple[tuple[Comparison, ...], int]:
    """The comparisons of the prompts that are drawn, and how many were passed over for others.

    Too few texts of these differ once they are shown.
    """
    made: dict[str, tuple[Comparison, ...] | None] = {}
    while True:
        left = [prompt for prompt in candidates if made.get(prompt.id, ()) is not None]
        drawn = draws.prompts(left, plan.num_prompts, plan.toxic_share, plan.seed)
        if new := [prompt for prompt in drawn if prompt.id not in made]:
            of_systems = {name: _texts(name, path, new, kept) for name, path in methods.items()}
            for prompt in new:
                text = texts.shown(prompt.text, f"prompt {prompt.id!r}")
                made[prompt.id] = draws.comparisons(
                    dataclasses.replace(prompt, text=text),
                    {name: of_prompts[prompt.id] for name, of_prompts in of_systems.items()},
                    plan.pairs,
                    plan.samples,
                    plan.seed,
                )
        of_drawn = [made[prompt.id] for prompt in drawn]
        if None not in of_drawn:
            comparisons = tuple(x for of_prompt in of_drawn for x in of_prompt or ())
            return comparisons, sum(x is None for x in made.values())


def _texts(name: str, path: str, drawn: Sequence[Prompt], kept: int) -> dict[str, list[str]]:
    """A method's first continuations of the drawn prompts as raters read them, by prompt's id."""
    wanted = {prompt.id for prompt in drawn}
    return {
        prompt.id: [
            texts.shown(generation.text, f"method {name!r}: {prompt.named}")
            for generation in prompt.generations[:kept]
        ]
        for prompt in records.read_prompts(path)
        if prompt.id in wanted
    }
