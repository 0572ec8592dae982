"""Who may import whom (CONTRIBUTING.md): read from the source, without importing anything."""

import subprocess
import sys

import pytest

from tests import import_graph

BASICS = {
    "errors",
    "kinds",
    "compilations",
    "terminal",
    "user_cache",
    "storage_watch",
    "parallel.processes",
    "output_settings",
    "directory_lock",
    "shared_steps",
    "formats.jsonl",
    "formats.word_lists",
    "atomic_files",
    "manifests",
    "outputs",
    "preview",
    "bad_records",
    "records",
    "formats.plain_lines",
    "formats.plain_documents",
    "formats.plain_prompts",
    "record_blocks",
    "tokenizer_files",
    "formats.json_array",
    "formats.arrow_rows",
    "formats.tfds_rows",
    "formats.row_formats",
    "formats.data_layout",
    "formats.hub_data",
    "sources",
    "vocabulary",
    "chat",
    "tags",
    "segmenters",
}
MODEL = {*BASICS, "models", "parallel", "checkpoints"}
# What each room may import beside itself, the lowest room first: none may name one below it in this
# table, so no import runs up. `NOTHING_LOCAL` is stricter.
ALLOWED = {
    "errors": set(),
    "kinds": set(),
    "compilations": set(),
    "user_cache": set(),
    "compilation_cache": {"user_cache"},
    "storage_watch": set(),
    "shared_steps": set(),
    "formats": {"errors"},
    "models": {"errors"},
    "parallel": {"compilation_cache", "compilations", "errors", "kinds", "models"},
    "terminal": {"compilations", "parallel.processes"},
    "output_settings": {"errors", "parallel.processes"},
    "directory_lock": {"errors"},
    "atomic_files": {"directory_lock", "errors", "parallel.processes"},
    "manifests": {"atomic_files", "errors", "formats.jsonl", "output_settings"},
    "outputs": {
        *("atomic_files", "directory_lock", "errors", "manifests", "parallel.processes"),
        *("output_settings", "shared_steps"),
    },
    "preview": {"atomic_files", "errors", "manifests"},
    "bad_records": {
        *("atomic_files", "errors", "formats.jsonl", "output_settings", "parallel.processes"),
    },
    "sources": {
        *("errors", "manifests", "formats.jsonl", "formats.row_formats", "formats.data_layout"),
        *("formats.hub_data", "formats.tfds_rows", "output_settings"),
    },
    "records": {
        *("bad_records", "errors", "manifests", "sources", "terminal", "formats.jsonl"),
        *("output_settings", "preview"),
        *("formats.foreign", "formats.foreign_files", "formats.record_ids", "formats.row_formats"),
    },
    "record_blocks": {
        *("bad_records", "errors", "records", "sources", "formats.jsonl", "formats.foreign_files"),
        *("formats.plain_documents", "formats.plain_prompts", "formats.record_ids"),
        *("formats.row_formats", "terminal"),
    },
    "tokenizer_files": {"atomic_files", "errors", "formats.jsonl"},
    "vocabulary": {
        *("atomic_files", "bad_records", "errors", "kinds", "output_settings", "outputs"),
        *("preview", "records", "terminal", "tokenizer_files"),
    },
    "chat": {"errors", "kinds", "tokenizer_files", "vocabulary"},
    "tags": {"errors", "kinds", "records", "vocabulary"},
    "segmenters": {"errors"},
    "checkpoints": {*BASICS, "models", "parallel"},
    "training": MODEL,
    "generation": MODEL,
    # A laptop room: no network of ours, no JAX.
    "toxicity": BASICS,
    # Perplexity: what a text costs a model, and what it costs through the methods that steer it.
    "evaluation": {
        *(MODEL | {"training.losses"}),
        *(f"generation.steering.{name}" for name in ("scoring", "steering")),
    },
    "report": {*BASICS, "evaluation"},
    "comparison": {*BASICS, "evaluation", "report"},
    "human": {
        *BASICS,
        "formats.foreign",
        "evaluation",
        "report.table_formats",
        "report.content_policy",
    },
    # The model card shows what was measured.
    "interop": {
        *MODEL,
        *(f"evaluation.{name}" for name in ("results", "results_files", "rows", "soundness")),
        "evaluation.statistics",
    },
    # A classifier is read where it lies, in its Hugging Face directory, and written there.
    "classifiers": {*MODEL, "training", "toxicity", "interop"},
    # The harness's generating tasks decode; `choices` asks the questions of seqio tasks.
    "zero_shot": {
        *(MODEL | {"training.losses", "training.seqio_tasks", "generation", "evaluation"}),
        "report.table_formats",
    },
    # `plan` compiles what the verbs `train` and `generate` run, without importing them.
    "planning": {*MODEL, "training", "generation"},
    # What `train` is handed: it draws, scores and measures, which `training` may not.
    "probe": {*MODEL, "training", "generation", "toxicity", "evaluation"},
    # What `sgeat` is told, and how it goes about it.
    "method": {
        *("atomic_files", "errors", "kinds", "manifests", "outputs", "preview", "records"),
        *("terminal", "models", "checkpoints.identity", "generation"),
    },
    "sgeat": {
        *BASICS,
        *("checkpoints", "models", "generation", "method", "evaluation.frontiers"),
    },
    "sweep_cells": {"errors", "shared_steps"},
    "sweep_rows": {"errors", "method.method", "report", "sweep_cells"},
    "sweep": {
        *(BASICS | {"method.called_verbs", "method.method", "method.only", "evaluation"}),
        *("parallel.distributed", "parallel.preemption", "report", "sweep_cells", "sweep_rows"),
    },
    "bound_values": {"errors", "kinds"},
    "extras": {"errors"},
    "shadowing": {"errors", "parallel.processes"},
    "run_files": {"errors", "bound_values", "extras"},
    "configuration": {"errors", "bound_values", "run_files", "extras", "shadowing"},
    "command_line": {"errors", "bound_values", "run_files"},
    # Of the verbs, which it knows by name, each when it is called (`LOADERS`).
    "cli": {
        *BASICS,
        *("compilation_cache", "storage_watch", "bound_values", "extras"),
        *("run_files", "configuration", "command_line"),
    },
    # What Python calls: the verbs through `cli`, as the command line does, and what they wrote.
    "api": {
        *(MODEL | {"formats.record_ids", "bound_values", "configuration", "cli", "extras"}),
        *("generation", "toxicity", "evaluation", "report", "terminal", "training"),
        "method.only",
    },
}
# Of these rooms, what each module may import, of its own room too, the lowest module first.
WITHIN = {
    "formats.jsonl": {"errors"},
    "formats.word_lists": {"errors", "formats.jsonl"},
    "formats.foreign": {"errors"},
    "formats.published": {"errors", "formats.jsonl"},
    "formats.record_ids": {"errors"},
    "formats.foreign_files": {
        *("errors", "formats.foreign", "formats.published", "formats.record_ids"),
    },
    "formats.json_array": {"errors", "formats.jsonl"},
    "formats.arrow_rows": {"errors"},
    "formats.tfds_rows": {"errors"},
    "formats.row_formats": {
        *("errors", "formats.jsonl", "formats.json_array", "formats.arrow_rows"),
        *("formats.tfds_rows", "formats.published"),
    },
    "formats.data_layout": {"errors", "formats.jsonl", "formats.row_formats"},
    "formats.hub_data": {"errors"},
    "formats.plain_lines": set(),
    "formats.plain_documents": {"formats.plain_lines"},
    "formats.plain_prompts": {"formats.foreign"},
    "method.called_verbs": {"preview", "models", "generation"},
    "method.corpus": {"kinds", "generation", "method.called_verbs"},
    "method.method": {
        *("errors", "kinds", "models", "generation"),
        *("method.called_verbs", "method.corpus"),
    },
    "method.seeds": {"method.method"},
    "method.places": {"manifests", "generation", "method.corpus", "method.method"},
    "method.fitted_vectors": {
        *("errors", "kinds", "generation"),
        *("method.called_verbs", "method.corpus", "method.method", "method.places"),
    },
    "method.deciders": {
        *("manifests", "records", "checkpoints.identity"),
        *("method.fitted_vectors", "method.method", "method.places"),
    },
    "method.only": {
        *("errors", "generation", "method.corpus", "method.fitted_vectors", "method.method"),
        "method.places",
    },
    "method.makers": {
        *("errors", "method.called_verbs", "method.corpus", "method.method"),
        "method.fitted_vectors",
    },
    "method.narrator": {"atomic_files", "errors", "outputs", "terminal"},
    "method.run_preview": {
        *("errors", "preview", "generation", "method.corpus", "method.method"),
        *("method.fitted_vectors", "method.makers", "method.places"),
    },
}
ALSO_ALLOWED = {
    # Of `NOTHING_LOCAL` itself.
    "evaluation.statistics": {"evaluation.resampling"},
    # T5X reads our data and takes our optimizer; it is imported in one module, which nothing
    # imports.
    "interop.t5x": {
        f"training.{name}" for name in ("data", "seqio_tasks", "cached_tasks", "optimizer")
    },
}
# The public names and the verbs are loaded when they are used.
LOADERS = {"__init__", "cli", "__main__", "sweep_check"}
NOTHING_LOCAL = {
    "models.config",
    "generation.sampling",
    "checkpoints.params",
    "evaluation.metrics",
    "evaluation.resampling",
    "evaluation.statistics",
}
VERBS = {
    "generation.fit_subspace",
    "training.train",
    "generation.generate",
    "generation.steer",
    "checkpoints.combine",
    "toxicity.score",
    "toxicity.filter",
    "toxicity.pair",
    "toxicity.train_scorer",
    "classifiers.train_linear",
    "classifiers.train_reward",
    "zero_shot.choices",
    "zero_shot.lm_eval",
    "zero_shot.panel",
    "comparison.compare",
    "evaluation.evaluate",
    "report.report",
    "human.human_sheets",
    "human.human_results",
    "interop.convert",
    "planning.plan",
    "sgeat",
    "sweep",
}
# `evaluate` is given its methods as structs of its own.
TAKE_THEIR_STRUCTS = {("api.verbs", "evaluation.evaluate")}
HEAVY = {"tensorflow", "seqio", "tensorflow_datasets", "torch", "transformers", "t5x", "lm_eval"}
READ_SEQIO = {f"training.{name}" for name in ("seqio_tasks", "cached_tasks", "mixtures", "data")}
# TFDS is imported when a data set of its is read, and loads no tensorflow then.
PLACES = {("interop.t5x", "t5x"), ("formats.tfds_rows", "tensorflow_datasets")}


