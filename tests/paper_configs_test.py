"""Every row of the paper's tables: its file composes, passes --dry_run, and is what its head says.

`gin_configs/experiments/paper` at the paper's sizes, `small` at one that runs here. A stand-in for
a checkpoint has the `model.json` of its size and none of its weights, since a dry run reads none.
"""

import ast
import copy
import dataclasses
import json
import math
import re
import shutil
import types
from pathlib import Path

import gin
import jax
import numpy as np
import pytest
from etils import epath
from gin.config import ConfigurableReference

from detox_jax import cli, configuration
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.generation import prompts
from detox_jax.generation.decoding import Decoding
from detox_jax.generation.sampling import TopPSampling
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.words import BannedWords
from detox_jax.method import method
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation
from detox_jax.toxicity import filter as filters
from detox_jax.training.fit import Budget
from detox_jax.training.optimizer import AdamW
from tests.conftest import SENTENCES
from tests.gin_configs_test import PARAMETERS

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "gin_configs" / "experiments"
SIZES = ("126m", "357m", "1.3b", "8.3b", "530b")
LEARNING_RATES = {**dict.fromkeys(SIZES, 2e-5), "530b": 1e-5}
PREFIX_LEARNING_RATE = 9e-3
# Of every size, and of 1.3B alone.
ROWS = ["standard", "heuristic", "augmented", "adapter_256"]
ROWS_OF_ONE_SIZE = [
    *("adapter_512", "adapter_1024", "prefix_128", "prefix_256", "prefix_512"),
    *("dapt", "dapt_jigsaw", "words", "sgeat_words", "experts", "sgeat_experts"),
]
PAPER = [
    f"{size}/{row}"
    for size in SIZES
    for row in (*ROWS, *(ROWS_OF_ONE_SIZE if size == "1.3b" else ()))
]
SMALL = [
    *("base", "standard", "heuristic", "augmented", "dapt", "dapt_jigsaw", "words", "sgeat_words"),
    *("experts", "sgeat_experts", "adapter_48", "adapter_96", "adapter_192"),
    *("prefix_8", "prefix_16", "prefix_32"),
]
# What a row asks of the user beside base, prompts and held-out text.
NEEDS = {
    "dapt": ["DAPT_DOCUMENTS"],
    "dapt_jigsaw": ["CLEAN_COMMENTS"],
    "experts": ["CLEAN_COMMENTS", "TOXIC_COMMENTS"],
    "sgeat_experts": ["CLEAN_COMMENTS", "TOXIC_COMMENTS"],
}
# What the head of a row's file has to say, by what the row does.
TRAINED = {"EPOCHS", "BATCH_SIZE"}
GENERATED = {"NUM_DOCUMENTS", "KEEP_FRACTION"}
TO_SAY = {
    "standard": {*TRAINED, *GENERATED, "LEARNING_RATE"},
    "heuristic": {*TRAINED, *GENERATED, "LEARNING_RATE"},
    "augmented": {*TRAINED, *GENERATED, "LEARNING_RATE"},
    "adapter": {*TRAINED, *GENERATED, "ADAPTER_LEARNING_RATE", "BOTTLENECK_DIM"},
    "prefix": {*TRAINED, *GENERATED, "ADAPTER_LEARNING_RATE", "PREFIX_LENGTH"},
    "dapt": {*TRAINED, "LEARNING_RATE", "DAPT_KEEP_FRACTION"},
    "dapt_jigsaw": {*TRAINED, "LEARNING_RATE", "COMMENTS_FRACTION"},
    "words": set(),
    "sgeat_words": {*TRAINED, *GENERATED, "LEARNING_RATE"},
    "experts": {*TRAINED, "LEARNING_RATE", "COMMENTS_FRACTION", "ALPHA", "BASE_TOP_P"},
    "sgeat_experts": {*TRAINED, *GENERATED, "LEARNING_RATE", "ALPHA", "BASE_TOP_P"},
}

