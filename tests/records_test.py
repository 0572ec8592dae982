"""Records: what can be read, what is refused and how, and outputs that resume."""

import json

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax import atomic_files, manifests, outputs, records
from detox_jax.errors import UserError


def _write(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return str(path)


GOOD = '{"id": "a", "text": "x"}\n'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "d.jsonl: empty"),
        ([GOOD, '{"id": "b", "text"\n'], "d.jsonl:2: malformed JSON"),
        ([GOOD, '["b"]\n'], "d.jsonl:2: expected a JSON object"),
        ([GOOD, '{"unreadable": 1, "text": "x"}\n'], 'd.jsonl:2: "unreadable" is 1'),
        ([GOOD, '{"id": "b"}\n'], 'd.jsonl:2: record without a "text"'),
        ([GOOD, '{"id": "b", "text": 3}\n'], 'd.jsonl:2: record without a "text"'),
        (['{"key": "7", "kind": "ham", "body": "A b."}\n'], "such as #text=body"),
        (['{"key": "12", "body": "Abc"}\n'], "such as #text=body"),
        ([GOOD, GOOD], "d.jsonl:2: duplicate id 'a'"),
        ([GOOD, b'{"id": "b", "text": "\xff"}\n'], "d.jsonl:2: not UTF-8"),
        (['{"id": "a", "text": "x", "toxicity": 1.5}\n'], 'd.jsonl:1: "toxicity" is 1.5'),
        (['{"id": "a", "text": "x", "toxicity": true}\n'], "toxicity"),
        (
            ['{"id": "a", "prompt": {"toxicity": 0.1}}\n'],
            'd.jsonl:1: prompt: record without a "text"',
        ),
        (
            ['{"id": "a", "prompt": {"text": "p"}, "generations": [{}]}\n'],
            "d.jsonl:1: generation 0",
        ),
        (
            ['{"id": "a", "prompt": {"text": "p"}, "generations": [3]}\n'],
            "d.jsonl:1: generation 0: expected an object with a text",
        ),
        (
            ['{"id": "a", "prompt": {"text": "p"}, "generations": {"text": "x"}}\n'],
            'd.jsonl:1: "generations" must be a list',
        ),
        (['{"id": "", "text": "x"}\n'], 'd.jsonl:1: record without an "id"'),
        (['{"id": true, "text": "x"}\n'], 'd.jsonl:1: record without an "id"'),
        (['{"id": "a", "text": "x", "toxicity": -0.1}\n'], 'd.jsonl:1: "toxicity" is -0.1'),
        ([GOOD, "\n", " \n", '["b"]\n'], "d.jsonl:4: expected a JSON object"),
        (["\n", " \n"], "d.jsonl: empty"),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path, lines, message):
    path = _write(tmp_path / "d.jsonl", *lines)
    with pytest.raises(UserError) as error:
        list(records.read_records(path))
    assert message in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        list(records.read_records(str(tmp_path / "none.jsonl")))
    with pytest.raises(UserError, match="no such file"):
        list(records.read_records(str(tmp_path / "*.jsonl")))
    with pytest.raises(UserError, match="holds no .jsonl file"):
        list(records.read_records(str(tmp_path)))


def test_blank_lines_are_skipped_and_numbers_may_be_ids(tmp_path):
    path = _write(tmp_path / "d.jsonl", "\n", '{"id": 7, "text": "x"}\n', "  \n", GOOD)
    assert [d.id for d in records.read_documents(path)] == ["7", "a"]


def test_both_ends_of_the_scale_are_scores(tmp_path):
    lines = [f'{{"id": "{i}", "text": "x", "toxicity": {s}}}\n' for i, s in enumerate("01")]
    scores = [d.toxicity for d in records.read_documents(_write(tmp_path / "d.jsonl", *lines))]
    assert scores == [0.0, 1.0] and all(isinstance(score, float) for score in scores)


def test_a_glob_names_files_in_their_order(tmp_path):
    for name in ("b1", "a2", "a1", "c"):
        _write(tmp_path / f"{name}.jsonl", GOOD)
    for glob, names in [
        ("a*.jsonl", ["a1", "a2"]),
        ("?1.jsonl", ["a1", "b1"]),
        ("[bc]*.jsonl", ["b1", "c"]),
    ]:
        files = records.resolve_files(str(tmp_path / glob))
        assert [file.name for file in files] == [f"{name}.jsonl" for name in names]


def test_a_file_that_is_there_is_no_glob(tmp_path):
    """`d[1].jsonl` was not found, or another file was read in its place."""
    for name in ("d[1]", "d1", "x?", "xy"):
        _write(tmp_path / f"{name}.jsonl", GOOD)
    for name in ("d[1]", "x?"):
        files = records.resolve_files(str(tmp_path / f"{name}.jsonl"))
        assert [file.name for file in files] == [f"{name}.jsonl"]
    (tmp_path / "d[1].jsonl").unlink()
    files = records.resolve_files(str(tmp_path / "d[1].jsonl"))
    assert [file.name for file in files] == ["d1.jsonl"]


def test_a_missing_shard_is_named(tmp_path):
    for index in (0, 2):
        _write(tmp_path / manifests.shard_name("d", index, 3), GOOD.replace("a", str(index)))
    with pytest.raises(UserError, match="d-00001-of-00003.jsonl is missing"):
        records.resolve_files(str(tmp_path))


