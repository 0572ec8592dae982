"""Perplexity against an independent computation, document by document."""

import collections
import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax import chat
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation import perplexity
from detox_jax.evaluation.perplexity_cache import PerplexityReader
from detox_jax.generation.steering.contrast import PrefixContrast
from detox_jax.generation.steering.steering import Loaded
from detox_jax.generation.steering.words import BannedWords
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary
from tests import chats_made
from tests.conftest import SENTENCES, random_params
from tests.tokenizers_made import save_llama


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 60), st.integers(2, 12))
def test_windows_score_every_token_but_the_first_once(length, context):
    ids = list(range(length))
    scored = []
    for window, first in perplexity.split_windows(ids, context):
        assert len(window) - 1 <= context
        targets = window[1:]
        scored += targets[first:]
        if window[0] > 0:  # A later window: what it scores has half a context before it.
            assert first >= context // 2
    assert scored == ids[1:]


def test_each_window_is_measured_a_few_times_however_many_there_are():
    """The longest of all was looked for anew for each batch."""
    measured = collections.Counter()

    class Ids(list):
        def __len__(self):
            measured[id(self)] += 1
            return super().__len__()

    windows = [(Ids([1] * (2 + number % 40)), 0) for number in range(400)]
    batches = list(perplexity._batches(windows, 4))
    assert sum(number for number, _ in batches) == 400
    assert sum(int(weights.sum()) for _, (_, _, weights) in batches) == sum(
        1 + number % 40 for number in range(400)
    )
    assert {arrays[0].shape for _, arrays in batches} == {(4, 16), (4, 32), (4, 40)}
    assert max(measured.values()) < 10


def test_perplexity_equals_a_plain_computation(tmp_path, config, vocabulary, model_dir):
    """One short document, one longer than the context, scored here window by window."""
    texts = [SENTENCES[0], " ".join(SENTENCES * 4)]
    path = tmp_path / "d.jsonl"
    rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n")
    model, params = random_params(config)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))
    total, tokens, half = 0.0, 0, config.max_length // 2
    eos = vocabulary.eos_id
    for text in texts:
        ids = [eos, *vocabulary.encode(text), eos]
        tokens += len(ids) - 1
        start, done = 0, 1
        while done < len(ids):
            start = 0 if done == 1 else done - 1 - half
            end = min(len(ids), start + config.max_length + 1)
            inputs = np.zeros((1, config.max_length), np.int32)
            inputs[0, : end - 1 - start] = ids[start : end - 1]
            logits = np.asarray(apply(inputs)[0], np.float64)
            for target in range(done, end):
                row = logits[target - 1 - start]
                total -= row[ids[target]] - row.max() - np.log(np.exp(row - row.max()).sum())
            done = end
    assert tokens > 2 * config.max_length
    measured = perplexity.checkpoint_perplexity(model_dir, str(path), batch_size=2)
    words = sum(len(text.split()) + 1 for text in texts)
    assert (measured.tokens, measured.num_words, measured.documents) == (tokens, words, 2)
    assert measured.value == pytest.approx(np.exp(total / tokens), rel=1e-4)
    assert measured.words == pytest.approx(np.exp(total / words), rel=1e-3)


def test_behind_a_tag_every_window_is_read_after_it_and_the_tag_is_not_scored(
    tmp_path, config, vocabulary, model_dir
):
    texts = [SENTENCES[0], " ".join(SENTENCES * 3)]
    path = tmp_path / "d.jsonl"
    rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n")
    model, params = random_params(config)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))
    tag = [vocabulary.bos_id, *Tags().ids(vocabulary)[0]]
    context, total, tokens = config.max_length - len(tag), 0.0, 0
    for text in texts:
        ids = [*vocabulary.encode(text), vocabulary.eos_id]
        tokens += len(ids)
        for start, done, end in _windows(len(ids), context):
            window = [*tag, *ids[start:end]]
            inputs = np.zeros((1, config.max_length), np.int32)
            inputs[0, : len(window) - 1] = window[:-1]
            logits = np.asarray(apply(inputs)[0], np.float64)
            for target in range(done, end):
                row = logits[len(tag) + target - start - 1]
                total -= row[ids[target]] - row.max() - np.log(np.exp(row - row.max()).sum())
    measured = perplexity.checkpoint_perplexity(model_dir, str(path), 2, behind=Tags())
    assert measured.tokens == tokens
    assert measured.value == pytest.approx(np.exp(total / tokens), rel=1e-4)
    plain = perplexity.checkpoint_perplexity(model_dir, str(path), 2)
    assert plain.tokens == tokens and plain.value != measured.value
    reader = PerplexityReader(epath.Path(tmp_path / "kept"), str(path), None, 2)
    assert reader.of_model("m", model_dir, Tags()) == measured
    assert reader.of_model("m", model_dir) == plain


