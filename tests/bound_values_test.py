"""Bound values against annotations, under the macros that users set."""

import pytest

from detox_jax import bound_values, cli, configuration
from detox_jax.errors import UserError


def checked(*argv):
    arguments = cli.parse_arguments(argv)
    verb, defaults = cli.load_config(arguments)
    configuration.check(verb, defaults, arguments.bindings)
    return configuration.named_values()


SGEAT = ("sgeat", "--gin.OUTPUT_DIR=out")
GENERATE = (
    "generate",
    *(f"--gin.{name}=x" for name in ("CHECKPOINT_PATH", "INPUT", "OUTPUT_DIR")),
)


def test_a_struct_says_what_it_refuses_under_the_macro_of_its_scope():
    for name in ("DOCUMENT_MAX_NEW_TOKENS", "MAX_NEW_TOKENS", "GENERATION_BATCH_SIZE"):
        with pytest.raises(UserError, match=rf"^{name}: must be at least 1, got 0; for example"):
            checked(*SGEAT, f"--gin.{name}=0")
    with pytest.raises(UserError, match=r"^ADAPTER_LEARNING_RATE is -1; must be positive"):
        checked(*SGEAT, "--gin.ADAPTER_LEARNING_RATE=-1")
    with pytest.raises(UserError, match=r"^TOP_P is 2; must be in"):
        checked(*GENERATE, "--gin.TOP_P=2")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TOP_P", "1e-46", r"must be in \[1e-06, 1\], such as 0.9; Greedy"),
        ("TEMPERATURE", "1e-38", "must be positive, from 1e-06 to 1,000,000, such as 0.7; Gre"),
        ("TEMPERATURE", "1e10", "must be positive, from 1e-06 to 1,000,000, such as 0.7; Gre"),
    ],
)
def test_how_a_token_is_drawn_has_bounds(name, value, message):
    with pytest.raises(UserError, match=rf"^{name} is .*; {message}"):
        checked(*GENERATE, f"--gin.{name}={value}")


@pytest.mark.parametrize(
    ("verb", "name", "example"),
    [
        ("combine", "TERMS", "\"{'DIR': -0.5}\""),
        ("panel", "GROUPS", "\"{'identities': 'DIR', 'rest': 'DIR'}\""),
        ("evaluate", "METHODS", "\"{'base': 'DIR', 'mine': 'DIR'}\""),
    ],
)
def test_text_in_place_of_a_dict_is_answered_with_an_example(verb, name, example):
    others = {"BASE": "DIR", "OUTPUT_DIR": "DIR", "METHODS": "{'base': 'DIR'}"}
    required = [f"--gin.{other}={given}" for other, given in others.items()]
    with pytest.raises(UserError) as caught:
        checked(verb, *required, f"--gin.{name}=DIR")
    assert str(caught.value).endswith(f"for example --gin.{name}={example}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("STEERING=words", "got 'words'; --gin_file=gin_configs/steering/words.gin sets it"),
        ("STEERING=foo", "got 'foo'; gin_configs/steering/*.gin sets it, for --gin_file"),
        ("MODEL=tiny", "got 'tiny'; --gin_file=gin_configs/models/tiny.gin sets it"),
        ("SAMPLING=foo", "got 'foo'; for example --gin.SAMPLING=\"@sampling.TopPSampling()\""),
    ],
)
def test_a_name_in_place_of_what_gin_files_set_is_answered_with_them(given, said):
    with pytest.raises(UserError) as caught:
        checked(*GENERATE, f"--gin.{given}")
    assert str(caught.value).endswith(said)


def test_a_struct_that_lacks_an_argument_is_answered_with_its_flag():
    said = r"SetAside\(\): missing .*'path'; .*, or pass --gin.bad_records.SetAside.path=FILE$"
    with pytest.raises(UserError, match=said):
        checked(*GENERATE, "--gin.BAD_RECORDS=@bad_records.SetAside()")


def test_a_struct_is_tried_in_the_scopes_in_which_it_is_called_alone(tmp_path):
    """Outside of `pretrain` this budget would have both of its fields."""
    file = tmp_path / "pretrain.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.training import fit\n"
        "from detox_jax.training import train\n"
        "PRETRAIN = @pretrain/train.train\n"
        "pretrain/fit.Budget.train_steps = 3\n"
    )
    with pytest.raises(UserError, match="set one of TRAIN_STEPS and EPOCHS"):
        checked(*SGEAT, f"--gin_file={file}")
    file.write_text(file.read_text() + "pretrain/fit.Budget.epochs = None\n")
    assert checked(*SGEAT, f"--gin_file={file}")["EPOCHS"] == 3


