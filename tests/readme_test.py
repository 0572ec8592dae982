"""The documents' lines of Python run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lines_of(document, heading):
    """The indented block that stands first under a heading."""
    section = (ROOT / document).read_text().split(f"# {heading}\n")[1]
    block = re.search(r"^    .*\n(?:    .*\n|\n)*", section, re.M)
    return re.sub(r"^    ", "", block[0], flags=re.M)


def ran(document, heading, model_dir, directory, monkeypatch):
    """The names that are left when the block has run in a directory with a model."""
    monkeypatch.chdir(directory)
    (directory / "base").symlink_to(model_dir)
    names = {}
    exec(compile(lines_of(document, heading), document, "exec"), names)
    return names


def test_readme(model_dir, tmp_path, monkeypatch, capsys):
    assert lines_of("README.md", "From Python").startswith("import detox_jax as dj\n")
    ran("README.md", "From Python", model_dir, tmp_path, monkeypatch)
    first, *_, perplexity = capsys.readouterr().out.splitlines()
    assert first.startswith("Generations(2 prompts × 5 continuations, expected maximum toxicity")
    assert float(perplexity) > 1


def test_a_training_that_is_shown_has_what_it_needs():
    """Where it leaves something to the reader, it has an ellipsis."""
    whole = 0
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = document.read_text().replace("\\\n", " ")
        for command in re.findall(r"^    (detox-jax train .*)", text, re.M):
            if not re.search(r"\.\.\.|…", command):
                assert "TASK_FEATURE_LENGTHS=" in command, f"{document}: {command}"
                assert re.search(r"TRAIN_STEPS=|EPOCHS=", command), f"{document}: {command}"
                whole += 1
    assert whole > 5


@pytest.mark.slow
def test_python_md(model_dir, tmp_path, monkeypatch, capsys):
    names = ran("docs/PYTHON.md", "From Python", model_dir, tmp_path, monkeypatch)
    assert names["evaluation"].headline in capsys.readouterr().out
    assert names["tuned"].loaded.fingerprint != names["model"].loaded.fingerprint
    assert (tmp_path / "tuned" / "model.json").exists()
