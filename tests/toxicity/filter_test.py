"""The verb `filter`, from the command line."""

import json

import pytest

from detox_jax import bad_records, cli
from detox_jax.errors import UserError
from detox_jax.parallel import processes
from detox_jax.toxicity import distinct, selections
from detox_jax.toxicity import filter as filters


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(directory):
    return [
        json.loads(line)
        for shard in sorted(directory.glob("*.jsonl"))
        for line in shard.read_text().splitlines()
    ]


def manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


def run(input, output, *extra):
    flags = [f"--gin.INPUT={input}", f"--gin.OUTPUT_DIR={output}", *extra]
    return cli.main(["filter", *flags])


@pytest.fixture
def scored(tmp_path):
    """Ten documents with a score of i / 10, one unscored, one empty."""
    rows = [{"id": str(i), "text": f"text {i}", "toxicity": i / 10, "n": i} for i in range(10)]
    rows.insert(3, {"id": "unscored", "text": "text", "toxicity": None})
    rows.insert(7, {"id": "empty", "text": " ", "toxicity": 0.0})
    return write(tmp_path / "scored.jsonl", rows)


def test_keeps_the_less_toxic_half_of_the_scored(scored, tmp_path):
    assert run(scored, tmp_path / "out") == 0
    kept = read(tmp_path / "out")
    assert {row["id"] for row in kept} == {"0", "1", "2", "3", "4"}
    assert all(row["n"] == int(row["id"]) for row in kept)
    written = manifest(tmp_path / "out")
    assert written["counts"] == {"documents": 12, "unscored": 1, "empty": 1, "kept": 5}
    assert written["highest_kept"] == 0.4
    assert written["before"] == {"mean_toxicity": pytest.approx(0.45), "mean_words": 2}
    assert written["after"] == {"mean_toxicity": pytest.approx(0.2), "mean_words": 2}


def test_a_score_of_zero_is_a_score(tmp_path):
    rows = [{"id": str(i), "text": "a", "toxicity": 0.0 if i == 2 else 0.9} for i in range(3)]
    write(tmp_path / "in.jsonl", rows)
    assert run(tmp_path / "in.jsonl", tmp_path / "out", "--gin.KEEP_FRACTION=0.34") == 0
    assert [row["id"] for row in read(tmp_path / "out")] == ["2"]


def test_the_seed_decides_the_order_and_nothing_else(tmp_path):
    rows = [{"id": str(i), "text": "a", "toxicity": i / 100} for i in range(100)]
    write(tmp_path / "in.jsonl", rows)
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert run(tmp_path / "in.jsonl", tmp_path / name, f"--gin.RANDOM_SEED={seed}") == 0
    a, b, c = ([row["id"] for row in read(tmp_path / name)] for name in "abc")
    assert a == b != c
    assert sorted(a) == sorted(c)
    assert a != sorted(a, key=int)


@pytest.mark.parametrize("selection", ["MostToxic", "LeastToxicPerLength", "RandomShare", "AtMost"])
def test_other_selections_from_the_command_line(selection, scored, tmp_path):
    assert run(scored, tmp_path / "out", f"--gin.SELECTION=@filter.{selection}()") == 0
    assert manifest(tmp_path / "out")["settings"]["selection"]["method"] == selection


