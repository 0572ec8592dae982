"""What run files say: what a verb needs, an example that is whole, which file brings a name."""

import re
import shlex
import subprocess
import sys

import pytest

from detox_jax import cli, configuration, run_files
from detox_jax.errors import Unavailable, UserError

ROOTS = [str(run_files.ROOT)]


def example(verb):
    command = run_files.of_verb(verb).example.replace("\\\n", " ")
    return shlex.split(command)


def checked(*argv):
    """The configuration of a command, as `cli` checks it before the verb itself does."""
    arguments = cli.parse_arguments(argv)
    function, defaults = cli.load_config(arguments)
    configuration.check(function, defaults, arguments.bindings)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_every_verb_is_whole(verb):
    program, *argv = example(verb)
    assert program == "detox-jax" and argv[0] == verb
    checked(*argv)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_what_a_verb_needs_is_said_and_no_more(verb):
    run_file = run_files.of_verb(verb)
    named = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", run_file.needs)) - {"DETOX_JAX_DATA"}
    assert run_file.needs.startswith("Needs ") and named <= run_file.macros().keys()
    text = run_files.explain(run_file, (), (), ROOTS, {})
    required = set(re.findall(r"^  ([A-Z0-9_]+) +REQUIRED$", text, re.M))
    assert required <= named
    asked = ""  # What gin asks for is what help calls required.
    try:
        checked(verb)
    except UserError as error:
        asked = str(error).partition("required and not set: ")[2].partition(";")[0]
    assert set(filter(None, asked.split(", "))) == required


def test_what_only_some_choices_need_is_not_called_required():
    run_file = run_files.of_verb("generate")
    text = run_files.explain(run_file, (), (), ROOTS, {"INPUT": "--input"})
    assert re.search(r"^  INPUT +REQUIRED  \(--input\)$", text, re.M)
    assert re.search(r"^  NUM_DOCUMENTS +for @prompts.Standard\(\), @prompts.Heur", text, re.M)
    assert re.search(r"^  TOP_K +for @sampling.TopKSampling\(\)$", text, re.M)
    text = run_files.explain(run_file, (), ("PROMPTS = @prompts.Standard()",), ROOTS, {})
    assert re.search(r"^  NUM_DOCUMENTS +REQUIRED$", text, re.M)
    assert re.search(r"^  INPUT +for @prompts.PromptFile\(\), @prompts.Augmented\(\)$", text, re.M)


def test_what_is_needed_and_none_is_marked():
    text = run_files.explain(run_files.of_verb("sgeat"), (), (), ROOTS, {})
    assert re.search(r"^  HELDOUT +None, but see above$", text, re.M)
    assert re.search(r"^  PREPARE +None$", text, re.M)


def test_a_gin_file_of_a_like_name_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo.gin", "demo", "experiments/demo.gin", "dmo.gin"):
        with pytest.raises(UserError, match="mean gin_configs/experiments/demo.gin") as error:
            run_files.find(name, ROOTS)
        assert f"--gin_file={name}: no such file; looked in " in str(error.value)
    (tmp_path / "mine.gin").write_text("A = 1\n")
    with pytest.raises(UserError, match=r"did you mean mine.gin\?"):
        run_files.find("mein.gin", [str(tmp_path), *ROOTS])
    with pytest.raises(UserError, match=r"looked in [^;]*$"):
        run_files.find("nothing_like_it.gin", ROOTS)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["score", "--gin.SCORER=@lexicon.LexiconScore()"], "mean @lexicon.LexiconScorer?"),
        (["generate", "--gin.PROMPTS=@prompts.Standart()"], "did you mean @prompts.Standard?"),
    ],
)
def test_for_an_unknown_reference_another_is_suggested(argv, said):
    with pytest.raises(UserError) as error:
        checked(*argv, "--input=x", "--output=y")
    assert str(error.value).endswith(said) and "\n" not in str(error.value)


def test_an_unknown_reference_names_the_file_that_brings_it():
    # A process of its own: gin knows what any test has imported for as long as a process lives.
    command = [sys.executable, "-m", "detox_jax", "score", "--input=x", "--output=y"]
    command.append("--gin.SCORER=@classifier.ClassifierScorer()")
    done = subprocess.run(command, capture_output=True, text=True)
    said = "; --gin_file=gin_configs/scorers/classifier.gin brings it\n"
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.endswith(said)


