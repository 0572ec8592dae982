"""What a plan says of STEERING is what the loop holds: caches to the byte, shapes of every step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.generation import slots
from detox_jax.generation.sampling import TopPSampling
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.contrast import PrefixContrast, SelfDebiasing
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.generation.steering.reversal import ToxificationReversal
from detox_jax.generation.steering.reward import RewardAugmented
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.generation.steering.words import BannedWords
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import programs, steered
from detox_jax.planning.job import Generations
from detox_jax.planning.models import Model
from tests.generation.steering import made

N, P, SAMPLES, NEW = 2, 16, 3, 8
R = N * SAMPLES


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def paths(model_dir, config, vocabulary, one_device_mesh, tmp_path_factory):
    """Adaptations of the model of two sizes, and a whole model."""
    root = tmp_path_factory.mktemp("experts")
    kinds = {"expert": AdapterConfig(8), "anti": AdapterConfig(8), "other": AdapterConfig(4)}
    made_paths = {
        name: made.save_adaptation(root / name, model_dir, one_device_mesh, seed, kind)
        for seed, (name, kind) in enumerate(kinds.items())
    }
    return {**made_paths, "whole": made.save_whole(root / "whole", config, vocabulary, 5)}


# And how many caches there are of each row.
METHODS = {
    "experts": (lambda of: Experts(of["expert"], of["anti"]), 2),
    "two sizes": (lambda of: Experts(of["expert"], of["other"]), 2),
    "whole and adapted": (lambda of: Experts(of["whole"], of["anti"]), 2),
    "anti-only": (lambda of: Experts(anti=of["whole"], base_top_p=0.9), 1),
    "contrast": (lambda _: PrefixContrast("abcdefghi"), 1),
    "debiasing": (lambda _: SelfDebiasing(["abcdefghi", "abc"]), 2),
    "discriminator": (lambda of: GenerativeDiscriminator(clean=of["expert"], dirty=of["anti"]), 2),
    "reversal": (lambda _: ToxificationReversal("abcdefghi", "abc"), 2),
}


def _cached(states):
    """Bytes of the networks' caches among states: keys and values, of any number of models."""
    leaves = jax.tree_util.tree_leaves_with_path(states)
    names = ("cached_key", "cached_value")
    cached = [leaf for path, leaf in leaves if path[-1].key in names]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in cached)


def _started(start):
    shapes = jax.ShapeDtypeStruct((R, P), jnp.int32), jax.ShapeDtypeStruct((R,), jnp.int32)
    return jax.eval_shape(lambda prompts, lengths: start(prompts, lengths, P + NEW), *shapes)


@pytest.mark.parametrize("name", METHODS)
def test_caches_are_those_of_the_loop_to_the_byte(name, base, paths, config, one_device_mesh):
    method, caches = METHODS[name][0](paths), METHODS[name][1]
    (planned,) = steered.of_methods([method], Model(config, None, "float32"))
    loop = method.load(base, one_device_mesh).steering
    assert sum(branch.rows for branch in planned.branches) == caches
    # A plan knows no vocabulary, so that a prefix is of about so many tokens.
    longest = [branch.longest_prefix for branch in getattr(loop, "branches", None) or [loop.branch]]
    assert [bool(branch.prefix) for branch in planned.branches] == [bool(of) for of in longest]
    exact = [
        dataclasses.replace(branch, prefix=of)
        for branch, of in zip(planned.branches, longest, strict=True)
    ]
    expected = sum(branch.cache_bytes(R, P + NEW) for branch in exact)
    assert expected == _cached(_started(loop.start)) > 0


