"""Questions out of a seqio task's examples."""

import pytest

from detox_jax.errors import UserError
from detox_jax.zero_shot import questions


def example(question="Is it?", answer=1):
    return {
        "inputs": [question.encode()] * 2,
        "targets": [b" no", " s\u00ed".encode()],
        "answer": answer,
        "lengths": [2, 2],
    }


def test_a_question_is_known_by_its_hash_and_how_often_it_came():
    parsed = questions.parse([example(), example("Was it?", 0), example(answer=0)], "t")
    first, other, again = parsed
    assert len(first) == 16 and first != other and again == f"{first}-2"
    assert parsed[first] == questions.Question(["Is it?"] * 2, [" no", " s\u00ed"], 1, [2, 2])
    assert (parsed[other].answer, parsed[again].answer) == (0, 0)
    assert list(questions.parse([example("Was it?")], "t")) == [other], "the same in any task"


@pytest.mark.parametrize("missing", ["inputs", "targets", "answer", "lengths"])
def test_a_task_without_choices_is_refused(missing):
    row = example()
    del row[missing]
    with pytest.raises(UserError, match=rf"task 't': its examples have no choices \('{missing}'\)"):
        questions.parse([row], "t")
    with pytest.raises(UserError, match="have no choices"):
        questions.parse([{**example(), "inputs": "text"}], "t")


def test_a_task_without_questions_is_refused():
    with pytest.raises(UserError, match="task 't': has no questions"):
        questions.parse([], "t")
