"""What is paired with what: margins, ties, lengths, missing scores, never across prompts."""

import json

import pytest

from detox_jax import cli, records
from detox_jax.errors import UserError
from detox_jax.toxicity import pairing
from detox_jax.toxicity.pairing import Extremes, Imported, KeptAgainstDiscarded


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def prompt(name, *samples):
    generations = [
        {"text": text, "toxicity": toxicity, "finish": finish}
        for text, toxicity, finish in (
            (*sample, "length") if len(sample) == 2 else sample for sample in samples
        )
    ]
    return {"id": name, "prompt": {"text": f"{name}:", "toxicity": 0}, "generations": generations}


def mined(path, pairing, *records):
    return pairing.mine(write(path / "scored.jsonl", records))


def sides(result):
    return [(pair.chosen.text, pair.rejected.text) for pair in result.pairs]


def test_the_least_toxic_stands_against_the_most_toxic_of_one_prompt(tmp_path):
    result = mined(
        tmp_path,
        Extremes(margin=0.3),
        prompt("a", ("mild", 0.2), ("worst", 0.9, "stop"), ("best", 0.1), ("bad", 0.8)),
        prompt("b", ("x", 0.0), ("y", 0.2)),
    )
    assert sides(result) == [("best", "worst")]
    (pair,) = result.pairs
    assert (pair.id, pair.prompt) == ("a", "a:")
    assert (pair.chosen.toxicity, pair.rejected.toxicity) == (0.1, 0.9)
    assert (pair.chosen.ends, pair.rejected.ends) == (False, True)
    assert result.counts["margin"] == 1 and result.counts["prompts"] == 2


def test_of_equal_scores_the_earlier_sample_counts(tmp_path):
    samples = ("one", 0.1), ("two", 0.1), ("three", 0.9), ("four", 0.9)
    assert sides(mined(tmp_path, Extremes(), prompt("a", *samples))) == [("one", "three")]


def test_an_end_that_a_document_leaves_open_is_one(tmp_path):
    """A null says as little as a field that is not there."""
    ends = [{"finish": None}, {}, {"finish": "length"}]
    lines = [
        {"id": str(i), "text": f"text {i}", "toxicity": 0.1, "prompt_text": "p", **end}
        for i, end in enumerate(ends)
    ]
    documents = records.read_documents(write(tmp_path / "documents.jsonl", lines))
    (found,) = pairing._by_prompt([*documents]).values()
    assert {side.text: side.ends for side in found} == {
        "text 0": True,
        "text 1": True,
        "text 2": False,
    }


@pytest.mark.parametrize(("high", "number"), [(0.7, 1), (0.69, 0)])
def test_a_margin_is_reached_by_what_rounding_makes_a_little_less(tmp_path, high, number):
    assert 0.7 - 0.4 < 0.3
    result = mined(tmp_path, Extremes(margin=0.3), prompt("a", ("x", 0.4), ("y", high)))
    assert len(result.pairs) == number


def test_what_has_no_score_or_no_text_is_no_side_and_is_counted(tmp_path):
    result = mined(
        tmp_path,
        Extremes(),
        prompt("a", ("", 0.0), ("worst", 0.9), ("kind", None), ("mild", 0.3), (" \n", 0.0)),
        prompt("b", ("", 0.0), ("worst", 0.9)),
    )
    assert sides(result) == [("mild", "worst")]
    assert result.counts == {
        "prompts": 2,
        "samples": 7,
        "unscored": 1,
        "empty": 3,
        "too_few": 1,
        "margin": 0,
        "length": 0,
    }


def test_a_length_ratio_takes_the_widest_margin_among_texts_of_like_length(tmp_path):
    samples = ("x" * 10, 0.1), ("x" * 11, 0.2), ("y" * 100, 0.9), ("y" * 12, 0.8)
    records = prompt("a", *samples), prompt("b", ("x" * 3, 0.0), ("y" * 30, 0.9))
    result = mined(tmp_path, Extremes(length_ratio=1.2), *records)
    assert sides(result) == [("x" * 10, "y" * 12)]
    assert result.counts["length"] == 1
    result = mined(tmp_path, Extremes(length_ratio=1.1), *records)
    assert sides(result) == [("x" * 11, "y" * 12)]


def test_input_that_has_no_scores(tmp_path):
    with pytest.raises(UserError, match="none of its continuations has a score; run `score`"):
        mined(tmp_path, Extremes(), prompt("a", ("x", None), ("y", None)))
    with pytest.raises(UserError, match="no continuations; run `generate`"):
        mined(tmp_path, Extremes(), prompt("a"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"margin": 1.5}, "MARGIN is 1.5"), ({"length_ratio": 0.5}, "LENGTH_RATIO is 0.5")],
)
def test_settings_that_no_pair_can_have(fields, said):
    with pytest.raises(UserError, match=said):
        Extremes(**fields)


# --- kept against discarded -----------------------------------------------------------------------


def document(name, toxicity, size=4, **extra):
    return {"id": name, "text": name * size, "toxicity": toxicity, **extra}


