"""The programs that are planned are those that run."""

import dataclasses

import jax

from detox_jax.generation import decoding
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
        def run(*arguments):
            traced.append(function.trace(*arguments).jaxpr)
            return function(*arguments)

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
