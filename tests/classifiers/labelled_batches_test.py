"""Labelled texts as batches, and the loss of their labels."""

import numpy as np
import pytest
import seqio

from detox_jax.classifiers.labelled_batches import (
    LabelledBatches,
    LabelledTask,
    LabelLoss,
    Labels,
)
from detox_jax.errors import UserError
from detox_jax.training import losses, seqio_tasks
from tasks.classification import _FEATURES, LabelledSource, LabelledText

TEXTS = [LabelledText(f"text {i}", (i / 10, 1.0), 1.0 + i) for i in range(7)]


VOCAB_SIZE = 11  # 9 is the last of the tokenizer's ids


def _task(texts=TEXTS):
    splits = {"train": lambda: iter(texts), "validation": lambda: iter(texts[:5])}
    return seqio.Task(
        "made",
        source=LabelledSource(splits),
        output_features=_FEATURES,
        preprocessors=[],
        shuffle_buffer_size=100,
    )


def _encode(texts):
    return [[9, int(text.split()[1]), 9] for text in texts]


def _source(batch_size=3, labels=("a", "b"), texts=TEXTS):
    return LabelledTask(_task(texts), labels, _encode, VOCAB_SIZE, length=5, batch_size=batch_size)


def test_rows_hold_tokens_labels_and_weights():
    batch = next(LabelledBatches(_source(), 0, {}))
    assert batch["tokens"].shape == (3, 5) and batch["tokens"].dtype == np.int32
    columns = (batch["tokens"], batch["labels"], batch["weights"])
    for tokens, labels, weight in zip(*columns, strict=True):
        number = tokens[1] - 1  # Ids are shifted behind padding.
        assert tokens.tolist() == [10, number + 1, 10, 0, 0]
        np.testing.assert_allclose(labels, [number / 10, 1.0])
        assert weight == 1 + number


def test_every_text_comes_once_an_epoch_in_another_order():
    batches = LabelledBatches(_source(batch_size=7), 0, {})
    first, second = (next(batches)["tokens"][:, 1].tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(1, 8))
    assert first != second
    other = next(LabelledBatches(_source(batch_size=7), 1, {}))["tokens"][:, 1].tolist()
    assert other != first


def test_goes_on_where_it_was():
    batches = LabelledBatches(_source(), 0, {"source": "x"})
    for _ in range(4):  # Into the second epoch.
        next(batches)
    state = batches.state()
    expected = [next(batches) for _ in range(3)]
    again = LabelledBatches(_source(), 0, {"source": "x"})
    again.restore(state)
    for batch in expected:
        np.testing.assert_array_equal(next(again)["tokens"], batch["tokens"])
    with pytest.raises(UserError, match="is for source 'x', now it is 'y'"):
        LabelledBatches(_source(), 0, {"source": "y"}).restore(state)


def test_validation_is_filled_with_rows_of_no_weight():
    batches = list(_source().validation_batches(9))
    assert [batch["weights"].tolist().count(0) for batch in batches] == [0, 1]
    numbers = sorted(n for batch in batches for n in batch["tokens"][:, 1] if n)
    assert numbers == [1, 2, 3, 4, 5]
    assert len(list(_source().validation_batches(1))) == 1


def _objective(**changes):
    settings = {"names": ("a", "b"), "encode": _encode, "label_loss": LabelLoss(3.0)}
    return Labels(**{**settings, "vocab_size": VOCAB_SIZE, "identity": {"source": "x"}, **changes})


def test_the_objectives_batches_are_those_of_the_task():
    batches = _objective().batches(_task(), batch_size=3, length=5, seed=4)
    plain = LabelledBatches(_source(), 4, {"source": "x"})
    assert batches.identity == plain.identity
    assert batches.identity["source"] == "x" and batches.identity["seed"] == 4
    for _ in range(4):
        expected = next(plain)
        for name, values in next(batches).items():
            np.testing.assert_array_equal(values, expected[name])
    assert batches.state() == plain.state()


