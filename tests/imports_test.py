"""Who may import whom (CONTRIBUTING.md): read from the source, without importing anything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASICS = {
    "errors",
    "processes",
    "outputs",
    "records",
    "tokenizer_files",
    "vocabulary",
    "progress",
    "native_log",
}
CLASSIFIER_FILES = {
    "interop.classifiers",
    "interop.encoder_bodies",
    "interop.encoder_export",
    "interop.encoder_tokenizers",
    "interop.hub",
}
# What each room may import beside itself; `NOTHING_LOCAL` below is stricter.
ALLOWED = {
    "models": {"errors"},
    "parallel": {"errors", "processes", "models"},
    "checkpoints": {*BASICS, "models", "parallel"},
    "training": {*BASICS, "models", "parallel", "checkpoints"},
    "generation": {*BASICS, "models", "parallel", "checkpoints"},
    # A classifier is read where it lies, in its Hugging Face directory, and written there.
    "toxicity": {*BASICS, "models", "parallel", "checkpoints", "training", *CLASSIFIER_FILES},
    "evaluation": {*BASICS, "models", "parallel", "checkpoints", "training.losses"},
    "report": {*BASICS, "evaluation"},
    "comparison": {*BASICS, "evaluation", "report"},
    # The harness's generating tasks decode; `choices` asks the questions of seqio tasks.
    "zero_shot": {
        *BASICS,
        "models",
        "parallel",
        "checkpoints",
        "training.losses",
        "training.data",
        "generation",
        "evaluation",
    },
    "interop": {*BASICS, "models", "parallel", "checkpoints"},
    # `plan` compiles what the verbs `train` and `generate` run, without importing them.
    "planning": {*BASICS, "models", "parallel", "checkpoints", "training", "generation"},
    "sgeat": {*BASICS, "checkpoints"},
    "cli": {"errors", "native_log", "processes", "parallel.distributed"},
    "__main__": {"cli"},
    "errors": set(),
    "native_log": set(),
    "progress": set(),
    "foreign": {"errors"},
    "processes": {"errors"},
    "outputs": {"errors", "processes"},
    "records": {"errors", "foreign", "outputs"},
    "tokenizer_files": {"errors"},
    "vocabulary": {"errors", "outputs", "records", "tokenizer_files"},
}
NOTHING_LOCAL = {
    "models.config",
    "generation.sampling",
    "checkpoints.params",
    "evaluation.metrics",
    "evaluation.statistics",
}
VERBS = {
    "training.train",
    "generation.generate",
    "toxicity.score",
    "toxicity.filter",
    "toxicity.train_scorer",
    "zero_shot.choices",
    "comparison.compare",
    "evaluation.evaluate",
    "report.report",
    "zero_shot.lm_eval",
    "interop.convert",
    "planning.plan",
    "sgeat",
}
# T5X reads our data and takes our optimizer; it is imported in one module, which nothing imports.
ALSO_ALLOWED = {"interop.t5x": {"training.data", "training.optimizer"}}
HEAVY = {"tensorflow", "seqio", "tensorflow_datasets", "torch", "transformers", "t5x", "lm_eval"}
PLACES = {("interop.t5x", "t5x")}


def _modules():
    for path in sorted((ROOT / "detox_jax").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "detox_jax").with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def _imports(path):
    """Dotted names that a module imports; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _local_imports(path):
    names = {name for name, _ in _modules()}
    for imported in _imports(path):
        if imported.startswith("detox_jax."):
            local = imported.removeprefix("detox_jax.")
            while local not in names:
                local = local.rpartition(".")[0]
                assert local, imported
            yield local


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda x: str(x))
def test_imports_of(name, path):
    if name in ("__init__", ""):
        return
    room = name.split(".")[0]
    allowed = ALLOWED[room] | ALSO_ALLOWED.get(name, set())
    for imported in _local_imports(path):
        if name in NOTHING_LOCAL:
            assert imported == "errors", f"{name} imports {imported}"
            continue
        inside = imported.split(".")[0]
        assert inside == room or inside in allowed or imported in allowed, (
            f"{name} may not import {imported}"
        )
        if name not in ("sgeat", "cli") and name != imported:
            assert imported not in VERBS, f"{name} imports the verb {imported}"


def test_detox_jax_never_imports_tasks():
    for name, path in _modules():
        for imported in _imports(path):
            assert imported.split(".")[0] != "tasks", f"{name} imports {imported}"


def test_tensorflow_and_torch_stay_where_they_belong():
    for name, path in _modules():
        found = {imported.split(".")[0] for imported in _imports(path)} & HEAVY
        assert not found or (name, *found) in PLACES or name == "training.data", (
            f"{name} imports {found}"
        )


def test_importing_the_rooms_loads_no_tensorflow():
    program = (
        "import sys\n"
        "import detox_jax.generation.generate, detox_jax.training.train, detox_jax.toxicity.score\n"
        "import detox_jax.evaluation.evaluate, detox_jax.models.transformer, detox_jax.sgeat\n"
        "loaded = {'tensorflow', 'torch', 'seqio'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