def _windows(size, context):
    """Start, first scored and end of each window over the ids of a text."""
    done, start, end = 0, 0, context
    while done < size:
        yield start, done, min(size, end)
        done = min(size, end)
        start = done - context // 2 - 1
        end = start + context + 1


def test_continuations_are_read_from_the_start_token_with_the_space_before_them(tmp_path, config):
    """Of a tokenizer like LLaMA's, whose start and end of a document are two tokens."""
    save_llama(tmp_path)
    vocabulary = Vocabulary.load(str(tmp_path))
    config = dataclasses.replace(config, vocab_size=vocabulary.vocab_size)
    model, params = random_params(config)
    directory = epath.Path(tmp_path / "model")
    directory.mkdir()
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    checkpoints.save_model(directory, params, spec, vocabulary)
    rows = [("0", "The bus", " was late."), ("1", "Thanks", ", it worked")]
    path = tmp_path / "g.jsonl"
    with path.open("w") as file:
        for i, prompt, text in rows:
            record = {"id": i, "prompt": {"text": prompt}, "generations": [{"text": text}]}
            file.write(json.dumps(record) + "\n")
    total, tokens = 0.0, 0
    for _, prompt, text in rows:
        before = len(vocabulary.encode(prompt))
        ids = [vocabulary.bos_id, *vocabulary.encode(prompt + text)]
        logits = np.asarray(
            model.apply({"params": params}, np.array([ids]), enable_dropout=False)[0], np.float64
        )
        for target in range(1 + before, len(ids)):
            row = logits[target - 1]
            total -= row[ids[target]] - row.max() - np.log(np.exp(row - row.max()).sum())
            tokens += 1
    measured = perplexity.continuation_perplexity(str(directory), str(path))
    assert measured.tokens == tokens
    assert measured.value == pytest.approx(np.exp(total / tokens), rel=1e-4)


@pytest.mark.parametrize("template", ["marks", "dated"])
def test_answers_are_read_behind_the_question_in_the_template(template, tmp_path, config):
    """As the model was asked: no start token but the template's, and its marks between the two."""
    vocabulary = chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES[template])
    directory = chats_made.save_model(tmp_path / "model", config, vocabulary)
    config = dataclasses.replace(config, vocab_size=vocabulary.vocab_size)
    model, params = random_params(config)
    rows = [("0", "The bus", "It was late."), ("1", "Thanks", " You are welcome")]
    records = [
        {"id": i, "prompt": {"text": prompt}, "generations": [{"text": text}]}
        for i, prompt, text in rows
    ]
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    exchange = chat.exchange(vocabulary)
    total, tokens = 0.0, 0
    for _, prompt, text in rows:
        question = exchange.ids(exchange.question(prompt))
        assert (question[0] == vocabulary.bos_id) == (template == "dated")
        ids = [*question, *vocabulary.encode(text)]
        assert len(ids) <= config.max_length + 1
        logits = np.asarray(
            model.apply({"params": params}, np.array([ids]), enable_dropout=False)[0], np.float64
        )
        for target in range(len(question), len(ids)):
            row = logits[target - 1]
            total -= row[ids[target]] - row.max() - np.log(np.exp(row - row.max()).sum())
            tokens += 1
    measured = perplexity.continuation_perplexity(directory, str(path), asked=True)
    assert measured.tokens == tokens
    assert measured.value == pytest.approx(np.exp(total / tokens), rel=1e-4)
    assert perplexity.continuation_perplexity(directory, str(path)).value != measured.value


