"""A program on a slice: memory, what it sends, how fast it can be; and all programs of a job."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

from jax.sharding import Mesh

from detox_jax.parallel import collectives, flops, traffic
from detox_jax.parallel.advice import advice
from detox_jax.parallel.chips import Slice
from detox_jax.parallel.compilation import Memory, compile_program
from detox_jax.parallel.hlo import Module
from detox_jax.parallel.job import Generation, Job
from detox_jax.parallel.roofline import Roofline, Work, batches, chip_hours, roofline

# The loop over new tokens in `generation.decoding.decode`.
_DECODE_LOOP = "jit(decode)/while"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a program that has a speed of its own: an update, a prefill, a decoding step."""

    work: Work
    roofline: Roofline
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """As written."""
        seconds = self.roofline.seconds
        return {
            "flops": self.work.flops,
            "computed_flops": self.work.computed_flops,
            "hbm_bytes_a_device": self.work.hbm_bytes,
            "collectives_a_device": collectives.by_kind(list(self.work.collectives)),
            "roofline": {
                "compute_seconds": self.roofline.compute,
                "hbm_seconds": self.roofline.hbm,
                "ici_seconds": self.roofline.ici,
                "seconds": seconds,
                "bound": self.roofline.bound,
                "mfu": self.roofline.mfu,
                "tokens_per_second": self.tokens / seconds if seconds else None,
            },
        }


