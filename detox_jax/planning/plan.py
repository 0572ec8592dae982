"""Verb `plan`: what training and generation need of a TPU slice that is not here."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from detox_jax import atomic_files, manifests, output_settings, outputs, preview, terminal
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.kinds import Count, Dtype
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation, read_mesh_shape
from detox_jax.planning import chips, plan_text, sources
from detox_jax.planning import search as search_lib
from detox_jax.planning.assessment import Assessed, Assessment, assess, run_seconds
from detox_jax.planning.chips import Slice
from detox_jax.planning.compilation import CompilerError
from detox_jax.planning.job import Generations, Job
from detox_jax.planning.models import Model
from detox_jax.planning.roofline import Run
from detox_jax.planning.search import Candidate
from detox_jax.preview import Step
from detox_jax.training.optimizer import AdamW, require_masters

DOES_NOT_FIT = 3
FREE = ("output_dir", "check_only")  # see `output_settings`
PLAN_FILE = "plan.json"
# What the compiled programs come from, and what reads them: these modules and all that they import.
_COMPILED = ("detox_jax.planning.assessment",)
# What decides the order in which a search tries them.
_SEARCHED = ("detox_jax.planning.search", "detox_jax.planning.plan")
# What a search tries for a program on a slice, at most; each costs a compilation.
_CANDIDATES = 4


def plan(
    model: TransformerConfig,
    output_dir: str,
    adaptation: adaptations.Adaptation | None = None,
    topology: str | None = None,
    search: bool = False,
    checkpoint_dtype: Dtype | None = None,
    optimizer: AdamW | None = None,
    task_feature_lengths: Mapping[str, Count] | None = None,
    batch_size: Count = 512,
    computation: Computation | None = None,
    generations: Generations | None = None,
    run: Run | None = None,
    compiler_effort: float = 0.0,
    check_only: bool = False,
) -> int | list[Step]:
    """Compiles the programs of `train` and `generate` for a slice, and says whether they fit.

    Args:
      model: sizes; what is trained is float32, as in `train`.
      output_dir: holds a directory for each plan, with `plan.json`, and `programs/`; what is there
        is read, unless the code that it came from has changed.
      adaptation: what is trained; the whole model where None.
      topology: chip and shape of the slice, `v5p:8x8x8`; with `search` the chip alone, or None.
      search: try slices from small to large until all programs fit. Then, and wherever no mesh is
        named, `accumulation_steps` of `computation` is the least, and `batch_size` of
        `generations` the most, that is tried.
      checkpoint_dtype: of the base's parameters, as they are stored, frozen and generated from;
        float32 where None.
      optimizer: its settings; SGEAT's where None.
      task_feature_lengths: `{"targets": length}`, the packed length in tokens.
      batch_size: packed rows an update.
      computation: how training is computed, see `Computation`. Where neither it nor `generations`
        names a mesh, both are chosen as `search` does, on the slice that is given; where only
        `generations` does, training has all devices on `fsdp`.
      generations: what is generated, and how much at once, see `Generations`; the paper's where
        None.
      run: how much of everything, see `Run`; the paper's where None.
      compiler_effort: XLA's `exec_time_optimization_effort`, from -1, a fraction of the compiler's
        time and slower programs of about the same sizes, to 1; 0 is what `train` runs.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The exit status: 0 where everything fits, 3 where something does not. The steps where
      `check_only`.

    Raises:
      UserError: for a slice that does not exist, a mesh that does not divide it or the model, or
        where the compiler is not installed, or fails at a program of every mesh that is tried.
    """
    arguments = locals()
    # Nothing runs here, and what is compiled for is not this machine.
    jax.config.update("jax_platforms", "cpu")

    # --- what is planned; mistakes are found before anything is written ---
    if not search and (topology is None or ":" not in topology):
        raise UserError(
            "plan needs a slice: --topology=v5p:8x8x8, or --search for the smallest that fits"
        )
    if checkpoint_dtype not in (None, "float32", "bfloat16"):
        raise UserError(
            f"CHECKPOINT_DTYPE is {checkpoint_dtype!r}; one of float32, bfloat16, or None"
        )
    if not -1 <= compiler_effort <= 1:
        raise UserError(f"COMPILER_EFFORT is {compiler_effort}; from -1 to 1")
    require_masters(model.param_dtype)
    computation, generations = computation or Computation(), generations or Generations()
    model = computation.configure(model)
    trained = Model(model, adaptation, checkpoint_dtype or "float32")
    job = Job(
        model=trained,
        optimizer=optimizer or AdamW(),
        batch_size=batch_size,
        accumulation_steps=computation.accumulation_steps,
        length=(task_feature_lengths or {}).get("targets", model.max_length),
        sampling=generations.sampling,
        generations=generations.programs(trained),
        run=run or Run(),
    )
    _check(job)

    # --- what the plan is known by: its programs, and all of it ---
    work = {
        "model": dataclasses.asdict(model),
        "adaptation": adaptations.to_json(adaptation),
        "checkpoint_dtype": trained.checkpoint_dtype,
        "optimizer": dataclasses.asdict(job.optimizer),
        "sampling": repr(job.sampling),
        "batch_size": batch_size,
        "length": job.length,
        "lengths": [
            generations.document_max_new_tokens,
            generations.prompt_length,
            generations.num_samples,
            generations.max_new_tokens,
        ],
        "compiler_effort": compiler_effort,
        "code": _code(_COMPILED),
    }
    if steered := job.generations["continuations"].steered:
        work["steering"] = [method.to_json() for method in steered]
    mesh_shape = read_mesh_shape(computation.mesh_shape, "--mesh")
    generation_mesh_shape = read_mesh_shape(generations.mesh_shape, "GENERATION_MESH_SHAPE")
    named = mesh_shape is not None or generation_mesh_shape is not None
    settings = output_settings.of_verb(
        plan,
        arguments,
        free=FREE,
        instead={
            "model": work,
            **dict.fromkeys(("adaptation", "checkpoint_dtype", "optimizer"), {}),  # in `work`
            **dict.fromkeys(("task_feature_lengths", "batch_size", "compiler_effort"), {}),
            "computation": {
                "accumulation_steps": computation.accumulation_steps,
                "mesh": mesh_shape,
            },
            "generations": {
                "generation_batch_size": generations.batch_size,
                "generation_mesh": generation_mesh_shape,
            },
            "search": {"search": _code(_SEARCHED) if search or not named else None},
            "run": {"run": {**dataclasses.asdict(job.run), "num_samples": generations.num_samples}},
        },
    )
    if search:
        place = search_lib.slices(topology)
    else:
        place = _place(job, settings) if named else _slice(job, settings["topology"])
    if check_only:
        preview.checked_output(output_dir)
        return [Step("plan", str(epath.Path(output_dir) / _name(settings)))]

    # --- compiling, or reading what is there ---
    directory = epath.Path(output_dir) / _name(settings)
    output = outputs.OutputDirectory(str(directory), "plan", settings)
    if output.complete:
        file = directory / PLAN_FILE
        result = jsonl.json_object(file.read_bytes(), str(file))
    else:
        programs = epath.Path(output_dir) / "programs" / _digest(work)
        planner = Planner(job, programs, compiler_effort)
        match place:
            case list():
                assessment = planner.search(place)
            case Slice():
                assessment = planner.choose(place)
            case _:
                assessment = planner.plan(*place)
        result = assessment.to_json()
        atomic_files.write_json(directory / PLAN_FILE, result)
        output.finish(fits=result["fits"], topology=result["topology"])
    print(plan_text.render(result))
    print(f"written to {directory / PLAN_FILE}")
    return 0 if result["fits"] else DOES_NOT_FIT


def _check(job: Job) -> None:
    if not isinstance(job.length, int) or not 2 <= job.length <= job.model.config.max_length:
        raise UserError(
            f"TASK_FEATURE_LENGTHS: targets of {job.length}; from 2 to the model's max_length "
            f"{job.model.config.max_length}"
        )
    for name, use in job.generations.items():
        if use.context > job.model.config.max_length:
            raise UserError(
                f"{name}: prompts of {use.prompt_length} and {use.max_new_tokens} new tokens are "
                f"beyond the model's max_length {job.model.config.max_length}"
            )
        for branch in use.branches:
            most, needed = branch.model.config.max_length, use.context + branch.prefix
            if needed > most:
                raise UserError(
                    f"{name}: {branch.name} reads {needed} tokens, its prefix included, beyond its "
                    f"max_length {most}; shorten the prefix, or generate less"
                )


def _code(modules: Sequence[str]) -> str:
    """A hash of modules and of what they import, and versions of what programs come from."""
    files = [epath.Path(file) for file in sources.closure(*modules)]
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax")]
    if importlib.util.find_spec("libtpu"):
        versions.append(f"libtpu {metadata.version('libtpu')}")
    return f"{manifests.hash_files(files)[:16]}, {', '.join(versions)}"


def _name(settings: Mapping[str, Any]) -> str:
    """A directory's name: what a reader looks for, and a hash of everything."""
    kind = (settings["adaptation"] or {"kind": "whole"})["kind"]
    place = (settings["topology"] or "any").replace(":", "-")
    width, layers = settings["model"]["emb_dim"], settings["model"]["num_layers"]
    return f"{layers}x{width}-{kind}-{place}-{_digest(settings)}"


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _slice(job: Job, topology: str) -> Slice:
    """The slice on which meshes are chosen.

    Raises:
      UserError: if there is no such slice, or no mesh of it divides the model and the batch.
    """
    tpus = chips.parse(topology)
    chips.devices_of(tpus)
    if not search_lib.least(job, tpus):
        raise UserError(
            f"--topology={topology}: no mesh of its {tpus.num_devices} devices divides the model "
            f"and BATCH_SIZE {job.batch_size} in ACCUMULATION_STEPS {job.accumulation_steps}; give "
            "another slice, or a batch that is a multiple of both"
        )
    return tpus


