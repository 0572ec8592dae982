"""What `sgeat` is told of the rows of its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from detox_jax import kinds
from detox_jax.errors import UserError
from detox_jax.generation.decoding import Decoding
from detox_jax.method.called_verbs import Score, Train
from detox_jax.method.corpus import Corpus
from detox_jax.models import adaptation as adaptations

BASE = "base"
# By which the user of `sgeat` knows the limit of a document.
DOCUMENT_LIMIT = "DOCUMENT_MAX_NEW_TOKENS"
# Of decoding: a shorter text is less toxic, and a maximum over fewer texts is lower.
NOT_A_ROWS = ("max_new_tokens", "num_samples")
_CHANGES_NO_TEXT = ("batch_size",)
_EXAMPLES = {
    "sampling": "@sampling.Greedy()",
    "steering": "[@words.BannedWords()]",
    "behind": "@tags.Tags()",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the results: a corpus, a training, a decoding.

    Attributes:
      corpus: name of the corpus to train on; None is the base, or `start`, decoded otherwise.
      adaptation: what is added and trained; None trains the whole model.
      train: the verb `train` with its settings; the run's own where None.
      decoding: what differs from the run's decoding, by name: `{'sampling': @sampling.Greedy()}`.
      random_seed: of training and continuations, where rows differ in nothing but their seed; the
        run's own where None. Vectors are the run's.
      start: the row whose model this one starts from; the base where None.
      terms: rows by their weights, in place of a training: the sum of weight * (model - start) is
        added to `start` (`combine`). A toxic one times -0.5 is task arithmetic.
      best_of: so many samples are written for each continuation, of which the least toxic stays
        (`toxicity.best_of`); what is written stays where None.
      chooser: the verb `score` with the scorer that says which; the run's own, whose scorer
        filters, where None.
    """

    corpus: str | None = None
    adaptation: adaptations.Adaptation | None = None
    train: Train | None = None
    decoding: Mapping[str, Any] | None = None
    random_seed: kinds.Seed | None = None
    start: str | None = None
    terms: Mapping[str, float] | None = None
    best_of: int | None = None
    chooser: Score | None = None

    @property
    def label(self) -> str | None:
        """How the table names the training: whole, adapter, lora, prefix; None without one."""
        return None if self.corpus is None else label_of(self.adaptation)

    @property
    def seed(self) -> dict[str, Any]:
        """The seed as an argument; none where the run's own is meant."""
        return {} if self.random_seed is None else {"random_seed": self.random_seed}

    def decode_with(self, decoding: Decoding) -> Decoding:
        """The run's decoding with what this row changes; where it chooses, of more samples."""
        changed = dataclasses.replace(decoding, **(self.decoding or {}), **self.seed)
        if self.best_of is None:
            return changed
        return dataclasses.replace(changed, num_samples=self.best_of * changed.num_samples)

    @property
    def own_decoding(self) -> list[str]:
        """In what the row is meant to differ from the base's decoding, as `evaluate` names it."""
        changed = [name for name in self.decoding or {} if name not in _CHANGES_NO_TEXT]
        return sorted([*changed, *([] if self.best_of is None else ["best_of"])])


def label_of(adaptation: adaptations.Adaptation | None) -> str:
    """`whole`, or the kind of an adaptation."""
    described = adaptations.to_json(adaptation)
    return "whole" if described is None else described["kind"]


def rows(
    methods: Mapping[str, Method | Mapping[str, Any]] | None,
    adaptation: adaptations.Adaptation | None,
    corpora: Mapping[str, Corpus],
) -> dict[str, Method]:
    """The methods by name, those written as dicts of their fields too.

    Args:
      methods: as the user gave them; None is the first corpus for the whole model, and for the
        adaptation where there is one.
      adaptation: of that second row.
      corpora: what may be trained on.

    Raises:
      UserError: for a field or a value that a method does not have.
    """
    if methods is None:
        corpus = next((name for name, corpus in corpora.items() if not corpus.waits_for), None)
        methods = {"sgeat-whole": Method(corpus)}
        if adaptation is not None:
            methods |= {f"sgeat-{label_of(adaptation)}": Method(corpus, adaptation)}
    return {name: _row(name, method) for name, method in methods.items()}


