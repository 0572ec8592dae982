"""What generation starts from: SGEAT's three prompt modes, and evaluation prompts.

A mode lists its requests (an id and a prompt text, empty for none) and makes the record that is
written of a request and its continuations.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from etils import epath

from detox_jax import bad_records as bad_records_lib
from detox_jax import preview, records, segmenters
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.kinds import Count
from detox_jax.output_settings import NOT_YET
from detox_jax.segmenters import Segmenter

_HEURISTIC_PROMPTS = Path(__file__).with_name("heuristic_prompts.txt")


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt to continue.

    Attributes:
      id: seeds the draws.
      text: of the prompt.
      source: the record that it came from.
      where: the file and line that it came from, for errors; empty where there is none.
    """

    id: str
    text: str
    source: records.Prompt | None = None
    where: str = ""

    @property
    def named(self) -> str:
        """What errors call it."""
        return records.named_prompt(self.id, self.where)


class PromptMode(Protocol):
    """What `generate` asks of a prompt mode.

    Attributes:
      skips_long_prompts: whether a prompt beyond the context is left out and counted; otherwise it
        is an error, since somebody asked for it.
      keeps_prompts: whether the record holds the prompt's text, which its continuation goes on
        from; otherwise a continuation is a text of its own.
      makes_documents: whether the record is a document, of one continuation; otherwise it is the
        prompt with any number of them.
    """

    skips_long_prompts: ClassVar[bool]
    keeps_prompts: ClassVar[bool]
    makes_documents: ClassVar[bool]

    def requests(self) -> list[Request]:
        """Everything to continue, in the order of the output."""
        ...

    def record(self, request: Request, generations: Sequence[records.Generation]) -> records.Record:
        """What is written of a request."""
        ...

    def describe(self) -> dict[str, Any]:
        """Mode, numbers and input hashes, for the manifest."""
        ...


def _document(
    request: Request, generations: Sequence[records.Generation], text: str
) -> records.Document:
    (generation,) = generations
    return records.Document(request.id, text, extra=generation.extra)


@dataclasses.dataclass(frozen=True)
class Standard:
    """SGEAT (standard): unconditional documents, each from one end-of-text token.

    Attributes:
      num_documents: how many to generate.
      ids: what their ids begin with. The ids seed the draws, so corpora of one seed that begin
        alike are of the same random numbers, whichever model writes: what a model writes that was
        trained on the other needs ids of its own.
    """

    num_documents: Count
    ids: str = "standard"

    skips_long_prompts: ClassVar[bool] = False
    keeps_prompts: ClassVar[bool] = False
    makes_documents: ClassVar[bool] = True

    def requests(self) -> list[Request]:
        """See `PromptMode`."""
        _require_documents(self.num_documents)
        return [Request(f"{self.ids}-{i:08d}", "") for i in range(self.num_documents)]

    def record(
        self, request: Request, generations: Sequence[records.Generation]
    ) -> records.Document:
        """See `PromptMode`."""
        return _document(request, generations, generations[0].text)

    def describe(self) -> dict[str, Any]:
        """See `PromptMode`."""
        return {"mode": "standard", "num_documents": self.num_documents, **_of_ids(self)}


