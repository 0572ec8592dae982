"""What a steered model says of given text is what its own loop draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.contrast import PrefixContrast, SelfDebiasing
from detox_jax.generation.steering.discriminator import GenerativeDiscriminator
from detox_jax.generation.steering.experts import Experts
from detox_jax.generation.steering.reversal import ToxificationReversal
from detox_jax.generation.steering.reward import RewardAugmented
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.generation.steering.words import BannedWords
from tests.generation.steering import bigram_made as bigram
from tests.generation.steering import made
from tests.generation.steering.bigram_made import END, KIND, RUDE
from tests.generation.steering.steering_test import (
    bans,
    debiasing,
    dexperts,
    discriminated,
    prefix,
)
from tests.marks import slow_but

METHODS = {
    "nothing": (),
    "ban": (bans((RUDE,)),),
    "ban a phrase": (bans((KIND, RUDE)),),
    "experts": (dexperts(),),
    "anti": (dexperts(expert=False),),
    "contrast": (prefix(),),
    "debiasing": (debiasing(),),
    "discriminator": (discriminated(),),
    "two, and a ban": (prefix(0.5), debiasing(), bans((RUDE, RUDE))),
}
PROMPTS = ([KIND], [RUDE], [RUDE, KIND, KIND], [KIND, RUDE, RUDE, KIND])
_read = jax.jit(scoring.read, static_argnums=0)


def _scores(steerings, prompts, targets):
    length = max(map(len, prompts))
    prompts_NP = jnp.array([[*p, *[0] * (length - len(p))] for p in prompts])
    lengths_N = jnp.array([len(p) for p in prompts])
    found = _read(
        bigram.MODEL, bigram.params(), steerings, prompts_NP, lengths_N, jnp.array(targets)
    )
    return [np.asarray(x) for x in found]


def _of_the_loop(steerings, prompt):
    """What the loop draws from, step by step: of the first token, and of the second behind each."""
    table = bigram.params()["table"][0]
    prompts_NP, lengths_N = jnp.array([prompt], jnp.int32), jnp.array([len(prompt)])
    states = bigram.start(steerings, prompts_NP, lengths_N)
    first, states = bigram.step(steerings, states, table[prompts_NP[:, -1]], prompts_NP[:, -1])
    second = [
        bigram.step(steerings, states, table[jnp.array([token])], jnp.array([token]))[0][0]
        for token in (KIND, RUDE)
    ]
    return np.asarray(first[0]), np.asarray(second)


@pytest.mark.parametrize(
    "name",
    slow_but([*{*METHODS} - {"experts", "contrast", "discriminator", "debiasing"}], METHODS),
)
def test_a_text_is_as_likely_as_the_loop_draws_it(name):
    """The product of its steps, of every text of two tokens; together they are all that happens."""
    steerings = METHODS[name]
    texts = [[a, b] for a in (KIND, RUDE) for b in (KIND, RUDE, END)]
    rows = [(prompt, text) for prompt in PROMPTS for text in texts]
    log_probs, is_best = _scores(steerings, *zip(*rows, strict=True))
    for n, prompt in enumerate(PROMPTS):
        first, second = _of_the_loop(steerings, prompt)
        of_prompt = slice(n * len(texts), (n + 1) * len(texts))
        probs = np.exp(log_probs[of_prompt]).prod(axis=1)
        expected = [first[a - 1] * second[a - 1][b - 1] for a, b in texts]
        np.testing.assert_allclose(probs, expected, atol=1e-6)
        assert probs.sum() + first[END - 1] == pytest.approx(1, abs=1e-5)
        for (a, b), best in zip(texts, is_best[of_prompt], strict=True):
            assert best.tolist() == [np.argmax(first) == a - 1, np.argmax(second[a - 1]) == b - 1]


def test_what_is_banned_has_no_probability():
    log_probs, is_best = _scores((bans((RUDE,)),), [[KIND]], [[KIND, RUDE]])
    assert log_probs[0, 1] == -np.inf and np.isfinite(log_probs[0, 0]) and not is_best[0, 1]


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


def test_edits_act_on_the_whole_text(base, one_device_mesh, tmp_path):
    """As one pass without a cache, prompt and text; and greedy text is the likeliest everywhere."""
    path = made.save_vectors(tmp_path / "vectors", base, "in_context")
    loaded = ActivationOffset(path, 0.8).load(base, one_device_mesh)
    prompts = ([5, 9, 30], [7])
    decoded = made.decode(base, one_device_mesh, (loaded.steering,), prompts, 4)
    texts = [tokens for (tokens,) in decoded]
    assert [len(text) for text in texts] == [4, 4]
    found = jax.jit(scoring.read, static_argnums=0)(
        base.module,
        base.params,
        (loaded.steering,),
        jnp.array([prompts[0], [7, 0, 0]]),
        jnp.array([3, 1]),
        jnp.array(texts),
    )
    log_probs, is_best = map(np.asarray, found)
    assert is_best.all()
    for n, prompt in enumerate(prompts):
        ids = [*prompt, *texts[n]]
        logits = made.read(base.module, base.params, ids, loaded.steering.edits)
        log_probs_4V = np.asarray(jax.nn.log_softmax(logits[len(prompt) - 1 : -1]))
        expected = log_probs_4V[np.arange(4), texts[n]]
        np.testing.assert_allclose(log_probs[n], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Experts(anti="a", base_top_p=0.9), "leaves tokens out by its base_top_p of 0.9"),
        (PrefixContrast(base_top_p=0.5), "leaves tokens out by its base_top_p of 0.5"),
        (PrefixContrast(form="probabilities"), "leaves out every token that the bad prefix"),
        (GenerativeDiscriminator(clean="a", dirty="b"), "leaves tokens out by its filter_mass"),
        (SubspaceMargin("a", k=7), "draws among its 7 candidates alone"),
        (RewardAugmented("a"), "draws among its 20 candidates alone"),
        (ToxificationReversal(), "acts from a prompt's last token on"),
    ],
)
def test_what_is_no_distribution_over_all_tokens_is_refused(method, why):
    with pytest.raises(UserError, match=f"reading cannot score .*{type(method).__name__}") as no:
        scoring.require_scored("reading", [BannedWords(), method])
    assert why in str(no.value) and "\n" not in str(no.value)


def test_what_is_one_is_not_refused():
    discriminator = GenerativeDiscriminator(clean="a", dirty="b", filter_mass=None)
    methods = [Experts(anti="a"), PrefixContrast(), SelfDebiasing(), ActivationOffset("a")]
    scoring.require_scored("reading", [*methods, discriminator, BannedWords()])
    with pytest.raises(UserError, match="which is no method"):
        scoring.require_scored("reading", [BannedWords])
