"""Which rows the report shows as one: those that differ in their seed alone."""

import gin
import pytest

from detox_jax.generation import sampling
from detox_jax.method import seeds
from detox_jax.method.method import Method, rows
from detox_jax.models.adaptation import LoRAConfig


@pytest.fixture
def train():
    """Two references of gin's to one scope, which are two functions, and one to another scope."""

    @gin.configurable
    def some_train(x=1):
        return x

    @gin.configurable
    def trains(first, again, other):
        return first, again, other

    with gin.unlock_config():
        gin.parse_config(
            "trains.first = @dpo/some_train\ntrains.again = @dpo/some_train\n"
            "trains.other = @long/some_train"
        )
    yield trains()
    gin.clear_config()


def test_rows_of_one_method_are_known_in_any_order():
    made = {
        "whole-seed1": Method("standard", random_seed=1),
        "whole": Method("standard"),
        "lora-0": Method("standard", LoRAConfig(rank=4), random_seed=0),
        "lora-1": Method("standard", LoRAConfig(rank=4), random_seed=1),
        "lora-wide": Method("standard", LoRAConfig(rank=8), random_seed=2),
        "top": Method(decoding={"sampling": sampling.Greedy()}, random_seed=3),
    }
    groups = {"whole": ["whole", "whole-seed1"], "lora-0": ["lora-0", "lora-1"]}
    assert seeds.of_rows(made) == groups
    assert seeds.of_rows(dict(reversed(made.items()))) == groups
    as_dicts = {"a": {"corpus": "x"}, "b": {"corpus": "x", "random_seed": 1}}
    assert seeds.of_rows(rows(as_dicts, None, {})) == {"a": ["a", "b"]}


def test_rows_of_one_seed_are_no_spread():
    assert seeds.of_rows({"a": Method("x"), "b": Method("x"), "c": Method("y")}) == {}
    named = {"a": Method("x"), "b": Method("x", random_seed=3)}
    assert seeds.of_rows(named, own=3) == {}
    assert seeds.of_rows(named, own=0) == {"a": ["a", "b"]}
    doubled = {**named, "a-seed0": Method("x", random_seed=0)}
    assert seeds.of_rows(doubled, own=0) == {"a": ["a", "b"]}


def test_a_training_is_the_same_where_gin_calls_the_same(train):
    first, again, other = train
    assert first is not again
    made = {
        "a": Method("x", train=first),
        "b": Method("x", train=again, random_seed=1),
        "c": Method("x", train=other, random_seed=2),
    }
    assert seeds.of_rows(made) == {"a": ["a", "b"]}
