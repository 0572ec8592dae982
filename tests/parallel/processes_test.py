"""What processes decide and agree on: threads are the processes, a dictionary is their store."""

import json
import threading
from concurrent import futures

import pytest
from etils import epath

from detox_jax import outputs, records
from detox_jax.errors import UserError
from detox_jax.parallel import processes


class Store:
    def __init__(self):
        self._values = {}
        self._changed = threading.Condition()

    def set(self, key, value):
        with self._changed:
            assert key not in self._values
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._values, timeout=120), key
            return self._values[key]


def on_all(work, count=3):
    """What `work` returns or raises in each of `count` processes."""
    store, hosts = Store(), [f"host-{i}" for i in range(count)]

    def run(index):
        try:
            return work(processes.Processes(index, hosts, store), index)
        except UserError as error:
            return error

    with futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_process_0_decides_for_all_and_is_asked_alone():
    asked = []

    def work(run, index):
        first = run.first_decides(lambda: asked.append(index) or {"shards": [index]})
        return first, run.first_decides(lambda: index + 7)

    assert on_all(work) == [({"shards": [0]}, 7)] * 3
    assert asked == [0]


def test_a_mistake_that_process_0_finds_is_raised_on_all():
    def work(run, index):
        def find():
            raise UserError(f"found by {index}")

        run.first_decides(find)

    assert [str(error) for error in on_all(work)] == ["found by 0"] * 3


def test_while_process_0_works_for_all_it_is_as_if_alone():
    worked = []

    def work(run, index):
        def alone():
            assert run.first_decides(lambda: index) == index
            assert run.gather(index) == [index] and run.others_wait
            run.first_does(lambda: worked.append("within"))
            assert run.first_decides(lambda: index) == index and run.others_wait
            worked.append(index)

        run.first_does(alone)
        return run.gather(index), run.several, run.others_wait

    assert on_all(work) == [([0, 1, 2], True, False), ([], True, False), ([], True, False)]
    assert worked == ["within", 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 1},
            r"process 1 \(host-1\) differs from process 0 \(host-0\): settings.seed is 1 ",
        ),
        ({"more": 5}, "settings.more is 5 there, None on process 0; mend it"),
    ],
)
def test_who_differs_is_named_on_all_with_what_differs(changes, message):
    def work(run, index):
        settings = {"seed": 0, "path": "a", **(changes if index == 1 else {})}
        run.agree({"settings": settings}, "mend it")

    errors = on_all(work)
    assert len({str(error) for error in errors}) == 1
    with pytest.raises(UserError, match=message):
        raise errors[2]
    assert on_all(lambda run, _: run.agree({"settings": {"seed": (0, 1)}}, "")) == [None] * 3


def test_one_process_needs_no_store():
    run = processes.current()
    assert run.is_first and not run.several
    run.first_does(lambda: None if not run.others_wait else pytest.fail("there are none"))
    assert run.first_decides(lambda: 3) == 3
    run.agree({"a": 1}, "")


def threads_as_processes(monkeypatch):
    """Makes threads processes: each sees its own `parallel.processes.current()`."""
    own = threading.local()
    monkeypatch.setattr(processes, "current", lambda: own.run)

    def wrap(work):
        def run_as(run, index):
            own.run = run
            return work(run, index)

        return run_as

    return wrap


@pytest.fixture
def as_process(monkeypatch):
    return threads_as_processes(monkeypatch)


def test_an_output_is_opened_together_and_written_once(as_process, tmp_path):
    written = []

    def work(run, index):
        output = outputs.OutputDirectory(str(tmp_path / "out"), "score", {"seed": 0})
        before = output.complete, output.has_shard("a", 0, 1)
        written.append(output.write_shard("a", 0, 1, [records.Document("1", f"by {index}")]))
        output.finish(counts=index)
        again = outputs.OutputDirectory(str(tmp_path / "out"), "score", {"seed": 0})
        return before, again.complete, again.manifest["counts"]

    assert on_all(as_process(work)) == [((False, False), True, 0)] * 3
    assert written == [1, 1, 1]
    (line,) = (tmp_path / "out" / "a-00000-of-00001.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "by 0"
    assert not list((tmp_path / "out").glob(".shared*"))


def test_data_that_differs_between_hosts_is_named(as_process, tmp_path):
    def work(run, index):
        settings = {"data": {"source": {"sha256": "ab" if index < 2 else "cd"}}}
        outputs.OutputDirectory(str(tmp_path / "out"), "train", settings)

    messages = {str(error) for error in on_all(as_process(work))}
    (message,) = messages
    assert "process 2 (host-2) differs" in message
    assert "settings.data.source.sha256 is 'cd' there, 'ab' on process 0" in message
    assert not (tmp_path / "out").exists()


def test_a_directory_of_one_host_alone_is_refused(as_process, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_APPEARS_WITHIN_S", 0.2)

    def work(run, index):
        # As the same path is on hosts with disks of their own, where an old run left its manifest.
        directory = tmp_path / ("shared" if index < 2 else "own")
        directory.mkdir(exist_ok=True)
        outputs.OutputDirectory(str(directory), "train", {})

    (message,) = {str(error) for error in on_all(as_process(work))}
    assert "not shared between hosts: process 2 (host-2) does not see" in message
    assert not list((tmp_path / "shared").glob(".shared*"))


def test_what_a_killed_run_showed_the_others_is_removed_by_the_next(
    as_process, tmp_path, monkeypatch
):
    def killed(token):
        raise UserError(f"killed while it looked for {token}")

    def work(run, index):
        outputs.OutputDirectory(str(tmp_path / "out"), "score", {}).finish()

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_appears", killed)
        on_all(as_process(work))
    assert len([*(tmp_path / "out").glob(".shared*")]) == 1
    assert on_all(as_process(work)) == [None] * 3
    assert not [*(tmp_path / "out").glob(".shared*")]


def test_a_bucket_is_shared_by_its_name_and_nothing_is_written_to_see_it(as_process, monkeypatch):
    monkeypatch.setattr(outputs.atomic_files, "write_bytes", lambda *_: pytest.fail("written"))

    def work(run, index):
        output = object.__new__(outputs.OutputDirectory)
        output.path = epath.Path("gs://bkt/o")
        output._check_shared()

    assert on_all(as_process(work)) == [None] * 3
