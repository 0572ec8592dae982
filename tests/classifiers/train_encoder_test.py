"""Training an encoder as a classifier: it learns, resumes, is exported, and refuses bad input."""

import json

import numpy as np
import pytest
from etils import epath

from detox_jax import cli, manifests
from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.classifiers.train_encoder import EncoderRecipe
from detox_jax.errors import UserError
from detox_jax.parallel import processes
from detox_jax.training import loop
from detox_jax.training.fit import Budget
from tests.classifiers import classifiers_made

RUDE, KIND = ["idiot", "moron"], ["thanks", "good"]
LABELS = ("toxicity", "threat")
SIZES = {
    "VOCAB_SIZE": 120,
    "EMB_DIM": 16,
    "NUM_HEADS": 2,
    "NUM_LAYERS": 1,
    "MLP_DIM": 16,
    "LENGTH": 16,
    "BATCH_SIZE": 16,
    "INIT_STD": 0.3,
    "TRAIN_STEPS": 60,
    "LEARNING_RATE": 1e-2,
    "WARMUP_STEPS": 5,
    "DROPOUT_RATE": 0.0,
    "CHECKPOINT_PERIOD": 20,
    "EVAL_PERIOD": 30,
}


def _documents(count):
    noise = np.random.default_rng(0)
    for i in range(count):
        rude, threat = i % 2, i % 4 > 1
        words = list(noise.choice(["the", "bus", "was", "late", "you", "are"], 4))
        words += [noise.choice(RUDE if rude else KIND)] + ["beware"] * threat
        noise.shuffle(words)
        # A share of raters, not a verdict.
        yield {
            "id": str(i),
            "text": " ".join(words),
            "toxicity": 0.9 if rude else 0.1,
            "threat": float(threat),
        }


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    file = tmp_path_factory.mktemp("labelled") / "documents.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in _documents(300)))
    return file


def run(documents, output, *options, **changes):
    macros = {**SIZES, "LABELS": LABELS, "INPUT": str(documents), **changes}
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    command = ["train_scorer", "--gin_file=gin_configs/scorers/train_encoder.gin"]
    return cli.main([*command, f"--gin.OUTPUT_DIR={output}", *flags, *options])


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "out"
    assert run(documents, output) == 0
    return output


def test_learns_both_labels_and_says_how_well(trained):
    scorer = ClassifierScorer(str(trained), label="toxicity")
    rude, kind = scorer.score(["you are an idiot", "thanks you are late"])
    assert rude > 0.7 and kind < 0.3
    threats = ClassifierScorer(str(trained), label="threat")
    assert threats.score(["beware the bus"])[0] > 0.7 > 0.3 > threats.score(["the bus"])[0]
    manifest = manifests.read_manifest(epath.Path(trained))
    assert manifest["scorer"] == {"name": "out", "fingerprint": scorer.fingerprint}
    figures = manifest["quality"]["labels"]
    assert figures["toxicity"]["auroc"] > 0.99 and figures["threat"]["auroc"] > 0.99
    assert 30 < figures["toxicity"]["texts"] < 100  # One in five is held out.
    card = (trained / "README.md").read_text()
    assert scorer.fingerprint in card and f"{figures['threat']['auroc']:.3f}" in card
    assert scorer.reliability["calibration_error"] == figures["toxicity"]["calibration_error"]
    assert threats.reliability is None


def test_soft_labels_are_learnt_as_shares(trained):
    # Of labels 0.9 and 0.1 the best scores are 0.9 and 0.1, not 1 and 0.
    figures = manifests.read_manifest(epath.Path(trained))["quality"]
    scores = [row["mean_score"] for row in figures["reliability"]]
    assert min(scores) > 0.03 and max(scores) < 0.97
    # Which they are compared with: the best scores are off by nothing, not by 0.1.
    labels = [row["mean_label"] for row in figures["reliability"]]
    assert (labels[0], labels[-1]) == pytest.approx((0.1, 0.9))
    assert figures["labels"]["toxicity"]["calibration_error"] < 0.12
    reliability = json.loads((trained / "reliability.json").read_text())
    assert reliability["mean_labels"] is True
    assert reliability["against"] == "toxicity, the share of raters, of held-out texts"