def test_the_scorer_is_carried_on(scored, tmp_path):
    assert cli.main(["score", f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={tmp_path / 's'}"]) == 0
    assert run(tmp_path / "s", tmp_path / "out") == 0
    assert manifest(tmp_path / "out")["filtered_by"] == manifest(tmp_path / "s")["scorer"]
    assert manifest(tmp_path / "out")["filtered_by"]["name"] == "ngram"


@pytest.mark.parametrize("selection", ["LeastToxic", "LeastToxicPerLength"])
def test_who_scored_has_filtered_where_scores_decide(selection, scored, tmp_path):
    assert cli.main(["score", f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={tmp_path / 's'}"]) == 0
    assert run(tmp_path / "s", tmp_path / "out", f"--gin.SELECTION=@filter.{selection}()") == 0
    assert manifest(tmp_path / "out")["filtered_by"]["name"] == "ngram"


def test_shards_hold_every_kept_document_once_in_order(scored, tmp_path, monkeypatch):
    assert run(scored, tmp_path / "one") == 0
    monkeypatch.setattr(filters, "_SHARD_SIZE", 2)
    assert run(scored, tmp_path / "three") == 0
    shards = sorted(path.name for path in (tmp_path / "three").glob("*.jsonl"))
    assert shards == [f"documents-{i:05d}-of-00003.jsonl" for i in range(3)]
    assert read(tmp_path / "three") == read(tmp_path / "one")


def test_a_rerun_of_a_finished_filter_writes_nothing(scored, tmp_path, capsys):
    assert run(scored, tmp_path / "out") == 0
    (shard,) = (tmp_path / "out").glob("*.jsonl")
    shard.unlink()  # It would come back.
    capsys.readouterr()
    assert run(scored, tmp_path / "out") == 0
    assert not shard.exists()
    assert capsys.readouterr().out == f"nothing to do: {tmp_path / 'out'} is finished\n"


def test_a_random_share_is_filtered_by_nobody(scored, tmp_path):
    assert cli.main(["score", f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={tmp_path / 's'}"]) == 0
    assert run(tmp_path / "s", tmp_path / "out", "--gin.SELECTION=@filter.RandomShare()") == 0
    written = manifest(tmp_path / "out")
    assert written["filtered_by"] is None and written["scored_by"]["name"] == "ngram"
    # Whose scores they are is known to whoever reads on.
    assert run(tmp_path / "out", tmp_path / "next") == 0
    assert manifest(tmp_path / "next")["filtered_by"] == written["scored_by"]


def test_no_more_words_than_the_corpus_it_is_compared_with(scored, tmp_path, capsys):
    other = write(tmp_path / "other.jsonl", [{"id": "a", "text": "five words are in here"}])
    assert run(scored, tmp_path / "all") == 0
    assert run(scored, tmp_path / "out", f"--gin.SIZE_OF={other}") == 0
    # Texts of two words: two of them fit into five words, the first two of the shuffled ones.
    assert [row["id"] for row in read(tmp_path / "out")] == [
        row["id"] for row in read(tmp_path / "all")[:2]
    ]
    tiny = write(tmp_path / "tiny.jsonl", [{"id": "a", "text": "one"}])
    assert run(scored, tmp_path / "none", f"--gin.SIZE_OF={tiny}") == 2
    assert (
        f"SIZE_OF={tiny}: holds 1 words, fewer than the first document" in capsys.readouterr().err
    )
    assert not list((tmp_path / "none").glob("*.jsonl"))


def test_an_input_of_which_nothing_is_left_has_no_scores(tmp_path):
    (tmp_path / "in.jsonl").write_text("{\n")
    aside = bad_records.SetAside(str(tmp_path / "aside.jsonl"), 1)
    with pytest.raises(UserError, match="none of its 0 documents has a score"):
        filters.filter(str(tmp_path / "in.jsonl"), str(tmp_path / "out"), bad_records=aside)


def test_scores_may_begin_behind_what_a_check_reads(tmp_path, monkeypatch):
    """As of Russian texts before English ones, which alone the n-gram scorer reads."""
    rows = [{"id": str(i), "text": f"text {i}", "toxicity": None} for i in range(4)]
    rows.append({"id": "9", "text": "text", "toxicity": 0.1})
    write(tmp_path / "in.jsonl", rows)
    monkeypatch.setattr(filters.preview, "LARGE", 1)
    monkeypatch.setattr(filters.preview, "FIRST", 3)
    assert run(tmp_path / "in.jsonl", tmp_path / "out", "--gin.KEEP_FRACTION=1.0") == 0
    assert [row["id"] for row in read(tmp_path / "out")] == ["9"]
    write(tmp_path / "in.jsonl", rows[:4])
    assert run(tmp_path / "in.jsonl", tmp_path / "none") == 2  # which the verb says, of the whole


def test_a_killed_run_ends_with_the_same_bytes(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(filters, "_SHARD_SIZE", 2)
    assert run(scored, tmp_path / "out") == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert len(files) == 5
    (tmp_path / "out" / "documents-00001-of-00003.jsonl").unlink()
    unfinished = {**manifest(tmp_path / "out"), "complete": False}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(unfinished))
    assert run(scored, tmp_path / "out") == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files


@pytest.mark.parametrize(
    ("rows", "extra", "message"),
    [
        ([{"id": "1", "text": "a", "toxicity": None}], [], "none of its 1 documents has a score"),
        ([{"id": "1", "text": "a", "toxicity": 0.1}], [], "would leave nothing of 1 scored"),
        (
            [{"id": "1", "text": "", "toxicity": 0.1}],
            [],
            "none of its 1 scored documents has a word",
        ),
        (
            [{"id": "1", "text": "a", "toxicity": 0.3}],
            ["--gin.SELECTION=@filter.AtMost()"],
            "would leave nothing of 1 scored documents; raise HIGHEST_TOXICITY or give more",
        ),
        (
            [{"id": "1", "text": "a", "toxicity": 0.3}],
            ["--gin.APART_FROM=ITSELF"],
            "APART_FROM leaves out all 1 scored documents with text",
        ),
        ([{"id": "1", "text": "a", "toxicity": 1.5}], [], 'in.jsonl:1: "toxicity" is 1.5'),
        (
            [{"id": "1", "prompt": {"text": "a"}, "generations": [{"text": "b"}]}],
            [],
            "holds prompts",
        ),
        (
            [{"id": "1", "text": "a", "toxicity": 0.1}],
            ["--gin.KEEP_FRACTION=0"],
            "KEEP_FRACTION is 0; must be in (0, 1]",
        ),
        (
            [{"id": "1", "text": "a", "toxicity": 0.1}],
            ["--gin.SELECTION=@filter.LeastToxicPerLength()", "--gin.LENGTH_STRATA=0"],
            "LENGTH_STRATA is 0",
        ),
    ],
)
def test_mistakes(rows, extra, message, tmp_path, capsys):
    file = write(tmp_path / "in.jsonl", rows)
    extra = [flag.replace("ITSELF", str(file)) for flag in extra]
    assert run(file, tmp_path / "out", *extra) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.jsonl"))


# --- several processes ------------------------------------------------------------------------


class OnMesh(filters.RandomShare):
    on_mesh = True


def test_process_0_selects_alone_unless_a_selection_computes_on_all_devices(
    scored, tmp_path, monkeypatch
):
    """Here is process 1, which is told that process 0 has ended."""

    class Store:
        def get(self, key):
            told.append(key)
            return '{"value": null}'

    told: list[str] = []
    monkeypatch.setattr(processes, "_current", processes.Processes(1, ("a", "b"), Store()))
    filters.filter(str(scored), str(tmp_path / "out"), filters.LeastToxic())
    assert len(told) == 1
    monkeypatch.setattr(filters.outputs, "OutputDirectory", lambda *_: pytest.fail("it selects"))
    for selection in (OnMesh(), filters.InTurn([distinct.Distinct(), OnMesh()])):
        assert selections.on_mesh(selection)
        with pytest.raises(pytest.fail.Exception, match="it selects"):
            filters.filter(str(scored), str(tmp_path / "out"), selection)