# The models that a row trains, and the corpora that the base writes for it.
MODELS = {
    "standard": {"standard"},
    "heuristic": {"heuristic"},
    "augmented": {"augmented"},
    "adapter": {"adapter"},
    "prefix": {"prefix"},
    "dapt": {"dapt-nontoxic"},
    "dapt_jigsaw": {"dapt-jigsaw"},
    "words": set(),
    "sgeat_words": {"standard-words"},
    "experts": {"dapt-jigsaw", "anti-expert"},
    "sgeat_experts": {"dapt-jigsaw", "anti-expert", "standard-experts"},
}
GENERATES = {
    **dict.fromkeys(
        ("standard", "adapter", "prefix", "sgeat_words", "sgeat_experts"), {"standard"}
    ),
    **dict.fromkeys(("dapt", "dapt_jigsaw", "words", "experts"), set()),
    "heuristic": {"heuristic"},
    "augmented": {"standard", "augmented"},
}
# The rows that are steered, and by what; the base and all others are not.
EXPERTS = [Experts("dapt-jigsaw", "anti-expert", alpha=2.0, base_top_p=0.9)]
STEERED = {
    "words": {"words": [BannedWords()]},
    "sgeat_words": {"standard-words": [BannedWords()]},
    "experts": {"experts": EXPERTS},
    "sgeat_experts": {"experts": EXPERTS, "standard-experts": EXPERTS},
}


def _kind(name):
    return re.sub(r"_\d+$", "", name.rpartition("/")[2])


def _head(text):
    """The comment on top of a file, as one line."""
    lines = text.splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def _claims(head):
    """What a head says of settings: `LEARNING_RATE=2e-5`."""
    pairs = re.findall(r"(?<![\w.-])([A-Z][A-Z_0-9]+)=([^\s,;]*[^\s,;:.)])", head)
    return {name: ast.literal_eval(value) for name, value in pairs}


def _setting(name):
    """The value of a macro, behind another one where it names one."""
    value = gin.query_parameter(f"{name}/gin.macro.value")
    if isinstance(value, ConfigurableReference):
        value = value.scoped_configurable_fn()
    return value


def _made(cls, scope=""):
    with gin.config_scope(scope or None):
        return gin.get_configurable(cls)()


def _stand_in(directory, config, vocabulary, tiny):
    """A checkpoint whose `model.json` says `config`; its weights are those of a tiny model."""
    directory.mkdir()
    shapes, _ = meshes.abstract_params(TransformerLM(tiny))
    weights = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    checkpoints.save_model(epath.Path(directory), weights, spec, vocabulary)


@pytest.fixture(scope="module")
def place(tmp_path_factory, vocabulary, config):
    """What a user brings: a base of every size, prompts, documents."""
    root = tmp_path_factory.mktemp("paper")
    _stand_in(root / "tiny", config, vocabulary, config)
    for size in (*SIZES, "small"):
        shutil.copytree(root / "tiny", root / size)
        spec = json.loads((root / "tiny" / "model.json").read_text())
        spec["config"] |= {"max_length": 128} if size == "small" else _config(size)
        (root / size / "model.json").write_text(json.dumps(spec))
    documents = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    to_continue = [{"id": str(i), "prompt": {"text": text}} for i, text in enumerate(SENTENCES)]
    for name, rows in {"documents": documents, "prompts": to_continue}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines)
    return root


def _config(size):
    """A size's, as `model.json` has it."""
    cli.load_config(cli.parse_arguments(["train", f"--gin_file=gin_configs/models/{size}.gin"]))
    made = gin.query_parameter("MODEL/gin.macro.value").scoped_configurable_fn()
    return dataclasses.asdict(made)


def _layers_width_heads(model_dir):
    config = checkpoints.read_spec(epath.Path(model_dir)).config
    return config.num_layers, config.emb_dim, config.num_heads


@pytest.fixture
def much_room(monkeypatch):
    """A disk that holds the checkpoints of every size."""
    usage = types.SimpleNamespace(free=10**15)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def _file(name):
    """Of a row, `1.3b/standard` or `small/standard`."""
    return EXPERIMENTS / (name if name.startswith("small/") else f"paper/{name}")


def _text(name):
    return Path(f"{_file(name)}.gin").read_text()


