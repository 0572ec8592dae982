"""The command line: layers of gin, the checks that gin itself lacks, and exit codes."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from importlib import metadata

import jax
import pytest

from detox_jax import cli, command_line, directory_lock, run_files
from detox_jax.api import calls
from detox_jax.errors import UserError
from detox_jax.vocabulary import Vocabulary


def run(*argv):
    return cli.main(list(argv))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text('{"id": "1", "text": "Hello there."}\n{"id": "2", "text": "Good day."}\n')
    return path


@pytest.fixture
def vocabulary_flags(tmp_path, documents):
    return (
        "train_vocabulary",
        f"--gin.INPUT={documents}",
        f"--gin.OUTPUT_DIR={tmp_path / 'vocabulary'}",
        "--gin.VOCAB_SIZE=270",
    )


def test_a_verb_runs_and_a_rerun_changes_nothing(vocabulary_flags, tmp_path, capsys):
    assert run(*vocabulary_flags) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "vocabulary").iterdir()}
    capsys.readouterr()
    assert run(*vocabulary_flags) == 0
    assert capsys.readouterr().out == f"nothing to do: {tmp_path / 'vocabulary'} is finished\n"
    assert {p: p.read_bytes() for p in (tmp_path / "vocabulary").iterdir()} == before
    assert "VOCAB_SIZE = 270" in (tmp_path / "vocabulary" / "config.gin").read_text()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--gin.VOCAB_SIZ=300"], "nothing uses VOCAB_SIZ"),
        (["--gin.train_vocabulary.vocab=300"], "doesn't have a parameter named 'vocab'"),
        (["--gin.train_vocabulary.vocab_siz=300"], "named 'vocab_siz'; did you mean vocab_size?"),
        (["--gin.train_vocabulary.documnts='a'"], "did you mean documents?"),
        (["--gin.train_vocabulry.vocab_size=300"], "did you mean train_vocabulary?"),
        (["--gin.vocabulary.train_vocab.x=3"], "did you mean vocabulary.train_vocabulary?"),
        (["--gin.no_such.thing=300"], "no_such"),
        (["--gin_file=no_such.gin"], "--gin_file=no_such.gin: no such file"),
        (["--gin.INPUT=%gin.REQUIRED"], "required and not set: INPUT; pass --gin.INPUT"),
        (["--vocab_size=300"], "unknown flag --vocab_size"),
        (["--gin.VOCAB_SIZE=1e999"], "not finite: VOCAB_SIZE; no file can repeat it"),
        (["--gin.VOCAB_SIZE={'a': [-1e999]}"], "not finite: VOCAB_SIZE"),
        (["another"], "unexpected argument 'another'"),
        (["--gin_file"], "--gin_file needs a value"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(vocabulary_flags, extra, message, capsys):
    assert run(*vocabulary_flags, *extra) == 2
    error = capsys.readouterr().err
    assert error.startswith("detox-jax: error: ") and error.count("\n") == 1
    assert message in error


def test_unknown_verb(capsys):
    assert run("detoxify") == 2
    assert "unknown verb 'detoxify'; one of: train, generate" in capsys.readouterr().err


def test_dry_run_prints_the_configuration_and_writes_nothing(vocabulary_flags, tmp_path, capsys):
    assert run(*vocabulary_flags, "--dry_run") == 0
    assert "VOCAB_SIZE = 270" in capsys.readouterr().out
    assert not (tmp_path / "vocabulary").exists()


def test_dry_run_finds_what_a_run_would_refuse(vocabulary_flags, capsys):
    assert run(*vocabulary_flags, "--gin.VOCAB_SIZ=300", "--dry_run") == 2
    assert "nothing uses VOCAB_SIZ (misspelt" in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb_names_its_macros(verb, capsys):
    assert run(verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"detox-jax {verb}: ") and "Args:" in text
    run_file = cli._run_file(verb).read_text()
    macros = re.findall(r"^([A-Z_0-9]+) = ", run_file, re.MULTILINE)
    assert macros and all(f"\n  {macro} " in text for macro in macros)
    for comment in re.findall(r"^(# .+)\n[A-Z_0-9]+ = ", run_file, re.MULTILINE):
        assert f"\n  {comment}\n" in text  # What stands above a macro explains it.


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_loads_nothing_that_the_verb_needs(verb):
    program = (
        "import sys\nfrom detox_jax import cli\n"
        f"assert cli.main(['{verb}', '--help']) == 0\n"
        "loaded = {'jax', 'tensorflow', 'seqio', 'scipy', 'matplotlib', 'tasks'} & {*sys.modules}\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_what_is_needed_an_example_and_the_short_flags(verb, capsys):
    assert run(verb, "--help") == 0
    text = capsys.readouterr().out
    run_file = run_files.of_verb(verb)
    assert " ".join(text.split()).count(run_file.needs) == 1
    assert f"\nexample:\n{run_file.example}\n\n" in text
    for macro, flags in command_line.short_names(verb).items():
        assert re.search(rf"^  {macro} .*  \({flags}\)$", text, re.MULTILINE)


def test_version(capsys):
    assert run("--version") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"detox-jax {metadata.version('detox-jax')} (jax {jax.__version__}, ")
    assert said.count("\n") == 1


def test_general_help_lists_every_verb(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS)


def test_files_override_the_run_file_and_flags_override_files(vocabulary_flags, tmp_path, capsys):
    first, second = tmp_path / "first.gin", tmp_path / "second.gin"
    first.write_text("VOCAB_SIZE = 280\n")
    second.write_text("VOCAB_SIZE = 290\n")
    without = vocabulary_flags[:-1]
    run(*without, f"--gin_file={first}", f"--gin_file={second}", "--dry_run")
    assert "VOCAB_SIZE = 290" in capsys.readouterr().out
    run(*vocabulary_flags, f"--gin_file={first}", "--dry_run")
    assert "VOCAB_SIZE = 270" in capsys.readouterr().out


def test_search_paths(vocabulary_flags, tmp_path, capsys):
    (tmp_path / "mine.gin").write_text("VOCAB_SIZE = 281\n")
    flags = (*vocabulary_flags[:-1], f"--gin_search_paths={tmp_path}", "--gin_file=mine.gin")
    assert run(*flags, "--dry_run") == 0
    assert "VOCAB_SIZE = 281" in capsys.readouterr().out


def test_included_files_are_found_from_everywhere(tmp_path, documents, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [
        f"--gin.INPUT={documents}",
        "--gin.OUTPUT_DIR=out",
        "--gin.SCORER=@cache.CachedScorer()",
    ]
    assert run("score", *flags, "--dry_run") == 0
    output = capsys.readouterr()
    assert "runs/scores.sqlite" in output.out and output.err == ""


def test_a_bug_is_not_called_the_users_mistake(vocabulary_flags, monkeypatch):
    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Vocabulary, "train", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(*vocabulary_flags)


@pytest.mark.parametrize("error", [ValueError("NOT_FOUND: no metadata"), UserError("no model")])
def test_where_the_output_is_removed_no_other_error_is_told(
    vocabulary_flags, tmp_path, monkeypatch, capsys, error
):
    """Who reads or writes there next, such as a checkpoint's storage, has errors of its own."""

    def removed(*args):
        shutil.rmtree(tmp_path / "vocabulary")
        raise error

    monkeypatch.setattr(Vocabulary, "train", removed)
    assert run(*vocabulary_flags) == 1
    said = f"{tmp_path / 'vocabulary'}: was removed while it was being written; run the same"
    assert capsys.readouterr().err.startswith(f"detox-jax: error: {said}")


