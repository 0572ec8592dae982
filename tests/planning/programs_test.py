"""The programs that are planned are those that run."""

import dataclasses

import jax
import pytest

from detox_jax.generation import decoding, schedule
from detox_jax.generation.decoding import Decoder
from detox_jax.generation.sampling import TopPSampling
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import programs
from tests.conftest import random_params


def test_the_jaxpr_of_decoding_is_the_decoders(config, monkeypatch):
    mesh = meshes.create_mesh({"fsdp": 4, "model": 2})
    adaptation = AdapterConfig(8)
    module, params = random_params(config, adaptation)
    sampling = TopPSampling(0.9)
    decoder = Decoder(
        module, params, mesh, sampling=sampling, max_new_tokens=5, end_ids=(1,), seed=0
    )
    traced = []

    def traces(function):
        def run(*arguments, **named):
            traced.append(function.trace(*arguments, **named).jaxpr)
            return function(*arguments, **named)

        return run

    for name in ("_empty", "_insert", "_advance"):
        monkeypatch.setattr(decoding, name, traces(getattr(decoding, name)))
    prompts = [[5] * 16] * 4
    decoder(prompts, ["a", "b", "c", "d"], num_samples=3, num_rows=4, bucket=16)
    planned = programs.decode(
        programs.Model(dataclasses.replace(config, remat="full"), adaptation, "float32"),
        sampling,
        mesh,
        num_rows=4,
        prompt_length=16,
        num_samples=3,
        max_new_tokens=5,
    )
    ran = [equation for jaxpr in traced[:3] for equation in jaxpr.jaxpr.eqns]
    ours = planned.traced.jaxpr.jaxpr.eqns
    assert [e.primitive.name for e in ours] == [e.primitive.name for e in ran]
    shapes = [[[str(v.aval) for v in e.outvars] for e in equations] for equations in (ours, ran)]
    assert shapes[0] == shapes[1]
    loops = [
        [str(e.params["body_jaxpr"]) for e in equations if e.primitive.name == "while"]
        for equations in (ours, ran)
    ]
    assert len(loops[0]) == 1 and loops[0] == loops[1]


@pytest.mark.parametrize("gets_smaller", [True, False])
def test_a_smaller_batch_has_room_beside_the_one_that_it_follows(config, monkeypatch, gets_smaller):
    if gets_smaller:  # A model of this size is otherwise not worth another program.
        monkeypatch.setattr(schedule, "_WORTH_OPERATIONS", 0)
    mesh = meshes.create_mesh({"fsdp": 4, "model": 2})
    rows, positions = 64, 64
    model = programs.Model(config, None, "float32")
    planned = programs.decode(
        model,
        TopPSampling(0.9),
        mesh,
        num_rows=rows,
        prompt_length=1,
        num_samples=1,
        max_new_tokens=positions - 1,
    )
    keys = model.cache_bytes(rows * positions) // 2
    params, _ = model.params(mesh)
    tokens = rows * (positions - 1) * 4
    others = rows * (4 + 8 + 4 + 1 + 4)  # last token, key, step, done, index of the cache
    by_hand = (2 * keys + keys // 2 * gets_smaller) / 8 + (tokens + others) / 4
    assert planned.around == programs.shard_bytes(params) + by_hand


def test_only_what_is_frozen_has_the_checkpoints_dtype(config):
    mesh = meshes.create_mesh({"fsdp": 8})
    model = programs.Model(config, AdapterConfig(8), "bfloat16")
    trained, frozen = model.params(mesh)
    assert {x.dtype.name for x in jax.tree.leaves(trained)} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(frozen)} == {"bfloat16"}
    whole, _ = dataclasses.replace(model, adaptation=None).params(mesh)
    assert {x.dtype.name for x in jax.tree.leaves(whole)} == {"float32"}
    base, _ = model.base.params(mesh)
    assert {x.dtype.name for x in jax.tree.leaves(base)} == {"bfloat16"}
    assert programs.shard_bytes(frozen) * 8 > sum(x.size * 2 for x in jax.tree.leaves(frozen))
