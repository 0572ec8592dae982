"""A real pretrained model: its documented greedy text and its loss on five stories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from etils import epath

from detox_jax.generation import decoding
from detox_jax.generation.sampling import Greedy
from detox_jax.interop import huggingface, parameters
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
    params = parameters.nested({path: np.asarray(array) for path, array in arrays.items()})
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
        eos_id=-1,
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
