"""Tests of shared_steps: a finished output is taken over by what would write the same."""

import json

import pytest
from etils import epath

from detox_jax import atomic_files, outputs, records, shared_steps
from detox_jax.errors import UserError

DOCUMENT = records.Document("a", "text")


@pytest.fixture(autouse=True)
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv(shared_steps.VARIABLE, str(tmp_path / "shared"))
    return tmp_path / "shared"


def opened(directory, verb="generate", seed=0):
    settings = {"seed": seed, "checkpoint": {"path": f"{directory}/model", "fingerprint": "f"}}
    return outputs.OutputDirectory(str(directory), verb, settings)


def make(directory, **how):
    output = opened(directory, **how)
    assert not output.complete
    output.write_shard("documents", 0, 1, [DOCUMENT])
    (output.path / "deep").mkdir()
    (output.path / "deep" / "file").write_text("deep")
    output.finish(documents=1)
    return output


def test_an_output_with_equal_settings_is_here_as_if_it_had_been_made_here(tmp_path):
    there = make(tmp_path / "there")
    here = opened(tmp_path / "here")
    assert here.complete and here.is_taken_over and here.manifest["documents"] == 1
    written = json.loads((here.path / "manifest.json").read_text())
    assert written["settings"]["checkpoint"]["path"] == f"{tmp_path / 'here'}/model"
    assert written["shards"] == there.manifest["shards"]
    for name in ("documents-00000-of-00001.jsonl", "deep/file"):
        assert (here.path / name).read_bytes() == (there.path / name).read_bytes()
    again = opened(tmp_path / "here")
    assert again.complete and not again.is_taken_over
    # A file that is written anew is another one.
    atomic_files.write_bytes(here.path / "deep" / "file", b"other")
    assert (there.path / "deep" / "file").read_text() == "deep"


def test_what_an_unfinished_run_left_makes_room(tmp_path):
    output = opened(tmp_path / "here")
    output.write_shard("documents", 0, 2, [DOCUMENT])
    outputs.directory_lock.release(output.path)
    make(tmp_path / "there")
    assert opened(tmp_path / "here").is_taken_over
    names = sorted(path.name for path in (tmp_path / "here").glob("*.jsonl"))
    assert names == ["documents-00000-of-00001.jsonl"]


def test_what_was_half_taken_over_is_made_anew(tmp_path, monkeypatch):
    """Half of a saved step, say, is none: the run might not know of the other one any more."""
    make(tmp_path / "there")

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        put = shared_steps._put
        patch.setattr(
            shared_steps, "_put", lambda s, t: put(s, t) if s.name == "file" else killed(s, t)
        )
        opened(tmp_path / "here")
    here = epath.Path(tmp_path / "here")
    outputs.directory_lock.release(here)
    assert (here / "deep" / "file").exists()
    monkeypatch.delenv(shared_steps.VARIABLE)
    output = opened(here)
    assert not output.complete and not (here / "deep").exists()
    output.finish()
    assert opened(here).complete and "is_half_taken" not in (here / "manifest.json").read_text()


def test_what_a_kill_left_of_a_mark_goes_when_it_is_written(tmp_path, shared):
    make(tmp_path / "first")
    (mark,) = shared.iterdir()
    mark.rename(left := shared / f".{mark.name}.0123abcd.partial")
    make(tmp_path / "second")
    assert [path.name for path in shared.iterdir()] == [mark.name] and not left.exists()


@pytest.mark.parametrize("how", [{"seed": 1}, {"verb": "score"}])
def test_other_settings_and_verbs_share_nothing(tmp_path, how):
    make(tmp_path / "there")
    assert not opened(tmp_path / "here", **how).complete


def test_what_is_gone_unfinished_or_another_by_now_is_made_again(tmp_path):
    there = make(tmp_path / "there")
    there.path.rmtree()
    here = make(tmp_path / "here")  # which takes its place
    assert opened(tmp_path / "third").is_taken_over
    manifest = json.loads((here.path / "manifest.json").read_text())
    (here.path / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert not opened(tmp_path / "fourth").complete
    manifest["settings"]["seed"] = 7
    (here.path / "manifest.json").write_text(json.dumps(manifest))
    assert not opened(tmp_path / "fifth").complete


def test_results_and_reports_name_their_run_and_are_not_shared(tmp_path, shared):
    make(tmp_path / "there", verb="evaluate")
    assert not opened(tmp_path / "here", verb="evaluate").complete
    assert not shared.exists()


def test_a_finished_output_is_offered_when_it_is_met_again(tmp_path, monkeypatch, shared):
    monkeypatch.delenv(shared_steps.VARIABLE)
    make(tmp_path / "there")
    assert not shared.exists()
    monkeypatch.setenv(shared_steps.VARIABLE, str(shared))
    assert opened(tmp_path / "there").complete
    assert opened(tmp_path / "here").is_taken_over


def test_other_work_in_the_same_directory_is_refused_as_ever(tmp_path):
    make(tmp_path / "there")
    make(tmp_path / "here", seed=1)
    with pytest.raises(UserError, match="holds output made with other settings"):
        opened(tmp_path / "here")


def test_another_disk_gets_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("another disk")

    make(tmp_path / "there")
    monkeypatch.setattr(shared_steps.os, "link", no_links)
    assert opened(tmp_path / "here").is_taken_over
    assert epath.Path(tmp_path / "here" / "deep" / "file").read_text() == "deep"
