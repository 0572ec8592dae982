"""Tasks of labelled text: TFDS' columns, our JSON Lines, what is held out."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from detox_jax import output_settings, preview, records
from detox_jax.classifiers import labelled_fit
from detox_jax.errors import UserError
from detox_jax.toxicity import labelled
from detox_jax.training import seqio_tasks
from tasks import classification

# A record of each dataset, with all the columns of its TFDS builder.
CIVIL = {
    "text": ["You are an idiot.", "  \n", "Good day"],
    "id": ["1", "2", "3"],
    "parent_text": ["", "", ""],
    "parent_id": [0, 0, 0],
    "article_id": [1, 1, 1],
    "publication_id": ["x", "x", "x"],
    "created_date": ["2017", "2017", "2017"],
    "toxicity": [0.8, 0.0, 0.1],
    "severe_toxicity": [0.0, 0.0, 0.0],
    "obscene": [0.1, 0.0, 0.0],
    "threat": [0.0, 0.0, 0.0],
    "insult": [0.75, 0.0, 0.05],
    "identity_attack": [0.2, 0.0, 0.0],
    "sexual_explicit": [0.3, 0.0, 0.0],
}
_NOT_IN_JIGSAW = ("parent_", "article", "publi", "created", "sexual")
JIGSAW = {
    **{name: column for name, column in CIVIL.items() if not name.startswith(_NOT_IN_JIGSAW)},
    "language": ["en", "en", "en"],
}
RECORDS = {
    "civil_comments_labels": ("civil_comments", CIVIL),
    "jigsaw_labels": ("wikipedia_toxicity_subtypes", JIGSAW),
}


@pytest.mark.parametrize("name", RECORDS)
def test_columns_of_tfds_become_labels(name, tmp_path):
    builder_name, columns = RECORDS[name]
    features = tfds.builder(builder_name, data_dir=str(tmp_path)).info.features
    assert set(features) == set(columns)
    task = classification.labelled_task(("insult", "toxicity"), registered=name)
    assert set(task.splits) == {"train", "validation"}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    for preprocess in task.preprocessors:
        dataset = preprocess(dataset)
    first, second = dataset.as_numpy_iterator()
    assert first["text"] == b"You are an idiot." and second["text"] == b"Good day"
    np.testing.assert_allclose(first["labels"], [0.75, 0.8])
    assert first["weight"] == 1.0 and first.keys() == {"text", "labels", "weight"}


@pytest.mark.parametrize("name", RECORDS)
def test_registered_by_name_with_all_labels(name):
    task = seqio.TaskRegistry.get(name)
    (example, _) = task.preprocessors[0](
        tf.data.Dataset.from_tensor_slices(RECORDS[name][1])
    ).as_numpy_iterator()
    assert len(example["labels"]) == (7 if name.startswith("civil") else 6)
    assert task.source.tfds_dataset.name.split(":")[0] == RECORDS[name][0]


def _write(path, count=40):
    lines = [
        {"id": str(i), "text": f"text {i}", "toxicity": i / 100, "rude": 1} for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def _texts(task, split):
    return {example["text"].decode() for example in seqio_tasks.examples(task, split)}


def test_one_document_in_five_is_held_out(tmp_path):
    task = classification.labelled_task(("rude", "toxicity"), _write(tmp_path / "a.jsonl"))
    train, held_out = _texts(task, "train"), _texts(task, "validation")
    assert not train & held_out and len(train | held_out) == 40
    assert 3 <= len(held_out) <= 14
    example = next(iter(seqio_tasks.examples(task, "train")))
    number = int(example["text"].decode().split()[1])
    np.testing.assert_allclose(example["labels"], [1.0, number / 100], rtol=1e-6)


def test_no_text_is_both_trained_on_and_held_out(tmp_path, capsys):
    """Copies have ids of their own, whose hashes part them; what is trained on stays."""
    path = tmp_path / "a.jsonl"
    texts = [*("Thank you!" for _ in range(10)), "thank  you!", *(f"text {i}" for i in range(40))]
    path.write_text("".join(f"{json.dumps({'text': text, 'toxicity': 0})}\n" for text in texts))
    task = classification.labelled_task(files=str(path))
    train, held_out = _texts(task, "train"), _texts(task, "validation")
    assert "Thank you!" in train and held_out
    assert not {" ".join(text.lower().split()) for text in train} & held_out
    assert "thank  you!" not in held_out
    source = task.source
    read = list(classification.read_documents(str(path), ("toxicity",), 0))
    copies = len(read) - source.count("validation")
    assert copies > 0 and f"{copies} of {len(read)} texts are trained" in capsys.readouterr().err
    assert source.count("train") == len(texts) - len(read)
    # Finished outputs stay: of these the hash is as ever, and the mark is one of rules.
    described = source.describe("validation")
    assert described.pop(output_settings.TEXT_RULES) == 2 and described["texts"] == len(read)
    assert output_settings.TEXT_RULES not in source.describe("train")
    apart = classification.labelled_task(files=str(path), validation_files=str(path))
    assert apart.source.count("validation") == len(texts)


def test_texts_that_are_all_trained_on_are_held_out_with_a_warning(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Thanks", "toxicity": 0}\n' * 40)
    task = classification.labelled_task(files=str(path))
    assert _texts(task, "validation") == {"Thanks"}
    said = "texts are trained on too, so that its figures say nothing of others"
    assert capsys.readouterr().err.count(said) == 1


def test_labels_of_a_table_are_numbers(tmp_path):
    """Such as Jigsaw's train.csv."""
    path = tmp_path / "d.csv"
    path.write_text('id,comment_text,toxic,insult\n1,"a, b",1,0\n2,c,0,0.5\n')
    chosen = f"{path}#text=comment_text"
    texts = list(classification.read_documents(chosen, ("toxic", "insult"), None))
    assert [(t.text, t.labels) for t in texts] == [("a, b", (1.0, 0.0)), ("c", (0.0, 0.5))]
    for cell, message in [("", "has no label 'insult'"), ("much", "'insult' is 'much'")]:
        path.write_text(f"id,comment_text,toxic,insult\n1,a,1,{cell}\n")
        with pytest.raises(UserError, match=message):
            list(classification.read_documents(chosen, ("toxic", "insult"), None))


