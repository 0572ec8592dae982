"""One writer a directory: refused while another process is at work, free once it is gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from detox_jax import atomic_files, directory_lock, manifests, outputs
from detox_jax.errors import Unavailable
from detox_jax.interop import staging
from detox_jax.records import Document

HOLDER = """
    import sys
    from detox_jax import outputs
    output = outputs.OutputDirectory(sys.argv[1], "score", {"seed": 1})
    print("holds it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has opened the directory `o`."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "o")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "holds it\n"
    yield process
    process.kill()
    process.communicate()


def opened(tmp_path):
    return outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 1})


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, holder):
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    with pytest.raises(directory_lock.InUseError) as error:
        opened(tmp_path)
    assert (
        f"o: in use by `score` on host {os.uname().nodename}, process {holder.pid}, since 20"
        in (str(error.value))
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


def test_a_conversion_at_work_is_swept_away_by_nobody(tmp_path, holder):
    at_work, target = tmp_path / ".x.partial", str(tmp_path / "x")
    (tmp_path / "o").rename(at_work)
    with pytest.raises(directory_lock.InUseError, match="in use by `score`"):
        with staging.staged(target, {}):
            pass
    outputs.remove_partial_files(epath.Path(tmp_path))
    assert (at_work / manifests.MANIFEST).exists() and not (tmp_path / "x").exists()
    holder.kill()
    holder.wait()
    with staging.staged(target, {}) as output:
        output.finish()
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_run_is_free(tmp_path, holder, end):
    holder.send_signal(end)
    holder.wait()
    output = opened(tmp_path)
    output.write_shard("d", 0, 1, [Document("0", "x")])
    output.finish()
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        *("config.gin", "d-00000-of-00001.jsonl", "manifest.json")
    ]


def test_a_run_may_open_its_directory_again_and_gives_it_back_when_done(tmp_path):
    opened(tmp_path)
    output = opened(tmp_path)
    assert (tmp_path / "o" / ".lock").exists()
    output.finish()
    assert not (tmp_path / "o" / ".lock").exists()
    assert opened(tmp_path).complete  # which takes no lock
    assert not (tmp_path / "o" / ".lock").exists()


def test_what_another_run_finished_meanwhile_is_found(tmp_path, holder, monkeypatch):
    """It looked before the other was done, and came to the lock after."""
    acquire = directory_lock.acquire

    def late(directory, verb):
        holder.kill()
        holder.wait()
        acquire(directory, verb)
        manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
        manifest["complete"] = True
        (tmp_path / "o" / "manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(directory_lock, "acquire", late)
    assert opened(tmp_path).complete


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    import fcntl

    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    opened(tmp_path).finish()
    assert "cannot be locked; start no second run there" in capsys.readouterr().err


def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / ".d-00000-of-00001.jsonl.0123abcd.partial").write_bytes(b"half")
    opened(tmp_path).finish()
    assert not list((tmp_path / "o").glob(".*"))


def test_a_lock_that_was_lost_ends_the_run_before_it_writes(tmp_path):
    """As one in a bucket may be, whose run was stopped for longer than it lasts."""
    output = opened(tmp_path)
    (held,) = [lock for key, lock in directory_lock._held.items() if key == str(tmp_path / "o")]
    held.lost = "o: in use by `score` on host b"
    with pytest.raises(directory_lock.InUseError, match="on host b"):
        output.write_shard("d", 0, 1, [Document("0", "x")])
    with pytest.raises(directory_lock.InUseError, match="on host b"):
        output.finish()
    assert not list((tmp_path / "o").glob("*.jsonl"))
    directory_lock.release(epath.Path(tmp_path / "o"))


@pytest.mark.parametrize("comes_again", [False, True])
def test_a_directory_that_is_removed_ends_its_run_in_one_line(tmp_path, comes_again):
    """Also where another run has begun in its place, whose output is not called finished."""
    output = opened(tmp_path)
    output.write_shard("d", 0, 2, [Document("0", "x")])
    shutil.rmtree(tmp_path / "o")
    if comes_again:
        (tmp_path / "o").mkdir()
    for write in (lambda: output.write_shard("d", 1, 2, [Document("1", "x")]), output.finish):
        with pytest.raises(Unavailable, match="o: was removed while it was being written; run the"):
            write()
    assert not (tmp_path / "o" / "manifest.json").exists()
    directory_lock.release(epath.Path(tmp_path / "o"))
    assert not opened(tmp_path).has_shard("d", 0, 2)


def test_files_and_directories_of_a_directory_that_is_removed(tmp_path):
    gone = epath.Path(tmp_path / "gone")
    for write in (
        lambda: atomic_files.write_bytes(gone / "table.md", b""),
        lambda: atomic_files.make_subdirectory(gone / "figures"),
    ):
        with pytest.raises(Unavailable, match="gone: was removed while it was being written"):
            write()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc of Linux")