@pytest.mark.parametrize("error", [UserError("a mistake"), RuntimeError("a bug")])
def test_a_verb_that_fails_gives_its_directory_back(
    vocabulary_flags, tmp_path, documents, monkeypatch, error
):
    """A process may go on: a notebook's kept every other run out until it was closed."""

    def broken(*args):
        raise error

    monkeypatch.setattr(Vocabulary, "train", broken)
    settings = {"input": str(documents), "vocab_size": 270}
    for output in ("vocabulary", "python"):
        with contextlib.suppress(type(error)):
            if output == "vocabulary":
                run(*vocabulary_flags)
            else:
                calls.call("train_vocabulary", {**settings, "output_dir": str(tmp_path / output)})
        assert (tmp_path / output / "manifest.json").exists()
        assert not (tmp_path / output / directory_lock.LOCK).exists()


def test_unwritable_output_directory(vocabulary_flags, tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    assert run(*vocabulary_flags, f"--gin.OUTPUT_DIR={blocker}/below") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run(*vocabulary_flags, f"--gin.OUTPUT_DIR={blocker}") == 2
    assert "is a file" in capsys.readouterr().err


def test_other_settings_in_the_same_directory_are_refused(vocabulary_flags, tmp_path, capsys):
    assert run(*vocabulary_flags) == 0
    assert run(*vocabulary_flags, "--gin.VOCAB_SIZE=280") == 2
    error = capsys.readouterr().err
    assert "vocab_size: 270 there, 280 now" in error
    manifest = json.loads((tmp_path / "vocabulary" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["settings"]["vocab_size"] == 270


def test_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
