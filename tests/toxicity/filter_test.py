"""The verb `filter`, from the command line, and its selections."""

import json

import numpy as np
import pytest

from detox_jax import bad_records, cli, records
from detox_jax.errors import UserError
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


def document(id, toxicity, words=3):
    return records.Document(str(id), " ".join(["word"] * words), toxicity)


def ids(documents):
    return sorted(d.id for d in documents)


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


def test_the_most_toxic_share_is_what_the_least_toxic_leaves():
    documents = [document(i, i % 7 / 10) for i in range(20)]
    generator = np.random.default_rng(0)
    most = filters.MostToxic(0.3).select(documents, generator)
    least = filters.LeastToxic(0.7).select(documents, generator)
    assert len(most) == 6 and ids([*most, *least]) == ids(documents)
    assert min(d.toxicity for d in most) >= max(d.toxicity for d in least)


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


def test_ties_do_not_depend_on_the_order_of_the_input():
    documents = [document(i, 0.5) for i in range(100)]
    keep = filters.LeastToxic(0.3)
    generator = np.random.default_rng(0)
    kept = keep.select(documents, generator)
    assert len(kept) == 30
    assert ids(kept) == ids(keep.select(documents[::-1], generator))
    # Not the first 30 ids either: ids often carry an order.
    assert ids(kept) != ids(documents[:30])


@pytest.mark.parametrize("values", [3, 1000])
@pytest.mark.parametrize("unscored", [0, 30])
def test_the_least_toxic_are_the_first_of_all_in_order(values, unscored):
    """Ties by the hash of the id, those without a score last; of whatever many are wanted."""
    draws = np.random.default_rng(0).integers(values, size=200).tolist()
    draws[:unscored] = [None] * unscored
    documents = [document(i, draw and draw / values) for i, draw in enumerate(draws)]
    order = sorted(
        documents,
        key=lambda d: (d.toxicity is None, d.toxicity or 0.0, records.stable_hash(d.id)),
    )
    for share in (0.005, 0.3, 0.84, 0.9, 1.0):
        kept = filters.LeastToxic(share).select(documents, np.random.default_rng(0))
        assert list(kept) == order[: round(share * 200)]


def test_shares_are_exact():
    documents = [document(i, i / 1000) for i in range(100)]
    generator = np.random.default_rng(0)
    assert len(filters.LeastToxic(0.29).select(documents, generator)) == 29
    assert len(filters.RandomShare(0.29).select(documents, generator)) == 29
    assert len(filters.LeastToxic(1.0).select(documents, generator)) == 100


def test_within_lengths_the_least_toxic_is_not_the_shortest():
    # Toxicity rises with length: the plain filter keeps the short, the stratified one both.
    documents = [document(i, (i + 1) / 200, words=i + 1) for i in range(100)]
    generator = np.random.default_rng(0)
    plain = filters.LeastToxic(0.5).select(documents, generator)
    stratified = filters.LeastToxicPerLength(0.5, strata=2).select(documents, generator)
    assert ids(plain) == ids(documents[:50])
    assert ids(stratified) == ids(documents[:25] + documents[50:75])


def test_strata_smaller_than_the_share_keep_it_together():
    documents = [document(i, i / 100, words=i + 1) for i in range(10)]
    for fraction, strata, count in [(0.5, 10, 5), (0.3, 4, 3), (0.5, 100, 5)]:
        keep = filters.LeastToxicPerLength(fraction, strata)
        assert len(keep.select(documents, np.random.default_rng(0))) == count


def test_a_random_share_does_not_look_at_scores():
    low = [document(i, i / 1000) for i in range(200)]
    high = [document(i, 1 - i / 1000) for i in range(200)]
    share = filters.RandomShare(0.5)
    kept = share.select(low, np.random.default_rng(3))
    assert ids(kept) == ids(share.select(high, np.random.default_rng(3)))
    assert ids(kept) != ids(share.select(low, np.random.default_rng(4)))
    assert 0.05 < np.mean([d.toxicity for d in kept]) < 0.15


def test_half_is_kept_and_length_is_in_tenths_unless_told():
    assert filters.LeastToxic() == filters.LeastToxic(0.5)
    assert filters.RandomShare() == filters.RandomShare(0.5)
    assert filters.LeastToxicPerLength() == filters.LeastToxicPerLength(0.5, 10)
    assert filters.LeastToxic(1.0).fraction == 1.0
    for fraction in (0.0, -0.1, 1.1, 2.0):
        with pytest.raises(UserError, match=f"KEEP_FRACTION is {fraction}"):
            filters.LeastToxic(fraction)


def test_one_stratum_is_the_plain_filter():
    documents = [document(i, (i * 7 % 100) / 100, words=i + 1) for i in range(100)]
    generator = np.random.default_rng(0)
    kept = filters.LeastToxicPerLength(0.3, strata=1).select(documents, generator)
    assert ids(kept) == ids(filters.LeastToxic(0.3).select(documents, generator))


@pytest.mark.parametrize("selection", ["LeastToxicPerLength", "RandomShare"])
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
    assert manifest(tmp_path / "out")["filtered_by"] is None


def test_no_more_words_than_the_corpus_it_is_compared_with(scored, tmp_path):
    other = write(tmp_path / "other.jsonl", [{"id": "a", "text": "five words are in here"}])
    assert run(scored, tmp_path / "all") == 0
    assert run(scored, tmp_path / "out", f"--gin.SIZE_OF={other}") == 0
    # Texts of two words: two of them fit into five words, the first two of the shuffled ones.
    assert [row["id"] for row in read(tmp_path / "out")] == [
        row["id"] for row in read(tmp_path / "all")[:2]
    ]
    tiny = write(tmp_path / "tiny.jsonl", [{"id": "a", "text": "one"}])
    assert run(scored, tmp_path / "none", f"--gin.SIZE_OF={tiny}") == 2
    assert not list((tmp_path / "none").glob("*.jsonl"))


def test_an_input_of_which_nothing_is_left_has_no_scores(tmp_path):
    (tmp_path / "in.jsonl").write_text("{\n")
    aside = bad_records.SetAside(str(tmp_path / "aside.jsonl"), 1)
    with pytest.raises(UserError, match="none of its 0 documents has a score"):
        filters.filter(str(tmp_path / "in.jsonl"), str(tmp_path / "out"), bad_records=aside)


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
        ([{"id": "1", "text": "", "toxicity": 0.1}], [], "would leave nothing of 0 scored"),
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
    write(tmp_path / "in.jsonl", rows)
    assert run(tmp_path / "in.jsonl", tmp_path / "out", *extra) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.jsonl"))
