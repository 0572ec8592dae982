"""A program on a slice: memory, what it sends, how fast it can be; and all programs of a job."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from jax.sharding import Mesh

from detox_jax.generation import slots
from detox_jax.models import kernels
from detox_jax.planning import chips, collectives, flops, traffic
from detox_jax.planning.advice import advice
from detox_jax.planning.chips import Slice
from detox_jax.planning.compilation import Memory, compile_program
from detox_jax.planning.hlo import Module
from detox_jax.planning.job import DecodingProgram, Job
from detox_jax.planning.roofline import Roofline, Work, chip_hours, roofline


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a program that has a speed of its own: an update, a prefill, a decoding step.

    Attributes:
      flops: of the model, all devices together.
      computed_flops: with what rematerialisation computes again.
      hbm_bytes: read and written by a device.
      collectives: of a device, see `collectives.by_kind`.
      tokens: that it reads or writes, all devices together.
      roofline: how fast it can be.
    """

    flops: float
    computed_flops: float
    hbm_bytes: float
    collectives: dict[str, dict[str, int]]
    tokens: int
    roofline: Roofline

    @classmethod
    def of(cls, work: Work, tokens: int, bound: Roofline) -> Phase:
        """Sums up what the program does."""
        sent = collectives.by_kind(list(work.collectives))
        return cls(work.flops, work.computed_flops, work.hbm_bytes, sent, tokens, bound)

    @property
    def tokens_per_second(self) -> float:
        """At the roofline."""
        return self.tokens / self.roofline.seconds if self.roofline.seconds else 0.0


