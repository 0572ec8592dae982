"""Which settings decide an output, and what is no setting at all."""

import dataclasses

import pytest

from detox_jax import bad_records, output_settings
from detox_jax.errors import UserError
from detox_jax.output_settings import NOT_YET, NotYet


def _verb(input, output_dir, batch_size=8, seed=0, selection=None):
    del input, output_dir, batch_size, seed, selection


@dataclasses.dataclass(frozen=True)
class Share:
    fraction: float


@dataclasses.dataclass(frozen=True)
class Keep:
    """A user's own, with a field that is called as our notes are."""

    path: str


def _settings(free=("output_dir", "batch_size"), **arguments):
    given = {"input": "a.jsonl", "output_dir": "o", "batch_size": 8, "seed": 0, "selection": None}
    return output_settings.of_verb(
        _verb, {**given, **arguments}, free=free, instead={"input": {"input": {"sha256": "0"}}}
    )


def test_every_argument_decides_that_is_not_free():
    assert _settings() == {"input": {"sha256": "0"}, "seed": 0, "selection": None}
    assert _settings(batch_size=9) == _settings() != _settings(seed=1)
    assert _settings(selection=Share(0.5))["selection"] == {"method": "Share", "fraction": 0.5}


def test_an_argument_that_cannot_be_compared_is_a_mistake_of_the_programmer():
    with pytest.raises(TypeError, match="_verb.selection: .*not JSON serializable; say what"):
        _settings(selection=object())
    with pytest.raises(TypeError, match=r"\['speed'\] are no arguments"):
        _settings(free=("speed",))
    with pytest.raises(TypeError, match=r"\['input'\] are no arguments, or stand twice"):
        _settings(free=("input",))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**32 + 5, 1.0, True, None])
def test_a_seed_that_would_be_cut_is_refused(seed):
    with pytest.raises(UserError, match="RANDOM_SEED is .*; give .* to 4294967295"):
        _settings(seed=seed)


def test_the_largest_seed_is_one():
    assert _settings(seed=2**32 - 1)["seed"] == 2**32 - 1


THERE = {"input": {"path": "a", "sha256": "0"}, "seed": 1, "items": [{"n": 1}, {"n": 2}], "x": None}


@pytest.mark.parametrize(
    ("now", "known"),
    [
        ({"input": NOT_YET}, {"input": THERE["input"]}),
        ({"input": {"sha256": NOT_YET}}, {"input": {"sha256": "0"}}),
        ({"x": NOT_YET, "absent": NOT_YET}, {"x": None}),
        ({"x": {"sha256": NOT_YET}}, {"x": {"sha256": "not known yet"}}),
        ({"absent": {"sha256": NOT_YET}}, {"absent": {"sha256": "not known yet"}}),
        ({"seed": NotYet(among=(3, 1))}, {"seed": 1}),
        ({"seed": NotYet(among=(3, 4))}, {"seed": 3}),
        ({"items": ({"n": NOT_YET}, {"n": 3})}, {"items": [{"n": 1}, {"n": 3}]}),
        ({"items": [{"n": NOT_YET}]}, {"items": [{"n": "not known yet"}]}),
        (NotYet(known={"seed": 2, "new": 1}), {**THERE, "seed": 2}),
        ({"x": NotYet(known={"n": 1})}, {"x": {"n": 1}}),
    ],
)
def test_what_is_not_known_yet_is_as_it_is_there(now, known):
    assert output_settings.as_far_as_known(now, THERE) == known


def test_only_a_check_is_ahead():
    assert not output_settings.is_ahead()
    with output_settings.ahead():
        assert output_settings.is_ahead()
    assert not output_settings.is_ahead()


def test_a_struct_decides_by_its_fields():
    assert output_settings.of_struct(Share(0.5)) == {"fraction": 0.5}
    assert output_settings.of_struct(Share(0.5), free=("fraction",)) == {}
    assert output_settings.of_struct(Share(0.5), instead={"fraction": {"half": True}}) == {
        "half": True
    }
    with pytest.raises(TypeError, match=r"Share: \['share'\] are no arguments"):
        output_settings.of_struct(Share(0.5), free=("share",))


def test_places_do_not_make_settings_differ():
    here, there = {"in": [{"path": "a", "sha256": 1}]}, {"in": [{"path": "b", "sha256": 1}]}
    assert output_settings.agree(here, there)
    assert not output_settings.agree(here, {"in": [{"path": "a", "sha256": 2}]})


def _found(there, now, complete=True):
    of = {"verb": "panel", "complete": complete, "schema_version": output_settings.SCHEMA_VERSION}
    return output_settings.difference({**of, "settings": there}, {**of, "settings": now})


def test_a_name_of_the_users_is_no_note():
    """A method called `path` was no part of the settings: the table without it was finished."""

    def of(**methods):
        described = {name: {"path": place, "sha256": place} for name, place in methods.items()}
        return {"methods": described}

    there = of(base="a", path="c")
    assert _found(there, there) is None
    assert _found(of(base="a"), there)[0] == "methods.path"
    assert _found(there, of(base="a", path="d")) == ("methods.path.sha256", "c of c", "d of d")
    moved = {"methods": {**there["methods"], "path": {"path": "elsewhere", "sha256": "c"}}}
    assert _found(there, moved) is None
    # Of sheets and seeds as lists of texts.
    assert _found({"seeds": {"path": ["a"]}}, {"seeds": {"path": ["b"]}}) is not None
    for name in ("weights", "learns", "asked_in"):  # no marks of ours either
        there, now = {"a": ["a-0"]}, {"a": ["a-0"], name: ["b-0"]}
        assert _found({"seeds": there}, {"seeds": now})[0] == f"seeds.{name}"
    around = {"tokens_around": [[], [], [0]]}
    assert _found({"seeds": there}, {"seeds": there, **around}) is None


