"""Rows of an embedding beyond the vocabulary, as imported models have: they are no tokens."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from detox_jax import cli, preview
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.evaluation.perplexity_cache import PerplexityReader
from detox_jax.generation import sampling
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator
from detox_jax.generation.steering.experts import Experts
from detox_jax.models.transformer import TransformerLM
from detox_jax.output_settings import NOT_YET
from detox_jax.zero_shot.reference import Reference
from tests.conftest import random_params
from tests.generation.steering import made

SPARE = 60
PROMPTS = [[5, 9, 30], [7], [40, 41, 42]]


@pytest.fixture(scope="module")
def paths(config, vocabulary, tmp_path_factory):
    """Two models, and the first one with rows more whose logits are above all others or below."""
    root = tmp_path_factory.mktemp("spare")
    wide = dataclasses.replace(config, vocab_size=config.vocab_size + SPARE)
    assert wide.padded_vocab_size > config.padded_vocab_size
    _, params = random_params(config, seed=3)
    table = np.zeros((wide.padded_vocab_size, config.emb_dim), np.float32)
    table[: config.vocab_size] = params["token_embedder"]["embedding"][: config.vocab_size]
    table[config.vocab_size :] = (
        30 * np.random.default_rng(0).normal(size=table.shape)[config.vocab_size :]
    )
    params = {**params, "token_embedder": {"embedding": jnp.asarray(table)}}
    spec = checkpoints.ModelSpec(wide, None, None, vocabulary.fingerprint)
    return {
        "plain": made.save_whole(root / "plain", config, vocabulary, 3),
        "other": made.save_whole(root / "other", config, vocabulary, 4),
        "wide": made._save(root / "wide", params, spec, vocabulary),
    }


@pytest.fixture(scope="module")
def loaded(paths, one_device_mesh):
    return {name: checkpoints.load_model(path, one_device_mesh) for name, path in paths.items()}


def _logits(model):
    return np.stack([made.read(model.module, model.params, p)[-1] for p in PROMPTS])


def test_a_model_without_them_is_what_it_was(loaded, config):
    assert loaded["plain"].module == TransformerLM(loaded["plain"].module.config)
    assert loaded["plain"].module.vocab_size == config.vocab_size


def test_they_have_no_probability(loaded, config):
    """Where a loss is taken they have: there the model is as it was saved."""
    plain, wide = (jax.nn.log_softmax(_logits(loaded[name])) for name in ("plain", "wide"))
    size = config.vocab_size
    np.testing.assert_allclose(wide[:, 1:size], plain[:, 1:size], atol=1e-4)
    whole = TransformerLM(loaded["wide"].module.config)
    trained = jax.nn.log_softmax(made.read(whole, loaded["wide"].params, PROMPTS[0])[-1])
    assert np.exp(trained[1:size]).sum() < 0.01


def test_what_reads_groups_counts_tokens_alone(paths):
    read = [
        Reference(paths[name], counts_spare_rows=False).load().reader([(PROMPTS[0], [11])])[0]
        for name in ("plain", "wide")
    ]
    assert read[1].log_probability == pytest.approx(read[0].log_probability, abs=1e-4)


def test_the_reference_of_a_loss_counts_them_as_the_loss_does(loaded, paths):
    (found,) = Reference(paths["wide"]).load().reader([(PROMPTS[0], [11])])
    whole = TransformerLM(loaded["wide"].module.config)
    trained = jax.nn.log_softmax(made.read(whole, loaded["wide"].params, PROMPTS[0])[-1])
    assert found.log_probability == pytest.approx(float(trained[11]), abs=1e-3)


@pytest.mark.parametrize("method", [sampling.Greedy(), sampling.TemperatureSampling()])
def test_they_are_never_drawn(loaded, one_device_mesh, method):
    drawn = [
        made.decode(loaded[name], one_device_mesh, (), PROMPTS, 6, 8, method)
        for name in ("plain", "wide")
    ]
    size = loaded["wide"].vocabulary.vocab_size
    assert all(0 < token < size for of in drawn[1] for tokens in of for token in tokens)
    if method == sampling.Greedy():
        assert drawn[0] == drawn[1]


METHODS = {
    "expert alone": lambda expert, anti: Experts(expert, alpha=2.0),
    "experts": lambda expert, anti: Experts(expert, anti, alpha=1.5),
    "discriminator": lambda expert, anti: GenerativeDiscriminator(
        clean=expert, dirty=anti, omega=2.0, filter_mass=None
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("roles", [("wide", "plain", "other"), ("other", "wide", "plain")])
def test_models_of_other_widths_combine_as_if_they_had_none(
    loaded, paths, one_device_mesh, config, name, roles
):
    """A wide model that is steered, and one that steers, beside the same without the rows."""
    prompts_NP = jnp.array([[*p, *[0] * (3 - len(p))] for p in PROMPTS], jnp.int32)
    lengths_N = jnp.array([len(p) for p in PROMPTS])
    said = []
    for base, expert, anti in (roles, tuple("plain" if r == "wide" else r for r in roles)):
        model = loaded[base]
        steering = METHODS[name](paths[expert], paths[anti]).load(model, one_device_mesh).steering
        size = model.module.vocab_size
        arguments = (steering, prompts_NP, lengths_N, _logits(model), size)
        said.append(np.exp(made.first_step(*arguments).log_probs()))
    size = config.vocab_size
    assert (said[0][:, size:] == 0).all()
    np.testing.assert_allclose(said[0][:, :size], said[1][:, :size], atol=1e-4)


@pytest.mark.parametrize("method", ["sampling.TopPSampling()", "sampling.Greedy()"])
def test_the_manifest_names_the_rules(paths, tmp_path, capsys, method):
    """What a version before has finished stays; what it had begun is not continued."""
    (tmp_path / "p.jsonl").write_text('{"id": "p", "prompt": {"text": "The bus"}}\n')
    out = tmp_path / "out"
    flags = ["generate", f"--gin.CHECKPOINT_PATH={paths['wide']}", "--gin.NUM_SAMPLES=2"]
    flags += [f"--gin.INPUT={tmp_path / 'p.jsonl'}", f"--gin.OUTPUT_DIR={out}"]
    flags += ["--gin.MAX_NEW_TOKENS=2", f"--gin.SAMPLING=@{method}"]
    assert cli.main(flags) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"].pop("text_rules") == 2
    for complete in (True, False):
        (out / "manifest.json").write_text(json.dumps({**manifest, "complete": complete}))
        for more in (["--dry_run"], []):
            assert cli.main([*flags, *more]) == (0 if complete else 2)
            told = "(text_rules: absent there, 2 now)" in capsys.readouterr().err
            assert told == (not complete)


# Shorter texts are read with all of their logits at once on the first mesh, chunk by chunk on the
# second; longer ones chunk by chunk on both.
@pytest.mark.parametrize("mesh_shape", [{"data": 8}, {"data": 2, "model": 4}], ids=str)
@pytest.mark.parametrize("text", ["The bus was late.", "The bus was late. " * 9])
def test_a_perplexity_is_of_tokens_alone(paths, vocabulary, tmp_path, mesh_shape, text):
    assert (len(vocabulary.encode(text)) < 16) == text.endswith(".")
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"id": "0", "text": text}) + "\n")
    reader = PerplexityReader(epath.Path(tmp_path), str(held), None, 64, mesh_shape)
    plain, wide = (reader.of_model(name, paths[name]) for name in ("plain", "wide"))
    assert plain is not None and wide is not None
    assert wide.value == pytest.approx(plain.value, rel=1e-4)
    inputs = {
        name: json.loads((tmp_path / f"perplexity-{name}.json").read_text())["inputs"]
        for name in ("plain", "wide")
    }
    assert inputs["wide"]["text_rules"] == 2 and "text_rules" not in inputs["plain"]


def test_a_figure_of_an_earlier_version_is_computed_again(paths, tmp_path):
    """It counted the rows; one of a model without them stays."""
    held = tmp_path / "held.jsonl"
    held.write_text('{"id": "0", "text": "The bus was late."}\n')
    reader = PerplexityReader(epath.Path(tmp_path), str(held), None, 64)
    for name, value in (("plain", 5.0), ("wide", None)):
        measured = reader.of_model(name, paths[name])
        file = tmp_path / f"perplexity-{name}.json"
        kept = json.loads(file.read_text())
        kept["inputs"].pop("text_rules", None)
        kept["perplexity"]["value"] = 5.0
        file.write_text(json.dumps(kept))
        found = reader.of_model(name, paths[name])
        assert measured is not None and found is not None
        assert found.value == (value or measured.value) and measured.value != 5.0


def test_settings_say_of_which_models_it_is(paths, tmp_path):
    assert identity.text_rules(paths["wide"]) == {"text_rules": 2}
    assert identity.text_rules(paths["plain"]) == identity.text_rules(str(tmp_path)) == {}
    assert identity.text_rules(preview.Coming("later")) == {"text_rules": NOT_YET}
