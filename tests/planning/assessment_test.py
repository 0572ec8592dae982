"""One program of a job, compiled for one of this machine's devices in the place of a TPU."""

import dataclasses

import pytest

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
    cache = job.cache_bytes("some", 3) * model.config.head_size / 128  # Not in tiles, on CPU.
    assert step.hbm_bytes > 0.8 * (parameters + cache)
    assert 0 < prefill.hbm_bytes < 7 * step.hbm_bytes
    assert step.roofline.hbm == pytest.approx(step.hbm_bytes / 1e6)
    assert step.roofline.bound == "hbm" and step.collectives == {}
    assert Assessed.from_json(assessed.to_json()) == assessed