@pytest.mark.parametrize("complete", [True, False])
def test_a_path_of_a_strategy_of_the_users_decides(complete):
    def of(path):
        return {"selection": output_settings.describe(Keep(path), "selection")}

    assert _found(of("a.txt"), of("a.txt"), complete) is None
    assert _found(of("a.txt"), of("b.txt"), complete) == ("selection.own_path", "a.txt", "b.txt")
    # An output of before did not name it, and stays.
    assert _found({"selection": {"method": "Keep", "path": "a.txt"}}, of("a.txt"), complete) is None
    # Ours say by the hash what decides.
    policy = output_settings.describe(bad_records.SetAside("a.jsonl"), "bad_records")
    assert "own_path" not in policy


def test_parts_of_a_batch_that_an_older_output_does_not_name_are_no_difference():
    """Under dropout they decide; before, no manifest said of how many it was."""

    def found(there, now):
        made = ({"verb": "train", "complete": False, "settings": x} for x in (there, now))
        return output_settings.difference(*made)

    named = {"seed": 0, "accumulation_steps": 2}
    assert found({"seed": 0}, named) is None and found(named, named) is None
    assert found({"seed": 1}, named) == ("seed", 1, 0)
    assert found(named, {**named, "accumulation_steps": 4}) == ("accumulation_steps", 2, 4)


@pytest.mark.parametrize("complete", [True, False])
def test_a_training_of_before_goes_on_with_the_cache_that_it_did_not_name(complete):
    def found(there, now):
        made = ({"data": {"source": {"cached": {"examples": 2}, **of}}} for of in (there, now))
        old, new = ({"verb": "train", "complete": complete, "settings": of} for of in made)
        return output_settings.difference(old, new)

    named = {"cached_files": [{"files": 1, "sha256": "0"}]}
    assert found({}, named) is None and found(named, named) is None
    assert found(named, {"cached_files": [{"files": 1, "sha256": "1"}]}) == (
        "data.source.cached_files[0].sha256",
        "0",
        "1",
    )
    assert found(named, {})[0] == "data.source.cached_files"
    assert found({}, {"cached_files": {"path": "x"}})[0] == "data.source.cached_files"  # A name.


MARKED = {
    "objective": {"method": "Click", "learns": "a mean"},
    "steering": [{"method": "BannedWords", "text_rules": 2}],
    "text_rules": 2,
    "encoder": {"sha256": "0", "tokenizer_sha256": "1"},
}


def test_what_a_version_before_did_otherwise_stays_where_it_is_finished():
    """Its manifest has no mark. What is unfinished would go on otherwise."""

    def found(there, now, complete):
        manifest = {"verb": "generate", "complete": complete, "settings": there}
        return output_settings.difference(manifest, {"verb": "generate", "settings": now})

    old = {"objective": {"method": "Click"}, "steering": [{"method": "BannedWords"}]}
    old["encoder"] = {"sha256": "0"}
    assert found(old, MARKED, True) is None and found(MARKED, MARKED, False) is None
    for name, mark, value in (
        ("objective", "objective.learns", "a mean"),
        ("steering", "steering[0].text_rules", 2),
        ("text_rules", "text_rules", 2),
        ("encoder", "encoder.tokenizer_sha256", "1"),
    ):
        assert found(old, {**old, name: MARKED[name]}, False) == (mark, "absent", value)
    assert found(MARKED, {**old, "encoder": MARKED["encoder"]}, True) == (
        "objective.learns",
        "a mean",
        None,
    )
    # Nothing else is forgiven, and a user's own name is no mark.
    other = {**MARKED, "objective": {"method": "Other", "learns": "a mean"}}
    assert found(old, other, True) == ("objective.method", "Click", "Other")
    named = [{"methods": {"base": {}, **more}} for more in ({}, {"learns": {"path": "x"}})]
    assert found(*named, True)[0] == "methods.learns"


def test_nothing_is_added_to_parts_that_are_made_otherwise():
    there = {"verb": "choices", "complete": True, "settings": {"tasks": ["a"]}}

    def found(tasks):
        now = {"verb": "choices", "settings": {"tasks": tasks, "text_rules": 2}}
        return output_settings.difference_of_parts("tasks", there, now, lambda name: True)

    assert found(["a"]) is None
    assert found(["a", "b"]) == ("text_rules", "absent", 2)


def test_what_differs_in_marks_alone():
    old = [{"method": "BannedWords"}]
    assert output_settings.differ_in_marks(old, MARKED["steering"])
    assert not output_settings.differ_in_marks(MARKED["steering"], MARKED["steering"])
    assert not output_settings.differ_in_marks([{"method": "Experts"}], MARKED["steering"])
