"""Batches: packing, determinism, resumption, epochs, hosts."""

import collections
import errno
import itertools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
from tensorflow.python.autograph.impl import api as autograph

from detox_jax import chat
from detox_jax.errors import Unavailable, UserError
from detox_jax.training import data, seqio_tasks
from tasks import corpora
from tests import chats_made
from tests.conftest import SENTENCES

pytestmark = pytest.mark.usefixtures("garbage_is_left")


@pytest.fixture(scope="module")
def texts():
    return [f"{SENTENCES[i % 6]} {'again and ' * (i % 40)}{i}" for i in range(60)]


@pytest.fixture(scope="module")
def task(tmp_path_factory, texts, vocabulary_path):
    path = tmp_path_factory.mktemp("documents") / "d.jsonl"
    with path.open("w") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"id": str(i), "text": text}) + "\n")
    return corpora.documents_task(str(path), vocabulary_path, validation_files=str(path))


def batches(task, **changes):
    settings = {"batch_size": 4, "length": 32, "seed": 0, **changes}
    return data.BatchIterator(task, **settings)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def segments(batch):
    """Every packed piece: its ids, and the inputs and positions beside them."""
    for row in range(len(batch["decoder_segment_ids"])):
        ids = batch["decoder_segment_ids"][row]
        for segment in range(1, ids.max() + 1):
            mask = ids == segment
            yield {name: values[row][mask].tolist() for name, values in batch.items()}


def test_packed_pieces_start_from_end_of_text_and_do_not_mix(task, vocabulary, texts):
    seen = 0
    for batch in take(batches(task, length=256), 5):
        assert all(x.shape == (4, 256) and x.dtype == np.int32 for x in batch.values())
        for piece in segments(batch):
            seen += 1
            targets, inputs = piece["decoder_target_tokens"], piece["decoder_input_tokens"]
            assert inputs == [vocabulary.eos_id, *targets[:-1]]
            assert piece["decoder_positions"] == list(range(len(targets)))
            assert piece["decoder_loss_weights"] == [1] * len(targets)
            text = vocabulary.decode(targets)
            assert any(text in whole for whole in texts)
        padding = batch["decoder_segment_ids"] == 0
        assert not batch["decoder_loss_weights"][padding].any()
        assert not batch["decoder_target_tokens"][padding].any()
    assert seen > 2 * 20  # More pieces than rows: they are packed.


def test_only_what_packs_is_translated_for_tensorflow(monkeypatch, task):
    # Of each function that it translates TensorFlow parses the source, at the start of every run.
    translated, translate = [], autograph._convert_actual

    def noted(function, context):
        translated.append(function.__module__)
        return translate(function, context)

    monkeypatch.setattr(autograph, "_convert_actual", noted)
    next(data.BatchIterator(task, length=16, batch_size=2, seed=0))
    assert set(translated) == {"seqio.utils"}  # Ours and the converter's need no translation.


def test_an_epoch_holds_every_token_once(task, vocabulary, texts):
    expected = collections.Counter(
        token for text in texts for token in [*vocabulary.encode(text), vocabulary.eos_id]
    )
    counted = collections.Counter()
    for batch in data.validation_batches(task, batch_size=4, length=32, split="train"):
        weights = batch["decoder_loss_weights"] > 0
        counted.update(batch["decoder_target_tokens"][weights].tolist())
    assert counted == expected
    assert max(len(vocabulary.encode(text)) for text in texts) > 3 * 32


def test_same_seed_same_batches_other_seed_other_order(task):
    first = take(batches(task), 6)
    assert_equal(first, take(batches(task), 6))
    other = take(batches(task, seed=1), 6)
    assert any(
        (a["decoder_target_tokens"] != b["decoder_target_tokens"]).any()
        for a, b in zip(first, other, strict=True)
    )


def test_a_global_seed_of_tensorflow_is_refused_where_it_decides_the_order(task):
    """The order would be another one than the command line's, and none that a manifest names."""
    alone = list(seqio_tasks.one_epoch(task, "train", 3).take(9).as_numpy_iterator())
    tf.random.set_seed(1)
    try:
        assert list(seqio_tasks.one_epoch(task, "train", None).take(1))
        with pytest.raises(
            UserError, match=r"global seed is set .* call tf.random.set_seed\(None\)"
        ):
            seqio_tasks.one_epoch(task, "train", 3)
    finally:
        tf.random.set_seed(None)
    again = list(seqio_tasks.one_epoch(task, "train", 3).take(9).as_numpy_iterator())
    assert len({len(row["targets"]) for row in alone}) > 1
    for one, other in zip(alone, again, strict=True):
        np.testing.assert_array_equal(one["targets"], other["targets"])