def test_a_context_that_is_cut_keeps_its_start_token(tmp_path, config, vocabulary, model_dir):
    """The model has never seen a text without it."""
    text = " ".join(SENTENCES)
    ids = vocabulary.encode(text)
    limit = config.max_length
    assert len(ids) > limit
    record = {"id": "0", "prompt": {"text": text}, "generations": [{"text": " The bus was late."}]}
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps(record) + "\n")
    seen = []
    compute = perplexity._total_nll

    def total_nll(loaded, mesh, windows, *rest):
        seen.extend(windows)
        return compute(loaded, mesh, windows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perplexity, "_total_nll", total_nll)
        perplexity.continuation_perplexity(str(model_dir), str(path))
    ((window, first),) = seen
    assert window[0] == vocabulary.bos_id and len(window) == limit + 1
    continuation = vocabulary.encode(" The bus was late.")
    assert window[first + 1 :] == continuation


def test_more_nats_than_a_number_holds_are_infinite(tmp_path, model_dir):
    """A text without spaces is one word."""
    assert perplexity.exp(700.0) == math.exp(700.0) and perplexity.exp(800.0) == math.inf
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"id": "0", "text": "abcdefgh" * 200}) + "\n")
    measured = perplexity.checkpoint_perplexity(str(model_dir), str(held))
    assert math.isfinite(measured.value) and measured.words == math.inf


# --- steered ------------------------------------------------------------------------------------


def _documents(path, texts):
    rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_text_of_bans_of_an_earlier_version_is_not_measured_under_those_of_now():
    now = [Loaded(None, {"method": "BannedWords", "text_rules": 2})]
    perplexity._require_same(now, [{"method": "BannedWords", "text_rules": 2}])
    with pytest.raises(UserError, match="by an earlier version, .* generate them again"):
        perplexity._require_same(now, [{"method": "BannedWords"}])


def test_text_of_a_steering_model_that_an_earlier_version_named_by_its_parameters_is_measured():
    model = {"path": "a", "fingerprint": "0"}
    now = [Loaded(None, {"method": "Experts", "anti": {**model, "spec_sha256": "1"}})]
    perplexity._require_same(now, [{"method": "Experts", "anti": model}])
    for other in ({"fingerprint": "1"}, {"spec_sha256": "2"}):
        with pytest.raises(UserError, match="give the one that they were generated with"):
            perplexity._require_same(now, [{"method": "Experts", "anti": {**model, **other}}])