def _row(name: str, row: Any) -> Method:
    if isinstance(row, Mapping):
        fields = [field.name for field in dataclasses.fields(Method)]
        if unknown := [field for field in row if field not in fields]:
            raise UserError(
                f"method {name!r}: has no {unknown[0]!r}; a row has {', '.join(fields)}"
            )
        row = Method(**row)
    if not isinstance(row, Method):
        raise UserError(f"method {name!r}: {row!r} is no row; give {{'corpus': 'standard'}}")
    if not isinstance(row.adaptation, adaptations.Adaptation | None):
        raise UserError(
            f"method {name!r}: adaptation is {row.adaptation!r}; give None for the whole model, or "
            "@adaptation.AdapterConfig(), @adaptation.LoRAConfig() or another of adaptation"
        )
    _check_choice(name, row)
    row = _fitted(name, row)
    if row == Method():
        raise UserError(f"method {name!r}: is the base once more; give {{'corpus': 'standard'}}")
    if row.terms is not None and (row.corpus or not row.terms):
        raise UserError(
            f"method {name!r}: terms are rows by weight, {{'anti': -0.5}}, in place of a corpus"
        )
    if row.corpus is None and (row.adaptation or row.train):
        raise UserError(f"method {name!r}: trains, but names no corpus")
    return row


def _fitted(name: str, row: Method) -> Method:
    """A row whose values, and those of its decoding, are of the kinds that they have to be."""
    fields = [field.name for field in dataclasses.fields(Method)]
    try:
        values = kinds.fitted_fields(Method, {field: getattr(row, field) for field in fields})
        decoding = values["decoding"]
        if decoding is not None:
            _check_decoding(name, row, decoding)
            values["decoding"] = kinds.fitted_fields(Decoding, decoding)
    except kinds.MisfitError as misfit:
        field = str(misfit).split(":")[0]
        example = f"; give {_EXAMPLES[field]}" if field in _EXAMPLES else ""
        raise UserError(f"method {name!r}: {misfit}{example}") from None
    return Method(**values)


def _check_decoding(name: str, row: Method, decoding: Mapping[str, Any]) -> None:
    """Refuses what a row may not change of the run's decoding."""
    known = [field.name for field in dataclasses.fields(Decoding)]
    if unknown := [field for field in decoding if field not in known]:
        raise UserError(f"method {name!r}: decoding has no {unknown[0]!r}; it has {known}")
    if fixed := [field for field in decoding if field in NOT_A_ROWS]:
        raise UserError(
            f"method {name!r}: decoding changes {fixed[0]!r}, which all rows must share to "
            f"compare; set it for the run: --gin.{fixed[0].upper()}=..."
        )
    if both := sorted(row.seed.keys() & decoding):
        raise UserError(
            f"method {name!r}: has a {both[0]}, and its decoding another; leave one of them out"
        )


def _check_choice(name: str, row: Method) -> None:
    """Refuses a choice among one sample, or by what is no `score`."""
    n = row.best_of
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 2):
        raise UserError(
            f"method {name!r}: best_of is {n!r}; give the number of samples of which the least "
            "toxic stays, at least 2, or leave it out"
        )
    if row.chooser is not None and n is None:
        raise UserError(f"method {name!r}: has a chooser, and no best_of says among how many")
    if row.chooser is not None and not callable(row.chooser):
        raise UserError(
            f"method {name!r}: chooser is {row.chooser!r}; give the verb `score` with a scorer, "
            "such as @perspective/score.score"
        )


