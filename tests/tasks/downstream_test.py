"""Zero-shot tasks: questions worked by hand, from files and from TFDS's features; mistakes."""

import json

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from detox_jax.errors import UserError
from tasks import downstream

# Of each benchmark: a line of its own file, the same as TFDS has it, and the question.
CASES = {
    "anli_r2": (
        {"uid": "1", "context": "It rained.", "hypothesis": "It was dry.", "label": "c"},
        {"uid": "1", "context": "It rained.", "hypothesis": "It was dry.", "label": 2},
        ["It rained.\nQuestion: It was dry. True, False, or Neither?\nAnswer:"] * 3,
        [" True", " Neither", " False"],
        2,
    ),
    "boolq": (
        {"question": "is ice cold", "passage": "Ice -- Frozen.", "idx": 0, "label": "true"},
        {"question": "is ice cold", "passage": "Ice -- Frozen.", "idx": 0, "label": 1},
        ["Ice -- Frozen.\nQuestion: is ice cold?\nAnswer:"] * 2,
        [" no", " yes"],
        1,
    ),
    "hellaswag": (
        {
            "activity_label": "Roof work",
            "ctx_a": "A man sits.  He waits.",
            "ctx_b": "the Man",
            "endings": ["[step] sings.", "is late [x]now.", "ate.", "hid."],
            "label": 1,
        },
        {
            "activity_label": "Roof work",
            "context": "A man sits.  He waits. the Man",
            "endings": ["[step] sings.", "is late [x]now.", "ate.", "hid."],
            "label": 1,
            "split_type": "indomain",
            "source_id": "activitynet~v_1",
        },
        ["Roof work: A man sits. He waits. The man"] * 4,
        ["  sings.", " is late now.", " ate.", " hid."],
        1,
    ),
    "lambada": (
        {"text": 'He said:\n\n"I saw\u2019em'},
        {"passage": 'He said:\n\n"I saw\u2019em\n'},
        ['He said:\n\n"I'],
        [" saw\u2019em"],
        0,
    ),
    "piqa": (
        {"goal": "Boil an egg.", "sol1": "Use water.", "sol2": "Use ü.", "label": 1},
        {"id": "1", "goal": "Boil an egg.", "sol1": "Use water.", "sol2": "Use ü.", "label": 1},
        ["Question: Boil an egg.\nAnswer:"] * 2,
        [" Use water.", " Use ü."],
        1,
    ),
    "race_h": (
        {
            "article": "Tom ran.",
            "questions": ["Who ran?", "He is  _  .", "Tom was _ ."],
            "options": [["Tom", "Ann", "Bo", "Al"], ["in", "up", "by", "at"], ["a", "b", "c", "d"]],
            "answers": ["A", "B", "D"],
        },
        {
            "article": "Tom ran.",
            "questions": ["Who ran?", "He is  _  .", "Tom was _ ."],
            "options": [["Tom", "Ann", "Bo", "Al"], ["in", "up", "by", "at"], ["a", "b", "c", "d"]],
            "answers": ["A", "B", "D"],
            "example_id": "high1.txt",
        },
        ["Article: Tom ran.\n\nQuestion: Who ran?\nAnswer: Tom\nHe is up\nTom was _ ."] * 4,
        [" a", " b", " c", " d"],
        3,
    ),
    "wic": (
        {
            **{"word": "bed", "sentence1": "é bed of roses", "sentence2": "go to bed"},
            **{"start1": 2, "end1": 5, "start2": 6, "end2": 9, "idx": 0, "label": False},
        },
        {
            **{"word": "bed", "sentence1": "é bed of roses", "sentence2": "go to bed"},
            **{"start1": 2, "end1": 5, "start2": 6, "end2": 9, "idx": 0, "label": 0},
        },
        [
            "Sentence 1: é bed of roses\nSentence 2: go to bed\nQuestion: Is the word 'bed' used "
            "in the same way in the two sentences above?\nAnswer:"
        ]
        * 2,
        [" no", " yes"],
        0,
    ),
    "winogrande": (
        {"sentence": "The cup beat the can as _ was new.", "option1": "cup", "option2": "can"}
        | {"answer": "2", "qID": "1"},
        {"sentence": "The cup beat the can as _ was new.", "option1": "cup", "option2": "can"}
        | {"label": 1},
        ["The cup beat the can as cup", "The cup beat the can as can"],
        [" was new."] * 2,
        1,
    ),
    "arc_easy": (
        {
            "id": "1",
            "question": {
                "stem": "What is hot?",
                "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}],
            },
            "answerKey": "B",
        },
        {
            "id": "1",
            "question": "What is hot?",
            "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        ["Question: What is hot?\nAnswer:"] * 2,
        [" ice", " fire"],
        1,
    ),
}
HANS = "gold_label\tsentence1_parse\tsentence1\tsentence2\tpairID\n"
HANS += 'non-entailment\t(ROOT "x)\tThe judge slept.\tThe "cat slept.\tex0\n'


def questions(task):
    dataset = task.get_dataset(None, split="test", shuffle=False, try_in_mem_cache=False)
    return list(dataset.as_numpy_iterator())


def check(row, inputs, targets, answer):
    assert [text.decode() for text in row["inputs"]] == inputs
    assert [text.decode() for text in row["targets"]] == targets
    assert row["answer"] == answer
    assert row["lengths"].tolist() == [len(text) - 1 for text in targets]


def write(directory, name, *records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (directory / downstream.BENCHMARKS[name].file).write_text(lines)
    return str(directory)


@pytest.mark.parametrize("name", CASES)
def test_question_from_the_benchmarks_own_file(name, tmp_path):
    record, _, *expected = CASES[name]
    (task,) = downstream.tasks([name], write(tmp_path, name, record, record))
    rows = questions(task)
    assert len(rows) == 2
    check(rows[1], *expected)


@pytest.mark.parametrize("name", CASES)
def test_question_from_tfds(name):
    """Records pass through the dataset's own features, so their names and types are TFDS's."""
    _, record, *expected = CASES[name]

    def as_dataset(self, *args, **kwargs):
        features = self.info.features
        assert downstream.BENCHMARKS[name].split in ("validation", "test")
        example = features.serialize_example(features.encode_example(record))
        return tf.data.Dataset.from_tensors(example).map(features.deserialize_example)

    (task,), (again,) = downstream.tasks([name]), downstream.tasks([name])
    assert task.source.describe("test") == again.source.describe("test")
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        (row,) = questions(task)
    check(row, *expected)


def test_hans_is_read_from_its_table(tmp_path):
    (tmp_path / "heuristics_evaluation_set.txt").write_text(HANS)
    (task,) = downstream.tasks(("hans",), str(tmp_path))
    (row,) = questions(task)
    prompt = 'The judge slept.\nQuestion: The "cat slept. True or False?\nAnswer:'
    check(row, [prompt] * 2, [" True", " False"], 1)


def test_piqas_labels_lie_beside_it(tmp_path):
    record = {"goal": "g", "sol1": "a", "sol2": "b"}
    write(tmp_path, "piqa", record, record)
    (tmp_path / "piqa_labels.lst").write_text("0\n1\n")
    (task,) = downstream.tasks(["piqa"], str(tmp_path))
    assert [row["answer"] for row in questions(task)] == [0, 1]
    digest = task.source.describe("test")
    (tmp_path / "piqa_labels.lst").write_text("1\n1\n")
    assert task.source.describe("test") != digest
    (tmp_path / "piqa_labels.lst").write_text("1\n")
    with pytest.raises(UserError, match="1 labels for 2 questions"):
        questions(task)


MISTAKES = {
    "field": ({"goal": "g", "sol1": "a", "label": 0}, r"piqa.jsonl:1: no field 'sol2'"),
    "unlabelled": ({"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "has no answer"),
    "label": ({"goal": "g", "sol1": "a", "sol2": "b", "label": "x"}, "piqa.jsonl:1: not a quest"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_record_is_named(mistake, tmp_path):
    record, message = MISTAKES[mistake]
    (task,) = downstream.tasks(["piqa"], write(tmp_path, "piqa", record))
    with pytest.raises(UserError, match=message):
        questions(task)


def test_tasks_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.delenv(downstream.DIRECTORY_VARIABLE, raising=False)
    with pytest.raises(UserError, match="no task 'piqua'; there are anli_r2, boolq"):
        downstream.tasks(["piqua"])
    with pytest.raises(UserError, match=r"give a list: \['piqa'\]"):
        downstream.tasks("piqa")
    with pytest.raises(UserError, match="no such directory"):
        downstream.tasks(["piqa"], str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heuristics_evaluation_set.txt").touch()
    for nowhere in (None, ""):  # Neither is the directory of the run.
        (task,) = downstream.tasks(["hans"], nowhere)
        with pytest.raises(UserError, match="heuristics_evaluation_set.txt: set TASKS_DIR"):
            questions(task)
    (tmp_path / "heuristics_evaluation_set.txt").unlink()
    (task,) = downstream.tasks(["hans"], str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        questions(task)


def test_tfds_without_network_is_one_line():
    def as_dataset(self, *args, **kwargs):
        raise AssertionError("could not find data\nin the directory")

    (task,) = downstream.tasks(["piqa"])
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        with pytest.raises(UserError, match="TFDS cannot read piqa:1.0.0: could not find data;"):
            questions(task)
