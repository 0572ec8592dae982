"""Mixtures: epochs that show all of every task, and what is refused of them."""

import collections
import json

import numpy as np
import pytest
import seqio

from detox_jax.errors import UserError
from detox_jax.training import data, mixtures
from detox_jax.vocabulary import Vocabulary
from tasks import corpora
from tests.training.data_test import batches, segments, take


@pytest.mark.slow
def test_mixtures(vocabulary_path, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"id": "m", "text": "You are an idiot."}\n')
    (tmp_path / "e.jsonl").write_text('{"id": "n", "text": "The bus was late."}\n')
    parts = [
        corpora.documents_task(str(tmp_path / f"{x}.jsonl"), vocabulary_path, name=f"part_{x}")
        for x in "de"
    ]
    for part in parts:
        seqio.TaskRegistry.add_provider(part.name, part)
    try:
        mixture = seqio.Mixture("both", [(part.name, 1.0) for part in parts])
        with pytest.raises(UserError, match="set TRAIN_STEPS"):
            data.batches_per_epoch(mixture, batch_size=4, length=32)
        # A checkpoint holds the position as JSON, which has no tuples.
        first, again = batches(mixture), batches(mixture)
        assert take(first, 2)[0]["decoder_target_tokens"].shape == (4, 32)
        again.restore(json.loads(json.dumps(first.state())))
        np.testing.assert_equal(next(again), next(first))
    finally:
        for part in parts:
            seqio.TaskRegistry.remove(part.name)


def texts_of_rows(vocabulary, rows):
    pieces = (piece for row in rows for piece in segments({k: v[None] for k, v in row.items()}))
    return [vocabulary.decode(piece["decoder_target_tokens"][:-1]) for piece in pieces]


def test_an_epoch_of_a_mixture_shows_all_of_every_task_by_their_rates(made, vocabulary):
    """seqio's own ends with the small task: the end of the large one would never be seen."""
    made("a", count=7), made("b", count=200)
    both = made.mixture("both_counted", [("a", 1), ("b", 3)])
    epoch = [texts_of_rows(vocabulary, data._rows(both, 32, "train", seed=s)) for s in (1, 1, 2)]
    assert epoch[0] == epoch[1] != epoch[2]
    for texts in epoch:
        seen = collections.Counter(texts)
        assert set(seen) == {*(f"a{i}" for i in range(7)), *(f"b{i}" for i in range(200))}
        assert all(seen[f"b{i}"] == 1 for i in range(200))
        times = [seen[f"a{i}"] for i in range(7)]
        assert max(times) - min(times) <= 1  # One pass after another.
        assert 0.15 < sum(times) / len(texts) < 0.35
    passes = [text for text in epoch[0] if text[0] == "a"]
    assert passes[:7] != passes[7:14]  # Each in an order of its own.


def test_tasks_without_a_split_are_named(made):
    both = made.mixture("both_named", [(made("c").name, 1), (made("d").name, 1)])
    assert mixtures.without_split(both, "train") == []
    assert mixtures.without_split(both, "validation") == ["c", "d"]
    mixtures.check_parts(both, "validation", but=["c", "d"])
    with pytest.raises(UserError, match="'d'.*no split 'validation'"):
        mixtures.check_parts(both, "validation", but=["c"])


def test_mixtures_that_no_model_can_be_trained_on(made, tmp_path):
    """Each is one line, in place of seqio's traceback or of an epoch that ends at once."""
    Vocabulary.train(["other text, other words"] * 9, 300).save(str(tmp_path))
    made("plain"), made("empty", count=0), made("another", vocabulary=str(tmp_path))
    wrong = {
        "several vocabularies, another .*, plain": made.mixture(
            "m1", [("plain", 1), ("another", 1)]
        ),
        "the rate of 'plain' cannot be computed": made.mixture(
            "m2", [("plain", seqio.mixing_rate_num_examples)]
        ),
        "the rate of 'plain' is 0": made.mixture("m3", [("plain", 0), ("empty", 1)]),
        "'m4': its task 'empty' has no text": made.mixture("m4", [("plain", 1), ("empty", 1)]),
    }
    for said, mixture in wrong.items():
        with pytest.raises(UserError, match=said):
            next(batches(mixture))
