"""Text read in one pass is as likely as token by token, under every method that needs no steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.generation.steering import one_pass, scoring, steering
from detox_jax.generation.steering.activations import ActivationOffset, AffineSteering
from detox_jax.generation.steering.contrast import PrefixContrast, SelfDebiasing
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.linear import LinearSteering
from detox_jax.generation.steering.words import BannedWords
from detox_jax.models.adaptation import AdapterConfig, PrefixConfig
from tests.generation.steering import linear_test, made
from tests.marks import slow_but


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def files(base, model_dir, config, vocabulary, one_device_mesh, tmp_path_factory):
    """Places of what the methods read, by name."""
    root = tmp_path_factory.mktemp("steering")
    kinds = {"expert": AdapterConfig(8), "anti": AdapterConfig(8), "prefix": PrefixConfig(4)}
    places = {
        name: made.save_adaptation(root / name, model_dir, one_device_mesh, seed, kind)
        for seed, (name, kind) in enumerate(kinds.items())
    }
    small = dataclasses.replace(config, num_layers=1, max_length=32)
    places["small"] = made.save_whole(root / "small", small, vocabulary, 5)
    for rule in ("mean_difference", "in_context", "heads", "affine"):
        places[rule] = made.save_vectors(root / rule, base, rule)
    places["linear"] = linear_test.save(root / "linear", base)
    (root / "words.txt").write_text("idiot\nyou are the\n")
    return {**places, "words": str(root / "words.txt")}


METHODS = {
    "words": lambda of: [BannedWords(of["words"])],
    "experts, adapters": lambda of: [Experts(of["expert"], of["anti"], 1.5)],
    "experts, of two sizes": lambda of: [Experts(of["small"], of["anti"])],
    "contrast": lambda of: [PrefixContrast(), PrefixContrast(prefix=of["prefix"])],
    "self-debiasing": lambda of: [SelfDebiasing(["rude:", "A text with insults:"])],
    "discriminator, two models": lambda of: [
        GenerativeDiscriminator(clean=of["expert"], dirty=of["small"], omega=3.0, filter_mass=None)
    ],
    "discriminator, two codes": lambda of: [
        GenerativeDiscriminator(of["small"], ("clean ", "dirty "), omega=3.0, filter_mass=None)
    ],
    "edits": lambda of: [
        *(ActivationOffset(of[rule]) for rule in ("mean_difference", "in_context", "heads")),
        AffineSteering(of["affine"]),
        LinearSteering(of["linear"], 2.0),
    ],
    "together": lambda of: [
        BannedWords(of["words"]),
        ActivationOffset(of["heads"]),
        Experts(anti=of["anti"]),
    ],
}

FEW = (
    *("words", "experts, adapters", "self-debiasing"),
    *("discriminator, two codes", "edits", "together"),
)


_SIZES = {"batch_size": 2, "max_length": 64}


def _text(base, seed=0):
    """Texts of a few lengths, also without a start token, with words that are banned."""
    noise, (banned,) = np.random.default_rng(seed), base.vocabulary.encode_batch([" you are the"])
    start = base.vocabulary.bos_id
    prompts = [[start], [start, 5, 9, 30], [7], [40, 41, 42, *banned[:-1]], []]
    prompts_NP = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row, prompt in zip(prompts_NP, prompts, strict=True):
        row[: len(prompt)] = prompt
    targets_NT = noise.integers(2, base.module.config.vocab_size, (len(prompts), 7))
    targets_NT[3, 0] = banned[-1]
    arrays = (prompts_NP, np.array([*map(len, prompts)]), targets_NT)
    return one_pass.Text(*(jnp.asarray(array, jnp.int32) for array in arrays)), len(prompts) - 1


@pytest.mark.parametrize("name", METHODS)
def test_what_a_check_says_of_methods_is_what_they_say_when_they_are_loaded(
    name, base, files, one_device_mesh
):
    methods = METHODS[name](files)
    loaded = steering.load(methods, base, one_device_mesh)
    for method, one in zip(methods, loaded, strict=True):
        made.check_said_ahead(method, one)


@pytest.mark.parametrize("name", slow_but(FEW, METHODS))
def test_one_pass_says_what_steps_say(name, base, files, one_device_mesh, monkeypatch):
    monkeypatch.setattr(one_pass, "_PLACES", 15)  # three of seven a row
    loaded = steering.load(METHODS[name](files), base, one_device_mesh)
    steerings = steering.in_loop(loaded)
    assert len(steerings) == len(loaded) and one_pass.can_read(steerings)
    text, rows = _text(base)
    arrays = (text.prompts_NP, text.lengths_N, text.targets_NT)
    by_steps = jax.jit(scoring.read, static_argnums=0)(base.module, base.params, steerings, *arrays)
    at_once = jax.jit(one_pass.read, static_argnums=0)(base.module, base.params, steerings, text)
    (expected, expected_best), (log_probs, is_best) = jax.tree.map(
        lambda leaf: np.asarray(leaf)[:rows], (by_steps, at_once)
    )
    assert np.isneginf(expected[3, 0]) == (name in ("words", "together"))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(is_best, expected_best)


def test_texts_that_fill_the_context_are_read_as_by_steps(
    base, files, one_device_mesh, monkeypatch
):
    """Padded prompts and continuations are longer than the smaller model reads."""
    loaded = steering.load([Experts(anti=files["small"])], base, one_device_mesh)
    texts = scoring.steered_texts(loaded=base, methods=loaded, mesh=one_device_mesh, **_SIZES)
    assert texts is not None and texts.max_length == 32
    ids = np.random.default_rng(1).integers(2, base.module.config.vocab_size, 60).tolist()
    pairs = [(ids[:17], ids[17:34]), (ids[:40], ids[40:57]), (ids[:1], [])]
    said = texts(pairs, "at once")
    monkeypatch.setattr(one_pass, "can_read", lambda steerings: False)
    for at_once, by_steps in zip(said, texts(pairs, "by steps"), strict=True):
        np.testing.assert_allclose(at_once.log_probs_T, by_steps.log_probs_T, atol=2e-5)
    assert [len(of.log_probs_T) for of in said] == [17, 17, 0]


def test_only_methods_that_can_are_read_in_one_pass():
    class BySteps:
        """A method of one's own."""

    assert one_pass.can_read(()) and not one_pass.can_read((BySteps(),))
