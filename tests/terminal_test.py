"""TensorFlow's start-up notes stay off stderr, and nothing else does."""

import os
import subprocess
import sys

import pytest

from detox_jax import terminal

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


def test_stderr_of_a_verb_that_imports_tensorflow_is_clean():
    required = [f"--gin.{name}=x" for name in ("MODEL_DIR", "INPUT", "VOCABULARY_PATH")]
    required.append("--gin.TASK_FEATURE_LENGTHS={'targets': 8}")
    required.append("--gin.TRAIN_STEPS=1")
    command = [sys.executable, "-m", "detox_jax", "train", *required, "--dry_run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
