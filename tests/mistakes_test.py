"""Every setting of every verb, given what it does not take: exit 2, one line, nothing opened.

The line names the setting that the user gave, or the file. What is wrong is generated from what a
setting takes, so that a new macro in a run file brings its mistakes with it.
"""

import json
import re
import shutil

import pytest

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from tests.conftest import SENTENCES

HUGE = "9" * 40
# What a setting takes, by the wrong values for it.
WRONG = {
    "count": ["many", "2.5", "50%", "{'a': 1}", "[1, 2]", "-1", "0", HUGE, "True", "1e-3x", "@x"],
    "period": ["often", "2.5", "50%", "{'a': 1}", "-1", HUGE, "True"],
    "seed": ["lucky", "2.5", "-1", HUGE, "4294967296", "{'a': 1}", "[0]"],
    "number": ["fast", "1e-3x", "50%", "{'a': 1}", "[0.5]", "True", "-1", "1e999"],
    "share": ["half", "50%", "1.5", "-0.1", "{'a': 1}", "[0.5]", "1,5"],
    "switch": ["yes", "true", "1", "2.5", "{}", "on"],
    "path": ["{'a': 1}", "['a', 'b']", "True"],
    "lengths": ["128", "2.5", "many", "{'targets': 'x'}", "{'targets': 2.5}", "{'targets': 0}"],
    "mesh": ["2", "2.5", "wide", "{'data': 'x'}", "{'data': 2.5}", "{'nodes': 2}", "[2, 2]"],
    "dtype": ["float8", "fp16", "32", "{'a': 1}", "jnp.float32", "True"],
    "name": ["fastest", "1", "2.5", "{'a': 1}"],
    "reference": ["greedy", "5", "2.5", "{'a': 1}", "@nothing.Known()", "@unclosed.Bracket(", "%X"],
    "list": ["5", "2.5", "True", "{'a': 1}"],
    "dict": ["5", "2.5", "text", "[1]", "True"],
}
# Counts, numbers and names that are None where nobody sets them, and what no default tells.
TAKES = {
    **dict.fromkeys(
        ("TRAIN_STEPS", "LOGITS_CHUNK", "TOP_K", "NUM_DOCUMENTS", "VOCAB_SIZE"), "count"
    ),
    **dict.fromkeys(("MAX_LENGTH", "KEEP"), "count"),
    **dict.fromkeys(("CHECKPOINT_PERIOD", "EVAL_PERIOD", "NUM_FEWSHOT"), "period"),
    **dict.fromkeys(("EPOCHS", "LIMIT", "TEMPERATURE", "MAX_SHARD_GB", "L2"), "number"),
    **dict.fromkeys(("LEARNING_RATE", "ADAPTER_LEARNING_RATE"), "number"),
    **dict.fromkeys(("KEEP_FRACTION", "MIN_COVERAGE", "TOP_P"), "share"),
    **dict.fromkeys(("TASK_FEATURE_LENGTHS",), "lengths"),
    **dict.fromkeys(("MESH_SHAPE", "GENERATION_MESH_SHAPE"), "mesh"),
    **dict.fromkeys(("DTYPE", "PARAM_DTYPE", "CHECKPOINT_DTYPE", "MU_DTYPE"), "dtype"),
    **dict.fromkeys(("REMAT", "ATTENTION_KERNEL"), "name"),
    **dict.fromkeys(("MODEL", "ADAPTATION", "RECIPE", "SCORER", "PROMPTS"), "reference"),
    **dict.fromkeys(("SAMPLING", "SELECTION"), "reference"),
    **dict.fromkeys(("CORPORA", "METHODS", "SCORES", "JUDGES"), "dict"),
    **dict.fromkeys(("START_WITH_BOS", "ADD_BOS"), "switch"),
    **dict.fromkeys(("STEERING",), "list"),
    **dict.fromkeys(("RANDOM_SEED",), "seed"),
}
# Settings of what a run does not use, of a service, or of a library that says itself what it takes.
OTHERS = {
    *("GEN_KWARGS", "APPLY_CHAT_TEMPLATE", "TASKS", "DOWNSTREAM_TASKS", "RESULTS", "IGNORE_FIELDS"),
    *("MIXTURE_OR_TASK_NAME", "PREPARE", "TRAIN_VOCABULARY", "PRETRAIN", "TOPOLOGY"),
    *("CACHED_SCORER", "SCORE_CACHE", "REPLAY_ONLY", "SCORE_IMPORTS", "CONSENT_TO_SEND_TEXT"),
    *("QUERIES_PER_SECOND", "COMPILER_EFFORT", "KEEP", "LENGTH_STRATA"),
}
# A run that takes the other choice, where the default does not read a setting.
CHOICES = {
    "TOP_K": ["--gin.SAMPLING=@sampling.TopKSampling()"],
    "NUM_DOCUMENTS": ["--gin.PROMPTS=@prompts.Standard()", "--gin.NUM_SAMPLES=1"],
}
VERBS = [verb for verb in cli.VERBS if verb not in ("lm_eval", "train_scorer")]


