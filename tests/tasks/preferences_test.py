"""The task of pairs: its features, what it says of itself, and an empty file."""

import numpy as np
import pytest

from detox_jax.errors import UserError
from tasks import preferences
from tests.training.pairs_made import write_pairs


@pytest.fixture
def make(tmp_path, vocabulary):
    vocabulary.save(str(tmp_path / "vocabulary"))
    return lambda file: preferences.pairs_task(str(file), str(tmp_path / "vocabulary"))


def examples(task):
    return list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())


def test_an_example_holds_ids_and_what_is_known(make, tmp_path, vocabulary):
    file = write_pairs(tmp_path / "pairs.jsonl", number=2, model="abc", rejected_toxicity=None)
    first, second = examples(make(file))
    assert first["prompt"].tolist() == [] and second["prompt"].tolist() == vocabulary.encode(
        "He said:"
    )
    assert first["chosen"][-1] == vocabulary.eos_id != second["chosen"][-1]
    assert first["id"] == b"0" and first["reference_model"] == b"abc"
    assert first["chosen_reference"] == -20 and first["chosen_reference_tokens"] == 1
    assert first["chosen_toxicity"] == np.float32(0.1) and np.isnan(first["rejected_toxicity"])


def test_what_it_reads_is_counted_and_hashed(make, tmp_path):
    task = make(write_pairs(tmp_path / "pairs.jsonl", number=5))
    moved = make(write_pairs(tmp_path / "moved.jsonl", number=5))
    assert task.source.count("train") == 5
    assert task.source.describe("train") == moved.source.describe("train")
    assert np.isnan(examples(task)[0]["chosen_reference"])


def test_a_file_without_pairs(make, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="empty"):
        make(tmp_path / "empty.jsonl").source.count("train")