def test_documents_without_a_score_are_left_out_and_counted(tmp_path, capsys):
    """As `steer`, `filter` and the others have it; where a label is the user's own it is missed."""
    path = tmp_path / "scored.jsonl"
    rows = [
        {"id": str(i), "text": f"t {i}", "toxicity": [0.5, None][i % 2], "rude": 1}
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = list(classification.read_documents(str(path), ["toxicity"], None))
    assert [(t.text, t.labels) for t in read] == [("t 0", (0.5,)), ("t 2", (0.5,))]
    said = f"warning: {path}: 2 of 4 documents have no score and are left out"
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="record '1' has no label 'toxicity'; every record needs"):
        list(classification.read_documents(str(path), ("toxicity", "rude"), None))
    path.write_text('{"id": "a", "text": "t"}\n')
    with pytest.raises(UserError, match=f"{path}: none of its 1 documents has a score; run `score"):
        list(classification.read_documents(str(path), ("toxicity",), None))


def test_a_validation_file_holds_nothing_else_out(tmp_path):
    files = _write(tmp_path / "a.jsonl"), _write(tmp_path / "b.jsonl", 3)
    task = classification.labelled_task(("toxicity",), *files)
    assert len(_texts(task, "train")) == 40 and len(_texts(task, "validation")) == 3
    described = (
        seqio_tasks.describe_source(task, "train"),
        seqio_tasks.describe_source(task, "validation"),
    )
    assert described[0]["texts"] == 40 and described[0]["sha256"] != described[1]["sha256"]


def test_settings_say_which_labels_of_a_registered_task_are_learnt(tmp_path):
    """Its source is told by the name of the data set alone."""
    found = []
    for label in ("toxicity", "insult"):
        task = classification.labelled_task((label,), registered="civil_comments_labels")
        found.append(labelled_fit.described(task))
    first, second = found
    assert first == {**second, "task_labels": ["toxicity"]} != second
    files = classification.labelled_task(files=_write(tmp_path / "a.jsonl"))
    assert sorted(labelled_fit.described(files)) == ["train", "validation"]


