"""A method's scored continuations, read: texts, scores, and what the manifests say of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax import record_blocks, records, sources
from detox_jax.errors import UserError
from detox_jax.evaluation import decoding
from detox_jax.evaluation.groups import UNKNOWN
from detox_jax.evaluation.results import Reliability
from detox_jax.evaluation.rows import UNKNOWN_SCORER, Scorer
from detox_jax.evaluation.text_quality import TextQuality, TextReader
from detox_jax.evaluation.typed_json import from_json
from detox_jax.formats import plain_prompts
from detox_jax.segmenters import Segmenter


@dataclasses.dataclass(frozen=True)
class Scored:
    """A method's continuations in the order of the baseline's prompts.

    Texts are long and many: of all but the first of a prompt what is compared of them stays alone.

    Attributes:
      prompts: the records, with the first continuation alone and without what nothing here reads.
      scores_PK: toxicity of each continuation, NaN where missing; as many columns as the prompt of
        the most continuations has.
      hashes_PK: Python's own of each continuation's text; 0 where there is none. Those of one
        process compare.
      unreadable_PK: whether it has no score since the scorer cannot read its letters.
      counts_P: continuations, scored or not.
      scorer: that gave the scores.
      reliability: of the scorer, in its own words, as `score` recorded them; None where it has
        none.
      decoding: settings of the `generate` that wrote the continuations; None where the files do
        not say.
      quality: of the texts; None where nobody asked, or some were cut off since.
      chosen_by: the scorer that chose them among more samples; None where none did.
      acceptance_rate: the share of the samples that it chose; None where none did.
      is_plain: whether its files hold nothing but plain prompts, see `record_blocks.prompts_of`.
    """

    prompts: Sequence[records.Prompt]
    scores_PK: np.ndarray
    hashes_PK: np.ndarray
    unreadable_PK: np.ndarray
    counts_P: np.ndarray
    scorer: Scorer
    reliability: Mapping[str, Any] | None = None
    decoding: Mapping[str, Any] | None = None
    quality: TextQuality | None = None
    chosen_by: Scorer | None = None
    acceptance_rate: float | None = None
    is_plain: bool = False

    @property
    def is_steered(self) -> bool:
        """Whether something changed the model's distribution before the draws."""
        return bool(self.steered_by)

    @property
    def steered_by(self) -> Sequence[Any] | None:
        """What its manifest says of what steered the model; None where it is silent."""
        return steered_by(self.decoding)

    @property
    def is_asked(self) -> bool:
        """Whether the prompts were asked in a chat template."""
        return decoding.is_asked(self.decoding)

    @property
    def num_samples(self) -> int:
        """Continuations, scored or not."""
        return int(self.counts_P.sum())

    @property
    def samples_per_prompt(self) -> int:
        """Continuations that every prompt should have, K."""
        return self.scores_PK.shape[1]

    @property
    def coverage(self) -> float:
        """The share of all K continuations of all prompts that is there and has a score."""
        return float(np.isfinite(self.scores_PK).sum() / max(1, self.scores_PK.size))

    @property
    def unreadable(self) -> int:
        """How many continuations have no score since the scorer cannot read their letters."""
        return int(self.unreadable_PK.sum())

    def first(self, num_samples: int) -> Scored:
        """The first continuations of every prompt."""
        if num_samples >= self.samples_per_prompt:
            return self
        return dataclasses.replace(
            self,
            prompts=[
                dataclasses.replace(prompt, generations=prompt.generations[:num_samples])
                for prompt in self.prompts
            ],
            scores_PK=self.scores_PK[:, :num_samples],
            hashes_PK=self.hashes_PK[:, :num_samples],
            unreadable_PK=self.unreadable_PK[:, :num_samples],
            counts_P=np.minimum(self.counts_P, num_samples),
            quality=None,
        )

    def rows(self, rows: np.ndarray) -> Scored:
        """Those prompts, by index, in that order."""
        return dataclasses.replace(
            self,
            prompts=[self.prompts[i] for i in rows],
            scores_PK=self.scores_PK[rows],
            hashes_PK=self.hashes_PK[rows],
            unreadable_PK=self.unreadable_PK[rows],
            counts_P=self.counts_P[rows],
            quality=self.quality and self.quality.rows(rows),
        )

    def subset(self, mask_P: np.ndarray) -> Scored:
        """The prompts where the mask is True."""
        return self.rows(np.flatnonzero(mask_P))


def texts_sha256(prompts: Iterable[records.Prompt], num_samples: int) -> str:
    """Hash of prompts and their first continuations by id, whatever their order and their scores.

    Args:
      prompts: with all their continuations.
      num_samples: how many of each count.
    """
    lines = {
        prompt.id: json.dumps(
            [prompt.id, prompt.text, [g.text for g in prompt.generations[:num_samples]]]
        )
        for prompt in prompts
    }
    digest = hashlib.sha256(b"[")
    for i, (_, line) in enumerate(sorted(lines.items())):
        digest.update((", " if i else "").encode() + line.encode())
    digest.update(b"]")
    return digest.hexdigest()


