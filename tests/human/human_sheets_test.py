"""Verb `human_sheets`: the same joins as `evaluate`, the key apart, sheets never written over."""

import errno
import hashlib
import json
import os
import re

import pytest
from etils import epath

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.human import key as keys
from detox_jax.human.human_sheets import human_sheets
from tests.human import human_made


def made(root, methods, **how):
    how = {"num_prompts": 8, "samples_per_prompt": 1, "raters": 2, **how}
    human_sheets(methods, str(root / "key"), str(root / "sheets"), **how)
    return keys.read(str(root / "key"))


def edited(path, change):
    """A file of continuations with a changed record."""
    rows = [json.loads(line) for line in open(path)]
    change(rows)
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_through_the_command(tmp_path, capsys):
    methods = human_made.write_methods(tmp_path, ("base", "mine", "other"))
    arguments = [
        *("human_sheets", f"--output={tmp_path / 'key'}", f"--gin.METHODS={methods}"),
        *(f"--gin.SHEETS_DIR={tmp_path / 'sheets'}", "--gin.NUM_PROMPTS=8"),
        *("--gin.TOXIC_SHARE=0.25", "--gin.RATERS=2"),
    ]
    assert cli.main([*arguments, "--dry_run"]) == 0
    assert "2 raters, 8 prompts, 32 comparisons" in capsys.readouterr().out
    assert not (tmp_path / "key").exists() and not (tmp_path / "sheets").exists()
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "32 comparisons on each" in printed and "raters must not see it" in printed
    assert "warning: " in printed and "toxic text unmasked" in printed
    key = keys.read(str(tmp_path / "key"))
    assert [str(pair) for pair in key.pairs] == ["mine against base", "other against base"]
    assert len({x.prompt_id for x in key.comparisons}) == 8
    assert sum(x.toxicity >= 0.5 for x in key.comparisons) == 8
    manifest = json.loads((tmp_path / "key" / "manifest.json").read_text())
    assert manifest["settings"]["random_seed"] == 0 and manifest["code"] == key.code
    for file in (tmp_path / "sheets").iterdir():
        assert manifest["sheets"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len([*(tmp_path / "sheets").iterdir()]) == 5
    assert manifest["settings"]["methods"]["mine"]["sha256"]


def test_texts_are_those_of_the_files_and_nothing_else_of_them_is_on_a_sheet(tmp_path):
    methods = human_made.write_methods(tmp_path)
    key = made(tmp_path, methods)
    for x in key.comparisons:
        assert x.method_text == f"MINE text {x.method_sample}."
        assert x.against_text == f"BASE text {x.against_sample}."
    for file in (tmp_path / "sheets").iterdir():
        text = file.read_text()
        # Names of systems in lower case, ids, the seed's name, places.
        assert not re.search(rf"\b(mine|base)\b(?!-uri)|id-\d|seed|jsonl|{tmp_path.name}", text)


def test_scores_are_not_needed_and_not_compared(tmp_path):
    methods = human_made.write_methods(tmp_path)
    edited(methods["mine"], lambda rows: rows[0]["generations"][0].update(toxicity=0.5))
    assert len(made(tmp_path, methods).comparisons) == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.pop(), "have different prompts: 1 are missing, 0 are extra"),
        (lambda rows: rows[3]["prompt"].update(text="x"), "prompt 'id-3' has different texts"),
        (lambda rows: rows[3]["prompt"].update(toxicity=0.3), "'id-3' has different toxicity"),
    ],
)
def test_methods_of_other_prompts_are_refused(change, said, tmp_path):
    methods = human_made.write_methods(tmp_path)
    edited(methods["mine"], change)
    with pytest.raises(UserError, match=said):
        made(tmp_path, methods)
    assert not (tmp_path / "sheets").exists()


