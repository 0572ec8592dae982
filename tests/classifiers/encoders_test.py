"""Every kind of sequence classifier against transformers: logits, and scores of texts."""

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax.classifiers import classifier_files
from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.models import disentangled
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import RelativePositions
from tests.classifiers import encoders_made

torch = pytest.importorskip("torch", reason="needs the extra hf (make test-interop)")
transformers = pytest.importorskip("transformers", reason="needs the extra hf (make test-interop)")

pytestmark = pytest.mark.interop

MOST_DIFFERENCE = 1e-4
TEXTS = [
    "You are an idiot.",
    "Good day",
    "I",
    "the bus the lamp " * 40,  # Cut.
    "Thanks\n\n  for\tthe   recipe \u00e9\u00c9 \u4f60\u597d \U0001f642!",
    "special [SEP] tokens </s> in <pad> a [PAD] text",
    " What a stupid idea, moron. " * 3,
    "Could you please tell me where you bought the lamp? " * 2,
]


@pytest.fixture(scope="module", params=encoders_made.CASES)
def made(request, tmp_path_factory):
    """Name, model and tokenizer of transformers, and their directory."""
    directory = tmp_path_factory.mktemp(request.param)
    model = encoders_made.make(request.param, directory)
    tokenizer = encoders_made.save_tokenizer(request.param, directory)
    return request.param, model, tokenizer, directory


def test_logits_on_a_ragged_batch(made):
    name, model, _, directory = made
    found = classifier_files.open_classifier(epath.Path(directory))
    noise = np.random.default_rng(0)
    ids_BL = noise.integers(5, encoders_made.VOCAB_SIZE, (5, 64))
    mask_BL = np.arange(64)[None] < np.array([1, 9, 17, 40, 64])[:, None]
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(np.where(mask_BL, ids_BL, model.config.pad_token_id)),
            attention_mask=torch.tensor(mask_BL.astype(np.int64)),
        ).logits.numpy()
    encoder = Encoder(found.config)
    apply = jax.jit(lambda params, x: encoder.apply({"params": params}, x, enable_dropout=False))
    ours = apply(found.read_parameters(), np.where(mask_BL, ids_BL + 1, 0).astype(np.int32))
    difference = np.abs(np.asarray(ours) - theirs).max()
    print(f"\nPARITY {name} max |Δlogit| = {difference:.1e}, largest {np.abs(theirs).max():.1f}")
    assert difference < MOST_DIFFERENCE
    assert np.ptp(theirs, axis=0).min() > 0.1  # The texts matter.


@pytest.mark.parametrize("max_length", [None, 11])
def test_scores_of_texts(made, max_length):
    name, model, tokenizer, directory = made
    inputs = tokenizer(
        TEXTS, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    label = model.config.id2label[model.config.num_labels - 1]
    multi = model.config.problem_type == "multi_label_classification" or len(logits[0]) == 1
    theirs = (torch.sigmoid(logits) if multi else torch.softmax(logits, -1))[:, -1]
    scorer = ClassifierScorer(str(directory), label=label, batch_size=3, max_length=max_length)
    ours = scorer.score(TEXTS)
    difference = np.abs(np.array(ours) - theirs.numpy()).max()
    print(f"\nPARITY {name} {max_length} max |Δscore| = {difference:.1e}")
    assert difference < MOST_DIFFERENCE


@pytest.mark.parametrize(("span", "max_distance"), [(256, 512), (16, 64), (8, 40), (12, None)])
def test_rows_of_distances(span, max_distance):
    deberta = transformers.models.deberta_v2.modeling_deberta_v2
    distance = torch.arange(-511, 512)
    theirs = distance
    if max_distance is not None:
        theirs = deberta.make_log_bucket_position(distance, span, max_distance)
    theirs = torch.clamp(theirs.long() + span, 0, 2 * span - 1)
    relative = RelativePositions(span=span, max_distance=max_distance)
    ours = disentangled.table_row(relative, distance.numpy())
    np.testing.assert_array_equal(ours, theirs.numpy())
