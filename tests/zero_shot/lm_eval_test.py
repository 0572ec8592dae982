"""The verb: its mistakes, its figures, its resumption; the harness itself stands in for none."""

import json
import re
import shutil
import types

import pytest

from detox_jax import cli, terminal
from detox_jax.errors import UserError
from detox_jax.zero_shot import lm_eval as verb

RESULTS = {
    "results": {
        "quiz": {"alias": "quiz", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25},
        "words": {"perplexity,none": 9.0, "perplexity_stderr,none": "N/A"},
    },
    "groups": {"both": {"acc,none": 0.75, "acc_stderr,none": 0.2}},
    "versions": {"quiz": 1},
    "n-samples": {"quiz": {"original": 40, "effective": 20}},
    "n-shot": {"quiz": 2},
}


def test_figures():
    figures = verb.summary({"both": RESULTS})
    first = {
        "task": "quiz",
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "standard_error": 0.1,
        "num_samples": 20,
        "num_fewshot": 2,
        "version": 1,
    }
    assert figures["rows"][0] == first
    assert [(row["task"], row["metric"]) for row in figures["rows"]] == [
        ("quiz", "acc"),
        ("quiz", "acc_norm"),
        ("words", "perplexity"),
        ("both", "acc"),
    ]
    assert figures["rows"][2]["standard_error"] is None
    assert figures["accuracy"]["both"] == {"value": 0.75, "standard_error": 0.2}
    assert figures["average_accuracy"] == 0.75  # Of what was asked for: the group, not its parts.
    assert verb.summary({"words": {"results": {}}})["average_accuracy"] is None


def test_table(capsys):
    verb.print_table(verb.summary({"quiz": RESULTS}))
    printed = capsys.readouterr().out
    assert "quiz" in printed and "0.5000" in printed and "average accuracy 0.5000" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("temperature:0.7", "GEN_KWARGS: 'temperature:0.7' is no setting; write NAME=VALUE"),
        ("do_sample=True,temprature=1", "'temprature' is not supported; did you mean temperature"),
        ({"xyz": 1}, "GEN_KWARGS: 'xyz' is not supported; leave it out"),
    ],
)
def test_settings_that_no_task_would_take_are_told_before_any_work(given, message):
    """A task that generates nothing never looks at them."""
    with pytest.raises(UserError, match=message):
        verb.lm_eval("nosuch", "piqa", "nosuch", gen_kwargs=given)
    for known in (None, "", "temperature=0.7,do_sample=True,until=x", {"top_k": 5}):
        verb._check_generation(known)
    with pytest.raises(UserError, match="LIMIT is 2.5; give a whole number of questions"):
        verb.lm_eval("nosuch", "piqa", "nosuch", limit=2.5)


@pytest.mark.parametrize("name", [True, "rga"])
def test_of_several_chat_templates_one_is_to_be_named(name, model_dir, tmp_path, monkeypatch):
    model = shutil.copytree(model_dir, tmp_path / "model")
    templates = [{"name": name, "template": "{{ eos_token }}"} for name in ("rag", "tool_use")]
    config = json.dumps({"chat_template": templates})
    (model / "vocabulary" / "tokenizer_config.json").write_text(config)
    loaded = types.SimpleNamespace(
        get_model_info=lambda: {"model_dtype": "float32"}, methods=(), fingerprint="f", max_length=8
    )
    monkeypatch.setattr(verb, "import_harness", lambda: None)
    monkeypatch.setattr(verb, "_task_manager", lambda *_: None)
    monkeypatch.setattr(verb, "harness_model", lambda *_, **__: loaded)
    monkeypatch.setattr(verb.metadata, "version", lambda _: "0.4")
    said = "templates rag, tool_use, and no .*; name one of them: APPLY_CHAT_TEMPLATE$"
    with pytest.raises(UserError, match=said):
        verb.lm_eval(str(model), "quiz", str(tmp_path / "out"), apply_chat_template=name)