def test_a_macro_that_another_choice_takes_is_suggested():
    flags = ["--checkpoint=a", "--output=b", "--input=c"]
    with pytest.raises(
        UserError, match=r"nothing uses NUM_DOCUMENT .*did you mean NUM_DOCUMENTS\?"
    ):
        checked("generate", *flags, "--gin.NUM_DOCUMENT=3")


def test_what_another_verb_takes_is_said_to_be_its(tmp_path):
    """A file of objectives is no mistake in spelling: `plan` plans none."""
    flags = ["--gin_file=gin_configs/models/1.3b.gin", "--gin_file=gin_configs/training/dpo.gin"]
    said = "MIXTURE_OR_TASK_NAME, OBJECTIVE are settings of train, and not of plan"
    with pytest.raises(UserError, match=rf"nothing uses BETA, .*\({said}\); see detox-jax plan"):
        checked("plan", *flags, "--topology=v5p:2x2x1")
    said = "KEEP_FRACTION is a setting of filter, sgeat, and not of generate"
    with pytest.raises(UserError, match=said):
        checked("generate", "--checkpoint=a", "--output=b", "--gin.KEEP_FRACTION=0.5")


def test_rows_of_ones_own_in_place_of_a_files_are_said_to_be_chosen_by_name():
    flags = ["--gin_file=gin_configs/experiments/steering.gin"]
    rows = "--gin.METHODS={'mine': {'corpus': 'standard'}}"
    said = (
        r"^METHODS leaves unused what files set for other rows: \S+ and \d+ more; to run some "
        r"of their rows, name these in place of METHODS: --gin\.ONLY=\"\['NAME'\]\"; "
    )
    with pytest.raises(UserError, match=said + "see detox-jax sgeat --help$"):
        checked("sgeat", *flags, rows)
    # What is misspelt is said beside it.
    with pytest.raises(UserError, match=said + r"nothing uses NUM_DOCUMENT \("):
        checked("sgeat", *flags, rows, "--gin.NUM_DOCUMENT=3")


@pytest.mark.parametrize(
    ("binding", "owner"),
    [("TOP_K=5", "sampling.TopKSampling"), ("GOOD_TAG=kind", "tags.Tags")],
)
def test_a_macro_of_a_choice_that_is_not_made_names_the_choice(binding, owner):
    """And no other macro, though TOP_P is near TOP_K."""
    flags = ["--checkpoint=a", "--output=b", "--input=c"]
    macro = binding.partition("=")[0]
    said = re.escape(f"nothing uses {macro} (it is for @{owner}()); see detox-jax generate --help")
    with pytest.raises(UserError, match=f"^{said}$"):
        checked("generate", *flags, f"--gin.{binding}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x = 1 / 0", r"mine_\d.gin: .*mine_\d.py, line 2: division by zero"),
        ("import os; os.nothing", r"mine_\d.py, line 2: module 'os' has no attribute 'nothing'"),
        ("assert not dict, 'no'", r"mine_\d.py, line 2: no In file"),
        ("x = = 1", r"mine_\d.gin: invalid syntax \(mine_\d.py, line 2\)"),
    ],
)
def test_a_module_that_fails_is_told_by_its_own_line(line, said, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"mine_{len(line) % 10}"
    (tmp_path / f"{name}.py").write_text(f"import os\n{line}\n")
    gin_file = tmp_path / f"{name}.gin"
    gin_file.write_text(f"from __gin__ import dynamic_registration\nimport {name}\n")
    with pytest.raises(UserError, match=said) as error:
        checked("score", f"--gin_file={gin_file}", "--input=x", "--output=y")
    assert "\n" not in str(error.value)


def test_a_module_that_the_storage_fails_is_no_mistake(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    lines = (
        "from detox_jax.errors import Unavailable",
        "raise Unavailable('gs://bucket: no answer')",
    )
    (tmp_path / "mine_far.py").write_text("\n".join(lines))
    gin_file = tmp_path / "far.gin"
    gin_file.write_text("from __gin__ import dynamic_registration\nimport mine_far\n")
    with pytest.raises(Unavailable, match="no answer"):
        checked("score", f"--gin_file={gin_file}", "--input=x", "--output=y")


def test_a_gin_file_of_another_folder_is_not_suggested():
    roots = [str(run_files.ROOT)]
    with pytest.raises(UserError, match="looked in [^;]*$"):
        run_files.find("scorers/lexicon.gin", roots)
    with pytest.raises(UserError, match="did you mean gin_configs/scorers/services.gin"):
        run_files.find("scorers/servces.gin", roots)