@pytest.mark.interop
def test_transformers_gives_the_same_scores(trained):
    torch = pytest.importorskip("torch", reason="needs the extra hf")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained).eval()
    texts = ["you are an IDIOT", "thanks", "beware of the late b\u00fcs " * 9, "\u4f60 moron!"]
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        theirs = torch.sigmoid(model(**inputs).logits).numpy()
    ours = ClassifierScorer(str(trained), label="toxicity").score_labels(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding(documents, trained, tmp_path):
    mesh = {"data": 2, "fsdp": 2, "model": 2}
    assert run(documents, tmp_path / "out", MESH_SHAPE=mesh, TRAIN_STEPS=10) == 0
    assert run(documents, tmp_path / "plain", TRAIN_STEPS=10) == 0
    losses = [
        json.loads((tmp_path / name / "training/metrics.jsonl").read_text().splitlines()[0])
        for name in ("out", "plain")
    ]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_change_nothing_but_rounding(documents, tmp_path):
    for parts in (1, 2):
        changes = {"ACCUMULATION_STEPS": parts, "TRAIN_STEPS": 10, "MESH_SHAPE": "data=4,model=2"}
        assert run(documents, tmp_path / str(parts), **changes) == 0
    losses = [
        json.loads((tmp_path / f"{parts}/training/metrics.jsonl").read_text().splitlines()[0])
        for parts in (1, 2)
    ]
    assert losses[0]["step"] == losses[1]["step"] == 10
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(documents, trained, tmp_path, monkeypatch):
    original = loop._save

    def save(manager, at, *args):
        original(manager, at, *args)
        if at == 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save)
        assert run(documents, tmp_path / "out") == 130
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert run(documents, tmp_path / "out") == 0
    for name in ("model.safetensors", "config.json", "README.md", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / name).read_bytes(), name
    lines = (tmp_path / "out/training/metrics.jsonl").read_text()
    assert lines == (trained / "training/metrics.jsonl").read_text()
    assert "validation_loss" in lines


@pytest.mark.slow
def test_goes_on_from_a_published_encoder(documents, tmp_path):
    made = classifiers_made.make(tmp_path / "base", classifiers_made.ROBERTA)
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"model_max_length": 38}')
    changes = {"ENCODER": str(tmp_path / "base"), "TRAIN_STEPS": 1, "LEARNING_RATE": 1e-6}
    assert run(documents, tmp_path / "out", **changes) == 0
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == made.keys()
    for name, tensor in tensors.items():
        fresh = name.startswith("classifier.out_proj")
        assert (tensor.shape != made[name].shape) == fresh
        assert fresh or np.abs(tensor - made[name]).max() < 1e-4, name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "toxicity", "1": "threat"}
    assert config["hidden_size"] == classifiers_made.ROBERTA["hidden_size"]
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        tmp_path / "base" / "tokenizer.json"
    ).read_bytes()
    # `score` reads as many tokens as were trained, and has the fingerprint of the card.
    scorer = ClassifierScorer(str(tmp_path / "out"), label="toxicity")
    assert scorer.max_length == SIZES["LENGTH"]
    manifest = manifests.read_manifest(epath.Path(tmp_path / "out"))
    assert manifest["scorer"]["fingerprint"] == scorer.fingerprint
    assert scorer.fingerprint in (tmp_path / "out" / "README.md").read_text()


