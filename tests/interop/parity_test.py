"""Every family against transformers: logits, greedy text, exact round trips, trainable adapters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.generation import decoding
from detox_jax.generation.sampling import Greedy
from detox_jax.interop import convert, importing, tokenizers, verify
from detox_jax.models import adaptation as adaptations
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, PrefixConfig
from detox_jax.models.transformer import TransformerLM
from tests.conftest import initial_params
from tests.interop import families_made

torch = pytest.importorskip("torch", reason="needs the extra hf (make test-interop)")
transformers = pytest.importorskip("transformers", reason="needs the extra hf (make test-interop)")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

pytestmark = pytest.mark.interop

ADAPTATIONS = (
    AdapterConfig(4),
    LoRAConfig(2, target_modules=("query", "out", "wi")),
    PrefixConfig(3),
)
MOST_LOGIT_DIFFERENCE = 1e-4


@pytest.fixture(scope="module", params=families_made.CASES)
def made(request, tmp_path_factory, vocabulary, one_device_mesh):
    """A model of transformers, its directory, its import, and the directory of that."""
    root = tmp_path_factory.mktemp(request.param)
    model = families_made.make(request.param, root / "hf", vocabulary.vocab_size - 1)
    vocabulary.save(str(root / "hf"))
    importing.import_model(str(root / "hf"), str(root / "ours"), None, "float32", verify=False)
    loaded = checkpoints.load_model(str(root / "ours"), one_device_mesh)
    return request.param, model, root, loaded


def test_logits_on_a_ragged_batch(made, record_property):
    name, model, _, loaded = made
    tokens_BL, mask_BL = verify.random_batch(loaded.spec.config.vocab_size, 128)
    ours = jax.jit(lambda p, t: loaded.module.apply({"params": p}, t, enable_dropout=False))(
        loaded.params, tokens_BL
    )
    theirs = verify.torch_logits(model, tokens_BL - 1, mask_BL)
    size = theirs.shape[-1]
    difference = np.abs(np.asarray(ours)[..., 1 : size + 1] - theirs)[mask_BL].max()
    print(f"\nPARITY {name} max |Δlogit| = {difference:.1e}, largest {np.abs(theirs).max():.1f}")
    assert difference < MOST_LOGIT_DIFFERENCE


def test_greedy_text_is_the_same_for_64_tokens(made, one_device_mesh):
    """Prompts of several lengths: transformers pads them on the left, this package on the right."""
    _, model, _, loaded = made
    noise = np.random.default_rng(1)
    prompts = [noise.integers(1, loaded.spec.config.vocab_size, n).tolist() for n in (1, 6, 13, 20)]
    width = max(map(len, prompts))
    ids = torch.tensor([[1] * (width - len(p)) + [i - 1 for i in p] for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    model.generation_config.eos_token_id = None
    theirs = model.generate(
        ids, attention_mask=mask, max_new_tokens=64, do_sample=False, eos_token_id=None
    )[:, width:]
    decoder = decoding.Decoder(
        loaded.module,
        loaded.params,
        one_device_mesh,
        sampling=Greedy(),
        max_new_tokens=64,
        end_ids=(-1,),
        seed=0,
    )
    names = [str(i) for i in range(len(prompts))]
    ours = decoder(prompts, names, num_samples=1, num_rows=len(prompts), bucket=32)
    for row, (sample,) in zip(theirs.tolist(), ours, strict=True):
        assert [i - 1 for i in sample.tokens] == row


def test_round_trip_is_exact_and_transformers_reads_it(made, monkeypatch):
    name, model, root, loaded = made
    monkeypatch.setattr(tokenizers, "export", lambda vocabulary_dir, to: None)
    convert.convert(source=str(root / "ours"), to_hf=str(root / "back"))
    before = safetensors_numpy.load_file(root / "hf" / "model.safetensors")
    after = safetensors_numpy.load_file(root / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor, err_msg=key)
    assert json.loads((root / "hf" / "config.json").read_text()) == json.loads(
        (root / "back" / "config.json").read_text()
    )
    # Without the record of the import, config.json is written anew and means the same.
    (root / "ours" / places.ORIGIN_FILE).rename(root / "ours" / "kept")
    convert.convert(source=str(root / "ours"), to_hf=str(root / "anew"))
    (root / "ours" / "kept").rename(root / "ours" / places.ORIGIN_FILE)
    again, information = transformers.AutoModelForCausalLM.from_pretrained(
        root / "anew", attn_implementation="eager", output_loading_info=True
    )
    assert not any(information.values()), information
    tokens_BL, mask_BL = verify.random_batch(loaded.spec.config.vocab_size, 128)
    np.testing.assert_allclose(
        verify.torch_logits(again.eval(), tokens_BL - 1, mask_BL)[mask_BL],
        verify.torch_logits(model, tokens_BL - 1, mask_BL)[mask_BL],
        atol=1e-5,
    )


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=lambda a: type(a).__name__)
def test_adaptations_start_as_the_base_and_learn(made, adaptation):
    _, _, _, loaded = made
    tokens_BL, _ = verify.random_batch(loaded.spec.config.vocab_size, 128)
    tokens_BL = jnp.asarray(tokens_BL[:2, :16])
    model = TransformerLM(loaded.spec.config, adaptation)
    fresh = initial_params(loaded.spec.config, adaptation)
    trained, _ = params_lib.partition(fresh, adaptations.trainable_pattern(adaptation))

    @jax.jit
    def logits(trained):
        tree = params_lib.combine(loaded.params, trained)
        return model.apply({"params": tree}, tokens_BL, enable_dropout=False)

    def loss(trained):
        log_probs = jax.nn.log_softmax(logits(trained)[:, :-1])
        return -jnp.take_along_axis(log_probs, tokens_BL[:, 1:, None], axis=-1).mean()

    plain = jax.jit(lambda p: loaded.module.apply({"params": p}, tokens_BL, enable_dropout=False))(
        loaded.params
    )
    np.testing.assert_array_equal(logits(trained), plain)
    step = jax.jit(jax.value_and_grad(loss))
    before, gradient = step(trained)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    after, _ = step(jax.tree.map(lambda p, g: p - 0.01 * g / norm, trained, gradient))
    assert float(after) < float(before)
