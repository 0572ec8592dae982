"""By whose scores rows were made: by tags, pairs, terms, what steers, and the step of a probe."""

import json

import pytest
from etils import epath

from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.words import BannedWords
from detox_jax.method import deciders as deciders_lib
from detox_jax.method.corpus import Corpus
from detox_jax.method.deciders import Deciders
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.method import Method
from detox_jax.method.places import CorpusPlaces

FILTER, OTHER, PROBE = ({"name": n, "fingerprint": f"{n}-1"} for n in ("filter", "other", "probe"))
CORPORA = {
    "standard": Corpus(prompts=str),
    "all": Corpus(source="standard"),
    "mine": Corpus(documents="d"),
    "pairs": Corpus(source="all", pairs=str),
    "tagged": Corpus(source="standard", task=print, pool=("mine",)),
}
ROWS = {
    "filtered": Method("standard"),
    "random": Method("all"),
    "later": Method("all", start="filtered"),
    "tagged": Method("tagged"),
    "dpo": Method("pairs", train=print),
    "probed": Method("all", train=print),
    "watched": Method("all", train=print),
    "negated": Method(terms={"filtered": -1.0}),
    "decoded": Method(start="tagged"),
}


@pytest.fixture
def deciders(tmp_path, monkeypatch):
    """A run whose files say what is asked of them."""

    def write(place, verb, settings=None, **said):
        directory = tmp_path / place
        directory.mkdir(parents=True)
        (directory / "documents-00000-of-00001.jsonl").write_text("")
        manifest = {"verb": verb, "complete": True, "settings": settings or {}, **said}
        (directory / "manifest.json").write_text(json.dumps(manifest))

    for name, by in (("standard", FILTER), ("mine", OTHER)):
        write(f"corpora/{name}/scored", "score", scorer={**by, "version": 1})
        write(f"corpora/{name}/kept", "filter", filtered_by=by)
    for name in ("all", "tagged"):
        write(f"corpora/{name}/kept", "filter", filtered_by=None)
    write("corpora/pairs/pairs", "pair", scored_by=None)  # As a version before wrote it.
    probe = {"scorer": PROBE, "rule": {"budget": 0.05}}
    settings = {
        "probed": {"probe": probe},
        "watched": {"probe": {**probe, "rule": {"budget": None}}},
    }
    for name, row in ROWS.items():
        if row.corpus is not None:
            write(f"models/{name}", "train", settings.get(name))
    monkeypatch.setattr(
        deciders_lib.identity,
        "trained_behind",
        lambda path: {"good": "+"} if path.endswith("/tagged") else None,
    )
    vectors = {"mean": Vectors("all"), "people": Vectors("mine")}
    return Deciders(CorpusPlaces(epath.Path(tmp_path), CORPORA), ROWS, vectors)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base", []),
        ("random", []),
        ("filtered", [FILTER]),
        ("later", [FILTER]),
        ("tagged", [FILTER, OTHER]),
        ("decoded", [FILTER, OTHER]),
        ("dpo", [FILTER]),
        ("probed", [PROBE]),
        ("watched", []),
        ("negated", [FILTER]),
    ],
)
def test_of_a_row(deciders, name, expected):
    assert deciders.of(name, (), None) == expected
    without = [by for by in expected if by != FILTER]
    assert deciders.of(name, (), FILTER) == without


def test_of_what_steers(deciders):
    assert deciders.of("base", [ActivationOffset("mean")], None) == [FILTER]
    assert deciders.of("base", [BannedWords(), ActivationOffset("people")], None) == [OTHER]
    assert deciders.of("base", [Experts(expert="random", anti="negated")], None) == [FILTER]
    assert deciders.of("base", [Experts(anti="random")], None) == []
    assert deciders.of("base", [ActivationOffset("elsewhere")], None) == []