@dataclasses.dataclass(frozen=True)
class Assessed:
    """One program of a job on a mesh of a slice.

    Attributes:
      name: `train`, or a generation's.
      mesh: sizes of its axes.
      rows: of a batch: packed rows, or prompts.
      parts: in which a batch is computed, one after the other.
      attention: what computes it in training, and why.
      memory: a device's.
      phases: by name; empty where the program does not fit.
      compile_seconds: on the machine that compiled.
    """

    name: str
    mesh: dict[str, int]
    rows: int
    parts: int
    attention: str
    memory: Memory
    phases: dict[str, Phase]
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As written, with what follows from it."""
        value = dataclasses.asdict(self)
        value["memory"]["temporary"] = self.memory.temporary
        for name, phase in self.phases.items():
            value["phases"][name]["tokens_per_second"] = phase.tokens_per_second
            value["phases"][name]["roofline"] |= {
                "seconds": phase.roofline.seconds,
                "bound": phase.roofline.bound,
            }
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Assessed:
        """Reads what `to_json` wrote."""
        phases = {
            name: Phase(**_fields(Phase, {**phase, "roofline": _make(Roofline, phase["roofline"])}))
            for name, phase in value["phases"].items()
        }
        memory = _make(Memory, value["memory"])
        return cls(**_fields(cls, {**value, "memory": memory, "phases": phases}))


def _fields(cls: Any, value: dict[str, Any]) -> dict[str, Any]:
    return {field.name: value[field.name] for field in dataclasses.fields(cls)}


def _make(cls: Any, value: dict[str, Any]) -> Any:
    return cls(**_fields(cls, value))


def assess(job: Job, tpus: Slice, name: str, mesh: Mesh, effort: float = 0.0) -> Assessed:
    """Compiles one program of a job and measures it.

    Args:
      job: what is planned.
      tpus: the slice.
      name: `train`, or that of one of the job's generations.
      mesh: of the slice's devices.
      effort: of XLA, see `compilation.compile_program`.

    Raises:
      UserError: if the mesh does not divide the model.
      CompilerError: if the compiler fails for another reason than memory.
    """
    program = job.train_step(mesh) if name == "train" else job.decode(name, mesh)
    sizes = ",".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    what = f"program {name!r} on {tpus.name}, mesh {sizes}"
    started = time.monotonic()
    memory, module = compile_program(program, tpus.device_hbm, effort, what)
    seconds = round(time.monotonic() - started, 1)
    works = {}
    if name == "train":
        kernel, attention = job.attention(mesh)
        rows, parts = job.batch_size, job.accumulation_steps
        if module is not None:
            works = _train_work(job, kernel, module)
    else:
        rows, parts, attention = job.generations[name].rows(mesh), 1, ""
        if module is not None:
            works = _decode_work(job, name, rows, module)
    phases = {
        phase: Phase.of(work, tokens, _roofline(work, tpus, mesh))
        for phase, (work, tokens) in works.items()
    }
    return Assessed(name, dict(mesh.shape), rows, parts, attention, memory, phases, seconds)


def _roofline(work: Work, tpus: Slice, mesh: Mesh) -> Roofline:
    devices = mesh.devices.flat
    return roofline(work, tpus, lambda i: chips.coordinates(devices[i]))


def _train_work(
    job: Job, kernel: kernels.Kernel | None, module: Module
) -> dict[str, tuple[Work, int]]:
    model, tokens = job.model, job.batch_size * job.length
    sizes = {"tokens": tokens, "length": job.length}
    needed = flops.train_step(model.config, model.adaptation, **sizes)
    splash = isinstance(kernel, kernels.Splash)
    computed = flops.computed_train_step(model.config, model.adaptation, **sizes, kernel=splash)
    sent = collectives.find(module)
    return {"step": (Work(needed, computed, traffic.hbm_bytes(module), sent), tokens)}


def _decode_work(job: Job, name: str, rows: int, module: Module) -> dict[str, tuple[Work, int]]:
    """The prefill is what a run does beside its decoding steps; a step is the mean of them."""
    use = job.generations[name]
    steps = use.steps()
    loops = {}
    for room in steps:
        (loops[room],) = module.loops(f"jit(decode)/{slots.scope(room)}/while")
    # Their conditions also compare with the number of rows, which may be the larger one.
    module = dataclasses.replace(
        module, trips={loop.name: steps[room] for room, loop in loops.items()}
    )

    def of_step(room: int, fused: bool) -> dict[str, int]:
        """Executions of one step."""
        step: dict[str, int] = {}
        for part in (loops[room].called("body"), loops[room].called("condition")):
            for computation, times in module.executions(part, fused).items():
                step[computation] = step.get(computation, 0) + times
        return step

    def prefill(fused: bool) -> dict[str, int]:
        """Executions of what is beside the steps."""
        every = module.executions(fused=fused)
        for room in loops:
            for computation, times in of_step(room, fused).items():
                every[computation] -= steps[room] * times
        return every

    works = {}
    samples = rows * use.num_samples
    counted = _decode_flops(use, rows)
    tokens = {"prefill": rows * use.prompt_length, "step": samples}
    moved = sum(n * traffic.hbm_bytes(module, of_step(room, False)) for room, n in steps.items())
    most = max(steps, key=lambda room: steps[room])  # What is sent is the same in all of them.
    phases = {
        "prefill": (traffic.hbm_bytes(module, prefill(False)), prefill(True)),
        "step": (moved / use.max_new_tokens, of_step(most, True)),
    }
    for phase, (hbm_bytes, executions) in phases.items():
        sent = [item for item in collectives.find(module, executions) if item.count]
        works[phase] = Work(counted[phase], counted[phase], hbm_bytes, sent), tokens[phase]
    return works


def _decode_flops(use: DecodingProgram, rows: int) -> dict[str, float]:
    """Of the model and of what steers it, in the prefill of rows and in a mean step."""
    config, adaptation = use.model.config, use.model.adaptation
    samples = rows * use.num_samples
    context = sum(min(room, use.context) * n for room, n in use.steps().items())
    context /= use.max_new_tokens
    counted = {
        "prefill": flops.prefill(config, adaptation, rows=rows, length=use.prompt_length),
        "step": flops.decode_step(config, adaptation, rows=samples, context=context),
    }
    for branch in use.branches:
        model = branch.model
        counted["prefill"] += flops.prefill(
            model.config,
            model.adaptation,
            rows=rows * branch.rows,
            length=use.prompt_length + branch.prefix,
        )
        counted["step"] += flops.decode_step(
            model.config,
            model.adaptation,
            rows=samples * branch.tokens_a_row,
            context=use.context + branch.prefix,
            with_logits=not branch.candidates,
        )
    return counted


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
            "chip_hbm_bytes": self.tpus.chip.hbm_bytes,
            "parameters": self.job.parameters,
            "checkpoint_dtype": self.job.model.checkpoint_dtype,
            "param_dtype": self.job.model.config.param_dtype,
            "adaptation": type(self.job.model.adaptation).__name__,
            "batch_size": self.job.batch_size,
            "length": self.job.length,
            **self._steering(),
            "programs": [program.to_json() for program in self.programs],
            "paper_run": self._run() if self.fits else None,
            "advice": [] if self.fits else advice(self.job, self.tpus, self.programs),
        }

    def _steering(self) -> dict[str, Any]:
        """What steers the continuations, by branch; nothing where nothing does."""
        branches = {name: use.branches for name, use in self.job.generations.items()}
        rows = {program.name: program.rows for program in self.programs}
        described = [
            {
                **branch.to_json(),
                "cache_bytes": branch.cache_bytes(
                    rows[name] * self.job.generations[name].num_samples,
                    self.job.generations[name].context,
                    kernels.LANES,
                ),
            }
            for name in rows.keys() & branches.keys()
            for branch in branches[name]
        ]
        return {"steering": described} if described else {}

    def _run(self) -> dict[str, Any]:
        """Hours of the paper's run at the roofline, in chips."""
        run, by_name = self.job.run, {program.name: program for program in self.programs}
        train = by_name["train"].phases["step"].roofline.seconds * self.job.total_steps
        documents = self.job.batches("documents", by_name["documents"].rows)
        prompts = self.job.batches("continuations", by_name["continuations"].rows)
        prompts *= run.evaluated_models
        seconds = {
            "generate": run_seconds(self.job, by_name["documents"]),
            "train": train,
            "evaluate": run_seconds(self.job, by_name["continuations"]) * run.evaluated_models,
        }
        hours = {name: chip_hours(value, self.tpus) for name, value in seconds.items()}
        return {
            "train_steps": self.job.total_steps,
            "generate_batches": documents,
            "evaluate_batches": prompts,
            "seconds": seconds,
            "chip_hours": {**hours, "total": sum(hours.values())},
        }


def run_seconds(job: Job, program: Assessed) -> float:
    """What one model takes for a generation of the run, at the roofline.

    Args:
      job: whose run it is.
      program: that generates, and fits.
    """
    step = program.phases["step"].roofline.seconds
    a_batch = program.phases["prefill"].roofline.seconds
    a_batch += job.generations[program.name].max_new_tokens * step
    return job.batches(program.name, program.rows) * a_batch