def test_every_epoch_has_an_order_of_its_own(task):
    rows = round(data.batches_per_epoch(task, batch_size=1, length=32))
    epochs = [
        take(batches(task, batch_size=1), 2 * rows)[i * rows : (i + 1) * rows] for i in (0, 1)
    ]
    first, second = [
        [batch["decoder_target_tokens"].tobytes() for batch in epoch] for epoch in epochs
    ]
    assert first != second


@pytest.mark.parametrize("position", [0, 1, 7, 40])
def test_restored_iterator_goes_on_as_if_nothing_had_happened(task, position):
    uninterrupted = batches(task)
    take(uninterrupted, position)
    state = json.loads(json.dumps(uninterrupted.state()))
    resumed = batches(task)
    take(resumed, 2)
    resumed.restore(state)
    assert_equal(take(uninterrupted, 4), take(resumed, 4))


def test_a_position_in_other_data_is_refused(task):
    state = batches(task).state()
    with pytest.raises(UserError, match="is for seed 0, now it is 1"):
        batches(task, seed=1).restore(state)
    with pytest.raises(UserError, match="batch_size"):
        batches(task, batch_size=8).restore(state)


def test_a_position_in_a_file_of_another_kind_is_refused(tmp_path, vocabulary_path):
    """Two documents or one of equal bytes; what a version before began goes on."""

    def of(name):
        (tmp_path / name).write_bytes(b"text\nThe bus\n")
        return batches(corpora.documents_task(str(tmp_path / name), vocabulary_path))

    lines, table = of("x.txt"), of("x.csv")
    state = lines.state()
    assert lines.identity["source"]["read_as"] == [".txt"]
    with pytest.raises(UserError, match="position in the data is for source"):
        table.restore(state)
    lines.restore(state)
    del state["identity"]["source"]["read_as"]
    table.restore(state)


def test_processes_share_every_batch_without_overlap(task):
    shares = ([0, 3], [1], [2])
    streams = {
        "train": lambda rows: take(batches(task, rows=rows), 5),
        "validation": lambda rows: list(
            data.validation_batches(task, batch_size=4, length=32, rows=rows)
        ),
    }
    for stream in streams.values():
        whole = stream(None)
        parts = [stream(rows) for rows in shares]
        assert all(len(part) == len(whole) > 1 for part in parts)
        for step, batch in enumerate(whole):
            for name, expected in batch.items():
                together = np.empty_like(expected)
                for rows, part in zip(shares, parts, strict=True):
                    assert part[step][name].shape == (len(rows), 32)
                    together[rows] = part[step][name]
                np.testing.assert_array_equal(together, expected)


def test_a_position_is_the_same_for_any_share(task):
    some = batches(task, rows=[1])
    take(some, 3)
    whole = batches(task)
    whole.restore(json.loads(json.dumps(some.state())))
    assert_equal(take(whole, 2), take(batches(task), 5)[3:])


