"""Language modelling as an objective: its batches, its loss, and what decides them."""

import functools
import itertools

import jax
import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.training import data
from detox_jax.training import step as steps
from detox_jax.training.objective import LanguageModeling
from tasks import corpora
from tests.conftest import random_params, write_tiny_run

SIZES = {"batch_size": 4, "length": 16}


@pytest.fixture(scope="module")
def task(tmp_path_factory, vocabulary):
    root = tmp_path_factory.mktemp("objective")
    write_tiny_run(root, vocabulary, num_documents=30)
    file = str(root / "documents.jsonl")
    return corpora.documents_task(file, str(root / "vocabulary"), validation_files=file)


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        jax.tree.map(np.testing.assert_array_equal, dict(a), dict(b))


def test_its_batches_are_packed_documents_and_can_be_gone_back_to(task):
    batches = LanguageModeling().batches(task, **SIZES, seed=3, rows=[1, 2])
    plain = data.BatchIterator(task, **SIZES, seed=3, rows=[1, 2])
    assert batches.identity == plain.identity and batches.identity["seed"] == 3
    assert_equal([next(batches) for _ in range(3)], list(itertools.islice(plain, 3)))
    again = LanguageModeling().batches(task, **SIZES, seed=3, rows=[1, 2])
    again.restore(batches.state())
    assert_equal([next(again)], [next(batches)])


def test_its_validation_is_the_same_each_time(task):
    validate = functools.partial(
        LanguageModeling().validation_batches, task, **SIZES, max_batches=2, rows=[0, 3]
    )
    expected = list(data.validation_batches(task, **SIZES, max_batches=2, rows=[0, 3]))
    assert_equal(list(validate()), expected)
    assert_equal(list(validate()), expected)
    every = list(LanguageModeling().validation_batches(task, **SIZES))
    assert len(every) > 2 and every[0]["decoder_target_tokens"].shape == (4, 16)


def test_its_loss_is_that_of_the_plain_step_and_it_reports_nothing_else(task, config):
    model, params = random_params(config)
    batch = next(LanguageModeling().batches(task, **SIZES, seed=0))
    objective = LanguageModeling()
    found = jax.jit(functools.partial(objective.loss, model))(params, batch, None)
    expected = jax.jit(functools.partial(steps.batch_loss, model))(params, batch, None)
    assert [float(x) for x in found] == [float(x) for x in expected]
    assert float(found[1]) == batch["decoder_loss_weights"].sum() > 0
    assert objective.measures() == {}


def test_a_cache_that_is_not_there_is_missed(task):
    with pytest.raises(UserError, match="is not cached in"):
        LanguageModeling(use_cached=True).batches(task, **SIZES, seed=0)
