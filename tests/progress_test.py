"""Every verb without a terminal: it says how far it is, how a training ended, what is done already.

Lines come whenever anything moves (`terminal.EVERY_S` at 0), so that none depends on the clock.
"""

import dataclasses
import json
import re
import shutil

import jax
import pytest
from etils import epath

from detox_jax import cli, manifests, terminal
from detox_jax.human import key as keys
from detox_jax.planning import chips
from tests.conftest import SENTENCES, write_tiny_run
from tests.human import human_made
from tests.planning.plan_test import GIB, replace_compiler  # noqa: F401 (a fixture)
from tests.sweep_test import cells  # noqa: F401 (a fixture)
from tests.toxicity.train_ngram_test import labelled_dir  # noqa: F401 (a fixture)

# What ends a training: losses, time, memory.
ENDED = r"loss [\d.]+ at (first|step \d+), [\d.]+ (at step|after) \d+.*; .*at most .* of memory"
DONE = r"^nothing to do: {output} is finished$"


@dataclasses.dataclass(frozen=True)
class Long:
    """A verb that may take long.

    Attributes:
      settings: of its command, without the output.
      says: patterns of lines on standard error, beside those of all verbs.
      output: the setting that names the output.
      ends: pattern of a line on standard output.
      again: pattern of a line on standard output of a rerun.
      flags: further flags.
      verb: where it is not the row's name.
    """

    settings: str
    says: tuple[str, ...] = ()
    output: str = "--gin.OUTPUT_DIR"
    ends: str = ""
    again: str = DONE
    flags: tuple[str, ...] = ()
    verb: str = ""


