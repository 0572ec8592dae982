"""Attention kernels: the same as plain attention, and chosen by the devices of the mesh in use."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning

from detox_jax.errors import UserError
from detox_jax.models import kernels
from detox_jax.models.attention import KeyValues, attend, training_mask
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from tests.conftest import random_params

B, H, G, K = 2, 4, 2, 8


def _inputs(length, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda heads: jnp.asarray(rng.normal(size=(B, length, heads, K)), jnp.float32)  # noqa: E731
    cuts = np.sort(rng.integers(1, length, (B, 2)))
    index = np.arange(length)
    segments = 1 + (index >= cuts[:, :1]).astype(np.int32) + (index >= cuts[:, 1:])
    segments[1, -length // 5 :] = 0  # Padding.
    return draw(H), draw(G), draw(G), jnp.asarray(segments)


def _plain(q, k, v, segments, scale, window=None, cap=None):
    length = q.shape[1]
    mask = training_mask(length, segments, None)
    if window is not None:
        index = jnp.arange(length)
        mask = mask & (index[:, None] - index[None, :] < window)[None]
    return attend(q, [KeyValues(k.swapaxes(1, 2), v.swapaxes(1, 2), mask)], scale, cap)


def _assert_same_values_and_gradients(kernel, reference, q, k, v, segments, atol):
    def run(function):
        weights = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)
        total = lambda *qkv: jnp.sum(function(*qkv, segments) * weights)  # noqa: E731
        value = lambda *qkv: (function(*qkv, segments), jax.grad(total, (0, 1, 2))(*qkv))  # noqa: E731
        return jax.jit(value)(q, k, v)

    got, expected = run(kernel), run(reference)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, expected)
    assert all(float(jnp.abs(x).max()) > 0.1 for x in jax.tree.leaves(got))


@pytest.mark.parametrize(
    ("length", "packed", "window", "cap"),
    [
        (300, True, None, None),  # Padded to three blocks of 128.
        pytest.param(256, False, None, 2.0, marks=pytest.mark.slow),
        pytest.param(384, True, 100, 2.0, marks=pytest.mark.slow),
    ],
)
def test_splash_interpreted_equals_plain(length, packed, window, cap):
    q, k, v, segments = _inputs(length)
    kernel = kernels.Splash(0.3, window, cap, interpret=True)
    reference = functools.partial(_plain, scale=0.3, window=window, cap=cap)
    with jax.numpy_dtype_promotion("standard"):  # Inside JAX's kernel.
        _assert_same_values_and_gradients(
            kernel.attend, reference, q, k, v, segments if packed else None, atol=2e-5
        )


@pytest.mark.parametrize(("packed", "window"), [(True, 5), (False, None)])
def test_what_cudnn_is_asked_for_equals_plain(packed, window):
    q, k, v, segments = _inputs(24)
    kernel = kernels.Cudnn(0.3, window, implementation="xla")
    reference = functools.partial(_plain, scale=0.3, window=window)
    with jax.numpy_dtype_promotion("standard"):
        _assert_same_values_and_gradients(
            kernel.attend, reference, q, k, v, segments if packed else None, atol=1e-5
        )


@contextlib.contextmanager
def _devices(platform, sizes=(1, 1, 1)):
    """A mesh of devices that are not here."""
    device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh(sizes, meshes.AXES, abstract_device=device)
    with (
        jax.sharding.use_abstract_mesh(mesh),
        partitioning.axis_rules(meshes.LOGICAL_AXIS_RULES),
    ):
        yield


CHOICES = {
    "TPU": ("tpu", {}, kernels.Splash(8**-0.5), "splash attention for tpu"),
    "GPU": ("gpu", {"dtype": "bfloat16"}, kernels.Cudnn(8**-0.5), "cudnn attention for gpu"),
    "CPU": ("cpu", {}, None, "cpu has no kernel"),
    "off": ("tpu", {"attention_kernel": "plain"}, None, "'plain'"),
    "blocks": ("tpu", {"attention_kernel": "blocks"}, None, "'blocks'"),
    "cap on TPU": ("tpu", {"attention_softcap": 9.0}, kernels.Splash(8**-0.5, None, 9.0), ""),
    "cap on GPU": ("gpu", {"attention_softcap": 9.0}, None, "no attention_softcap"),
    "float32 on GPU": ("gpu", {}, None, "dtype is float32"),
    "window": ("tpu", {"sliding_window": 7}, kernels.Splash(8**-0.5, 7), ""),
    "wide window": ("tpu", {"sliding_window": 256}, kernels.Splash(8**-0.5), ""),
    "mixed layers": (
        "tpu",
        {"sliding_window": 7, "sliding_layers": (True, False)},
        None,
        "some layers slide",
    ),
    "odd heads": ("gpu", {"dtype": "bfloat16", "head_dim": 10}, None, "heads of 8, 16"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choice_follows_devices_and_architecture(config, name):
    platform, fields, expected, reason = CHOICES[name]
    with _devices(platform):
        kernel, why = kernels.choose(dataclasses.replace(config, **fields), 8, 256)
    assert kernel == expected and reason in why


def test_choice_follows_the_input_and_the_mesh(config):
    def choose(rows=8, length=256, sizes=(1, 1, 1), **options):
        with _devices("tpu", sizes):
            return kernels.choose(config, rows, length, **options)

    assert choose(length=1) == (None, "there is one position a row")
    assert choose(length=100)[1] == "a length of 100 is less than a block of 128"
    assert "bidirectional" in choose(causal=False)[1]
    assert choose(rows=6, sizes=(2, 2, 1))[1] == "6 rows are not divided by 4 devices"
    assert "4 key-value heads are not divided by 8" in choose(sizes=(1, 1, 8))[1]
    assert isinstance(choose(sizes=(2, 2, 2))[0], kernels.Splash)
    # Blocks that are asked for are made, or the user is told why not.
    blocks = dataclasses.replace(config, attention_kernel="blocks")
    with _devices("cpu", (2, 2, 1)), pytest.raises(UserError, match="6 rows are not divided"):
        kernels.choose(blocks, 6, 256)
    # These eight devices without a mesh.
    assert kernels.choose(config, 8, 256)[0] is None


@pytest.mark.parametrize(
    ("platform", "fields", "message"),
    [
        ("cpu", {"attention_kernel": "splash"}, "splash attention does not run on cpu"),
        ("tpu", {"attention_kernel": "cudnn"}, "cudnn attention does not run on tpu"),
        ("gpu", {"attention_kernel": "cudnn"}, "dtype is float32; set it to 'auto'"),
    ],
)
def test_a_kernel_asked_for_by_name_is_never_replaced(config, platform, fields, message):
    cfg = dataclasses.replace(config, **fields)
    with _devices(platform):
        with pytest.raises(UserError, match=message):
            kernels.choose(cfg, 8, 256)
        assert kernels.choose(cfg, 8, 1)[0] is None  # A decoding step is always plain.


def test_a_kernel_runs_on_each_devices_rows_and_heads():
    q, k, v, segments = (jnp.tile(x, (2, *[1] * (x.ndim - 1))) for x in _inputs(24))
    kernel = kernels.Cudnn(0.3, implementation="xla")
    mesh = meshes.create_mesh({"data": 2, "fsdp": 2, "model": 2})
    with meshes.sharding_scope(mesh), jax.numpy_dtype_promotion("standard"):
        attend_jit = jax.jit(kernel.attend)
        arrays = jax.device_put((q, k, v, segments), meshes.batch_sharding(mesh))
        got = attend_jit(*arrays)
        text = attend_jit.lower(*arrays).as_text()
    np.testing.assert_allclose(got, _plain(q, k, v, segments, 0.3), atol=1e-5)
    assert got.addressable_shards[0].data.shape == (1, 24, 2, K)
    assert "tensor<1x24x2x8xf32>" in text  # The queries of one device.


def _loss(cfg, shape, length, differentiate=lambda loss: loss):
    """The loss of a packed batch on a mesh, or what `differentiate` makes of it."""
    model, params = random_params(cfg)
    tokens = jax.random.randint(jax.random.key(1), (8, length), 1, cfg.vocab_size)
    segments = jnp.asarray(np.arange(length) >= length // 3, jnp.int32) + jnp.ones_like(tokens)
    mesh = meshes.create_mesh(shape)
    tokens, segments = jax.device_put((tokens, segments), meshes.batch_sharding(mesh))

    def loss(params):
        logits = model.apply(
            {"params": params}, tokens, decoder_segment_ids=segments, enable_dropout=False
        )
        return jnp.mean(jax.nn.log_softmax(logits)[..., 5])

    with meshes.sharding_scope(mesh), jax.numpy_dtype_promotion("standard"):
        params = jax.device_put(params, meshes.param_shardings(model, mesh))
        return jax.jit(differentiate(loss))(params)


def _use(monkeypatch, kernel):
    monkeypatch.setattr(
        kernels, "choose", lambda cfg, rows, length, **_: (kernel if length > 1 else None, "")
    )


def test_a_model_hands_its_kernel_queries_keys_values_and_segments(config, monkeypatch):
    given = []

    def attend(self, q, k, v, segment_ids):
        given.append([x.shape for x in (q, k, v, segment_ids)])
        return jnp.zeros_like(q)

    monkeypatch.setattr(kernels.Cudnn, "attend", attend)
    _use(monkeypatch, kernels.Cudnn(1.0))
    model = TransformerLM(dataclasses.replace(config, num_kv_heads=2))
    shapes, _ = meshes.abstract_params(model)
    tokens = jax.ShapeDtypeStruct((8, 24), jnp.int32)
    run = functools.partial(model.apply, enable_dropout=False)
    jax.eval_shape(
        lambda params, ids: run({"params": params}, ids, decoder_segment_ids=ids), shapes, tokens
    )
    assert given and all(
        shapes == [(8, 24, 4, 8), (8, 24, 2, 8), (8, 24, 2, 8), (8, 24)] for shapes in given
    )


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "attention"])
def test_a_model_trains_with_splash_over_a_mesh_as_with_plain_attention(config, monkeypatch, remat):
    cfg = dataclasses.replace(config, num_kv_heads=2, max_length=256)
    expected = _loss(cfg, {"data": 8}, 200, jax.value_and_grad)
    _use(monkeypatch, kernels.Splash(8**-0.5, interpret=True))
    cfg = dataclasses.replace(cfg, remat=remat)
    got = _loss(cfg, {"data": 2, "fsdp": 2, "model": 2}, 200, jax.value_and_grad)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, expected)


TPU_PROGRAM = """
import dataclasses
import jax
from jax.experimental import topologies
from detox_jax.models import kernels
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.training import step
from detox_jax.training.optimizer import AdamW

