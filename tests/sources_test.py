"""What an input names: fields after `#`, directories of `datasets`, what manifests say."""

import json

import pyarrow
import pytest

from detox_jax import cli, output_settings, records, sources
from detox_jax.errors import UserError


def _write(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def _texts(source):
    return [(record.id, record.text) for record in records.read_records(source)]


def _save_to_disk(path, shards, **state):
    """As `datasets` 5.2.0 writes it: Arrow streams, and a file that says their order."""
    path.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        table = pyarrow.table({"id": [f"id {text}" for text in texts], "text": texts})
        sink = pyarrow.OSFile(str(path / name), "wb")
        with sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    listed = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (path / "state.json").write_text(json.dumps(listed))
    (path / "dataset_info.json").write_text("{}")


# --- fields -----------------------------------------------------------------------------------


RECORD = {
    "key": 7,
    "body": "b",
    "meta": {"inner": "i", "dotted.name": 0},
    "a.b": "flat",
    "prompt": {"text": "p", "toxicity": 0.5},
    "toxicity": 0.25,
}


@pytest.mark.parametrize(
    ("chosen", "kind", "record_id", "text", "toxicity"),
    [
        ("text=body,id=key", records.Document, "7", "b", 0.25),
        ("text=meta.inner,id=body", records.Document, "b", "i", 0.25),
        ("text=a.b,id=key", records.Document, "7", "flat", 0.25),
        ("text=prompt.text,id=key", records.Document, "7", "p", 0.25),
        ("id=key", records.Prompt, "7", "p", 0.5),
        ("prompt=body,id=key", records.Prompt, "7", "b", None),
        ("prompt=prompt,id=key", records.Prompt, "7", "p", 0.5),
    ],
)
def test_fields_are_chosen_by_name_and_path(tmp_path, chosen, kind, record_id, text, toxicity):
    (record,) = records.read_records(f"{_write(tmp_path / 'd.jsonl', RECORD)}#{chosen}")
    assert (type(record), record.id, record.text) == (kind, record_id, text)
    assert record.toxicity == toxicity
    if "body" not in chosen:
        assert record.extra["body"] == "b"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("text=bdy", "d.jsonl:1: no field 'bdy', chosen as text; there are 'key', 'body', 'meta'"),
        ("text=meta.x", "d.jsonl:1: no field 'meta.x', chosen as text"),
        ("text=meta", "d.jsonl:1: the field 'meta', chosen as text, is dict; expected text"),
        ("prompt=key", "d.jsonl:1: the field 'key', chosen as prompt, is int; expected text"),
        ("id=none", "d.jsonl:1: no field 'none', chosen as id"),
        ("body=text", "'body=text' after '#' is not one of split, config, text, prompt, id"),
        ("text=", "'text=' after '#'"),
        ("text=body,text=key", "'text=key' after '#'"),
        ("split=train", "only a directory or a data set of the hub has splits"),
    ],
)
def test_a_choice_that_is_none_is_one_line(tmp_path, chosen, message):
    with pytest.raises(UserError) as error:
        list(records.read_records(f"{_write(tmp_path / 'd.jsonl', RECORD)}#{chosen}"))
    assert message in str(error.value)


def test_a_null_in_the_chosen_field_points_to_what_leaves_it_out(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"k": "a"}, {"k": None})
    said = "d.jsonl:2: the field 'k', chosen as prompt, is null: leave .* or see BAD_RECORDS"
    with pytest.raises(UserError, match=said):
        list(records.read_records(f"{path}#prompt=k"))


def test_an_id_that_is_empty_or_comes_twice_is_refused_by_its_row(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"k": "a", "text": "x"}, {"k": None, "text": "y"})
    with pytest.raises(UserError, match="d.jsonl:2: the field 'k', chosen as id, is empty"):
        _texts(f"{path}#id=k")
    path = _write(tmp_path / "d.jsonl", {"k": "a", "text": "x"}, {"k": "a", "text": "y"})
    with pytest.raises(UserError, match="d.jsonl:2: duplicate id 'a'"):
        _texts(f"{path}#id=k")


def test_a_file_whose_name_has_the_mark_is_itself(tmp_path):
    path = _write(tmp_path / "d.jsonl#text=body", {"id": "a", "text": "x"})
    assert _texts(path) == [("a", "x")]


def test_a_directory_whose_name_has_the_mark_is_read_by_a_glob_too(tmp_path):
    (tmp_path / "run#1").mkdir()
    _write(tmp_path / "run#1" / "d.jsonl", {"id": "a", "body": "x"})
    assert _texts(f"{tmp_path}/run#1/*.jsonl#text=body") == [("a", "x")]
    assert sources.split(f"{tmp_path}/run#1/*.jsonl")[0] == f"{tmp_path}/run#1/*.jsonl"


