"""The seqio tasks: every one gives valid examples; TFDS through its mock."""

import gzip
import json

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from detox_jax.errors import UserError
from detox_jax.training import seqio_tasks
from tasks import classification, corpora, prompts
from tasks.vocabularies import SeqioBPEVocabulary
from tests import tokenizers_made

TFDS_TASKS = [
    "civil_comments",
    "civil_comments_nontoxic",
    "jigsaw",
    "jigsaw_nontoxic",
    "real_toxicity_prompts",
    "lm1b",
]


@pytest.fixture(scope="module")
def vocabulary_path(tmp_path_factory, vocabulary):
    path = tmp_path_factory.mktemp("vocabulary")
    vocabulary.save(str(path))
    return str(path)


def examples(task, length=16):
    dataset = task.get_dataset(
        {"targets": length}, split="train", shuffle=False, try_in_mem_cache=False
    )
    return [row["targets"].tolist() for row in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("name", TFDS_TASKS)
def test_tfds_tasks(name, vocabulary_path, vocabulary):
    task = corpora.registered_task(name, vocabulary_path)
    assert seqio_tasks.tags_of(task) is None  # So that a probe behind tags is refused.
    with tfds.testing.mock_data(num_examples=30):
        rows = examples(task)
    if name.endswith("_nontoxic"):  # The mock draws its labels; an exact 0.0 may not be among them.
        task = corpora.registered_task(name.removesuffix("_nontoxic"), vocabulary_path)
        with tfds.testing.mock_data(num_examples=30):
            assert len(rows) < len(examples(task))
    else:
        assert rows
    for row in rows:
        assert 0 < len(row) <= 16
        assert all(0 < token < vocabulary.vocab_size for token in row)


def test_keep_nontoxic_keeps_labels_up_to_the_highest():
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices({"toxicity": [0.0, 0.2, 0.0, 1.0], "n": [0, 1, 2, 3]})
    kept = corpora.keep_nontoxic(rows, "toxicity")
    assert [row["n"] for row in kept.as_numpy_iterator()] == [0, 2]
    integers = tf.data.Dataset.from_tensor_slices({"toxicity": [0, 1], "n": [0, 1]})
    assert [
        row["n"] for row in corpora.keep_nontoxic(integers, "toxicity").as_numpy_iterator()
    ] == [0]


def test_what_is_trained_on_may_be_compressed_and_marked(tmp_path, vocabulary_path, vocabulary):
    """Of a glob of compressed documents, too, every file is found and hashed."""
    mark, ids = b"\xef\xbb\xbf", [*vocabulary.encode("Thanks!"), vocabulary.eos_id]
    for index in range(2):
        line = json.dumps({"id": str(index), "text": "Thanks!"}).encode()
        (tmp_path / f"d-{index}.jsonl.gz").write_bytes(gzip.compress(mark + line))
    task = corpora.documents_task(str(tmp_path / "d-?.jsonl.gz"), vocabulary_path)
    assert sum(examples(task), []) == ids * 2 and len(task.source.list_shards("train")) == 2
    for name, content in [("t.txt", mark + b"Thanks!"), ("t.gz", gzip.compress(b"Thanks!"))]:
        (tmp_path / name).write_bytes(content)
        assert examples(corpora.lines_task(str(tmp_path / name), vocabulary_path)) == [ids]


def test_documents_are_split_not_trimmed(tmp_path, vocabulary_path, vocabulary):
    text = "The bus was late again this morning. " * 9
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "a", "text": text}) + "\n")
    rows = examples(corpora.documents_task(str(tmp_path / "d.jsonl"), vocabulary_path))
    assert len(rows) > 2 and all(len(row) == 16 for row in rows[:-1])
    assert [token for row in rows for token in row] == [*vocabulary.encode(text), vocabulary.eos_id]


@pytest.mark.parametrize(
    ("factory", "content", "count"),
    [
        (corpora.lines_task, "one line\n\nanother line\n", 2),
        (corpora.paragraphs_task, "one\nparagraph\n\nanother\r\n\r\nthird", 3),
    ],
)
def test_plain_text(tmp_path, vocabulary_path, factory, content, count):
    (tmp_path / "t.txt").write_text(content, newline="")
    assert len(examples(factory(str(tmp_path / "t.txt"), vocabulary_path))) == count


def test_registered_names_read_the_environment(tmp_path, vocabulary_path, monkeypatch):
    task = seqio.TaskRegistry.get("documents")
    monkeypatch.delenv(corpora.DOCUMENTS_VARIABLE, raising=False)
    with pytest.raises(UserError, match="DETOX_JAX_DOCUMENTS"):
        examples(task)
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "Thanks!"}\n')
    monkeypatch.setenv(corpora.DOCUMENTS_VARIABLE, str(tmp_path / "d.jsonl"))
    monkeypatch.setenv("DETOX_JAX_VOCABULARY", vocabulary_path)
    assert len(examples(corpora.documents_task(None, None))) == 1


