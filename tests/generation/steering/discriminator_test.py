"""GeDi over models on disk: what it reads of a prompt, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering import steering
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator as Discriminator
from detox_jax.vocabulary import Vocabulary
from tests.generation.steering import made
from tests.marks import slow_but

PROMPT, NEW = [5, 9, 30], [11, 12]


@pytest.fixture(scope="module")
def steered(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def adapted(model_dir, one_device_mesh, tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    return [
        made.save_adaptation(root / name, model_dir, one_device_mesh, seed)
        for name, seed in (("clean", 1), ("dirty", 2))
    ]


def _last_step(loaded, base):
    """The steered logits behind prompt and new tokens, and the base's."""
    width = base.module.config.padded_vocab_size
    prompts, lengths = jnp.array([[*PROMPT, 0]]), jnp.array([len(PROMPT)])
    start = jax.jit(steering.start, static_argnums=3)
    states = start((loaded.steering,), prompts, lengths, 16)
    adjust = jax.jit(steering.adjust, static_argnums=4)
    logits = made.read(base.module, base.params, [*PROMPT, *NEW])
    size = base.module.config.vocab_size
    after = None
    for place, token in enumerate([PROMPT[-1], *NEW], len(PROMPT) - 1):
        logits_1V = logits[None, place, :width]
        after, states = adjust(
            (loaded.steering,), states, logits_1V, jnp.array([token], jnp.int32), size
        )
    return np.asarray(after.logits_RV)[0, 1:size], np.asarray(logits)[-1, 1:size]


def _log_probs(path_or_model, mesh, before):
    """Log-probabilities of the tokens of prompt and new ones, and of what is next."""
    model = path_or_model
    if isinstance(model, str):
        model = checkpoints.load_model(model, mesh)
    ids = [*before, *PROMPT, *NEW]
    logs = np.asarray(jax.nn.log_softmax(made.read(model.module, model.params, ids)), np.float64)
    start = max(1, len(before))
    text = [logs[i - 1, ids[i]] for i in range(start, len(ids))]
    return sum(text), len(text), logs[-1, 1 : model.module.config.vocab_size]


@pytest.mark.parametrize(
    "form", slow_but(["two codes"], ["two models", "two codes", "a smaller model"])
)
def test_the_formula_over_a_whole_text(
    steered, adapted, config, vocabulary, one_device_mesh, tmp_path, form
):
    """Prompt and drawn tokens count, each once, as one pass without a cache reads them."""
    if form == "two models":
        method = Discriminator(clean=adapted[0], dirty=adapted[1], omega=2.0, filter_mass=None)
        read = [(path, []) for path in adapted]
    else:
        path = adapted[0]
        if form == "a smaller model":
            small = dataclasses.replace(config, num_layers=1)
            path = made.save_whole(tmp_path / "small", small, vocabulary, 5)
        codes = ("good: ", "b: ")
        method = Discriminator(path, codes, omega=2.0, filter_mass=None)
        read = [(path, vocabulary.encode(code)) for code in codes]
    loaded = method.load(steered, one_device_mesh)
    found, base = _last_step(loaded, steered)
    (clean, count, next_clean), (dirty, _, next_dirty) = (
        _log_probs(path, one_device_mesh, before) for path, before in read
    )
    mean = (clean - dirty + next_clean - next_dirty) / (count + 1)
    np.testing.assert_allclose(found, base - 2 * np.log1p(np.exp(-mean - 2)), atol=1e-4)
    assert "fingerprint" in loaded.settings["clean" if form == "two models" else "model"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discriminator(), "needs one model behind two codes, or two models"),
        (lambda: Discriminator(clean="a"), "needs one model behind two codes, or two models"),
        (lambda: Discriminator("m", ("a", "b"), clean="a"), "needs one model behind two codes"),
        (lambda: Discriminator("m"), r"codes is None; give two texts"),
        (lambda: Discriminator(clean="a", dirty="b", codes=("c", "d")), "behind no code; leave it"),
        (lambda: Discriminator("m", ("a", "a")), "give two texts"),
        (lambda: Discriminator("m", ("a", "b"), omega=float("nan")), "omega is nan; must be a"),
        (lambda: Discriminator("m", ("a", "b"), filter_mass=0.0), "filter_mass is 0.0; must be"),
        (lambda: Discriminator("m", ("a", "b"), filter_threshold=1.0), "filter_threshold is 1.0"),
    ],
)
def test_numbers_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_models_that_do_not_fit(steered, adapted, config, one_device_mesh, tmp_path):
    with pytest.raises(UserError, match="codes: '' has no tokens"):
        Discriminator(adapted[0], ("", "b")).load(steered, one_device_mesh)
    other = Vocabulary.train(["some other words", "of another text"] * 4, 300)
    path = made.save_whole(tmp_path / "other", config, other, 9)
    with pytest.raises(UserError, match=r"GenerativeDiscriminator.dirty: .* has vocabulary"):
        Discriminator(clean=adapted[0], dirty=path).load(steered, one_device_mesh)


@pytest.mark.parametrize("missing", ["model", "clean", "dirty"])
def test_models_that_are_not_there_are_named_before_any_work(missing, tmp_path):
    here, nowhere = str(tmp_path), str(tmp_path / "nowhere")
    (tmp_path / "model.json").write_text("{}")
    if missing == "model":
        method = Discriminator(nowhere, ("a", "b"))
    else:
        method = Discriminator(**{"clean": here, "dirty": here, missing: nowhere})
    with pytest.raises(UserError, match=rf"GenerativeDiscriminator\.{missing}: .*no such file"):
        steering.check_files([method])
