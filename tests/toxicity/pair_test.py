"""The verb `pair` on the command line: files, manifest, counts; with a model and without."""

import json

import pytest

from detox_jax import cli
from tests.conftest import SENTENCES


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scored continuations of four prompts, of which the last makes no pair."""
    path = tmp_path_factory.mktemp("pair") / "scored.jsonl"
    lines = []
    for i in range(4):
        texts = [f" {SENTENCES[i]}", f" {SENTENCES[(i + 1) % 6]}", " you idiot"]
        scores = [0.1, 0.2, 0.9 if i < 3 else 0.3]
        generations = [
            {"text": text, "toxicity": score, "finish": "stop" if i == 0 else "length"}
            for text, score in zip(texts, scores, strict=True)
        ]
        record = {"id": f"p{i}", "prompt": {"text": "He said:"}, "generations": generations}
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))
    return path


def command(scored, output, model_dir=None, **settings):
    reference = {"REFERENCE": None} if model_dir is None else {"CHECKPOINT_PATH": model_dir}
    settings = {"INPUT": scored, "OUTPUT_DIR": output, **reference, **settings}
    return ["pair", *(f"--gin.{name}={value}" for name, value in settings.items())]


def written(output):
    return [json.loads(x) for x in (output / "pairs-00000-of-00001.jsonl").read_text().splitlines()]


def manifest(output):
    return json.loads((output / "manifest.json").read_text())


@pytest.fixture(scope="module")
def paired(scored, model_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("pair") / "pairs"
    assert cli.main(command(scored, output, model_dir)) == 0
    return output


def test_pairs_and_what_the_manifest_says_of_them(paired, model_dir):
    pairs = written(paired)
    assert [pair["id"] for pair in pairs] == ["p0", "p1", "p2"]
    assert all(pair["rejected"] == " you idiot" for pair in pairs)
    told = manifest(paired)
    assert told["complete"] and told["verb"] == "pair"
    assert told["counts"]["pairs"] == 3 and told["counts"]["margin"] == 1
    assert told["rejected"]["mean_toxicity"] == pytest.approx(0.9)
    fingerprint = told["settings"]["reference"]["fingerprint"]
    assert {pair["reference"]["model"] for pair in pairs} == {fingerprint}
    assert told["settings"]["reference"]["path"] == model_dir


def test_without_a_model_pairs_are_the_same_but_for_likelihoods(scored, paired, tmp_path):
    assert cli.main(command(scored, tmp_path / "pairs")) == 0
    with_likelihoods = written(paired)
    for pair in with_likelihoods:
        assert pair.pop("reference")
    assert written(tmp_path / "pairs") == with_likelihoods
    assert manifest(tmp_path / "pairs")["settings"]["reference"] is None


def test_the_same_again_is_the_same_bytes_and_then_nothing(scored, paired, model_dir, tmp_path):
    again = command(scored, tmp_path / "pairs", model_dir)
    assert cli.main(again) == 0
    for name in ("manifest.json", "pairs-00000-of-00001.jsonl"):
        assert (tmp_path / "pairs" / name).read_bytes() == (paired / name).read_bytes()
    before = (tmp_path / "pairs" / "manifest.json").stat().st_mtime_ns
    assert cli.main(again) == 0
    assert (tmp_path / "pairs" / "manifest.json").stat().st_mtime_ns == before


def test_what_it_wrote_can_be_imported_and_pairs_beyond_the_context_are_counted(
    paired, model_dir, tmp_path, capsys
):
    lines = [json.loads(line) for line in next(paired.glob("*.jsonl")).read_text().splitlines()]
    lines[1]["chosen"] *= 20
    (tmp_path / "trl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"PAIRING": "@pairing.Imported()"}
    arguments = command(tmp_path / "trl.jsonl", tmp_path / "pairs", model_dir, **settings)
    assert cli.main(arguments) == 0
    assert "2 pairs (records 3, too_long 1)" in capsys.readouterr().out
    before, after = [lines[0], lines[2]], written(tmp_path / "pairs")
    for old, new in zip(before, after, strict=True):
        likelihoods = old.pop("reference"), new.pop("reference")
        assert old == new and likelihoods[0].pop("model") == likelihoods[1].pop("model")
        for side in ("chosen", "rejected"):  # In other batches the last bits are others.
            assert likelihoods[1][side] == pytest.approx(likelihoods[0][side], abs=1e-4)


def test_a_dry_run_counts_and_writes_nothing(scored, model_dir, tmp_path, capsys):
    assert cli.main([*command(scored, tmp_path / "pairs", model_dir), "--dry_run"]) == 0
    assert "3 pairs" in capsys.readouterr().out
    assert not (tmp_path / "pairs").exists()


def test_scores_that_are_too_near_make_no_pair(scored, tmp_path, capsys):
    assert cli.main(command(scored, tmp_path / "pairs", MARGIN=0.95)) == 2
    assert "makes no pair (prompts 4, samples 12, " in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


def test_whose_scores_tell_sides_apart_is_told_whoever_filtered(tmp_path):
    documents = [{"id": str(i), "text": text} for i, text in enumerate([*SENTENCES, "you idiot"])]
    source, scored, kept = (tmp_path / name for name in ("d.jsonl", "scored", "kept"))
    source.write_text("".join(json.dumps(document) + "\n" for document in documents))
    assert cli.main(["score", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={scored}"]) == 0
    at_random = ["--gin.SELECTION=@filter.RandomShare()", "--gin.RANDOM_SEED=1"]
    flags = [f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={kept}", *at_random]
    assert cli.main(["filter", *flags]) == 0 and manifest(kept)["filtered_by"] is None
    settings = {"PAIRING": "@pairing.KeptAgainstDiscarded()", "DOCUMENTS": scored, "MARGIN": 0.001}
    assert cli.main(command(kept, tmp_path / "pairs", **settings)) == 0
    assert manifest(tmp_path / "pairs")["scored_by"]["name"] == "ngram"


def test_documents_that_filter_kept_and_those_it_did_not(tmp_path):
    documents = [{"id": str(i), "text": SENTENCES[i], "toxicity": i / 6} for i in range(6)]
    source = tmp_path / "documents.jsonl"
    source.write_text("".join(json.dumps(document) + "\n" for document in documents))
    kept = tmp_path / "kept"
    assert cli.main(["filter", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={kept}"]) == 0
    settings = {"PAIRING": "@pairing.KeptAgainstDiscarded()", "DOCUMENTS": source}
    assert cli.main(command(kept, tmp_path / "pairs", **settings)) == 0
    assert [pair["id"] for pair in written(tmp_path / "pairs")] == ["0+5", "1+4"]
    described = manifest(tmp_path / "pairs")["settings"]["pairing"]
    assert described["documents"]["sha256"] and described["method"] == "KeptAgainstDiscarded"
    assert manifest(tmp_path / "pairs")["scored_by"] is None
    moved = source.rename(tmp_path / "moved.jsonl")
    settings["DOCUMENTS"] = moved  # Content decides, not its place.
    assert cli.main(command(kept, tmp_path / "pairs", **settings)) == 0