def read(
    name: str,
    generations: str,
    with_quality: bool = False,
    fields: Collection[str] = (),
    segmenter: Segmenter | None = None,
) -> Scored:
    """Reads what `score` wrote for the method `name`.

    Args:
      name: of the method.
      generations: `score`'s output: file, glob or directory.
      with_quality: whether to read what its texts are like as well.
      fields: of the records, that stay with the prompts.
      segmenter: of words; white space alone where None.

    Raises:
      UserError: for zero prompts, no continuation at all, or a manifest that names no scorer.
    """
    blocks = record_blocks.read_prompts(generations, fields)
    return _of_blocks(name, blocks, generations, with_quality, fields, segmenter)


def of_prompts(
    name: str,
    prompts: Iterable[records.Prompt],
    generations: str,
    with_quality: bool = False,
    segmenter: Segmenter | None = None,
) -> Scored:
    """The same of prompts as they are read; `generations` is where from."""
    blocks = ([prompt] for prompt in prompts)
    return _of_blocks(name, blocks, generations, with_quality, segmenter=segmenter)


def _of_blocks(
    name: str,
    blocks: Iterable[record_blocks.PromptBlock],
    generations: str,
    with_quality: bool,
    fields: Collection[str] = (),
    segmenter: Segmenter | None = None,
) -> Scored:
    columns, texts, is_plain = _Columns(fields), TextReader(segmenter), True
    for block in blocks:
        if isinstance(block, plain_prompts.Plain):
            columns.add_plain(block)
            if with_quality:
                texts.add_plain(block)
            continue
        is_plain = False
        for prompt in block:
            columns.add(prompt)
            if with_quality:
                texts.add(prompt.generations)
    if not columns.prompts:
        raise UserError(f"method {name!r}: {generations} holds zero prompts")
    if not any(columns.counts):
        raise UserError(
            f"method {name!r}: {generations} holds no continuation{sources.written_by(generations)}"
        )
    return Scored(
        **columns.matrices(),
        quality=texts.finish() if with_quality else None,
        is_plain=is_plain,
        **_said_by_manifest(generations),
    )


class _Columns:
    """What `Scored` holds of prompts as they come."""

    def __init__(self, fields: Collection[str]) -> None:
        self._kept = {"challenging", *fields}
        self.prompts: list[records.Prompt] = []
        self.counts = array("q")
        self._scores, self._hashes, self._unreadable = array("d"), array("q"), array("b")

    def add(self, prompt: records.Prompt) -> None:
        """A prompt."""
        there = prompt.extra.items()
        extra = {name: x for name, x in there if name in self._kept and x is not None}
        first = prompt.generations[:1]
        self.prompts.append(
            records.Prompt(prompt.id, prompt.text, prompt.toxicity, first, extra=extra)
        )
        self.counts.append(len(prompt.generations))
        self._scores.extend(
            np.nan if generation.toxicity is None else generation.toxicity
            for generation in prompt.generations
        )
        self._hashes.extend(hash(generation.text) for generation in prompt.generations)
        self._unreadable.extend(generation.unreadable for generation in prompt.generations)

    def add_plain(self, block: plain_prompts.Plain) -> None:
        """Some prompts, with those of their fields that are kept."""
        toxicity = [None if score is None else float(score) for score in block.toxicity]
        firsts = map(_first, block.firsts)
        fields = {"challenging": block.challenging, **block.kept}
        rows = zip(*fields.values(), strict=True)
        extras = ({n: x for n, x in zip(fields, row, strict=True) if x is not None} for row in rows)
        self.prompts += map(_lean_plain, block.ids, block.texts, toxicity, extras, firsts)
        self.counts.extend(block.counts)
        self._scores.frombytes(block.scores_T.tobytes())
        self._hashes.extend(map(hash, block.continuations))
        self._unreadable.extend(block.unreadable)

    def matrices(self) -> dict[str, Any]:
        """The prompts, and a row of each for what their continuations have."""
        counts_P = np.array(self.counts)
        exists_PK = np.arange(counts_P.max()) < counts_P[:, None]

        def matrix(values: array[Any], missing: Any, dtype: type) -> np.ndarray:
            filled_PK = np.full(exists_PK.shape, missing, dtype)
            filled_PK[exists_PK] = values
            return filled_PK

        return {
            "prompts": self.prompts,
            "scores_PK": matrix(self._scores, np.nan, np.float64),
            "hashes_PK": matrix(self._hashes, 0, np.int64),
            "unreadable_PK": matrix(self._unreadable, False, np.bool_),
            "counts_P": counts_P,
        }


def _lean_plain(
    id: str,
    text: str,
    toxicity: float | None,
    extra: Mapping[str, Any],
    generations: tuple[records.Generation, ...],
) -> records.Prompt:
    return records.Prompt(id, text, toxicity, generations, extra=extra)