def test_a_value_in_a_file_and_one_without_a_macro_are_named(tmp_path):
    file = tmp_path / "wrong.gin"
    file.write_text("NUM_SAMPLES = 'several'\n")
    with pytest.raises(UserError, match=r"^NUM_SAMPLES: expected a whole number, got 'several'"):
        checked(*GENERATE, f"--gin_file={file}")
    with pytest.raises(UserError, match=r"generate\.shard_size: expected a whole number"):
        checked(*GENERATE, "--gin.generate.generate.shard_size=many")


def test_the_home_directory_may_be_written_as_in_a_shell(tmp_path, monkeypatch):
    """No shell expands `--input=~/x`, and a directory of that name would be made here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "own.gin"
    file.write_text("INPUT = '~/a/*.jsonl#text=body'\n")
    values = checked(
        *("score", "--gin_file=~/own.gin", "--output=~", "--gin.SCORE_CACHE='~/s'"),
        "--gin.SCORER=@cache.CachedScorer()",
    )
    assert values["INPUT"] == f"{tmp_path}/a/*.jsonl#text=body"
    assert (values["OUTPUT_DIR"], values["SCORE_CACHE"]) == (str(tmp_path), f"{tmp_path}/s")
    sheets = "--gin.SHEETS=['~/x', 'a~/y', '~other/z']"
    values = checked("human_results", "--gin.KEY=~k", "--gin.OUTPUT_DIR=o", sheets)
    assert values["SHEETS"] == repr([f"{tmp_path}/x", "a~/y", "~other/z"])
    assert values["KEY"] == "~k"
    values = checked("combine", "--gin.BASE=b", "--gin.OUTPUT_DIR=o", "--gin.TERMS={'~/t': -0.5}")
    assert values["TERMS"] == repr({f"{tmp_path}/t": -0.5})
    groups = "--gin.GROUPS={'g': '~/g'}"
    values = checked("panel", "--gin.METHODS={'base': '~/x'}", groups, "--gin.OUTPUT_DIR=o")
    assert values["METHODS"] == repr({"base": f"{tmp_path}/x"})


def test_numbers_become_what_the_parameter_takes():
    values = checked(*GENERATE, "--gin.NUM_SAMPLES=1e1", "--gin.OUTPUT_DIR=out")
    assert values["NUM_SAMPLES"] == 10 and isinstance(values["NUM_SAMPLES"], int)
    assert checked(*GENERATE, "--gin.OUTPUT_DIR=1_000")["OUTPUT_DIR"] == "1_000"
    assert checked(*GENERATE, "--gin.OUTPUT_DIR=1e3")["OUTPUT_DIR"] == "1e3"
    assert checked(*SGEAT, "--gin.BATCH_SIZE=8", "--gin.OUTPUT_DIR=8")["BATCH_SIZE"] == 8


def test_a_macro_that_nobody_set_is_named_with_a_near_one():
    with pytest.raises(UserError, match=r"NUM_SAMPLES: %TOP_PP is not set .* did you mean TOP_P\?"):
        checked(*GENERATE, "--gin.NUM_SAMPLES=%TOP_PP")


def test_an_error_about_a_file_gets_the_macro_that_names_it():
    checked(*GENERATE, "--gin.INPUT=typo.jsonl")
    named = bound_values.under_its_setting
    assert named("typo.jsonl: no such file") == "INPUT=typo.jsonl: no such file"
    assert named("other.jsonl: no such file") == "other.jsonl: no such file"
    checked("report", "--gin.RESULTS=scored", "--gin.OUTPUT_DIR=o")
    said = "scored/results.json: no such file"
    assert named(said) == f"RESULTS: {said}"
    assert named("o/report.html: cannot be read") == "o/report.html: cannot be read"
    assert named("scored-other/results.json: no") == "scored-other/results.json: no"
    # One place for two settings: the error does not tell which of them is meant.
    checked("pair", "--gin.INPUT=base", "--gin.CHECKPOINT_PATH=base", "--gin.OUTPUT_DIR=base")
    said = "base: holds the output of `convert`, which is no text"
    assert named(said) == f"INPUT, CHECKPOINT_PATH={said}"
    for said in (
        "base: holds the output of `convert`; choose another",
        "base: holds output made with other settings (x: 1 there, 2 now); remove this directory "
        "alone (rm -r base), or choose another; outputs beside it are kept",
    ):
        assert named(said) == f"OUTPUT_DIR={said}"


def test_an_error_about_a_file_within_a_setting_says_whose_it_is(tmp_path):
    named = bound_values.under_its_setting
    groups = "{'neutral': 'a.jsonl', 'names': 'b.jsonl'}"
    methods = "{'base': 'm', 'mine': 'n'}"
    checked("panel", f"--gin.METHODS={methods}", f"--gin.GROUPS={groups}", "--gin.OUTPUT_DIR=o")
    assert named("b.jsonl: no such file") == "GROUPS: 'names': b.jsonl: no such file"
    assert named("n: no such checkpoint") == "METHODS: 'mine': n: no such checkpoint"
    # A place that is also the name of a method, as BASELINE has it.
    checked(
        "panel", "--gin.METHODS={'base': 'base'}", f"--gin.GROUPS={groups}", "--gin.OUTPUT_DIR=o"
    )
    assert named("base: no such checkpoint") == "METHODS: 'base': base: no such checkpoint"
    checked("panel", f"--gin.METHODS={methods}", f"--gin.GROUPS={groups}", "--gin.OUTPUT_DIR=o")
    assert named("mine: holds no text") == "mine: holds no text"
    scores = "{'base': {'ngram': 'a', 'lexicon': 'b'}, 'mine': {'ngram': 'c', 'lexicon': 'd'}}"
    checked("compare", f"--gin.SCORES={scores}", "--gin.OUTPUT_DIR=o")
    assert named("d: no such file") == "SCORES: 'mine': 'lexicon': d: no such file"
    assert named("SCORES: 'mine': is") == "SCORES: 'mine': is"
    checked("combine", "--gin.BASE=b", "--gin.OUTPUT_DIR=o", "--gin.TERMS={'toxic': -0.5}")
    assert named("toxic: no such checkpoint") == "TERMS: toxic: no such checkpoint"
    sheets = ["human_results", "--gin.KEY=k", "--gin.OUTPUT_DIR=o", "--gin.SHEETS=['x', 'y']"]
    checked(*sheets)
    assert named("y: is a workbook") == "SHEETS: y: is a workbook"
    file = tmp_path / "own.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.evaluation import evaluate\n"
        "METHODS = {'base': @base/evaluate.Method()}\n"
        "base/evaluate.Method.generations = 'g'\n"
        "base/evaluate.Method.choices = 'c'\n"
    )
    checked("evaluate", f"--gin_file={file}", "--gin.OUTPUT_DIR=o")
    assert named("c: no such file") == "base/evaluate.Method.choices=c: no such file"


def _raised(said, *calls):
    """An error as it comes through gin's calls, the innermost first."""
    scopes = [f" in scope '{scope}'" if scope else "" for scope, _ in calls]
    behind = zip(calls, scopes, strict=True)
    return said + "".join(
        f"\n  In call to configurable '{name}' (<function {name} at 0x7f00>){scope}"
        for (_, name), scope in behind
    )