def _place(job: Job, settings: Mapping[str, Any]) -> tuple[Slice, Mesh, Mesh]:
    """The slice and the meshes of training and generation that the settings name.

    Raises:
      UserError: if there is no such slice, or a mesh does not divide it, the model or the batch.
    """
    tpus = chips.parse(settings["topology"])
    devices = chips.devices_of(tpus)
    mesh = meshes.create_mesh(settings["mesh"] or {"fsdp": -1}, devices)
    generation_mesh = mesh
    if settings["generation_mesh"] is not None:
        shape = settings["generation_mesh"]
        generation_mesh = meshes.create_mesh(shape, devices, "GENERATION_MESH_SHAPE")
    meshes.rows_at_once(mesh, job.batch_size, job.accumulation_steps)
    for used in dict.fromkeys((mesh, generation_mesh)):
        meshes.param_shardings(job.model.module, used)
    return tpus, mesh, generation_mesh


@dataclasses.dataclass(frozen=True)
class Planner:
    """Compiles programs of a job, each once: what is in `directory` already is read.

    Attributes:
      job: what is planned.
      directory: a file for each program, so that a plan that was interrupted goes on and plans of
        the same work share them.
      effort: of the compiler.
    """

    job: Job
    directory: epath.Path
    effort: float = 0.0

    def assess(self, job: Job, tpus: Slice, name: str, mesh: Mesh) -> Assessed:
        """One program on a mesh of a slice, compiled or read.

        Args:
          job: the planner's, or what a search made of it.
          tpus: the slice.
          name: `train`, or that of one of the job's generations.
          mesh: of the slice's devices.
        """
        sizes = "-".join(f"{axis}{size}" for axis, size in mesh.shape.items())
        at_once = (
            f"{job.accumulation_steps}parts"
            if name == "train"
            else f"{job.generations[name].rows(mesh)}rows"
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / f"{name}-{tpus.name.replace(':', '-')}-{sizes}-{at_once}.json"
        if file.exists():
            return Assessed.from_json(jsonl.json_object(file.read_bytes(), str(file)))
        with terminal.stage(f"compile {name} for {tpus.name}, mesh {sizes}, {at_once}"):
            assessed = assess(job, tpus, name, mesh, self.effort)
        # Beside outputs, and none itself.
        atomic_files.write_json(file, assessed.to_json(), in_output=False)
        return assessed

    def plan(self, tpus: Slice, mesh: Mesh, generation_mesh: Mesh) -> Assessment:
        """All programs on given meshes."""
        job = self.job
        programs = [self.assess(job, tpus, "train", mesh)]
        job = search_lib.with_room(job, tpus, generation_mesh.shape, chosen=True)
        programs += [self._cheapest(job, tpus, name, generation_mesh) for name in job.generations]
        return Assessment(self.job, tpus, programs)

    def choose(self, tpus: Slice) -> Assessment:
        """All programs on meshes of one slice, chosen as `search` does.

        Where no mesh has room for training, on the one that needs the least, so that the compiler
        says by how much it is too little.
        """
        return Assessment(self.job, tpus, self._programs(tpus, search_lib.least(self.job, tpus)))

    def search(self, listed: Sequence[Slice]) -> Assessment:
        """The first slice on which all programs fit, or the last where something was tried.

        Raises:
          UserError: if nothing could be tried, or the compiler fails at all that was.
        """
        tried: Assessment | None = None
        failure: CompilerError | None = None
        for tpus in listed:
            try:
                programs = self._programs(tpus)
            except CompilerError as error:
                failure = error
                continue
            if programs:
                tried = Assessment(self.job, tpus, programs)
                if tried.fits:
                    return tried
        if tried is None:
            raise failure or UserError(
                f"--search: no mesh of any listed slice, up to {listed[-1].name}, divides model "
                "and BATCH_SIZE and has room for the parameters; train an adaptation, or less"
            )
        return tried

    def _cheapest(self, job: Job, tpus: Slice, name: str, mesh: Mesh) -> Assessed:
        """One program; where nobody gave its batch, with that which makes the run the shortest.

        Weights are read once a step, whatever the batch, so that the largest comes first, then half
        of it, as long as none has fit or the last was better than the one before.
        """
        best = self.assess(job, tpus, name, mesh)
        while name != "train" and job.generations[name].is_chosen:
            smaller = search_lib.halved(job, name)
            if smaller is None:
                break
            other = self.assess(smaller, tpus, name, mesh)
            if best.memory.fits and run_seconds(job, best) <= run_seconds(smaller, other):
                break
            job, best = smaller, other
        return best

    def _programs(self, tpus: Slice, otherwise: Sequence[Candidate] = ()) -> list[Assessed]:
        """Of a slice, what fits or is nearest to it; of training alone where that does not fit.

        Args:
          tpus: the slice.
          otherwise: how to train where no mesh has room.
        """
        candidates = search_lib.train_candidates(self.job, tpus) or otherwise
        programs = self._first_fit(tpus, ["train"], candidates)
        if programs and programs[-1].memory.fits:
            generating = search_lib.generation_candidates(self.job, tpus)
            programs += self._first_fit(tpus, list(self.job.generations), generating)
        return programs

    def _first_fit(
        self, tpus: Slice, names: list[str], candidates: Iterable[Candidate]
    ) -> list[Assessed]:
        """The named programs of the first candidate that fits, or of the one nearest to it.

        Raises:
          CompilerError: if the compiler fails at a program of every candidate.
        """
        nearest: list[Assessed] = []
        failure: CompilerError | None = None
        for job, shape in itertools.islice(candidates, _CANDIDATES):
            mesh, assessed = meshes.create_mesh(shape, chips.devices_of(tpus)), []
            try:
                for name in names:
                    assessed.append(self._cheapest(job, tpus, name, mesh))
                    if not assessed[-1].memory.fits:
                        break
                else:
                    return assessed
            except CompilerError as error:
                failure = error
                continue
            if not nearest or assessed[-1].memory.peak < nearest[-1].memory.peak:
                nearest = assessed
        if failure is not None and not nearest:
            raise failure
        return nearest