def test_methods_of_another_decoding_are_refused_unless_it_is_their_own(tmp_path):
    methods = human_made.write_methods(tmp_path)
    for name in methods:
        directory = tmp_path / f"of-{name}"
        directory.mkdir()
        (tmp_path / f"{name}.jsonl").rename(directory / "continuations.jsonl")
        decoding = {"max_new_tokens": 20, "sampling": name, "num_samples": 4}
        settings = {"decoding": decoding}
        manifest = {"verb": "generate", "complete": True, "settings": settings}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        methods[name] = str(directory)
    with pytest.raises(UserError) as error:
        made(tmp_path, methods)
    assert "method 'mine' was generated with sampling 'mine', 'base' with 'base'" in str(
        error.value
    )
    assert "`OWN_DECODING={'mine': ['sampling']}`" in str(error.value)
    assert made(tmp_path, methods, own_decoding={"mine": ["sampling"]}).comparisons


def test_too_few_continuations_are_refused_and_prompts_with_too_few_left_out(tmp_path):
    methods = human_made.write_methods(tmp_path, ("base", "mine", "other"))
    with pytest.raises(UserError, match="'base': 6 continuations of each prompt .* and 4 compare"):
        made(tmp_path, methods, samples_per_prompt=3)
    edited(methods["mine"], lambda rows: [row["generations"].clear() for row in rows[:12]])
    key = made(tmp_path, methods)
    assert {x.prompt_id for x in key.comparisons} == {f"id-{i}" for i in range(12, 20)}


def test_prompts_of_which_two_methods_wrote_one_text_are_left_out(tmp_path, capsys):
    """Where all continuations are alike, by their bytes or once shown, no two can be compared."""
    methods = human_made.write_methods(tmp_path, samples=1)

    def as_base(rows):
        for i in range(6):
            space = "" if i % 2 else "  "
            rows[i]["generations"] = [{"text": f" BASE text 0.{space}"}]

    edited(methods["mine"], as_base)
    key = made(tmp_path, methods)
    assert {x.prompt_id for x in key.comparisons} <= {f"id-{i}" for i in range(6, 20)}
    assert all(x.method_text != x.against_text for x in key.comparisons)
    manifest = json.loads((tmp_path / "key" / "manifest.json").read_text())
    [note] = [note for note in manifest["notes"] if "prompts are left out" in note]
    assert note in capsys.readouterr().out
    said = "NUM_PROMPTS: 15 prompts are asked for, and there are 14 with .* that differ"
    with pytest.raises(UserError, match=said):
        human_sheets(
            methods, f"{tmp_path}/x", f"{tmp_path}/y", num_prompts=15, samples_per_prompt=1
        )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"baseline": "nosuch"}, "BASELINE 'nosuch' is none of the methods: base, mine"),
        ({"pairs": [["mine", "nosuch"]]}, "PAIRS: 'nosuch' is none of the methods"),
        ({"pairs": [["mine", "mine"]]}, "is not two methods"),
        ({"pairs": [["mine", "base"], ["base", "mine"]]}, "stands twice"),
        ({"pairs": []}, "PAIRS is empty"),
        ({"own_decoding": {"nosuch": ["sampling"]}}, "OWN_DECODING: 'nosuch' is none of"),
        (
            {"own_decoding": {"mine": ["samplin"]}},
            "method 'mine': `OWN_DECODING={'mine': \\['samplin'\\]}`: no such setting of decoding; "
            "did you mean sampling\\?",
        ),
        ({"num_prompts": 21}, "NUM_PROMPTS: 21 prompts are asked for, and there are 20"),
        ({"toxic_share": 1.0, "num_prompts": 11}, "11 prompts of toxicity 0.5 and more"),
    ],
)
def test_mistakes(how, said, tmp_path):
    methods = human_made.write_methods(tmp_path)
    with pytest.raises(UserError, match=said):
        made(tmp_path, methods, **how)
    assert not (tmp_path / "sheets").exists()


def test_no_method_is_named_as_a_setting_that_is_empty(tmp_path):
    with pytest.raises(UserError, match="METHODS is {}; give scored continuations by name"):
        made(tmp_path, {})


def test_a_method_alone_has_nothing_to_compare(tmp_path):
    methods = human_made.write_methods(tmp_path, ("base",))
    with pytest.raises(UserError, match="METHODS names 'base' alone"):
        made(tmp_path, methods)