@pytest.mark.parametrize("name", ["Review #", "text, cleaned", "100%", "50%23", "a=b", "#,%2C%25"])
def test_any_name_of_a_column_can_be_chosen(tmp_path, name):
    path = _write(tmp_path / "d.jsonl", {"id": "a", name: "x"})
    assert _texts(str(sources.with_fields(path, text=name))) == [("a", "x")]
    assert sources.split(sources.joined("d", {"id": name})) == ("d", sources.Choice(id=name))


def test_a_mark_in_the_name_of_a_field_is_written_as_in_an_address(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"id": "a", "Review #1, clean": "x"})
    assert _texts(f"{path}#text=Review %231%2C clean,id=id") == [("a", "x")]


@pytest.mark.parametrize(
    ("field", "value", "chosen"),
    [
        ("human/toxicity", 0.5, "human/toxicity"),
        ("human/toxicity", 50, "human/toxicity/100"),
        ("toxicity/100", 0.5, "toxicity/100"),
    ],
)
def test_a_score_may_have_a_slash_in_its_name(tmp_path, field, value, chosen):
    path = _write(tmp_path / "d.jsonl", {"id": "a", "text": "x", field: value})
    (record,) = records.read_records(f"{path}#score={chosen}")
    assert record.toxicity == 0.5


def test_a_prompt_that_is_its_text_is_joined_by_it_too(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"prompt": "So", "continuation": "it is."})
    (record,) = records.read_prompts(f"{path}#id=prompt.text")
    assert (record.id, record.text) == ("So", "So")


def test_documents_become_prompts_by_name_alone(tmp_path):
    path = _write(tmp_path / "d.jsonl", {"id": "a", "text": "x"})
    with pytest.raises(UserError, match="expected RTP layout, or name the field .*#prompt=text"):
        list(records.read_prompts(path))
    assert [p.text for p in records.read_prompts(f"{path}#prompt=text")] == ["x"]


@pytest.mark.parametrize(
    ("choice", "meant"),
    [("", "#prompt=body"), ("#text=body", "#prompt=body"), ("#id=k,text=body", "body,id=k")],
)
def test_a_field_for_prompts_is_asked_for_as_one(tmp_path, choice, meant):
    path = tmp_path / "d.csv"
    path.write_text("body,k\nx,a\n")
    with pytest.raises(UserError, match='"prompt"') as caught:
        list(records.read_prompts(f"{path}{choice}"))
    said = str(caught.value)
    assert said.endswith(meant) and "text=" not in said.partition("; ")[2]
    advised = f"#{said.rpartition('#')[2]}"
    assert [prompt.text for prompt in records.read_prompts(f"{path}{advised}")] == ["x"]


def test_fields_of_macros_join_those_of_the_name():
    assert sources.with_fields("d.csv") == "d.csv"
    assert sources.with_fields(None, text="body") is None
    assert sources.with_fields("d.csv", text="body", id="key") == "d.csv#text=body,id=key"
    named = sources.with_fields("o/n#split=dev,text=own", text="body")
    assert sources.split(named or "") == ("o/n", sources.Choice(split="dev", text="own"))


def test_a_manifest_says_the_bytes_and_the_fields(tmp_path):
    plain = _write(tmp_path / "d.jsonl", RECORD)
    described = records.describe_input(plain)
    assert sorted(described) == ["files", "path", "sha256"]
    chosen = records.describe_input(f"{plain}#text=body")
    assert chosen == {**described, "path": f"{plain}#text=body", "fields": {"text": "body"}}


def test_a_manifest_says_what_the_name_of_a_file_has_it_read_as(tmp_path):
    """One document or two of equal bytes; what an earlier version began does not say it."""
    found = {}
    for name in ("x.txt", "x.csv", "x.TSV.gz", "x.json"):
        (tmp_path / name).write_bytes(b"text\nThe bus\n")
        found[name] = records.describe_input(str(tmp_path / name))
    assert [of.get("read_as") for of in found.values()] == [[".txt"], [".csv"], [".tsv"], None]

    def differs(there, now, complete=False):
        made = ({"verb": "score", "settings": {"input": of}} for of in (there, now))
        old, new = made
        return output_settings.difference({**old, "complete": complete}, new)

    old = {name: value for name, value in found["x.txt"].items() if name != "read_as"}
    assert differs(found["x.txt"], found["x.csv"]) is not None
    assert differs(found["x.txt"], found["x.txt"]) is None
    assert differs(old, found["x.txt"]) is differs(old, found["x.txt"], complete=True) is None


# --- directories ------------------------------------------------------------------------------


