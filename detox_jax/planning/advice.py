"""What would help a program that does not fit: by how much too large it is, and what saves most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detox_jax.planning import chips
from detox_jax.planning.chips import GIB, Slice
from detox_jax.planning.job import Job


def advice(job: Job, tpus: Slice, assessed: Sequence[Any]) -> list[str]:
    """Lines about each of the `Assessed` programs that do not fit."""
    lines = []
    for program in assessed:
        memory = program.memory
        if memory.fits:
            continue
        lines.append(
            f"{program.name}: needs {memory.peak / GIB:.1f} GiB a device of "
            f"{memory.limit / GIB:.1f}, {(memory.peak - memory.limit) / GIB:.1f} GiB too much"
        )
        lines += [f"  {line}" for line in _remedies(job, tpus, program)]
    return lines or ["no mesh of this slice has room for generation's parameters and cache"]


def _remedies(job: Job, tpus: Slice, program: Any) -> list[str]:
    memory, devices = program.memory, tpus.num_devices
    lines = []
    if larger := _enough(tpus, memory.peak * devices):
        lines.append(f"{larger.name} has enough memory for all of it, if the mesh splits it all")
    else:
        lines.append(f"no slice of {tpus.chip.name} has enough memory: another chip, or less to do")
    if program.mesh["data"] > 1 and program.name == "train":
        lines.append("parameters are copied along data: put its devices on fsdp")
    lines += _train_remedies(job, program, devices) if program.name == "train" else []
    if program.name != "train":
        use = job.generations[program.name]
        cache = job.cache_bytes(program.name, program.rows) / devices / GIB
        lines.append(
            f"the cache of {program.rows * use.num_samples} samples is about {cache:.1f} GiB a "
            "device: lower GENERATION_BATCH_SIZE"
        )
    # What was or is trained is float32; the base is as its checkpoint holds it.
    holds_base = program.name == "documents" or job.model.adaptation is not None
    if job.model.checkpoint_dtype == "float32" and holds_base:
        saved = 2 * job.parameters["base"] / devices / GIB
        lines.append(f"a checkpoint in bfloat16 saves {saved:.1f} GiB: CHECKPOINT_DTYPE=bfloat16")
    return lines


def _train_remedies(job: Job, program: Any, devices: int) -> list[str]:
    config, memory = job.model.config, program.memory
    trained = job.parameters["trained"]
    lines = []
    if job.model.adaptation is None:
        saved = 2 * trained / devices / GIB
        if job.optimizer.mu_dtype != "bfloat16":
            lines.append(f"a first moment in bfloat16 saves {saved:.1f} GiB: MU_DTYPE=bfloat16")
        lines.append(
            f"an adapter instead of the whole model saves its moments and gradients, "
            f"{job.update_bytes * trained / devices / GIB:.1f} GiB at least"
        )
    rows = job.batch_size // (program.mesh["data"] * program.mesh["fsdp"] * program.parts)
    if rows > 1:
        lines.append(
            f"{memory.temporary / GIB:.1f} GiB are no parameters but what {rows} rows at once "
            "need: raise ACCUMULATION_STEPS"
        )
    if config.remat == "none":
        lines.append("remat = 'full' keeps the inputs of the layers alone")
    return lines


def _enough(tpus: Slice, needed: int) -> Slice | None:
    fitting = (
        larger
        for larger in chips.slices(tpus.chip)
        if larger.num_chips > tpus.num_chips and larger.num_devices * larger.device_hbm >= needed
    )
    return next(fitting, None)
