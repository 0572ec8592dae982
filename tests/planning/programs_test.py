"""The programs that are planned are those that run."""

import dataclasses

import jax
import numpy as np

from detox_jax.generation.decoding import Decoder
from detox_jax.generation.sampling import TopPSampling
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import programs
from tests.conftest import random_params


def test_the_jaxpr_of_decoding_is_the_decoders(config):
    mesh = meshes.create_mesh({"fsdp": 4, "model": 2})
    adaptation = AdapterConfig(8)
    module, params = random_params(config, adaptation)
    sampling = TopPSampling(0.9)
    decoder = Decoder(
        module, params, mesh, sampling=sampling, max_new_tokens=5, end_ids=(1,), seed=0
    )
    arrays = jax.device_put(
        (np.ones((4, 16), np.int32), np.ones(4, np.int32), np.ones((4, 2), np.uint32)),
        meshes.batch_sharding(mesh),
    )
    with meshes.sharding_scope(mesh):
        ran = decoder._decode.trace(params, *arrays, num_samples=3)
    planned = programs.decode(
        programs.Model(dataclasses.replace(config, remat="full"), adaptation, "float32"),
        sampling,
        mesh,
        num_rows=4,
        prompt_length=16,
        num_samples=3,
        max_new_tokens=5,
    )
    assert str(planned.traced.jaxpr) == str(ran.jaxpr)


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