def check_names(
    corpora: Mapping[str, Corpus], rows: Mapping[str, Method], judges: Mapping[str, Score]
) -> None:
    """Refuses names that do not fit.

    Raises:
      UserError: naming the corpus or the method.
    """
    for name, corpus in corpora.items():
        if not kinds.is_file_name(name):
            raise UserError(
                f"corpus {name!r}: its name becomes a directory's; give one without slashes, "
                "control characters and a dot in front"
            )
        for other in sorted(corpus.waits_for - corpora.keys()):
            raise UserError(
                f"corpus {name!r}: no corpus {other!r} for its source, size_of, lengths_of or "
                f"pool; there are {sorted(corpora)}"
            )
        for other in sorted(corpus.waits_for):
            if corpora[other].pairs is not None:
                raise UserError(f"corpus {name!r}: corpus {other!r} is of pairs and no documents")
        if corpus.documents is not None and (corpus.prompts or corpus.source):
            raise UserError(f"corpus {name!r}: has documents, so it takes no prompts and no source")
        if corpus.documents is corpus.prompts is corpus.source is None:
            raise UserError(f"corpus {name!r}: needs prompts, a source or documents")
        if corpus.pairs is not None and corpus.prompts is not None:
            raise UserError(f"corpus {name!r}: pairs are mined of a source, so it takes no prompts")
        if corpus.writer is not None and corpus.prompts is corpus.pairs is None:
            raise UserError(f"corpus {name!r}: has a writer and no prompts, so nothing is written")
        if corpus.is_scored and corpus.documents is None:
            raise UserError(f"corpus {name!r}: is_scored is of documents, and it has none")
        if corpus.generate is not None and corpus.prompts is None:
            raise UserError(
                f"corpus {name!r}: has a generate and no prompts, so nothing is written"
            )
        if isinstance(corpus.pool, str):
            raise UserError(f"corpus {name!r}: pool is {corpus.pool!r}; give a list of corpora")
        if corpus.pool and corpus.task is None:
            raise UserError(
                f"corpus {name!r}: pool needs a task that takes it: @tagged.tagged_task"
            )
        _check_row_is_there(f"corpus {name!r}: writer", corpus.writer, rows)
    for name, row in rows.items():
        if name == BASE:
            raise UserError(f"a method may not be called {BASE!r}: that is the model before")
        if row.corpus is not None and row.corpus not in corpora:
            raise UserError(
                f"method {name!r}: no corpus {row.corpus!r}; there are {sorted(corpora)}"
            )
        _check_row_is_there(f"method {name!r}: start", row.start, rows)
        for other in row.terms or ():
            _check_row_is_there(f"method {name!r}: a term", other, rows)
        _check_pairs(name, row, corpora)
        if row.corpus is not None and _ends_in_an_adaptation(row.start, rows):
            raise UserError(
                f"method {name!r}: start {row.start!r} is an adaptation, on which nothing can be "
                "trained; start from a row of the whole model"
            )
    if not judges:
        raise UserError("JUDGES is empty; give at least one scorer to evaluate with")


def _check_pairs(name: str, row: Method, corpora: Mapping[str, Corpus]) -> None:
    """Refuses a row whose training cannot be on the pairs that it names."""
    if row.corpus is None or corpora[row.corpus].pairs is None:
        return
    if row.train is None:
        raise UserError(
            f"method {name!r}: corpus {row.corpus!r} is of pairs; give a train whose objective is "
            "on pairs: {'train': @dpo/train.train}"
        )
    if row.start != corpora[row.corpus].writer:
        raise UserError(
            f"method {name!r}: starts from {row.start or BASE!r}, but the reference of the pairs "
            f"{row.corpus!r} is {corpora[row.corpus].writer or BASE!r}; set the corpus's writer"
        )


def _check_row_is_there(what: str, name: str | None, rows: Mapping[str, Method]) -> None:
    if name is not None and name not in rows:
        raise UserError(f"{what} {name!r} is no method; there are {sorted(rows)}")


