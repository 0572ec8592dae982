"""Output directories: resumed to the same bytes, refused to whoever they do not belong to."""

import hashlib
import json

import gin
import pytest
from etils import epath

from detox_jax import atomic_files, manifests, output_settings, outputs, preview, records
from detox_jax.errors import UserError
from detox_jax.output_settings import NOT_YET, NotYet


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path):
    def run(path, stop_after=None):
        output = outputs.OutputDirectory(str(path), "score", {"seed": 1})
        if output.complete:
            return
        for index in range(3):
            if not output.has_shard("d", index, 3):
                output.write_shard("d", index, 3, [records.Document(str(index), "x")])
            if index == stop_after:
                return
        output.finish(count=3)

    run(tmp_path / "whole")
    run(tmp_path / "killed", stop_after=0)
    assert not manifests.read_manifest(epath.Path(tmp_path / "killed"))["complete"]
    run(tmp_path / "killed")
    run(tmp_path / "killed")
    whole, killed = [
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("whole", "killed")
    ]
    assert whole == killed and len(whole) == 5


def test_an_output_directory_of_another_verb_or_of_nobody_is_refused(tmp_path):
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {}).finish()
    with pytest.raises(UserError, match="output of `score`"):
        outputs.OutputDirectory(str(tmp_path / "o"), "filter", {})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "d.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="did not write"):
        outputs.OutputDirectory(str(tmp_path / "p"), "filter", {})
    with pytest.raises(UserError, match="d.jsonl: is a file; give a directory to write to"):
        outputs.OutputDirectory(str(tmp_path / "p" / "d.jsonl"), "filter", {})
    with pytest.raises(UserError, match="below: cannot be written: Not a directory"):
        outputs.OutputDirectory(str(tmp_path / "p" / "d.jsonl" / "below"), "filter", {})
    with pytest.raises(UserError, match="no manifest.json; not an output of detox-jax"):
        manifests.read_manifest(epath.Path(tmp_path / "p"))


@pytest.mark.parametrize("changed", [{"verb": "a\nb"}, {"settings": {"c\nd": 1}}], ids=str)
def test_what_a_damaged_manifest_says_is_shown_in_one_line(tmp_path, changed):
    outputs.OutputDirectory(str(tmp_path), "score", {}).finish()
    manifest = manifests.read_manifest(epath.Path(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | changed))
    with pytest.raises(UserError, match="a b|c d") as refusal:
        outputs.OutputDirectory(str(tmp_path), "score", {})
    assert "\n" not in str(refusal.value)


def test_a_manifest_is_a_function_of_the_settings(tmp_path):
    """Its bytes are compared between runs and machines: no order, no time, no host."""
    for name, settings in (("a", {"x": 1, "y": "é"}), ("b", {"y": "é", "x": 1})):
        output = outputs.OutputDirectory(str(tmp_path / "new" / name), "score", settings)
        assert not output.complete
        output.finish(counts={"documents": 2})
        assert output.complete and output.manifest["counts"] == {"documents": 2}
    a, b = ((tmp_path / "new" / name / "manifest.json").read_bytes() for name in "ab")
    assert a == b and "é".encode() in a
    manifest = json.loads(a)
    assert list(manifest) == [
        *("schema_version", "verb", "complete", "settings", "versions", "counts")
    ]
    assert (manifest["schema_version"], manifest["verb"]) == (2, "score")


