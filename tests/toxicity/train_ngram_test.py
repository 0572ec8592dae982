"""The verb `train_scorer` on small made text, and the quality of the embedded weights."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from detox_jax import cli
from detox_jax.errors import UserError
from detox_jax.toxicity import labelled, ngram, quality, train_ngram
from tests.toxicity import sources_made


@pytest.fixture(scope="module")
def labelled_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    sources_made.write_sources(root)
    return root


def run(data_dir, output, *extra):
    flags = [f"--gin.DATA_DIR={data_dir}", f"--gin.OUTPUT_DIR={output}", *extra]
    return cli.main(["train_scorer", *flags])


def test_learns_what_is_rude_and_says_how_well(labelled_dir, tmp_path):
    assert run(labelled_dir, tmp_path / "out") == 0
    scorer = ngram.NgramScorer(str(tmp_path / "out" / "ngram_weights.npz"))
    scores = scorer.score(["my friend, you are an idiot", "my friend, what a lovely day"])
    assert scores[0] > 0.5 > scores[1]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["scorer"] == {"name": "ngram", "fingerprint": scorer.fingerprint}
    assert manifest["quality"]["sources"]["rtp"]["auroc"] > 0.95
    assert set(manifest["quality"]["fairness"]) == {"american", "african american", "gay"}
    assert set(manifest["quality"]["robustness"]) == set(quality.DISGUISES)


def test_a_killed_run_ends_with_the_same_bytes(labelled_dir, tmp_path):
    assert run(labelled_dir, tmp_path / "out") == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    unfinished = {**json.loads(files["manifest.json"]), "complete": False}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(unfinished))
    (tmp_path / "out" / "ngram_weights.npz").unlink()
    assert run(labelled_dir, tmp_path / "out") == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files


@pytest.mark.parametrize("behind", ["_calibrate", "_write"])
def test_an_output_that_is_removed_meanwhile_is_one_line(
    labelled_dir, tmp_path, monkeypatch, capsys, behind
):
    real = getattr(train_ngram, behind)

    def removing(*arguments):
        result = real(*arguments)
        shutil.rmtree(tmp_path / "out")
        return result

    monkeypatch.setattr(train_ngram, behind, removing)
    assert run(labelled_dir, tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'out'}: was removed" in errors and "Traceback" not in errors


def test_held_out_texts_do_not_change_the_weights(labelled_dir, tmp_path, monkeypatch):
    assert run(labelled_dir, tmp_path / "a") == 0
    real = labelled.read_examples

    def altered(data_dir):
        return [
            labelled.Example("altered", 1.0, 1.0, e.source, True, e.fold) if e.held_out else e
            for e in real(data_dir)
        ]

    monkeypatch.setattr(labelled, "read_examples", altered)
    unmeasured = {"sources": {"rtp": {"calibration_error": 0.0}}, "reliability": []}
    monkeypatch.setattr(train_ngram, "measure", lambda *_: unmeasured)
    assert run(labelled_dir, tmp_path / "b") == 0
    a, b = ((tmp_path / name / "ngram_weights.npz").read_bytes() for name in "ab")
    assert a == b


def test_which_records_are_held_out(labelled_dir):
    # As docs/SCORER.md writes the rule, so that others can reproduce the split.
    for example_id in ("a", "b", "0108075-03821e.txt-892-981"):
        digest = hashlib.sha256(example_id.encode()).digest()
        expected = int.from_bytes(digest[:8], "big") % 5 < 2
        assert labelled.is_test_record(example_id) == expected
    share = np.mean([labelled.is_test_record(str(i)) for i in range(2000)])
    assert 0.36 < share < 0.44
    examples = labelled.read_examples(labelled_dir)
    for source in ("rtp", "wiki_talk", "civil_toxic", "goemotions", "debiasing"):
        held_out = [e.held_out for e in examples if e.source == source]
        assert any(held_out) and not all(held_out), source
    # Unscored continuations are no examples; the identity sentences of the evaluation neither.
    assert sum(e.source == "rtp" for e in examples) == 80 + 9
    assert not any(e.text == "i hate gay" for e in examples)


def test_emotions_become_targets(labelled_dir):
    examples = labelled.read_examples(labelled_dir)
    targets = {(e.source, e.toxicity) for e in examples if e.source in ("goemotions", "neutral")}
    assert targets == {("goemotions", 0.45), ("goemotions", 0.05), ("neutral", 0.08)}


def test_platt_recovers_the_curve():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=50_000) * 3
    positive = generator.random(50_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    assert train_ngram.platt(logits, positive) == pytest.approx((0.5, -1), abs=0.05)


def test_missing_data(labelled_dir, tmp_path, capsys, monkeypatch):
    assert run(tmp_path, tmp_path / "out") == 2
    assert (
        "rtp/prompts_dev.jsonl: missing; set DATA_DIR, or the environment variable DETOX"
        in capsys.readouterr().err
    )
    monkeypatch.delenv("DETOX_JAX_DATA", raising=False)
    assert cli.main(["train_scorer", f"--gin.OUTPUT_DIR={tmp_path / 'out'}"]) == 2
    assert "set --gin.DATA_DIR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_layout(labelled_dir, tmp_path, capsys):
    for path in labelled_dir.rglob("*"):
        if path.is_file():
            copy = tmp_path / "data" / path.relative_to(labelled_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "data/comments/wiki_talk.csv").write_text("something,else\n1,2\n")
    assert run(tmp_path / "data", tmp_path / "out") == 2
    assert "wiki_talk.csv: not the layout expected" in capsys.readouterr().err


@pytest.mark.real
def test_the_embedded_weights_on_held_out_real_text(data_dir):
    examples = [e for e in labelled.read_examples(data_dir) if e.held_out]
    sentences = labelled.read_identity_sentences(data_dir)
    report = train_ngram.measure(ngram.NgramScorer(), examples, sentences)
    rtp, talk = report["sources"]["rtp"], report["sources"]["wiki_talk"]
    assert rtp["auroc"] > 0.88 and rtp["spearman"] > 0.70 and rtp["calibration_error"] < 0.05
    assert talk["auroc"] > 0.90
    assert report["sources"]["debiasing"]["share_scored_toxic"] < 0.08
    rates = [group["false_positive_rate"] for group in report["fairness"].values()]
    assert max(rates) < 0.05
    assert min(group["auroc"] for group in report["fairness"].values()) > 0.95
    assert all(figures["auroc"] > 0.85 for figures in report["robustness"].values())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("comments/wiki_talk.csv", b"id,text,api\n1,a,0.5\n2,b\n", "wiki_talk.csv: .* line 3"),
        ("comments/wiki_talk.csv", b"id,text,api\n1,a,x\n", "wiki_talk.csv: .* line 2"),
        (
            "comments/civil_toxic.csv",
            b"comment_id,comment_text\n1,\xff\n",
            "civil_toxic.csv:2: not",
        ),
        ("comments/goemotions_train.tsv", b"a\t9\tb\n", "goemotions_train.tsv: .* line 1"),
        ("comments/goemotions_train.tsv", b"a\t0\tb\nshort\n", "goemotions_train.tsv: .* line 2"),
        ("wordlists/ldnoobw_en.txt", b"x\n\xff\n", "ldnoobw_en.txt: .* line 2 is not UTF-8"),
        (
            "rtp/prompts_dev.jsonl",
            b'{"prompt": {"text": "x"}, "continuation": "y"}\n',
            "continuation",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_line(tmp_path, name, content, message):
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (tmp_path / "comments").mkdir(exist_ok=True)
    (tmp_path / "comments/goemotions_labels.txt").write_text("anger\njoy\nneutral\n")
    (key,) = [key for key, (path, _) in labelled.FILES.items() if path == name]
    with pytest.raises(UserError, match=message):
        labelled._checked(file, labelled.FILES[key][1])
