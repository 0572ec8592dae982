"""Scored choices: likelihoods against a plain computation, the verb, resumption, mistakes."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.zero_shot import choices
from detox_jax.zero_shot.likelihood import LikelihoodReader
from tests.conftest import SENTENCES, random_params
from tests.tokenizers_made import START_PROCESSOR

PAIRS = [
    ("The bus was ", "late again"),  # The space belongs to the second.
    ("The bus was", " late again"),
    ("The bus was", " early"),
    *(("Is it?\nAnswer:", f" {word}") for word in ("a", "b", "c", "d", "e", "f")),  # Two rows.
    ("", "What a lamp."),
    (" ".join(SENTENCES * 3), " the lamp"),  # Beyond the context of 64.
]


@pytest.fixture(scope="module")
def reader(config):
    model, params = random_params(config)
    return LikelihoodReader(model, params, meshes.create_mesh(), 3, config.max_length)


@pytest.fixture(scope="module")
def plain(config):
    """The likelihood of one pair, computed for itself."""
    model, params = random_params(config)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))

    def likelihood(context, target):
        ids = [*context, *target][-(config.max_length + 1) :]
        inputs = np.zeros((1, config.max_length), np.int32)
        inputs[0, : len(ids) - 1] = ids[:-1]
        logits = np.asarray(apply(inputs)[0], np.float64)
        total, greedy = 0.0, True
        for place in range(len(ids) - len(target), len(ids)):
            row = logits[place - 1]
            total += row[ids[place]] - row.max() - np.log(np.exp(row - row.max()).sum())
            greedy &= int(row.argmax()) == ids[place]
        return total, greedy

    return likelihood


def test_likelihoods_equal_a_plain_computation(reader, plain, vocabulary):
    pairs = choices.encode(vocabulary, PAIRS, None)
    assert len(pairs[-1][0]) > 64
    # What the model would write by itself, and the same but for its last token.
    context = pairs[0][0]
    first = next(i for i in range(1, 350) if plain(context, [i])[1])
    second = next(i for i in range(1, 350) if plain([*context, first], [i])[1])
    pairs += [(context, [first, second]), (context, [first, second % 349 + 1])]
    expected = [plain(*pair) for pair in pairs]
    found = reader(pairs)
    np.testing.assert_allclose(
        [each.log_probability for each in found], [value for value, _ in expected], atol=1e-3
    )
    assert [each.is_greedy for each in found] == [greedy for _, greedy in expected]
    assert [each.is_greedy for each in found[-2:]] == [True, False]


def test_tokens_are_the_harnesss(vocabulary):
    (moved, together, _, *_, empty, _) = choices.encode(vocabulary, PAIRS, None)
    assert moved == together, "white space that ends a context belongs to the target"
    assert [*moved[0], *moved[1]] == vocabulary.encode("The bus was late again")
    assert empty[0] == [vocabulary.bos_id]
    (started, *_) = choices.encode(vocabulary, PAIRS, True)
    assert started == ([vocabulary.bos_id, *moved[0]], moved[1])
    with pytest.raises(UserError, match="has no token of its own"):
        choices.encode(vocabulary, [("a", "")], None)


def test_a_continuation_beyond_the_context_is_refused(reader):
    with pytest.raises(UserError, match="has 65 tokens, but the model reads 64"):
        reader([([1], [1] * 65)])


# --- the verb ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two tasks; one question of PIQA is asked twice, and one is too long for the model."""
    directory = tmp_path_factory.mktemp("tasks")
    solutions = [("Take the lamp.", "Buy it again, moron."), ("No.", "What a garden that was.")]
    piqa = [
        {"goal": "See the garden.", "sol1": one, "sol2": two, "label": i}
        for i, (one, two) in enumerate([*solutions, solutions[0], ("x", "late " * 90)])
    ]
    for i, record in enumerate(piqa[2:], start=1):
        record["label"] = i % 2
    lambada = [{"text": sentence} for sentence in SENTENCES]
    for name, records in {"piqa": piqa, "lambada": lambada}.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (directory / f"{name}.jsonl").write_text(lines)
    return directory


def run(out, model_dir, files, *flags, tasks="['piqa', 'lambada']"):
    flags = [f"--gin.CHECKPOINT_PATH={model_dir}", f"--gin.OUTPUT_DIR={out}", *flags]
    return cli.main(["choices", f"--gin.TASKS={tasks}", f"--gin.TASKS_DIR={files}", *flags])


