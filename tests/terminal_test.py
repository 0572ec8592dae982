"""TensorFlow's start-up notes stay off stderr, and nothing else does."""

import logging
import os
import subprocess
import sys

import pytest

from detox_jax import terminal
from tests.conftest import write_tiny_run

NOTES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795539511.146310   13076 cudart_stub.cc:31] Could not find cuda drivers\n"
    b"E0000 00:00:1795539511.146310   13076 cuda_platform.cc:52] failed call to cuInit: none\n"
)
ERRORS = b"E0000 00:00:1795539511.146310   13076 file.cc:7] a real error\nTraceback\n"


def test_notes_are_dropped_and_the_rest_is_written(capfd):
    with terminal.without_notes():
        os.write(2, NOTES + ERRORS)
    assert capfd.readouterr().err.encode() == ERRORS


def test_an_exception_passes_and_stderr_is_put_back(capfd):
    with pytest.raises(RuntimeError), terminal.without_notes():
        os.write(2, ERRORS)
        raise RuntimeError
    os.write(2, NOTES)
    assert capfd.readouterr().err.encode() == ERRORS + NOTES


def test_stderr_of_a_verb_that_imports_tensorflow_is_clean(tmp_path, vocabulary):
    write_tiny_run(tmp_path, vocabulary, num_documents=8)
    required = [
        f"--gin_file={tmp_path / 'model.gin'}",
        f"--gin.INPUT={tmp_path / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={tmp_path / 'vocabulary'}",
        f"--gin.MODEL_DIR={tmp_path / 'model'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 8}",
        "--gin.TRAIN_STEPS=1",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-3",
    ]
    command = [sys.executable, "-m", "detox_jax", "train", *required, "--dry_run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "message", "is_shown"),
    [
        ("absl", "[thread=x] _SignalingThread.run() raised an exception: full", False),
        ("asyncio", "Task exception was never retrieved\nfuture: <Task orbax/x.py:126>", False),
        ("asyncio", "Task exception was never retrieved\nfuture: <Task of_ours.py:1>", True),
        ("absl", "another error", True),
    ],
)
def test_what_orbax_says_beside_raising_it_is_dropped(caplog, name, message, is_shown):
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    terminal.drop_echoes()
    logger.error(message)
    logger.removeHandler(caplog.handler)
    assert (message in caplog.text) == is_shown


def test_futures_that_end_after_their_loop_are_dropped_and_others_are_not(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))

    def lose(error):
        class Loses:
            def __del__(self):
                raise error

        Loses()

    other = RuntimeError("another")
    terminal.drop_echoes()
    terminal.drop_echoes()
    lose(RuntimeError("Event loop is closed"))
    lose(other)
    assert seen == [other]