BAD = {
    "no labels": ({"LABELS": ()}, "LABELS is ()"),
    "twice": ({"LABELS": ("toxicity", "toxicity")}, "name every label once"),
    "unlabelled": ({"LABELS": ("insult",)}, "has no label 'insult'; every record needs"),
    "nothing": ({"INPUT": None}, "set INPUT, TASK_NAME, DATA_DIR"),
    "both": ({"TASK_NAME": "jigsaw_labels"}, "set one of the two"),
    "unknown task": ({"INPUT": None, "TASK_NAME": "rtp"}, "TASK_NAME is 'rtp'; one of"),
    "unknown label": (
        {"INPUT": None, "TASK_NAME": "jigsaw_labels", "LABELS": ("rude",)},
        "jigsaw_labels has no 'rude'",
    ),
    "steps": ({"TRAIN_STEPS": None}, "set one of TRAIN_STEPS and EPOCHS"),
    "vocabulary": ({"VOCAB_SIZE": 4}, "VOCAB_SIZE is 4"),
    "heads": ({"NUM_HEADS": 3}, "no multiple of num_heads"),
    "mesh": ({"BATCH_SIZE": 6}, "BATCH_SIZE 6 is no multiple"),
    "parts": ({"ACCUMULATION_STEPS": 3}, "times ACCUMULATION_STEPS 3"),
    "computation": (
        {"computation.Computation.remat": "full"},
        "computation.Computation.remat: of language models",
    ),
    "length": ({"LENGTH": 2}, "LENGTH is 2"),
    "quality": ({"QUALITY_TEXTS": -1}, "QUALITY_TEXTS: must be at least 1, got -1"),
    "no quality": ({"QUALITY_TEXTS": 0}, "QUALITY_TEXTS: must be at least 1, got 0"),
    "dropout": ({"DROPOUT_RATE": 10}, "DROPOUT_RATE is 10; must be at least 0 and below 1"),
    "weight": ({"POSITIVE_WEIGHT": 0}, "POSITIVE_WEIGHT is 0"),
    "encoder": ({"ENCODER": "/no/such/encoder"}, "no such directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_make_no_sense(name, documents, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DETOX_JAX_DATA", raising=False)
    changes, message = BAD[name]
    assert run(documents, tmp_path / "out", **changes) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["length", "mesh", "parts", "computation", "quality"])
def test_a_dry_run_refuses_what_the_run_does(name, documents, tmp_path, capsys):
    changes, message = BAD[name]
    assert run(documents, tmp_path / "out", "--dry_run", **changes) == 2
    assert message in capsys.readouterr().err


def test_an_encoder_is_trained_by_a_process_that_has_no_others(monkeypatch, tmp_path):
    """Asked of a verb that process 0 runs as if it were alone, while the others wait."""
    several = processes.Processes(0, ("here", "there"))
    monkeypatch.setattr(processes, "_current", several)
    recipe = EncoderRecipe(task=None, budget=Budget(train_steps=1))
    with several._by_itself(), pytest.raises(UserError, match="in one process: run it on one host"):
        recipe.train(str(tmp_path / "out"))


@pytest.mark.parametrize("value", [1.5, -0.1, True, "high"])
def test_labels_that_are_no_shares(value, tmp_path, capsys):
    record = {"id": "a", "text": "good day", "toxicity": 0.5, "threat": value}
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n")
    files = {"INPUT": str(tmp_path / "in.jsonl"), "VALIDATION_INPUT": str(tmp_path / "in.jsonl")}
    assert run(None, tmp_path / "out", **files) == 2
    assert f"record 'a': 'threat' is {value!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_encoders_that_cannot_be_read(documents, tmp_path, capsys):
    classifiers_made.make(tmp_path / "base", classifiers_made.BERT)
    base = tmp_path / "base"

    def error(name):
        assert run(documents, tmp_path / name, ENCODER=str(base)) == 2
        return capsys.readouterr().err

    (base / "tokenizer.json").rename(base / "hidden")
    assert "has no tokenizer: neither" in error("a")
    (base / "hidden").rename(base / "tokenizer.json")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "electra"}))
    assert "'electra' is not supported as an encoder" in error("b")
    (base / "config.json").write_text(json.dumps({**config, "hidden_size": 10}))
    assert "but config.json implies" in error("c")
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 9}))
    assert "max_length is 16; the model reads from 3 to 9" in error("d")