@pytest.fixture(scope="module")
def answered(tmp_path_factory, model_dir, files):
    out = tmp_path_factory.mktemp("answered") / "out"
    assert run(out, model_dir, files) == 0
    return out


def rows_of(out, task):
    return [json.loads(x) for x in (out / f"{task}-00000-of-00001.jsonl").open()]


def test_answers_are_the_likeliest_choices(answered, plain, vocabulary, files):
    rows = rows_of(answered, "piqa")
    records = [json.loads(line) for line in (files / "piqa.jsonl").open()]
    for row, record in zip(rows[:3], records, strict=False):
        texts = [
            (f"Question: {record['goal']}\nAnswer:", f" {record[k]}") for k in ("sol1", "sol2")
        ]
        expected = [plain(*pair)[0] for pair in choices.encode(vocabulary, texts, None)]
        np.testing.assert_allclose(row["log_likelihoods"], expected, atol=1e-3)
        lengths = [len(record[k]) for k in ("sol1", "sol2")]
        assert row["correct"] == (np.argmax(expected) == record["label"])
        norm = np.argmax(np.array(expected) / lengths)
        assert row["correct_norm"] == (norm == record["label"])
    assert len({row["correct"] for row in rows[:3]}) == 2, "some right, some wrong"
    assert any(row["correct"] != row["correct_norm"] for row in rows[:3])
    assert rows[3]["correct"] is None and not rows[3]["log_likelihoods"]
    assert len({row["id"] for row in rows}) == 4
    assert rows[2]["id"] == rows[0]["id"] + "-2"


def test_accuracies_are_the_shares_of_right_answers(answered):
    found = json.loads((answered / "accuracies.json").read_text())
    piqa, lambada = found["tasks"]["piqa"], found["tasks"]["lambada"]
    right = [row["correct"] for row in rows_of(answered, "piqa")[:3]]
    assert (piqa["questions"], piqa["left_out_too_long"], piqa["chance"]) == (3, 1, 0.5)
    assert piqa["accuracy"]["value"] == pytest.approx(np.mean(right))
    error = np.std(right, ddof=1) / np.sqrt(3)
    assert piqa["accuracy"]["standard_error"] == pytest.approx(error)
    rows = rows_of(answered, "lambada")
    assert lambada["accuracy"]["value"] == np.mean([row["greedy"][0] for row in rows])
    mean = np.mean([row["log_likelihoods"][0] for row in rows])
    assert lambada["perplexity"] == pytest.approx(np.exp(-mean))
    average = (piqa["accuracy"]["value"] + lambada["accuracy"]["value"]) / 2
    assert found["average"] == {"name": "average_accuracy", "value": pytest.approx(average)}


def test_killed_and_rerun_gives_the_same_bytes(answered, tmp_path, model_dir, files, monkeypatch):
    compute, calls = choices.answer, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(choices, "answer", killed)
    out = tmp_path / "out"
    assert run(out, model_dir, files) == 130
    assert not (out / "accuracies.json").exists()
    assert run(out, model_dir, files) == 0
    assert len(calls) == 3, "the first task's answers were kept"
    for name in ("piqa-00000-of-00001.jsonl", "lambada-00000-of-00001.jsonl", "accuracies.json"):
        assert (out / name).read_bytes() == (answered / name).read_bytes()


@pytest.fixture
def asked(monkeypatch):
    """The number of questions of each task that is asked, in order."""
    compute, asked = choices.answer, []

    def answer(questions, *arguments):
        asked.append(len(questions))
        return compute(questions, *arguments)

    monkeypatch.setattr(choices, "answer", answer)
    return asked


def test_a_task_that_is_added_is_asked_and_the_others_are_kept(
    answered, asked, tmp_path, model_dir, files, capsys
):
    out = tmp_path / "out"
    assert run(out, model_dir, files, tasks="['lambada']") == 0
    assert run(out, model_dir, files, "--dry_run") == 0
    assert "to do  choices" in capsys.readouterr().out
    assert run(out, model_dir, files) == 0
    assert asked == [6, 4], "what was answered is not asked again"
    names = {path.name for path in answered.iterdir()} - {"config.gin"}
    assert {name: (out / name).read_bytes() for name in names} == {
        name: (answered / name).read_bytes() for name in names
    }
    assert run(out, model_dir, files, "--dry_run") == 0
    assert "done   choices" in capsys.readouterr().out
    # What is finished stays: a shorter list is another output.
    assert run(out, model_dir, files, tasks="['piqa']") == 2
    assert "(tasks.lambada: given there, absent now)" in capsys.readouterr().err