def test_two_sets_of_shards_are_ambiguous(tmp_path):
    _write(tmp_path / manifests.shard_name("d", 0, 1), GOOD)
    _write(tmp_path / manifests.shard_name("e", 0, 1), GOOD)
    with pytest.raises(UserError, match="several sets of shards"):
        records.resolve_files(str(tmp_path))


def test_unfinished_output_is_not_read(tmp_path):
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {})
    output.write_shard("d", 0, 1, [records.Document("a", "x")])
    with pytest.raises(UserError, match="unfinished"):
        records.resolve_files(str(tmp_path / "o"))
    output.finish()
    assert [d.id for d in records.read_documents(str(tmp_path / "o"))] == ["a"]


def test_realtoxicityprompts_own_records(tmp_path):
    value = {
        "filename": "f.txt",
        "begin": 3,
        "end": 9,
        "challenging": True,
        "prompt": {"text": "p", "toxicity": 0.0, "threat": 0.25},
        "continuation": {"text": "c", "toxicity": None},
    }
    path = _write(tmp_path / "rtp.jsonl", json.dumps(value))
    (prompt,) = records.read_prompts(path)
    assert (prompt.id, prompt.text, prompt.toxicity) == ("f.txt-3-9", "p", 0.0)
    assert prompt.challenging and prompt.generations == ()
    written = prompt.to_json()
    assert written["prompt"] == {"text": "p", "toxicity": 0.0, "threat": 0.25}
    assert written["continuation"] == value["continuation"]


def test_documents_and_prompts_are_not_mixed_up(tmp_path):
    path = _write(tmp_path / "d.jsonl", GOOD)
    with pytest.raises(UserError, match="RTP layout"):
        list(records.read_prompts(path))
    path = _write(tmp_path / "p.jsonl", '{"id": "a", "prompt": {"text": "p"}}\n')
    with pytest.raises(UserError, match="expected documents"):
        list(records.read_documents(path))


def test_a_prompt_is_challenging_where_its_record_says_so():
    assert not records.Prompt("a", "p").challenging
    assert records.Prompt("a", "p", extra={"challenging": True}).challenging


def test_scores_go_to_the_texts_that_were_scored():
    document = records.Document("a", "x", extra={"n": 1})
    assert records.texts_to_score(document) == ["x"]
    assert records.with_toxicity(document, [0.5]) == records.Document("a", "x", 0.5, {"n": 1})
    with pytest.raises(ValueError):
        records.with_toxicity(document, [0.5, 0.5])
    prompt = records.Prompt("a", "p", 0.2, tuple(records.Generation(t) for t in "xyz"))
    assert records.texts_to_score(prompt) == ["x", "y", "z"]
    scored = records.with_toxicity(prompt, [0.0, None, 1.0])
    assert [g.toxicity for g in scored.generations] == [0.0, None, 1.0]
    assert scored.toxicity == 0.2
    with pytest.raises(ValueError):
        records.with_toxicity(prompt, [0.0])


def test_an_input_that_a_verb_wrote_has_a_manifest_beside_it(tmp_path):
    path = _write(tmp_path / "d-00000-of-00001.jsonl", GOOD)
    assert records.manifest_of(path) is None
    output = outputs.OutputDirectory(str(tmp_path / "o"), "score", {"x": 1})
    output.write_shard("d", 0, 1, records.read_documents(path))
    output.finish(scorer="s")
    for source in (tmp_path / "o", tmp_path / "o" / "d-*.jsonl"):
        file, manifest = records.manifest_of(str(source))
        assert file == epath.Path(tmp_path / "o" / "manifest.json")
        assert manifest["scorer"] == "s" and manifest["complete"]


def test_a_hash_is_that_of_every_machine_and_release():
    assert records.stable_hash("a") == 0xCA978112CA1BBDCA
    assert records.stable_hash("\N{GREEK SMALL LETTER ALPHA}") < 2**64


json_text = st.text(st.characters(exclude_categories=()), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(json_text, st.none() | st.floats(0, 1)), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from(["x", "y"]), st.integers()),
)
def test_round_trip_of_any_text(tmp_path_factory, rows, extra):
    """Any string survives: emoji, control characters, line separators, lone surrogates."""
    path = epath.Path(tmp_path_factory.mktemp("r") / "d.jsonl")
    documents = [records.Document(str(i), t, s, extra) for i, (t, s) in enumerate(rows)]
    assert atomic_files.write_jsonl(path, documents) == len(documents)
    assert list(records.read_documents(str(path))) == documents


def test_marks_of_the_end_are_no_part_of_a_continuation_and_are_written_again(tmp_path):
    texts = ["<|endoftext|>", " late.<|endoftext|>", " full."]
    row = {"id": "a", "prompt": {"text": "p"}, "generations": [{"text": x} for x in texts]}
    path = _write(tmp_path / "d.jsonl", json.dumps(row) + "\n")
    (prompt,) = records.read_prompts(path)
    assert [generation.text for generation in prompt.generations] == ["", " late.", " full."]
    assert [generation["text"] for generation in prompt.to_json()["generations"]] == texts
    assert list(prompt.to_json()["generations"][0]) == ["text", "toxicity"]
    scored = records.with_toxicity(prompt, [0.0, 0.1, 0.2])
    assert [generation["text"] for generation in scored.to_json()["generations"]] == texts