@pytest.mark.parametrize("name", import_graph.modules())
def test_imports_of(name):
    room = import_graph.room_of(name)
    imported = import_graph.local_imports(import_graph.modules()[name]) - {name}
    if name in LOADERS:
        return
    if name in NOTHING_LOCAL:
        assert imported <= {"errors", *ALSO_ALLOWED.get(name, set())}
        return
    allowed = WITHIN.get(name, {room, *ALLOWED[room]}) | ALSO_ALLOWED.get(name, set())
    for other in sorted(imported):
        assert import_graph.room_of(other) in allowed or other in allowed, (
            f"{name} may not import {other}"
        )
        if name != "sgeat" and (name, other) not in TAKE_THEIR_STRUCTS:
            assert other not in VERBS, f"{name} imports the verb {other}"


def test_no_room_may_import_one_above_it():
    rooms = [*ALLOWED]
    for room, allowed in ALLOWED.items():
        for other in allowed:
            above = import_graph.room_of(other)
            assert rooms.index(above) < rooms.index(room), f"{room} may import {other}, above it"
    assert {*rooms, *LOADERS} == import_graph.room_graph().keys()


def test_what_modules_of_some_rooms_may_import_is_said_of_all_and_goes_upwards():
    modules = [*WITHIN]
    rooms = {import_graph.room_of(name) for name in modules}
    inside = {name for name in import_graph.modules() if import_graph.room_of(name) in rooms}
    assert {*modules} == {name for name in inside if not name.endswith(".__init__")}
    for name, allowed in WITHIN.items():
        room = import_graph.room_of(name)
        for other in allowed:
            if import_graph.room_of(other) == room:
                assert modules.index(other) < modules.index(name), f"{name} may import {other}"
            else:
                assert other in ALLOWED[room], f"{name} may import {other}, and its room not"


