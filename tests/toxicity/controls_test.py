"""Corpora for controls, from the command line: several selections, equal lengths, shares, apart."""

import collections
import json

import numpy as np
import pytest

from detox_jax import cli
from tests.toxicity.filter_test import manifest, read, run, write

WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


def text(number, size):
    return " ".join([str(number), *WORDS[: size - 1]])


@pytest.fixture
def scored(tmp_path):
    """120 documents of 3 to 8 words, the longer the more toxic."""
    rows = [
        {"id": f"d{i}", "text": text(i, 3 + i % 6), "toxicity": (i % 6) / 10 + i / 1000}
        for i in range(120)
    ]
    return write(tmp_path / "scored.jsonl", rows)


@pytest.fixture
def other(tmp_path):
    """20 documents of 4 to 7 words."""
    return write(
        tmp_path / "o.jsonl", [{"id": f"o{i}", "text": text(i, 4 + i % 4)} for i in range(20)]
    )


@pytest.mark.parametrize("setting", ["LENGTHS_OF", "SIZE_OF"])
def test_prompts_in_place_of_documents_are_found_before_any_work(scored, tmp_path, capsys, setting):
    prompts = write(tmp_path / "prompts.jsonl", [{"id": "p", "prompt": {"text": "The bus"}}])
    for more in (["--dry_run"], []):
        assert run(scored, tmp_path / "out", f"--gin.{setting}={prompts}", *more) == 2
        said = f"detox-jax: error: {setting}={prompts}: holds prompts (record 'p'), expected doc"
        assert capsys.readouterr().err.startswith(said)
        assert not (tmp_path / "out").exists()


def lengths(directory):
    return collections.Counter(len(row["text"].split()) for row in read(directory))


def test_equal_words_and_equal_lengths(scored, other, tmp_path):
    flags = ["--gin.KEEP_FRACTION=0.95", f"--gin.LENGTHS_OF={other}"]
    assert run(scored, tmp_path / "out", *flags) == 0
    assert lengths(tmp_path / "out") == {4: 5, 5: 5, 6: 5, 7: 5}
    written = manifest(tmp_path / "out")
    assert written["lengths"] == {"documents": 20, "words": 110, "exact": 20, "words_taken": 110}
    assert written["settings"]["lengths_of"]["sha256"]
    assert written["counts"]["kept"] == 20
    # The order says nothing of lengths.
    sizes = [len(row["text"].split()) for row in read(tmp_path / "out")]
    assert sizes != sorted(sizes) and sizes != sorted(sizes, reverse=True)


def test_the_selection_alone_decides_on_toxicity(scored, other, tmp_path):
    # The least toxic third has two lengths, 3 and 4, and nothing longer is taken in.
    flags = ["--gin.KEEP_FRACTION=0.3334", f"--gin.LENGTHS_OF={other}"]
    assert run(scored, tmp_path / "out", *flags) == 0
    assert set(lengths(tmp_path / "out")) <= {3, 4, 5}
    assert manifest(tmp_path / "out")["lengths"]["exact"] < 20


def test_a_share_of_the_lengths_and_of_the_words(scored, other, tmp_path):
    flags = ["--gin.KEEP_FRACTION=0.95", "--gin.SIZE_SHARE=0.4"]
    assert run(scored, tmp_path / "lengths", *flags, f"--gin.LENGTHS_OF={other}") == 0
    assert lengths(tmp_path / "lengths") == {4: 2, 5: 2, 6: 2, 7: 2}
    assert run(scored, tmp_path / "words", *flags, f"--gin.SIZE_OF={other}") == 0
    words = sum(size * count for size, count in lengths(tmp_path / "words").items())
    assert 44 - 8 < words <= 44


def test_documents_that_the_prompts_come_from_go_first(scored, tmp_path):
    prompts = [
        {"id": "d3", "prompt": {"text": "a prompt that is nowhere in the documents"}},
        {"id": "p", "prompt": {"text": "11 one two three"}, "continuation": {"text": " four"}},
        {"id": "q", "prompt": {"text": "8 one"}},
    ]
    source = write(tmp_path / "prompts.jsonl", prompts)
    flags = ["--gin.SELECTION=@filter.RandomShare()", "--gin.KEEP_FRACTION=1.0"]
    assert run(scored, tmp_path / "out", *flags, f"--gin.APART_FROM={source}") == 0
    # d3 by its id, d11 by its words: "11 one two three four five six seven".
    kept = {row["id"] for row in read(tmp_path / "out")}
    assert {f"d{i}" for i in range(120)} - kept == {"d3", "d11"}
    written = manifest(tmp_path / "out")
    assert written["apart"] == {"records": 3, "by_id_alone": 1, "id": 1, "text": 1}
    assert written["settings"]["apart_from"]["sha256"]