IN_SGEAT = ("", "sgeat")


def test_an_error_of_a_step_names_settings_as_they_are_set():
    checked(*SGEAT)
    lower = "lower LEARNING_RATE"
    for scope, name in {"whole": "LEARNING_RATE", "adapter": "ADAPTER_LEARNING_RATE"}.items():
        raised = _raised(lower, (scope, "train"), IN_SGEAT)
        assert bound_values.as_set(raised).startswith(f"lower {name}\n")
    said = "MAX_NEW_TOKENS is 1000; MODEL_DIR and STRICT stay"
    raised = bound_values.as_set(_raised(said, ("documents", "generate"), IN_SGEAT))
    assert raised.startswith(f"DOCUMENT_{said}\n")
    raised = bound_values.as_set(_raised("MAX_NEW_TOKENS", ("continuations", "generate"), IN_SGEAT))
    assert raised.startswith("MAX_NEW_TOKENS\n")
    for verb, said, name in [
        ("evaluate", "MIN_COVERAGE", "MIN_COVERAGE"),
        ("steer", "MARGIN", "steer.steer.margin"),
    ]:
        raised = bound_values.as_set(_raised(f"lower {said}", ("", verb), IN_SGEAT))
        assert raised.startswith(f"lower {name}\n")
    assert bound_values.as_set(lower) == lower
    required = {"CHECKPOINT_PATH": "m", "OUTPUT_DIR": "o", "TRAIN_STEPS": 1}
    checked("train_linear", *(f"--gin.{name}={value}" for name, value in required.items()))
    raised = bound_values.as_set(_raised(lower, ("", "train_linear")))
    assert raised.startswith("lower MAP_LEARNING_RATE\n")


