"""Verb `plan` through the command line, on this machine's devices in the place of TPUs."""

import dataclasses
import json
import types

import jax
import pytest

from detox_jax import cli
from detox_jax.planning import assessment, chips, plan, sources
from detox_jax.planning import job as jobs
from detox_jax.planning.compilation import CompilerError, Memory, _needed, compile_program
from detox_jax.planning.programs import Program

MODEL = """\
from __gin__ import dynamic_registration
from detox_jax.models import config
MODEL = @config.TransformerConfig()
config.TransformerConfig:
  vocab_size = 100
  emb_dim = 32
  num_heads = 4
  num_layers = 3
  mlp_dim = 64
  max_length = 32
"""
GIB = 2**30


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """A tiny model; slices are made of virtual devices."""
    (tmp_path / "model.gin").write_text(MODEL)
    monkeypatch.setattr(chips, "devices_of", lambda tpus: jax.devices()[: tpus.num_devices])
    monkeypatch.setattr(chips, "coordinates", lambda device: (device.id // 2, device.id % 2))
    return [
        "plan",
        f"--gin_file={tmp_path / 'model.gin'}",
        "--gin_file=gin_configs/adaptation/adapter.gin",
        f"--gin.OUTPUT_DIR={tmp_path / 'plans'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 16}",
        "--gin.BATCH_SIZE=8",
        "--gin.GENERATION_BATCH_SIZE=8",
        "--gin.DOCUMENT_MAX_NEW_TOKENS=6",
        "--gin.PROMPT_LENGTH=4",
        "--gin.NUM_SAMPLES=2",
        "--gin.MAX_NEW_TOKENS=5",
    ]


SLICE = ["--topology=v5e:2x2", "--mesh=fsdp=2,model=2"]
STORED = ["--gin.CHECKPOINT_DTYPE=bfloat16", "--gin.ACCUMULATION_STEPS=2"]


def plans(tmp_path):
    return [json.loads(path.read_text()) for path in (tmp_path / "plans").glob("*/plan.json")]


@pytest.mark.slow
def test_a_plan_is_printed_written_and_read_again(flags, tmp_path, monkeypatch, capsys):
    assert cli.main([*flags, *SLICE, *STORED]) == 0
    printed = capsys.readouterr().out
    assert "v5e:2x2: 4 chips of 16 GiB" in printed and "\nfits\n" in printed
    (written,) = plans(tmp_path)
    train, documents, continuations = written["programs"]
    assert train["mesh"] == {"data": 1, "fsdp": 2, "model": 2} and train["parts"] == 2
    assert train["memory"]["fits"] and "cpu has no kernel" in train["attention"]
    memory = train["memory"]
    assert memory["peak"] == memory["argument"] + memory["temporary"]
    # The frozen base is stored in two bytes, and a quarter of it is here.
    base, trained = written["parameters"]["base"], written["parameters"]["trained"]
    state = (base * 2 + trained * 3 * 4) / 4
    assert state < memory["argument"] < 1.6 * state
    step = train["phases"]["step"]
    assert step["flops"] > 0 and step["tokens"] == 8 * 16
    assert step["collectives"]["all-gather"]["count"] >= 3 * 4  # Layers, and projections of each.
    assert documents["rows"] == 8 and continuations["rows"] == 4
    decoding = documents["phases"]["step"]
    assert decoding["tokens"] == 8 and decoding["hbm_bytes"] > 0
    hours = written["paper_run"]["chip_hours"]
    assert hours["total"] == pytest.approx(sum(hours[x] for x in ("generate", "train", "evaluate")))
    batches = written["paper_run"]["generate_batches"]
    seconds = documents["phases"]["prefill"]["roofline"]["seconds"]
    seconds += 6 * decoding["roofline"]["seconds"]
    assert hours["generate"] == pytest.approx(batches * seconds * 4 / 3600)

    def compiled_again(*args):
        raise AssertionError("compiled again")

    monkeypatch.setattr(plan, "assess", compiled_again)
    directory = next((tmp_path / "plans").glob("*/plan.json")).parent
    assert cli.main([*flags, *SLICE, *STORED]) == 0
    assert capsys.readouterr().out == f"nothing to do: {directory} is finished\n{printed}"
    (directory / "plan.json").unlink()
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert cli.main([*flags, *SLICE, *STORED]) == 0
    assert plans(tmp_path) == [written]


@pytest.mark.slow
def test_a_steered_program_is_compiled_with_its_branches(flags, tmp_path):
    """Two adapters of the model: their caches beside its own, and three times its operations."""
    names = "expert", "anti"
    experts = [f"--gin.experts.Experts.{name}='not/yet-{name}'" for name in names]
    assert cli.main([*flags, *SLICE]) == 0
    assert cli.main([*flags, *SLICE, "--gin.STEERING=[@experts.Experts()]", *experts]) == 0
    programs = {len(plan.get("steering", [])): plan["programs"] for plan in plans(tmp_path)}
    plain, steered = (programs[n][2] for n in (0, 1))
    (branch,) = next(plan for plan in plans(tmp_path) if "steering" in plan)["steering"]
    assert branch["rows"] == 2 and branch["name"] == "Experts.expert, Experts.anti"
    argument = steered["memory"]["argument"] - plain["memory"]["argument"]
    assert argument == pytest.approx(branch["parameter_bytes"] / 4, rel=0.2)
    assert steered["memory"]["peak"] > plain["memory"]["peak"] + argument
    steps = [program["phases"]["step"] for program in (plain, steered)]
    assert steps[1]["flops"] == pytest.approx(3 * steps[0]["flops"])
    assert steps[1]["hbm_bytes"] > 1.5 * steps[0]["hbm_bytes"]
    assert steered["phases"]["step"]["collectives"] != plain["phases"]["step"]["collectives"]
    assert programs[0][1] == {
        **programs[1][1],
        "compile_seconds": programs[0][1]["compile_seconds"],
    }


def test_other_code_is_another_plan(monkeypatch):
    before = plan._code(plan._COMPILED)
    assert plan._code(plan._SEARCHED) != before == plan._code(plan._COMPILED)
    files = sources.closure(*plan._COMPILED)
    monkeypatch.setattr(sources, "closure", lambda *modules: files[1:])
    assert plan._code(plan._COMPILED) != before
    assert ", jax " in before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--topology=v5e"], "plan needs a slice"),
        ([], "plan needs a slice"),
        (["--topology=v5e:3x3"], "no such slice"),
        (["--topology=v9:2x2"], "no such chip"),
        ([*SLICE[:1], "--mesh=fsdp:2"], "expected sizes of the axes"),
        ([*SLICE[:1], "--mesh=fsdp=3"], "does not divide the 4 devices"),
        (["--topology=v5e:2x4", "--mesh=model=8"], "does not divide axis 'heads'"),
        ([*SLICE, "--gin.BATCH_SIZE=3"], "BATCH_SIZE 3 is no multiple of the mesh's 2"),
        ([*SLICE, "--gin.TASK_FEATURE_LENGTHS={'targets': 64}"], "from 2 to the model's max"),
        ([*SLICE, "--gin.DOCUMENT_MAX_NEW_TOKENS=32"], "documents: prompts of 1 and 32 new"),
        (
            [*SLICE, "--gin.CHECKPOINT_DTYPE=float16"],
            "CHECKPOINT_DTYPE: must be one of",
        ),
        ([*SLICE, "--gin.TransformerConfig.param_dtype=bfloat16"], "what is trained is float32"),
        ([*SLICE, "--gin.MU_DTYPE=float16"], "MU_DTYPE is 'float16'"),
        ([*SLICE, "--gin.ACCUMULATION_STEPS=3"], "batch shards times ACCUMULATION_STEPS 3"),
        ([*SLICE, "--gin.ACCUMULATION_STEPS=0"], "ACCUMULATION_STEPS: must be at least 1"),
        ([*SLICE, "--gin.COMPILER_EFFORT=2"], "COMPILER_EFFORT is 2; from -1 to 1"),
        (
            [*SLICE, "--gin.STEERING=[@contrast.PrefixContrast()]"],
            "continuations: PrefixContrast.text reads 33 tokens, its prefix included, beyond its",
        ),
        (["--topology=v5e:2x2", "--search"], "give the chip alone, --topology=v5e"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(flags, tmp_path, extra, message, capsys):
    assert cli.main([*flags, *extra]) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "plans").exists()


def assessed(job, name, mesh, peak, limit=16 * GIB):
    memory = Memory(1 * GIB, 0, peak, limit, fits=peak <= limit)
    parts = job.accumulation_steps if name == "train" else 1
    return assessment.Assessed(name, dict(mesh.shape), 8, parts, "", memory, {}, 1.0)


@pytest.fixture
def replace_compiler(monkeypatch):
    """Takes bytes that a program needs from a function instead; lists what it was asked."""
    asked = []

    def replace(needed):
        def assess(job, tpus, name, mesh, effort):
            asked.append((job, tpus, name, dict(mesh.shape)))
            return assessed(job, name, mesh, needed(job, tpus, name, mesh.shape))

        monkeypatch.setattr(plan, "assess", assess)
        monkeypatch.setattr(plan.Assessment, "_run", lambda self: {"chip_hours": {"total": 0.0}})
        return asked

    return replace


def test_what_does_not_fit_says_by_how_much_and_what_helps(
    flags, tmp_path, replace_compiler, capsys
):
    replace_compiler(lambda *args: 20 * GIB)
    assert cli.main([*flags, *SLICE]) == plan.DOES_NOT_FIT == 3
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "train: needs 20.0 GiB a device of 16.0, 4.0 GiB too much" in printed
    assert "v5e:2x4 has enough memory" in printed
    assert "19.0 GiB are no parameters but what 4 rows at once need: raise ACCUMULATION" in printed
    assert "lower GENERATION_BATCH_SIZE" in printed
    assert "CHECKPOINT_DTYPE=bfloat16" in printed
    assert plans(tmp_path)[0]["fits"] is False


def test_how_training_is_computed_overrides_the_model(flags, tmp_path, replace_compiler):
    asked = replace_compiler(lambda *args: 8 * GIB)
    chosen = ["--gin.REMAT=full", "--gin.LOGITS_CHUNK=8", "--gin.ATTENTION_KERNEL=plain"]
    assert cli.main([*flags, *SLICE]) == 0
    assert cli.main([*flags, *SLICE, *chosen]) == 0
    configs = [job.model.config for job, _, name, _ in asked if name == "train"]
    assert [c.remat for c in configs] == ["none", "full"]
    assert [c.logits_chunk for c in configs] == [None, 8]
    assert [c.attention_kernel for c in configs] == ["auto", "plain"]
    assert len(plans(tmp_path)) == 2  # Another plan, with programs of its own.


def test_the_mesh_of_generation_is_refused_by_its_name(flags, capsys):
    assert cli.main([*flags, *SLICE, "--gin.GENERATION_MESH_SHAPE={'fsdp': 3}"]) == 2
    assert "error: GENERATION_MESH_SHAPE {'fsdp': 3} does not divide" in capsys.readouterr().err


def test_a_plan_is_kept_under_the_settings_that_it_always_had(flags, tmp_path, replace_compiler):
    replace_compiler(lambda *args: 8 * GIB)
    mesh = "--gin.GENERATION_MESH_SHAPE={'model': 4}"
    assert cli.main([*flags, *SLICE, mesh, "--gin.EPOCHS=2", "--gin.NUM_PROMPTS=7"]) == 0
    (file,) = (tmp_path / "plans").glob("*/manifest.json")
    settings = json.loads(file.read_text())["settings"]
    assert settings["lengths"] == [6, 4, 2, 5] and settings["generation_batch_size"] == 8
    assert settings["mesh"] == {"fsdp": 2, "model": 2}
    assert settings["generation_mesh"] == {"model": 4} and settings["accumulation_steps"] == 1
    run = {"documents": 100_000, "kept_tokens": 27_300_000, "epochs": 2, "prompts": 7}
    assert settings["run"] == {**run, "num_samples": 2, "evaluated_models": 2}


def test_what_steers_is_part_of_the_plan(flags, tmp_path, replace_compiler, capsys):
    """In its name, its sizes and its text; nothing of it where it costs nothing."""
    asked = replace_compiler(lambda *args: 8 * GIB)
    experts = ["--gin.STEERING=[@experts.Experts()]", "--gin.experts.Experts.anti='not/yet'"]
    assert cli.main([*flags, *SLICE]) == 0
    plain = capsys.readouterr().out
    assert cli.main([*flags, *SLICE, *experts]) == 0
    printed = capsys.readouterr().out
    assert "Experts.anti: 1 rows for each row, 0.00 GiB of parameters of its own" in printed
    assert "no checkpoint is there yet" in printed and "Experts" not in plain
    jobs_of = {bool(job.generations["continuations"].steered): job for job, *_ in asked}
    shape = {"data": 1, "fsdp": 2, "model": 2}
    rows = 4
    sizes = [jobs_of[steered].cache_bytes("continuations", rows) for steered in (False, True)]
    assert sizes[1] == 2 * sizes[0]
    least = [jobs_of[x].least_decode_bytes("continuations", shape) for x in (False, True)]
    own = jobs_of[True].parameters["trained"] * 4
    assert least[1] - least[0] == pytest.approx((own + sizes[0]) / 4, abs=2)
    assert cli.main([*flags, *SLICE, "--gin.STEERING=[@words.BannedWords()]"]) == 0
    assert len(plans(tmp_path)) == 2  # Words cost nothing: the plan is the plain one.


def test_search_takes_the_smallest_slice_and_the_first_mesh(flags, tmp_path, replace_compiler):
    """Training fits from four devices on, generation where heads are split by at most two."""

    def needed(job, tpus, name, shape):
        enough = tpus.num_devices >= 4 if name == "train" else shape["model"] <= 2
        return (8 if enough else 20) * GIB

    asked = replace_compiler(needed)
    assert cli.main([*flags, "--topology=v5e", "--search"]) == 0
    (written,) = plans(tmp_path)
    assert written["topology"] == "v5e:2x2"
    meshes = [program["mesh"] for program in written["programs"]]
    assert meshes[0] == {"data": 1, "fsdp": 1, "model": 4}
    assert meshes[1] == meshes[2] == {"data": 2, "fsdp": 1, "model": 2}
    tried = [(tpus.name, job.accumulation_steps) for job, tpus, name, _ in asked if name == "train"]
    assert tried == [("v5e:1x1", 1), ("v5e:1x1", 2), ("v5e:2x2", 1)]
    heads = {"data": 1, "fsdp": 1, "model": 4}
    assert any(name == "documents" and shape == heads for _, _, name, shape in asked)


def test_search_accumulates_and_generates_less_at_once_where_memory_is_short(
    flags, tmp_path, monkeypatch, replace_compiler
):
    """Rows, and samples, of 3.5 GiB each on a device that gives 15.75."""

    def rows_bytes(self, shape):
        shards = shape["data"] * shape["fsdp"]
        return 7 * GIB // 2 * self.batch_size // shards // self.accumulation_steps

    def sample_bytes(self, name, shape):
        return 7 * GIB // 2 * self.generations[name].batch_size

    monkeypatch.setattr(jobs.Job, "least_train_bytes", rows_bytes)
    monkeypatch.setattr(jobs.Job, "likely_train_bytes", rows_bytes)
    monkeypatch.setattr(jobs.Job, "least_decode_bytes", sample_bytes)
    asked = replace_compiler(lambda *args: 8 * GIB)
    assert cli.main([*flags, "--topology=v5e", "--search"]) == 0
    train, documents, continuations = [job for job, *_ in asked]
    assert train.accumulation_steps == 2  # Eight rows of one device, four at once.
    assert documents.generations["documents"].batch_size == 4
    assert plans(tmp_path)[0]["programs"][0]["parts"] == 2
    assert continuations is documents


@pytest.mark.parametrize("named", [True, False])
def test_a_batch_that_nobody_gave_is_the_cheapest_that_fits(
    flags, tmp_path, monkeypatch, replace_compiler, named
):
    """Documents fit from 2048 on and cost the least at 512; continuations at all sizes the same."""

    def seconds(job, program):
        rows = program.rows
        return abs(rows - 512) if program.name == "documents" else 7.0

    def assess(job, tpus, name, mesh, effort):
        assessed = compiler(job, tpus, name, mesh, effort)
        rows = 8 if name == "train" else job.generations[name].rows(mesh)
        return dataclasses.replace(assessed, rows=rows)

    def needed(job, tpus, name, shape):
        fits = name != "documents" or job.generations[name].batch_size <= 2048
        return (8 if fits else 20) * GIB

    def bytes_of(self, name, shape):
        return self.generations[name].batch_size * 16 * GIB // 5000

    asked = replace_compiler(needed)
    compiler = plan.assess
    monkeypatch.setattr(plan, "assess", assess)
    monkeypatch.setattr(plan, "run_seconds", seconds)
    monkeypatch.setattr(jobs.Job, "least_decode_bytes", bytes_of)
    chosen = [flag for flag in flags if "GENERATION_BATCH_SIZE" not in flag]
    assert cli.main([*chosen, *(SLICE if named else SLICE[:1])]) == 0
    tried = {
        name: [job.generations[name].batch_size for job, _, each, _ in asked if each == name]
        for name in ("documents", "continuations")
    }
    assert tried["documents"] == [4096, 2048, 1024, 512, 256]
    assert tried["continuations"] == [4096, 2048]
    (written,) = plans(tmp_path)
    assert [program["rows"] for program in written["programs"][1:]] == [512, 2048]
    # One that is given is obeyed.
    asked.clear()
    assert cli.main([*flags, *SLICE]) == 0
    assert {job.generations["documents"].batch_size for job, *_ in asked} == {8}


def test_search_that_finds_nothing(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs.Job, "least_train_bytes", lambda self, shape: 10**15)
    assert cli.main([*flags, "--topology=v5e", "--search"]) == 2
    assert "no mesh of any listed slice, up to v5e:16x16" in capsys.readouterr().err


def test_without_meshes_a_plan_takes_some_that_the_compiler_takes(
    flags, tmp_path, replace_compiler, capsys
):
    """As a search does on one slice: the compiler fails where heads are split by four."""

    def needed(job, tpus, name, shape):
        if shape["model"] == 4:
            raise CompilerError(f"{name}: fails at four")
        return 8 * GIB

    asked = replace_compiler(needed)
    assert cli.main([*flags, SLICE[0]]) == 0
    (written,) = plans(tmp_path)
    assert [program["mesh"]["model"] for program in written["programs"]] == [2, 2, 2]
    assert {name for _, _, name, shape in asked if shape["model"] == 4} == {"train", "documents"}
    assert {tpus.name for _, tpus, _, _ in asked} == {"v5e:2x2"}
    # Heads that are named are not chosen, and nothing else is tried.
    assert cli.main([*flags, SLICE[0], "--mesh=model=4"]) == 2
    assert "train: fails at four" in capsys.readouterr().err


def test_without_meshes_what_does_not_fit_says_by_how_much(
    flags, tmp_path, monkeypatch, replace_compiler, capsys
):
    monkeypatch.setattr(jobs.Job, "least_train_bytes", lambda self, shape: 10**15)
    asked = replace_compiler(lambda *args: 20 * GIB)
    assert cli.main([*flags, SLICE[0]]) == plan.DOES_NOT_FIT
    assert "train: needs 20.0 GiB a device of 16.0" in capsys.readouterr().out
    assert len(asked) == 1


def test_a_compiler_that_fails_at_every_mesh_is_one_line(
    flags, monkeypatch, replace_compiler, capsys
):
    few = [chips.parse(f"v5e:{shape}") for shape in ("1x1", "2x2")]
    monkeypatch.setattr(plan.search_lib, "slices", lambda topology: few)

    def fails(job, tpus, name, shape):
        raise CompilerError(f"program {name!r} on {tpus.name}: fails")

    asked = replace_compiler(fails)
    assert cli.main([*flags, SLICE[0]]) == 2
    assert capsys.readouterr().err == "detox-jax: error: program 'train' on v5e:2x2: fails\n"
    tried = len(asked)
    assert cli.main([*flags, "--topology=v5e", "--search"]) == 2
    assert "program 'train' on v5e:2x2: fails\n" in capsys.readouterr().err
    assert len(asked) > 2 * tried > 1  # Of each slice more than one mesh.


def program_that_fails(stage, error=None, around=0):
    """A program of which one stage fails, as what JAX calls on the way from a trace to a text."""

    def step(name, value):
        def call(*args):
            if name == stage:
                raise error
            return value

        return call

    stats = types.SimpleNamespace(
        generated_code_size_in_bytes=1, peak_memory_in_bytes=2, argument_size_in_bytes=1
    )
    text = "" if stage == "empty text" else "HloModule x"
    compiled = types.SimpleNamespace(
        memory_analysis=step("memory_analysis", None if stage == "no statistics" else stats),
        as_text=step("as_text", text),
    )
    lowered = types.SimpleNamespace(compile=step("compile", compiled))
    return Program(types.SimpleNamespace(lower=step("lower", lowered)), {}, around)


def test_what_is_needed_between_two_calls_is_needed_too():
    """Of a program that needs two bytes itself, and whose code is one."""
    for around, peak, fits in ((1, 3, True), (9, 10, True), (10, 11, False)):
        memory, module = compile_program(program_that_fails("none", around=around), 10, 0.0, "it")
        assert (memory.peak, memory.fits) == (peak, fits)
        assert (module is not None) == fits


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("lower", "asked to compile it, and fails: INTERNAL: odd sizes"),
        ("compile", "asked to compile it, and fails: INTERNAL: odd sizes"),
        ("memory_analysis", "asked to say what it needs, and fails: INTERNAL: odd sizes"),
        ("no statistics", "asked to say what it needs, and fails"),
        ("as_text", "asked to write it as text, and fails: INTERNAL: odd sizes"),
        ("empty text", "asked to write it as text, and fails: no text"),
    ],
)
def test_an_error_of_the_compiler_names_the_program_and_a_way(
    flags, tmp_path, monkeypatch, capsys, stage, said
):
    error = jax.errors.JaxRuntimeError("INTERNAL: odd\n  sizes")
    monkeypatch.setattr(jobs.Job, "train_step", lambda *args: program_that_fails(stage, error))
    assert cli.main([*flags, *SLICE]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(
        "detox-jax: error: program 'train' on v5e:2x2, mesh data=1,fsdp=2,model=2: the compiler was"
    )
    assert said in printed and printed.count("\n") == 1
    assert "--gin.GENERATION_MESH_SHAPE" in printed and "--gin.COMPILER_EFFORT" in printed


def test_a_refusal_for_memory_is_an_answer():
    refusal = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm.")
    memory, module = compile_program(program_that_fails("compile", refusal), 16 * GIB, 0.0, "it")
    assert module is None and not memory.fits and memory.peak == 20 * GIB


def test_refusals_of_the_compiler():
    assert _needed(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (37.29G) exceeds available HBM (15.75G)."
    ) == (round(37.29 * GIB), round(15.75 * GIB))
    assert _needed(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm."
    ) == (20 * GIB, round(15.75 * GIB))
    assert _needed("INTERNAL: something else") is None


@pytest.mark.slow
def test_the_compiler_for_tpus(flags, tmp_path, monkeypatch):
    """A real compilation: halves are gathered, and the memory is the chip's."""
    pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'detox-jax[tpu]'")
    monkeypatch.undo()
    assert cli.main([*flags, *SLICE]) == 0
    (written,) = plans(tmp_path)
    train = written["programs"][0]
    assert train["memory"]["limit"] == 15.75 * GIB and train["memory"]["fits"]
    gathered = train["phases"]["step"]["collectives"]["all-gather"]
    assert gathered["count"] >= 3 and gathered["sent_bytes"] * 2 == gathered["payload_bytes"]
    assert 0 < train["phases"]["step"]["roofline"]["mfu"] < 1