def test_a_process_gets_its_rows_of_the_objectives_batches():
    sizes = {"batch_size": 3, "length": 5}
    for make in (
        lambda rows: [next(_objective().batches(_task(), **sizes, seed=0, rows=rows))],
        lambda rows: list(_objective().validation_batches(_task(), **sizes, rows=rows)),
    ):
        for whole, part in zip(make(None), make({2, 0}), strict=True):
            for name, values in part.items():
                np.testing.assert_array_equal(values, whole[name][[0, 2]])


def test_the_objective_validates_on_as_many_batches_as_are_asked_for():
    validate = _objective().validation_batches
    sizes = {"batch_size": 3, "length": 5}
    assert len(list(validate(_task(), **sizes))) == 2
    (batch,) = validate(_task(), **sizes, max_batches=1)
    np.testing.assert_array_equal(batch["tokens"], next(_source().validation_batches(1))["tokens"])


def test_the_objectives_loss_is_the_label_loss():
    logits = np.array([[0.3, -2.0], [4.0, 0.0], [9.0, 9.0]], np.float32)
    batch = next(_objective().batches(_task(), batch_size=3, length=5, seed=0))
    found = _objective().loss(_Fixed(), logits, batch, None)  # type: ignore
    assert found == LabelLoss(3.0)(_Fixed(), logits, batch, None)  # type: ignore
    assert found != LabelLoss()(_Fixed(), logits, batch, None)  # type: ignore


def test_labels_are_checked():
    with pytest.raises(UserError, match="has 2 labels; LABELS names 1: a"):
        next(LabelledBatches(_source(labels=("a",)), 0, {}))
    wrong = [LabelledText("text 1", (0.5, 1.5))]
    with pytest.raises(UserError, match="from 0 to 1"):
        next(LabelledBatches(_source(texts=wrong), 0, {}))
    with pytest.raises(UserError, match="has no split 'test'"):
        next(seqio_tasks.examples(_task(), "test"))


class _Fixed:
    """A model whose logits are its parameters."""

    def apply(self, variables, tokens, enable_dropout, rngs):
        assert enable_dropout == (rngs is not None)
        return variables["params"]


def test_the_loss_is_a_cross_entropy_of_every_label():
    logits = np.array([[0.3, -2.0], [4.0, 0.0], [9.0, 9.0]], np.float32)
    labels = np.array([[0.7, 0.0], [1.0, 0.5], [0.0, 0.0]], np.float32)
    batch = {"tokens": None, "labels": labels, "weights": np.array([2.0, 1.0, 0.0], np.float32)}
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    by_hand = -labels * np.log(share) - (1 - labels) * np.log(1 - share)
    total, weight = LabelLoss()(_Fixed(), logits, batch, None)  # type: ignore
    assert float(total) == pytest.approx((by_hand * [[2], [1], [0]]).sum(), rel=1e-5)
    assert float(weight) == 6.0  # Of two labels each.
    by_hand = -3 * labels * np.log(share) - (1 - labels) * np.log(1 - share)
    total, _ = LabelLoss(3.0)(_Fixed(), logits, batch, None)  # type: ignore
    assert float(total) == pytest.approx((by_hand * [[2], [1], [0]]).sum(), rel=1e-5)
    with pytest.raises(UserError, match="must be positive"):
        LabelLoss(0.0)


def test_far_logits_have_finite_losses():
    logits, labels = np.array([[1e4, -1e4]], np.float32), np.array([[0.0, 1.0]], np.float32)
    total, _ = losses.binary_cross_entropy(logits, labels, np.ones(1, np.float32))  # type: ignore
    assert float(total) == pytest.approx(2e4)


@pytest.mark.parametrize("number", [10, -1])
def test_ids_that_the_model_does_not_know_are_refused_by_their_text(number):
    wrong = LabelledText(f"text {number} is too much", (0.5, 0.5))
    reason = f"task 'made': 'text {number} is too much' has the id {number} of its tokenizer"
    with pytest.raises(UserError, match=f"{reason}, but the model knows those from 0 to 9"):
        next(LabelledBatches(_source(texts=[*TEXTS[:2], wrong]), 0, {}))
