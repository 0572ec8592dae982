"""Which meshes and accumulations a search tries first, by arithmetic alone."""

import pytest

from detox_jax.generation.sampling import Greedy
from detox_jax.models.config import TransformerConfig
from detox_jax.planning import chips, search
from detox_jax.planning.job import DecodingProgram, Job
from detox_jax.planning.programs import Model
from detox_jax.planning.roofline import Run
from detox_jax.training.optimizer import AdamW


def make_job(**sizes):
    config = TransformerConfig(
        vocab_size=50258, max_length=2048, dtype="bfloat16", remat="full", logits_chunk=512, **sizes
    )
    model = Model(config, None, "bfloat16")
    uses = {
        "documents": DecodingProgram(model.base, 1, 1, 1000, 256),
        "continuations": DecodingProgram(model, 16, 25, 20, 256),
    }
    optimizer = AdamW(mu_dtype="bfloat16")
    return Job(model, optimizer, 512, 1, 2048, Greedy(), uses, Run(1, 1, 1, 1, 1))


SMALL = {"num_layers": 12, "emb_dim": 768, "num_heads": 12, "mlp_dim": 3072}
LARGE = {"num_layers": 105, "emb_dim": 20480, "num_heads": 128, "mlp_dim": 81920}


@pytest.fixture(scope="module")
def small():
    return make_job(**SMALL)


@pytest.fixture(scope="module")
def large():
    return make_job(**LARGE)


def test_a_small_model_is_copied_and_a_large_one_split(small, large):
    _, shape = search.train_candidates(small, chips.parse("v5p:2x2x1"))[0]
    assert shape == {"data": 4, "fsdp": 1, "model": 1}
    _, shape = search.train_candidates(large, chips.parse("v5p:4x4x8"))[0]
    assert shape["data"] == 1
    # Parts of less than 128 of the width would be summed in place of gathered.
    assert 20480 // shape["fsdp"] % 128 == 0 and shape["model"] > 1
    assert search.train_candidates(large, chips.parse("v5p:4x4x4")) == []


def test_batches_are_split_as_little_as_memory_allows(small, large):
    for job, place in ((small, "v5e:1x1"), (large, "v5p:4x4x8")):
        tpus = chips.parse(place)
        (first, shape), (second, same), *_ = search.train_candidates(job, tpus)
        assert shape == same and second.accumulation_steps > first.accumulation_steps
        assert first.likely_train_bytes(shape) <= tpus.device_hbm
        rows = 512 // first.accumulation_steps
        assert rows % (shape["data"] * shape["fsdp"]) == 0
        assert second.likely_train_bytes(shape) < first.likely_train_bytes(shape)


def test_generation_splits_heads_and_shrinks_its_batches(large):
    job, shape = next(search.generation_candidates(large, chips.parse("v5p:2x4x4")))
    assert shape == {"data": 1, "fsdp": 1, "model": 32}
    assert job.generations["documents"].batch_size < 256  # A cache of 256 thousand positions.
    assert job.generations["continuations"].batch_size == 256
    # Where there are more devices than heads, weights are copied rather than gathered.
    _, shape = next(search.generation_candidates(large, chips.parse("v5p:8x8x8")))
    assert shape == {"data": 4, "fsdp": 1, "model": 128}
