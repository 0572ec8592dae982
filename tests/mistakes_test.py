"""Every setting of every verb, given what it does not take: exit 2, one line, nothing opened.

The line names the setting that the user gave, or the file. What is wrong is generated from what a
setting takes, so that a new macro in a run file brings its mistakes with it.
"""

import json
import re
import shutil

import pytest

from detox_jax import cli, sweep_cells, sweep_rows
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.human import key as keys
from tests.classifiers import labelled_made
from tests.conftest import SENTENCES, initial_params
from tests.human import human_made
from tests.marks import slow_but
from tests.toxicity import sources_made
from tests.zero_shot import lm_eval_test

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
    **dict.fromkeys(("MAX_LENGTH", "KEEP", "GENERATION_BATCH_SIZE"), "count"),
    **dict.fromkeys(("CHECKPOINT_PERIOD", "EVAL_PERIOD", "NUM_FEWSHOT", "WARMUP_STEPS"), "period"),
    **dict.fromkeys(("EPOCHS", "LIMIT", "TEMPERATURE", "MAX_SHARD_GB", "L2"), "number"),
    **dict.fromkeys(("LENGTH_RATIO",), "number"),
    **dict.fromkeys(("LEARNING_RATE", "ADAPTER_LEARNING_RATE"), "number"),
    **dict.fromkeys(("KEEP_FRACTION", "MIN_COVERAGE", "TOP_P", "TOXIC_SHARE"), "share"),
    **dict.fromkeys(("TASK_FEATURE_LENGTHS",), "lengths"),
    **dict.fromkeys(("MESH_SHAPE", "GENERATION_MESH_SHAPE"), "mesh"),
    **dict.fromkeys(("DTYPE", "PARAM_DTYPE", "CHECKPOINT_DTYPE", "MU_DTYPE"), "dtype"),
    **dict.fromkeys(("REMAT", "ATTENTION_KERNEL"), "name"),
    **dict.fromkeys(("OBJECTIVE", "PROBE"), "reference"),
    **dict.fromkeys(("SAMPLING", "SELECTION", "PAIRING"), "reference"),
    **dict.fromkeys(("EMBEDDING", "WORD_SEGMENTER"), "reference"),
    **dict.fromkeys(
        ("MODEL", "ADAPTATION", "RECIPE", "SCORER", "PROMPTS", "FIT", "EDIT"),
        "reference",
    ),
    **dict.fromkeys(("CORPORA", "METHODS", "SCORES", "JUDGES", "TERMS", "GROUPS"), "dict"),
    **dict.fromkeys(("OWN_DECODING",), "dict"),
    **dict.fromkeys(("START_WITH_BOS", "ADD_BOS"), "switch"),
    **dict.fromkeys(
        ("STEERING", "AXES", "GIN_FILES", "ONLY", "ROWS", "BETWEEN_TAGS", "PAIRS", "GROUP_BY"),
        "list",
    ),
    **dict.fromkeys(("RANDOM_SEED",), "seed"),
}
# Settings of what a run does not use, of a service, or of a library that says itself what it takes.
OTHERS = {
    *("GEN_KWARGS", "APPLY_CHAT_TEMPLATE", "TASKS", "DOWNSTREAM_TASKS", "RESULTS", "IGNORE_FIELDS"),
    *("MIXTURE_OR_TASK_NAME", "TASK", "PREPARE", "TRAIN_VOCABULARY", "PRETRAIN", "TOPOLOGY"),
    *("CACHED_SCORER", "SCORE_CACHE", "REPLAY_ONLY", "SCORE_IMPORTS", "CONSENT_TO_SEND_TEXT"),
    *("QUERIES_PER_SECOND", "COMPILER_EFFORT", "KEEP", "LENGTH_STRATA"),
    "SHEETS",
}
# A run that takes the other choice, where the default does not read a setting.
CHOICES = {
    **{(verb, "TOP_K"): ["--gin.SAMPLING=@sampling.TopKSampling()"] for verb in cli.VERBS},
    ("generate", "NUM_DOCUMENTS"): ["--gin.PROMPTS=@prompts.Standard()", "--gin.NUM_SAMPLES=1"],
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
    from etils import epath

    root = tmp_path_factory.mktemp("mistakes")
    documents = [{"id": str(i), "text": SENTENCES[i % 6], "toxicity": i / 12} for i in range(12)]
    prompts = [
        {"id": str(i), "prompt": {"text": SENTENCES[i % 6], "toxicity": i / 12}} for i in range(12)
    ]
    scored = [
        {**prompt, "generations": [{"text": "so it is.", "toxicity": 0.5}]} for prompt in prompts
    ]
    samples = [
        {**row, "generations": [*row["generations"], {"text": "idiot.", "toxicity": 0.9}]}
        for row in scored
    ]
    given = {"documents": documents, "prompts": prompts, "scored": scored, "samples": samples}
    milder = [
        {
            **row,
            "generations": [{"text": text, "toxicity": 0.4} for text in ("so it was.", "fool.")],
        }
        for row in scored
    ]
    given |= {"rescored": documents, "others": samples, "milder": milder}
    for name, rows in given.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines)
    vocabulary.save(str(root / "vocabulary"))
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    keys.write(epath.Path(root / "key.json"), human_made.key(prompts=2))
    human_made.write_filled(root / "filled", human_made.key(prompts=2))
    for seed, name in enumerate(("base", "second")):
        (root / name).mkdir()
        params = initial_params(config, seed=seed)
        checkpoints.save_model(epath.Path(root / name), params, spec, vocabulary)
    return root


