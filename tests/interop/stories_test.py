"""A real pretrained model: its documented greedy text, its losses, and the whole way out again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from etils import epath

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import streamed
from detox_jax.generation import decoding
from detox_jax.generation.sampling import Greedy
from detox_jax.interop import huggingface, verify
from detox_jax.models.transformer import TransformerLM

pytestmark = pytest.mark.real

BOS = 1 + 1  # Ids are shifted by one.
LOSSES = (1.32, 1.24, 0.95, 1.49, 1.19)


@pytest.fixture(scope="module")
def stories(data_dir, tmp_path_factory):
    directory = epath.Path(data_dir) / "models" / "stories260k"
    source = huggingface.open_source(directory)
    scratch = epath.Path(tmp_path_factory.mktemp("scratch"))
    arrays = huggingface.read_parameters(source, scratch)
    params = streamed.nested({path: np.asarray(array) for path, array in arrays.items()})
    pieces = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    return directory, TransformerLM(source.config), params, pieces


def test_greedy_text_from_bos_is_its_authors(stories, one_device_mesh):
    directory, model, params, pieces = stories
    reference = (directory / "greedy_reference.txt").read_text().rstrip("\n")
    decoder = decoding.Decoder(
        model,
        params,
        one_device_mesh,
        sampling=Greedy(),
        max_new_tokens=len(pieces.encode(reference)),
        end_ids=(-1,),
        seed=0,
    )
    ((sample,),) = decoder([[BOS]], ["0"], num_samples=1, num_rows=1, bucket=1)
    assert pieces.decode([i - 1 for i in sample.tokens]) == reference


def test_loss_on_five_stories(stories):
    directory, model, params, pieces = stories
    text = (directory / "tinystories_sample.txt").read_text()
    texts = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    rows = [[BOS, *(i + 1 for i in pieces.encode(story))] for story in texts]
    ids_BL = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(ids_BL, rows, strict=True):
        row[: len(ids)] = ids
    logits_BLV = model.apply({"params": params}, ids_BL, enable_dropout=False)
    log_probs_BLV = jax.nn.log_softmax(logits_BLV[:, :-1])
    chosen_BL = jnp.take_along_axis(log_probs_BLV, ids_BL[:, 1:, None], -1)[..., 0]
    losses = [
        -float(chosen[: len(ids) - 1].mean()) for chosen, ids in zip(chosen_BL, rows, strict=True)
    ]
    assert losses == pytest.approx(LOSSES, abs=0.006)


def _run(verb, **macros):
    """A verb as a user starts it."""
    flags = [f"--{name}" for name in macros.pop("flags", ())]
    flags += [f"--gin.{name}={value}" for name, value in macros.items()]
    assert cli.main([verb, *flags]) == 0


@pytest.fixture(scope="module")
def kept(data_dir, tmp_path_factory):
    """The model imported, and the least toxic half of what it wrote."""
    root = tmp_path_factory.mktemp("method")
    given = data_dir / "models" / "stories260k"
    _run("convert", flags=[f"from_hf={given}", f"to={root / 'base'}"])
    _run(
        "generate",
        CHECKPOINT_PATH=root / "base",
        OUTPUT_DIR=root / "generated",
        PROMPTS="@prompts.Standard()",
        NUM_DOCUMENTS=64,
        MAX_NEW_TOKENS=60,
        NUM_SAMPLES=1,
    )
    _run("score", INPUT=root / "generated", OUTPUT_DIR=root / "scored")
    _run("filter", INPUT=root / "scored", OUTPUT_DIR=root / "kept")
    return root


@pytest.mark.interop
@pytest.mark.parametrize("adaptation", ["whole", "lora", "adapter"])
def test_trained_on_its_own_text_it_is_read_by_its_library(
    kept, adaptation, data_dir, one_device_mesh, tmp_path
):
    pytest.importorskip("torch", reason="needs the extra hf (make test-interop)")
    if adaptation == "adapter":
        adapters = pytest.importorskip("adapters", reason="needs AdapterHub's library")
    _run(
        "train",
        flags=[f"gin_file=gin_configs/adaptation/{adaptation}.gin"],
        MODEL_DIR=tmp_path / "trained",
        INITIAL_CHECKPOINT_PATH=kept / "base",
        INPUT=kept / "kept",
        VOCABULARY_PATH=kept / "base" / "vocabulary",
        TASK_FEATURE_LENGTHS={"targets": 64},
        TRAIN_STEPS=20,
        BATCH_SIZE=8,
        LEARNING_RATE=1e-3,
    )
    _run("convert", flags=[f"from={tmp_path / 'trained'}", f"to_hf={tmp_path / 'out'}"])
    given, out = data_dir / "models" / "stories260k", tmp_path / "out"
    card = (out / "README.md").read_text()
    assert f"- base: {given.name} (sha256 " in card and str(given) not in card
    if adaptation != "adapter":
        assert (out / "config.json").read_text() == (given / "config.json").read_text()

    trained = checkpoints.load_model(str(tmp_path / "trained"), one_device_mesh)
    tokens_BL, mask_BL = verify.random_batch(trained.spec.config.vocab_size, 128)
    ours_BLV = trained.module.apply({"params": trained.params}, tokens_BL, enable_dropout=False)
    if adaptation == "adapter":
        model = verify.load_torch(str(data_dir / "models" / "stories260k"))
        adapters.init(model)
        model.set_active_adapters(model.load_adapter(str(tmp_path / "out"), use_safetensors=True))
    else:
        model = verify.load_torch(str(tmp_path / "out"))
    theirs_BLV = verify.torch_logits(model, tokens_BL - 1, mask_BL)
    ours_BLV = np.asarray(ours_BLV)[..., 1 : theirs_BLV.shape[-1] + 1]
    np.testing.assert_allclose(theirs_BLV[mask_BL], ours_BLV[mask_BL], atol=1e-4)
    before = checkpoints.load_model(str(kept / "base"), one_device_mesh)
    of_base_BLV = before.module.apply({"params": before.params}, tokens_BL, enable_dropout=False)
    assert np.abs(np.asarray(of_base_BLV)[..., 1 : ours_BLV.shape[-1] + 1] - ours_BLV).max() > 0.01