@pytest.mark.parametrize(
    ("tasks", "message"), [(" , ", "names no task"), ("quiz,a/b.yaml", "'a/b.yaml' is not")]
)
def test_odd_task_names(tasks, message):
    with pytest.raises(UserError, match=message):
        verb._task_names(tasks)
    assert verb._task_names("quiz, words,quiz") == ["quiz", "words"]
    assert verb._task_names(["quiz"]) == ["quiz"]


TASK = """\
task: NAME
custom_dataset: !function rows.load
output_type: OUTPUT
test_split: test
doc_to_text: "{{a}}"
"""
CHOICE = 'doc_to_target: right\ndoc_to_choice: ["late", "early", "the lamp"]\n'
ANSWER = "doc_to_target: b\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\n"
ROWS = """\
import datasets
def load(**unused):
    rows = [{"a": "The bus was", "b": "late", "right": 0}, {"a": "You are", "b": "x", "right": 2}]
    return {"test": datasets.Dataset.from_list(rows)}
"""


def write_tasks(directory):
    """Two tasks of the harness, `quiz` and `words`, that need no network."""
    directory.mkdir()
    kinds = {"quiz": ("multiple_choice", CHOICE), "words": ("generate_until", ANSWER)}
    for name, (output, rest) in kinds.items():
        text = TASK.replace("NAME", name).replace("OUTPUT", output) + rest
        (directory / f"{name}.yaml").write_text(text)
    (directory / "rows.py").write_text(ROWS)


