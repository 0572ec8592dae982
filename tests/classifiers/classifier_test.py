"""Classifiers as scorers: which output, which tokens, which batches, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from detox_jax import cli, manifests, records
from detox_jax.classifiers import classifier_files, published
from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.errors import UserError
from detox_jax.models.encoder import Encoder
from detox_jax.toxicity import scorer as scorers
from tests.classifiers import classifiers_made

TEXTS = [
    "You are an idiot.",
    "",
    "good day!",
    "what a stupid idea " * 3,
    "   \n",
    "thanks for the bus",
    "moron " * 99,
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifiers") / "bert"
    classifiers_made.make(directory, classifiers_made.BERT)
    return directory


def _logits(directory, texts):
    """Logits of texts, all padded to the longest that the model reads."""
    found = classifier_files.open_classifier(epath.Path(directory))
    tokens_BL = np.zeros((len(texts), 40), np.int32)
    for row, text in zip(tokens_BL, texts, strict=True):
        ids = classifiers_made.make_tokenizer().encode(text).ids
        ids = ids if len(ids) <= 40 else ids[:39] + ids[-1:]
        row[: len(ids)] = np.array(ids) + 1
    model = Encoder(found.config)
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, enable_dropout=False))
    return np.asarray(apply(found.read_parameters(), tokens_BL))


def _softmax(logits):
    share = np.exp(logits - logits.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def whole(bert):
    """The plain scorer, whose programs several tests share."""
    return ClassifierScorer(str(bert), label="toxic")


def _change(directory, file, **changes):
    values = json.loads((directory / file).read_text()) if (directory / file).exists() else {}
    (directory / file).write_text(json.dumps({**values, **changes}))


@pytest.fixture
def copy(bert, tmp_path):
    return epath.Path(shutil.copytree(bert, tmp_path / "copy"))


def test_scores_are_the_softmax_of_one_output(bert, whole):
    scores = scorers.score_texts(whole, TEXTS)
    expected = _softmax(_logits(bert, TEXTS))[:, 1]
    expected[[1, 4]] = 0.0  # No token of their own.
    assert scores == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected[[0, 2, 3, 5, 6]]) > 0.01
    assert scorers.identity(whole)["name"] == "bert"


@pytest.mark.parametrize("config", ["ROBERTA", "DISTILBERT", "DEBERTA"])
def test_other_families_score(config, tmp_path):
    fields = getattr(classifiers_made, config)
    classifiers_made.make(tmp_path / "model", fields)
    scorer = ClassifierScorer(str(tmp_path / "model"), label="threat")
    texts = [TEXTS[0], TEXTS[2], TEXTS[5]]  # which share a row
    logits = _logits(tmp_path / "model", texts)
    several = config == "ROBERTA"
    expected = 1 / (1 + np.exp(-logits)) if several else _softmax(logits)
    assert scorer.activation == ("sigmoid" if several else "softmax")
    assert scorer.score(texts) == pytest.approx(expected[:, 2], abs=1e-5)


def test_batches_and_meshes_change_nothing(bert):
    noise = np.random.default_rng(0)
    texts = [" ".join(noise.choice(classifiers_made.WORDS, n)) for n in noise.integers(0, 30, 13)]
    many = ClassifierScorer(str(bert), label="toxic", batch_size=16)
    split = {"data": 2, "model": 2, "fsdp": 2}
    few = ClassifierScorer(str(bert), label="toxic", batch_size=7, mesh_shape=split)
    np.testing.assert_allclose(many.score(texts), few.score(texts), atol=1e-5)
    assert many.fingerprint == few.fingerprint
    assert many.score([]) == []


def test_cut_and_dtype(bert, whole):
    scorer = ClassifierScorer(str(bert), label="toxic", max_length=5)
    first, second = scorer.score(["the bus was late again", "the bus was"])
    assert first == second
    half = ClassifierScorer(str(bert), label="toxic", dtype="bfloat16")
    assert half.score(TEXTS) == pytest.approx(whole.score(TEXTS), abs=0.05)
    prints = {each.fingerprint for each in (scorer, half, whole)}
    assert len(prints) == 3


def test_the_tokenizers_own_cut(copy):
    _change(copy, "tokenizer_config.json", model_max_length=6, truncation_side="left")
    scorer = ClassifierScorer(str(copy), label="toxic")
    assert scorer.max_length == 6
    first, second = scorer.score(["idiot the bus was late", "the bus was late"])
    assert first == second
    _change(copy, "tokenizer_config.json", model_max_length=10**30)
    assert ClassifierScorer(str(copy), label="toxic").max_length == 40


def test_the_fingerprint_follows_weights_tokenizer_and_label(bert, copy):
    def fingerprint(directory, label="toxic"):
        return ClassifierScorer(str(directory), label=label).fingerprint

    first = fingerprint(bert)
    assert fingerprint(copy) == first
    assert fingerprint(copy, "threat") != first
    classifiers_made.make_tokenizer(lowercase=False).save(str(copy / "tokenizer.json"))
    other_tokenizer = fingerprint(copy)
    classifiers_made.make(copy, classifiers_made.BERT, seed=1)
    assert len({first, other_tokenizer, fingerprint(copy)}) == 3


def test_lone_surrogates_have_scores(whole):
    first, second = whole.score(["idiot \ud83d", "idiot ?"])
    assert first == second


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_published_classifiers_need_no_label(name):
    output = published.PUBLISHED[name]
    labels = ["neutral", *output.labels]
    chosen = published.choose_output(name, None, labels, None)
    assert chosen == (1, output.activation)
    with pytest.raises(UserError, match=f"{name}: has no label .* its labels are hot, cold"):
        published.choose_output(name, None, ["hot", "cold"], None)


@pytest.mark.parametrize(
    ("label", "labels", "problem_type", "expected"),
    [
        ("b", ["a", "b"], None, (1, "softmax")),
        ("b", ["a", "b"], "multi_label_classification", (1, "sigmoid")),
        ("a", ["a"], None, (0, "sigmoid")),
        (None, ["a", "b"], None, "Set the scorer's label; its labels are a, b"),
        ("c", ["a", "b"], None, "has no label 'c'; its labels are a, b"),
        ("a", ["a"], "regression", "no probability"),
    ],
)
def test_outputs_and_activations(label, labels, problem_type, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            published.choose_output("dir", label, labels, problem_type)
    else:
        assert published.choose_output("dir", label, labels, problem_type) == expected


@pytest.mark.parametrize(
    ("name", "labels", "problem_type", "activation", "expected"),
    [
        ("dir", ["a", "b"], None, "sigmoid", "sigmoid"),
        ("dir", ["a", "b"], "multi_label_classification", "softmax", "softmax"),
        ("dir", ["a", "b"], None, "relu", "activation is 'relu'; one of sigmoid, softmax"),
        ("dir", ["a"], None, "softmax", "which is 1 for every text"),
        ("dir", ["a"], "regression", "sigmoid", "no probability"),
        ("unitary/toxic-bert", ["toxic", "a"], None, "softmax", "softmax"),
    ],
)
def test_the_user_may_name_the_activation(name, labels, problem_type, activation, expected):
    def chosen():
        return published.choose_output(name, labels[0], labels, problem_type, activation)

    if expected in ("sigmoid", "softmax"):
        assert chosen() == (0, expected)
    else:
        with pytest.raises(UserError, match=expected):
            chosen()


def test_a_guess_is_said(copy, capsys):
    """Three labels and no problem_type: what a training loop with a sigmoid of its own leaves."""
    guessed = ClassifierScorer(str(copy), label="toxic")
    line = capsys.readouterr().out
    assert "one of the 3 labels neutral, toxic, threat (softmax)" in line
    assert "set CLASSIFIER_ACTIVATION, the scorer's activation, to sigmoid" in line
    several = ClassifierScorer(str(copy), label="toxic", activation="sigmoid")
    assert (guessed.activation, several.activation) == ("softmax", "sigmoid")
    logit = _logits(copy, TEXTS[:1])[0, 1]
    assert several.score(TEXTS[:1]) == pytest.approx([1 / (1 + np.exp(-logit))], abs=1e-5)
    assert several.fingerprint != guessed.fingerprint
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "count", "problem_type", "activation"),
    [
        ("dir", 2, None, None),
        ("dir", 6, "single_label_classification", None),
        ("dir", 6, None, "softmax"),
        ("unitary/toxic-bert", 6, None, None),
    ],
)
def test_what_is_no_guess_is_not_said(name, count, problem_type, activation):
    labels = [str(i) for i in range(count)]
    assert published.warning(name, labels, problem_type, activation) is None


def _pickled(d):
    (d / "model.safetensors").rename(d / "pytorch_model.bin")


def _tensors(**changes):
    def spoil(directory):
        file = directory / "model.safetensors"
        tensors = safetensors.numpy.load_file(file)
        for name, tensor in changes.items():
            name = name.replace("__", ".")
            tensors.pop(name, None) if tensor is None else tensors.__setitem__(name, tensor)
        safetensors.numpy.save_file(tensors, file)

    return spoil


def _config(file="config.json", **changes):
    return lambda directory: _change(directory, file, **changes)


SPOILT = {
    "pickle": (_pickled, r"pytorch_model.bin: only safetensors .* AutoModelForSequenceClassif"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "holds no model.safetensors"),
    "missing": (_tensors(classifier__bias=None), "'classifier.bias' is missing"),
    "left over": (_tensors(extra__weight=np.ones(2)), "'extra.weight' belongs to no part"),
    "shape": (_tensors(classifier__bias=np.ones(2, np.float32)), r"shape \[2\], .* implies \[3\]"),
    "nan": (_tensors(classifier__bias=np.full(3, np.nan, np.float32)), "holds NaN"),
    "family": (_config(model_type="electra"), "'electra' is not supported as a classifier"),
    "task": (_config(architectures=["BertForMaskedLM"]), "no sequence classifier"),
    "field": (
        _config(surprise=1),
        r"""surprise = 1 is not .*--gin.CLASSIFIER_IGNORE_FIELDS="\['surprise'\]"$""",
    ),
    "positions": (_config(position_embedding_type="relative_key"), "position_embedding_type = "),
    "decoder": (_config(is_decoder=True), "is_decoder = true"),
    "labels": (_config(id2label={"0": "a", "2": "b"}), r"has ids \[0, 2\]"),
    "twice": (_config(id2label={"0": "a", "1": "a"}), "names a label twice: a, a"),
    "problem": (_config(problem_type="ranking"), "problem_type 'ranking' is unknown"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer: neither"),
    "bad tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        "tokenizer.json: not a readable tokenizer",
    ),
    "case": (_config("tokenizer_config.json", do_lower_case=False), "do_lower_case is False, but"),
    "accents": (_config("tokenizer_config.json", strip_accents=False), "strip_accents is False"),
    "side": (_config("tokenizer_config.json", truncation_side="top"), "is 'top'; one of right"),
    "small vocabulary": (_config(vocab_size=9), r"shape .* implies \[9, 8\]|has \d+ tokens, but"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_classifiers(name, copy):
    spoil, message = SPOILT[name]
    spoil(copy)
    with pytest.raises(UserError, match=message) as caught:
        ClassifierScorer(str(copy), label="toxic")
    assert "\n" not in str(caught.value)


def test_the_gin_file_scores(bert, whole, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "You are an idiot."}\n')
    command = ["score", "--gin_file=gin_configs/scorers/classifier.gin", f"--gin.CLASSIFIER={bert}"]
    command += [f"--gin.INPUT={tmp_path}/in.jsonl", f"--gin.OUTPUT_DIR={tmp_path}/out"]
    assert cli.main(command) == 2
    assert "Set the scorer's label; its labels are neutral, toxic" in capsys.readouterr().err
    assert cli.main([*command, "--gin.CLASSIFIER_LABEL=toxic"]) == 0
    (document,) = records.read_documents(str(tmp_path / "out" / "scored-*.jsonl"))
    assert document.toxicity == pytest.approx(whole.score(["You are an idiot."])[0], abs=1e-5)
    manifest = manifests.read_manifest(epath.Path(tmp_path / "out"))
    assert whole.fingerprint in json.dumps(manifest)
    assert manifest["scorer_activation"] == "softmax"
    assert f"({whole.fingerprint}, softmax)" in capsys.readouterr().out


def test_fields_that_change_nothing_are_ignored_by_name(copy, whole):
    # What the trainer of transformers 3 left is known.
    _change(copy, "config.json", surprise=1, total_flos=2**60)
    scorer = ClassifierScorer(str(copy), label="toxic", ignore_fields=["surprise"])
    assert scorer.score(TEXTS[:1]) == whole.score(TEXTS[:1])
    with pytest.raises(UserError, match="hidden_size decides .*of CLASSIFIER_IGNORE_FIELDS"):
        ClassifierScorer(str(copy), label="toxic", ignore_fields="surprise,hidden_size")


def test_buffers_are_no_weights(copy, whole):
    _tensors(bert__embeddings__position_ids=np.arange(40)[None])(copy)
    scores = ClassifierScorer(str(copy), label="toxic").score(TEXTS)
    assert scores == pytest.approx(whole.score(TEXTS), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size = 3 is not supported"),
        ({"pos_att_type": "p2p"}, "supported are c2p and p2c"),
        ({"relative_attention": False}, "pos_att_type"),
        ({"embedding_size": 4}, "embedding_size = 4"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd"),
    ],
)
def test_deberta_fields_that_are_not_supported(changes, message, tmp_path):
    directory = epath.Path(tmp_path)
    (directory / "config.json").write_text(json.dumps({**classifiers_made.DEBERTA, **changes}))
    with pytest.raises(UserError, match=message):
        classifier_files.open_classifier(directory)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; one of float32, bfloat16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 41}, "max_length is 41; the model reads from 3 to 40"),
        ({"max_length": 2}, "max_length is 2"),
        ({"revision": "main"}, "is a directory and has no revision"),
        ({"label": "rude"}, "has no label 'rude'; its labels are neutral, toxic, threat"),
        ({"label": None}, "which output is toxicity"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message, bert):
    with pytest.raises(UserError, match=message):
        ClassifierScorer(str(bert), **{"label": "toxic", **arguments})
