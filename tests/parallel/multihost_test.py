"""Real processes on loopback, each `python -m detox_jax`, against one process: the same results.

One process here is that of the tests, with its eight virtual devices.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import create_server

import jax
import numpy as np
import pytest

from detox_jax import cli, manifests, records
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.parallel import mesh as meshes
from tests.classifiers import classifiers_made, labelled_made
from tests.conftest import SENTENCES, write_tiny_run

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 1500
SEVERAL = pytest.mark.parametrize(
    ("count", "mesh"), [(2, "{'data': 2}"), (4, "{'fsdp': 2, 'model': 2}")], ids=["two", "four"]
)


def start(
    count, *flags, own=None, folders=None, paths=None, program=("-m", "detox_jax"), devices=1
):
    """Processes that run one command, or another program with its flags, on some devices each.

    Single ones may have, by index, `own` flags, `folders` to run in and `paths` of the package.
    """
    with create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, *program, *flags, f"--coordinator_address={address}"]
    return [
        subprocess.Popen(
            [*command, f"--process_count={count}", f"--process_index={i}", *(own or {}).get(i, ())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=(folders or {}).get(i, ROOT),
            env={**settings, "PYTHONPATH": str((paths or {}).get(i, ROOT))},
        )
        for i in range(count)
    ]


def outcome(process):
    """Exit status, standard output, standard error without notes of libraries."""
    output, errors = process.communicate(timeout=WITHIN_S)
    return process.returncode, output, errors


def run(count, *flags, **others):
    started = start(count, *flags, **others)
    try:
        return [outcome(process) for process in started]
    finally:
        for process in started:
            process.kill()


def succeed(count, *flags, **others):
    outcomes = run(count, *flags, **others)
    assert [status for status, _, _ in outcomes] == [0] * count, outcomes
    return outcomes


def errors_of(outcomes):
    """The one line that each process ended with."""
    lines = [re.findall(r"detox-jax: error: .*", errors) for _, _, errors in outcomes]
    assert all(len(own) == 1 for own in lines), outcomes
    return [own[0] for own in lines]


@pytest.fixture(scope="module")
def data(tmp_path_factory, vocabulary):
    """Documents, prompts, a vocabulary and a model's sizes."""
    root = tmp_path_factory.mktemp("multihost")
    write_tiny_run(root, vocabulary, num_documents=60)
    with (root / "prompts.jsonl").open("w") as file:
        for i in range(9):
            prompt = {"text": SENTENCES[i % 6][: 8 + i], "toxicity": i / 9}
            file.write(json.dumps({"id": str(i), "prompt": prompt}) + "\n")
    classifiers_made.make(root / "bert", classifiers_made.BERT)
    return root


def train_flags(data, model_dir, steps=6):
    return [
        "train",
        f"--gin.INPUT={data / 'documents.jsonl'}",
        f"--gin.VALIDATION_INPUT={data / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={data / 'vocabulary'}",
        f"--gin_file={data / 'model.gin'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-2",
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.EVAL_PERIOD=3",
        "--gin.CHECKPOINT_PERIOD=3",
        f"--gin.MODEL_DIR={model_dir}",
    ]


def generate_flags(data, model_dir, output):
    return [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={data / 'prompts.jsonl'}",
        "--gin.NUM_SAMPLES=3",
        "--gin.MAX_NEW_TOKENS=6",
        "--gin.BATCH_SIZE=12",
        f"--gin.OUTPUT_DIR={output}",
    ]


def score_flags(data, scored, output):
    return [
        "score",
        "--gin_file=gin_configs/scorers/classifier.gin",
        f"--gin.CLASSIFIER={data / 'bert'}",
        "--gin.CLASSIFIER_LABEL=toxic",
        f"--gin.INPUT={scored}",
        f"--gin.OUTPUT_DIR={output}",
    ]


def evaluate_flags(data, model_dir, scored, output):
    (data / "methods.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.evaluation import evaluate\n"
        "METHODS = {'base': @evaluate.Method()}\n"
        "evaluate.Method:\n"
        f"  generations = '{scored}'\n  checkpoint_path = '{model_dir}'\n"
    )
    return [
        "evaluate",
        f"--gin_file={data / 'methods.gin'}",
        f"--gin.HELDOUT={data / 'documents.jsonl'}",
        f"--gin.REFERENCE={model_dir}",
        "--gin.BOOTSTRAP_DRAWS=100",
        f"--gin.OUTPUT_DIR={output}",
    ]