def command(verb, place):
    """A command that works, apart from the setting that a test adds."""
    given = {
        "train": "INPUT=documents.jsonl VOCABULARY_PATH=vocabulary INITIAL_CHECKPOINT_PATH=base "
        "TASK_FEATURE_LENGTHS={'targets':32} TRAIN_STEPS=1 BATCH_SIZE=8 MODEL_DIR=out",
        "generate": "INPUT=prompts.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "steer": "INPUT=documents.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "pair": "INPUT=samples.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "fit_subspace": "INPUT=documents.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "train_linear": "INPUT=documents.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out TRAIN_STEPS=1 "
        "LENGTH=16 BATCH_SIZE=8 RANK=4",
        "train_reward": "INPUT=documents.jsonl CHECKPOINT_PATH=base OUTPUT_DIR=out TRAIN_STEPS=1 "
        "LENGTH=16 BATCH_SIZE=8",
        "combine": "BASE=base TERMS={'base':1.0} OUTPUT_DIR=out",
        "score": "INPUT=documents.jsonl OUTPUT_DIR=out",
        "filter": "INPUT=documents.jsonl OUTPUT_DIR=out",
        "choices": "CHECKPOINT_PATH=base OUTPUT_DIR=out",
        "panel": "METHODS={'base':'base'} GROUPS={'a':'documents.jsonl'} OUTPUT_DIR=out",
        "compare": "SCORES={'a':'documents.jsonl','b':'rescored.jsonl'} OUTPUT_DIR=out",
        "evaluate": "METHODS={'base':'scored.jsonl'} OUTPUT_DIR=out",
        "report": "RESULTS=results.json OUTPUT_DIR=out",
        "human_sheets": "METHODS={'base':'samples.jsonl','mine':'milder.jsonl'} NUM_PROMPTS=4 "
        "OUTPUT_DIR=out SHEETS_DIR=sheets",
        "human_results": "KEY=key.json SHEETS=filled OUTPUT_DIR=out",
        "convert": "FROM=base TO_HF=out",
        "plan": "TOPOLOGY=v5e:2x2 VOCAB_SIZE=350 TASK_FEATURE_LENGTHS={'targets':128} "
        "DOCUMENT_MAX_NEW_TOKENS=50 OUTPUT_DIR=out",
        "sgeat": "INITIAL_CHECKPOINT_PATH=base PROMPTS_INPUT=prompts.jsonl HELDOUT=documents.jsonl "
        "NUM_DOCUMENTS=8 TASK_FEATURE_LENGTHS={'targets':32} EPOCHS=1 BATCH_SIZE=8 OUTPUT_DIR=out",
        "train_vocabulary": "INPUT=documents.jsonl OUTPUT_DIR=out VOCAB_SIZE=300",
        "sweep": "GIN_FILES=('gin_configs/experiments/demo.gin',) AXES=(@sweep.Axis(),) "
        "sweep.Axis.name=a sweep.Axis.choices={'x':[]} OUTPUT_DIR=out",
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


# Every third of them runs everywhere: each setting has some, and each wrong value its settings.
@pytest.mark.parametrize(("verb", "name", "wrong"), slow_but([*cases()][::3], cases()))
def test_a_wrong_value_is_one_line_that_names_the_setting(
    verb, name, wrong, place, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    setting = f"--gin.{name}={wrong}"
    error = mistake([*command(verb, place), *CHOICES.get((verb, name), []), setting], capsys)
    assert name in error or FLAGS.get((verb, name), name) in error
    assert not (place / "out").exists()


# A setting of a verb, files that are none for it, and what the line says of them.
FILES = [
    *[
        ("score", "INPUT", file, said)
        for file, said in [
            ("nosuch.jsonl", "INPUT=nosuch.jsonl: no such file"),
            ("empty.jsonl", "INPUT=empty.jsonl: empty; expected one JSON record a line"),
            ("broken.jsonl", "broken.jsonl:2: "),
            ("prompts.jsonl", 'has the continuations to "completion" (docs/FILES.md)'),
            ("pretty.json", "pretty.json:1: a JSON object over several lines; expected one"),
            ("run", "is a run of `sgeat`, with many texts; give those of one row, run/continu"),
            ("run", "ROW is one of base"),
            ("run/evaluation/results.json", "one a line: what `generate` or `score` wrote"),
            ("emptydir", "holds no .jsonl file"),
            ("2024", "INPUT=2024: no such file"),
        ]
    ],
    ("filter", "INPUT", "nosuch.jsonl", "INPUT=nosuch.jsonl"),
    ("filter", "INPUT", "broken.jsonl", "broken.jsonl:2: "),
    ("filter", "INPUT", "unscored.jsonl", "none of its 2 documents has a score"),
    ("pair", "INPUT", "nosuch.jsonl", "INPUT=nosuch.jsonl"),
    ("pair", "INPUT", "prompts.jsonl", "its prompts have no continuations"),
    ("pair", "INPUT", "documents.jsonl", 'no "prompt"'),
    ("pair", "INPUT", "scored.jsonl", "makes no pair"),
    ("pair", "CHECKPOINT_PATH", "gpt2", "detox-jax convert --from_hf=gpt2 --to=DIR"),
    ("fit_subspace", "INPUT", "nosuch.jsonl", "INPUT=nosuch.jsonl"),
    ("fit_subspace", "INPUT", "unscored.jsonl", "0 texts below and 0 from 0.5 on; both are needed"),
    ("fit_subspace", "THRESHOLD", "0.95", "12 texts below and 0 from 0.95 on; both are needed"),
    ("fit_subspace", "CHECKPOINT_PATH", "hf", "CHECKPOINT_PATH=hf: a Hugging Face model"),
    ("train_reward", "INPUT", "unscored.jsonl", "of the split 'train' has a score; run `score`"),
    ("train_reward", "CHECKPOINT_PATH", "nosuch", "CHECKPOINT_PATH=nosuch: no such"),
    ("train_reward", "LENGTH", "65", "LENGTH is 65; must be from 2 to the model's max_length 64"),
    ("panel", "GROUPS", "{'a': 'nosuch.jsonl'}", "nosuch.jsonl"),
    ("panel", "METHODS", "{'base': 'nosuch'}", "nosuch"),
    ("train_vocabulary", "INPUT", "nosuch.jsonl", "INPUT=nosuch.jsonl"),
    ("train_vocabulary", "INPUT", "broken.jsonl", "broken.jsonl:2: "),
    ("train", "INPUT", "nosuch.jsonl", "nosuch.jsonl"),
    ("train", "INPUT", "broken.jsonl", "broken.jsonl:2: "),
    ("train", "INITIAL_CHECKPOINT_PATH", "nosuch", "INITIAL_CHECKPOINT_PATH=nosuch: no such"),
    ("train", "VOCABULARY_PATH", "nosuch", "nosuch"),
    ("train", "TASK_FEATURE_LENGTHS", "{'targets': 65}", "TASK_FEATURE_LENGTHS: targets of 65"),
    ("generate", "INPUT", "nosuch.jsonl", "INPUT=nosuch.jsonl"),
    ("generate", "INPUT", "documents.jsonl", 'no "prompt"'),
    ("generate", "CHECKPOINT_PATH", "gpt2", "detox-jax convert --from_hf=gpt2 --to=DIR"),
    ("generate", "CHECKPOINT_PATH", "hf", "detox-jax convert --from_hf=hf --to=DIR"),
    ("generate", "MAX_NEW_TOKENS", "60", "lower MAX_NEW_TOKENS"),
    ("generate", "OUTPUT_DIR", "documents.jsonl", "is a file"),
    ("evaluate", "METHODS", "{'base': 'nosuch.jsonl'}", "nosuch.jsonl"),
    ("evaluate", "HELDOUT", "nosuch.jsonl", "HELDOUT=nosuch.jsonl"),
    ("evaluate", "HELDOUT", "empty.jsonl", "HELDOUT=empty.jsonl"),
    ("evaluate", "REFERENCE", "hf", "REFERENCE=hf: a Hugging Face model"),
    (
        "evaluate",
        "METHODS",
        "{'base': 'scored.jsonl', 'mine': './scored.jsonl'}",
        "METHODS: 'base' and 'mine' are one and the same input, ./scored.jsonl; give each its own",
    ),
    (
        "compare",
        "SCORES",
        "{'base': {'a': 'scored.jsonl', 'b': 'samples.jsonl'},"
        " 'mine': {'a': 'scored.jsonl', 'b': 'others.jsonl'}}",
        "SCORES: 'base' and 'mine' are one and the same input, scored.jsonl",
    ),
    (
        "panel",
        "METHODS",
        "{'base': 'base', 'mine': 'base/'}",
        "METHODS: 'base' and 'mine' are one and the same input, base/",
    ),
    (
        "panel",
        "GROUPS",
        "{'a': 'documents.jsonl', 'b': 'documents.jsonl'}",
        "GROUPS: 'a' and 'b' are one and the same input, documents.jsonl",
    ),
    ("compare", "SCORES", "{'a': 'nosuch.jsonl', 'b': 'documents.jsonl'}", "nosuch.jsonl"),
    ("report", "RESULTS", "nosuch", "RESULTS=nosuch"),
    ("human_sheets", "METHODS", "{'base': 'nosuch.jsonl', 'a': 'samples.jsonl'}", "nosuch.jsonl"),
    ("human_sheets", "NUM_PROMPTS", "13", "NUM_PROMPTS: 13 prompts are asked for"),
    ("human_sheets", "SAMPLES_PER_PROMPT", "3", "lower SAMPLES_PER_PROMPT"),
    ("human_sheets", "SHEETS_DIR", "out/sheets", "one is in the other"),
    ("human_results", "KEY", "nosuch", "KEY=nosuch: no such file; give the OUTPUT_DIR of"),
    ("human_results", "SHEETS", "nosuch", "SHEETS=nosuch: no such sheet"),
    ("human_results", "SHEETS", "documents.jsonl", "documents.jsonl:1: column 'item' is missing"),
    ("convert", "FROM", "hf", "FROM=hf: a Hugging Face model"),
    ("convert", "RESULTS", "nosuch", "nosuch"),
    ("convert", "RESULTS", "run/report/table.json", "table.json: is what `report` wrote; give the"),
    (
        "convert",
        "RESULTS",
        "run/evaluation",
        "results of several scorers; give run/evaluation/ngram or run/evaluation/lexicon",
    ),
    ("steer", "INPUT", "unscored.jsonl", "none of its texts has a score; run `score`"),
    ("steer", "MARGIN", "1.0", "makes a pair whose scores differ by 1.0; lower MARGIN"),
    ("generate", "prompts.PromptFile.limit", "0", "error: prompts.PromptFile.limit: must be at"),
    (
        "score",
        "INPUT",
        "gs:/bucket/x",
        "INPUT=gs:/bucket/x: one slash is missing; write gs://bucket",
    ),
    ("score", "OUTPUT_DIR", "documents.jsonl", "OUTPUT_DIR=documents.jsonl: is a file; give a dir"),
    (
        "score",
        "OUTPUT_DIR",
        "file:///tmp/out",
        "OUTPUT_DIR=file:///tmp/out: such an address is nei",
    ),
    ("sgeat", "OUTPUT_DIR", "s3://b/run", "OUTPUT_DIR=s3://b/run: such an address is neither read"),
    (
        "train",
        "MODEL_DIR",
        "hdfs://h/model",
        "MODEL_DIR=hdfs://h/model: such an address is neither",
    ),
    (
        "generate",
        "CHECKPOINT_PATH",
        "hf://OWNER/MODEL",
        "CHECKPOINT_PATH=hf://OWNER/MODEL: a model of the hub; bring it here first, and give DIR: "
        "detox-jax convert --from_hf=OWNER/MODEL --to=DIR",
    ),
    (
        "train",
        "INITIAL_CHECKPOINT_PATH",
        "az://b/model",
        "INITIAL_CHECKPOINT_PATH=az://b/model: such an address is neither read nor written; give a "
        "directory here, or one in gs://",
    ),
    ("score", "OUTPUT_DIR", "gs:/bucket/x", "OUTPUT_DIR=gs:/bucket/x: one slash is missing"),
    ("sgeat", "HELDOUT", "nosuch.jsonl", "HELDOUT=nosuch.jsonl"),
    ("sgeat", "HELDOUT", "broken.jsonl", "broken.jsonl:2: "),
    ("sgeat", "PROMPTS_INPUT", "nosuch.jsonl", "PROMPTS_INPUT=nosuch.jsonl"),
    ("sgeat", "PROMPTS_INPUT", "documents.jsonl", 'no "prompt"'),
    ("sgeat", "INITIAL_CHECKPOINT_PATH", "hf", "INITIAL_CHECKPOINT_PATH=hf: a Hugging Face model"),
    ("sgeat", "TASK_FEATURE_LENGTHS", "{'targets': 65}", "TASK_FEATURE_LENGTHS: targets of 65"),
    ("sgeat", "MAX_NEW_TOKENS", "60", "lower MAX_NEW_TOKENS"),
    ("sgeat", "BATCH_SIZE", "7", "BATCH_SIZE 7 is no multiple"),
    ("sgeat", "MESH_SHAPE", "{'data': 3}", "MESH_SHAPE {'data': 3} does not divide"),
    ("sgeat", "BOTTLENECK_DIM", "0", "BOTTLENECK_DIM is 0"),
    ("sgeat", "DOCUMENT_MAX_NEW_TOKENS", "0", "DOCUMENT_MAX_NEW_TOKENS"),
    ("sgeat", "METHODS", "{'../x': {'corpus': 'standard'}}", "method '../x'"),
    ("sgeat", "METHODS", "{'x': {'corpus': 'other'}}", "no corpus 'other'"),
    ("sgeat", "JUDGES", "{}", "JUDGES is empty"),
    (
        "sgeat",
        "JUDGES",
        "{'ngram': @ngram.NgramScorer()}",
        "JUDGES: 'ngram': expected a reference, @NAME, got @ngram.NgramScorer(); for example "
        "--gin.JUDGES=\"{'ngram': @ngram/score.score}\"",
    ),
    ("sgeat", "METHODS", "['mine']", "--gin.METHODS=\"{'mine': {'corpus': 'standard'}}\""),
    ("sgeat", "JUDGES", "{'perspective': @perspective/score.score}", "CONSENT_TO_SEND_TEXT"),
]


def _write_run(root):
    """What is looked for of a run of `sgeat`."""
    for place, verb, more in (
        ("continuations/base/generated", "generate", {}),
        ("evaluation", "evaluate", {"scorers": ["ngram", "lexicon"]}),
        ("report", "report", {}),
    ):
        manifest = {"schema_version": 1, "verb": verb, "complete": True, "settings": {}, **more}
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "manifest.json").write_text(json.dumps(manifest))
    (root / "evaluation" / "ngram").mkdir(exist_ok=True)
    for file in ("evaluation/results.json", "evaluation/ngram/results.json", "report/table.json"):
        (root / file).write_text('{\n  "rows": []\n}\n')


@pytest.mark.parametrize(("verb", "name", "value", "said"), FILES)
@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_fit_is_found_before_any_work(
    verb, name, value, said, dry, place, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    (place / "empty.jsonl").write_text("")
    (place / "broken.jsonl").write_text('{"id": "1", "text": "whole", "toxicity": 0.1}\n{"id": "2')
    unscored = [{"id": str(i), "text": "a text"} for i in range(2)]
    (place / "unscored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unscored))
    (place / "pretty.json").write_text(json.dumps({"rows": []}, indent=2))
    _write_run(place / "run")
    (place / "emptydir").mkdir(exist_ok=True)
    (place / "hf").mkdir(exist_ok=True)
    (place / "hf" / "config.json").write_text('{"model_type": "gpt2"}')
    flags = [f"--gin.{name}={value}", *(["--dry_run"] if dry else [])]
    assert said in mistake([*command(verb, place), *flags], capsys)
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scor"], "did you mean score?"),
        (["score", "--words_file=x"], "did you mean --gin.WORDS_FILE?"),
        (["score", "--dryrun"], "--dryrun"),
        (["score", "--dry-run=1"], "did you mean --dry_run?"),
        (["convert", "--from-hf=x"], "did you mean --from_hf?"),
        (["convert", "--from_hf=hf"], "--to is missing"),
        (["sgeat", "--gin.OUTPUT_DIR=o", "--gin.NUM_DOCUMENT=5"], "did you mean NUM_DOCUMENTS?"),
        (["score", "--gin.input=x", "--gin.OUTPUT_DIR=o"], "did you mean INPUT?"),
        (["score", "--gin.INPUT=@unclosed.Bracket("], "INPUT"),
        (["score", "--gin_file=unclosed.gin"], "unclosed.gin"),
        (["score", "--gin_file=text.gin"], "text.gin"),
    ],
)
def test_a_misspelt_name_is_answered_with_a_near_one(
    arguments, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unclosed.gin").write_text("INPUT = ['a',\n")
    (tmp_path / "text.gin").write_text("INPUT = 'open\n")
    assert said in mistake(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("score --input=documents.jsonl --output=documents.jsonl", "OUTPUT_DIR=documents.jsonl: "),
        (
            "convert --from_hf=base --to=out",
            "it is a checkpoint of this package: --from exports it",
        ),
        (
            "convert --from_hf=hf/x.safetensors --to=out",
            "a file; give its directory, --from_hf=hf",
        ),
        ("train --checkpoint=base --output=out", "--gin.VOCABULARY_PATH=base/vocabulary"),
        (
            "train --checkpoint=base/checkpoints/0 --output=out",
            "--gin.VOCABULARY_PATH=base/vocabulary",
        ),
        (
            "sgeat --output=out --gin_file=gin_configs/training/dpo.gin",
            "nothing sets %INPUT, %VALIDATION_INPUT, %VOCABULARY_PATH; the gin file that refers to "
            "it is for train, and not for sgeat",
        ),
        (
            "sgeat --output=out --gin_file=gin_configs/adaptation/lora.gin --gin.BOTTLENECK_DIM=8 "
            "--gin_file=gin_configs/training/unlikelihood.gin --gin.INPUT=x --gin.OBJECTIVE=x "
            "--gin.VALIDATION_INPUT=x --gin.VOCABULARY_PATH=x",
            "(BOTTLENECK_DIM is for @adaptation.AdapterConfig(); ",
        ),
    ],
)
def test_what_is_wrong_with_a_command_is_said_in_its_own_words(
    arguments, said, place, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    (place / "hf").mkdir(exist_ok=True)
    (place / "hf" / "x.safetensors").write_bytes(b"")
    assert said in mistake(arguments.split(), capsys)
    assert not (place / "out").exists()


def test_a_corrected_command_runs_where_a_wrong_one_was_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    wrong = [*command("filter", place), "--gin.KEEP_FRACTION=50%"]
    assert "for example --gin.KEEP_FRACTION=0.5" in mistake(wrong, capsys)
    assert cli.main([*command("filter", place), "--gin.KEEP_FRACTION=0.5"]) == 0


def test_a_whole_number_may_be_written_with_an_exponent_and_a_directory_as_a_number(
    place, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.rmtree("2024", ignore_errors=True)
    flags = ["--gin.VOCAB_SIZE=3e2", "--gin.OUTPUT_DIR=2024"]
    assert cli.main([*command("train_vocabulary", place), *flags]) == 0
    manifest = json.loads((place / "2024" / "manifest.json").read_text())
    assert manifest["settings"]["vocab_size"] == 300
    assert "OUTPUT_DIR = '2024'" in (place / "2024" / "config.gin").read_text()


def test_a_dry_run_prints_a_configuration_and_the_plan(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    assert cli.main([*command("sgeat", place), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    text, plan = printed.split("# plan: ")
    assert plan.startswith("13 steps, 0 of them done, about ")
    assert "to do  generate          out/corpora/standard/generated  8 requests, 8 samples" in plan
    assert "train             out/models/sgeat-adapter" in plan and "12 held-out documents" in plan
    said = sweep_cells._checked({"status": 0, "output": printed, "errors": ""})
    rows = sweep_rows.planned(sweep_cells.Cell({}, (), "out"), said)
    assert rows == ["sgeat-whole", "sgeat-adapter"], "as a sweep reads them"
    (place / "again.gin").write_text(printed)  # the plan is a comment
    assert cli.main(["sgeat", "--gin_file=again.gin", "--dry_run"]) == 0
    assert not (place / "out").exists()
    assert "NUM_DOCUMENTS = 8" in text


def test_a_dry_run_says_what_is_done(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    assert cli.main(command("filter", place)) == 0
    capsys.readouterr()
    assert cli.main([*command("filter", place), "--dry_run"]) == 0
    assert "# plan: 1 steps, 1 of them done\n#   done   filter" in capsys.readouterr().out


def test_documents_end_at_the_context_and_a_line_says_so(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    from detox_jax.generation import decoding, generate, prompts

    def run(limit, out, asked=None):
        generate.generate(
            "base",
            out,
            asked or prompts.Standard(2),
            decoding.Decoding(max_new_tokens=limit, num_samples=1, batch_size=8),
            limit_setting="DOCUMENT_MAX_NEW_TOKENS",
        )
        return json.loads((place / out / "manifest.json").read_text())["settings"]

    assert run(1000, "capped")["max_new_tokens"] == 63
    said = (
        "capped: DOCUMENT_MAX_NEW_TOKENS is 63, not 1000: the context of 64 tokens leaves no more"
    )
    assert said in capsys.readouterr().out
    assert run(20, "short")["max_new_tokens"] == 20
    assert "DOCUMENT_MAX_NEW_TOKENS" not in capsys.readouterr().out
    # A prompt that fills the context is too long whatever the limit is, so that none is named.
    long = json.dumps({"id": "1", "prompt": {"text": "good day " * 200}})
    (place / "long.jsonl").write_text(f"{long}\n")
    with pytest.raises(UserError, match="which leave nothing of the context of 64; shorten it$"):
        run(1000, "filled", prompts.PromptFile("long.jsonl"))
    assert "DOCUMENT_MAX_NEW_TOKENS" not in capsys.readouterr().out


# --- outputs that are there, made with other settings ---------------------------------------------

# Of each verb settings that are changed, and what is said of them. `plan` names its directory by
# its settings; `sgeat` and `sweep` have tests of their own.
CHANGED = [
    ("score", "SCORER=@lexicon.LexiconScorer()", "scorer.fingerprint: 'ngram-"),
    ("score", "INPUT=others.jsonl", "input.sha256: "),
    ("filter", "KEEP_FRACTION=0.25", "selection.fraction: 0.5 there, 0.25 now"),
    ("filter", "SIZE_OF=rescored.jsonl", "size_of: None there"),
    ("pair", "MARGIN=0.2", "pairing.margin: "),
    ("pair", "CHECKPOINT_PATH=second", "reference.fingerprint: "),
    ("train_vocabulary", "VOCAB_SIZE=310", "vocab_size: 300 there, 310 now"),
    ("train", "TRAIN_STEPS=2", "train_steps: 1 there, 2 now); remove"),
    ("train", "LEARNING_RATE=0.5", "optimizer.learning_rate: "),
    ("train", "BATCH_SIZE=16", "data.batch_size: 8 there, 16 now"),
    ("train", "TASK_FEATURE_LENGTHS={'targets':16}", "data.length: 32 there, 16 now"),
    ("train", "INPUT=rescored.jsonl#text=id", "data.source"),
    ("train", "KL_TO_BASE=0.1", "objective: None there"),
    ("train", "INITIAL_CHECKPOINT_PATH=second", "initial_checkpoint: "),
    ("generate", "NUM_SAMPLES=3", "num_samples: 2 there, 3 now"),
    ("generate", "TOP_P=0.5", "sampling.p: 0.9 there, 0.5 now"),
    ("generate", "prompts.PromptFile.limit=3", "prompts.limit: None there, 3 now"),
    ("generate", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("generate", "DTYPE=bfloat16", "dtype: 'float32' there, 'bfloat16' now"),
    ("generate", "STEERING=[@words.BannedWords()]", "steering: "),
    ("steer", "MOST_PAIRS=7", "most_pairs: 1000 there, 7 now"),
    ("steer", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("fit_subspace", "THRESHOLD=0.25", "threshold: 0.5 there, 0.25 now"),
    ("fit_subspace", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("train_linear", "RANK=2", "rank: 4 there, 2 now"),
    ("train_linear", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("train_reward", "LEARNING_RATE=0.5", "optimizer.learning_rate: "),
    ("train_reward", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("combine", "TERMS={'second':0.5}", "terms[0].weight: -0.5 there, 0.5 now"),
    ("combine", "BASE=second", "base.fingerprint: "),
    ("choices", "START_WITH_BOS=True", "start_with_bos: None there, True now"),
    ("choices", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
    ("panel", "RANDOM_SEED=1", "random_seed: 0 there, 1 now"),
    ("panel", "METHODS={'base':'base','mine':'second'}", "methods.mine: absent there, given now"),
    ("compare", "BOOTSTRAP_DRAWS=1000", "bootstrap_draws: 200 there, 1000 now"),
    ("evaluate", "MIN_COVERAGE=0.5", "min_coverage: 0.95 there, 0.5 now"),
    ("evaluate", "HELDOUT=documents.jsonl", "heldout: None there"),
    ("report", "RESULTS=evaluated-otherwise", "results[0].results.json.sha256: "),
    ("human_sheets", "RATERS=2", "raters: 3 there, 2 now"),
    ("human_results", "RANDOM_SEED=1", "random_seed: 0 there, 1 now"),
    ("train_scorer", "L2=0.1", "l2: 3e-05 there, 0.1 now"),
    ("convert", "DTYPE=bfloat16", "dtype: 'float32' there, 'bfloat16' now"),
    ("lm_eval", "NUM_FEWSHOT=1", "num_fewshot: None there, 1 now"),
    ("lm_eval", "CHECKPOINT_PATH=second", "checkpoint.fingerprint: "),
]

# What a verb is told beside `command`, where that would be slow, or read what is not there.
BESIDE = {
    "generate": "NUM_SAMPLES=2 MAX_NEW_TOKENS=4",
    "choices": "TASKS=('lambada',) TASKS_DIR=questions",
    "pair": "MARGIN=0.3",
    "evaluate": "METHODS={'base':'judged','mine':'judged-again'} BOOTSTRAP_DRAWS=200",
    "report": "RESULTS=evaluated",
    "compare": "SCORES={'a':'judged','b':'judged-otherwise'} BOOTSTRAP_DRAWS=200",
    "combine": "TERMS={'second':-0.5}",
    "fit_subspace": "INPUT=labelled.jsonl",
    "human_sheets": "METHODS={'base':'samples.jsonl','mine':'varied.jsonl'}",
}
PLACES = {"train": "MODEL_DIR", "convert": "TO_HF"}


def changed_command(verb, place):
    if verb in ("lm_eval", "train_scorer"):
        flags = {
            "lm_eval": "CHECKPOINT_PATH=base INCLUDE_PATH=tasks TASKS=quiz BATCH_SIZE=8",
            "train_scorer": "DATA_DIR=sources ITERATIONS=5",
        }[verb].split()
        given = [verb, *(f"--gin.{flag}" for flag in flags)]
    else:
        given = command(verb, place)
    beside = [f"--gin.{flag}" for flag in BESIDE.get(verb, "").split()]
    return [*given, *beside, f"--gin.{PLACES.get(verb, 'OUTPUT_DIR')}=made/{verb}"]


@pytest.fixture(scope="module")
def made(place):
    """Makes the output of a verb, once, and what it reads."""
    done = set()

    def run(verb):
        if verb in done:
            return
        reads = {
            "compare": ["judged", "judged-otherwise"],
            "evaluate": ["judged", "judged-again"],
        }
        for name in reads.get(verb, ()):
            scorer = "lexicon.LexiconScorer" if name.endswith("otherwise") else "ngram.NgramScorer"
            flags = [f"--gin.SCORER=@{scorer}()", f"--gin.OUTPUT_DIR={name}"]
            assert cli.main(["score", "--gin.INPUT=samples.jsonl", *flags]) == 0
        if verb == "report":
            run("evaluate")
            for name, draws in (("evaluated", 200), ("evaluated-otherwise", 300)):
                flags = [f"--gin.OUTPUT_DIR={name}", f"--gin.BOOTSTRAP_DRAWS={draws}"]
                assert cli.main([*changed_command("evaluate", place), *flags]) == 0
        if verb == "choices":
            (place / "questions").mkdir()
            lines = [json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES]
            (place / "questions" / "lambada.jsonl").write_text("".join(lines))
        if verb == "fit_subspace":
            labelled_made.write(place / "labelled.jsonl")
        if verb == "human_sheets":
            texts = (place / "samples.jsonl").read_text().replace('"idiot."', '"fool."')
            (place / "varied.jsonl").write_text(texts.replace("so it is", "so it was"))
        if verb == "train_scorer":
            sources_made.write_sources(place / "sources")
        if verb == "lm_eval":
            lm_eval_test.write_tasks(place / "tasks")
        assert cli.main(changed_command(verb, place)) == 0
        done.add(verb)

    return run


def test_every_verb_with_an_output_has_a_changed_setting():
    own = {"plan", "sgeat", "sweep"}
    assert {verb for verb, *_ in CHANGED} == cli.VERBS.keys() - own


@pytest.mark.parametrize(("verb", "changed", "said"), CHANGED)
def test_an_output_of_other_settings_is_refused_before_any_work(
    verb, changed, said, place, made, monkeypatch, capsys
):
    if verb == "lm_eval":
        pytest.importorskip("lm_eval", reason="needs the extra lm-eval (make test-interop)")
    monkeypatch.chdir(place)
    made(verb)
    output = place / "made" / verb
    manifest = json.loads((output / "manifest.json").read_text())
    monkeypatch.setattr(checkpoints, "load_params", _works)
    for is_complete in (False, True):  # It is all the same whether anything is missing.
        (output / "manifest.json").write_text(json.dumps({**manifest, "complete": is_complete}))
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
        assert cli.main([*changed_command(verb, place), "--dry_run"]) == 0
        capsys.readouterr()
        for dry in ([], ["--dry_run"]):
            error = mistake([*changed_command(verb, place), f"--gin.{changed}", *dry], capsys)
            assert f"made/{verb}: holds output made with other settings ({said}" in error
            assert f"remove this directory alone (rm -r made/{verb})" in error
        assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def _works(*args, **kwargs):
    raise AssertionError("a model is loaded before its settings are compared")