def test_a_number_says_whether_its_process_lives_in_its_own_namespace_alone():
    """Containers of one machine have its name and start, and may have the same numbers."""
    is_alive = directory_lock._is_alive
    process = subprocess.Popen(["sleep", "600"])
    myself = directory_lock._myself("train")
    lock = {**myself, "process": process.pid, "began": directory_lock._began(process.pid)}
    try:
        assert is_alive(lock) is True
        assert is_alive({**lock, "began": lock["began"] - 1}) is False  # who had the number before
        for field in ("host", "boot", "namespace"):
            assert is_alive({**lock, field: "other"}) is None
        for field in ("namespace", "began"):  # as an earlier version's lock
            assert is_alive({key: lock[key] for key in lock.keys() - {field}}) is None
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(lock) is False  # and nobody has waited for it
    process.wait()
    assert is_alive(lock) is False
    assert is_alive({**lock, "namespace": None}) is None
    assert is_alive(myself) is None  # left where it could not be given back
    assert is_alive({**myself, "began": myself["began"] - 1}) is False


class Blob:
    """In place of a bucket's object: its generation and content, under conditions as there."""

    def __init__(self):
        self.generation = None
        self.held = None
        self.before_answer = lambda: None

    def bucket(self, _):
        return self

    def blob(self, _):
        return self

    def upload_from_string(self, content, if_generation_match):
        self._require(if_generation_match)
        self.held = (time.monotonic_ns(), content)
        self.before_answer()
        self.generation = self.held[0]

    def reload(self):
        from google.api_core.exceptions import NotFound

        if self.held is None:
            raise NotFound("")
        self.generation = self.held[0]

    def download_as_bytes(self, if_generation_match):
        self._require(if_generation_match)
        return self.held[1]

    def delete(self, if_generation_match):
        self._require(if_generation_match)
        self.held = None

    def _require(self, generation):
        from google.api_core.exceptions import PreconditionFailed

        if generation != (self.held[0] if self.held else 0):
            raise PreconditionFailed("")


@pytest.fixture
def blob(monkeypatch):
    """The lock of gs://bkt/o, written again at every chance."""
    blob = Blob()
    monkeypatch.setattr("google.cloud.storage.Client", lambda: blob)
    monkeypatch.setattr(directory_lock, "_RENEWED_EVERY_S", 0.01)
    return blob


def test_a_lock_that_is_being_written_is_given_back_all_the_same(blob):
    output = epath.Path("gs://bkt/o")
    directory_lock.acquire(output, "score")
    lock = directory_lock._held["gs://bkt/o"]
    writing = threading.Event()

    def until_it_ends():
        writing.set()
        assert lock._ended.wait(120)
        time.sleep(0.2)  # in which it would be deleted by its old generation

    blob.before_answer = until_it_ends
    assert writing.wait(120)
    directory_lock.release(output)
    assert blob.held is None


@pytest.mark.parametrize("request_", ["upload_from_string", "delete"])
def test_a_verb_does_not_wait_for_a_bucket_that_does_not_answer(blob, monkeypatch, request_):
    """Its lock lapses by itself, unless the bucket answers again before."""
    output, asked, answers = epath.Path("gs://bkt/o"), threading.Event(), threading.Event()
    directory_lock.acquire(output, "score")
    lock, answer = directory_lock._held["gs://bkt/o"], getattr(blob, request_)

    def late(*arguments, **conditions):
        asked.set()
        assert answers.wait(120)
        return answer(*arguments, **conditions)

    monkeypatch.setattr(directory_lock, "_GIVEN_BACK_WITHIN_S", 0.1)
    monkeypatch.setattr(blob, request_, late)
    if request_ == "upload_from_string":
        assert asked.wait(120)
    directory_lock.release(output)
    assert blob.held is not None and lock._renewing.is_alive()
    answers.set()
    lock._renewing.join(120)
    assert blob.held is None


def test_an_output_that_is_removed_from_a_bucket_is_told_so(blob):
    output = epath.Path("gs://bkt/o")
    directory_lock.acquire(output, "score")
    lock = directory_lock._held["gs://bkt/o"]
    blob.held = None
    lock._renewing.join(120)
    with pytest.raises(
        Unavailable, match="gs://bkt/o: was removed while it was being written; run"
    ):
        directory_lock.check(output)
    directory_lock.release(output)


def test_a_lock_that_was_copied_with_its_directory_holds_nobody_up(blob, tmp_path, capsys):
    """Its run is at work, on this machine, in the directory that it was copied from."""
    process = subprocess.Popen(["sleep", "600"])
    began = {"process": process.pid, "began": directory_lock._began(process.pid)}
    at_work = {**directory_lock._myself("train"), **began}
    try:
        blob.upload_from_string(json.dumps({**at_work, "place": "gs://bkt/o/"}).encode(), 0)
        with pytest.raises(directory_lock.InUseError, match="in use by `train`"):
            directory_lock.acquire(epath.Path("gs://bkt//o/"), "score")
        for place in ("gs://bkt/original/", "gs://other/o/", str(tmp_path)):
            blob.held = None
            blob.upload_from_string(json.dumps({**at_work, "place": place}).encode(), 0)
            directory_lock.acquire(epath.Path("gs://bkt/o"), "score")
            assert "gs://bkt/o: the lock of a run that is gone" in capsys.readouterr().err
            assert json.loads(blob.held[1])["place"] == "gs://bkt/o/"
            directory_lock.release(epath.Path("gs://bkt/o"))
    finally:
        process.kill()
        process.wait()