def test_a_task_is_not_added_to_answers_by_other_rules(
    asked, tmp_path, model_dir, files, capsys, monkeypatch
):
    """As those of a version that counted rows beyond the vocabulary; what is finished stays."""
    out = tmp_path / "out"
    assert run(out, model_dir, files, tasks="['lambada']") == 0
    monkeypatch.setattr(choices.identity, "text_rules", lambda path: {"text_rules": 2})
    assert run(out, model_dir, files, tasks="['lambada']") == 0
    for more in (["--dry_run"], []):
        assert run(out, model_dir, files, *more) == 2
        assert "(text_rules: absent there, 2 now)" in capsys.readouterr().err
    assert asked == [6]


def test_a_task_is_not_added_to_answers_behind_another_start(
    asked, tmp_path, model_dir, files, capsys
):
    """What the tokenizer puts before a text is no part of the vocabulary's fingerprint."""
    out, model = tmp_path / "out", shutil.copytree(model_dir, tmp_path / "model")
    assert run(out, model, files, tasks="['lambada']") == 0
    file = model / "vocabulary" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": START_PROCESSOR}))
    for more in (["--dry_run"], []):
        assert run(out, model, files, *more) == 2
        assert "(tokens_around" in capsys.readouterr().err
    assert asked == [6]


def test_a_task_that_changed_is_not_gone_on_with(tmp_path, model_dir, files, capsys):
    copy, out = tmp_path / "files", tmp_path / "out"
    shutil.copytree(files, copy)
    assert run(out, model_dir, copy, tasks="['lambada']") == 0
    (copy / "lambada.jsonl").write_text(json.dumps({"text": SENTENCES[0]}) + "\n")
    assert run(out, model_dir, copy) == 2
    assert "holds output made with other settings (tasks.lambada" in capsys.readouterr().err


def test_a_task_that_cannot_be_asked_is_left_out_as_the_line_says(
    asked, tmp_path, model_dir, files, capsys
):
    copy, out = tmp_path / "files", tmp_path / "out"
    shutil.copytree(files, copy)
    long = {"goal": "x", "sol1": "late " * 90, "sol2": "late " * 90, "label": 0}
    (copy / "piqa.jsonl").write_text(json.dumps(long) + "\n")
    assert run(out, model_dir, copy, tasks="['lambada', 'piqa']") == 2
    assert "leave the task out" in capsys.readouterr().err
    assert run(out, model_dir, copy, tasks="['lambada']") == 0
    assert asked == [6, 1], "the first task's answers were kept"
    assert json.loads((out / "manifest.json").read_text())["complete"]


def test_mistakes_are_one_line(tmp_path, model_dir, files, capsys):
    mistakes = {
        "TASKS: no task 'piqua'": {"tasks": "['piqua']"},
        "TASKS is empty": {"tasks": "()"},
        "give a list": {"tasks": "'piqa'"},
        "nowhere: no such checkpoint": {"model_dir": tmp_path / "nowhere"},
        "nowhere: no such directory": {"files": tmp_path / "nowhere"},
        "BATCH_SIZE: must be at least 1": {"flags": ["--gin.BATCH_SIZE=0"]},
    }
    for message, changes in mistakes.items():
        given = {"model_dir": model_dir, "files": files, "tasks": "['piqa']", **changes}
        flags = given.pop("flags", [])
        assert run(tmp_path / "out", given.pop("model_dir"), given.pop("files"), *flags, **given)
        error = capsys.readouterr().err
        assert error.startswith("detox-jax: error: ") and error.count("\n") == 1, error
        assert message in error
    assert not (tmp_path / "out").exists()


def test_a_task_that_is_named_twice_is_asked_and_counted_once():
    assert choices._listed(("piqa", "lambada", "piqa")) == ["piqa", "lambada"]


def test_a_perplexity_beyond_all_numbers_is_infinite():
    """And not the largest that a number holds, as if it had been measured."""
    row = {"correct": False, "correct_norm": False, "greedy": [False]}
    figures = choices._figures([{**row, "log_likelihoods": [-800.0]}])
    assert figures["perplexity"] == math.inf