@pytest.fixture(scope="module")
def alone(data):
    """What one process trains, generates, scores and evaluates."""
    root = data / "alone"
    assert cli.main(train_flags(data, root / "model")) == 0
    assert cli.main(generate_flags(data, root / "model", root / "generated")) == 0
    assert cli.main(score_flags(data, root / "generated", root / "scored")) == 0
    flags = evaluate_flags(data, root / "model", root / "scored", root / "evaluated")
    assert cli.main(flags) == 0
    return root


def metrics(model_dir):
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_losses(model_dir, expected_dir):
    ours, expected = metrics(model_dir), metrics(expected_dir)
    assert [line.keys() for line in ours] == [line.keys() for line in expected]
    for line, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=2e-5)


def files_of(directory):
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


# --- the same results -------------------------------------------------------------------------


def test_two_processes_generate_the_text_of_one(data, model_dir, tmp_path):
    assert cli.main(generate_flags(data, model_dir, tmp_path / "alone")) == 0
    first, second = succeed(2, *generate_flags(data, model_dir, tmp_path / "two"))
    for name in ("manifest.json", "generations-00000-of-00001.jsonl"):
        assert files_of(tmp_path / "two")[name] == files_of(tmp_path / "alone")[name]
    assert "9 requests x 3 samples" in first[1]
    assert "requests" not in second[1] and "process 1 of 2 on" in second[2]


@pytest.mark.slow
@SEVERAL
def test_several_processes_train_generate_score_and_evaluate_as_one_does(
    data, alone, tmp_path, count, mesh
):
    model, generated, scored = (tmp_path / name for name in ("model", "generated", "scored"))
    on_mesh = f"--gin.MESH_SHAPE={mesh}"
    succeed(count, *train_flags(data, model), on_mesh)
    assert_same_losses(model, alone / "model")

    shapes = [{"data": 8}, {"fsdp": 4, "model": 2}]
    on_meshes = [meshes.create_mesh(shape) for shape in shapes]
    on_meshes.append(meshes.create_mesh(devices=jax.devices()[:1]))
    expected = checkpoints.load_params(str(alone / "model"), on_meshes[0])[0]
    loaded = [checkpoints.load_params(str(model), each) for each in on_meshes]
    assert len({fingerprint for _, _, fingerprint in loaded}) == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), loaded[0][0], expected
    )
    assert params_lib.count(loaded[2][0]) == params_lib.count(expected)

    succeed(count, *generate_flags(data, alone / "model", generated), on_mesh)
    shard = "generations-00000-of-00001.jsonl"
    assert (generated / shard).read_bytes() == (alone / "generated" / shard).read_bytes()

    succeed(
        count,
        *score_flags(data, generated, scored),
        f"--gin.CLASSIFIER_MESH_SHAPE={{'data': {count}}}",
    )
    ours, theirs = [
        [g.toxicity for p in records.read_prompts(str(root / "scored")) for g in p.generations]
        for root in (tmp_path, alone)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)

    succeed(count, *evaluate_flags(data, alone / "model", scored, tmp_path / "evaluated"))
    ours, theirs = [
        json.loads((root / "evaluated" / "results.json").read_text())["rows"][0]
        for root in (tmp_path, alone)
    ]
    for name in ("perplexity", "continuation_perplexity", "expected_maximum_toxicity"):
        np.testing.assert_allclose(ours[name]["value"], theirs[name]["value"], rtol=1e-5)