def test_a_bad_line_is_named(tmp_path, vocabulary_path):
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"\n')
    with pytest.raises(UserError, match=r"d.jsonl:2: malformed JSON"):
        examples(corpora.documents_task(str(tmp_path / "d.jsonl"), vocabulary_path))
    (tmp_path / "t.txt").write_bytes(b"fine\nnot \xff fine\n")
    with pytest.raises(UserError, match=r"t.txt:2: not UTF-8"):
        examples(corpora.lines_task(str(tmp_path / "t.txt"), vocabulary_path))


def test_unknown_registered_task():
    with pytest.raises(UserError, match="no task 'nope'"):
        corpora.registered_task("nope", None)


def test_vocabulary_contract(vocabulary_path, vocabulary):
    wrapped = SeqioBPEVocabulary(vocabulary_path)
    assert wrapped.vocab_size == vocabulary.vocab_size
    assert (wrapped.pad_id, wrapped.eos_id) == (0, vocabulary.eos_id)
    text = "Thanks \u2603 for \x00 it\U0001f600"
    ids = wrapped.encode(text)
    assert wrapped.encode_tf(text).numpy().tolist() == ids
    assert wrapped.decode(ids) == wrapped.decode_tf(np.array(ids)).numpy().decode() == text
    rows = np.array([ids, ids])
    assert [t.decode() for t in wrapped.decode_tf(rows).numpy()] == [text, text]
    assert wrapped == SeqioBPEVocabulary(vocabulary_path)


def test_predictions_keep_the_space_in_front(tmp_path):
    """T5X decodes what goes on from a prompt by itself, where LLaMA's tokenizer drops a space."""
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizers_made.write(
        tmp_path, tokenizers_made.byte_fallback_tokenizer(), tokenizer_config=settings
    )
    features = prompts.prompts_task("p.jsonl", str(tmp_path)).output_features
    inputs, targets = (features[name].vocabulary for name in ("inputs", "targets"))
    whole, prompt = inputs.encode("The bus late"), inputs.encode("The bus")
    behind, within = whole[len(prompt) :], inputs.bpe.encode("late")[1:]
    rows = np.array([[*behind, inputs.eos_id, 5], [*behind, 0, 0]])
    assert whole[: len(prompt)] == prompt
    assert [text.decode() for text in targets.decode_tf(rows).numpy()] == [" late", " late"]
    assert inputs.decode_tf(np.array(behind)).numpy() == b"late"
    assert targets.decode_tf(np.array(within)).numpy() == inputs.bpe.decode(within).encode()
    assert targets == inputs and inputs == targets and hash(targets) == hash(inputs)


@pytest.mark.parametrize(
    ("name", "tfds_name"),
    [
        ("civil_comments_nontoxic", "civil_comments:1.2.4"),
        ("jigsaw", "wikipedia_toxicity_subtypes:0.3.1"),
        ("civil_comments_labels", "civil_comments:1.2.4"),
    ],
)
def test_our_tasks_of_tfds_are_described_as_ever(name, tfds_name):
    """Runs that stopped, or are done, say this of their data."""
    assert classification.DATA_VARIABLE  # Which registers the last.
    expected = f"TfdsDataSource(tfds_dataset=LazyTfdsLoader(name={tfds_name}, data_dir=None))"
    assert seqio_tasks.describe_source(seqio.TaskRegistry.get(name), "train") == expected


def test_no_vocabulary(monkeypatch):
    monkeypatch.delenv("DETOX_JAX_VOCABULARY", raising=False)
    with pytest.raises(UserError, match="DETOX_JAX_VOCABULARY"):
        _ = SeqioBPEVocabulary().bpe


@pytest.mark.real
def test_exclamation_marks_keep_their_loss_under_gpt2(tmp_path, data_dir):
    """GPT-2's "!" is token 0, which seqio takes for padding; here nothing but padding is 0."""
    from detox_jax.training import data

    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "! ! !!!!"}\n')
    vocabulary = str(data_dir / "tokenizers" / "gpt2")
    task = corpora.documents_task(str(tmp_path / "d.jsonl"), vocabulary)
    (batch,) = data.validation_batches(task, batch_size=1, length=16, split="train")
    count = len(SeqioBPEVocabulary(vocabulary).encode("! ! !!!!")) + 1
    assert batch["decoder_loss_weights"].sum() == count
    assert (batch["decoder_target_tokens"] == 1).sum() >= 1


def test_token_zero_of_a_tokenizer_keeps_its_loss(tmp_path):
    """The same without the real files: a vocabulary whose first token is "!"."""
    from detox_jax.training import data

    (tmp_path / "vocab.json").write_text('{"!": 0, "a": 1, "<|endoftext|>": 2}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "!!!!"}\n')
    task = corpora.documents_task(str(tmp_path / "d.jsonl"), str(tmp_path))
    (batch,) = data.validation_batches(task, batch_size=1, length=8, split="train")
    assert batch["decoder_target_tokens"].tolist() == [[1, 1, 1, 1, 3, 0, 0, 0]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]


def test_documents_are_counted_without_those_that_hold_no_text(tmp_path, vocabulary_path):
    texts = ["The bus was late.", "  ", "Thanks!", "Good day."]
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    task = corpora.documents_task(str(tmp_path / "documents.jsonl"), vocabulary_path)
    assert task.source.count("train") == 3