def test_perplexity_under_a_contrast_equals_its_formula(tmp_path, config, vocabulary, model_dir):
    """z + 2 (z - z behind the prefix), window by window, without a cache; whatever the batch."""
    texts = [SENTENCES[0], " ".join(SENTENCES * 3)]
    documents = _documents(tmp_path / "d.jsonl", texts)
    prefix = vocabulary.encode("You are.")
    context = config.max_length - len(prefix)
    model, params = random_params(config)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))

    def logits(ids):
        padded = np.zeros((1, config.max_length), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(apply(padded)[0, : len(ids)], np.float64)[:, 1 : config.vocab_size]

    total, tokens = 0.0, 0
    for text in texts:
        ids = [vocabulary.bos_id, *vocabulary.encode(text), vocabulary.eos_id]
        for window, first in perplexity.split_windows(ids, context):
            inputs, begins = window[:-1], window[0] == vocabulary.bos_id
            before = [vocabulary.bos_id] if begins else []
            behind = logits([*before, *prefix, *inputs[len(before) :]])[len(prefix) :]
            z = logits(inputs)
            steered = z + 2 * (z - behind)
            steered -= steered.max(axis=1, keepdims=True)
            log_probs = steered - np.log(np.exp(steered).sum(axis=1, keepdims=True))
            for position in range(first, len(inputs)):
                total -= log_probs[position, window[position + 1] - 1]
                tokens += 1
    method = PrefixContrast("You are.", alpha=2.0)
    for batch_size in (2, 3):
        measured = perplexity.checkpoint_perplexity(
            model_dir, documents, batch_size, steering=[method]
        )
        assert (measured.tokens, measured.documents, measured.impossible) == (tokens, 2, 0)
        assert measured.value == pytest.approx(np.exp(total / tokens), rel=1e-4)


def test_strength_0_has_the_models_own_perplexity(tmp_path, model_dir):
    documents = _documents(tmp_path / "d.jsonl", SENTENCES)
    plain = perplexity.checkpoint_perplexity(model_dir, documents)
    nothing = [PrefixContrast(alpha=0.0)]
    assert perplexity.checkpoint_perplexity(model_dir, documents, steering=nothing) == plain


def test_documents_that_hold_what_is_banned_are_counted_and_the_others_read(tmp_path, model_dir):
    """A ban takes probability from what is not there, so the others are no less likely."""
    (tmp_path / "words.txt").write_text("idiot\nz\nq\n")
    method = [BannedWords(str(tmp_path / "words.txt"))]
    insults = ["You idiot.", "What an IDIOT you are!"]
    others = [sentence for sentence in SENTENCES if "idiot" not in sentence]
    mixed = _documents(tmp_path / "mixed.jsonl", [*insults, *others])
    calm = _documents(tmp_path / "calm.jsonl", others)
    plain = perplexity.checkpoint_perplexity(model_dir, calm)
    steered = perplexity.checkpoint_perplexity(model_dir, mixed, steering=method)
    counts = [(of.tokens, of.num_words, of.documents) for of in (plain, steered)]
    assert counts[0] == counts[1] and steered.impossible == 2
    assert 0.5 * plain.value < steered.value < 0.999 * plain.value
    assert steered.of_all == math.inf and plain.of_all == plain.value
    assert steered.impossible_share == 2 / (2 + len(others))
    none = _documents(tmp_path / "none.jsonl", insults)
    empty = perplexity.checkpoint_perplexity(model_dir, none, steering=method)
    assert (empty.value, empty.documents, empty.impossible) == (math.inf, 0, 2)


def test_other_steering_than_the_continuations_is_refused(tmp_path, model_dir):
    documents = _documents(tmp_path / "d.jsonl", SENTENCES)
    given = [PrefixContrast("You are.", alpha=2.0)]
    said = {"method": "PrefixContrast", "form": "logits", "base_top_p": None, "text": "You are."}
    for alpha, fits in ((2.0, True), (1.0, False)):
        how = {"steering": given, "steered_by": [{**said, "alpha": alpha}]}
        if fits:
            assert perplexity.checkpoint_perplexity(model_dir, documents, **how).value > 1
        else:
            with pytest.raises(UserError, match="were generated with steering .*'alpha': 1.0"):
                perplexity.checkpoint_perplexity(model_dir, documents, **how)


# --- on a mesh ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steering", [(), (PrefixContrast("You are.", alpha=2.0),)])
def test_a_mesh_changes_nothing(tmp_path, model_dir, one_device_mesh, monkeypatch, steering):
    documents = _documents(tmp_path / "d.jsonl", SENTENCES[:3])
    shape = {"data": 2, "fsdp": 2, "model": 2}
    split = perplexity.checkpoint_perplexity(model_dir, documents, 3, shape, steering)
    monkeypatch.setattr(perplexity.meshes, "create_mesh", lambda _: one_device_mesh)
    one = perplexity.checkpoint_perplexity(model_dir, documents, 3, None, steering)
    assert (split.tokens, split.num_words) == (one.tokens, one.num_words)
    assert split.value == pytest.approx(one.value, rel=1e-5)


def test_parameters_lie_split_over_the_mesh(tmp_path, model_dir, monkeypatch):
    """So that a model that no device has room for is read."""
    documents = _documents(tmp_path / "d.jsonl", SENTENCES)
    parts, load = [], checkpoints.load_model

    def loaded(*arguments, **how):
        model = load(*arguments, **how)
        largest = max(jax.tree.leaves(model.params), key=lambda leaf: leaf.size)
        parts.append(largest.size // largest.addressable_shards[0].data.size)
        return model

    monkeypatch.setattr(checkpoints, "load_model", loaded)
    perplexity.checkpoint_perplexity(model_dir, documents, 3, {"fsdp": 4, "model": 2})
    assert parts == [8]
