"""Bodies of encoders, whatever they were trained for, and classifiers written from parameters."""

import json

import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from flax import traverse_util

from detox_jax.classifiers import classifier_files, encoder_bodies, encoder_export
from detox_jax.errors import UserError
from tests.classifiers import classifiers_made

FAMILIES = ["BERT", "ROBERTA", "DISTILBERT", "DEBERTA"]


def _flat(params):
    flat = traverse_util.flatten_dict(params, sep="/")
    return {path: np.asarray(value) for path, value in flat.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_export_and_import_give_the_same_bits(name, tmp_path):
    fields = getattr(classifiers_made, name)
    made = classifiers_made.make(tmp_path / "made", fields)
    found = classifier_files.open_classifier(epath.Path(tmp_path / "made"))
    params = _flat(found.read_parameters())
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    encoder_export.write(out, params, found.config, config, ["rude", "kind", "threat"])
    written = safetensors.numpy.load_file(out / "model.safetensors")
    assert written.keys() == made.keys()
    for tensor_name, tensor in made.items():
        np.testing.assert_array_equal(written[tensor_name], tensor)
    again = classifier_files.open_classifier(out)
    assert again.labels == ("rude", "kind", "threat")
    assert again.problem_type == "multi_label_classification"
    assert again.config == found.config


def test_a_new_bert_reads_itself(tmp_path):
    classifiers_made.make(tmp_path / "made", classifiers_made.BERT)
    config = classifier_files.open_classifier(epath.Path(tmp_path / "made")).config
    params = _flat(
        classifier_files.open_classifier(epath.Path(tmp_path / "made")).read_parameters()
    )
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    fields = encoder_export.bert_fields(config)
    encoder_export.write(out, params, config, fields, ["a", "b", "c"])
    assert classifier_files.open_classifier(out).config == config


def test_a_classifier_beside_an_adapter_is_not_what_transformers_loads(tmp_path):
    classifiers_made.make(tmp_path / "made", classifiers_made.BERT)
    (tmp_path / "made" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter_config.json: an adapter"):
        classifier_files.open_classifier(epath.Path(tmp_path / "made"))


def test_an_encoder_that_is_not_finite_is_not_written(tmp_path):
    classifiers_made.make(tmp_path / "made", classifiers_made.BERT)
    found = classifier_files.open_classifier(epath.Path(tmp_path / "made"))
    params = _flat(found.read_parameters())
    path = min(params)
    params[path] = np.where(np.arange(params[path].size) == 1, np.inf, params[path].ravel())
    with pytest.raises(UserError, match=f"parameter {path} holds numbers that are not finite"):
        fields = encoder_export.bert_fields(found.config)
        encoder_export.write(epath.Path(tmp_path), params, found.config, fields, ["a", "b", "c"])
    assert not (tmp_path / "model.safetensors").exists()


def _body(tmp_path, rename, config=classifiers_made.BERT, **changes):
    """The tensors of a classifier under other names; None drops one."""
    made = classifiers_made.make(tmp_path, config)
    renamed = {new: tensor for name, tensor in made.items() if (new := rename(name)) is not None}
    extra = {name: np.ones(3, np.float32) for name in changes.pop("extra", ())}
    safetensors.numpy.save_file({**renamed, **extra}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    return encoder_bodies.open_body(epath.Path(tmp_path), 5), made


RENAMES = {
    "classifier": (lambda name: name, ()),
    "masked language model": (
        lambda name: None if name.startswith("classifier") else name,
        ("cls.predictions.bias",),
    ),
    "old names": (
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
        (),
    ),
    "bare": (
        lambda name: None if name.startswith("classifier") else name.removeprefix("bert."),
        (),
    ),
}


@pytest.mark.parametrize("name", RENAMES)
def test_bodies_of_any_task(name, tmp_path):
    rename, extra = RENAMES[name]
    architectures = {"architectures": ["BertForMaskedLM"], "id2label": None}
    body, made = _body(tmp_path, rename, extra=extra, **architectures)
    params = body.read_parameters()
    assert body.config.num_labels == 5
    assert not any(path.startswith("head_logits") for path in params)
    pooler = made["bert.pooler.dense.weight"]
    np.testing.assert_array_equal(params["head_dense/kernel"], pooler.T)
    embedding = params["token_embedder/embedding"][1 : len(classifiers_made.VOCABULARY) + 1]
    np.testing.assert_array_equal(embedding, made["bert.embeddings.word_embeddings.weight"])
    scale = made["bert.encoder.layer.1.output.LayerNorm.weight"]
    np.testing.assert_array_equal(params["layers/mlp_norm/scale"][1], scale)


def test_a_body_without_pooler_gets_a_new_one(tmp_path):
    body, _ = _body(tmp_path, lambda name: None if "pooler" in name else name)
    assert not any(path.startswith("head_") for path in body.read_parameters())


@pytest.mark.parametrize(
    ("rename", "extra", "message"),
    [
        (
            lambda name: None if "layer.1.output.dense.bias" in name else name,
            (),
            "layer.1.output.dense.bias' is missing",
        ),
        (lambda name: name, ("bert.surprise",), "'bert.surprise' belongs to no part of a bert"),
    ],
)
def test_bodies_that_do_not_fit(rename, extra, message, tmp_path):
    body, _ = _body(tmp_path, rename, extra=extra)
    with pytest.raises(UserError, match=message):
        body.read_parameters()


@pytest.mark.interop
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_exports_with_equal_logits(name, tmp_path):
    import jax

    from detox_jax.models.encoder import Encoder

    torch = pytest.importorskip("torch", reason="needs the extra hf")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    classifiers_made.make(tmp_path / "made", getattr(classifiers_made, name))
    found = classifier_files.open_classifier(epath.Path(tmp_path / "made"))
    params = found.read_parameters()
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    fields = json.loads((tmp_path / "made" / "config.json").read_text())
    encoder_export.write(out, _flat(params), found.config, fields, ["a", "b", "c"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    ids = np.array([[2, 5, 9, 7, 3], [2, 8, 8, 6, 3]])
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    ours = Encoder(found.config).apply({"params": params}, ids + 1, enable_dropout=False)
    np.testing.assert_allclose(jax.device_get(ours), theirs, atol=1e-4)
