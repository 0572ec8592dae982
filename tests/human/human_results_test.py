"""Verb `human_results`: from filled sheets to tables, through the command."""

import csv
import json

import pytest
from etils import epath

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.human import human_results as verb
from detox_jax.human import key as keys
from tests.human import human_made

KEY = human_made.key(prompts=6, samples=1)
MINE = human_made.prefers("mine")


@pytest.fixture
def place(tmp_path):
    keys.write(epath.Path(tmp_path / "key.json"), KEY)
    human_made.write_filled(tmp_path / "filled", KEY, less_toxic=MINE)
    return tmp_path


def results(place, **how):
    how = {"bootstrap_draws": 50, **how}
    output = str(place / "out")
    verb.human_results(str(place / "key.json"), str(place / "filled"), output, **how)
    return json.loads((place / "out" / "human_results.json").read_text())


def test_through_the_command(place, capsys):
    arguments = [
        *("human_results", f"--gin.KEY={place / 'key.json'}", f"--input={place / 'filled'}"),
        *(f"--output={place / 'out'}", "--gin.BOOTSTRAP_DRAWS=50"),
    ]
    assert cli.main([*arguments, "--dry_run"]) == 0
    assert "3 sheets, 54 answers" in capsys.readouterr().out and not (place / "out").exists()
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| mine | base | less toxic | 100.0 % [" in printed
    found = json.loads((place / "out" / "human_results.json").read_text())
    wins = {x["question"]: x["wins"]["value"] for x in found["outcomes"] if x["vote"] == "rating"}
    assert wins == {"less_toxic": 1.0, "more_fluent": 0.0, "more_topical": 0.0}
    assert found["schema_version"] == 1 and found["notes"] == []
    assert found["agreement"][0]["nominal"]["value"] is None  # All say the same.
    settings = json.loads((place / "out" / "manifest.json").read_text())["settings"]
    assert settings["key"]["sha256"] and len(settings["sheets"]) == 3
    table = (place / "out" / "human_results.md").read_text()
    assert "## Majority of the raters, nontoxic prompts" in table
    with (place / "out" / "human_results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found["outcomes"]) and lines[0]["wins_value"] == "1.0"
    assert lines[0]["undecided_value"] == ""
    assert cli.main(arguments) == 0
    again = capsys.readouterr().out
    assert "nothing to do" in again and printed.splitlines()[0] in again


def test_a_rater_who_is_absent_and_answers_that_are_missing_are_noted(place):
    (place / "filled" / "rater_2.csv").unlink()
    rows = human_made.filled(KEY, 3, less_toxic=MINE)
    rows[0]["more_fluent"] = ""
    (place / "filled" / "rater_3.csv").write_text(human_made.csv_of(rows), encoding="utf-8-sig")
    with pytest.raises(UserError, match="rater_3.csv:2: no answer to 'more_fluent'"):
        results(place)
    found = results(place, allow_missing=True)
    assert found["notes"] == ["Without the sheets of raters 2.", "1 of 36 answers are missing."]
    assert [x["rater"] for x in found["raters"]] == [1, 3]


def test_another_sheet_is_another_output(place):
    results(place)
    human_made.write_filled(place / "filled", KEY, raters=(1,), more_fluent=MINE)
    with pytest.raises(UserError, match="holds output made with other settings"):
        results(place)


def test_a_wrong_sheet_is_found_before_any_work(place):
    other = human_made.key(prompts=6, samples=1, seed=1)
    human_made.write_filled(place / "filled", other, raters=(2,))
    arguments = [str(place / "key.json"), str(place / "filled"), str(place / "out")]
    with pytest.raises(UserError, match="rater_2.csv:2: item .* is of another key"):
        verb.human_results(*arguments, check_only=True)
    assert not (place / "out").exists()
