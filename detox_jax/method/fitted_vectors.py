"""What `sgeat` is told of vectors, and of the like, that it fits, and the rows that they steer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import kinds
from detox_jax.errors import UserError, suggestion
from detox_jax.method.called_verbs import Steer
from detox_jax.method.corpus import Corpus
from detox_jax.method.method import BASE, Method, model_row
from detox_jax.method.places import FITTED, named_by

_NAME = re.compile(r"\w[\w.-]*")  # It becomes a directory.


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors that `steer` fits on the documents of a corpus, those that its filter discarded too.

    Of a corpus with `apart_from_prompts` they are those that the prompts do not come from.
    A row is steered by their name: `activations.ActivationOffset.vectors = 'mean'`. What other
    verbs fit on scored text goes by a name too: a plane, a map, a reward model.

    Attributes:
      corpus: name of the corpus whose scored documents are read.
      steer: the verb `steer` with its settings, or another one that is called like it, such as
        `fit_subspace`; the run's own `steer` where None.
      model: the row whose model they are of, which they steer with its adaptations; the base where
        None.
    """

    corpus: str
    steer: Steer | None = None
    model: str | None = None


_FIELDS = [field.name for field in dataclasses.fields(Vectors)]


def named(vectors: Mapping[str, Vectors | Mapping[str, Any]] | None) -> dict[str, Vectors]:
    """The vectors by name, those written as dicts of their fields too.

    Args:
      vectors: as the user gave them; None is none.

    Raises:
      UserError: for a field that vectors do not have, and for what are none.
    """
    return {name: _of(name, given) for name, given in (vectors or {}).items()}


def _of(name: str, given: Any) -> Vectors:
    if isinstance(given, Mapping):
        if unknown := [field for field in given if field not in _FIELDS]:
            raise UserError(
                f"vectors {name!r}: have no {unknown[0]!r}; they have {', '.join(_FIELDS)}"
            )
        if "corpus" not in given:
            raise UserError(f"vectors {name!r}: name no corpus; give {{'corpus': 'standard'}}")
        given = Vectors(**given)
    if not isinstance(given, Vectors):
        raise UserError(f"vectors {name!r}: {given!r} is none; give {{'corpus': 'standard'}}")
    try:
        kinds.fitted_fields(Vectors, {field: getattr(given, field) for field in _FIELDS})
    except kinds.MisfitError as misfit:
        raise UserError(f"vectors {name!r}: {misfit}") from None
    if not _NAME.fullmatch(name):
        raise UserError(f"vectors {name!r}: use letters, digits, dots, hyphens, underscores")
    return given


def check(
    vectors: Mapping[str, Vectors], corpora: Mapping[str, Corpus], rows: Mapping[str, Method]
) -> None:
    """Refuses vectors that cannot be fitted, and rows that they cannot steer.

    Args:
      vectors: by name.
      corpora: the run's.
      rows: its rows, of which none starts from itself.

    Raises:
      UserError: naming the vectors or the row.
    """
    for name, of in vectors.items():
        if of.corpus not in corpora:
            raise UserError(
                f"vectors {name!r}: no corpus {of.corpus!r}; there are {sorted(corpora)}"
            )
        if corpora[of.corpus].pairs is not None:
            raise UserError(
                f"vectors {name!r}: corpus {of.corpus!r} is of pairs; name the one that they are of"
            )
        if of.model is not None and of.model not in rows:
            raise UserError(
                f"vectors {name!r}: model {of.model!r} is no method; there are {sorted(rows)}"
            )
    for name, row in rows.items():
        for method in (row.decoding or {}).get("steering", ()):
            _check_near_names(name, method, vectors)
            for fitted in _names_in(method, vectors):
                _check_model(name, fitted, vectors, rows)


def _check_near_names(row: str, method: Any, vectors: Mapping[str, Vectors]) -> None:
    """Refuses what is neither vectors of the run nor a place, where it is nearly the former."""
    for field, name in named_by(method):
        near = suggestion(name, vectors)
        if field in FITTED and name not in vectors and near and not epath.Path(name).exists():
            raise UserError(
                f"method {row!r}: {type(method).__name__}.{field} is {name!r}, no vectors of "
                f"VECTORS and no directory{near}"
            )


def _check_model(
    row: str, name: str, vectors: Mapping[str, Vectors], rows: Mapping[str, Method]
) -> None:
    """Refuses vectors of another model than the row's and the one that it adapts."""
    fitted, model = model_row(vectors[name].model, rows), model_row(row, rows)
    adapts = model is not None and rows[model].adaptation is not None
    base = model_row(rows[model].start, rows) if adapts and model is not None else model
    if fitted not in (model, base):
        raise UserError(
            f"method {row!r}: is steered by vectors {name!r} of {fitted or BASE!r}, but its model "
            f"is {model!r}; fit some with 'model': {row!r}"
        )


def _names_in(method: Any, vectors: Mapping[str, Vectors]) -> list[str]:
    """What the run fits that a method of steering names, but for a reward, which fits any model."""
    named = {field: name for field, name in named_by(method) if field in FITTED}
    return [name for field, name in named.items() if name in vectors and field != "reward"]


def read_apart(
    parts: Sequence[tuple[str, Corpus | Method]],
    vectors: Mapping[str, Vectors],
    corpora: Mapping[str, Corpus],
) -> set[str]:
    """Corpora apart from the evaluation of which more is read than what their filter keeps.

    Args:
      parts: corpora and rows that are made, by name.
      vectors: those that are fitted, by name.
      corpora: all of them.
    """
    pairs = [part for _, part in parts if isinstance(part, Corpus) and part.pairs is not None]
    read = {*(corpus.source for corpus in pairs), *(of.corpus for of in vectors.values())}
    return {name for name in read if name is not None and corpora[name].apart_from_prompts}


def place(root: epath.Path, name: str) -> str:
    """Where vectors of a run lie."""
    return str(root / "vectors" / name)