def test_no_cycle_of_rooms_or_of_modules():
    rooms = {room: set(others) for room, others in import_graph.room_graph().items()}
    assert import_graph.cycle(rooms) == []
    assert import_graph.cycle(import_graph.module_graph()) == []
    assert import_graph.cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_imports_in_functions_and_in_texts_are_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def load():\n    from detox_jax.models import config\n"
        'NAMES = {"x": "detox_jax.training.train", "y": "detox_jax is a package"}\n'
    )
    assert import_graph.local_imports(path) == {"models.config", "training.train"}
    path.write_text("import detox_jax.no_such_module\n")
    with pytest.raises(AssertionError, match="none of the modules"):
        import_graph.local_imports(path)


def test_detox_jax_never_imports_tasks():
    for name, path in import_graph.modules().items():
        for imported in import_graph.imports(path):
            assert imported.split(".")[0] != "tasks", f"{name} imports {imported}"


def test_tensorflow_and_torch_stay_where_they_belong():
    for name, path in import_graph.modules().items():
        heavy = {imported.split(".")[0] for imported in import_graph.imports(path)} & HEAVY
        assert not heavy or (name, *heavy) in PLACES or name in READ_SEQIO, (
            f"{name} imports {heavy}"
        )


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        (
            "detox_jax.generation.generate, detox_jax.training.train, detox_jax.toxicity.score, "
            "detox_jax.evaluation.evaluate, detox_jax.models.transformer, detox_jax.sgeat",
            "tensorflow torch seqio",
        ),
        ("detox_jax", "jax flax numpy tensorflow gin detox_jax.api"),
        ("detox_jax.api.verbs, detox_jax.api.texts", "jax flax tensorflow matplotlib"),
        ("detox_jax.api.model, detox_jax.api.evaluation", "tensorflow torch seqio"),
        (
            "detox_jax.toxicity.score, detox_jax.toxicity.filter, detox_jax.toxicity.train_ngram, "
            "detox_jax.toxicity.cache, detox_jax.toxicity.remote",
            "jax flax",
        ),
    ],
)
def test_importing_the_rooms_loads_nothing_heavy(imported, absent):
    program = (
        f"import sys\nimport {imported}\n"
        f"loaded = set({absent.split()}) & set(sys.modules)\nassert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