def _command(name, place):
    """A row's command with what a user brings, on this machine in place of the slice."""
    size, _, row = name.rpartition("/")
    given = {"OUTPUT_DIR": place / "out"}
    if size == "small":
        given |= {} if row == "base" else {"INITIAL_CHECKPOINT_PATH": place / "small"}
    else:
        documents = dict.fromkeys(NEEDS.get(row, ()), place / "documents.jsonl")
        given |= {"INITIAL_CHECKPOINT_PATH": place / size, **documents}
        given |= {"PROMPTS_INPUT": place / "prompts.jsonl", "HELDOUT": place / "documents.jsonl"}
        given |= {"MESH_SHAPE": None, "GENERATION_MESH_SHAPE": None, "DOWNSTREAM_TASKS": ()}
    flags = (f"--gin.{key}={value}" for key, value in given.items())
    return ["sgeat", f"--gin_file={_file(name)}.gin", *flags]


def _compose(command):
    """A command's configuration, checked as far as it is gin's; it stays in gin."""
    arguments = cli.parse_arguments(command)
    verb, defaults = cli.load_config(arguments)
    configuration.check(verb, defaults, arguments.bindings)


def _dry_run(command, place, capsys):
    """The steps of `--dry_run`: what is said of each, by its directory."""
    status = cli.main([*command, "--dry_run"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    steps = re.findall(rf"^#   to do +\w+ +{place}/out/(\S+) *(.*)$", printed.out, re.MULTILINE)
    return dict(steps)


def _trained(steps):
    """Parameters that are trained, by the model's name."""
    return {
        directory.removeprefix("models/"): int(said.split(" parameters")[0].replace(",", ""))
        for directory, said in steps.items()
        if directory.startswith("models/")
    }


def _generated(steps):
    """The corpora that the base writes."""
    return {path.split("/")[1] for path in steps if re.fullmatch("corpora/.*/generated", path)}


def _includes(path):
    """What a file includes of the paper's folder."""
    return re.findall(
        r"^include 'gin_configs/experiments/paper/(.*)\.gin'", path.read_text(), re.MULTILINE
    )


def test_no_file_is_left_out():
    files = list((EXPERIMENTS / "paper").rglob("*.gin"))
    names = {str(file.relative_to(EXPERIMENTS / "paper").with_suffix("")) for file in files}
    parts = {name for name in names if name.startswith(("rows/", "sizes/"))}
    assert names - parts == {*PAPER, "shared"}
    assert parts <= {name for file in files for name in _includes(file)}
    small = {file.stem for file in (EXPERIMENTS / "small").glob("*.gin")}
    assert small == {*SMALL, "shared"}


@pytest.mark.parametrize("name", PAPER)
def test_a_row_of_the_paper_has_the_paper_s_settings_and_its_head_s(name, place):
    size, _, row = name.rpartition("/")
    _compose(_command(name, place))
    head = _head(_text(name))
    claims = _claims(head)
    assert "Known: " in head and "Ours: " in head
    assert TO_SAY[_kind(row)] <= claims.keys()
    assert {setting: _setting(setting) for setting in claims} == claims
    assert f"OUTPUT_DIR = 'runs/paper/{name}'" in _text(name)

    for scope in ("whole", "adapter"):
        optimizer = _made(AdamW, scope)
        is_prefix = _kind(row) == "prefix" and scope == "adapter"
        assert optimizer.learning_rate == (
            PREFIX_LEARNING_RATE if is_prefix else LEARNING_RATES[size]
        )
        assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.95, 1e-5)
        assert (optimizer.weight_decay, optimizer.max_grad_norm) == (0.1, 1.0)
        assert (optimizer.schedule, optimizer.warmup_steps) == ("constant", 0)
    assert _made(Budget) == Budget(epochs=3)
    assert _setting("BATCH_SIZE") == 512
    assert _setting("TASK_FEATURE_LENGTHS") == {"targets": 2048}
    assert _made(prompts.Standard).num_documents == 100_000
    assert _made(filters.LeastToxic).fraction == 0.5
    documents, continuations = _made(Decoding, "documents"), _made(Decoding, "continuations")
    assert (documents.max_new_tokens, documents.num_samples) == (1000, 1)
    assert documents.sampling == continuations.sampling == TopPSampling(p=0.9, temperature=1.0)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_of_the_paper_passes_the_checks_of_a_dry_run(name, place, much_room, capsys):
    size, _, row = name.rpartition("/")
    # 100,000 prompts take seconds to encode.
    fewer = ["--gin.NUM_DOCUMENTS=30"] if "NUM_DOCUMENTS" in TO_SAY[_kind(row)] else []
    steps = _dry_run([*_command(name, place), *fewer], place, capsys)
    assert "6 requests, 150 samples, 3,000 new tokens" in steps["continuations/base/generated"]
    assert _generated(steps) == GENERATES[_kind(row)]
    layers, width, heads = _layers_width_heads(place / size)
    trained, number = _trained(steps), int((re.findall(r"_(\d+)$", row) or [0])[0])
    if _kind(row) == "adapter":
        assert trained == {"adapter": layers * 2 * (2 * width * number + number + width)}
    elif _kind(row) == "prefix":
        assert trained == {"prefix": layers * (2 * number * width + heads)}
    else:
        assert trained == dict.fromkeys(MODELS[row], PARAMETERS[size])


@pytest.mark.parametrize("name", SMALL)
def test_a_small_row_is_what_its_head_says(name, place, capsys):
    steps = _dry_run(_command(f"small/{name}", place), place, capsys)
    head = _head(_text(f"small/{name}"))
    claims = _claims(head)
    assert {setting: _setting(setting) for setting in claims} == claims
    assert f"OUTPUT_DIR = 'runs/small/{name}'" in _text(f"small/{name}")
    if name == "base":
        assert {"vocabulary", "base"} <= steps.keys() and not _trained(steps)
        return
    assert "base" not in steps
    assert _generated(steps) == GENERATES[_kind(name)]
    assert set(_trained(steps)) == MODELS[_kind(name)]
    if to_say := TO_SAY[_kind(name)]:
        assert to_say - {"EPOCHS", "KEEP_FRACTION"} <= claims.keys()
        assert _made(Budget) == Budget(train_steps=claims["TRAIN_STEPS"])
    (same,) = re.findall(r"paper/(\S+)\.gin", head)
    assert same in PAPER and _kind(same) == _kind(name)


def _is_steered(path):
    """Whether a file, or one that it includes, includes one of gin_configs/steering."""
    included = re.findall(r"^include '(.*)'", path.read_text(), re.MULTILINE)
    return any("steering/" in name or _is_steered(ROOT / name) for name in included)


STEERING_FILES = [
    str(file.relative_to(EXPERIMENTS).with_suffix("")).removeprefix("paper/")
    for file in sorted(EXPERIMENTS.rglob("*.gin"))
    if _is_steered(file) and not file.is_relative_to(EXPERIMENTS / "paper" / "rows")
]


@pytest.mark.parametrize("name", STEERING_FILES)
def test_a_file_steers_the_rows_that_it_says_and_neither_the_base_nor_another(name, place):
    _compose(_command(name, place))
    rows = method.rows(copy.deepcopy(gin.query_parameter("METHODS/gin.macro.value")), None, {})
    decodings = method.decodings(rows, _made(Decoding, "continuations"))
    steered = STEERED[_kind(name)]
    assert {"base", *steered} <= decodings.keys()
    assert {name: list(of.steering) for name, of in decodings.items()} == {
        name: steered.get(name, []) for name in decodings
    }


def test_all_files_that_steer_are_looked_at():
    assert {_kind(name) for name in STEERING_FILES} == STEERED.keys()
    assert len(STEERING_FILES) == 2 * len(STEERED)


@pytest.mark.parametrize("name", ["1.3b/standard", "1.3b/experts"])
def test_all_that_a_user_has_to_bring_is_named_at_once(name, capsys):
    row = name.rpartition("/")[2]
    assert cli.main(["sgeat", f"--gin_file=gin_configs/experiments/paper/{name}.gin", "--dry_run"])
    message = capsys.readouterr().err
    asked = ["INITIAL_CHECKPOINT_PATH", "PROMPTS_INPUT", "HELDOUT", *NEEDS.get(row, ())]
    assert "required and not set" in message
    assert set(re.findall(r"--gin\.(\w+)=", message)) == set(asked)


def test_the_base_of_a_small_row_is_made_first(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sgeat", "--gin_file=gin_configs/experiments/small/standard.gin"]) == 2
    assert "runs/small/base/base" in capsys.readouterr().err


# --- slices -----------------------------------------------------------------------------------


SIZE_FILES = [*SIZES, "8.3b_adapter", "530b_adapter"]


def _slice(size_file):
    return re.search(r"on (v5p:[\dx]+)", _head(_text(f"sizes/{size_file}")))[1]


@pytest.mark.parametrize("size_file", SIZE_FILES)
def test_a_size_is_what_was_planned(size_file):
    """Its meshes are of its slice, divide batch and heads, and are those of docs/PLAN.md."""
    size, _, adaptation = size_file.partition("_")
    files = [f"models/{size}", *(["adaptation/adapter"] if adaptation else [])]
    files.append(f"experiments/paper/sizes/{size_file}")
    flags = [f"--gin_file=gin_configs/{file}.gin" for file in files]
    topology = _slice(size_file)
    _compose(["plan", *flags, f"--topology={topology}"])

    chips = math.prod(int(side) for side in topology.partition(":")[2].split("x"))
    computation, generation = _made(Computation), _setting("GENERATION_MESH_SHAPE")
    train, decode = (
        dict(zip(meshes.AXES, meshes._axis_sizes(shape, chips, 1, "MESH_SHAPE"), strict=True))
        for shape in (computation.mesh_shape, generation)
    )
    mesh = types.SimpleNamespace(shape=train)
    rows = meshes.rows_at_once(mesh, _setting("BATCH_SIZE"), computation.accumulation_steps)
    heads = _made(TransformerConfig).num_heads
    assert heads % train["model"] == heads % decode["model"] == 0
    assert _made(AdamW).learning_rate == LEARNING_RATES[size]

    document = (ROOT / "docs" / "PLAN.md").read_text()
    if size_file == "530b_adapter":
        assert (
            f"--topology={topology} --mesh=data=1,fsdp=32,model=16 --gin.ACCUMULATION_STEPS=4"
            in document
        )
        assert "GENERATION_MESH_SHAPE=\"{'data': 4, 'model': 128}\"" in document
        assert (train, rows) == ({"data": 1, "fsdp": 32, "model": 16}, 128)
        assert decode == {"data": 4, "fsdp": 1, "model": 128}
        return
    head, ends = rf"\| {size} \| {adaptation or 'whole'} \| {topology} ", r"(.*?) \| (\d+)"
    planned = re.search(rf"{head}\| {ends} \|(?:.*?\|){{4}} {ends}:", document).groups()
    generated = str(_setting("GENERATION_BATCH_SIZE"))
    assert planned == (_as_planned(train), str(rows), _as_planned(decode), generated)


def _as_planned(mesh):
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_is_of_its_size(name):
    size, _, row = name.rpartition("/")
    adapted = size in ("8.3b", "530b") and _kind(row) == "adapter"
    sizes = [part for part in _includes(Path(f"{_file(name)}.gin")) if part.startswith("sizes/")]
    assert sizes == [f"sizes/{size}_adapter" if adapted else f"sizes/{size}"]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_names_models_that_a_user_may_take(size):
    head = _head(_text(f"sizes/{size}"))
    assert "never released" in head and re.search(r"[\w-]+/[\w.-]+\d+[bm]", head, re.I)


def test_every_file_is_in_the_documentation():
    text = (ROOT / "docs" / "PLAN.md").read_text()
    for name in PAPER:
        assert f"`{name}`" in text, name
    small = (ROOT / "docs" / "RESULTS.md").read_text()
    for name in SMALL:
        assert f"`{name}`" in small, name