def test_a_file_that_comes_late_is_waited_for(tmp_path, monkeypatch):
    """Network file systems show a file late; here between two looks."""
    file, naps = epath.Path(tmp_path / "file"), []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            file.touch()

    monkeypatch.setattr(outputs.time, "sleep", sleep)
    assert outputs._appears(file) and len(naps) == 3


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"seed": 2}, "seed: 1 there, 2 now"),
        ({"sampling": {"method": "TopP", "p": 0.8}}, "sampling.p: 0.9 there, 0.8 now"),
        ({"sampling": None}, "sampling: {'method': 'TopP', 'p': 0.9} there, None now"),
        ({"dtype": "bfloat16"}, "dtype: None there, 'bfloat16' now"),
    ],
)
def test_other_settings_are_refused_with_their_name_and_both_values(
    tmp_path, now, message, finished
):
    settings = {"seed": 1, "sampling": {"method": "TopP", "p": 0.9}}
    output = outputs.OutputDirectory(str(tmp_path), "generate", settings)
    output.write_shard("d", 0, 2, [])  # Without results it would take the new settings.
    if finished:
        output.finish()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        outputs.OutputDirectory(str(tmp_path), "generate", {**settings, **now})
    assert str(error.value) == (
        f"{tmp_path}: holds output made with other settings ({message}); remove this directory "
        f"alone (rm -r {tmp_path}), or choose another; outputs beside it are kept"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    same = dict(reversed(settings.items()))  # The order of the settings is not one.
    assert outputs.OutputDirectory(str(tmp_path), "generate", same).complete == finished


def test_a_check_refuses_what_the_run_would_and_writes_nothing(tmp_path):
    settings = {"seed": 1, "input": {"path": "a", "sha256": "0"}}

    def check(**now):
        outputs.check(str(tmp_path / "o"), "score", lambda: {**settings, **now})

    def never():
        raise AssertionError("nothing is there to compare with")

    outputs.check(str(tmp_path / "o"), "score", never)
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", settings)
    check(seed=2)  # Without results it is taken over.
    output.write_shard("d", 0, 1, [])
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    check()
    check(input={"path": "b", "sha256": NOT_YET})
    for now in ({"seed": 2}, {"input": {"sha256": "1"}}):
        with pytest.raises(UserError) as refusal:
            check(**now)
        with pytest.raises(UserError) as refused:
            outputs.OutputDirectory(str(tmp_path / "o"), "score", {**settings, **now})
        assert str(refusal.value) == str(refused.value)
    with pytest.raises(UserError, match="holds the output of `score`; choose another"):
        outputs.check(str(tmp_path / "o"), "filter", never)
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    manifest = manifests.read_manifest(output.path)
    atomic_files.write_json(output.path / "manifest.json", {**manifest, "schema_version": 1})
    outputs.check(str(tmp_path / "o"), "score", never)  # The verb knows what version 1 did not say.


def test_a_check_hashes_no_input_for_minutes(tmp_path, monkeypatch):
    file = epath.Path(tmp_path / "a.jsonl")
    file.write_text('{"id": "1", "text": "a"}\n')
    known = records.describe_input(str(file))
    with output_settings.ahead():
        assert records.describe_input(str(file)) == known
        monkeypatch.setattr(manifests, "_HASHED_AHEAD", 8)
        assert records.describe_input(str(file)) == {**known, "sha256": NOT_YET}
    assert records.describe_input(str(file)) == known
    coming = records.describe_input(preview.Coming(tmp_path / "b"))
    assert coming == {"path": str(tmp_path / "b"), "files": NOT_YET, "sha256": NOT_YET}


def test_damaged_manifest(tmp_path):
    outputs.OutputDirectory(str(tmp_path), "score", {})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a manifest"):
        outputs.OutputDirectory(str(tmp_path), "score", {})


def test_other_settings_are_refused_by_name_with_what_to_remove(tmp_path):
    path = tmp_path / "o"
    before = {"seed": 1, "input": {"path": "a", "sha256": "0"}}
    outputs.OutputDirectory(str(path), "score", before).write_shard("d", 0, 1, [])
    with pytest.raises(UserError) as error:
        outputs.OutputDirectory(str(path), "score", {**before, "seed": 2})
    assert str(error.value) == (
        f"{path}: holds output made with other settings (seed: 1 there, 2 now); remove this "
        f"directory alone (rm -r {path}), or choose another; outputs beside it are kept"
    )
    with pytest.raises(UserError, match="input.sha256: '0' there, '1' now"):
        outputs.OutputDirectory(str(path), "score", {**before, "input": {"sha256": "1"}})
    elsewhere = {"path": "b", "sha256": "1"}
    with pytest.raises(
        UserError, match="settings \\(input.sha256: '0 of a' there, '1 of b' now\\)"
    ):
        outputs.OutputDirectory(str(path), "score", {**before, "input": elsewhere})
    assert outputs._told_apart(f"'{'a' * 300}b'", f"'{'a' * 300}c'") == (
        f"…{'a' * 25}b'",
        f"…{'a' * 25}c'",
    )
    with pytest.raises(UserError, match="settings \\(input: 'a' there, 'b' now\\)"):
        more = {**elsewhere, "files": 2}
        outputs.OutputDirectory(str(path), "score", {**before, "input": more})
    with pytest.raises(UserError, match="dtype: None there, 'bfloat16' now"):
        outputs.OutputDirectory(str(path), "score", {**before, "dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            {"methods": {"base": {"sha256": "0"}}},
            {"methods": {"base": {"sha256": "0"}, "mine": {"sha256": "1"}}},
            "methods.mine: absent there, given now",
        ),
        (
            {"methods": {"base": {"sha256": "0"}, "my.own": {"sha256": "1"}}},
            {"methods": {"base": {"sha256": "0"}}},
            "methods.my.own: given there, absent now",
        ),
        (
            {"sheets": [{"path": "a", "sha256": "0"}]},
            {"sheets": [{"path": "a", "sha256": "0"}, {"path": "b", "sha256": "1"}]},
            "sheets: 1 of them there, 2 now",
        ),
        ({"input": {"sha256": "0"}}, {"input": {"sha256": "0", "fields": {"text": "a"}}}, None),
    ],
)
def test_what_one_of_two_lists_does_not_have_is_named(before, now, said, tmp_path):
    outputs.OutputDirectory(str(tmp_path), "panel", before).finish()
    with pytest.raises(UserError) as refusal:
        outputs.OutputDirectory(str(tmp_path), "panel", now)
    said = said or "input.fields: None there, {'text': 'a'} now"
    assert f"other settings ({said}); remove" in str(refusal.value)


