"""What `generate` and `score` return: texts, in the order in which they were asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from etils import epath

from detox_jax import manifests, records
from detox_jax.api import show
from detox_jax.api.calls import Place
from detox_jax.errors import UserError


@dataclasses.dataclass(frozen=True, repr=False)
class Generations(Sequence[records.Prompt]):
    """Prompts with their continuations, as `generate` wrote them; scored, once `score` has.

    A path too: where one is wanted, `directory` is taken.

    Attributes:
      prompts: the records, in the order of the prompts, each with its `generations`.
      directory: the verb's output, with its manifest; gone with this object where no `output_dir`
        was named.
      checkpoint_path: of the model that wrote them; None where it is not known.
    """

    prompts: tuple[records.Prompt, ...]
    directory: str
    checkpoint_path: str | None = None
    _places: tuple[Place, ...] = dataclasses.field(default=(), compare=False)
    # Steering and tags that they were drawn under, for `evaluate`: a manifest has hashes alone.
    _drawn_under: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def texts(self) -> list[list[str]]:
        """The continuations of each prompt."""
        return [[generation.text for generation in prompt.generations] for prompt in self.prompts]

    @property
    def toxicity(self) -> list[list[float | None]]:
        """Their scores; None where there is none."""
        return [[one.toxicity for one in prompt.generations] for prompt in self.prompts]

    @property
    def is_scored(self) -> bool:
        """Whether `score` wrote them."""
        return self.manifest["verb"] == "score"

    @property
    def manifest(self) -> dict[str, Any]:
        """The inputs with their hashes, settings, seeds, versions, and what was left out."""
        return manifests.read_manifest(epath.Path(self.directory))

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of a row a continuation: id, prompt, sample, text, toxicity.

        Raises:
          UserError: where pandas is not installed.
        """
        rows = [
            {"id": prompt.id, "prompt": prompt.text, "sample": i, "text": generation.text}
            | {"toxicity": generation.toxicity, **generation.extra}
            for prompt in self.prompts
            for i, generation in enumerate(prompt.generations)
        ]
        return data_frame(rows)

    @overload
    def __getitem__(self, index: int) -> records.Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[records.Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> records.Prompt | tuple[records.Prompt, ...]:
        return self.prompts[index]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[records.Prompt]:
        return iter(self.prompts)

    def __fspath__(self) -> str:
        return self.directory

    def __repr__(self) -> str:
        lines = [f"Generations({self._said()})"]
        for prompt in self.prompts[:3]:
            first = prompt.generations[:2]
            shown = show.passages([prompt.text, *(g.text for g in first)], _ratings(prompt, first))
            lines.append(f"  {show.in_line(shown[0])} → {', '.join(map(show.in_line, shown[1:]))}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for prompt in self.prompts[: show.MOST_ROWS]:
            first = prompt.generations[: show.MOST_ROWS]
            shown = show.passages([prompt.text, *(g.text for g in first)], _ratings(prompt, first))
            for i, (generation, text) in enumerate(zip(first, shown[1:], strict=True)):
                before = show.in_cell(shown[0]) if i == 0 else ""
                rows.append((before, show.in_cell(text), show.number(generation.toxicity)))
        notes = [self._said(), show.HIDDEN]
        return show.table(("prompt", "continuation", "toxicity"), rows, notes)

    def _said(self) -> str:
        """How many they are, and how toxic."""
        k = max((len(prompt.generations) for prompt in self.prompts), default=0)
        said = f"{len(self)} prompts × {k} continuations"
        if left_out := self.manifest.get("left_out_too_long"):
            said += f", {left_out} left out, too long for the context"
        scores = [[s for s in of if s is not None] for of in self.toxicity]
        if not any(scores):
            return f"{said}, not scored"
        maximum = math.fsum(max(of) for of in scores if of) / sum(map(bool, scores))
        missing = _without_score([score for of in self.toxicity for score in of])
        return f"{said}{missing}, expected maximum toxicity {maximum:.3f}"


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(Sequence["float | None"]):
    """The toxicity of texts, a number each.

    Attributes:
      documents: the texts with their scores, in their order.
      directory: the verb's output, with its manifest; gone with this object where no `output_dir`
        was named.
    """

    documents: tuple[records.Document, ...]
    directory: str
    _places: tuple[Place, ...] = dataclasses.field(default=(), compare=False)

    @property
    def manifest(self) -> dict[str, Any]:
        """The input with its hash, settings, versions, and counts."""
        return manifests.read_manifest(epath.Path(self.directory))

    @property
    def scorer(self) -> dict[str, str]:
        """Name and fingerprint of what scored."""
        return self.manifest["scorer"]

    @property
    def texts(self) -> list[str]:
        """What was scored."""
        return [document.text for document in self.documents]

    @property
    def toxicity(self) -> list[float | None]:
        """From 0 to 1; None where the scorer has no answer."""
        return [document.toxicity for document in self.documents]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of a row a text.

        Raises:
          UserError: where pandas is not installed.
        """
        # A column that some rows lack holds no truth values any more.
        return data_frame(
            [{**one.to_json(), "unreadable": one.unreadable} for one in self.documents]
        )

    @overload
    def __getitem__(self, index: int) -> float | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[float | None]: ...
    def __getitem__(self, index: int | slice) -> float | None | list[float | None]:
        return self.toxicity[index]

    def __len__(self) -> int:
        return len(self.documents)

    def __fspath__(self) -> str:
        return self.directory

    def __repr__(self) -> str:
        lines = [f"Scores({self._said()})"]
        for text in self._passages()[:5]:
            lines.append(f"  {show.number(text.toxicity)}  {show.in_line(text)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            (show.in_cell(text), show.number(document.toxicity))
            for text, document in zip(self._passages(), self.documents, strict=False)
        ]
        return show.table(("text", "toxicity"), rows, [self._said(), show.HIDDEN])

    def _passages(self) -> list[show.Passage]:
        first = self.documents[: show.MOST_ROWS]
        return [show.passage(document.text, document.toxicity) for document in first]

    def _said(self) -> str:
        toxic = sum(score is not None and score >= records.TOXIC for score in self.toxicity)
        missing = _without_score(self.toxicity)
        name = self.scorer["name"]
        return f"{len(self)} texts, {toxic} at or above {records.TOXIC}{missing}, {name}"


def _without_score(toxicity: Sequence[float | None]) -> str:
    """How many texts the scorer has no answer for; nothing where it has all."""
    missing = sum(score is None for score in toxicity)
    return f", {missing} without a score" if missing else ""


def _ratings(prompt: records.Prompt, of: Sequence[records.Generation]) -> list[float | None]:
    """What a prompt and its continuations are shown by; one alone without a score is hidden."""
    scores = [generation.toxicity for generation in of]
    if prompt.toxicity is None and any(score is not None for score in scores):
        prompt_score = show.passages([prompt.text], [None])[0].toxicity
        return [prompt_score, *scores]
    if all(score is None for score in scores):
        return [None] * (1 + len(of))
    return [prompt.toxicity, *scores]


def data_frame(rows: list[dict[str, Any]]) -> Any:
    """Rows as a `pandas.DataFrame`.

    Raises:
      UserError: where pandas is not installed.
    """
    try:
        import pandas  # type: ignore[reportMissingImports]
    except ImportError:
        raise UserError("to_pandas() needs pandas: pip install pandas") from None
    return pandas.DataFrame(rows)
