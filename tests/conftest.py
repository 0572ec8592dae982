"""Eight virtual devices, and the small models and texts that tests share."""

import atexit
import functools
import gc
import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from tests.loopback import sitecustomize as loopback

# Subprocesses import the same module as they start, and tell of what they ask for in this file.
BEYOND_LOOPBACK = Path(tempfile.mkdtemp(prefix="beyond-loopback-")) / "asked"
BEYOND_LOOPBACK.write_text("")
atexit.register(shutil.rmtree, BEYOND_LOOPBACK.parent, ignore_errors=True)
os.environ[loopback.VARIABLE] = str(BEYOND_LOOPBACK)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(loopback.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# Tests compile many small programs and run each once: compiling fast matters more than running.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
if metadata.version("jax").startswith("0.10."):
    # The emitters that later ones have alone take four times as long.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Tests read what a verb says on stderr, however slow the machine is.
os.environ["DETOX_JAX_NO_PROGRESS"] = "1"
# What a test compiles is no business of the next run's.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
# Traces make many objects that live, and JAX lets XLA collect its own at every collection.
gc.set_threshold(100_000, 50, 100)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp  # noqa: E402
from etils import epath  # noqa: E402

from detox_jax import terminal  # noqa: E402
from detox_jax.checkpoints import model_dir as checkpoints  # noqa: E402
from detox_jax.models.config import TransformerConfig  # noqa: E402
from detox_jax.models.transformer import TransformerLM  # noqa: E402
from detox_jax.parallel import mesh as meshes  # noqa: E402
from detox_jax.vocabulary import Vocabulary  # noqa: E402

SENTENCES = [
    "The bus was late again this morning.",
    "Thanks for the recipe, it worked well!",
    "You are an idiot and nobody likes your garden.",
    "I think the second film is better than the first one.",
    "What a stupid idea, moron.",
    "Could you please tell me where you bought the lamp?",
]


def write_tiny_run(root: Path, vocabulary: Vocabulary, num_documents: int) -> None:
    """What a tiny training reads: `documents.jsonl`, `vocabulary` and `model.gin`."""
    with (root / "documents.jsonl").open("w") as file:
        for i in range(num_documents):
            text = " ".join(SENTENCES[(i + j) % 6] for j in range(1 + i % 3))
            file.write(json.dumps({"id": str(i), "text": text}) + "\n")
    vocabulary.save(str(root / "vocabulary"))
    (root / "model.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from detox_jax.models import config\n"
        "MODEL = @config.TransformerConfig()\n"
        "config.TransformerConfig:\n"
        f"  vocab_size = {vocabulary.vocab_size}\n"
        "  emb_dim = 32\n  num_heads = 4\n  num_layers = 2\n  mlp_dim = 64\n  max_length = 64\n"
    )


def pytest_sessionfinish():
    """All that is alive ends with the process.

    pytest collects garbage at its end and Python as it exits, and to look through everything that
    is alive took 50 s of a worker.
    """
    gc.freeze()


@pytest.fixture
def only_new_objects():
    """Garbage is looked for among what the test makes: a worker has much, and it takes 10 s."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def garbage_is_left():
    """What is left of TensorFlow's graphs takes half a minute to free; it ends with the process."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def no_echoes():
    """As in a user's process: else what Orbax gives up in one test is raised in any later one."""
    terminal.drop_echoes()


@pytest.fixture(autouse=True)
def only_loopback():
    """Fails a test that asked for anything beyond loopback, itself or through a subprocess."""
    yield
    asked = BEYOND_LOOPBACK.read_text()
    BEYOND_LOOPBACK.write_text("")
    assert not asked, f"beyond loopback: {asked}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data, for tests marked `real`; skips where it is absent."""
    root = Path(__file__).resolve().parent.parent
    path = Path(os.environ.get("DETOX_JAX_DATA", root.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set DETOX_JAX_DATA")
    return path


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary.train(SENTENCES * 4, 350)


@pytest.fixture(scope="session")
def config(vocabulary) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocabulary.vocab_size,
        emb_dim=32,
        num_heads=4,
        num_layers=2,
        mlp_dim=64,
        max_length=64,
        init_std=0.2,
    )


@pytest.fixture(scope="session")
def one_device_mesh():
    return meshes.create_mesh(devices=jax.devices()[:1])


@functools.cache
def initial_params(config, adaptation=None, seed=0):
    return _initialised(config, adaptation)(jax.random.key(seed))


@functools.cache
def _initialised(config, adaptation):
    """Of a key, the parameters: compiled once for all seeds."""
    model, tokens = TransformerLM(config, adaptation), jnp.ones((1, 1), jnp.int32)
    return jax.jit(lambda key: model.init(key, tokens, enable_dropout=False)["params"])


def random_params(config, adaptation=None, seed=0):
    """Parameters in which nothing is zero, so that no test passes because a path is dead."""
    noise = np.random.default_rng(seed)
    return TransformerLM(config, adaptation), jax.tree.map(
        # By NumPy: JAX would compile an addition for every shape.
        lambda x: jnp.asarray(
            np.asarray(x) + noise.normal(scale=0.05, size=x.shape).astype(x.dtype)
        ),
        initial_params(config, adaptation, seed),
    )


def draw_few_files(patch: pytest.MonkeyPatch) -> None:
    """Two thirds of a report's time go into PNG and PDF, which few tests look at."""
    from detox_jax.report import figures

    patch.setattr(figures, "png", lambda *_, **__: b"not drawn")
    patch.setattr(figures, "pdf", lambda *_, **__: b"not drawn")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, config, vocabulary) -> str:
    """A random base model on disk."""
    path = tmp_path_factory.mktemp("base") / "model"
    path.mkdir()
    _, params = random_params(config)
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    checkpoints.save_model(epath.Path(path), params, spec, vocabulary)
    return str(path)