def test_of_an_output_in_parts_those_that_are_missing_are_made(tmp_path):
    def opened(**settings):
        parts = outputs.Parts("names", lambda name: f"{name}.json")
        return outputs.OutputDirectory(
            str(tmp_path), "lm_eval", {"seed": 1, **settings}, None, parts
        )

    first = opened(names=["a"])
    (tmp_path / "a.json").write_text("1")
    first.finish()
    assert opened(names=["a"]).complete
    with pytest.raises(UserError, match="seed: 1 there, 2 now"):
        opened(names=["a", "b"], seed=2)
    assert not opened(names=["b", "a"]).complete
    assert (tmp_path / "a.json").read_text() == "1"
    with pytest.raises(UserError, match="names: \\['b', 'a'\\] there, \\['b'\\] now"):
        opened(names=["b"])  # Of "a" there is a file.
    opened(names=["a"]).finish()  # Of "b" there is none.
    with pytest.raises(UserError, match="names: \\['a'\\] there, \\['b'\\] now"):
        opened(names=["b"])


def test_a_place_is_a_note_and_not_compared(tmp_path):
    for place in ("a.jsonl", "/elsewhere/a.jsonl"):
        settings = {"inputs": [{"path": place, "sha256": "0"}]}
        output = outputs.OutputDirectory(str(tmp_path / "o"), "score", settings)
        assert not output.complete
        assert manifests.read_manifest(output.path)["settings"] == settings
        output.write_shard("d", 0, 1, [])
    output.finish()
    (tmp_path / "o").rename(tmp_path / "moved")
    settings = {"inputs": [{"path": "third", "sha256": "0"}]}
    assert outputs.OutputDirectory(str(tmp_path / "moved"), "score", settings).complete