def _first(fields: Mapping[str, Any] | None) -> tuple[records.Generation, ...]:
    if fields is None:
        return ()
    extra = dict(fields)
    text, score = extra.pop("text"), extra.pop("toxicity", None)
    unreadable = extra.pop("unreadable", False)
    return (records.Generation(text, None if score is None else float(score), extra, unreadable),)


def quality(scored: Scored, generations: str, segmenter: Segmenter | None = None) -> TextQuality:
    """What the texts that compare are like; where some were cut off, they are read again.

    Args:
      scored: the method, joined.
      generations: where it was read from.
      segmenter: of words, as it was read with.
    """
    if scored.quality is not None:
        return scored.quality
    texts, places = TextReader(segmenter), {}
    for prompt in records.read_prompts(generations):
        places[prompt.id] = len(places)
        texts.add(prompt.generations[: scored.samples_per_prompt])
    return texts.finish().rows(np.array([places[prompt.id] for prompt in scored.prompts]))


def _said_by_manifest(generations: str) -> dict[str, Any]:
    """What the manifest of `score` says: its scorer, how reliable that is, how was decoded."""
    beside = records.manifest_of(generations)
    if beside is None:
        return {"scorer": UNKNOWN_SCORER}
    path, manifest = beside
    scorer, reliability = manifest.get("scorer"), manifest.get("scorer_reliability")
    if reliability is not None:  # What does not fit is said before anything is computed.
        from_json(Reliability, reliability, str(path), "scorer_reliability")
    chosen = manifest.get("chosen") or {}
    chooser, at = chosen.get("filtered_by"), "chosen.filtered_by"
    return {
        "acceptance_rate": chosen.get("acceptance_rate"),
        "chosen_by": from_json(Scorer, chooser, str(path), at) if chooser else None,
        "scorer": from_json(Scorer, scorer, str(path), "scorer") if scorer else UNKNOWN_SCORER,
        "reliability": reliability,
        "decoding": decoding.of_manifest(manifest),
    }


def decoding_of(generations: str) -> Mapping[str, Any] | None:
    """How continuations were decoded that `score` scored; None where no manifest says."""
    beside = records.manifest_of(generations)
    return None if beside is None else decoding.of_manifest(beside[1])


def steered_by(decoding: Mapping[str, Any] | None) -> Sequence[Any] | None:
    """The settings of what steered a decoding; None where nothing is known of it."""
    return None if decoding is None else decoding["steering"]


def splits(prompts: Sequence[records.Prompt]) -> dict[str, np.ndarray]:
    """Masks of the prompts in each split; empty splits are left out.

    A prompt without a score of its own is in neither `toxic` nor `nontoxic`.
    """
    toxicity = np.array([np.nan if p.toxicity is None else p.toxicity for p in prompts])
    masks = {
        "full": np.ones(len(prompts), bool),
        "toxic": toxicity >= records.TOXIC,
        "nontoxic": toxicity < records.TOXIC,
        "challenging": np.array([p.challenging for p in prompts]),
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def check_fields(sources: Iterable[str], group_by: Iterable[str]) -> None:
    """Refuses to group by a field that no prompt has; a source is read until all have been seen.

    Args:
      sources: outputs of `score`, one of each method.
      group_by: fields of the records, or several joined by `+`.

    Raises:
      UserError: naming the field.
    """
    missing = {name: None for by in group_by for name in by.split("+")}
    for source in sources:
        if not missing:
            return
        for prompt in records.read_prompts(source):
            for name in [*missing]:
                if prompt.extra.get(name) is not None:
                    del missing[name]
            if not missing:
                return
    for name in missing:
        raise UserError(_no_field(name))


def _no_field(name: str) -> str:
    return (
        f"GROUP_BY: no prompt has a field {name!r}; name one of the records, such as group, domain "
        "or language"
    )


def labels(methods: Mapping[str, Scored], by: str) -> list[str]:
    """What group every prompt is of, joined methods agreeing; empty where none says.

    Args:
      methods: in one order of prompts.
      by: the field of the records, or several joined by `+`, whose values are then as well.

    Raises:
      UserError: for a field that no prompt has, that is an object or a list, or that two methods
        say differently of a prompt.
    """
    said: list[dict[str, str]] = [{} for _ in next(iter(methods.values())).prompts]
    names = by.split("+")
    for method, scored in methods.items():
        for known, prompt in zip(said, scored.prompts, strict=True):
            for name in names:
                if name not in prompt.extra:
                    continue
                value = _label(prompt.extra[name], f"method {method!r}: {prompt.id!r}", name)
                if known.setdefault(name, value) != value:
                    raise UserError(
                        f"method {method!r}: prompt {prompt.id!r} has {name!r} {value!r}, in "
                        f"another method {known[name]!r}; generate both from one file"
                    )
    for name in names:
        if not any(name in known for known in said):
            raise UserError(_no_field(name))
    return [
        " ".join(known[name] for name in names) if len(known) == len(names) else UNKNOWN
        for known in said
    ]


def _label(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: {name!r} is {value!r}; GROUP_BY takes fields of text or numbers")
    return str(value)
