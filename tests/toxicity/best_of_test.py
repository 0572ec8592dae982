"""Best of n: the choice, its figures, and its way through `filter`, `score` and `evaluate`."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from detox_jax import cli, records
from detox_jax.errors import UserError
from detox_jax.evaluation import decoding, scored_texts
from detox_jax.toxicity.best_of import CHOSEN, BestOf, choose

PROBS, SCORES = np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum(), (0.1, 0.8, 0.3)


@pytest.mark.parametrize(
    ("scores", "index"),
    [
        ([0.3, 0.1, 0.2], 1),
        ([0.2, 0.2, 0.2], 0),
        ([None, 0.9, None], 1),
        ([0.5, None, 0.5], 0),
        ([None, None], None),
        ([0.0], 0),
    ],
)
def test_the_choice(scores, index):
    assert choose(scores) == index


@pytest.mark.parametrize(
    ("n", "probs", "mean"),
    [
        (1, (0.665241, 0.244728, 0.090031), 0.289316),
        (2, (0.887936, 0.059892, 0.052172), 0.152359),
        (4, (0.987442, 0.003587, 0.008971), 0.104305),
    ],
)
def test_what_is_chosen_of_a_known_distribution(n, probs, mean):
    """By enumeration of all samples."""
    chosen = np.zeros(3)
    for tokens in itertools.product(range(3), repeat=n):
        index = choose([SCORES[token] for token in tokens])
        assert index is not None
        chosen[tokens[index]] += np.prod(PROBS[list(tokens)])
    np.testing.assert_allclose(chosen, probs, atol=1e-6)
    assert chosen @ SCORES == pytest.approx(mean, abs=1e-6)


def _prompt(scores, id="p"):
    generations = tuple(
        records.Generation(f"text {i}", score, {"n": i}) for i, score in enumerate(scores)
    )
    return records.Prompt(id, "prompt", generations=generations)


def test_each_result_is_the_best_of_samples_of_its_own():
    kept = BestOf(keep=2).choose(_prompt([0.1, 0.2, 0.9, 0.8]))
    assert [g.text for g in kept] == ["text 0", "text 3"]
    assert [(g.toxicity, g.extra[CHOSEN], g.extra["n"]) for g in kept] == [
        (None, 0.1, 0),
        (None, 0.8, 3),
    ]
    assert len(BestOf(keep=2).choose(_prompt([None, None, 0.9, None]))) == 1


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_samples_must_be_so_many_for_each_result(samples):
    with pytest.raises(UserError, match=rf"prompt 'p' has {samples} continuations; .* n x 2"):
        BestOf(keep=2).choose(_prompt([0.1] * samples))
    read = dataclasses.replace(_prompt([0.1] * samples), where="in.jsonl:2")
    with pytest.raises(UserError, match=f"^in.jsonl:2: prompt 'p' has {samples} continuations"):
        BestOf(keep=2).choose(read)
    with pytest.raises(UserError, match="BestOf.keep is 0"):
        BestOf(keep=0)


GENERATED = {
    "sampling": {"method": "TopPSampling", "p": 0.9},
    "max_new_tokens": 20,
    "num_samples": 4,
    "start_with_end_of_text": True,
}


@pytest.fixture
def scored(tmp_path):
    """What `score` leaves: two prompts with four samples."""
    directory = tmp_path / "scored"
    directory.mkdir()
    texts = [["idiot", "calm", "calm again", "fool"], ["moron", "fool", "nice", "kind"]]
    rows = [
        {
            "id": f"p{i}",
            "prompt": {"text": "You", "toxicity": 0.1},
            "generations": [
                {"text": text, "toxicity": 0.9 if text in ("idiot", "moron", "fool") else 0.1}
                for text in some
            ],
        }
        for i, some in enumerate(texts)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "scored-00000-of-00001.jsonl").write_text(lines)
    manifest = {
        "verb": "score",
        "complete": True,
        "settings": {},
        "scorer": {"name": "lexicon", "fingerprint": "lexicon-x"},
        "generated": GENERATED,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def _filter(scored, output):
    return cli.main(
        [
            "filter",
            f"--gin.INPUT={scored}",
            f"--gin.OUTPUT_DIR={output}",
            "--gin.SELECTION=@best_of.BestOf()",
            "--gin.KEEP=2",
        ]
    )


def test_the_verb_and_what_follows(scored, tmp_path, capsys):
    assert _filter(scored, tmp_path / "chosen") == 0, capsys.readouterr().err
    assert "accepted 50.0%" in capsys.readouterr().out
    chosen = list(records.read_prompts(str(tmp_path / "chosen")))
    assert [[g.text for g in p.generations] for p in chosen] == [
        ["calm", "calm again"],
        ["moron", "nice"],
    ]
    manifest = json.loads((tmp_path / "chosen" / "manifest.json").read_text())
    assert manifest["counts"] == {
        "prompts": 2,
        "samples": 8,
        "unscored": 0,
        "kept": 4,
        "acceptance_rate": 0.5,
    }
    assert manifest["filtered_by"]["fingerprint"] == "lexicon-x"
    assert manifest["mean_toxicity"] == {"before": 0.5, "after": pytest.approx(0.3)}
    assert _filter(scored, tmp_path / "chosen") == 0  # again: complete

    flags = [f"--gin.INPUT={tmp_path / 'chosen'}", f"--gin.OUTPUT_DIR={tmp_path / 'judged'}"]
    assert cli.main(["score", *flags]) == 0, capsys.readouterr().err
    method = scored_texts.read("best", str(tmp_path / "judged"))
    assert method.chosen_by is not None and method.chosen_by.fingerprint == "lexicon-x"
    assert method.decoding is not None and method.decoding["max_new_tokens"] == 20
    assert method.decoding["best_of"]["samples_per_result"] == 2

    base = decoding.of_manifest({"generated": GENERATED})
    with pytest.raises(UserError, match="generated with best_of .*own_decoding"):
        decoding.compare({"base": base, "best": method.decoding}, "base", {})
    assert not decoding.compare(
        {"base": base, "best": method.decoding}, "base", {"best": ["best_of"]}
    )


def test_documents_are_refused(tmp_path, capsys):
    (tmp_path / "documents.jsonl").write_text('{"id": "a", "text": "b", "toxicity": 0.1}\n')
    assert _filter(tmp_path / "documents.jsonl", tmp_path / "out") == 2
    assert "expected RTP layout" in capsys.readouterr().err