def test_an_output_without_results_takes_new_settings(tmp_path):
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 1})
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 2})
    assert manifests.read_manifest(output.path)["settings"] == {"seed": 2}
    (tmp_path / "o" / "notes.txt").write_text("no result")
    with pytest.raises(UserError, match="seed: 2 there, 3 now"):
        outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 3})
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 3}, lambda: False)
    output.finish()
    with pytest.raises(UserError, match="other settings"):  # a finished one never does
        outputs.OutputDirectory(str(tmp_path / "o"), "score", {"seed": 4}, lambda: False)


def test_new_settings_begin_without_what_others_have_left(tmp_path):
    path = tmp_path / "o"

    def opened(seed):
        made = ("huggingface.json", "figures/*.png")
        return outputs.OutputDirectory(str(path), "train", {"seed": seed}, lambda: False, made=made)

    opened(1)
    (path / "figures").mkdir()
    for name in ("huggingface.json", "figures/x.png", "notes.txt"):
        (path / name).write_text("")
    opened(1)
    assert (path / "huggingface.json").exists(), "the same settings go on"
    opened(2)
    left = {str(x.relative_to(path)) for x in path.rglob("[!.]*") if x.is_file()}
    assert left == {"manifest.json", "config.gin", "notes.txt"}


def test_a_run_of_version_1_goes_on_where_its_settings_agree(tmp_path):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "generate", {"seed": 1})
    output.write_shard("d", 0, 1, [])
    manifest = manifests.read_manifest(output.path)
    atomic_files.write_json(output.path / "manifest.json", {**manifest, "schema_version": 1})
    with pytest.raises(UserError, match="seed: 1 there, 2 now"):
        outputs.OutputDirectory(str(tmp_path / "o"), "generate", {"seed": 2, "dtype": None})
    outputs.OutputDirectory(str(tmp_path / "o"), "generate", {"seed": 1, "dtype": None})
    assert manifests.read_manifest(output.path)["schema_version"] == 2


# --- shards that are not held -----------------------------------------------------------------


def test_lines_are_written_as_they_come_and_counted(tmp_path):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {})
    sizes = []

    def lines():
        for i in range(40):
            (partial,) = (tmp_path / "o").glob(".d-*.partial")
            sizes.append(partial.stat().st_size)
            yield b'{"id": "%d"}\n' % i * 1000

    assert output.write_lines("d", 0, 1, lines()) == 40_000
    assert sizes[-1] > 100_000, "what was given is on the disk before the last comes"
    content = (tmp_path / "o" / "d-00000-of-00001.jsonl").read_bytes()
    assert content.count(b"\n") == 40_000
    written = {"records": 40_000, "sha256": hashlib.sha256(content).hexdigest()}
    assert output.manifest["shards"] == {"d-00000-of-00001.jsonl": written}
    whole = outputs.OutputDirectory(str(tmp_path / "whole"), "score", {})
    whole.write_shard("d", 0, 1, [records.Document("a", "x"), records.Document("b", "y")])
    piecewise = outputs.OutputDirectory(str(tmp_path / "piecewise"), "score", {})
    each = atomic_files.encode_lines([records.Document("a", "x"), records.Document("b", "y")])
    piecewise.write_lines("d", 0, 1, iter(each))
    assert piecewise.manifest == whole.manifest


def test_a_shard_that_is_not_noted_is_named_when_the_output_is_finished(tmp_path):
    output = outputs.OutputDirectory(str(tmp_path), "filter", {})
    output.write_lines("d", 0, 2, [b"{}\n"], noted=False)
    output.write_lines("d", 1, 2, [b"{}\n"], noted=False)
    assert "shards" not in json.loads((tmp_path / "manifest.json").read_text())
    output.finish()
    assert len(json.loads((tmp_path / "manifest.json").read_text())["shards"]) == 2


