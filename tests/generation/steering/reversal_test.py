"""Toxification reversal: a whole loop is the formula, read without any cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import decoding, sampling
from detox_jax.generation.steering import activation_formulas as formulas
from detox_jax.generation.steering.fitting import CLEAN_PREFIX, TOXIC_PREFIX
from detox_jax.generation.steering.reversal import ToxificationReversal
from detox_jax.models import edits
from tests.generation.steering import made

NEW = 4
TOXIC, CLEAN = "You are an idiot:", "Thanks:"


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def prompts(base):
    bos = base.vocabulary.bos_id
    return ([bos, 9, 30], [7], [40, 41, 42, 43], [bos])


def _load(base, mesh, strength=1.0, **numbers):
    return ToxificationReversal(TOXIC, CLEAN, strength, **numbers).load(base, mesh)


def _decode(base, mesh, steerings, prompts, *more, **how):
    return made.decode(base, mesh, steerings, prompts, NEW, *more, **how)


@dataclasses.dataclass(frozen=True)
class AtEveryPosition:
    """The formula at the positions from `first` on of a text that is read at once."""

    toxic_LHK: jax.Array
    clean_LHK: jax.Array
    end_1HK: jax.Array
    first: jax.Array
    site: str = edits.HEADS

    def __call__(self, h):
        new = formulas.reversal(h, self.toxic_LHK, self.clean_LHK, self.end_1HK, 1.0, (0.4, 0.6))
        from_here_L = jnp.arange(h.shape[1]) >= self.first
        return jnp.where(from_here_L[:, None, None], new, h)


jax.tree_util.register_dataclass(
    AtEveryPosition,
    data_fields=["toxic_LHK", "clean_LHK", "end_1HK", "first"],
    meta_fields=["site"],
)


def _heads(base, ids):
    return np.asarray(_recorded(base.module, base.params, made.padded(ids)))[:, 0, : len(ids)]


@functools.partial(jax.jit, static_argnames="module")
def _recorded(module, params, ids_1L):
    _, variables = module.apply(
        {"params": params}, ids_1L, enable_dropout=False, mutable=[edits.RECORDED]
    )
    return edits.recorded(variables)[edits.HEADS]


def _by_hand(base, prompt):
    """Every step reads all three texts anew; the prefix stands behind the document's start."""
    toxic_ids, clean_ids = base.vocabulary.encode_batch([TOXIC, CLEAN])
    before = prompt[:1] if prompt[0] == base.vocabulary.bos_id else []
    ids = list(prompt)
    for _ in range(NEW):
        after = ids[len(before) :]
        toxic_NLHK = _heads(base, [*before, *toxic_ids, *after])
        clean_NLHK = _heads(base, [*before, *clean_ids, *after])
        L = len(ids)
        end_N1HK = toxic_NLHK[:, len(before) + len(toxic_ids) - 1, None]
        # Of the document's own start, where that is all of the prompt, the prefix's end stands.
        toxic, clean = (
            np.pad(read_NLHK[:, -L:], ((0, 0), (0, -L % 16), (0, 0), (0, 0)))
            for read_NLHK in (toxic_NLHK, clean_NLHK)
        )
        first = np.full(len(toxic), len(prompt) - 1)
        edit = AtEveryPosition(toxic, clean, end_N1HK, first)
        logits_LV = made.read(base.module, base.params, ids, (edit,))
        ids.append(int(np.argmax(logits_LV[-1])))
        if ids[-1] == base.vocabulary.eos_id:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_a_whole_loop_is_the_formula(base, one_device_mesh, prompts):
    steered = _decode(base, one_device_mesh, (_load(base, one_device_mesh).steering,), prompts)
    assert steered != _decode(base, one_device_mesh, (), prompts)
    for prompt, (tokens,) in zip(prompts, steered, strict=True):
        assert tokens == _by_hand(base, prompt)


def test_strength_0_is_plain_decoding(base, one_device_mesh, prompts):
    nothing = _load(base, one_device_mesh, 0.0)
    made.check_said_ahead(ToxificationReversal(TOXIC, CLEAN, 0.0), nothing)
    assert nothing.steering is None and nothing.settings["strength"] == 0
    steering = _load(base, one_device_mesh).steering
    traced = steering.replace(strength=jnp.float32(0))
    method = sampling.TopPSampling(0.9)
    plain = _decode(base, one_device_mesh, (), prompts, 10, method)
    assert _decode(base, one_device_mesh, (traced,), prompts, 10, method) == plain
    assert _decode(base, one_device_mesh, (steering,), prompts, 10, method) != plain


@pytest.mark.slow
def test_a_row_depends_neither_on_its_batch_nor_on_its_place(base, one_device_mesh, prompts):
    steerings = (_load(base, one_device_mesh).steering,)
    method = sampling.TopPSampling(0.9)
    many = prompts * 3
    together = _decode(base, one_device_mesh, steerings, many, 5, method)
    assert _decode(base, one_device_mesh, steerings, many, 5, method, rows=2) == together
    for n in (0, 5):
        alone = _decode(
            base, one_device_mesh, steerings, many[n : n + 1], 5, method, names=[f"p{n}"]
        )
        assert alone[0] == together[n]


def test_one_program_serves_all_strengths(base, one_device_mesh, prompts):
    decoding._advance.clear_cache()
    for strength, exponent in ((1.0, 0.4), (0.5, 0.4), (1.0, 0.1)):
        loaded = _load(base, one_device_mesh, strength, by_size=exponent)
        _decode(base, one_device_mesh, (loaded.steering,), prompts[:1])
    assert decoding._advance._cache_size() == 1


def test_settings_and_room(base, one_device_mesh):
    loaded = _load(base, one_device_mesh)
    assert loaded.settings["toxic"] == TOXIC and loaded.settings["by_likeness"] == 0.6
    longest = max(map(len, base.vocabulary.encode_batch([TOXIC, CLEAN])))
    assert loaded.longest == base.module.config.max_length - longest
    assert not TOXIC_PREFIX.endswith(" ") and not CLEAN_PREFIX.endswith(" ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToxificationReversal(strength=np.inf), "ToxificationReversal.strength is inf"),
        (lambda: ToxificationReversal(by_size=np.nan), "ToxificationReversal.by_size is nan"),
        (lambda: ToxificationReversal("", CLEAN), "ToxificationReversal: '' has no tokens"),
        (lambda: ToxificationReversal("a", "a"), "prefixes are the same text"),
    ],
)
def test_what_is_refused(base, one_device_mesh, make, message):
    with pytest.raises(UserError, match=message):
        make().load(base, one_device_mesh)