@pytest.fixture
def flags(tmp_path, model_dir, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval (make test-interop)")
    tasks = tmp_path / "tasks"
    write_tasks(tasks)
    (tasks / "broken.yaml").write_text(TASK.replace("NAME", "broken").replace("OUTPUT", "words"))
    return [
        "lm_eval",
        f"--checkpoint={model_dir}",
        f"--output={tmp_path / 'out'}",
        f"--gin.INCLUDE_PATH={tasks}",
        "--gin.BATCH_SIZE=8",
        "--gin.LOG_SAMPLES=True",
    ]


def test_a_directory_of_tasks_is_known_by_its_files_at_any_depth(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place / "group").mkdir(parents=True)
        (tmp_path / place / "group" / "quiz.yaml").write_text("task: quiz")
        (tmp_path / place / "utils.py").write_text("pass")
    here, there = (verb._describe_tasks(str(tmp_path / place)) for place in ("here", "there"))
    assert here["sha256"] == there["sha256"] and here["path"] == str(tmp_path / "here")
    (tmp_path / "there" / "__pycache__").mkdir()
    (tmp_path / "there" / "__pycache__" / "utils.pyc").write_bytes(b"written by the run itself")
    assert verb._describe_tasks(str(tmp_path / "there")) == there
    (tmp_path / "there" / "group" / "quiz.yaml").write_text("task: other")
    assert verb._describe_tasks(str(tmp_path / "there"))["sha256"] != there["sha256"]


@pytest.mark.interop
def test_the_verb_goes_on_where_it_stopped(flags, tmp_path, capsys, monkeypatch):
    run, asked = verb._evaluate, []

    def once(harness, model, manager, name, **options):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run(harness, model, manager, name, **options)

    monkeypatch.setattr(verb, "_evaluate", once)
    flags = [*flags, "--tasks=quiz,words"]
    assert cli.main(flags) == 130
    assert not (tmp_path / "out" / verb.FIGURES_FILE).exists()
    assert cli.main(flags) == 0 and asked == ["quiz", "words", "words"]
    out = tmp_path / "out"
    figures = json.loads((out / verb.FIGURES_FILE).read_text())
    assert {row["task"] for row in figures["rows"]} == {"quiz", "words"}
    assert figures["rows"][0]["num_samples"] == 2
    samples = [json.loads(line) for line in (out / "samples-quiz.jsonl").read_text().splitlines()]
    assert len(samples) == 2 and len(samples[0]["resps"]) == 3
    assert json.loads((out / "manifest.json").read_text())["complete"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert cli.main(flags) == 0 and len(asked) == 3
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "average accuracy" in capsys.readouterr().out
    assert cli.main([*flags, "--gin.LIMIT=1"]) == 2  # Another configuration is refused.


@pytest.mark.interop
def test_a_task_that_is_added_is_run_and_the_others_are_kept(flags, tmp_path, capsys, monkeypatch):
    run, asked = verb._evaluate, []

    def noted(harness, model, manager, name, **options):
        asked.append(name)
        return run(harness, model, manager, name, **options)

    monkeypatch.setattr(verb, "_evaluate", noted)
    assert cli.main([*flags, "--tasks=quiz"]) == 0
    capsys.readouterr()
    assert cli.main([*flags, "--tasks=quiz,words", "--dry_run"]) == 0
    assert "to do  lm_eval" in capsys.readouterr().out
    assert cli.main([*flags, "--tasks=quiz,words"]) == 0 and asked == ["quiz", "words"]
    figures = json.loads((tmp_path / "out" / verb.FIGURES_FILE).read_text())
    assert {row["task"] for row in figures["rows"]} == {"quiz", "words"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["settings"]["tasks"] == ["quiz", "words"]
    # A task without figures that cannot be run is left out again.
    assert cli.main([*flags, "--tasks=quiz,words,broken"]) == 2
    assert cli.main([*flags, "--tasks=quiz,words"]) == 0 and asked[2:] == ["broken"]
    assert cli.main([*flags, "--tasks=quiz"]) == 2
    assert "(tasks: ['quiz', 'words'] there, ['quiz'] now)" in capsys.readouterr().err


@pytest.mark.interop
def test_a_task_is_named_while_it_is_asked(flags, monkeypatch, capfd):
    monkeypatch.delenv(terminal.SILENCE)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    monkeypatch.setattr(terminal, "EVERY_S", 0.0)
    assert cli.main([*flags, "--tasks=quiz,words"]) == 0
    said = capfd.readouterr().err
    for work in ("read the configuration", "task 1 of 2, quiz", "task 2 of 2, words"):
        assert re.search(f"^lm_eval: {work}: ", said, re.MULTILINE), said


@pytest.mark.interop
def test_a_file_of_tasks_that_the_harness_would_pass_over_is_told(flags, tmp_path, capsys):
    (tmp_path / "tasks" / "words.yaml").write_text("task: words\ndoc_to_text: {{a}}\n")
    for task in ("words", "quiz"):  # Of either its own might be meant by what is in the file.
        assert cli.main([*flags, f"--tasks={task}"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"error: INCLUDE_PATH: {tmp_path}/tasks/words.yaml: line 2: " in error
    (tmp_path / "tasks" / "words.yaml").rename(tmp_path / "tasks" / "words.yml")
    assert cli.main([*flags, "--tasks=words"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has no task 'words'" in error and "words.yml is not read" in error


@pytest.mark.interop
def test_an_empty_directory_of_tasks_is_not_the_one_of_the_run(
    flags, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path / "tasks")
    assert cli.main([*flags, "--tasks=quiz", "--gin.INCLUDE_PATH=''"]) == 2
    assert "has no task 'quiz'" in capsys.readouterr().err


@pytest.mark.interop
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--tasks=no_such_task", "has no task 'no_such_task'"),
        ("--tasks=broken", "task broken: cannot be loaded"),
        ("--gin.INCLUDE_PATH=nowhere", "INCLUDE_PATH nowhere: no such directory"),
    ],
)
def test_mistakes_are_one_line(flags, extra, message, tmp_path, capsys):
    assert cli.main([*flags, "--tasks=quiz", extra]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("detox-jax: error: ") and message in error
    assert not list(tmp_path.glob("out/task-*"))
