"""Vectors that a run of `sgeat` fits: mistakes in naming them, whose model they are of, places."""

import pytest
from etils import epath

from detox_jax import preview
from detox_jax.errors import UserError
from detox_jax.generation import steer
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.steering import steering
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.reward import RewardAugmented
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.method import fitted_vectors
from detox_jax.method.corpus import Corpus
from detox_jax.method.fitted_vectors import Vectors
from detox_jax.method.makers import Makers
from detox_jax.method.method import Method
from detox_jax.method.places import CorpusPlaces
from detox_jax.method.run_preview import RunPreview
from detox_jax.models.adaptation import LoRAConfig

CORPORA = {
    "standard": Corpus(prompts=str),
    "again": Corpus(source="standard"),
    "pairs": Corpus(source="standard", pairs=str),
}
BY_NAME = {"steering": [ActivationOffset("mean")]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"v": {"corpus": "standard", "fit": 1}}, "vectors 'v': have no 'fit'; they have corpus"),
        ({"v": {}}, "vectors 'v': name no corpus"),
        ({"v": "standard"}, "vectors 'v': 'standard' is none; give {'corpus'"),
        ({"../v": {"corpus": "standard"}}, "vectors '../v': use letters"),
        (
            {"v": {"corpus": ["standard"]}},
            "vectors 'v': corpus: expected text, got .'standard'",
        ),
        ({"v": {"corpus": "standard", "steer": 3}}, "vectors 'v': steer: expected a reference"),
        ({"v": {"corpus": "other"}}, r"vectors 'v': no corpus 'other'; there are \['again'"),
        ({"v": {"corpus": "pairs"}}, "vectors 'v': corpus 'pairs' is of pairs"),
        ({"v": {"corpus": "standard", "model": "m"}}, "vectors 'v': model 'm' is no method"),
    ],
)
def test_vectors_that_cannot_be_fitted(given, message):
    with pytest.raises(UserError, match=message):
        fitted_vectors.check(fitted_vectors.named(given), CORPORA, {})


def test_vectors_steer_the_model_that_they_are_of_and_what_adapts_it():
    rows = {
        "whole": Method("standard"),
        "adapter": Method("standard", LoRAConfig()),
        "further": Method("standard", LoRAConfig(), start="whole"),
        "sum": Method(terms={"adapter": -1.0}),
    }

    def check(model, row):
        vectors = fitted_vectors.named({"mean": Vectors("standard", model=model)})
        fitted_vectors.check(vectors, CORPORA, {**rows, "row": row})

    for model, row in (
        (None, Method(decoding=BY_NAME)),
        (None, Method(start="adapter", decoding=BY_NAME)),
        (None, Method("standard", LoRAConfig(), decoding=BY_NAME)),
        ("whole", Method(start="whole", decoding=BY_NAME)),
        ("whole", Method(start="further", decoding=BY_NAME)),
        ("adapter", Method(start="adapter", decoding=BY_NAME)),
        (None, Method("standard", decoding={"steering": [ActivationOffset("elsewhere")]})),
    ):
        check(model, row)
    mistyped = Method(decoding={"steering": [ActivationOffset("maen")]})
    with pytest.raises(UserError, match=r"'row': ActivationOffset.vectors is 'maen'.* mean\?"):
        check(None, mistyped)
    for model, row in (
        (None, Method("standard", decoding=BY_NAME)),
        (None, Method(start="whole", decoding=BY_NAME)),
        (None, Method(start="further", decoding=BY_NAME)),
        (None, Method(start="sum", decoding=BY_NAME)),
        ("whole", Method(decoding=BY_NAME)),
        ("adapter", Method(decoding=BY_NAME)),
    ):
        with pytest.raises(UserError, match="'row': is steered by vectors 'mean' of .* its model"):
            check(model, row)


def test_of_a_corpus_apart_from_the_evaluation_vectors_and_pairs_read_what_is_apart(tmp_path):
    corpora = {
        "dapt": Corpus(documents="d", apart_from_prompts=True),
        "again": Corpus(source="dapt"),
        "pairs": Corpus(source="dapt", pairs=str),
        "alone": Corpus(documents="d", apart_from_prompts=True),
    }
    parts = [*corpora.items(), ("row", Method("alone"))]
    vectors = {"mean": Vectors("again")}
    assert fitted_vectors.read_apart(parts, vectors, corpora) == {"dapt"}
    del corpora["pairs"]
    assert fitted_vectors.read_apart([*corpora.items()], vectors, corpora) == set()
    vectors["dapt"] = Vectors("dapt")
    assert fitted_vectors.read_apart([*corpora.items()], vectors, corpora) == {"dapt"}
    places = CorpusPlaces(epath.Path(tmp_path), corpora)
    scored, apart = (str(tmp_path / "corpora" / "dapt" / name) for name in ("scored", "apart"))
    assert (places.all_of("again"), places.all_of("dapt")) == (scored, apart)
    assert places.scored_of(Corpus(source="dapt", pairs=str)) == {"documents": apart}
    with pytest.raises(
        UserError, match="corpus 'dapt': is apart from .* set sgeat.sgeat.set_apart"
    ):
        Makers(*[print] * 12).check(corpora, {}, vectors)  # type: ignore


def test_a_plane_is_of_a_model_and_a_reward_of_none():
    rows = {"whole": Method("standard")}
    fits = fitted_vectors.named({"fit": Vectors("standard")})
    rewarded = Method(start="whole", decoding={"steering": [RewardAugmented("fit")]})
    fitted_vectors.check(fits, CORPORA, {**rows, "row": rewarded})
    steered = Method(start="whole", decoding={"steering": [SubspaceMargin("fit")]})
    with pytest.raises(UserError, match="'row': is steered by vectors 'fit' of 'base', but its m"):
        fitted_vectors.check(fits, CORPORA, {**rows, "row": steered})


def test_vectors_are_coming_by_name_and_by_place_and_a_mistyped_one_is_refused(tmp_path):
    root = epath.Path(tmp_path / "run")
    place = fitted_vectors.place(root, "mean")
    rows = {
        name: Method(decoding={"steering": [ActivationOffset(said)]})
        for name, said in (("named", "mean"), ("placed", place), ("mistyped", "maen"))
    }
    given = {"decoding": Decoding(), "prepare": None, "initial_checkpoint_path": "base"}
    given |= {"corpora": CORPORA, "steer": steer.steer}
    given |= dict.fromkeys(("task", "generate_documents", "score", "select", "train", "adapt"))
    of_some = ("pair", "reference", "pairs_task", "combine", "best_of", "set_apart")
    given |= dict.fromkeys(of_some)
    vectors = {"mean": Vectors("again"), "second": Vectors("standard", model="whole")}
    rows = {**rows, "whole": Method("standard")}
    run = RunPreview(root, root, rows, [*rows], [], vectors, given)
    for name in ("named", "placed"):
        methods = run._decoding(name).steering
        assert methods == [ActivationOffset(place)]
        assert isinstance(methods[0].vectors, preview.Coming)
        steering.check_files(methods)
    with pytest.raises(UserError, match="STEERING ActivationOffset.vectors: maen: no such file"):
        steering.check_files(run._decoding("mistyped").steering)
    assert Makers.of(given).steer_of(vectors["mean"]) is steer.steer
    assert run._scored("again") == str(root / "corpora" / "standard" / "scored")
    with pytest.raises(UserError, match="base"):  # The user's own is looked for.
        list(run._fits())
    (step,) = steer.steer(run._model("whole"), run._scored("again"), place, check_only=True) or ()
    assert (step.verb, step.output_dir, step.state) == ("steer", place, preview.TO_DO)