@dataclasses.dataclass(frozen=True)
class Assessed:
    """One program of a job on a mesh of a slice.

    Attributes:
      name: `train`, or a generation's.
      mesh: sizes of its axes.
      rows: of a batch: packed rows, or prompts.
      memory: a device's.
      phases: by name; empty where the program does not fit.
      compile_seconds: on this machine.
    """

    name: str
    mesh: dict[str, int]
    rows: int
    memory: Memory
    phases: dict[str, Phase]
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As written."""
        return {
            "name": self.name,
            "mesh": self.mesh,
            "rows": self.rows,
            "memory_bytes_a_device": dataclasses.asdict(self.memory),
            "fits": self.memory.fits,
            "phases": {name: phase.to_json() for name, phase in self.phases.items()},
            "compile_seconds": round(self.compile_seconds, 1),
        }


def assess(job: Job, tpus: Slice, name: str, mesh: Mesh) -> Assessed:
    """Compiles one program of a job and measures it."""
    program = job.train_step(mesh) if name == "train" else job.decode(name, mesh)
    started = time.monotonic()
    memory, module = compile_program(program, tpus.device_hbm)
    seconds = time.monotonic() - started
    rows = job.batch_size if name == "train" else job.generations[name].rows(mesh)
    phases = {}
    if module is not None:
        works = (
            _train_work(job, module) if name == "train" else _decode_work(job, name, rows, module)
        )
        phases = {
            phase: Phase(work, _roofline(work, tpus, mesh), tokens)
            for phase, (work, tokens) in works.items()
        }
    return Assessed(name, dict(mesh.shape), rows, memory, phases, seconds)


def _roofline(work: Work, tpus: Slice, mesh: Mesh) -> Roofline:
    devices = mesh.devices.flat
    return roofline(work, tpus, lambda i: devices[i].coords)


def _train_work(job: Job, module: Module) -> dict[str, tuple[Work, int]]:
    config, tokens = job.model.config, job.batch_size * job.length

    def count(recomputed: bool) -> float:
        return flops.train_step(
            config, job.model.adaptation, tokens=tokens, length=job.length, recomputed=recomputed
        )

    sent = collectives.find(module)
    return {"step": (Work(count(False), count(True), traffic.hbm_bytes(module), sent), tokens)}


def _decode_work(job: Job, name: str, rows: int, module: Module) -> dict[str, tuple[Work, int]]:
    """The prefill is what a run does beside its decoding steps."""
    use = job.generations[name]
    config, adaptation = use.model.config, use.model.adaptation
    (loop,) = module.loops(_DECODE_LOOP)

    def counts(fused: bool) -> tuple[dict[str, int], dict[str, int]]:
        every = module.executions(fused=fused)
        step: dict[str, int] = {}
        for part in (loop.called("body"), loop.called("condition")):
            for computation, times in module.executions(part, fused).items():
                step[computation] = step.get(computation, 0) + times
        prefill = {
            computation: times - use.max_new_tokens * step.get(computation, 0)
            for computation, times in every.items()
        }
        return prefill, step

    works = {}
    samples = rows * use.num_samples
    counted = {
        "prefill": flops.prefill(config, adaptation, rows=rows, length=use.prompt_length),
        "step": flops.decode_step(config, adaptation, rows=samples, context=use.context),
    }
    tokens = {"prefill": rows * use.prompt_length, "step": samples}
    for i, phase in enumerate(("prefill", "step")):
        sent = [item for item in collectives.find(module, counts(True)[i]) if item.count]
        moved = traffic.hbm_bytes(module, counts(False)[i])
        works[phase] = (Work(counted[phase], counted[phase], moved, sent), tokens[phase])
    return works


@dataclasses.dataclass(frozen=True)
class Assessment:
    """All programs of a job on a slice.

    Attributes:
      job: what is planned.
      tpus: where.
      programs: in the order of their use; after one that does not fit there may be none.
    """

    job: Job
    tpus: Slice
    programs: list[Assessed]

    @classmethod
    def of(cls, job: Job, tpus: Slice, programs: Iterable[Assessed]) -> Assessment:
        """Collects the programs."""
        return cls(job, tpus, list(programs))

    @property
    def fits(self) -> bool:
        """Whether every program of the job is there and fits."""
        expected = 1 + len(self.job.generations)
        return len(self.programs) == expected and all(p.memory.fits for p in self.programs)

    def to_json(self) -> dict[str, Any]:
        """As written to `plan.json`."""
        return {
            "fits": self.fits,
            "topology": self.tpus.name,
            "chips": self.tpus.num_chips,
            "devices": self.tpus.num_devices,
            "chip": dataclasses.asdict(dataclasses.replace(self.tpus.chip, topologies=())),
            "parameters": self.job.parameters(),
            "checkpoint_dtype": self.job.model.checkpoint_dtype,
            "param_dtype": self.job.model.config.param_dtype,
            "adaptation": type(self.job.model.adaptation).__name__,
            "batch_size": self.job.batch_size,
            "length": self.job.length,
            "programs": [program.to_json() for program in self.programs],
            "paper_run": self._run() if self.fits else None,
            "advice": [] if self.fits else advice(self.job, self.tpus, self.programs),
        }

    def _run(self) -> dict[str, Any]:
        """Hours of the paper's run at the roofline, in chips."""
        run, by_name = self.job.run, {program.name: program for program in self.programs}
        train = by_name["train"].phases["step"].roofline.seconds * self.job.total_steps
        documents = batches(run.documents, by_name["documents"].rows)
        prompts = batches(run.prompts, by_name["continuations"].rows) * run.evaluated_models
        seconds = {
            "generate": documents * self._batch_seconds(by_name["documents"]),
            "train": train,
            "evaluate": prompts * self._batch_seconds(by_name["continuations"]),
        }
        hours = {name: chip_hours(value, self.tpus) for name, value in seconds.items()}
        return {
            "train_steps": self.job.total_steps,
            "generate_batches": documents,
            "evaluate_batches": prompts,
            "seconds": seconds,
            "chip_hours": {**hours, "total": sum(hours.values())},
        }

    def _batch_seconds(self, program: Assessed) -> float:
        use: Generation = self.job.generations[program.name]
        step = program.phases["step"].roofline.seconds
        return program.phases["prefill"].roofline.seconds + use.max_new_tokens * step
