"""What all methods have in common, and whole loops whose result is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.generation import decoding, sampling, slots
from detox_jax.generation.steering import (
    contrast,
    discriminator,
    experts,
    reward,
    steering,
    subspace,
    words,
)
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.parallel import mesh as meshes
from tests.generation.steering import bigram_made as bigram
from tests.generation.steering.bigram_made import CLEAN, DIRTY, KIND, RUDE
from tests.marks import slow_but

PLAIN = sampling.TemperatureSampling(1.0)


def bans(*phrases):
    automaton = words.Automaton.of_phrases(phrases, 4)
    tables = (automaton.symbol_V, automaton.next_SY, automaton.banned_SY)
    return words.Bans(*map(jnp.asarray, tables))


def dexperts(alpha=1.0, base_top_p=None, expert=True, shifts=(0.0, 0.0)):
    models = [(bigram.EXPERT, shifts[0])] * expert + [(bigram.ANTI, shifts[1])]
    return experts.Added(
        branches=tuple(
            Branches.of_model(bigram.MODEL, bigram.params(base=base, shift=shift))
            for base, shift in models
        ),
        alpha=jnp.float32(alpha),
        base_top_p=base_top_p and jnp.float32(base_top_p),
        has_expert=expert,
        has_anti=True,
    )


def behind(*prefixes, shift=0.0):
    return Branches.of_prefixes(bigram.MODEL, bigram.params(shift=shift), prefixes, bos_id=99)


def prefix(alpha=1.0, form="logits", base_top_p=None, shift=0.0):
    return contrast.Contrast(
        behind([DIRTY], shift=shift),
        jnp.float32(alpha),
        base_top_p and jnp.float32(base_top_p),
        form,
        4,
    )


def debiasing(decay=10.0, prefixes=([DIRTY],), shift=0.0):
    branch = behind(*prefixes, shift=shift)
    return contrast.Debiasing(branch, jnp.float32(decay), jnp.float32(0.01), 4)


def discriminated(omega=2.0, filter_mass=None, shift=0.0, bias=2.0, branches=None):
    return discriminator.Discriminated(
        branches or (behind([CLEAN], [DIRTY], shift=shift),),
        *map(jnp.float32, (omega, bias, 1.0)),
        filter_mass and jnp.float32(filter_mass),
        jax.nn.log_sigmoid(jnp.float32(np.log(4) + bias)),
        4,
        8,
    )


# Of the last token; the centre is 0.1.
MARGINS = {KIND: 0.5, RUDE: -1.0, bigram.END: 0.2}


def margins(beta=1.0, k=3, published=False, shift=0.0, base_top_p=None):
    return subspace.Margins(
        Lookahead(bigram.MODEL, bigram.params(shift=shift), k),
        bigram.of_tokens(MARGINS),
        bigram.of_tokens({}),
        jnp.float32(beta),
        base_top_p and jnp.float32(base_top_p),
        (bigram.END,),
        published,
    )


def rewarded(beta=1.0, k=3, shift=0.0):
    """Expected toxicity .1 behind "kind", .8 behind "rude"."""
    head_D = bigram.of_tokens({KIND: 0.1, RUDE: 0.8})
    lookahead = Lookahead(bigram.MODEL, bigram.params(shift=shift), k)
    return reward.Rewarded(lookahead, head_D, jnp.float32(beta), (bigram.END,))


def by_hand(beta, k=3, published=False, margins=(0.5, -1.0)):
    """The first token's probabilities, P(no rude token) and P(rude, rude), from the formula."""

    def probs(last):
        end = MARGINS[bigram.END] if published else margins[last - 1]
        added = np.array([*margins, end])
        logits = np.array(bigram.BASE[last - 1])
        kept = logits >= np.sort(logits)[-k]
        if published:
            added = np.exp(added) / np.exp(added[kept]).sum()
        weights = np.where(kept, np.exp(logits + beta * added), 0)
        return weights / weights.sum()

    first, again = probs(KIND), probs(RUDE)
    return tuple(first), first[2] + first[0] * (1 - first[1]), first[1] * again[1]