def test_shards_that_were_cut_in_another_number_go_when_the_output_is_finished(tmp_path):
    """As a version before did that cut the same input otherwise, and was killed."""
    killed = outputs.OutputDirectory(str(tmp_path), "score", {})
    killed.write_lines("d", 0, 2, [b"{}\n"])
    killed.write_lines("e", 0, 2, [b"{}\n"])
    output = outputs.OutputDirectory(str(tmp_path), "score", {})
    assert not output.has_shard("d", 0, 1)
    output.write_lines("d", 0, 1, [b"{}\n{}\n"])
    output.finish()
    left = ["d-00000-of-00001.jsonl", "e-00000-of-00002.jsonl"]
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == left
    assert list(json.loads((tmp_path / "manifest.json").read_text())["shards"]) == left


@pytest.mark.parametrize("error", [UserError("a text"), KeyboardInterrupt(), OSError(28, "full")])
def test_what_goes_wrong_while_lines_are_made_leaves_nothing_and_is_said_as_it_is(error, tmp_path):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {})
    before = {file.name for file in (tmp_path / "o").iterdir()}

    def lines():
        yield b"{}\n"
        raise error

    with pytest.raises(type(error)) as raised:
        output.write_lines("d", 0, 1, lines())
    assert raised.value is error
    assert {file.name for file in (tmp_path / "o").iterdir()} == before
    assert "shards" not in output.manifest


# --- damaged shards ---------------------------------------------------------------------------


def of_three_shards(path, finish):
    output = outputs.OutputDirectory(str(path), "score", {"seed": 1})
    for index in range(3):
        if not output.has_shard("d", index, 3):
            output.write_shard("d", index, 3, [records.Document(str(index), "x" * 9)])
    if finish:
        output.finish()
    return path / "d-00001-of-00003.jsonl"


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[:-5],
    "zeroed": lambda content: b"\0" * len(content),
    "another record": lambda content: content.replace(b"xxx", b"yyy"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_of_an_unfinished_output_is_made_again(tmp_path, damage):
    shard = of_three_shards(tmp_path / "o", finish=False)
    whole = shard.read_bytes()
    shard.write_bytes(DAMAGES[damage](whole))
    of_three_shards(tmp_path / "o", finish=True)
    assert shard.read_bytes() == whole
    of_three_shards(tmp_path / "quiet", finish=True)
    for file in (tmp_path / "quiet").iterdir():
        assert (tmp_path / "o" / file.name).read_bytes() == file.read_bytes()


def test_what_a_kill_left_half_written_is_removed_wherever_it_lies(tmp_path):
    """But nothing of an output below, which another run may be writing."""
    for place in (".", "figures", "below", "begun"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / ".a.svg.0123abcd.partial").write_text("half")
    (tmp_path / ".sum.0123abcd.partial" / "0").mkdir(parents=True)  # A directory for scratch.
    (tmp_path / "below" / "manifest.json").write_text("{}")
    (tmp_path / "begun" / ".lock").write_text("{}")
    outputs.remove_partial_files(epath.Path(tmp_path))
    left = {path.parent.name for path in tmp_path.rglob("*.partial")}
    assert left == {"below", "begun"}


def test_a_training_of_another_length_is_told_how_to_go_on(tmp_path):
    outputs.OutputDirectory(str(tmp_path / "o"), "train", {"train_steps": 5}).finish()
    with pytest.raises(UserError, match="docs/TRAINING.md says how to train on from its end"):
        outputs.OutputDirectory(str(tmp_path / "o"), "train", {"train_steps": 9})


def test_a_finished_output_says_that_there_is_nothing_to_do(tmp_path, capsys):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {})
    outputs.OutputDirectory(str(tmp_path / "o"), "score", {})
    assert capsys.readouterr().out == ""  # It is not finished.
    output.finish()
    for _ in range(2):
        assert outputs.OutputDirectory(str(tmp_path / "o"), "score", {}).complete
        assert capsys.readouterr().out == f"nothing to do: {tmp_path / 'o'} is finished\n"


