"""LM-Steer in the decoding loop: whole loops are those of the formula; and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import outputs
from detox_jax.checkpoints import array_file
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import sampling
from detox_jax.generation.steering import activations
from detox_jax.generation.steering.linear import LinearSteering
from detox_jax.models.linear_edit import FILE
from tests.generation.steering import made

NEW = 6
PROMPTS = ([5, 9, 30], [7], [40, 41, 42, 43], [1, 20])


def save(path, base, complete=True, **arrays):
    noise, shape = np.random.default_rng(0), (2, base.module.config.emb_dim, 3)
    settings = {"checkpoint": {"path": "base", "fingerprint": base.fingerprint}}
    output = outputs.OutputDirectory(str(path), "train_linear", settings)
    random = {name: 0.3 * noise.normal(size=shape) for name in ("down", "up")}
    array_file.write(output, FILE, {**random, **arrays})
    if complete:
        output.finish(steps=1)
    return str(path)


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    return save(tmp_path_factory.mktemp("linear") / "map", base)


def _decode(base, mesh, steerings, prompts=PROMPTS, *more, **how):
    return made.decode(base, mesh, steerings, prompts, NEW, *more, **how)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(module, params, ids):
    return module.apply({"params": params}, ids, enable_dropout=False, with_logits=False)


def _by_hand(base, arrays, switch, prompt):
    """Greedy decoding without a cache: the final state times a matrix, times the table."""
    ids = list(prompt)
    table = np.asarray(base.params["token_embedder"]["embedding"])
    for _ in range(NEW):
        padded = jnp.array([ids + [0] * (16 - len(ids))])  # behind what is read
        h = np.asarray(_hidden(base.module, base.params, padded)[0, len(ids) - 1], np.float64)
        h = h + sum(s * up @ (down.T @ h) for s, down, up in zip(switch, *arrays, strict=True))
        logits = table @ h
        logits[0] = logits[base.module.config.vocab_size :] = -np.inf
        ids.append(int(np.argmax(logits)))
        if ids[-1] == base.vocabulary.eos_id:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_a_whole_loop_is_the_formula(base, trained, one_device_mesh):
    loaded = LinearSteering(trained, 2.0, 0.5).load(base, one_device_mesh)
    steered = _decode(base, one_device_mesh, (loaded.steering,))
    assert steered != _decode(base, one_device_mesh, ())
    with np.load(f"{trained}/linear.npz") as file:
        arrays = file["down"], file["up"]
    for prompt, (tokens,) in zip(PROMPTS, steered, strict=True):
        assert tokens == _by_hand(base, arrays, (2.0, 0.5), prompt)
    assert loaded.settings["strength"] == 2.0 and len(loaded.settings["linear"]["sha256"]) == 16


def test_strength_0_is_plain_decoding(base, trained, one_device_mesh):
    """No steering at all where it is given, and to the bit where both switches are off."""
    assert LinearSteering(trained, 0.0).load(base, one_device_mesh).steering is None
    (edit,) = LinearSteering(trained).load(base, one_device_mesh).steering.edits
    off = activations.Edited((edit.replace(switch=0 * edit.switch),))
    plain = _decode(base, one_device_mesh, (), samples=20, method=sampling.TopPSampling(0.9))
    assert plain == _decode(
        base, one_device_mesh, (off,), samples=20, method=sampling.TopPSampling(0.9)
    )


@pytest.mark.slow
def test_a_row_depends_neither_on_its_batch_nor_on_its_place(base, trained, one_device_mesh):
    steerings = (LinearSteering(trained).load(base, one_device_mesh).steering,)
    method = sampling.TopPSampling(0.9)
    together = _decode(base, one_device_mesh, steerings, PROMPTS * 2, method=method)
    assert _decode(base, one_device_mesh, steerings, PROMPTS * 2, method=method, rows=2) == together
    alone = _decode(base, one_device_mesh, steerings, PROMPTS[1:2], method=method, names=["p5"])
    assert alone[0] == together[5]


def test_maps_that_do_not_fit(base, trained, config, vocabulary, one_device_mesh, tmp_path):
    def refused(path, message, model=base):
        with pytest.raises(UserError, match=message):
            LinearSteering(str(path)).load(model, one_device_mesh)

    refused(tmp_path / "none", "none holds none; give an output of `train_linear`")
    refused(save(tmp_path / "half", base, complete=False), "half is unfinished")
    other = checkpoints.load_model(
        made.save_whole(tmp_path / "other", config, vocabulary, 7), one_device_mesh
    )
    refused(trained, "was trained on model .*, but the model is", other)
    wide = np.zeros((2, 33, 3))
    refused(save(tmp_path / "wide", base, down=wide), r"its down is \(2, 33, 3\), the model needs")
    flat = np.zeros(5)
    refused(save(tmp_path / "flat", base, down=flat), r"its down is \(5,\), the model needs")
    uneven = np.zeros((2, 32, 4))
    refused(save(tmp_path / "uneven", base, up=uneven), r"its up is \(2, 32, 4\), the model needs")
    (tmp_path / "flat" / "linear.npz").write_bytes(b"no zip")
    refused(tmp_path / "flat", "cannot be read: .*; run `train_linear` again")


@pytest.mark.parametrize("numbers", [{"strength": float("nan")}, {"domain": "1"}])
def test_numbers_are_checked(numbers):
    with pytest.raises(UserError, match=r"LinearSteering\.\w+ is .*; must be a finite number"):
        LinearSteering("a", **numbers)


def test_an_adaptation_is_steered_by_its_bases_map(
    base, trained, model_dir, one_device_mesh, tmp_path
):
    path = made.save_adaptation(tmp_path / "adapter", model_dir, one_device_mesh, 1)
    adapted = checkpoints.load_model(path, one_device_mesh)
    assert LinearSteering(trained).load(adapted, one_device_mesh).steering is not None