def test_words_of_a_users_own_are_no_settings_of_a_step():
    """Of `train` EVAL and CHECKPOINT are EVAL_PERIOD and CHECKPOINT_PERIOD, where they stand."""
    required = {"TRAIN_STEPS": 1, "VOCABULARY_PATH": "v", "TASK_FEATURE_LENGTHS": {"targets": 8}}
    flags = [f"--gin.{name}={value}" for name, value in required.items()]
    checked("train", "--input=/data/EVAL/x.jsonl", "--output=EVAL", *flags)
    in_train = ("", "train")
    raised = bound_values.as_set(_raised("CHECKPOINT is 0", in_train))
    assert raised.startswith("CHECKPOINT_PERIOD is 0\n")
    for said in (
        "/data/EVAL/x.jsonl: no such file",
        "/data/old EVAL/x: no such file",
        "EVAL: is a file",
        "hf://CHECKPOINT-7: no such repository",
        "MODEL=CHECKPOINT.gin: no such file",
        "'CHECKPOINT': no such row",
        "no row is called \"my CHECKPOINT\", and 'the users' CHECKPOINT' is none",
    ):
        assert bound_values.as_set(_raised(said, in_train)) == _raised(said, in_train)
    said = "/data/EVAL/x.jsonl: CHECKPOINT is 'CHECKPOINT'"
    raised = bound_values.as_set(_raised(said, in_train))
    assert raised.startswith("/data/EVAL/x.jsonl: CHECKPOINT_PERIOD is 'CHECKPOINT'\n")
    assert bound_values.under_its_setting(raised).startswith("INPUT=/data/EVAL/x.jsonl: ")


def test_memory_is_saved_where_it_ran_out():
    checked(*SGEAT)
    less = {
        ("whole", "train"): "lower BATCH_SIZE, or raise ACCUMULATION_STEPS",
        ("documents", "generate"): "lower GENERATION_BATCH_SIZE",
        ("continuations", "generate"): "lower GENERATION_BATCH_SIZE",
        ("", "choices"): "lower DOWNSTREAM_BATCH_SIZE",
        ("", "evaluate"): "lower evaluate.evaluate.batch_size",
        ("", "score"): "it needs a machine or a device with more of it",
    }
    for call, said in less.items():
        assert bound_values.less_memory(_raised("", call, IN_SGEAT)) == said
    assert bound_values.less_memory("") is None


@pytest.mark.parametrize("name", ["OUTPUT_DIR", "INPUT", "CHECKPOINT_PATH"])
def test_what_is_asked_for_is_not_empty(name):
    """As of a variable that the shell does not know: it would be the working directory."""
    with pytest.raises(UserError, match=f"^empty: {name}; give a value; see"):
        checked(*GENERATE, f"--gin.{name}=")


def test_a_name_that_stands_twice_in_a_dict_is_refused(tmp_path):
    """Gin would take the second one without a word."""
    needed = ("--gin.METHODS={'base': 'm'}", "--gin.OUTPUT_DIR=o")
    said = "GROUPS = .*'a' stands twice in a dict; give each name once"
    with pytest.raises(UserError, match=said):
        checked("panel", *needed, "--gin.GROUPS={'a': 'x', 'b': 'y', 'a': 'z'}")
    file = tmp_path / "twice.gin"
    file.write_text("GROUPS = {\n    'a': 'x',\n    'a': 'z'}\n")
    with pytest.raises(UserError, match="twice.gin.*'a' stands twice.*line 3"):
        checked("panel", *needed, f"--gin_file={file}")
    inner = "{'base': {'ngram': 'a', 'lexicon': 'b'}, 'mine': {'ngram': 'c', 'lexicon': 'd'}}"
    assert checked("compare", f"--gin.SCORES={inner}", "--gin.OUTPUT_DIR=o")["SCORES"] == inner
