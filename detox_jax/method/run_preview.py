"""What `sgeat` is going to do: the checks of all of its verbs, before the first of them works.

The verbs are asked in the order of the story, each with `check_only`. What an earlier step is going
to write is given as `preview.Coming`, so that a verb checks the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import preview
from detox_jax.errors import UserError
from detox_jax.method import fitted_vectors
from detox_jax.method.corpus import Corpus
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.makers import Makers
from detox_jax.method.method import (
    BASE,
    DOCUMENT_LIMIT,
    Method,
    answers_as,
    can_be_asked,
    decodings,
    model_row,
)
from detox_jax.method.places import placed, trained_by
from detox_jax.preview import Coming, ComingText, Step


@dataclasses.dataclass(frozen=True)
class RunPreview:
    """The steps of a run.

    Attributes:
      root: its directory.
      place: where its figures go.
      rows: all rows that there are.
      measured: names of those of its results.
      order: corpora and rows as `method.in_order` has them, those that are made.
      vectors: what is fitted to steer rows, by name.
      given: the arguments of `sgeat`.
      compared: what the report is told beside its results.
    """

    root: epath.Path
    place: epath.Path
    rows: Mapping[str, Method]
    measured: Sequence[str]
    order: Sequence[tuple[str, Corpus | Method]]
    vectors: Mapping[str, Vectors]
    given: Mapping[str, Any]
    compared: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def steps(self) -> list[Step]:
        """All steps, checked, in their order.

        Raises:
          UserError: see the verbs.
        """
        preview.checked_root(str(self.root))
        steps = [*self._base(), *self._corpora_and_models(), *self._fits(), *self._continuations()]
        steps += self._answers()
        steps += _behind(steps, self._evaluation())
        return steps + _behind(steps, self._report(are_there=_are_done(steps)))

    @property
    def _makers(self) -> Makers:
        return Makers.of(self.given)

    @property
    def _base_path(self) -> str:
        given = self.given["initial_checkpoint_path"]
        return self._coming(BASE) if given is None else given

    def _coming(self, *parts: str) -> str:
        """A path that an earlier step writes: as it is where it stands already."""
        path = self.root.joinpath(*parts)
        return str(path) if preview.is_done(str(path)) else Coming(path)

    def _given(self, name: str, made: str) -> str:
        path = self.given[name]
        return self._coming("text", made) if path is None else path

    def _require_all(self) -> None:
        """Refuses a run for all that it lacks, at once."""
        makers = {
            "initial_checkpoint_path": ("prepare", "train_vocabulary", "pretrain"),
            "prompts_input": ("prepare",),
            "heldout": ("prepare",),
        }
        missing = [
            name.upper()
            for name, made_by in makers.items()
            if self.given[name] is None and any(self.given[maker] is None for maker in made_by)
        ]
        if missing == ["INITIAL_CHECKPOINT_PATH"]:
            raise UserError("no base model: set INITIAL_CHECKPOINT_PATH to the one to detoxify")
        if missing:
            flags = " ".join(f"--gin.{name}=..." for name in missing)
            raise UserError(f"required and not set: {', '.join(missing)}; pass {flags}")

    def _base(self) -> Iterator[Step]:
        """A base model that the run makes, where it makes one; the user's files before."""
        self._require_all()
        if self.given["initial_checkpoint_path"] is not None:
            return
        train_vocabulary, pretrain = self.given["train_vocabulary"], self.given["pretrain"]
        given = {"prompts": "prompts_input", "heldout_nontoxic": "heldout"}
        parts = ["train", *(part for part, name in given.items() if self.given[name] is None)]
        yield Step("prepare", str(self.root / "text"), parts=parts)
        yield from train_vocabulary(
            documents=Coming(self.root / "text" / "train"),
            output_dir=str(self.root / "vocabulary"),
            check_only=True,
        )
        yield from pretrain(
            model_dir=str(self.root / BASE),
            mixture_or_task_name=Coming(self.root / "text" / "train"),
            check_only=True,
        )

    def _documents(self, corpus: Corpus) -> str | None:
        """Documents that nobody generates: those that `prepare` makes, or the user's."""
        if corpus.documents is None:
            return None
        made = self.root / "text" / corpus.documents
        is_made = self.given["prepare"] is not None and not epath.Path(corpus.documents).exists()
        if made.exists():
            return str(made)
        return Coming(made) if is_made else preview.Late(corpus.documents)

    def _model(self, row: str | None) -> str:
        """The model of a row, as far as it is there: the base's where None."""
        if row is None:
            return self._base_path
        if self.rows[row].corpus is None and self.rows[row].terms is None:
            return self._model(self.rows[row].start)
        return self._coming("models", row)

    def _corpora_and_models(self) -> Iterator[Step]:
        for name, part in self.order:
            yield from (
                self._corpus(name, part) if isinstance(part, Corpus) else self._train(name, part)
            )

    def _kept(self, name: str) -> str:
        return self._coming("corpora", name, self.given["corpora"][name].directory)

    def _pairs(self, name: str, corpus: Corpus) -> Iterator[Step]:
        assert corpus.pairs is not None
        scored, source = {}, corpus.source
        documents = self._documents(corpus)
        if source is not None:
            documents = Coming(self._kept(source))
            scored = {"documents": Coming(self._all_of(source))}
        assert documents is not None
        steps = self._makers.pair(
            input=documents,
            output_dir=str(self.root / "corpora" / name / corpus.directory),
            pairing=corpus.pairs(**scored),
            reference=self._makers.reference(checkpoint_path=self._model(corpus.writer)),
            check_only=True,
        )
        yield from steps or ()

    def _corpus(self, name: str, corpus: Corpus) -> Iterator[Step]:
        if corpus.pairs is not None:
            yield from self._pairs(name, corpus)
            return
        directory = self.root / "corpora" / name
        documents = self._documents(corpus)
        if corpus.prompts is not None:
            source = {}
            if corpus.source is not None:
                source = {"documents": self._kept(corpus.source)}
            steps = self._makers.generate_of(corpus)(
                checkpoint_path=self._readable(corpus.writer),
                output_dir=str(directory / "generated"),
                prompts=corpus.prompts(**source),
                limit_setting=DOCUMENT_LIMIT,
                check_only=True,
            )
            yield from steps or ()
            documents = self._coming("corpora", name, "generated")
        scored = Coming(directory / "scored")
        if documents is not None and corpus.is_scored:
            scored = documents
        elif documents is not None:
            steps = self._makers.score(
                input=documents, output_dir=str(directory / "scored"), check_only=True
            )
            yield from steps or ()
        control = corpus.control(self._kept, self._given("prompts_input", "prompts"))
        steps = self._makers.select_of(corpus)(
            input=scored,
            output_dir=str(directory / "kept"),
            check_only=True,
            **control,
        )
        yield from steps or ()
        if name in self._read_apart:
            steps = self._makers.set_apart(
                input=scored,
                output_dir=str(directory / "apart"),
                check_only=True,
                apart_from=control["apart_from"],
            )
            yield from steps or ()

    @functools.cached_property
    def _read_apart(self) -> set[str]:
        return fitted_vectors.read_apart(self.order, self.vectors, self.given["corpora"])

    def _readable(self, row: str | None) -> str:
        """The model of a row, or while it is to come the base: as long, and of its vocabulary."""
        model, base = self._model(row), self._base_path
        if isinstance(model, Coming) and not isinstance(base, Coming):
            return preview.StandIn(base)
        return model

    def _train(self, name: str, row: Method) -> Iterator[Step]:
        if row.terms is not None:
            yield from self._combine(name, row)
        if row.corpus is None:
            return
        steps = self._makers.train_of(row)(
            model_dir=str(self.root / "models" / name),
            mixture_or_task_name=self._text(name, row.corpus),
            initial_checkpoint_path=self._readable(row.start),
            adaptation=row.adaptation,
            **row.seed,
            check_only=True,
            **self._later,
        )
        yield from steps or ()

    def _text(self, name: str, corpus: str) -> Coming:
        """What a row is trained on, with the tags before it as far as rows and corpora say."""
        kept, task = self._kept(corpus), self.given["corpora"][corpus].task
        if task is None:
            # Who starts from another row may still be asked behind that row's tags.
            return Coming(kept) if self.rows[name].start else ComingText.behind(kept, None)
        of_rows = decodings(self.rows, self.given["decoding"])
        asked = [of_rows[row].behind for row in self.rows if model_row(row, self.rows) == name]
        tags = next((behind for behind in asked if behind is not None), None)
        return Coming(kept) if tags is None else ComingText.behind(kept, tags)

    @property
    def _later(self) -> dict[str, Any]:
        """Where files of a probe may lie that `prepare` has yet to write; nothing without one."""
        made_here = self.given["prepare"] is not None
        return {"coming": [str(self.root / "text")]} if made_here else {}

    def _combine(self, name: str, row: Method) -> Iterator[Step]:
        directory = str(self.root / "models" / name)
        start = self._model(row.start)
        terms = {self._model(term): weight for term, weight in (row.terms or {}).items()}
        steps = self._makers.combine(base=start, output_dir=directory, terms=terms, check_only=True)
        yield from steps or ()

    def _scored(self, name: str) -> str:
        """The documents that a corpus is selected from."""
        corpus = self.given["corpora"][name]
        if corpus.prompts is None and corpus.source is not None:
            return self._scored(corpus.source)
        documents = self._documents(corpus)
        if corpus.is_scored and documents is not None:
            return documents
        return self._coming("corpora", name, "scored")

    def _all_of(self, name: str) -> str:
        """All documents that it is selected from, see `CorpusPlaces.all_of`."""
        is_apart = self.given["corpora"][name].apart_from_prompts
        return self._coming("corpora", name, "apart") if is_apart else self._scored(name)

    def _fits(self) -> Iterator[Step]:
        """Vectors that steer rows."""
        for name, of in self.vectors.items():
            steps = self._makers.steer_of(of)(
                checkpoint_path=self._model(of.model),
                input=self._all_of(of.corpus),
                output_dir=fitted_vectors.place(self.root, name),
                check_only=True,
            )
            yield from steps or ()

    def _decoding(self, name: str) -> Any:
        """The decoding of a row; what steers it may be made by this run."""
        decoding = self.given["decoding"]
        if name in self.rows:
            decoding = self.rows[name].decode_with(decoding)
        decoding = placed(decoding, *self._named)
        self._check_bases(name, decoding.steering)
        return dataclasses.replace(
            decoding, steering=preview.with_coming(decoding.steering, self._coming_files)
        )

    @functools.cached_property
    def _named(self) -> tuple[dict[str, str], dict[str, str]]:
        """What may steer a row by its name: models, and vectors."""
        models = {name: str(self._model(name)) for name in self.rows}
        vectors = {name: fitted_vectors.place(self.root, name) for name in self.vectors}
        return {BASE: str(self._base_path), **models}, vectors

    def _check_bases(self, name: str, methods: Sequence[Any]) -> None:
        """Refuses to steer a row's model by an adaptation that this run trains of another one."""
        adapted = {
            os.path.abspath(self.root / "models" / row): row
            for row, of in self.rows.items()
            if of.corpus is not None and of.adaptation is not None
        }
        for method in methods:
            named = getattr(method, "base", None) or self._whole(name)
            for field in getattr(method, "files", ()):
                row = adapted.get(os.path.abspath(getattr(method, field) or ""))
                if row is None or field == "base":
                    continue
                base = self._whole(row)
                if os.path.abspath(base) != os.path.abspath(named):
                    owner = type(method).__name__
                    advice = f"; set {owner}.base to that" * hasattr(method, "base")
                    raise UserError(
                        f"method {name!r}: {owner}.{field} {row!r} is an adaptation of {base}, but "
                        f"it is taken for one of {named}{advice}"
                    )

    def _whole(self, name: str) -> str:
        """The whole model beneath a row: its own, or that which its adaptation is of."""
        row = self.rows.get(name)
        if row is None:
            return self._base_path
        if row.terms is not None or (row.corpus is not None and row.adaptation is None):
            return str(self.root / "models" / name)
        return self._whole(row.start or BASE)

    @functools.cached_property
    def _coming_files(self) -> list[str]:
        """Models, the base too, and vectors that the run has still to make; looked for once."""
        made = [name for name, row in self.rows.items() if row.corpus or row.terms]
        fitted = (self._coming("vectors", name) for name in self.vectors)
        paths = [self._base_path, *map(self._model, made), *fitted]
        return [path for path in paths if isinstance(path, Coming)]

    def _choice(self, row: Method, directory: epath.Path) -> Iterator[Step]:
        """The best of the samples that a row writes."""
        steps = self._makers.chooser_of(row)(
            input=Coming(directory / "generated"),
            output_dir=str(directory / "scored"),
            check_only=True,
        )
        yield from steps or ()
        steps = self._makers.select(
            input=Coming(directory / "scored"),
            output_dir=str(directory / "chosen"),
            selection=self._makers.best_of(keep=self.given["decoding"].num_samples),
            check_only=True,
        )
        yield from steps or ()

    def _continuations(self) -> Iterator[Step]:
        prompts = self._given("prompts_input", "prompts")
        for name in [BASE, *self.measured]:
            directory = self.root / "continuations" / name
            yield from self.given["generate_continuations"](
                checkpoint_path=self._readable(None if name == BASE else name),
                output_dir=str(directory / "generated"),
                prompts=self.given["evaluation_prompts"](path=prompts),
                decoding=self._decoding(name),
                check_only=True,
            )
            judged = "generated"
            if name in self.rows and self.rows[name].best_of is not None:
                judged = "chosen"
                yield from self._choice(self.rows[name], directory)
            for judge, score_as in self.given["judges"].items():
                yield from score_as(
                    input=Coming(directory / judged),
                    output_dir=str(directory / f"scored-{judge}"),
                    check_only=True,
                )

    def _answers(self) -> Iterator[Step]:
        """Zero-shot tasks: every model once, and none that is steered or asked behind a tag."""
        if not self._asks:
            return
        for name in dict.fromkeys(self._answering.values()):
            steps = self.given["choices"](
                checkpoint_path=self._model(None if name == BASE else name),
                output_dir=str(self.root / "choices" / name),
                check_only=True,
            )
            yield from steps or ()

    @property
    def _asks(self) -> bool:
        """Whether there are zero-shot tasks."""
        return self.given["choices"] is not None and bool(self.given["downstream_tasks"])

    @functools.cached_property
    def _answering(self) -> dict[str, str]:
        """By each row that can be asked the one under whose name its model answers."""
        asked = can_be_asked(decodings(self.rows, self.given["decoding"]))
        return {n: answers_as(n, self.rows, asked) for n in (BASE, *self.measured) if n in asked}

    def _evaluation(self) -> Iterator[Step]:
        steps = self.given["evaluate"](
            methods={name: self._evaluated(name) for name in (BASE, *self.measured)},
            output_dir=str(self.place / "evaluation"),
            baseline=BASE,
            heldout=self._given("heldout", "heldout_nontoxic"),
            reference=self._base_path,
            check_only=True,
        )
        yield from steps or ()

    def _report(self, are_there: bool) -> Iterator[Step]:
        """The report, of figures that are there or are to come."""
        place = self.place / "evaluation"
        results = [str(place / judge / "results.json") for judge in self.given["judges"]]
        steps = self.given["report"](
            results=results if are_there else [Coming(path) for path in results],
            output_dir=str(self.place / "report"),
            check_only=True,
            **self.compared,
        )
        yield from steps or ()

    def _evaluated(self, name: str) -> Any:
        """What `evaluate` is told of a row, or of the base, as far as it is known."""
        row = self.rows.get(name)
        trained, decoding = trained_by(self.rows, name), self._decoding(name)
        as_ = self._answering.get(name) if self._asks else None
        return self.given["evaluation_method"](
            generations={
                judge: Coming(self.root / "continuations" / name / f"scored-{judge}")
                for judge in self.given["judges"]
            },
            checkpoint_path=self._model(None if name == BASE else name),
            choices=as_ and Coming(self.root / "choices" / as_),
            own_decoding=() if row is None else row.own_decoding,
            **({} if decoding.behind is None else {"behind": decoding.behind}),
            **({} if trained is None else {"corpus": trained.corpus, "adaptation": trained.label}),
        )


def _are_done(steps: Iterable[Step]) -> bool:
    return all(step.state == preview.DONE for step in steps)


def _behind(before: Iterable[Step], steps: Iterable[Step]) -> list[Step]:
    """Steps that are made again where one before them is still to write what they read."""
    again = not _are_done(before)
    return [dataclasses.replace(step, again=step.again or again) for step in steps]
