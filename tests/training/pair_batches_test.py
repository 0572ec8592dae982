"""Pairs as batches: what is in a row, what has no weight, and going back to a position."""

import functools
import json

import jax
import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.training.dpo import Preference
from detox_jax.training.objective import LanguageModeling
from detox_jax.training.pair_batches import PairBatches, PairTask
from tasks import corpora, preferences
from tests.conftest import write_tiny_run
from tests.training.pairs_made import write_pairs


@pytest.fixture(scope="module")
def root(tmp_path_factory, vocabulary):
    path = tmp_path_factory.mktemp("pair_batches")
    write_tiny_run(path, vocabulary, num_documents=3)
    write_pairs(path / "pairs.jsonl", number=10)
    return path


@pytest.fixture(scope="module")
def task(root):
    file = str(root / "pairs.jsonl")
    return preferences.pairs_task(file, str(root / "vocabulary"), validation_files=file)


@pytest.fixture(scope="module")
def source(task):
    return PairTask(task, length=32, batch_size=4)


def test_a_row_is_start_prompt_side_and_end_where_there_is_one(source, vocabulary):
    examples = list(source.examples("train", None))
    assert [example["id"] for example in examples] == [str(i).encode() for i in range(10)]
    batch = source.batch(examples[1:5])
    prompt = [vocabulary.bos_id, *vocabulary.encode("He said:")]
    for row, ends in ((0, False), (1, True)):
        for side in ("chosen", "rejected"):
            text = vocabulary.decode(examples[1 + row][side])
            is_end = ends or side == "rejected"
            ids = [*prompt, *vocabulary.encode(text), *([vocabulary.eos_id] if is_end else [])]
            size = len(ids) - 1
            np.testing.assert_array_equal(batch[f"{side}_inputs"][row, :size], ids[:-1])
            np.testing.assert_array_equal(batch[f"{side}_targets"][row, :size], ids[1:])
            assert not batch[f"{side}_inputs"][row, size:].any()
            weights = batch[f"{side}_weights"][row]
            expected = (np.arange(32) >= len(prompt) - 1) & (np.arange(32) < size)
            np.testing.assert_array_equal(weights, expected)
    # Without a prompt the side stands behind the start token.
    assert batch["chosen_inputs"][2, 0] == vocabulary.bos_id and batch["chosen_weights"][2, 0] == 1


def test_validation_of_some_pairs_is_not_of_the_first_ones(root, tmp_path):
    """`pair` writes those first that differ most."""
    path = tmp_path / "pairs.jsonl"
    pairs = [
        {"id": str(i), "prompt": "So", "chosen": " he", "rejected": " no" * (20 - i)}
        for i in range(20)
    ]
    path.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    task = preferences.pairs_task(str(path), str(root / "vocabulary"), validation_files=str(path))
    validation = functools.partial(Preference().validation_batches, task, batch_size=4, length=128)

    def sizes(**which):
        """Of the rejected sides, by which pairs are told."""
        return [
            int(weights.sum())
            for batch in validation(**which)
            for weights in batch["rejected_weights"]
        ]

    every, first = sizes(), sizes(max_batches=2)
    assert len(set(every)) == 20 and first == every[:8] == sizes(max_batches=2)
    assert {*first} != {*sorted(every)[-8:]}


def test_a_batch_that_is_not_full_has_pairs_of_no_weight(source):
    *_, last = Preference().validation_batches(source.task, batch_size=4, length=32)
    assert last["pair_weights"].tolist() == [1, 1, 0, 0]
    for side in ("chosen", "rejected"):
        assert not last[f"{side}_weights"][2:].any()
        assert np.isfinite(last[f"{side}_reference"]).all()
        np.testing.assert_allclose(last[f"{side}_toxicity"][2:], 0)


def test_epochs_are_shuffled_and_can_be_gone_back_to(source):
    batches = PairBatches(source, seed=1)
    first = [next(batches)["chosen_targets"] for _ in range(5)]  # two epochs of ten pairs
    assert not np.array_equal(first[0], next(PairBatches(source, seed=2))["chosen_targets"])
    state, expected = batches.state(), next(batches)
    again = PairBatches(source, seed=1, rows=[1, 3])
    again.restore(state)
    jax.tree.map(
        np.testing.assert_array_equal,
        next(again),
        {name: rows[[1, 3]] for name, rows in expected.items()},
    )
    with pytest.raises(UserError, match="position in the data is for seed 1, now it is 2"):
        PairBatches(source, seed=2).restore(state)


def test_pairs_and_passes_are_counted(source):
    check = functools.partial(source.check, "train", base=None, needs_reference=False)
    assert check(needs_toxicity=True) == 10
    assert Preference().batches_per_epoch(source.task, batch_size=4, length=32) == 2.5


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("beside", [-1, 0, None])
def test_ids_that_are_no_tokens_are_refused_by_their_pair(source, vocabulary, name, beside):
    wrong = vocabulary.vocab_size if beside is None else beside

    class Other(PairTask):
        def examples(self, split, seed):
            for i, example in enumerate(super().examples(split, seed)):
                known = [*example[name], vocabulary.vocab_size - 1]
                yield {**example, name: np.array([*known, *([wrong] if i == 3 else [])])}

    check = functools.partial(Other(source.task, 32, 4).check, "train", base=None)
    reason = f"task 'pairs': pair '3': the ids of its '{name}' hold {wrong}, which is no token"
    with pytest.raises(UserError, match=f"{reason}: the vocabulary has the ids from 1 to "):
        check(needs_reference=False, needs_toxicity=True)


def test_pairs_are_not_documents_and_documents_are_not_pairs(task, root):
    documents = corpora.documents_task(str(root / "documents.jsonl"), str(root / "vocabulary"))
    with pytest.raises(UserError, match="has no pairs, which OBJECTIVE needs"):
        Preference().check(documents, length=32)
    with pytest.raises(UserError, match="has pairs and no documents; give OBJECTIVE"):
        LanguageModeling().check(task, length=32)
    LanguageModeling().check(documents, length=32)
