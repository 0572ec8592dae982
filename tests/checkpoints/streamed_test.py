"""Checkpoints whose parameters are restored one at a time, or all of a small one at once."""

import tempfile

import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from flax import traverse_util

from detox_jax import atomic_files
from detox_jax.checkpoints import streamed
from detox_jax.parallel import processes


@pytest.fixture
def restored(monkeypatch):
    """How many parameters each restore gave."""
    numbers, restore = [], ocp.PyTreeCheckpointHandler.restore

    def counted(self, directory, args):
        tree = restore(self, directory, args=args)
        numbers.append(len(traverse_util.flatten_dict(tree)))
        return tree

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", counted)
    return numbers


def test_a_small_checkpoint_is_restored_once_and_a_large_one_by_the_parameter(
    model_dir, monkeypatch, restored
):
    small = streamed.Checkpoint.open(model_dir)
    all_at_once = {path: small.read(path) for path in small.paths}
    assert restored == [len(small.paths)]
    monkeypatch.setattr(streamed, "_SMALL_BYTES", 0)
    restored.clear()
    large = streamed.Checkpoint.open(model_dir)
    for path, value in all_at_once.items():
        np.testing.assert_array_equal(large.read(path), value)
    assert restored == [1] * len(large.paths)
    assert large.fingerprint == small.fingerprint


def test_what_is_kept_cannot_be_changed(model_dir):
    checkpoint = streamed.Checkpoint.open(model_dir)
    value = checkpoint.read(min(checkpoint.paths))
    with pytest.raises(ValueError, match="read-only"):
        value[...] = 0


def test_scratch_of_a_killed_run_goes_when_the_same_output_in_a_bucket_is_begun(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = epath.Path("gs://bucket/sum")
    killed = streamed.scratch(output)
    (killed.__enter__() / "0").write_bytes(b"weights")
    with streamed.scratch(epath.Path("gs://bucket/other")):
        assert len(list(tmp_path.iterdir())) == 2, "another output's may be at work"
    with streamed.scratch(output) as scratch:
        assert [str(scratch)] == [str(path) for path in tmp_path.iterdir()]
        assert not list(scratch.iterdir())
    assert not list(tmp_path.iterdir())
    with streamed.scratch(epath.Path(tmp_path)) as scratch:  # on a disk, in the output itself
        assert scratch.parent == tmp_path and atomic_files.is_partial(scratch.name)


def test_scratch_of_another_process_of_the_run_stays(tmp_path, monkeypatch):
    """In `sgeat` all processes add models up at once, several of them on one machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output, made = epath.Path("gs://bucket/sum"), []
    for index in (1, 0, 10):
        of_run = processes.Processes(index, ["host"] * 11)
        monkeypatch.setattr(processes, "current", lambda of_run=of_run: of_run)
        made.append(streamed.scratch(output))
        (made[-1].__enter__() / "0").write_bytes(b"weights")
        assert len(list(tmp_path.glob("*/0"))) == len(made)
    with streamed.scratch(output):  # of the last process, once more
        assert len(list(tmp_path.glob("*/0"))) == 2