def test_the_weights_of_adaptations_are_their_own_alone(base, paths, config, one_device_mesh):
    model = Model(config, None, "float32")
    whole = params_lib.count(base.params) * 4
    added = {}
    for name in ("expert", "other", "whole"):
        loaded = checkpoints.load_model(paths[name], one_device_mesh)
        added[name] = params_lib.count(loaded.params) * 4 - whole
    for method, held, calls in (
        (Experts(paths["expert"], paths["anti"]), 2 * added["expert"], 1),
        (Experts(paths["expert"], paths["other"]), added["expert"] + added["other"], 2),
        (Experts(paths["expert"], paths["whole"]), added["expert"] + whole, 2),
        (Experts(paths["whole"], paths["whole"]), 2 * whole, 2),
        (PrefixContrast(), 0, 1),
    ):
        (planned,) = steered.of_methods([method], model)
        assert sum(b.num_bytes() for b in planned.branches) == held
        assert len(planned.branches) == calls
        shapes = jax.tree.leaves(steered.held([planned], one_device_mesh))
        assert sum(leaf.size * leaf.dtype.itemsize for leaf in shapes) == held


def test_candidates_share_one_cache(config, base):
    """Read ahead they add a position each, of the steered model and of a reward's own."""
    loop = Lookahead(base.module, base.params, 5)
    model = Model(config, None, "float32")
    for method, held in ((SubspaceMargin("x", k=5), 0), (RewardAugmented("x", k=5), 1)):
        ((branch,),) = (s.branches for s in steered.of_methods([method], model))
        assert branch.cache_bytes(R, P + NEW) == _cached(_started(loop.start))
        assert branch.tokens_a_row == 5 and bool(branch.num_bytes()) == bool(held)


def test_what_is_nothing_and_what_is_not_there(config, paths):
    """Strength 0, tables and vectors; and experts that a run is still to train."""
    adapted = Model(config, AdapterConfig(8), "bfloat16")
    nothing = [BannedWords(), ActivationOffset("x"), Experts(anti="x", alpha=0.0)]
    assert steered.of_methods(nothing, adapted) == ()
    (planned,) = steered.of_methods([Experts("not/yet", "nor/this")], adapted)
    (branch,) = planned.branches
    assert branch.is_planned and branch.rows == 2 and branch.held == "adaptation"
    (planned,) = steered.of_methods([Experts("not/yet", base="x")], adapted)
    base_bytes = sum(leaf.size * 2 for leaf in jax.tree.leaves(adapted.shapes()[1]))
    own = sum(leaf.size * 4 for leaf in jax.tree.leaves(adapted.shapes()[0]))
    assert planned.branches[0].num_bytes() == base_bytes + own
    with pytest.raises(UserError, match="which is no method"):
        steered.of_methods([Experts], adapted)


def test_the_planned_loop_is_the_one_that_runs(base, paths, config, one_device_mesh):
    """The same states and the same draws, of what is on disk and of shapes alone."""
    method = Experts(paths["expert"], paths["anti"])
    loaded = method.load(base, one_device_mesh)
    model = Model(config, None, "float32")
    planned = programs.decode(
        model,
        TopPSampling(0.9),
        one_device_mesh,
        num_rows=N,
        prompt_length=P,
        num_samples=SAMPLES,
        max_new_tokens=NEW,
        steered=steered.of_methods([method], model),
    )
    program = slots.Program(base.module, TopPSampling(0.9), NEW, (1,), P, 1)
    with meshes.sharding_scope(one_device_mesh):
        state = jax.eval_shape(lambda: slots.empty(program, base.params, R, (loaded.steering,)))
        ran = jax.jit(slots.advance, static_argnums=0).trace(
            program, base.params, state, jnp.int32(R), (loaded.steering,)
        )
    bodies = [
        [e.params["body_jaxpr"].jaxpr for e in jaxpr.eqns if e.primitive.name == "while"][-1]
        for jaxpr in (planned.traced.jaxpr.jaxpr, ran.jaxpr.jaxpr)
    ]
    names = [[str(e.primitive.name) for e in body.eqns] for body in bodies]
    shapes = [[str(v.aval) for e in body.eqns for v in e.outvars] for body in bodies]
    assert names[0] == names[1] and shapes[0] == shapes[1]


def test_steering_reaches_the_program(config, paths):
    use = Generations(prompt_length=P, max_new_tokens=NEW, steering=[Experts(anti="not/yet")])
    both = use.programs(Model(config, None, "float32"))
    assert both["documents"].branches == [] and len(both["continuations"].branches) == 1
