"""The same figures as lm-evaluation-harness's own `hf` backend, request by request."""

import json
from pathlib import Path

import pytest

from detox_jax.interop import importing, tokenizers
from detox_jax.zero_shot.harness_model import harness_model
from tests.interop import families_made
from tests.tokenizers_made import START_PROCESSOR

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra lm-eval (make test-interop)")
pytest.importorskip("transformers", reason="needs the extra hf (make test-interop)")

pytestmark = pytest.mark.interop

TASKS = {
    "local_lambada": "loglikelihood",
    "local_piqa": "loglikelihood",
    "local_boolq": "loglikelihood",
    "local_arc_easy": "loglikelihood",
    "local_wikitext_paragraphs": "loglikelihood_rolling",
    "local_lambada_words": "generate_until",
}
QUESTIONS = 10
# Less than BoolQ's passages have, more than the longest continuation.
MAX_LENGTH = 320
MODELS = ("gpt2-tied", "llama-grouped-tied", "stories260k")
LOCAL_TASKS = Path(__file__).resolve().parents[2] / "tasks" / "lm_eval"


@pytest.fixture(scope="module", params=MODELS)
def results(request, data_dir, vocabulary, tmp_path_factory):
    """What the harness finds with `hf` and with ours, on the same tasks."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    root = tmp_path_factory.mktemp("models")
    given = data_dir / "models" / request.param
    if request.param != "stories260k":
        given = root / "hf"
        _make(request.param, given, vocabulary.vocab_size - 1)
        vocabulary.save(str(root / "vocabulary"))
        tokenizers.export(str(root / "vocabulary"), str(given))
    if request.param.startswith("llama"):  # As LLaMA's own tokenizers: each text starts with <s>.
        file = given / "tokenizer.json"
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "post_processor": START_PROCESSOR})
        )
    importing.import_model(str(given), str(root / "ours"), None, "float32", verify=False)

    def evaluate(model):
        return lm_eval.simple_evaluate(
            model=model,
            tasks=list(TASKS),
            limit=QUESTIONS,
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(LOCAL_TASKS), include_defaults=False),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETOX_JAX_DATA", str(data_dir))
        theirs = evaluate(HFLM(str(given), device="cpu", dtype="float32", batch_size=8))
        ours = evaluate(harness_model(str(root / "ours"), batch_size=8, mesh_shape={"data": -1}))
    return request.param, ours, theirs


def _make(name, directory, vocab_size):
    prefix, fields = families_made.CASES[name]
    longer = dict.fromkeys(fields.keys() & {"n_positions", "max_position_embeddings"}, MAX_LENGTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families_made.CASES, name, (prefix, {**fields, **longer}))
        families_made.make(name, directory, vocab_size)


def _answers(results, task):
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    assert len(samples) == QUESTIONS
    return [(request, answer) for s in samples for request, (answer,) in _requests(s)]


def _requests(sample):
    return zip(sample["arguments"], sample["resps"], strict=True)


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_the_same(results, task):
    name, ours, theirs = results
    largest = 0.0
    pairs = zip(_answers(ours, task), _answers(theirs, task), strict=True)
    for (request, our_answer), (their_request, their_answer) in pairs:
        assert request == their_request
        if TASKS[task] == "generate_until":
            assert our_answer == their_answer
        elif TASKS[task] == "loglikelihood":
            largest = max(largest, abs(our_answer[0] - their_answer[0]))
            assert our_answer[1] == their_answer[1]
        else:
            largest = max(largest, abs(our_answer - their_answer))
    print(f"\nPARITY {name} {task} max |Δ log-likelihood| = {largest:.1e}")
    assert largest < 1e-3


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_is_the_same(results, task):
    _, ours, theirs = results
    figures = {k: v for k, v in theirs["results"][task].items() if isinstance(v, float)}
    assert figures
    for metric, value in figures.items():
        found = ours["results"][task][metric]
        exact = metric.startswith(("acc", "exact_match"))
        assert found == value if exact else found == pytest.approx(value, rel=1e-4), metric