@pytest.mark.parametrize(
    ("output", "sheets"), [("x", "x"), ("x", "x/sheets"), ("x/key", "x"), ("x", "./x/../x")]
)
def test_the_key_is_never_beside_the_sheets(output, sheets, tmp_path):
    methods = human_made.write_methods(tmp_path)
    with pytest.raises(UserError, match="one is in the other; give directories apart"):
        human_sheets(methods, f"{tmp_path}/{output}", f"{tmp_path}/{sheets}", num_prompts=4)
    assert not (tmp_path / "x").exists()


def test_raters_get_no_output_that_lies_where_the_sheets_go(tmp_path):
    methods = human_made.write_methods(tmp_path)
    made(tmp_path, methods)
    with pytest.raises(UserError, match="SHEETS_DIR=.*/key: holds the output of `human_sheets`"):
        human_sheets(methods, f"{tmp_path}/other", f"{tmp_path}/key", num_prompts=4)
    assert not (tmp_path / "other").exists()
    assert not list((tmp_path / "key").glob("rater*"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EROFS])
def test_a_place_that_takes_no_sheets_is_told_before_the_key(number, tmp_path, monkeypatch):
    methods = human_made.write_methods(tmp_path)
    mkdir = type(epath.Path("x")).mkdir

    def refused(self, *args, **kwargs):
        if self.name == "sheets":
            raise OSError(number, os.strerror(number))
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(type(epath.Path("x")), "mkdir", refused)
    said = f"SHEETS_DIR={tmp_path}/sheets: cannot be written: {os.strerror(number)}"
    with pytest.raises(UserError, match=said):
        made(tmp_path, methods)
    assert not (tmp_path / "key" / "key.json").exists()


def test_two_methods_of_the_same_continuations_are_refused(tmp_path):
    methods = human_made.write_methods(tmp_path)
    same = {**methods, "mine": methods["base"]}
    with pytest.raises(UserError, match="METHODS: 'mine' and 'base' have the same continuations"):
        made(tmp_path, same)
    # Of those that are in no pair nobody is asked.
    assert made(tmp_path, {**methods, "again": methods["base"]}, pairs=[["mine", "base"]])


def test_a_filled_sheet_is_never_written_over(tmp_path, capsys):
    methods = human_made.write_methods(tmp_path)
    key = made(tmp_path, methods)
    sheet = tmp_path / "sheets" / "rater_1.csv"
    as_written = (tmp_path / "sheets" / "rater_2.csv").read_bytes()
    sheet.write_text(human_made.csv_of(human_made.filled(key, 1)))
    filled = sheet.read_bytes()
    (tmp_path / "sheets" / "rater_2.csv").unlink()
    assert made(tmp_path, methods) == key
    assert sheet.read_bytes() == filled
    assert (tmp_path / "sheets" / "rater_2.csv").read_bytes() == as_written
    with pytest.raises(UserError, match="rater_1.csv: is there, and is not this sheet"):
        human_sheets(
            methods, str(tmp_path / "other"), str(tmp_path / "sheets"), num_prompts=4, random_seed=1
        )
    assert sheet.read_bytes() == filled


def test_what_a_killed_run_left_among_the_sheets_is_removed(tmp_path):
    methods = human_made.write_methods(tmp_path)
    made(tmp_path, methods)
    sheets = {path.name for path in (tmp_path / "sheets").iterdir()}
    manifest = tmp_path / "key" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    (tmp_path / "sheets" / "rater_1.csv").rename(
        tmp_path / "sheets" / ".rater_1.csv.0123abcd.partial"
    )
    (tmp_path / "sheets" / ".mine.csv.0123abcd.partial").write_text("not a sheet")
    made(tmp_path, methods)
    left = {path.name for path in (tmp_path / "sheets").iterdir()}
    assert left == {*sheets, ".mine.csv.0123abcd.partial"}


def test_another_seed_is_another_draw_and_the_same_one_the_same_bytes(tmp_path):
    methods = human_made.write_methods(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        made(tmp_path / name, methods, random_seed=seed)
    sheets = [(tmp_path / name / "sheets" / "rater_1.csv").read_bytes() for name in "abc"]
    assert sheets[0] == sheets[1] != sheets[2]
    with pytest.raises(UserError, match="holds output made with other settings"):
        made(tmp_path / "a", methods, random_seed=2)