def _ends_in_an_adaptation(name: str | None, rows: Mapping[str, Method]) -> bool:
    """Whether the model of a row is an adaptation, its own or that of where it starts."""
    seen: set[str] = set()
    while name is not None and name in rows and name not in seen and not rows[name].terms:
        if rows[name].corpus is not None:
            return rows[name].adaptation is not None
        seen.add(name)
        name = rows[name].start
    return False


def model_row(name: str | None, rows: Mapping[str, Method]) -> str | None:
    """The row that made the model which a row decodes; None is the base.

    Args:
      name: of the row; None is the base.
      rows: all of them, of which none starts from itself.
    """
    while name is not None and rows[name].corpus is None and rows[name].terms is None:
        name = rows[name].start
    return name


def check_terms(rows: Mapping[str, Method]) -> None:
    """Refuses to add an adaptation that changes no weights to other models, as `combine` does.

    Args:
      rows: all of them, of which none starts from itself.

    Raises:
      UserError: naming the row and the term.
    """
    for name, row in rows.items():
        for term in row.terms or ():
            trained = model_row(term, rows)
            kind = None if trained is None else rows[trained].adaptation
            if len(row.terms or ()) > 1 and kind is not None and not kind.is_change_of_weights:
                raise UserError(
                    f"method {name!r}: term {term!r} is an adaptation that is no change of "
                    "weights; make it the only term, or add whole models and LoRAs"
                )


def decodings(rows: Mapping[str, Method], decoding: Decoding) -> dict[str, Decoding]:
    """How the base and each row are decoded, by name.

    Args:
      rows: all of them.
      decoding: the run's, which a row may change.
    """
    return {BASE: decoding, **{name: row.decode_with(decoding) for name, row in rows.items()}}


def can_be_asked(decodings: Mapping[str, Decoding]) -> list[str]:
    """Names of those that answer questions: what is steered, or stands behind a tag, does not.

    Args:
      decodings: by name.
    """
    return [name for name, of in decodings.items() if not of.steering and of.behind is None]


def answers_as(name: str, rows: Mapping[str, Method], asked: Collection[str]) -> str:
    """The row, or the base, under whose name the model of a row answers questions.

    It is that which made the model, where that can be asked; else of all that can the first by the
    alphabet: the order in which rows are given decides nothing, as a `config.gin` of before has
    lost it.

    Args:
      name: of the row or the base, itself one of `asked`.
      rows: all of them.
      asked: those that can be asked.
    """
    model = model_row(name if name in rows else None, rows)
    if (maker := model or BASE) in asked:
        return maker
    return min(other for other in asked if other in rows and model_row(other, rows) == model)


def in_order(
    corpora: Mapping[str, Corpus], rows: Mapping[str, Method]
) -> list[tuple[str, Corpus | Method]]:
    """Corpora and rows by name, each behind those that it names.

    All corpora come before the rows, but for those that a row writes, and what waits for them. Else
    they stand as they were given: a `config.gin` of before, whose names gin sorted, has lost that
    order, and gets this one again.

    Raises:
      UserError: where some wait for each other.
    """
    made: list[tuple[str, Corpus | Method]] = []
    corpora_left, rows_left = dict(corpora), dict(rows)

    def is_ready(part: Corpus | Method) -> bool:
        if isinstance(part, Corpus):
            return not part.waits_for & corpora_left.keys() and part.writer not in rows_left
        named = {part.start, *(part.terms or ())}
        return part.corpus not in corpora_left and not named & rows_left.keys()

    while corpora_left or rows_left:
        for left in (corpora_left, rows_left):
            name = next((name for name, part in left.items() if is_ready(part)), None)
            if name is not None:
                made.append((name, left.pop(name)))
                break
        else:
            raise UserError(
                f"corpora {sorted(corpora_left)} and methods {sorted(rows_left)} wait for each "
                "other; see `source`, `size_of`, `lengths_of`, `pool`, `writer`, `corpus`, "
                "`start`, `terms`"
            )
    return made
