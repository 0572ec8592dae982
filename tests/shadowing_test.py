"""A user's `tasks.py` and `gin_configs` beside this package's."""

import subprocess
import sys
from pathlib import Path

import pytest

from detox_jax import cli, shadowing
from detox_jax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# A module of ours that imports no TensorFlow.
IMPORTS_TASKS = "from __gin__ import dynamic_registration\nfrom tasks import corpus_output\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory of somebody who uses Invoke, and `run.gin`, which imports our tasks."""
    (tmp_path / "run.gin").write_text(IMPORTS_TASKS)
    (tmp_path / "tasks.py").write_text("raise RuntimeError('not meant for gin')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_tasks_of_the_current_directory_is_named_and_not_imported(place):
    program = (
        "import sys\nsys.path.insert(0, '')\nfrom detox_jax import cli\n"
        f"sys.path.append({str(ROOT)!r})\ncli.main(['score', '--gin_file=run.gin'])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    warning, error = result.stderr.splitlines()
    assert warning == (
        f"detox-jax: warning: {place / 'tasks.py'} is not read: `tasks` in gin files is "
        f"{ROOT / 'tasks'}; rename it to import it there"
    )
    assert error.startswith("detox-jax: error: required and not set: ")


def test_a_package_of_that_name_is_named_too(place, capsys):
    (place / "tasks.py").unlink()
    (place / "tasks").mkdir()
    shadowing.name_other_tasks(["from tasks import mine\n"], [str(place)], ROOT)
    assert capsys.readouterr().err == "", "a folder without modules stands in nobody's way"
    (place / "tasks" / "__init__.py").write_text("")
    shadowing.name_other_tasks(["from tasks import mine\n"], [str(place)], ROOT)
    assert str(place / "tasks" / "__init__.py") in capsys.readouterr().err


def test_a_verb_whose_files_import_no_tasks_says_nothing(place, capsys):
    assert cli.main(["score"]) == 2
    assert "tasks" not in capsys.readouterr().err


def test_the_checkout_is_in_nobodys_way(place, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["score", f"--gin_file={place / 'run.gin'}"]) == 2
    assert "warning" not in capsys.readouterr().err


def test_a_tasks_that_the_process_has_imported_is_refused(place, monkeypatch):
    module = type(sys)("tasks")
    module.__file__ = str(place / "tasks.py")
    monkeypatch.setitem(sys.modules, "tasks", module)
    with pytest.raises(UserError, match=r"tasks.py: imported as `tasks`, .* rename it"):
        shadowing.import_tasks(ROOT)


def test_a_gin_file_read_in_place_of_ours_is_named(place, capsys):
    file = place / "gin_configs" / "scorers" / "services.gin"
    file.parent.mkdir(parents=True)
    ours = ROOT / "gin_configs" / "scorers" / "services.gin"
    file.write_text(ours.read_text())
    assert cli.main(["score"]) == 2
    assert "in place of" not in capsys.readouterr().err, "the same text"
    file.write_text(ours.read_text() + "\n# Ours is better.\n")
    assert cli.main(["score"]) == 2
    line = f"gin_configs/scorers/services.gin is read in place of {ours}"
    assert capsys.readouterr().err.count(line) == 1


def test_a_gin_file_that_is_no_text_is_one_line(place, capsys):
    (place / "bytes.gin").write_bytes(b"OUTPUT_DIR = '\xff'\n")
    assert cli.main(["score", "--gin_file=bytes.gin"]) == 2
    assert capsys.readouterr().err.startswith("detox-jax: error: ")