KNOWN = {
    "base": ((), (0.506480, 0.186324, 0.307196), 0.719307, 0.094369),
    "ban": ((bans((RUDE,)),), (0.622459, 0, 0.377541), 1, 0),
    "ban a phrase that the prompt begins": (
        (bans((KIND, RUDE)),),
        (0.622459, 0, 0.377541),
        1,
        0,
    ),
    "experts": ((dexperts(),), (0.810216, 0.009001, 0.180784), 0.983707, 0.000699),
    "experts, filter .9": ((dexperts(1, 0.9),), (0.810216, 0.009001, 0.180784), 0.983707, 0.000699),
    "experts, filter .8": ((dexperts(1, 0.8),), (0.817574, 0, 0.182426), 1, 0),
    "anti": ((dexperts(expert=False),), (0.715268, 0.021599, 0.263132), 0.962952, 0.004578),
    "contrast": ((prefix(),), (0.715268, 0.021599, 0.263132), 0.962952, 0.004578),
    "debiasing 10": ((debiasing(),), (0.621037, 0.002285, 0.376678), 0.996296, 0.000134),
    "debiasing 50": ((debiasing(50),), (0.621037, 0.002285, 0.376678), 0.996296, 0.000023),
    "probabilities": (
        (prefix(0.3, "probabilities"),),
        (0.612140, 0.034789, 0.353070),
        0.943915,
        0.014693,
    ),
    "discriminator": ((discriminated(),), (0.543029, 0.143276, 0.313696), 0.766568, 0.062950),
    "discriminator 30": (
        (discriminated(30.0),),
        (0.772506, 0.001942, 0.225552),
        0.977352,
        0.000034,
    ),
    # By hand from the bigram's logits: end of text has the margin of the last token.
    "margins": ((margins(2.0),), *by_hand(2.0)),
    "rewards": ((rewarded(2.0),), *by_hand(2.0, margins=(0.9, 0.2))),
    "margins, two candidates": ((margins(2.0, 2),), *by_hand(2.0, 2)),
    "margins, published": ((margins(20.0, published=True),), *by_hand(20.0, published=True)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_two_tokens_are_as_computed_by_hand(name):
    steerings, first, clean, both = KNOWN[name]
    found = bigram.enumerate_two(steerings)
    np.testing.assert_allclose(found[0], first, atol=1e-6)
    np.testing.assert_allclose(found[1:], (clean, both), atol=1e-6)


def _decode(steerings, prompts=((KIND,),), num_samples=20_000, method=PLAIN, names=None, rows=0):
    """Two new tokens of every sample, `[N, S, 2]`, 0 behind the end."""
    mesh = meshes.create_mesh(devices=jax.devices()[:1])
    decoder = decoding.Decoder(
        bigram.MODEL,  # type: ignore
        bigram.params(),
        mesh,
        sampling=method,
        max_new_tokens=2,
        end_ids=(bigram.END,),
        seed=0,
        steerings=steerings,
    )
    names = names or [f"p{n}" for n in range(len(prompts))]
    samples = decoder(
        prompts, names, num_samples=num_samples, num_rows=rows or len(prompts), bucket=4
    )
    ended = [[[*s.tokens, *[bigram.END] * s.stopped, 0][:2] for s in of] for of in samples]
    return np.array(ended)


# One of each formula and of each kind of state.
DRAWN = (
    *("base", "ban", "experts", "experts, filter .8", "contrast", "debiasing 10"),
    *("probabilities", "discriminator", "margins", "rewards"),
)


@pytest.mark.parametrize("name", slow_but(DRAWN, KNOWN))
def test_the_loop_draws_from_it(name):
    """20,000 rows, within four standard errors."""
    steerings, first, clean, both = KNOWN[name]
    method = sampling.TopPSampling(1.0) if "filter" in name else PLAIN
    tokens_ST = _decode(steerings, method=method)[0]
    shares = [np.mean(tokens_ST[:, 0] == token) for token in (KIND, RUDE, bigram.END)]
    np.testing.assert_allclose(shares, first, atol=0.013)
    is_rude_ST = tokens_ST == RUDE
    assert np.mean(~is_rude_ST.any(axis=1)) == pytest.approx(clean, abs=0.013)
    assert np.mean(is_rude_ST.all(axis=1)) == pytest.approx(both, abs=0.013)


# --- what every method must do ------------------------------------------------------------------

# By name: of a strength and of a constant that is added to all logits of its own models.
METHODS = {
    "experts": lambda strength, shift: dexperts(strength, shifts=(shift, 2 * shift)),
    "experts, filtered": lambda strength, shift: dexperts(strength, 0.9, shifts=(shift, shift)),
    "anti": lambda strength, shift: dexperts(strength, expert=False, shifts=(0, shift)),
    "contrast": lambda strength, shift: prefix(strength, shift=shift),
    "contrast, filtered": lambda strength, shift: prefix(strength, base_top_p=0.9, shift=shift),
    "probabilities": lambda strength, shift: prefix(strength, "probabilities", shift=shift),
    "margins": lambda strength, shift: margins(strength, shift=shift),
    "rewards": lambda strength, shift: rewarded(strength, shift=shift),
    "discriminator": lambda strength, shift: discriminated(strength, shift=shift),
    "debiasing": lambda strength, shift: debiasing(strength, ([DIRTY], [KIND, RUDE]), shift=shift),
}
PROMPTS = ((KIND,), (RUDE, KIND, KIND), (RUDE,), (KIND, RUDE, RUDE, KIND))
# A few that keep all kinds of state: branches, prefixes, candidates, what is known of a text.
OF_EACH_STATE = ("experts", "contrast", "rewards", "discriminator", "bans")
NUCLEUS = sampling.TopPSampling(0.9)


@pytest.mark.parametrize("name", METHODS)
def test_strength_0_draws_the_models_own_tokens(name):
    plain = _decode((), PROMPTS, 500, NUCLEUS)
    assert (_decode((METHODS[name](0.0, 0.0),), PROMPTS, 500, NUCLEUS) == plain).all()
    assert (_decode((METHODS[name](2.0, 0.0),), PROMPTS, 500, NUCLEUS) != plain).any()


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_on_all_logits_of_a_model_changes_nothing(name):
    before = bigram.enumerate_two((METHODS[name](0.7, 0.0),))
    after = bigram.enumerate_two((METHODS[name](0.7, -8.0),))
    np.testing.assert_allclose(np.hstack(after), np.hstack(before), atol=2e-6)


@pytest.mark.parametrize("name", slow_but(OF_EACH_STATE, [*METHODS, "bans"]))
def test_a_row_does_not_depend_on_its_batch(name):
    steerings = (METHODS[name](1.5, 0.0) if name in METHODS else bans((KIND, RUDE)),)
    together = _decode(steerings, PROMPTS, 50)
    for n, prompt in enumerate(PROMPTS):
        alone = _decode(steerings, (prompt,), 50, names=[f"p{n}"])
        assert (alone[0] == together[n]).all()


@pytest.mark.parametrize("name", slow_but(OF_EACH_STATE[:-1], METHODS))
def test_what_is_no_token_is_never_drawn_and_no_number_is_lost(name):
    """However large the strength; and a ban holds beside it."""
    steerings = (METHODS[name](1e30, 0.0), bans((RUDE,)))
    tokens = _decode(steerings, PROMPTS, 200)
    assert set(np.unique(tokens)) <= {0, KIND, bigram.END}
    assert (tokens[..., 0] != 0).all()
    probs, _, _ = bigram.enumerate_two(steerings)
    assert np.isfinite(probs).all() and sum(probs) == pytest.approx(1)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_ends_with_end_of_text_in_every_branch(name):
    tokens_NST = _decode((METHODS[name](1.0, 0.0),), PROMPTS, 500, NUCLEUS)
    ended = tokens_NST[..., 0] == bigram.END
    assert ended.any() and (tokens_NST[ended][:, 1] == 0).all()
    assert (tokens_NST[~ended][:, 1] != 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_bans_come_last_wherever_they_stand(name):
    method, ban = METHODS[name](0.5, 0.0), bans((RUDE,))
    first, last = bigram.enumerate_two((ban, method)), bigram.enumerate_two((method, ban))
    assert first[0][1] == last[0][1] == 0
    if "filtered" not in name:  # whose nucleus is of what stands where they stand
        np.testing.assert_allclose(np.hstack(first), np.hstack(last), atol=1e-6)


def test_the_discriminator_filters_what_is_likelier_dirty():
    """Of the base (.506, .186, .307) the least clean 0.8 go; two models do as two codes."""
    kind, rude, end = bigram.enumerate_two((discriminated(2.0, 0.8),))[0]
    assert (rude, end) == (0, 0) and kind == 1
    kind, rude, end = bigram.enumerate_two((discriminated(2.0, 0.2),))[0]
    assert rude == 0 and end == pytest.approx(0.313696 / (0.543029 + 0.313696), abs=1e-6)
    pair = tuple(
        Branches.of_model(bigram.MODEL, bigram.params(base=base))
        for base in (bigram.EXPERT, bigram.ANTI)
    )
    found = bigram.enumerate_two((discriminated(2.0, branches=pair),), prompt=(RUDE, KIND))
    rows = np.array([bigram.EXPERT, bigram.ANTI], float)
    logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    difference = (logs[0, 1, 0] - logs[1, 1, 0] + logs[0, 0] - logs[1, 0]) / 2
    logits = np.array(bigram.BASE[0]) - 2 * np.log1p(np.exp(-difference - 2))
    np.testing.assert_allclose(found[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-6)


def test_a_token_that_is_no_candidate_is_read_all_the_same():
    """Bans may leave no candidate; what is drawn then is read before it is looked ahead of."""
    ban, greedy = bans((KIND,), (bigram.END,)), sampling.Greedy()
    tokens_NST = _decode((ban, margins(2.0, 1)), PROMPTS, 3, greedy)
    assert (tokens_NST == RUDE).all()
    alone = _decode((ban, margins(2.0, 3)), PROMPTS, 3, greedy)
    assert (alone == tokens_NST).all()


def test_methods_apply_in_their_order():
    """Anti-only behind anti-only adds up; a nucleus is of what was made before it."""
    twice = bigram.enumerate_two((dexperts(1.0, expert=False), prefix(1.0)))
    logits = np.array(bigram.BASE[0]) * 3 - np.array(bigram.ANTI[0]) * 2
    logits = 2 * (2 * np.array(bigram.BASE[0]) - bigram.ANTI[0]) - bigram.ANTI[0]
    np.testing.assert_allclose(twice[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    before = bigram.enumerate_two((dexperts(1.0, 0.8), prefix(1.0)))
    assert before[0][1] == 0  # "rude" is outside the nucleus of the base
    after = bigram.enumerate_two((prefix(-2.0), dexperts(1.0, 0.8)))
    assert after[0][1] > 0


def test_a_method_of_strength_0_shortens_no_context():
    read = steering.Loaded(METHODS["contrast"](1.0, 0.0), {}, 40)
    unread, endless = steering.Loaded(None, {}, 20), steering.Loaded(bans((RUDE,)), {})
    assert steering.longest([read, unread, endless], 64) == 40
    assert steering.longest([unread, endless], 64) == 64


# --- the loop -----------------------------------------------------------------------------------


def _traced(steerings=()):
    """What runs of the loop: rows made, filled, and advanced."""
    program = slots.Program(bigram.MODEL, NUCLEUS, 2, (bigram.END,), bucket=1, shards=1)
    arrays = jnp.ones((1, 1), jnp.int32), jnp.ones(1, jnp.int32), jnp.zeros((1, 2), jnp.uint32)
    insertion = slots.Insertion(*arrays, jnp.zeros(2, jnp.int32), jnp.arange(2))

    def run(params, steerings):
        rows = slots.empty(program, params, 2, steerings)
        rows = slots.insert(program, params, rows, insertion, jnp.uint32(0), steerings)
        return slots.advance(program, params, rows, jnp.int32(2), steerings)

    return jax.make_jaxpr(run)(bigram.params(), steerings)


def test_a_loop_without_steering_is_what_it_was(monkeypatch):
    """It computes nothing for it, so that it is the same program."""
    without = str(_traced())
    assert str(_traced((prefix(),))) != without
    for name in ("adjust", "hold", "Distribution"):
        monkeypatch.setattr(steering, name, None)
    for name in ("empty", "start", "put", "by_axis"):
        monkeypatch.setattr(steering, name, lambda *_: ())
    assert str(_traced()) == without


@pytest.mark.parametrize("name", slow_but(OF_EACH_STATE, [*METHODS, "bans"]))
def test_a_row_that_takes_anothers_place_is_as_one_of_its_own(name):
    """Prompts of which two fit at once: rows are refilled as their texts end."""
    ban = bans((RUDE, RUDE, KIND, RUDE))
    steerings = (METHODS[name](1.5, 0.0) if name in METHODS else ban,)
    prompts = PROMPTS * 5
    together = _decode(steerings, prompts, 7)
    assert (_decode(steerings, prompts, 7, rows=2) == together).all()
    if name == "bans":  # Of a prompt that ends in all but the last of it, and of no other.
        rude = (together[..., 0] == RUDE).any(axis=1)
        assert rude.tolist() == [prompt != PROMPTS[-1] for prompt in prompts]


def test_a_row_that_waits_stays_where_it_is():
    before = ({0: jnp.zeros(3, jnp.int32), 1: {"cache_index": jnp.zeros((1, 3, 2), jnp.int32)}},)
    after = jax.tree.map(lambda leaf: leaf + 1, before)
    (held,) = steering.hold(jnp.array([True, False, True]), before, after)
    assert held[0].tolist() == [1, 0, 1]
    assert held[1]["cache_index"].tolist() == [[[1, 1], [0, 0], [1, 1]]]


def test_one_program_serves_all_strengths():
    traces = []

    @jax.jit
    def probs(steerings, token_R):
        traces.append(None)
        states = steering.start(steerings, token_R[:, None], jnp.ones(1, jnp.int32), 16)
        logits_RV = bigram.params()["table"][0, token_R]
        return steering.adjust(steerings, states, logits_RV, token_R, 4)[0].logits_RV

    for name, method in METHODS.items():
        traces.clear()
        results = [probs((method(a, 0.0),), jnp.array([KIND])).tolist() for a in (0.5, 1.0, 2.0)]
        assert len(traces) == 1, name
        assert results[0] != results[1] != results[2], name


def test_settings_say_where_methods_are_told_of_further_ends(vocabulary, one_device_mesh):
    """Those that read ahead took them for other tokens in a version before."""

    class Method:
        def __init__(self, steers, reads_ends):
            self.loaded = steering.Loaded(steers, {"n": 1}, reads_ends=reads_ends)

        def load(self, base, mesh):
            return self.loaded

    base = LoadedModel(None, None, vocabulary, "", None)
    methods = [Method(bans((RUDE,)), True), Method(bans((RUDE,)), False), Method(None, True)]

    def settings(*more):
        ends = (*vocabulary.end_ids, *more)
        return [of.settings for of in steering.load(methods, base, one_device_mesh, ends)]

    assert settings() == [{"n": 1}] * 3
    assert settings(7) == [{"n": 1, "text_rules": 2}, {"n": 1}, {"n": 1}]
