"""The command line taken apart: T5X's flags, short flags, suggestions, completion."""

import os
import subprocess
import sys

import pytest

from detox_jax import cli, command_line, run_files
from detox_jax.errors import UserError

VERBS = [*cli.VERBS]
# Where a verb means something else than INPUT, OUTPUT_DIR and CHECKPOINT_PATH, or takes it.
MEANT = {
    ("train", "--output"): "MODEL_DIR",
    ("train", "--checkpoint"): "INITIAL_CHECKPOINT_PATH",
    ("combine", "--checkpoint"): "BASE",
    ("convert", "--checkpoint"): "FROM",
    ("report", "--input"): "RESULTS",
    ("human_results", "--input"): "SHEETS",
    ("sgeat", "--input"): "PROMPTS_INPUT",
    ("sgeat", "--checkpoint"): "INITIAL_CHECKPOINT_PATH",
}
# What reads no single file, writes to no single place, starts from no single model.
LACKING = {
    "--input": "choices combine compare convert evaluate human_sheets lm_eval panel plan sweep"
    " train_scorer",
    "--output": "convert",
    "--checkpoint": "compare evaluate filter human_results human_sheets panel plan report score"
    " sweep train_scorer train_vocabulary",
}


def parse(*argv):
    return command_line.parse(argv, VERBS)


def refusal(*argv):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--input", "--output", "--checkpoint"])
def test_short_flags_of_every_verb(verb, flag):
    if verb in LACKING[flag].split():
        assert f"{verb} takes no {flag}; it needs " in refusal(verb, f"{flag}=x")
        return
    macro = MEANT.get((verb, flag), command_line.SHORT[flag])
    assert macro in run_files.of_verb(verb).macros()
    assert parse(verb, f"{flag}=x").bindings == parse(verb, flag, "x").bindings
    assert parse(verb, f"{flag}=x") == parse(verb, f"--gin.{macro}=x")


def test_of_one_flag_the_last_value_counts():
    given = parse("score", "--gin.INPUT=a", "--gin.INPUT", "c", "--input=c", "--output=o")
    assert given.bindings == ("INPUT = 'a'", "INPUT = 'c'", "INPUT = 'c'", "OUTPUT_DIR = 'o'")


@pytest.mark.parametrize(
    ("first", "second", "macro"),
    [
        ("train --gin.INITIAL_CHECKPOINT_PATH=a", "--checkpoint=b", "INITIAL_CHECKPOINT_PATH"),
        ("convert --from=a", "--checkpoint=b", "FROM"),
        ("convert --verify=True", "--gin.VERIFY=False", "VERIFY"),
        ("lm_eval --tasks=a", "--gin.TASKS=['a']", "TASKS"),
    ],
)
def test_two_flags_of_one_setting_say_the_same(first, second, macro):
    """One of them won without a word."""
    verb, flag = first.split()
    given = "--verify" if flag.startswith("--verify") else flag
    said = f"{flag} and {second} are one setting, {macro}; give it once"
    assert refusal(verb, given, second) == said


def test_flags_of_t5x():
    given = parse(
        *("train", "--gin_file=a.gin", "--gin_file", "b.gin", "--gin.LEARNING_RATE", "-1e-3"),
        *("--gin_search_paths=x,y", "--gin.train/utils.f.g=@m.N()", "--gin.MODEL_DIR='gs://b/m'"),
        *("--gin.A=x=y", "--gin.B=", "--gin_search_paths=,z"),
    )
    assert given == command_line.Arguments(
        verb="train",
        gin_files=("a.gin", "b.gin"),
        bindings=(
            *("LEARNING_RATE = -1e-3", "train/utils.f.g = @m.N()", "MODEL_DIR = 'gs://b/m'"),
            *("A = 'x=y'", "B = ''"),
        ),
        search_paths=("x", "y", "z"),
    )


