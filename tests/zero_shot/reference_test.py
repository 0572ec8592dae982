"""A reference model's likelihoods: those of the next token, prompt and padding not counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.zero_shot.reference import Reference

TEXTS = [
    ("The bus was", " late again.", False),
    ("The bus was", " late again.", True),
    ("", "Thanks!", True),
    ("You are", " an idiot", False),
]


@pytest.fixture(scope="module")
def reading(model_dir):
    return Reference(model_dir, batch_size=8).load()


def test_they_are_sums_over_the_text_and_its_end(reading, model_dir):
    loaded = checkpoints.load_model(model_dir, meshes.create_mesh())
    apply = jax.jit(lambda ids: loaded.module.apply({"params": loaded.params}, ids))
    vocabulary = reading.vocabulary
    for (prompt, text, ends), found in zip(TEXTS, reading.likelihoods(TEXTS), strict=True):
        context = [vocabulary.bos_id, *vocabulary.encode(prompt)]
        targets = [*vocabulary.encode(text), *([vocabulary.eos_id] if ends else [])]
        ids = np.zeros((1, 48), np.int32)
        ids[0, : len(context) + len(targets)] = context + targets
        log_probs = jax.nn.log_softmax(apply(jnp.asarray(ids))[0])
        at = len(context) - 1 + np.arange(len(targets))
        assert found[1] == len(targets)
        assert found[0] == pytest.approx(float(log_probs[at, targets].sum()), abs=1e-4)


def test_what_does_not_fit_is_none_and_the_others_keep_their_places(reading):
    long = ("The bus was", " late again." * 40, False)
    found = reading.likelihoods([TEXTS[0], long, TEXTS[3]])
    assert found[1] is None
    for likelihood, alone in zip(
        (found[0], found[2]), reading.likelihoods([TEXTS[0], TEXTS[3]]), strict=True
    ):
        assert likelihood[1] == alone[1]
        assert likelihood[0] == pytest.approx(alone[0], abs=1e-5)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such"):
        Reference(str(tmp_path / "nosuch")).check()
