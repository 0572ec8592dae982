"""What helps a program that does not fit, by arithmetic alone."""

import pytest

from detox_jax.generation.sampling import Greedy
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.planning import chips
from detox_jax.planning.advice import advice
from detox_jax.planning.assessment import Assessed
from detox_jax.planning.chips import GIB
from detox_jax.planning.compilation import Memory
from detox_jax.planning.job import DecodingProgram, Job
from detox_jax.planning.models import Model
from detox_jax.planning.roofline import Run
from detox_jax.training.optimizer import AdamW

CONFIG = TransformerConfig(
    vocab_size=50258, num_layers=24, emb_dim=2048, num_heads=32, mlp_dim=8192, dtype="bfloat16"
)


def advised(name, adaptation=None, mu_dtype=None, parts=1):
    """The job, and what is said of one of its programs on four devices."""
    model = Model(CONFIG, adaptation, "float32")
    uses = {
        "documents": DecodingProgram(model.base, 1, 1, 1000, 256),
        "continuations": DecodingProgram(model, 16, 25, 20, 256),
    }
    optimizer = AdamW(mu_dtype=mu_dtype)
    job = Job(model, optimizer, 512, parts, 2048, Greedy(), uses, Run(1, 1, 1, 1, 1))
    memory = Memory(GIB, 0, 20 * GIB, 16 * GIB, fits=False)
    mesh = {"data": 1, "fsdp": 4, "model": 1}
    program = Assessed(name, mesh, 8, parts if name == "train" else 1, "", memory, {}, 1.0)
    return job, "\n".join(advice(job, chips.parse("v5e:2x2"), [program]))


@pytest.mark.parametrize(
    ("name", "adaptation", "saves"),
    [
        ("documents", None, True),
        ("continuations", None, False),  # Of what was trained, which is float32.
        ("train", None, False),
        ("documents", AdapterConfig(256), True),
        ("continuations", AdapterConfig(256), True),
        ("train", AdapterConfig(256), True),
    ],
)
def test_a_checkpoint_of_half_the_bytes_helps_what_holds_it_as_it_is(name, adaptation, saves):
    job, said = advised(name, adaptation)
    saved = 2 * job.parameters["base"] / 4 / GIB
    line = f"a checkpoint in bfloat16 saves {saved:.1f} GiB: CHECKPOINT_DTYPE=bfloat16"
    assert (line in said) == saves and ("CHECKPOINT_DTYPE" in said) == saves


@pytest.mark.parametrize(
    ("mu_dtype", "parts", "num_bytes"),
    [(None, 1, 4 + 4 + 2), ("bfloat16", 1, 2 + 4 + 2), ("bfloat16", 4, 2 + 4 + 2 + 4)],
)
def test_an_adapter_saves_moments_and_gradients_of_the_whole_model(mu_dtype, parts, num_bytes):
    job, said = advised("train", mu_dtype=mu_dtype, parts=parts)
    saved = num_bytes * job.parameters["trained"] / 4 / GIB
    assert f"saves its moments and gradients, {saved:.1f} GiB at least" in said
    assert ("MU_DTYPE=bfloat16" in said) == (mu_dtype is None)
