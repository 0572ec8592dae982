"""One program of a job, compiled for one of this machine's devices in the place of a TPU."""

import dataclasses

import pytest

from detox_jax.generation import slots
from detox_jax.generation.sampling import Greedy
from detox_jax.planning import flops
from detox_jax.planning.assessment import Assessed, assess
from detox_jax.planning.chips import Chip, Slice
from detox_jax.planning.job import DecodingProgram, Job
from detox_jax.planning.programs import Model
from detox_jax.planning.roofline import Run
from detox_jax.training.optimizer import AdamW

TPUS = Slice(Chip("one", 2**30, 1e6, 1e9, 1.0, ("1x1",)), (1, 1))


def test_a_decoding_step_is_told_from_its_prefill(config, one_device_mesh):
    model = Model(dataclasses.replace(config, num_layers=1), None, "float32")
    use = DecodingProgram(model, prompt_length=16, num_samples=2, max_new_tokens=7, batch_size=6)
    job = Job(model, AdamW(), 8, 1, 16, Greedy(), {"some": use}, Run(1, 1, 1, 1, 1))
    assessed = assess(job, TPUS, "some", one_device_mesh)
    assert assessed.rows == 3 and assessed.memory.fits
    prefill, step = assessed.phases["prefill"], assessed.phases["step"]
    assert step.flops == flops.decode_step(model.config, None, rows=6, context=23)
    assert (prefill.tokens, step.tokens) == (48, 6)
    # A step reads the parameters and the cache; seven of them are more than one prefill.
    parameters = 4 * job.parameters["base"]
    cache = model.cache_bytes(6 * use.context)  # Not in tiles, on CPU.
    assert step.hbm_bytes > 0.8 * (parameters + cache)
    assert 0 < prefill.hbm_bytes < 7 * step.hbm_bytes
    assert step.roofline.hbm == pytest.approx(step.hbm_bytes / 1e6)
    assert step.roofline.bound == "hbm" and step.collectives == {}
    assert Assessed.from_json(assessed.to_json()) == assessed


def test_more_rows_than_steps_are_no_steps(config, one_device_mesh):
    """The loop also ends by the number of rows, which is not how often it runs."""
    model = Model(dataclasses.replace(config, num_layers=1), None, "float32")
    use = DecodingProgram(model, prompt_length=1, num_samples=1, max_new_tokens=3, batch_size=50)
    job = Job(model, AdamW(), 8, 1, 16, Greedy(), {"some": use}, Run(1, 1, 1, 1, 1))
    prefill, step = assess(job, TPUS, "some", one_device_mesh).phases.values()
    # One token has no prefill: what is left only empties the cache.
    assert prefill.hbm_bytes < step.hbm_bytes


def test_a_step_reads_what_is_filled_of_a_cache(config, one_device_mesh, monkeypatch):
    model = Model(config, None, "float32")  # Of one layer nothing is taken, but all is read.
    use = DecodingProgram(model, prompt_length=1, num_samples=1, max_new_tokens=62, batch_size=64)
    job = Job(model, AdamW(), 8, 1, 16, Greedy(), {"some": use}, Run(1, 1, 1, 1, 1))

    def step():
        return assess(job, TPUS, "some", one_device_mesh).phases["step"]

    whole = step()
    monkeypatch.setattr(slots, "_ROOM_MULTIPLE", 16)
    parts = step()
    assert use.steps() == {16: 17, 32: 16, 48: 16, 64: 13}
    cache = model.cache_bytes(64 * 64)
    saved = whole.hbm_bytes - parts.hbm_bytes
    assert 0.8 * cache * (1 - 0.6) < saved
    assert parts.flops < whole.flops
