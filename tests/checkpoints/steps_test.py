"""Saved steps: damage of every file is noticed, the step before is taken, leftovers are removed."""

import gc
import shutil
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from detox_jax import terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import steps as saved
from detox_jax.errors import Unavailable, UserError
from detox_jax.parallel import mesh as meshes
from tests.parallel.processes_test import on_all, threads_as_processes

STEPS = (2, 4)


def _arrays(step):
    noise = np.random.default_rng(step)
    return {
        "params": {"w": jnp.asarray(noise.normal(size=(64, 16)), jnp.float32)},
        "opt_state": {"mu": jnp.asarray(noise.normal(size=(64, 16)), jnp.bfloat16)},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two steps, whole."""
    directory = epath.Path(tmp_path_factory.mktemp("steps") / "model")
    with saved.manager(directory) as manager:
        for step in STEPS:
            saved.save(manager, step, _arrays(step), {"taken": step}, {"known": step})
    return directory


@pytest.fixture
def model(whole, tmp_path):
    """A copy of them, to be damaged."""
    shutil.copytree(whole, tmp_path / "model")
    return epath.Path(tmp_path / "model")


def _read(model, step):
    record = saved.read_record(model, step)
    abstract = jax.tree.map(jax.typeof, _arrays(0))
    mesh = meshes.create_mesh({"data": 8})
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=meshes.replicated(mesh)), abstract
    )
    arrays = {
        item: saved.restore_arrays(model, step, item, shapes[item], record) for item in saved.ARRAYS
    }
    return arrays, saved.restore_data(model, step, record), record


def _newest(model, **how):
    return saved.newest_whole(model, lambda step: _read(model, step), strict=False, **how)


def test_a_whole_step_is_what_was_saved_on_any_mesh(model):
    step, (arrays, data, record) = _newest(model)
    assert step == 4 and data == {"taken": 4} and record["run"] == {"known": 4}
    jax.tree.map(np.testing.assert_array_equal, arrays, _arrays(4))


def _flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "a bit flipped": _flip,
    "deleted": None,
}


@pytest.mark.filterwarnings("always")  # As in a user's process: what warns raises nothing.
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_file_is_never_other_numbers_nor_a_traceback(
    whole, tmp_path, damage, capsys, monkeypatch
):
    """What is restored is the newest step, bit by bit, or the one before, with a line."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: unraisable.append(str(seen.exc_value)))
    terminal.drop_echoes()
    paths = Path(whole).joinpath("checkpoints", "4").rglob("*")
    files = [path.relative_to(whole) for path in paths if path.is_file()]
    taken = {2: 0, 4: 0}
    for index, file in enumerate(files):
        model = epath.Path(tmp_path / str(index))
        shutil.copytree(whole, model)
        change = DAMAGES[damage]
        if change is None:
            (model / file).unlink()
        else:
            (model / file).write_bytes(change((whole / file).read_bytes()))
        step, (arrays, data, _) = _newest(model)
        jax.tree.map(np.testing.assert_array_equal, arrays, _arrays(step))
        assert data == {"taken": step}
        line = "step 4 is damaged ("
        assert (line in capsys.readouterr().err) == (step == 2), file
        taken[step] += 1
    assert taken[2] >= 5
    gc.collect()  # Reads that were under way when another failed are given up here at the latest.
    assert unraisable == []


def _lose(model, step, item="params"):
    shutil.rmtree(model / "checkpoints" / str(step) / item)


def test_what_is_asked_for_by_name_or_strictly_is_not_replaced(model):
    _lose(model, 4)
    with pytest.raises(UserError, match=r"step 4 is damaged \(.*give another of .* \[2\]") as told:
        _newest(model, only=4)
    assert str(told.value).endswith(f"such as {model}/checkpoints/2")
    with pytest.raises(UserError, match=r"step 4 is damaged \(.*\); train into another directory$"):
        _newest(model, only=4, remedy="train into another directory")
    with pytest.raises(UserError, match="STRICT=True refuses the step before; .* take step 2"):
        saved.newest_whole(model, lambda step: _read(model, step), strict=True)


def test_where_none_is_left_it_ends(model):
    _lose(model, 4)
    _lose(model, 2, "data")
    with pytest.raises(UserError, match=r"step 4 is damaged .*none of its steps \[2, 4\] is whole"):
        _newest(model)


def test_a_step_of_an_earlier_version_is_restored_and_said_to_be_unchecked(model, capsys):
    _lose(model, 4, "record")
    step, (arrays, _, record) = _newest(model)
    assert step == 4 and record is None
    jax.tree.map(np.testing.assert_array_equal, arrays, _arrays(4))
    assert capsys.readouterr().err.count("step 4 was saved without hashes: not checked") == 1


def test_a_storage_that_does_not_answer_is_no_damage(model, monkeypatch):
    def unreachable(*args):
        raise ValueError("UNAVAILABLE: Error reading gs://bucket/model: 503")

    monkeypatch.setattr(saved, "restore_item", unreachable)
    with pytest.raises(Unavailable, match="cannot be read: UNAVAILABLE; run the same command"):
        _newest(model)


@pytest.mark.parametrize(
    ("name", "end"), [("Forbidden", UserError), ("UnauthenticatedError", Unavailable)]
)
def test_a_role_that_is_missing_is_no_damage_either(model, monkeypatch, name, end):
    def refused(*args):
        raise type(name, (Exception,), {})("403 GET storage: does not have access")

    monkeypatch.setattr(saved, "restore_item", refused)
    with pytest.raises(end, match="a checkpoint cannot be read: "):
        _newest(model)


def test_a_full_disk_is_said_in_one_line(model, monkeypatch):
    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing d/0: No space left on device")

    with saved.manager(model) as manager:
        monkeypatch.setattr(manager, "save", full)
        with pytest.raises(Unavailable, match=r"checkpoints/6: cannot be written: .*make room"):
            saved.save(manager, 6, _arrays(6))


def test_a_step_that_orbax_leaves_out_is_not_lost_in_silence(model):
    with saved.manager(model) as manager, pytest.raises(RuntimeError, match="step 3 was not saved"):
        saved.save(manager, 3, _arrays(3))


def test_leftovers_of_a_killed_save_are_removed_and_nothing_else(model, monkeypatch):
    directory = model / "checkpoints"
    others = ["notes.txt", "5.orbax-checkpoint-tmpfile-of-mine/x", "mine.orbax-checkpoint-tmp/x"]
    for name in ["6.orbax-checkpoint-tmp/params/d/0", "7/params/d/0", *others]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("x")
    whole = saved._is_whole  # As on an object store, where a mark says it.
    monkeypatch.setattr(saved, "_is_whole", lambda path: path.name != "7" and whole(path))
    saved.remove_unfinished(model)
    left = {path.name for path in directory.iterdir()}
    assert left == {"2", "4", *(Path(name).parts[0] for name in others)}
    saved.remove_unfinished(model / "not_there_yet")


def test_steps_that_are_set_aside_make_room_for_new_ones(model):
    saved.set_aside_after(model, 2)
    assert checkpoints.saved_steps(model) == [2] and (model / "damaged" / "4" / "params").exists()
    with saved.manager(model) as manager:
        saved.save(manager, 4, _arrays(4))
    saved.set_aside_after(model, 2)
    assert (model / "damaged" / "4-again").exists()


class _Others:
    """Another process, on which the params cannot be read."""

    several, is_first = True, True

    def first_trouble(self, trouble):
        return trouble or "damaged:ValueError: on process 1"

    def first_decides(self, decide):
        return decide()


def test_what_one_process_cannot_read_none_has_read(model, monkeypatch):
    monkeypatch.setattr(saved, "processes", types.SimpleNamespace(current=_Others))
    with pytest.raises(saved.Damaged, match="on process 1"):
        saved.read_record(model, 4)


def _of_another_step(copy, item):
    shutil.rmtree(copy / "checkpoints" / "4" / item)
    shutil.copytree(copy / "checkpoints" / "2" / item, copy / "checkpoints" / "4" / item)


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize(
    ("item", "damage", "cause"),
    [
        ("params", _of_another_step, "params: w is not what was saved"),
        ("opt_state", _of_another_step, "opt_state: mu is not what was saved"),
        ("data", _of_another_step, "data: the position in the data is not what was saved"),
        ("record", lambda copy, item: _lose(copy, 4, item), "record: is not there on process {}"),
    ],
)
def test_what_reads_otherwise_on_one_host_is_damaged_on_all(
    whole, tmp_path, monkeypatch, capsys, item, damage, cause, host
):
    """Hosts may have copies of their own of what they start from, whole on all their devices."""
    for index in range(2):
        shutil.copytree(whole, tmp_path / str(index))
    damage(epath.Path(tmp_path / str(host)), item)

    def work(run, index):
        step, (arrays, *others) = _newest(epath.Path(tmp_path / str(index)))
        jax.tree.map(np.testing.assert_array_equal, arrays, _arrays(2))
        return step, others[0], run.first_decides(lambda: "what comes next")

    told = on_all(threads_as_processes(monkeypatch)(work), count=2)
    assert told == [(2, {"taken": 2}, "what comes next")] * 2
    said = capsys.readouterr().err
    assert f"step 4 is damaged ({cause.format(host)}" in said and "without hashes" not in said


def test_arrays_of_the_host_are_written_in_pieces(tmp_path, monkeypatch):
    """Orbax holds what it writes until a file is full: no file may be as large as they are."""
    monkeypatch.setattr(saved, "_LEAST_FILE_BYTES", 2**14)
    noise = np.random.default_rng(0)
    host = {"w": noise.normal(size=(6, 64, 64)).astype(np.float32), "b": np.ones(4, np.float32)}

    def largest_file(name, tree):
        with saved.manager(epath.Path(tmp_path / name)) as manager:
            saved.save(manager, 0, {"params": tree})
        files = (tmp_path / name / "checkpoints" / "0" / "params").rglob("*")
        return max(file.stat().st_size for file in files if file.is_file())

    assert largest_file("host", host) < host["w"].nbytes / 2
    assert largest_file("devices", jax.tree.map(jnp.asarray, host)) > host["w"].nbytes / 2
    model = epath.Path(tmp_path / "host")
    record = saved.read_record(model, 0)
    sharding = meshes.replicated(meshes.create_mesh({"data": 8}))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), host)
    jax.tree.map(
        np.testing.assert_array_equal,
        saved.restore_arrays(model, 0, "params", shapes, record),
        host,
    )


def test_a_step_is_removed_as_a_whole_whatever_is_killed(model, monkeypatch):
    def killed(path, **_):
        raise KeyboardInterrupt

    saved.remove(model, [2])
    assert saved.saved_steps(model) == [4]
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            saved.remove(model, [4])
    assert saved.saved_steps(model) == []
    saved.remove_unfinished(model)
    assert list((model / "checkpoints").iterdir()) == []


def test_in_a_bucket_the_mark_of_a_whole_step_goes_first(model, monkeypatch):
    (model / "checkpoints" / "2" / "commit_success.txt").write_text("")
    monkeypatch.setattr(saved.atomic_files, "is_local", lambda path: False)
    left = []
    monkeypatch.setattr(type(model), "rmtree", lambda path, **_: left.append(path))
    saved.remove(model, [2])
    assert [path.name for path in left] == ["2"]
    assert not (left[0] / "commit_success.txt").exists() and (left[0] / "params").exists()