def test_validation_pads_its_last_batch(task):
    rows = round(data.batches_per_epoch(task, batch_size=1, length=32, split="validation"))
    found = list(data.validation_batches(task, batch_size=7, length=32))
    assert len(found) == -(-rows // 7)
    filled = (found[-1]["decoder_loss_weights"].sum(axis=1) > 0).sum()
    assert filled == rows - 7 * (len(found) - 1)
    assert len(list(data.validation_batches(task, batch_size=2, length=32, max_batches=3))) == 3


def own_mistake(split, shuffle_files, seed=None):
    raise KeyError("a mistake of its own")


def mapped_mistake(dataset):
    return dataset.map(lambda example: {"targets": example["text"]})


def of_ids(*ids, dtype="int32"):
    """A preprocessor that makes the same ids of every text."""

    def step(dataset):
        return dataset.map(lambda _: {"targets": tf.constant(ids, dtype)})

    return step


def test_tasks_that_no_model_can_be_trained_on(made):
    """Each is one line: no traceback, no feature that nobody reads, no id that XLA takes as NaN."""
    ids, eos = made.feature, seqio.preprocessors.append_eos
    lines = [made_by.__code__.co_firstlineno + 1 for made_by in (own_mistake, mapped_mistake)]
    wrong = {
        "task 't': its features are text, and none": made("t", output_features={"text": ids}),
        "'inputs' would not be read": made("q", output_features={"inputs": ids, "targets": ids}),
        "cannot be read: ValueError: .*targets.* its preprocessors are none": made(
            "raw", preprocessors=[]
        ),
        "read: ValueError: Fill .* its preprocessors are append_eos": made(
            "texts", preprocessors=[eos]
        ),
        "task 'floats' cannot be read: .*float32": made(
            "floats", preprocessors=[of_ids(0.5, dtype="float32")]
        ),
        f"'own' cannot be read: .*data_test.py, line {lines[0]}: KeyError: .*of its own": made(
            "own", read=own_mistake
        ),
        f"'mapped' cannot be read: .*data_test.py, line {lines[1]}: KeyError: 'text'": made(
            "mapped", preprocessors=[mapped_mistake]
        ),
        "'large' *: its 'targets' hold 9999, which is no token": made(
            "large", preprocessors=[of_ids(5, 9999)]
        ),
        "its 'targets' hold -7": made("negative", preprocessors=[of_ids(5, -7)]),
        "'none': its split 'train' has no text": made("none", preprocessors=[of_ids()]),
    }
    for said, task in wrong.items():
        with pytest.raises(UserError, match=said):
            next(batches(task))
    both = made.mixture("two", [("own", 1), ("large", 1)])
    with pytest.raises(UserError, match="task 'own' cannot be read"):
        next(batches(both))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        Unavailable("gs://bucket/file: no answer"),
        tf.errors.UnauthenticatedError(None, None, "the token has run out"),
    ],
)
def test_what_the_storage_refuses_is_no_mistake_of_a_task(made, error):
    def cut_off(split, shuffle_files, seed=None):
        raise error

    with pytest.raises(type(error)) as caught:
        next(batches(made("storage", read=cut_off)))
    assert caught.value is error


def test_mistakes(task, tmp_path, vocabulary_path):
    with pytest.raises(UserError, match="no split 'test'"):
        batches(task, split="test")
    empty = tmp_path / "e.jsonl"
    empty.write_text('{"id": "a", "text": "  "}\n')
    with pytest.raises(UserError, match="holds no text"):
        next(batches(corpora.documents_task(str(empty), vocabulary_path)))
    plain = seqio.Task(
        "plain",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    with pytest.raises(UserError, match="needs a vocabulary of tasks.vocabularies"):
        batches(plain)


def test_documents_are_answers_in_a_chat_template(tmp_path):
    """What generation reads in front of an answer stands there, and the answer alone has a loss."""
    vocabulary = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    rows = [
        {"id": "a", "text": SENTENCES[0], "prompt_text": "Say it"},
        {"id": "b", "text": SENTENCES[1]},
        {"id": "c", "text": " ".join(SENTENCES * 4)},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = corpora.documents_task(str(path), str(tmp_path))
    exchange = chat.exchange(vocabulary)
    assert exchange is not None
    pairs = [exchange.answered(row.get("prompt_text", ""), row["text"]) for row in rows]
    read, written = [], []
    for batch in data.validation_batches(task, batch_size=1, length=64, split="train"):
        inputs, targets, weights, segments = (
            batch[f"decoder_{name}"][0]
            for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids")
        )
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            np.testing.assert_array_equal(inputs[here][1:], targets[here][:-1])
            read.append(inputs[here].tolist())
            written.append(targets[weights * here == 1].tolist())
        assert not weights[segments == 0].any()
    for given, answer in pairs[:2]:
        assert [*given, *answer][:-1] in read and answer in written
    pieces = [ids for ids in written if ids not in (pairs[0][1], pairs[1][1])]
    assert len(pieces) > 1 and sorted(map(len, pieces))[-1] == 64
    assert sorted(sum(pieces, [])) == sorted(pairs[2][1])
    raw = corpora.documents_task(str(path), str(tmp_path), chat_template=False)
    assert seqio_tasks.is_of_answers(task) and not seqio_tasks.is_of_answers(raw)
    described = seqio_tasks.describe_source(task, "train")
    assert described == {
        **seqio_tasks.describe_source(raw, "train"),
        "chat_template": exchange.fingerprint,
    }
