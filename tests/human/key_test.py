"""The key on disk: it comes back as it was, and a damaged one is one line."""

import dataclasses
import json

import pytest
from etils import epath

from detox_jax.errors import UserError
from detox_jax.human import key as keys
from tests.human import human_made

KEY = human_made.key(prompts=2)


@pytest.fixture
def file(tmp_path):
    keys.write(epath.Path(tmp_path / "key.json"), KEY)
    return tmp_path / "key.json"


def test_a_key_comes_back_as_it_was(file):
    assert keys.read(str(file)) == KEY


def change(value, path, new):
    *places, last = path
    for place in places:
        value = value[place]
    value[last] = new


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        (["schema_version"], 2, "schema_version 2, this detox-jax reads 1"),
        (["comparisons", 0, "pair"], 1, "a comparison of a pair that is not there"),
        (["sheets", 0, "rows", 0, "comparison"], 99, "a row of a comparison that is not there"),
        (["sheets", 0, "rows", 0, "method_side"], "C", "expected one of A, B, got 'C'"),
        (["sheets", 0, "rows", 0, "extra"], "C", "extra: no such field"),
        (["comparisons", 0, "method_text"], None, "method_text: is missing"),
    ],
)
def test_a_damaged_key_is_one_line_that_names_the_file(file, path, new, said):
    value = json.loads(file.read_text())
    change(value, path, new)
    file.write_text(json.dumps(value))
    with pytest.raises(UserError) as error:
        keys.read(str(file))
    assert str(error.value).startswith(f"{file}: ") and said in str(error.value)


def test_an_item_stands_once():
    twice = (*KEY.sheets, dataclasses.replace(KEY.sheets[0], rater=4))
    with pytest.raises(ValueError, match="an item that stands twice"):
        dataclasses.replace(KEY, sheets=twice)


def test_a_key_that_is_not_there_or_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match="nosuch: no such file; give the OUTPUT_DIR of"):
        keys.read(str(tmp_path / "nosuch"))
    with pytest.raises(UserError, match="not an output of detox-jax"):
        keys.read(str(tmp_path))
    manifest = {"verb": "human_sheets", "complete": False, "settings": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="unfinished; rerun the command"):
        keys.read(str(tmp_path))


def test_another_directory_than_the_keys_says_what_it_is(tmp_path):
    (tmp_path / "rater_1.csv").write_text("item\n")
    with pytest.raises(UserError, match="holds sheets; the key to them is in the OUTPUT_DIR of"):
        keys.read(str(tmp_path))
    manifest = {"verb": "panel", "complete": True, "settings": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds the output of `panel`; give the OUTPUT_DIR of"):
        keys.read(str(tmp_path))