LONG = {
    "train": Long(
        "INPUT=documents.jsonl VOCABULARY_PATH=vocabulary INITIAL_CHECKPOINT_PATH=base "
        "TASK_FEATURE_LENGTHS={'targets':32} TRAIN_STEPS=3 BATCH_SIZE=8",
        (
            r"^train: 0 of 3 steps, compiling train_step$",
            r"^train: [23] of 3 steps, loss [\d.]+, [\d,]+ tokens/s",
        ),
        "--gin.MODEL_DIR",
        ENDED,
    ),
    "generate": Long(
        "INPUT=prompts.jsonl CHECKPOINT_PATH=base NUM_SAMPLES=2 MAX_NEW_TOKENS=4 BATCH_SIZE=8",
        (r"^generate: 0 of 12 prompts, compiling \w+", r"^generate: 12 of 12 prompts"),
    ),
    "score": Long("INPUT=documents.jsonl", (r"^score with ngram: 12 of 12 records",)),
    "filter": Long(
        "INPUT=documents.jsonl",
        (
            r"^filter: check: .* so far, 12 records read$",
            r"^filter: select of 12 documents: .* so far",
            r"^write: 6 of 6 documents",
        ),
    ),
    "pair": Long(
        "INPUT=samples.jsonl CHECKPOINT_PATH=base",
        (r"^pair: check: .* so far, \d+ records read$", r"^likelihood: \d+ of \d+ continuations"),
    ),
    "steer": Long(
        "INPUT=samples.jsonl CHECKPOINT_PATH=base BATCH_SIZE=8",
        (r"^read hidden states: 0 of \d+ texts, compiling \w+",),
    ),
    "fit_subspace": Long(
        "INPUT=documents.jsonl CHECKPOINT_PATH=base BATCH_SIZE=8",
        (r"^read hidden states: 96 of 96 beginnings of texts",),
    ),
    "combine": Long("BASE=base TERMS={'base':0.5}", (r"^add: ([\d,]+) of \1 parameters",)),
    "choices": Long(
        "CHECKPOINT_PATH=base TASKS=('lambada',) TASKS_DIR=questions BATCH_SIZE=8",
        (r"^lambada: likelihood: 0 of 6 continuations, compiling read$",),
    ),
    "panel": Long(
        "METHODS={'base':'base'} GROUPS={'a':'documents.jsonl','b':'scored.jsonl'} "
        "BATCH_SIZE=8 BOOTSTRAP_DRAWS=100",
        (r"^likelihood: ([\d,]+) of \1 continuations",),
    ),
    "compare": Long(
        "SCORES={'a':'documents.jsonl','b':'scored.jsonl'} BOOTSTRAP_DRAWS=100",
        (r"^compare: a beside b, 100 resamples: .* so far",),
    ),
    "evaluate": Long(
        "METHODS={'base':'samples.jsonl','mine':'others.jsonl'} REFERENCE=base BATCH_SIZE=8 "
        "BOOTSTRAP_DRAWS=100",
        (
            r"^perplexity of .*: ([\d,]+) of \1 windows",
            r"^evaluate: quality of the texts of mine: .* so far",
            r"^resample the scores of the scorer: 2 of 2 methods",
            r"^evaluate: resample the differences: .* so far",
        ),
    ),
    "report": Long(
        "RESULTS=out/evaluate",
        (r"^draw: ([\d,]+) of \1 pictures", r"^report: make the page: .* so far"),
    ),
    "human_sheets": Long(
        "METHODS={'base':'samples.jsonl','mine':'milder.jsonl'} NUM_PROMPTS=4 SHEETS_DIR=sheets",
    ),
    "human_results": Long("KEY=key.json SHEETS=filled"),
    "export": Long(
        "FROM=base",
        (r"^write: ([\d,]+) of \1 tensors",),
        "--to_hf",
        again=r"^{output}: is already there, from the same checkpoint$",
        verb="convert",
    ),
    "import": Long(
        "",
        (
            r"^convert: hash the weights: .* so far",
            r"^read: ([\d,]+) of \1 arrays",
            r"^convert: write the checkpoint: .* so far",
        ),
        "--to",
        again=r"^{output}: is already there, from the same files$",
        flags=("--from_hf=out/export",),
        verb="convert",
    ),
    "plan": Long(
        "TASK_FEATURE_LENGTHS={'targets':32} BATCH_SIZE=8 GENERATION_BATCH_SIZE=8 "
        "DOCUMENT_MAX_NEW_TOKENS=6 PROMPT_LENGTH=4 NUM_SAMPLES=2 MAX_NEW_TOKENS=5",
        (r"^plan: compile train for v5e:2x2, mesh .*1parts: .* so far",),
        again=r"^nothing to do: {output}/.* is finished$",
        flags=("--gin_file=model.gin", "--topology=v5e:2x2", "--mesh=fsdp=2,model=2"),
    ),
    "sgeat": Long(
        "INITIAL_CHECKPOINT_PATH=base PROMPTS_INPUT=prompts.jsonl HELDOUT=documents.jsonl "
        "NUM_DOCUMENTS=24 DOCUMENT_MAX_NEW_TOKENS=8 TASK_FEATURE_LENGTHS={'targets':32} "
        "EPOCHS=None TRAIN_STEPS=2 BATCH_SIZE=8 NUM_SAMPLES=2 MAX_NEW_TOKENS=4 "
        "GENERATION_BATCH_SIZE=16 METHODS={'whole':{'corpus':'standard'}}",
        (r"^generate: 24 of 24 prompts", r"^train: 2 of 2 steps", r"^draw: "),
        ends=ENDED,
        again=r"^nothing to do: {output}/.* is finished$",
    ),
    "sweep": Long(
        "GIN_FILES=('demo.gin',) AXES=(@sweep.Axis(),) sweep.Axis.name=a "
        "sweep.Axis.choices={'x':[]}",
        (r"^sweep: cell 1 of 1, x: .* so far",),
        again=r"^\[1/1\] x: is done$",
    ),
    "train_linear": Long(
        "INPUT=documents.jsonl CHECKPOINT_PATH=base TRAIN_STEPS=3 LENGTH=16 BATCH_SIZE=8 RANK=4",
        (r"^train: [23] of 3 steps",),
        ends=ENDED,
    ),
    "train_reward": Long(
        "INPUT=documents.jsonl CHECKPOINT_PATH=base TRAIN_STEPS=3 LENGTH=16 BATCH_SIZE=8",
        (r"^train: [23] of 3 steps",),
        ends=ENDED,
    ),
    "train_scorer": Long(
        "DATA_DIR=labelled",
        (
            r"^extract features: ([\d,]+) of \1 texts",
            r"^fit all texts: [1-9]\d* of 100 iterations at most, loss [\d.]+",
            r"^fit all but part 3 of 3: ",
            r"^train_scorer: measure on held-out texts: .* so far",
        ),
        ends=ENDED,
    ),
    "train_vocabulary": Long(
        "INPUT=documents.jsonl VOCAB_SIZE=300",
        (r"^train_vocabulary: count words and merge pairs, up to 300 ids: .* so far",),
    ),
}
# Its harness is no part of the tests' environment: `test_a_task_is_named_while_it_is_asked` of
# tests/zero_shot/lm_eval_test.py (make test-interop).
ELSEWHERE = {"lm_eval"}