def macros(verb):
    """The macros of a run file and their defaults, as they are written."""
    text = cli._run_file(verb).read_text()
    return dict(re.findall(r"^([A-Z][A-Z0-9_]*) = (.*)$", text, re.MULTILINE))


def takes(name, default):
    """What a setting takes, by its name, else by its default."""
    if name in TAKES:
        return TAKES[name]
    if default in ("True", "False"):
        return "switch"
    if re.fullmatch(r"-?\d+", default):
        return "count"
    if re.fullmatch(r"-?[\d.]+(e-?\d+)?", default):
        return "number"
    return "path"


def cases():
    for verb in VERBS:
        for name, default in macros(verb).items():
            if name in OTHERS:
                continue
            for wrong in WRONG[takes(name, default)]:
                if (verb, name, wrong) not in RIGHT:
                    yield verb, name, wrong


# What needs the TPU's compiler to be seen.
RIGHT = {
    ("plan", "MESH_SHAPE", "{'nodes': 2}"),
    ("plan", "GENERATION_MESH_SHAPE", "{'nodes': 2}"),
}
# Flags that stand for a macro.
FLAGS = {("plan", "MESH_SHAPE"): "--mesh"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, vocabulary, config):
    """Inputs of all verbs."""
    import jax
    import jax.numpy as jnp
    from etils import epath

    from detox_jax.models.transformer import TransformerLM

    root = tmp_path_factory.mktemp("mistakes")
    documents = [{"id": str(i), "text": SENTENCES[i % 6], "toxicity": i / 12} for i in range(12)]
    prompts = [
        {"id": str(i), "prompt": {"text": SENTENCES[i % 6], "toxicity": i / 12}} for i in range(12)
    ]
    scored = [
        {**prompt, "generations": [{"text": "so it is.", "toxicity": 0.5}]} for prompt in prompts
    ]
    for name, rows in {"documents": documents, "prompts": prompts, "scored": scored}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines)
    vocabulary.save(str(root / "vocabulary"))
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    params = TransformerLM(config).init(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), enable_dropout=False
    )["params"]
    (root / "base").mkdir()
    checkpoints.save_model(epath.Path(root / "base"), params, spec, vocabulary)
    return root


def command(verb, place):
    """A command that works, apart from the setting that a test adds."""
    given = {
        "train": "INPUT=documents.jsonl VOCABULARY_PATH=vocabulary INITIAL_CHECKPOINT_PATH=base "
        "TASK_FEATURE_LENGTHS={'targets':32} TRAIN_STEPS=1 BATCH_SIZE=8 MODEL_DIR=out",
        "generate": "INPUT=prompts.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "score": "INPUT=documents.jsonl OUTPUT_DIR=out",
        "filter": "INPUT=documents.jsonl OUTPUT_DIR=out",
        "choices": "CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "compare": "SCORES={'a':'documents.jsonl','b':'documents.jsonl'} OUTPUT_DIR=out",
        "evaluate": "METHODS={'base':'scored.jsonl'} OUTPUT_DIR=out",
        "report": "RESULTS=results.json OUTPUT_DIR=out",
        "convert": "FROM=base TO_HF=out",
        "plan": "TOPOLOGY=v5e:2x2 VOCAB_SIZE=350 TASK_FEATURE_LENGTHS={'targets':128} "
        "DOCUMENT_MAX_NEW_TOKENS=50 OUTPUT_DIR=out",
        "sgeat": "INITIAL_CHECKPOINT_PATH=base PROMPTS_INPUT=prompts.jsonl HELDOUT=documents.jsonl "
        "NUM_DOCUMENTS=8 TASK_FEATURE_LENGTHS={'targets':32} EPOCHS=1 BATCH_SIZE=8 OUTPUT_DIR=out",
        "train_vocabulary": "INPUT=documents.jsonl OUTPUT_DIR=out VOCAB_SIZE=300",
    }[verb]
    extra = ["--gin_file=gin_configs/models/tiny.gin"] if verb == "plan" else []
    return [verb, *extra, *(f"--gin.{setting}" for setting in given.split())]


def mistake(arguments, capsys):
    """The one line of a command that must be refused."""
    status = cli.main(arguments)
    output = capsys.readouterr()
    assert status == 2, output
    assert output.err.startswith("detox-jax: error: ") and output.err.count("\n") == 1, output.err
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize(("verb", "name", "wrong"), [pytest.param(*case) for case in cases()])
def test_a_wrong_value_is_one_line_that_names_the_setting(
    verb, name, wrong, place, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    setting = f"--gin.{name}={wrong}"
    error = mistake([*command(verb, place), *CHOICES.get(name, []), setting], capsys)
    assert name in error or FLAGS.get((verb, name), name) in error
    assert not (place / "out").exists()
