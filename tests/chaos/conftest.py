"""Children, counts, and what tiny runs read."""

import os
from pathlib import Path

import pytest

from detox_jax.vocabulary import Vocabulary
from tests import conftest as shared
from tests.chaos.counts import FILE, Counts
from tests.chaos.forks import Forks
from tests.chaos.tiny_verbs import Verbs


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("forks"))
    from tests.chaos.forks import preload

    preload()
    return made


@pytest.fixture(scope="session")
def counts():
    return Counts(Path(os.environ.get("CHAOS_COUNTS", FILE)))


@pytest.fixture(scope="session")
def data(forks, tmp_path_factory):
    """`documents.jsonl`, `vocabulary`, `model.gin`; made in a child, as libraries start threads."""
    root = tmp_path_factory.mktemp("data")

    def write():
        vocabulary = Vocabulary.train(shared.SENTENCES * 4, 350)
        shared.write_tiny_run(root, vocabulary, num_documents=120)

    ended = forks.run(write)
    assert ended.status == 0, ended.errors
    return root


@pytest.fixture(scope="session")
def train_flags(data):
    """Flags of a tiny training that saves at every step, without MODEL_DIR and TRAIN_STEPS."""
    return [
        "train",
        f"--gin.INPUT={data / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={data / 'vocabulary'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-2",
        "--gin.CHECKPOINT_PERIOD=1",
        "--gin.EVAL_PERIOD=0",
        f"--gin_file={data / 'model.gin'}",
    ]


@pytest.fixture(scope="session")
def verbs(forks, data, train_flags, tmp_path_factory):
    return Verbs(forks, data, train_flags, tmp_path_factory.mktemp("verbs"))