def test_every_verb_is_here():
    assert {long.verb or name for name, long in LONG.items()} | ELSEWHERE == {*cli.VERBS}


@pytest.fixture(scope="module")
def place(tmp_path_factory, vocabulary, model_dir, labelled_dir):  # noqa: F811
    """Inputs of all verbs, which run here."""
    root = tmp_path_factory.mktemp("progress")
    write_tiny_run(root, vocabulary, num_documents=0)
    documents = [
        {"id": str(i), "text": f"{SENTENCES[i % 6]} {i}", "toxicity": i / 12} for i in range(12)
    ]
    prompts = [
        {"id": str(i), "prompt": {"text": SENTENCES[i % 6], "toxicity": i / 12}} for i in range(12)
    ]
    two = [{"text": " so it is.", "toxicity": 0.1}, {"text": " idiot.", "toxicity": 0.9}]
    milder = [{"text": " so it was.", "toxicity": 0.1}, {"text": " fool.", "toxicity": 0.8}]
    given = {
        "documents": documents,
        "scored": [{**row, "toxicity": i**2 / 144} for i, row in enumerate(documents)],
        "prompts": prompts,
        "samples": [{**row, "generations": two} for row in prompts],
        "others": [{**row, "generations": two[::-1]} for row in prompts],
        "milder": [{**row, "generations": milder} for row in prompts],
    }
    for name, rows in given.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "questions").mkdir()
    questions = [json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES]
    (root / "questions" / "lambada.jsonl").write_text("".join(questions))
    (root / "base").symlink_to(model_dir)
    (root / "labelled").symlink_to(labelled_dir)
    keys.write(epath.Path(root / "key.json"), human_made.key(prompts=2))
    human_made.write_filled(root / "filled", human_made.key(prompts=2))
    return root


@pytest.fixture
def run(place, request, monkeypatch, capfd, replace_compiler):  # noqa: F811
    """Runs a row of the table: what it says on standard output and on standard error."""
    monkeypatch.chdir(place)
    monkeypatch.delenv(terminal.SILENCE)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    monkeypatch.setattr(terminal, "EVERY_S", 0.0)
    replace_compiler(lambda *args: GIB)
    monkeypatch.setattr(chips, "devices_of", lambda tpus: jax.devices()[: tpus.num_devices])

    def run(name):
        long = LONG[name]
        if name == "sweep":
            request.getfixturevalue("cells")  # They are processes, but for what they say.
        settings = [f"--gin.{setting}" for setting in long.settings.split()]
        output = f"{long.output}=out/{name}"
        capfd.readouterr()
        assert cli.main([long.verb or name, *long.flags, *settings, output]) == 0
        return capfd.readouterr()

    return run


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("sgeat", "sweep"))) for name in LONG],
)
def test_a_verb_says_how_far_it_is_and_a_rerun_that_it_is_done(name, run, place, monkeypatch):
    long = LONG[name]
    for needed in re.findall(r"out/(\w+)", " ".join([long.settings, *long.flags])):
        if not (place / "out" / needed).exists():
            run(needed)
    shutil.rmtree(place / "out" / name, ignore_errors=True)
    jax.clear_caches()  # Another test may have compiled the same programs.
    said = run(name)
    verb = long.verb or name
    for pattern in (rf"^{verb}: read the configuration: ", rf"^{verb}: check: ", *long.says):
        assert re.search(pattern, said.err, re.MULTILINE), (pattern, said.err[-4000:])
    assert re.search(long.ends, said.out, re.MULTILINE), said.out
    again = long.again.format(output=f"out/{name}")
    assert not re.search(again, said.out, re.MULTILINE)
    for hashed in (manifests._HASHED_AHEAD, 0):  # Of 0 a check hashes no input, as of a large one.
        monkeypatch.setattr(manifests, "_HASHED_AHEAD", hashed)
        said = run(name)
        assert re.search(again, said.out, re.MULTILINE), said.out
    assert not re.search(long.ends, said.out, re.MULTILINE) or not long.ends