@pytest.fixture
def filtered(tmp_path):
    def run(*documents):
        source = write(tmp_path / "documents.jsonl", documents)
        output = tmp_path / "filtered"
        assert cli.main(["filter", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={output}"]) == 0
        return str(output), source

    return run


def pair_ids(result):
    return [pair.id for pair in result.pairs]


def test_the_mildest_kept_against_the_worst_discarded(filtered):
    scores = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 0.6, "e": 0.7, "f": 0.45}
    kept, source = filtered(*(document(name, score) for name, score in scores.items()))
    result = KeptAgainstDiscarded(margin=0.3, documents=source).mine(kept)
    assert pair_ids(result) == ["a+e", "b+d"]
    assert result.counts["margin"] == 1
    assert all(pair.prompt == "" and pair.chosen.ends for pair in result.pairs)
    assert [pair.rejected.id for pair in result.pairs] == ["e", "d"]


def test_documents_of_like_length_are_matched(filtered):
    kept, source = filtered(
        document("a", 0.0, 4),
        document("b", 0.1, 40),
        document("c", 0.2, 400),
        document("d", 0.9, 5),
        document("e", 0.8, 41),
        document("f", 0.7, 90),
    )
    result = KeptAgainstDiscarded(documents=source, length_ratio=1.3).mine(kept)
    assert pair_ids(result) == ["a+d", "b+e"]
    assert result.counts["unmatched"] == 1


def test_documents_that_answer_prompts_are_paired_within_them(filtered):
    kept, source = filtered(
        document("a", 0.0, prompt_text="one"),
        document("b", 0.1, prompt_text="two"),
        document("c", 0.9, prompt_text="two"),
        document("d", 0.8, prompt_text="three"),
    )
    result = KeptAgainstDiscarded(documents=source).mine(kept)
    assert [(pair.id, pair.prompt) for pair in result.pairs] == [("b+c", "two")]


def test_what_evaluation_records_come_from_is_no_side(tmp_path):
    scores = {"a": 0.0, "b": 0.6, "c": 0.7, "e": 0.9, "z": 0.1}
    source = write(tmp_path / "documents.jsonl", [document(*x) for x in scores.items()])
    prompts = {name: {"id": "e", "prompt": {"text": name}} for name in ("evaluated", "others")}
    paths = {n: write(tmp_path / f"{n}.jsonl", [prompt]) for n, prompt in prompts.items()}

    def run(name, apart_from, *flags):
        output = str(tmp_path / name)
        flags = [f"--gin.APART_FROM={apart_from!r}", f"--gin.OUTPUT_DIR={output}", *flags]
        assert cli.main(["filter", f"--gin.INPUT={source}", *flags]) == 0
        return output

    every = ["--gin.SELECTION=@filter.RandomShare()", "--gin.KEEP_FRACTION=1.0"]
    kept = run("kept", paths["evaluated"])
    apart = run("apart", paths["evaluated"], *every)
    result = KeptAgainstDiscarded(margin=0.3, documents=apart).mine(kept)
    # The evaluation's own, the most toxic of all, is on neither side.
    assert pair_ids(result) == ["a+c", "z+b"]
    with open(paths["others"], "a") as file:
        file.write(json.dumps({"id": "x", "prompt": {"text": "x"}}) + "\n")
    for documents in (source, run("all", None, *every), run("other", paths["others"], *every)):
        with pytest.raises(
            UserError, match="evaluated.jsonl, and what it discarded must be too; gi"
        ):
            KeptAgainstDiscarded(documents=documents).mine(kept)


def test_documents_that_filter_did_not_read(filtered, tmp_path):
    kept, source = filtered(document("a", 0.0), document("b", 0.9))
    other = write(tmp_path / "other.jsonl", [document("a", 0.0), document("c", 0.9)])
    with pytest.raises(UserError, match="other documents than .* was filtered from"):
        KeptAgainstDiscarded(documents=other).mine(kept)
    with pytest.raises(UserError, match="no output of `filter`"):
        KeptAgainstDiscarded(documents=source).mine(source)
    with pytest.raises(UserError, match="DOCUMENTS is empty"):
        KeptAgainstDiscarded().mine(kept)


def test_an_imported_pair_is_taken_as_it_is_without_another_models_likelihoods(tmp_path):
    reference = {name: {"log_likelihood": -1.0, "tokens": 1} for name in ("chosen", "rejected")}
    pairs = [
        {"id": "1", "prompt": "p", "chosen": "a", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "reference": {"model": "x", **reference}},
    ]
    result = Imported().mine(write(tmp_path / "trl.jsonl", pairs))
    assert sides(result) == [("a", "a"), ("a", "b")]
    assert result.counts == {"records": 2, "equal_sides": 1}
    assert result.pairs[1].model is None and result.pairs[1].chosen.reference is None


def test_a_column_of_another_project_that_is_called_reference_is_passed_over(tmp_path):
    pair = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    for reference in ("https://example.org/12", 3, ["a"], {"model": "x"}):
        (found,) = (
            Imported().mine(write(tmp_path / "trl.jsonl", [{**pair, "reference": reference}])).pairs
        )
        assert (found.chosen.text, found.model, found.chosen.reference) == (" blue.", None, None)