def test_the_verb_may_stand_anywhere():
    before, after = parse("--gin.INPUT=x", "--dry_run", "score"), parse("score", "--gin.INPUT=x")
    assert before.verb == "score" and before.bindings == after.bindings and before.dry_run
    assert parse("--help", "score").help and parse("-h").verb == ""


def test_switches_and_flags_that_stand_for_a_verb():
    assert parse("convert", "--from_hf=a", "--to=b", "--verify").bindings == (
        *("FROM_HF = 'a'", "TO = 'b'", "VERIFY = True"),
    )
    assert parse("score", "--compare", "--output=x").verb == "compare"
    assert "compare takes no --input" in refusal("score", "--compare", "--input=x")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("scor", "did you mean score?"),
        ("score --inptu=x", "unknown flag --inptu; did you mean --input?"),
        ("score --words_file=x", "unknown flag --words_file; did you mean --gin.WORDS_FILE?"),
        ("score --query_per_second=1", "did you mean --gin.QUERIES_PER_SECOND?"),
        ("score --dryrun", "did you mean --dry_run?"),
        (
            "score docs.jsonl",
            "unexpected argument 'docs.jsonl' after the verb 'score'; did you mean",
        ),
        ("evaluate docs.jsonl", "unexpected argument 'docs.jsonl' after the verb 'evaluate'"),
        ("convert --verify=yes", "argument --verify: ignored explicit argument 'yes'"),
        ("score -x", "unknown flag -x"),
        ("--dry_run", "no verb given; one of: train"),
        ("score --gin.INPUT", "--gin.INPUT needs a value"),
        ("score --input --output=x", "--input needs a value"),
        ("--completion=tcsh", "--completion=tcsh: one of bash, zsh, fish"),
    ],
)
def test_mistakes_name_what_may_be_meant(command, message):
    assert message in refusal(*command.split())


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("runs/demo", "'runs/demo'"),
        ("0.9", "0.9"),
        ("None", "None"),
        ("{'targets': 128}", "{'targets': 128}"),
        ("'already'", "'already'"),
        ("@prompts.Standard()", "@prompts.Standard()"),
        ("{'a': @b/evaluate.Method()}", "{'a': @b/evaluate.Method()}"),
        ("%OTHER", "%OTHER"),
        ("someone@example.org", "'someone@example.org'"),
        ("50%", "'50%'"),
        ("it's", '"it\'s"'),
    ],
)
def test_text_needs_no_quotes(value, quoted):
    assert command_line.quote_text(value) == quoted


def completions(line):
    """What a shell is offered after a line, by the protocol of argcomplete."""
    environment = {
        **os.environ,
        **{"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_TYPE": "9"},
        **{"COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout"},
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><;|&(:",
    }
    command = [sys.executable, "-m", "detox_jax"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [word.strip() for word in result.stdout.split("\n")]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("detox-jax train_", "train_linear train_reward train_scorer train_vocabulary"),
        ("detox-jax convert --to", "--to --to_hf --to_t5x"),
        ("detox-jax score --gin.SCOR", "--gin.SCORER --gin.SCORE_CACHE --gin.SCORE_IMPORTS"),
        ("detox-jax train --gin_file gin_configs/models/t", "gin_configs/models/tiny.gin"),
    ],
)
def test_completion(line, offered):
    pytest.importorskip("argcomplete")
    assert sorted(completions(line)) == sorted(offered.split())


@pytest.mark.parametrize("shell", command_line.SHELLS)
def test_completion_scripts_ask_the_command(shell, capsys):
    pytest.importorskip("argcomplete")
    assert cli.main([f"--completion={shell}"]) == 0
    script = capsys.readouterr().out
    assert "detox-jax" in script and "_ARGCOMPLETE" in script


def test_a_completion_script_without_argcomplete(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert cli.main(["--completion=bash"]) == 2
    assert "pip install argcomplete" in capsys.readouterr().err


def test_the_script_is_what_bash_runs():
    argcomplete = pytest.importorskip("argcomplete")
    script = argcomplete.shellcode(["detox-jax"], shell="bash")
    checked = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