devices = topologies.get_topology_desc("v5e:2x2", "tpu").devices
mesh = meshes.create_mesh({"fsdp": 2, "model": 2}, devices)
cfg = TransformerConfig(1000, 256, 4, 2, 512, num_kv_heads=2, max_length=256, dtype="bfloat16",
                        remat="dots")
ids = jax.ShapeDtypeStruct((4, 256), "int32", sharding=meshes.batch_sharding(mesh))
names = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
batch = {f"decoder_{name}": ids for name in names}
for kernel in ("auto", "plain"):
    model = TransformerLM(dataclasses.replace(cfg, attention_kernel=kernel))
    optimizer = AdamW().transformation(1)
    params = checkpoints.abstract_on_mesh(model, mesh)
    state = step.TrainState(jax.ShapeDtypeStruct((), "int32"), params,
                            jax.eval_shape(optimizer.init, params))
    with meshes.sharding_scope(mesh):
        train_step = step.jit_train_step(model, optimizer, 0)
        text = train_step.lower(state, {}, batch).compile().as_text()
    print(kernel, text.count("tpu_custom_call"))
"""


@pytest.mark.slow
def test_training_compiles_for_tpu_with_splash_attention():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler, libtpu, is not installed")
    here = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environment = {**os.environ, **here, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", TPU_PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    counts = dict(line.split() for line in result.stdout.splitlines())
    # Forward, and the gradients of queries and of keys and values; `dots` repeats none of them.
    assert counts == {"auto": "3", "plain": "0"}