def test_selections_in_turn_are_counted(tmp_path):
    rows = [{"id": str(i), "text": text(i % 6, 8), "toxicity": i / 10} for i in range(10)]
    rows.append({"id": "circle", "text": "go on " * 9, "toxicity": 0.0})
    write(tmp_path / "in.jsonl", rows)
    (tmp_path / "steps.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.toxicity import distinct\nfrom detox_jax.toxicity import filter\n"
        "SELECTION = @filter.InTurn()\nfilter.InTurn.steps = [@distinct.Distinct(), "
        "@distinct.Unrepetitive(), @filter.AtMost(), @filter.LeastToxic()]\n"
        "HIGHEST_TOXICITY = 0.5\n"
    )
    flags = [f"--gin_file={tmp_path / 'steps.gin'}"]
    assert run(tmp_path / "in.jsonl", tmp_path / "out", *flags) == 0
    written = manifest(tmp_path / "out")
    steps = [(s["selection"], s["documents"], s["kept"]) for s in written["steps"]]
    assert steps[:2] == [("Distinct", 11, 7), ("Unrepetitive", 7, 6)]
    assert steps[2][0] == "AtMost" and steps[2][1] == 6 and steps[3][1] == steps[2][2]
    assert steps[3][2] == steps[3][1] // 2 == written["counts"]["kept"]
    described = written["settings"]["selection"]
    assert described["method"] == "InTurn"
    assert described["steps"][2] == {"method": "AtMost", "toxicity": 0.5}
    assert all(row["toxicity"] <= 0.5 for row in read(tmp_path / "out"))
    # Who looks at no score was filtered by nobody.
    assert written["filtered_by"] is None


def test_what_is_not_asked_for_is_not_in_the_manifest(scored, tmp_path):
    assert run(scored, tmp_path / "out") == 0
    written = manifest(tmp_path / "out")
    assert set(written["settings"]) == {"input", "selection", "seed", "size_of"}
    assert not {"lengths", "apart", "steps"} & set(written)


def test_the_same_again_is_the_same_bytes(scored, other, tmp_path):
    flags = [f"--gin.LENGTHS_OF={other}", "--gin.KEEP_FRACTION=1.0", "--gin.RANDOM_SEED=3"]
    for name in "ab":
        assert run(scored, tmp_path / name, *flags) == 0
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / x).glob("documents*")} for x in "ab")
    assert a == b
    before = json.dumps(manifest(tmp_path / "a"))
    assert run(scored, tmp_path / "a", *flags) == 0
    assert json.dumps(manifest(tmp_path / "a")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.LENGTHS_OF=nowhere.jsonl"], "LENGTHS_OF=nowhere.jsonl: no such file"),
        (["--gin.APART_FROM=nowhere.jsonl"], "APART_FROM=nowhere.jsonl: no such file"),
        (["--gin.SIZE_SHARE=0.5"], "SIZE_SHARE is of SIZE_OF or LENGTHS_OF"),
        (["--gin.SIZE_SHARE=0", "--gin.SIZE_OF=OTHER"], "SIZE_SHARE is 0"),
        (["--gin.SIZE_SHARE=0.01", "--gin.LENGTHS_OF=OTHER"], "of its 20 documents is none"),
        (
            ["--gin.KEEP_FRACTION=0.1", "--gin.LENGTHS_OF=OTHER"],
            "20 lengths, but only 12 documents",
        ),
        (["--gin.SELECTION=@best_of.BestOf()", "--gin.LENGTHS_OF=OTHER"], "BestOf chooses"),
        (["--gin.SELECTION=@filter.InTurn()"], "InTurn.steps is empty"),
        (
            ["--gin.SELECTION=@filter.AtMost()", "--gin.HIGHEST_TOXICITY=-1"],
            "HIGHEST_TOXICITY: must be from 0 to 1, got -1",
        ),
    ],
)
def test_mistakes(flags, message, scored, other, tmp_path, capsys):
    flags = [flag.replace("OTHER", str(other)) for flag in flags]
    assert run(scored, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_steps_that_select_nothing(scored, tmp_path, capsys):
    (tmp_path / "steps.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom detox_jax.toxicity import filter\n"
        "SELECTION = @filter.InTurn()\nfilter.InTurn.steps = ['LeastToxic']\n"
    )
    assert run(scored, tmp_path / "out", f"--gin_file={tmp_path / 'steps.gin'}") == 2
    error = capsys.readouterr().err
    assert "InTurn.steps" in error and error.count("\n") == 1, error


def test_random_lengths_are_matched_without_looking_at_scores(scored, other, tmp_path):
    flags = ["--gin.SELECTION=@filter.RandomShare()", "--gin.KEEP_FRACTION=1.0"]
    assert run(scored, tmp_path / "out", *flags, f"--gin.LENGTHS_OF={other}") == 0
    assert lengths(tmp_path / "out") == {4: 5, 5: 5, 6: 5, 7: 5}
    toxicity = np.mean([row["toxicity"] for row in read(tmp_path / "out")])
    assert 0.2 < toxicity < 0.45
    assert manifest(tmp_path / "out")["filtered_by"] is None


def test_the_verb_says_what_the_controls_did(scored, other, tmp_path, capsys):
    flags = [f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]
    flags += [f"--gin.LENGTHS_OF={other}", "--gin.KEEP_FRACTION=1.0"]
    assert cli.main(["filter", *flags, f"--gin.APART_FROM={other}"]) == 0
    said = capsys.readouterr().out
    assert "lengths: 20 of 20 documents have just the length" in said
    assert "apart from 20 evaluation records: left out 0 documents by id" in said
