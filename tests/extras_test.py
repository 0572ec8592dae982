"""What the plain package does without the extras, and what it says where it cannot."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from detox_jax import extras
from detox_jax.errors import UserError
from tests.conftest import SENTENCES

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
# Runs command lines where the extra's packages are not installed, as far as imports can tell.
PROGRAM = """
import importlib.machinery, json, sys
from detox_jax import extras
find_spec = importlib.machinery.PathFinder.find_spec
def installed(name, path=None, target=None):
    return None if name.partition(".")[0] in extras.EXTRAS else find_spec(name, path, target)
importlib.machinery.PathFinder.find_spec = installed
from detox_jax import cli
for arguments in json.load(sys.stdin):
    print(arguments[0], cli.main(arguments), file=sys.stderr)
assert not extras.EXTRAS.keys() & {*sys.modules}, extras.EXTRAS.keys() & {*sys.modules}
"""
NEED_IT = ("train", "sgeat", "choices", "train_linear", "train_reward")


def without_the_extra(*lines):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()


def test_the_packages_are_those_of_the_extras():
    for extra, brought in (("train", {"tensorflow_text"}), ("parquet", set())):  # by seqio
        declared = {line.partition(">=")[0].replace("-", "_") for line in _declared(extra)}
        known = {package for package, of in extras.EXTRAS.items() if of == extra}
        assert known == declared | brought


def test_nothing_plain_asks_for_them():
    plain = {line.partition(">=")[0].replace("-", "_") for line in PROJECT["dependencies"]}
    assert not extras.EXTRAS.keys() & plain


def _declared(extra):
    return PROJECT["optional-dependencies"][extra]


def test_text_is_generated_scored_evaluated_reported_and_converted(tmp_path, model_dir):
    prompts, heldout = tmp_path / "prompts.jsonl", tmp_path / "heldout.jsonl"
    records = [{"id": str(i), "text": text} for i, text in enumerate(SENTENCES)]
    heldout.write_text("".join(json.dumps(record) + "\n" for record in records))
    with prompts.open("w") as file:
        for record in records:
            prompt = {"text": record["text"], "toxicity": 0.5}
            file.write(json.dumps({"id": record["id"], "prompt": prompt}) + "\n")
    methods = tmp_path / "methods.gin"
    methods.write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.evaluation import evaluate\n"
        "METHODS = {'base': @base/evaluate.Method()}\n"
        f"base/evaluate.Method.generations = '{tmp_path / 'scored'}'\n"
        f"base/evaluate.Method.checkpoint_path = '{model_dir}'\n"
    )
    said = without_the_extra(
        [
            *("generate", f"--gin.CHECKPOINT_PATH={model_dir}", f"--gin.INPUT={prompts}"),
            *(f"--gin.OUTPUT_DIR={tmp_path / 'generated'}", "--gin.MAX_NEW_TOKENS=3"),
            "--gin.NUM_SAMPLES=2",
        ],
        [
            *("score", f"--gin.INPUT={tmp_path / 'generated'}"),
            f"--gin.OUTPUT_DIR={tmp_path / 'scored'}",
        ],
        [
            *("evaluate", f"--gin_file={methods}", f"--gin.HELDOUT={heldout}"),
            *(f"--gin.OUTPUT_DIR={tmp_path / 'evaluation'}", "--gin.BOOTSTRAP_DRAWS=200"),
            "--gin.MIN_COVERAGE=0.1",
        ],
        [
            *("report", f"--gin.RESULTS={tmp_path / 'evaluation' / 'results.json'}"),
            f"--gin.OUTPUT_DIR={tmp_path / 'report'}",
        ],
        ["convert", f"--from={model_dir}", f"--to_hf={tmp_path / 'hf'}"],
    )
    ends = [line for line in said if line[-2:] == " 0"]
    assert ends == ["generate 0", "score 0", "evaluate 0", "report 0", "convert 0"], said
    assert (tmp_path / "report" / "report.html").exists()
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_a_verb_that_needs_the_extra_says_so_in_a_line():
    encoder = ["train_scorer", "--gin_file=gin_configs/scorers/train_encoder.gin"]
    said = without_the_extra(*([verb] for verb in NEED_IT), encoder)
    verbs = (*NEED_IT, "train_scorer")
    expected = []
    for verb in verbs:
        expected += [f"detox-jax: error: {verb} needs seqio: {extras.TRAIN}", f"{verb} 2"]
    assert said == expected


def test_a_bucket_needs_it(tmp_path):
    said = without_the_extra(
        ["score", "--gin.INPUT=gs://bucket/d.jsonl", f"--gin.OUTPUT_DIR={tmp_path / 'scored'}"]
    )
    line = f"detox-jax: error: score: a path in a bucket needs TensorFlow: {extras.TRAIN}"
    assert said == [line, "score 2"]


def test_parquet_needs_its_own(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    said = without_the_extra(
        ["score", f"--gin.INPUT={tmp_path}/d.parquet", f"--gin.OUTPUT_DIR={tmp_path / 'scored'}"]
    )
    line = "detox-jax: error: score needs pyarrow: pip install 'detox-jax[parquet]'"
    assert said == [line, "score 2"]


def test_another_import_that_fails_is_a_fault_of_the_program():
    with pytest.raises(ImportError, match="no_such_module"), extras.needed_by("score"):
        import no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]
    with pytest.raises(UserError, match="score needs clu: pip install"), extras.needed_by("score"):
        raise ModuleNotFoundError("No module named 'clu'")
