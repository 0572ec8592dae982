"""How something is computed: the mesh, and what overrides a model's config."""

import dataclasses

import pytest

from detox_jax.errors import UserError
from detox_jax.parallel.computation import Computation, read_mesh_shape


def test_a_mesh_is_named_by_a_dict_or_by_text():
    for shape in ({"fsdp": 4, "model": 2}, "fsdp=4,model=2", "fsdp = 4, model = 2,"):
        mesh = Computation(mesh_shape=shape).create_mesh()
        assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "model": 2}
    assert dict(Computation().create_mesh().shape) == {"data": 8, "fsdp": 1, "model": 1}
    assert Computation(mesh_shape="data=2,model=-1").create_mesh().shape["model"] == 4


def test_whoever_asks_gets_the_same_mesh():
    computation = Computation(mesh_shape={"fsdp": 8})
    assert computation.create_mesh() == computation.create_mesh()


@pytest.mark.parametrize("text", ["fsdp:2", "fsdp", "fsdp=two", "fsdp=1=2"])
def test_text_that_is_no_mesh(text):
    with pytest.raises(UserError, match=f"^MESH_SHAPE={text}: expected sizes of the axes"):
        Computation(mesh_shape=text).create_mesh()
    with pytest.raises(UserError, match=f"^--mesh={text}: "):
        read_mesh_shape(text, "--mesh")


def test_the_models_config_stays_where_nothing_is_chosen(config):
    config = dataclasses.replace(config, remat="full", logits_chunk=8)
    assert Computation(mesh_shape="data=8", accumulation_steps=2).configure(config) == config
    chosen = Computation(remat="dots", attention_kernel="plain", logits_chunk=16)
    assert chosen.configure(config) == dataclasses.replace(
        config, remat="dots", attention_kernel="plain", logits_chunk=16
    )
    with pytest.raises(UserError, match="TransformerConfig.remat is 'all'"):
        Computation(remat="all").configure(config)


def test_parts_of_a_batch_decide_under_dropout_alone():
    """Each part has masks of its own, so that other parts train another model."""
    assert Computation("data=8", accumulation_steps=4).decides(0.1) == {"accumulation_steps": 4}
    assert Computation("data=8", accumulation_steps=4).decides(0.0) == {}
