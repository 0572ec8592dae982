"""Where a conversion writes: places that cannot be taken, before the work and behind it."""

import os

import pytest
from etils import epath

from detox_jax import atomic_files, outputs
from detox_jax.errors import UserError
from detox_jax.interop import convert, staging


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir(mode=0o750)
    return str(tmp_path / "out")


def test_an_empty_directory_gives_its_place_and_stays_where_the_work_fails(target):
    before = os.stat(target).st_ino
    with pytest.raises(ValueError, match="work"), staging.staged(target, {}):
        raise ValueError("work")
    assert os.stat(target).st_ino == before
    assert os.listdir(target) == [] and os.stat(target).st_mode & 0o777 == 0o750
    with staging.staged(target, {}) as output:
        assert os.listdir(target) == []
        (output.path / "model").write_text("weights")
        output.finish()
    assert sorted(os.listdir(target)) == ["config.gin", "manifest.json", "model"]
    assert os.listdir(os.path.dirname(target)) == ["out"]


def test_a_mount_is_refused_before_the_work(target, tmp_path, monkeypatch):
    """As of a container's volume, by the dry run too."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == target)
    said = f"{target}: its place cannot be taken by another directory: it is a mount; give a "
    for refused in (
        lambda: staging.staged(target, {}).__enter__(),
        lambda: convert.convert(from_hf=str(tmp_path / "hf"), to=target, check_only=True),
    ):
        with pytest.raises(UserError) as raised:
            refused()
        assert str(raised.value) == f"{said}directory in it, such as {target}/model"


def test_a_place_that_its_directory_holds_is_refused_before_the_work(target, monkeypatch):
    """A mount of the same file system looks like none; in a sticky directory it is another's."""

    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(UserError, match="by another directory: Device or resource busy; give a"):
        staging.staged(target, {}).__enter__()
    assert os.listdir(os.path.dirname(target)) == ["out"]


def test_what_was_converted_stays_where_its_place_was_taken_meanwhile(target):
    with pytest.raises(UserError) as raised, staging.staged(target, {}) as output:
        (output.path / "model").write_text("weights")
        output.finish()
        epath.Path(target, "notes.txt").write_text("somebody's")
    left = os.path.join(os.path.dirname(target), ".out.partial")
    assert f"lies in {left}: make room for it (mv {left} {target})" in str(raised.value)
    assert str(raised.value).startswith(f"{target}: its place cannot be taken: Directory not empty")
    assert sorted(os.listdir(left)) == ["config.gin", "manifest.json", "model"]


def test_a_lock_alone_takes_no_place_in_a_bucket(target, monkeypatch):
    """What a run has left that was killed between its lock and its manifest."""
    epath.Path(target, ".lock").write_text("{}")
    assert staging.is_taken(epath.Path(target))
    monkeypatch.setattr(atomic_files, "is_local", lambda path: str(path) != target)
    assert not staging.is_taken(epath.Path(target))
    opened = []
    monkeypatch.setattr(outputs, "OutputDirectory", lambda path, *_: opened.append(path))
    with staging.staged(target, {}):
        assert opened == [target]
    epath.Path(target, "weights").write_text("")
    with pytest.raises(UserError, match="already holds something"):
        staging.staged(target, {}).__enter__()