@pytest.mark.slow
def test_a_selection_that_reads_a_model_is_made_by_all_processes(model_dir, tmp_path):
    rows = [
        {"id": str(i), "text": f"{SENTENCES[i % 6]} {i}", "toxicity": i / 12} for i in range(12)
    ]
    for name, some in (("candidates", rows), ("target", rows[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some))
    flags = [
        "filter",
        f"--gin.INPUT={tmp_path / 'candidates.jsonl'}",
        "--gin.SELECTION=@transport.NearTarget()",
        f"--gin.TARGET={tmp_path / 'target.jsonl'}",
        "--gin.EMBEDDING=@embedding.ModelStates()",
        f"--gin.EMBEDDING_MODEL={model_dir}",
    ]
    assert cli.main([*flags, f"--gin.OUTPUT_DIR={tmp_path / 'alone'}"]) == 0
    succeed(2, *flags, f"--gin.OUTPUT_DIR={tmp_path / 'two'}", devices=2)
    kept = [
        {record.id for record in records.read_documents(str(tmp_path / name))}
        for name in ("alone", "two")
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 6


# As a step of `sgeat`, which all processes run; the command by itself is refused.
EVERYWHERE = "import sys\nfrom detox_jax import cli\ncli.LONE_VERBS = ()\nsys.exit(cli.main())"


@pytest.mark.slow
def test_hosts_that_share_a_part_of_their_rows_train_as_one_process_does(model_dir, tmp_path):
    """Of three parts of a batch each of the two has one of its own, and half of the devices of one.

    On two of `model` each, with three devices a process.
    """
    settings = {"BATCH_SIZE": 24, "TRAIN_STEPS": 3, "EVAL_PERIOD": 3, "RANK": 8}
    alone, two = tmp_path / "alone", tmp_path / "two"
    assert labelled_made.train("train_linear", model_dir, alone, **settings) == 0
    command = labelled_made.command("train_linear", model_dir, two, **settings)
    mesh = "--gin.MESH_SHAPE={'data': 3, 'model': 2}"
    outcomes = succeed(2, *command, mesh, program=("-c", EVERYWHERE), devices=3)
    assert_same_losses(two / "training", alone / "training")
    assert "validation_loss" in metrics(two / "training")[-1]
    assert re.search(r"[\d,]+ rows/s", outcomes[0][1])


def behind_a_kill(started, model_dir, step):
    """The outcome of the first of two processes of which the second is killed behind a step."""
    try:
        deadline = time.monotonic() + WITHIN_S
        while not (model_dir / "checkpoints" / str(step)).exists():
            assert time.monotonic() < deadline and started[1].poll() is None
            time.sleep(0.01)
        started[1].send_signal(signal.SIGKILL)
        return outcome(started[0])
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_a_run_that_lost_a_process_ends_by_name_and_goes_on_in_one(data, alone, tmp_path):
    model = tmp_path / "model"
    status, _, errors = behind_a_kill(start(2, *train_flags(data, model)), model, step=3)
    assert status == 1
    assert re.search(r"detox-jax: error: process 1 of 2 \(.*\) died", errors), errors
    assert not manifests.read_manifest(model)["complete"]
    assert cli.main(train_flags(data, model)) == 0
    assert_same_losses(model, alone / "model")


# --- the frontier of toxicity and perplexity --------------------------------------------------

NOTED = """\
import os
from pathlib import Path

from detox_jax.toxicity.ngram import NgramScorer


class Noted(NgramScorer):
    def score(self, texts):
        with Path(__file__).with_name("asked").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        return super().score(texts)
"""


@pytest.fixture
def probed_flags(data):
    """A training whose probe ends it at step 7 of 12 and takes step 3: see `alone` of its test."""
    (data / "noted_scorer.py").write_text(NOTED)
    (data / "noted.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import noted_scorer\n"
        "PROBE_SCORER = @noted_scorer.Noted()\n"
    )
    # Of what is trained on no capital but the first of a sentence: they become improbable.
    documents = [{"id": str(i), "text": text.upper()} for i, text in enumerate(SENTENCES)]
    (data / "capitals.jsonl").write_text("".join(f"{json.dumps(d)}\n" for d in documents))
    return lambda model_dir: [
        *train_flags(data, model_dir, steps=12),
        "--gin.CHECKPOINT_PERIOD=2",
        "--gin_file=gin_configs/training/probe.gin",
        f"--gin_file={data / 'noted.gin'}",
        f"--gin.PROBE_PROMPTS={data / 'prompts.jsonl'}",
        f"--gin.PROBE_VALIDATION={data / 'capitals.jsonl'}",
        "--gin.PROBE_PERIOD=1",
        "--gin.PROBE_SAMPLES=3",
        "--gin.PROBE_MAX_NEW_TOKENS=6",
        "--gin.PERPLEXITY_BUDGET=0.1",
        "--gin.PROBE_PATIENCE=2",
    ]


@pytest.mark.slow
def test_a_probe_ends_several_processes_where_it_ends_one_killed_or_not(
    data, probed_flags, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(data)
    alone, together, killed = (tmp_path / name for name in ("alone", "together", "killed"))
    assert cli.main(probed_flags(alone)) == 0
    frontier = manifests.read_manifest(alone)["frontier"]
    assert frontier["stopped_early"] and 0 < frontier["taken_step"] < frontier["last_step"] < 12

    def begin(model_dir):
        (data / "asked").unlink(missing_ok=True)
        paths = dict.fromkeys(range(2), f"{ROOT}{os.pathsep}{data}")
        return start(2, *probed_flags(model_dir), paths=paths)

    def end(started):
        try:
            outcomes = [outcome(process) for process in started]
        finally:
            for process in started:
                process.kill()
        assert [status for status, _, _ in outcomes] == [0, 0], outcomes
        assert set((data / "asked").read_text().split()) == {str(started[0].pid)}

    # --- all measure, the first scores, and all end at the step of one process ---
    end(begin(together))
    assert_same_losses(together, alone)
    steps = ("taken_step", "last_step", "stopped_early")
    ours = manifests.read_manifest(together)["frontier"]
    assert [ours[name] for name in steps] == [frontier[name] for name in steps]
    saved = [checkpoints.saved_steps(checkpoints.resolve(str(x))[0]) for x in (together, alone)]
    assert saved == [[frontier["taken_step"]]] * 2

    # --- one dies behind the step that will be taken ---
    assert behind_a_kill(begin(killed), killed, step=4)[0] == 1
    assert not manifests.read_manifest(killed)["complete"]
    end(begin(killed))
    for name in ("manifest.json", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (together / name).read_bytes()


# --- mistakes ---------------------------------------------------------------------------------


def test_who_stays_away_is_named_within_the_time_that_is_given(data):
    flags = ["score", f"--gin.INPUT={data / 'documents.jsonl'}", "--gin.OUTPUT_DIR=none"]
    flags.append("--initialization_timeout=1.5")
    for index, expected, message in (
        (0, 1, "process 1 of 2 did not come to 127.0.0.1:"),
        (1, 1, "--coordinator_address=127.0.0.1:"),
    ):
        started = start(2, *flags)
        started[1 - index].kill()
        status, _, errors = outcome(started[index])
        assert status == expected
        assert errors.startswith(f"detox-jax: error: {message}") and errors.count("\n") == 1


def score_ngram(data, output):
    return ["score", f"--gin.INPUT={data / 'documents.jsonl'}", f"--gin.OUTPUT_DIR={output}"]


@pytest.mark.slow
def test_a_host_with_another_configuration_is_named_on_all(data, tmp_path):
    outcomes = run(2, *score_ngram(data, tmp_path / "out"), own={1: ["--gin.INPUT=other.jsonl"]})
    assert [status for status, _, _ in outcomes] == [2, 2]
    for line in errors_of(outcomes):
        assert re.search(
            r"process 1 \(.+\) differs from process 0 \(.+\): config.INPUT is 'other.jsonl' there, "
            r"'.*documents.jsonl' on process 0; run the same command",
            line,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_host_with_other_code_is_named_on_all(data, tmp_path):
    for room in ("detox_jax", "gin_configs", "tasks"):
        shutil.copytree(ROOT / room, tmp_path / "copy" / room)
    with (tmp_path / "copy" / "detox_jax" / "terminal.py").open("a") as file:
        file.write("# Another version.\n")
    outcomes = run(
        2,
        *score_ngram(data, tmp_path / "out"),
        folders={0: tmp_path, 1: tmp_path},
        paths={1: tmp_path / "copy"},
    )
    assert [status for status, _, _ in outcomes] == [2, 2]
    for line in errors_of(outcomes):
        assert re.search(r"process 1 .* differs from process 0 .*: sources of detox_jax is", line)


@pytest.mark.slow
def test_a_mistake_on_one_host_ends_the_others_with_what_it_was(data, tmp_path):
    outcomes = run(2, *score_ngram(data, tmp_path / "out"), own={1: ["--gin.NO_SUCH=1"]})
    assert [status for status, _, _ in outcomes] == [2, 2]
    first, second = errors_of(outcomes)
    assert second.startswith("detox-jax: error: nothing uses NO_SUCH")
    assert re.search(r"error: process 1 of 2 \(.+\) failed: nothing uses NO_SUCH", first)


@pytest.mark.slow
@pytest.mark.parametrize("differs", ["data", "disk"])
def test_hosts_with_other_data_or_disks_of_their_own_are_refused(
    data, model_dir, tmp_path, differs
):
    """The same path is another file on each host: here relative to another working directory."""
    folders = {0: tmp_path / "host-0", 1: tmp_path / "host-1"}
    for index, folder in folders.items():
        folder.mkdir()
        prompt = {"text": f"The bus {index if differs == 'data' else 0}"}
        (folder / "prompts.jsonl").write_text(json.dumps({"id": "1", "prompt": prompt}) + "\n")
    outcomes = run(
        2,
        *generate_flags(data, model_dir, tmp_path / "out" if differs == "data" else "out"),
        "--gin.INPUT=prompts.jsonl",
        folders=folders,
    )
    assert [status for status, _, _ in outcomes] == [2, 2], outcomes
    message = {
        "data": r"process 1 .* differs from process 0 .*: settings.prompts.*sha256 is",
        "disk": r"error: out: not shared between hosts: process 1 \(.+\) does not see",
    }[differs]
    assert all(re.search(message, line) for line in errors_of(outcomes)), outcomes