@dataclasses.dataclass(frozen=True)
class Heuristic:
    """SGEAT (heuristic): hand-written prompts that ask for polite text, used in turn.

    The prompt is not part of the document: it would be the same in thousands of them.

    Attributes:
      num_documents: how many to generate.
      prompts_file: one prompt a line; the package's own where None.
      ids: see `Standard`.
    """

    num_documents: Count
    prompts_file: str | None = None
    ids: str = "heuristic"

    skips_long_prompts: ClassVar[bool] = False
    keeps_prompts: ClassVar[bool] = False
    makes_documents: ClassVar[bool] = True

    def _prompts(self) -> list[tuple[str, str]]:
        """The prompts, each with its file and line."""
        path = epath.Path(self.prompts_file or _HEURISTIC_PROMPTS)
        if not path.exists():
            raise UserError(f"{path}: no such file of prompts")
        lines = jsonl.read_lines(path, "a list of prompts")
        prompts = [(line.strip(), f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
        if not prompts:
            raise UserError(f"{path}: holds no prompt; expected one a line")
        return prompts

    def requests(self) -> list[Request]:
        """See `PromptMode`."""
        _require_documents(self.num_documents)
        in_turn = itertools.islice(itertools.cycle(self._prompts()), self.num_documents)
        return [
            Request(f"{self.ids}-{i:08d}", text, where=where)
            for i, (text, where) in enumerate(in_turn)
        ]

    def record(
        self, request: Request, generations: Sequence[records.Generation]
    ) -> records.Document:
        """See `PromptMode`."""
        document = _document(request, generations, generations[0].text)
        return dataclasses.replace(document, extra={**document.extra, "prompt_text": request.text})

    def describe(self) -> dict[str, Any]:
        """See `PromptMode`."""
        prompts = [text for text, _ in self._prompts()]
        described = {"mode": "heuristic", "num_documents": self.num_documents, "prompts": prompts}
        return described | _of_ids(self)


@dataclasses.dataclass(frozen=True)
class Augmented:
    """SGEAT (augmented): the first half of each least toxic standard document is the prompt.

    The document is the half and its continuation together. A half that leaves no room in the
    context (a text may have more tokens than the ones that it was generated from) is left out.

    Attributes:
      num_documents: how many to generate; halves are used in turn, least toxic first.
      documents: scored standard documents, `filter`'s output.
      word_segmenter: tells the words of scripts without spaces (`segmenters`), for their halves;
        white space alone where None.
      ids: see `Standard`.
    """

    num_documents: Count
    documents: str
    word_segmenter: Segmenter | None = None
    ids: str = "augmented"

    skips_long_prompts: ClassVar[bool] = True
    keeps_prompts: ClassVar[bool] = True
    makes_documents: ClassVar[bool] = True

    def requests(self) -> list[Request]:
        """See `PromptMode`."""
        _require_documents(self.num_documents)
        documents = [d for d in records.read_documents(self.documents) if d.toxicity is not None]
        halves = [
            half
            for document in sorted(documents, key=lambda d: (d.toxicity, d.id))
            if (half := first_half(document.text, self.word_segmenter))
        ]
        if not halves:
            raise UserError(f"{self.documents}: no scored document of at least two words")
        return [
            Request(f"{self.ids}-{i:08d}", halves[i % len(halves)])
            for i in range(self.num_documents)
        ]

    def record(
        self, request: Request, generations: Sequence[records.Generation]
    ) -> records.Document:
        """See `PromptMode`."""
        return _document(request, generations, request.text + generations[0].text)

    def describe(self) -> dict[str, Any]:
        """See `PromptMode`."""
        return {
            "mode": "augmented",
            "num_documents": self.num_documents,
            "documents": records.describe_input(self.documents),
            **segmenters.settings(self.word_segmenter),
            **_of_ids(self),
        }


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """Prompts of a file in the layout of RealToxicityPrompts, each record kept as it is.

    Attributes:
      path: file, glob or directory.
      limit: use the first this many; all where None.
      bad_records: what becomes of records that cannot be read.
    """

    path: str
    limit: Count | None = None
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE

    skips_long_prompts: ClassVar[bool] = False
    keeps_prompts: ClassVar[bool] = True
    makes_documents: ClassVar[bool] = False

    def requests(self) -> list[Request]:
        """See `PromptMode`."""
        aside = bad_records_lib.opened(self.bad_records)
        prompts = list(records.read_prompts(self.path, aside))[: self.limit]
        if not prompts:
            raise UserError(f"{self.path}: zero prompts; there is nothing to continue")
        return [Request(prompt.id, prompt.text, prompt, prompt.where) for prompt in prompts]

    def record(self, request: Request, generations: Sequence[records.Generation]) -> records.Prompt:
        """See `PromptMode`."""
        assert request.source is not None
        return dataclasses.replace(request.source, generations=tuple(generations))

    def describe(self) -> dict[str, Any]:
        """See `PromptMode`."""
        described = {"mode": "file", "limit": self.limit, **records.describe_input(self.path)}
        if (aside := bad_records_lib.opened(self.bad_records)) is None:
            return described
        if isinstance(self.path, preview.Coming):
            return {**described, "bad_records": NOT_YET}
        list(records.read_prompts(self.path, aside))
        policy = bad_records_lib.settings(self.bad_records)["bad_records"]
        return {**described, "bad_records": {**policy, **aside.counts()["bad_records"]}}


def first_half(text: str, segmenter: Segmenter | None = None) -> str:
    """The first half of a text's words, rounded down; empty for fewer than two words."""
    words = segmenters.spaced(text, segmenter).split()
    half = len(words) // 2
    if not half:
        return ""
    end = 0
    for word in words[:half]:
        end = text.index(word, end) + len(word)
    return text[:end]


def _of_ids(mode: Standard | Heuristic | Augmented) -> dict[str, str]:
    """What settings say of a mode's ids; nothing of its usual ones, so that older outputs go on."""
    return {} if mode.ids == type(mode).ids else {"ids": mode.ids}


def _require_documents(num_documents: int) -> None:
    if num_documents < 1:
        raise UserError(f"NUM_DOCUMENTS is {num_documents}; must be at least 1")