def test_save_to_disk_is_read_in_the_order_that_it_says(tmp_path):
    _save_to_disk(tmp_path / "d", [["b", "a"], ["c"]])
    assert [text for _, text in _texts(str(tmp_path / "d"))] == ["b", "a", "c"]
    state = json.loads((tmp_path / "d" / "state.json").read_text())
    state["_data_files"].reverse()
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    assert [text for _, text in _texts(str(tmp_path / "d"))] == ["c", "b", "a"]
    (tmp_path / "d" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match="data-00001-of-00002.arrow: missing, and state.json"):
        _texts(str(tmp_path / "d"))


def test_of_a_dict_of_data_sets_a_split_is_named(tmp_path):
    _save_to_disk(tmp_path / "d" / "train", [["a"]])
    _save_to_disk(tmp_path / "d" / "test", [["b"]])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    directory = str(tmp_path / "d")
    assert _texts(f"{directory}#split=test") == [("id b", "b")]
    assert _texts(str(tmp_path / "d" / "train")) == [("id a", "a")]
    for source, said in [(directory, "has several splits"), (f"{directory}#split=dev", "'dev'")]:
        with pytest.raises(UserError, match=f"{said}; name one of train, test with #split=NAME"):
            _texts(source)


def test_rows_that_are_chosen_beside_the_data_are_refused(tmp_path):
    _save_to_disk(tmp_path / "d", [["a"]], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(UserError, match=r"write it again with flatten_indices\(\)"):
        _texts(str(tmp_path / "d"))


def test_a_directory_laid_out_as_the_hub_does_has_splits(tmp_path):
    _write(tmp_path / "data" / "train.jsonl", {"text": "a"})
    _write(tmp_path / "data" / "test.jsonl", {"text": "b"})
    assert [text for _, text in _texts(f"{tmp_path}#split=test")] == ["b"]
    with pytest.raises(UserError, match="has several splits; name one of train, test"):
        _texts(str(tmp_path))
    # JSON Lines in the directory itself are read whole, as what a verb wrote is.
    _write(tmp_path / "train.jsonl", {"text": "c"})
    _write(tmp_path / "test.jsonl", {"text": "d"})
    assert [text for _, text in _texts(str(tmp_path))] == ["d", "c"]


@pytest.mark.parametrize("source", ["https://x/y.csv", "s3://b/x.jsonl#text=a", "file:///x.csv"])
def test_an_address_of_another_kind_is_one_line(source):
    with pytest.raises(UserError, match="such an address cannot be read; give a file, gs://, hf:"):
        records.resolve_files(source)


@pytest.mark.parametrize("source", ["nosuch/d.jsonl", "nosuch/d.csv.gz#text=a", "nosuch.parquet"])
def test_a_file_that_is_not_there_asks_no_hub(source):
    with pytest.raises(UserError, match="no such file; give a .jsonl file, a glob"):
        records.resolve_files(source)


# --- verbs ------------------------------------------------------------------------------------


def test_a_verb_takes_the_fields_as_settings(tmp_path, capsys):
    path = tmp_path / "d.csv"
    path.write_text("key,body\n1,You are an idiot.\n2,Thanks.\n")
    arguments = ["score", f"--gin.INPUT={path}", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    assert cli.main(arguments) == 2
    assert "d.csv:2: record without a \"text\"; it has 'key', 'body'" in capsys.readouterr().err
    assert cli.main([*arguments, "--gin.TEXT_FIELD=body", "--gin.ID_FIELD=key"]) == 0
    (shard,) = (tmp_path / "out").glob("*.jsonl")
    scored = [json.loads(line) for line in shard.read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in scored] == [
        ("1", "You are an idiot."),
        ("2", "Thanks."),
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["input"]["fields"] == {"text": "body", "id": "key"}
    # Another field is another output.
    assert cli.main([*arguments, "--gin.TEXT_FIELD=key"]) == 2
    assert "made with other settings (input.fields" in capsys.readouterr().err


def test_an_output_that_is_no_text_is_refused_by_its_verb(tmp_path):
    """Its files have formats of text: a table of a panel, the log of a training."""
    for verb, file in (("panel", "panel.csv"), ("train", "metrics.jsonl")):
        place = tmp_path / verb
        place.mkdir()
        (place / file).write_text("text\nA text.\n")
        manifest = {"verb": verb, "complete": True, "settings": {}}
        (place / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=f"{place}: holds the output of `{verb}`, which is no"):
            sources.resolve(str(place))
        assert sources.written_by(str(place)) == f"; it is what `{verb}` wrote"
        assert sources.resolve(str(place / file)).files  # Whoever names a file means it.
    for other in (tmp_path, tmp_path / "nosuch", "hf://datasets/owner/name", "owner/name#split=x"):
        assert sources.written_by(str(other)) == ""


@pytest.mark.parametrize("source", ["", "#split=train"])
def test_an_empty_name_is_no_input(source):
    """It would be the directory in which the verb is started."""
    with pytest.raises(UserError, match=f"'{source}' names no input"):
        sources.resolve(source)
