"""What fails when storage or network do, told from what is a mistake or a fault of the program."""

import errno
import io
import os
import subprocess
import sys

import pytest

from detox_jax import cli, errors
from detox_jax.checkpoints import array_file
from detox_jax.errors import Unavailable, UserError, storage_trouble
from detox_jax.evaluation import typed_json
from detox_jax.formats import arrow_rows, jsonl


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"),
        RuntimeError("UNAVAILABLE: Error reading from gs://b/o: HTTP 503"),
    ],
)
def test_what_storage_says_when_it_fails(error):
    assert storage_trouble(error)
    with pytest.raises(Unavailable, match="^place: cannot be written: .*make room") as caught:
        with errors.writing("place"):
            raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "file"),
        PermissionError(errno.EACCES, "Permission denied", "file"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes"),
        UserError("UNAVAILABLE is no dtype"),
        ValueError("a fault of ours"),
    ],
)
def test_what_is_none_of_it_stays_what_it_is(error):
    assert storage_trouble(error) is None
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")):
        with errors.writing("place"):
            raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line(error, tmp_path, monkeypatch, capsys):
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"id": "1", "text": "The bus was late."}\n')

    def exhausted(*_):
        raise error

    monkeypatch.setattr(cli, "prepared", exhausted)
    given = ["score", f"--input={documents}", f"--output={tmp_path / 'scored'}"]
    assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"detox-jax: error: out of memory ({error}); lower BATCH_SIZE")
    assert said.count("\n") == 1
    assert errors.out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: quota")) is None
    raised = MemoryError(f"no room{errors.IN_CALL} 'score' (<function score at 0x7f00>)")
    said = errors.out_of_memory(raised, "lower X")
    assert str(said) == "out of memory (no room); lower X (docs/PARALLELISM.md)"


class _Failing(io.RawIOBase):
    """A file on a disk that fails while it is read, and the path to it."""

    def __init__(self, error):
        self._error = error

    def __str__(self):
        return "a file"

    def open(self, mode):
        return self

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return 1000

    def tell(self):
        return 1000

    def readinto(self, buffer):
        raise self._error

    def read_bytes(self):
        raise self._error


READERS = {
    "lines": lambda file: list(jsonl.numbered_lines(file)),
    "blocks": jsonl.read_bytes,
    "a list of words": lambda file: jsonl.read_lines(file, "a list"),
    "Parquet": lambda file: list(arrow_rows.rows(file, b"PAR1")),
    "arrays": lambda file: array_file.read(file, "steer"),
    "results": lambda file: typed_json.read_json(file),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_disk_that_fails_while_a_file_is_read_is_no_mistake(reader, monkeypatch):
    """EIO, ESTALE: the same command may go on; a mistake would have its TPUs deleted."""
    tensorflows = type("UnavailableError", (Exception,), {"__module__": "tensorflow.errors"})
    monkeypatch.setattr(jsonl, "_open", lambda file, stack: file)
    for error in (
        OSError(errno.EIO, os.strerror(errno.EIO)),
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    ):
        with pytest.raises(Unavailable, match=f"^a file(:1)?: cannot be read: {error.strerror}"):
            READERS[reader](_Failing(error))
    with pytest.raises(Exception) as caught:  # a bucket's, which no reader takes for damage
        READERS[reader](_Failing(tensorflows("no answer")))
    assert not isinstance(caught.value, UserError)


def test_a_bucket_that_does_not_answer_is_one_line(tmp_path, monkeypatch, capsys):
    error = type("AbortedError", (Exception,), {"__module__": "tensorflow.python.errors"})

    def unanswered(*_):
        raise error(
            "All 10 retry attempts failed. The last failure: 503\n when reading gs://b/o"
            f"{errors.IN_CALL} 'score' (<function score at 0x7f00>)"
        )

    monkeypatch.setattr(cli, "prepared", unanswered)
    assert cli.main(["score", "--input=gs://b/o", f"--output={tmp_path / 'scored'}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("detox-jax: error: All 10 retry attempts failed.")
    assert said.count("\n") == 1 and "gs://b/o; mend it, then run the same command again" in said


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_ENABLE_X64", "banana"), ("JAX_NUM_CPU_DEVICES", "two")]
)
def test_a_variable_that_jax_does_not_take_is_named_and_no_gin_file(name, value, tmp_path):
    verb = ["generate", "--checkpoint=c", "--input=i", f"--output={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "detox_jax.cli", *verb, "--dry_run"]
    ended = subprocess.run(
        command, env={**os.environ, name: value}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 2
    said = f"detox-jax: error: the environment variable {name} is '{value}', which JAX does not"
    assert ended.stderr.startswith(said) and ended.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_exit_1(tmp_path, monkeypatch, capsys):
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"id": "1", "text": "The bus was late."}\n')
    original = os.fsync

    def full(descriptor):
        if "-00000-of-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "scored"
    score = ["score", f"--gin.INPUT={documents}", f"--gin.OUTPUT_DIR={output}"]
    assert cli.main(score) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{output}/scored-00000-of-00001.jsonl: cannot be written: No space left" in line
    monkeypatch.undo()
    assert cli.main(score) == 0


def test_a_storage_that_fails_elsewhere_is_one_line_too(monkeypatch, capsys):
    def fails(arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/disk/file")

    monkeypatch.setattr(cli, "_run", fails)
    assert cli.main(["score"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detox-jax: error: /disk/file: Input/output error; mend it")


@pytest.mark.parametrize("name", ["PermissionDeniedError", "UnauthenticatedError", "Forbidden"])
def test_a_client_that_lacks_a_role_is_known_by_its_error(name):
    assert errors.no_access(type(name, (Exception,), {})("403"))
    assert errors.no_access(ValueError("PERMISSION_DENIED: no role"))
    assert not errors.no_access(ValueError("no such file"))


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("PERMISSION_DENIED: no role"), UserError),
        (type("Forbidden", (Exception,), {})("403 POST"), UserError),
        (type("UnauthenticatedError", (Exception,), {})("a token: UNAUTHENTICATED"), Unavailable),
        (ValueError("UNAVAILABLE: try again"), Unavailable),
    ],
)
def test_a_role_that_is_missing_is_a_mistake_and_a_token_that_ran_out_is_none(error, end):
    with pytest.raises(end, match="^gs://bkt/file: cannot be written: "):
        with errors.writing("gs://bkt/file"):
            raise error


def test_processes_that_are_late_are_a_line_and_no_storage(capsys):
    late = (
        "UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue() timed out "
        "with key: cpu:gloo/0,4096/1\n  In call to configurable 'train' (<function train>)"
    )
    assert storage_trouble(RuntimeError(late)) is None
    assert cli._report(RuntimeError(late)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detox-jax: error: the processes did not find each other in time")