def test_the_configuration_keeps_the_order_in_which_names_were_given(tmp_path):
    """gin sorts them, and what is first may mean something: JUDGES."""

    @gin.configurable
    def some_verb(judges):
        return list(judges)

    given = {name: list(range(30)) for name in ("ngram", "lexicon", "detoxify")}
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config(f"JUDGES = {given}\nsome_verb.judges = %JUDGES")
        written = outputs.config_text()
        outputs.OutputDirectory(str(tmp_path), "score", {})
        assert (tmp_path / "config.gin").read_text() == written
        gin.clear_config()
        gin.parse_config(written)
        assert some_verb() == list(given)
        gin.clear_config()


def test_what_a_verb_lets_replace_is_removed_and_nothing_else(tmp_path):
    """Also where what was removed of it was not all, when a kill came."""
    path = tmp_path / "o"

    def opened(seed, results):
        return outputs.OutputDirectory(
            str(path),
            "report",
            {"seed": seed, "results": results},
            replaces=lambda there, now: there["seed"] == now["seed"],
            made=("table*.md", "figures/*.png"),
        )

    def check(seed, results, replaces=True):
        settings = {"seed": seed, "results": results}
        may = (lambda there, now: there["seed"] == now["seed"]) if replaces else None
        return outputs.check(str(path), "report", lambda: settings, replaces=may)

    output = opened(1, "a")
    (path / "figures").mkdir()
    (path / "figures" / "x.png").write_text("")
    (path / "table-ngram.md").write_text("")
    (path / "notes.txt").write_text("somebody's")
    (path / "base" / "checkpoints").mkdir(parents=True)
    (path / "base" / "table.md").write_text("another output's")
    output.finish()
    assert opened(1, "a").complete and check(1, "a") and (path / "table-ngram.md").exists()
    for refused in (lambda: opened(2, "b"), lambda: check(2, "b"), lambda: check(1, "b", False)):
        with pytest.raises(UserError, match="holds output made with other settings"):
            refused()
    assert not check(1, "b") and (path / "table-ngram.md").exists()
    assert not opened(1, "b").complete
    left = {str(x.relative_to(path)) for x in path.rglob("[!.]*") if x.is_file()}
    assert left == {"manifest.json", "config.gin", "notes.txt", "base/table.md"}
    assert (path / "base" / "checkpoints").exists()
    (path / "table-ngram.md").write_text("")
    assert not opened(1, "b").complete and (path / "table-ngram.md").exists()
    assert not opened(1, "c").complete and not (path / "table-ngram.md").exists()


def test_an_output_is_finished_where_all_is_known_and_the_same(tmp_path, capsys):
    path = str(tmp_path)
    known = {"model": NotYet(("newest", "older")), "seed": 1}
    assert not outputs.is_finished(path, "generate", lambda: known)
    output = outputs.OutputDirectory(path, "generate", {"model": "newest", "seed": 1})
    assert not outputs.is_finished(path, "generate", lambda: known)
    output.finish()
    capsys.readouterr()
    assert outputs.is_finished(path, "generate", lambda: known)
    assert capsys.readouterr().out == f"nothing to do: {path} is finished\n"
    for otherwise in (
        {**known, "model": NotYet(("older", "newest"))},  # It was made of a step that is no longer.
        {**known, "model": NOT_YET},
        {**known, "model": NotYet(known={})},
        {**known, "seed": 2},
        {**known, "more": 1},
    ):
        assert not outputs.is_finished(path, "generate", lambda: otherwise)  # noqa: B023
    assert not outputs.is_finished(path, "score", lambda: known)

    def missing():
        raise UserError("no such checkpoint")

    assert not outputs.is_finished(path, "generate", missing)
    assert capsys.readouterr().out == ""
