"""Pairs as records: written, read again, and read from files that were made for TRL."""

import json

import pytest

from detox_jax.errors import UserError
from detox_jax.toxicity import preferences
from detox_jax.toxicity.preferences import Likelihood, Pair, Side

PAIR = Pair(
    "p1",
    "The bus",
    Side(" was late.", 0.1, ends=False, reference=Likelihood(-2.5, 3)),
    Side(" driver is a moron.", 0.9, reference=Likelihood(-7.0, 6)),
    model="abc",
)
EXPLICIT = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def write(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def test_a_pair_comes_back_as_it_was_written(tmp_path):
    other = Pair("2+3", "", Side("a", id="2"), Side("b", id="3"))
    file = write(tmp_path / "pairs.jsonl", PAIR.to_json(), other.to_json())
    assert list(preferences.read(file)) == [PAIR, other]


def test_the_record_is_trls_with_fields_beside_it():
    value = PAIR.to_json()
    assert list(value)[:4] == ["id", "prompt", "chosen", "rejected"]
    assert value["chosen"] == " was late." and value["chosen_ends"] is False
    assert value["reference"]["rejected"] == {"log_likelihood": -7.0, "tokens": 6}
    # Columns of these names TRL would take for its own model's.
    assert not {"ref_chosen_logps", "ref_rejected_logps"} & value.keys()


def test_files_made_for_trl(tmp_path):
    implicit = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    unprompted = {"id": 7, "prompt": "", "chosen": "Nice.", "rejected": "Bad."}
    file = write(tmp_path / "trl.jsonl", EXPLICIT, implicit, unprompted)
    first, second, third = preferences.read(file)
    assert first.id == "trl.jsonl-1"
    for pair in (first, second):
        sides = pair.prompt, pair.chosen.text, pair.rejected.text
        assert sides == ("The sky is", " blue.", " green.")
    assert first.chosen.ends and first.model is None  # TRL puts end-of-text behind both sides.
    assert (third.id, third.prompt) == ("7", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, 'no text "chosen"'),
        ({"rejected": [{"role": "assistant", "content": "x"}]}, '"rejected" is a conversation'),
        ({"rejected": " \n"}, '"rejected" has no text'),
        ({"chosen": "<|endoftext|>"}, '"chosen" has no text'),
        ({"prompt": 3}, "\"prompt\" is '3'; expected text"),
        ({"prompt": None}, "begin differently, so they are of two prompts"),
        (
            {"chosen_prompt_id": "a", "rejected_prompt_id": "b"},
            "chosen belongs to prompt 'a', rejected to 'b'",
        ),
        ({"chosen_ends": 1}, '"chosen_ends" is 1; expected true or false'),
        ({"rejected_toxicity": 2}, '"rejected_toxicity" is 2; expected a number from 0 to 1'),
        ({"id": 1.5}, '"id" is 1.5; expected text'),
        ({"reference": {"model": "abc"}}, '"reference" is not what `pair` writes'),
        (
            {
                "reference": {
                    "model": "abc",
                    "chosen": {"log_likelihood": 0.5, "tokens": 1},
                    "rejected": {"log_likelihood": -0.5, "tokens": 1},
                }
            },
            '"reference" is not what `pair` writes',
        ),
    ],
)
def test_what_is_no_pair_names_its_line(tmp_path, change, said):
    wrong = {**EXPLICIT, "chosen": "blue", **change}
    file = write(tmp_path / "pairs.jsonl", {**EXPLICIT, "id": "1"}, wrong)
    with pytest.raises(UserError) as error:
        list(preferences.read(file))
    assert f"{file}:2: " in str(error.value) and said in str(error.value)


def test_an_id_that_comes_twice(tmp_path):
    file = write(tmp_path / "pairs.jsonl", {**EXPLICIT, "id": "1"}, {**EXPLICIT, "id": "1"})
    with pytest.raises(UserError, match=r"pairs.jsonl:2: id '1' is also that of .*:1$"):
        list(preferences.read(file))