def test_settings_say_what_the_labelled_texts_of_a_mixture_are(tmp_path):
    first, second = (
        classification.labelled_task(files=_write(tmp_path / f"{name}.jsonl")).replace(name=name)
        for name in ("first", "second")
    )
    both = seqio.Mixture("both", [(first, 1.0), (second, 1.0)])
    assert labelled_fit.described(both) == {
        split: [(task.name, task.source.describe(split)) for task in (first, second)]
        for split in ("train", "validation")
    }
    task = classification.labelled_task(("insult",), registered="civil_comments_labels")
    mixed = seqio.Mixture("mixed", [(first, 1.0), (task, 1.0)])
    assert labelled_fit.described(mixed)["task_labels"] == ["insult"]


def test_the_embedded_scorers_text_and_weights(monkeypatch):
    examples = [
        labelled.Example("good day", 0.05, 2.0, "neutral", False, 0),
        labelled.Example("you idiot", 0.8, 20.0, "rtp", False, 0),
        labelled.Example("late again", 0.1, 1.0, "rtp", True, 0),
    ]
    monkeypatch.setattr(labelled, "read_examples", lambda path: examples)
    monkeypatch.setenv("DETOX_JAX_DATA", "somewhere")
    task = classification.labelled_task()
    first, second = seqio_tasks.examples(task, "train")
    assert first["text"] == b"good day" and first["weight"] == 2.0
    assert second["labels"] == pytest.approx([0.8]) and second["weight"] == 20.0
    assert _texts(task, "validation") == {"late again"}
    with pytest.raises(UserError, match="has toxicity alone"):
        classification.labelled_task(("insult",))


def test_an_empty_file_of_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": " ", "toxicity": 0.1}\n')
    task = classification.labelled_task(("toxicity",), str(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="no labelled text for the split 'train'"):
        seqio_tasks.describe_source(task, "train")


def test_a_split_without_text_is_told_by_its_file(tmp_path):
    file = _write(tmp_path / "a.jsonl", 1)
    held_out = min(records.stable_hash("0") % 5, 1) == 0
    splits = {"train": "all of its documents are held out", "validation": "none of its documents"}
    empty = "train" if held_out else "validation"
    with pytest.raises(UserError, match=f"{file}: .*{empty}.*: {splits[empty]}.*VALIDATION_INPUT"):
        seqio_tasks.describe_source(classification.labelled_task(files=file), empty)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"files": "a", "data_dir": "b"}, "DATA_DIR is b and INPUT is a; set one of the two"),
        ({"registered": "jigsaw_labels", "data_dir": "b"}, "DATA_DIR is b and TASK_NAME is jig"),
        ({"data_dir": "b", "validation_files": "c"}, "VALIDATION_INPUT is c, which only texts of"),
        ({"registered": "jigsaw_labels", "validation_files": "c"}, "VALIDATION_INPUT is c, which"),
    ],
)
def test_places_that_would_not_be_read_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        classification.labelled_task(**given)


def test_training_is_called_by_the_place_of_its_text(tmp_path):
    """As `sgeat` calls it: with text that is there, and before it is."""
    path = tmp_path / "scored.jsonl"
    rows = [{"id": str(n), "text": f"Text {n}", "toxicity": n / 20} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    called = []

    def train(**given):
        texts = seqio_tasks.count_documents(given.pop("task"))
        called.append({**given, "texts": texts})

    def ask(**given):
        return classification.train_on_scored(
            checkpoint_path="base", output_dir="out", train=train, **given
        )

    assert ask(input=str(path)) is None
    (given,) = called
    held_out = sum(records.stable_hash(row["id"]) % 5 == 0 for row in rows)
    assert given == {
        "checkpoint_path": "base",
        "output_dir": "out",
        "check_only": False,
        "texts": 20 - held_out,
    }
    (step,) = ask(input=preview.Coming("scored"), check_only=True) or ()
    assert (step.verb, step.output_dir, len(called)) == ("train", "out", 1)
