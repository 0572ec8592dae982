"""What the harness asks of a model: ids as its hf backend makes them. The harness is not needed."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax import preview, tokenizer_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models.adaptation import AdapterConfig, trainable_pattern
from detox_jax.output_settings import NOT_YET
from detox_jax.parallel import mesh as meshes
from detox_jax.zero_shot import choices, harness_model
from detox_jax.zero_shot.harness_model import (
    HarnessModel,
    added_tokens,
    move_spaces,
    rolling_windows,
)
from tests import chats_made
from tests.conftest import random_params
from tests.tokenizers_made import START_PROCESSOR


@dataclasses.dataclass
class Request:
    args: tuple


class Hook:
    def __init__(self):
        self.kept = []

    def add_partial(self, kind, request, answer):
        self.kept.append((kind, request, answer))


@pytest.fixture(scope="module")
def model(model_dir):
    made = HarnessModel(model_dir, batch_size=2, max_length=24)
    made.cache_hook = Hook()
    return made


def test_ids_are_those_of_text_and_context_together(model):
    ids = model.vocabulary.encode("The bus was late")
    context = model.vocabulary.encode("The bus")
    assert model.encode_pairs([("The bus", " was late")]) == [(context, ids[len(context) :])]
    # Spaces at the end of the context go to the continuation.
    assert model.encode_pairs([("The bus ", "was late")]) == [(context, ids[len(context) :])]


def test_an_empty_context_is_the_start_token(model):
    start, ids = model.prefix_token_id, model.vocabulary.encode("late")
    assert model.encode_pairs([("", "late")]) == [([start], ids)]
    assert model.encode_pairs([("", "<|endoftext|>late")]) == [([start], ids)]
    assert model.encode_pairs([(" ", "late")]) == [([start], model.vocabulary.encode(" late"))]


def test_without_a_start_token_an_empty_context_is_the_end_token(tmp_path, config):
    """As with Qwen2.5-Instruct: its documents have a token between them that is no `bos_token`."""
    (tmp_path / "files").mkdir()
    vocabulary = chats_made.save_tokenizer(tmp_path / "files", "", bos_token=None)
    assert vocabulary.id_to_token(vocabulary.bos_id) == "<|endoftext|>"
    model = HarnessModel(chats_made.save_model(tmp_path / "model", config, vocabulary))
    assert vocabulary.id_to_token(model.prefix_token_id) == "</s>"
    assert model.encode_pairs([("", "late")])[0][0] == [vocabulary.eos_id]
    assert choices.encode(vocabulary, [("", "late")], None)[0][0] == [vocabulary.eos_id]


def test_the_start_token_is_put_once_and_only_where_asked_for(model_dir):
    model = HarnessModel(model_dir, add_bos=True)
    start, ids = model.prefix_token_id, model.vocabulary.encode("late")
    assert model.tok_encode("late") == [start, *ids]
    assert model.tok_encode("<|endoftext|>late") == [start, *ids]
    assert model.tok_encode("late", add_special_tokens=False) == ids
    assert model.encode_pairs([("late", " bus")])[0][0] == [start, *ids]
    assert model.encode_pairs([("", "late")]) == [([start], ids)]


def test_likelihoods_of_text(model):
    requests = [Request(("The bus", " was late")), Request(("The bus ", "was late"))]
    first, second = model.loglikelihood(requests)
    assert first[0] < 0 and first[1] == second[1]
    assert first[0] == pytest.approx(second[0], rel=1e-6)  # Two rows of a batch, added up apart.
    assert ("loglikelihood", ("The bus", " was late"), first) in model.cache_hook.kept
    # The chain rule: a text is its beginning and then its end.
    (whole,) = model.loglikelihood([Request(("The", " bus was late"))])
    (start,) = model.loglikelihood([Request(("The", " bus"))])
    assert whole[0] == pytest.approx(start[0] + first[0], abs=1e-4)


def test_an_adaptation_is_read_with_its_base(model, model_dir, config, vocabulary, tmp_path):
    """Adapters that do something change what is likely; those that do nothing do not."""
    base = checkpoints.load_model(model_dir, meshes.create_mesh({"data": 1}, jax.devices()[:1]))
    adaptation = AdapterConfig(8)
    _, params = random_params(config, adaptation)
    trained, _ = params_lib.partition(params, trainable_pattern(adaptation))
    spec = checkpoints.ModelSpec(
        config,
        adaptation,
        {"path": model_dir, "fingerprint": base.fingerprint},
        vocabulary.fingerprint,
    )
    answers = []
    for name, scale in (("some", 1), ("nothing", 0)):
        (tmp_path / name).mkdir()
        scaled = jax.tree.map(lambda x, scale=scale: x * scale, trained)
        checkpoints.save_model(epath.Path(tmp_path / name), scaled, spec, vocabulary)
        adapted = HarnessModel(str(tmp_path / name), batch_size=2, max_length=24)
        adapted.cache_hook = Hook()
        (answer,) = adapted.loglikelihood([Request(("The bus", " was late"))])
        answers.append(answer[0])
    (expected,) = model.loglikelihood([Request(("The bus", " was late"))])
    assert answers[1] == pytest.approx(expected[0], abs=1e-4)
    assert abs(answers[0] - expected[0]) > 0.01


def test_whole_texts_longer_than_the_context(model):
    text = "What a stupid idea, moron. " * 4
    ids = model.vocabulary.encode(text)
    assert len(ids) > 24
    (total,) = model.loglikelihood_rolling([Request((text,))])
    windows = rolling_windows(ids, model.prefix_token_id, 24)
    parts = model._loglikelihood_tokens([(None, *window) for window in windows])
    assert total == pytest.approx(sum(part[0] for part in parts))
    assert ("loglikelihood_rolling", (text,), total) in model.cache_hook.kept
    assert model.loglikelihood_rolling([Request(("",))]) == [0.0]


def test_rolling_windows():
    assert rolling_windows([], 9, 4) == []
    assert rolling_windows([1, 2, 3], 9, 4) == [([9], [1, 2, 3])]
    assert rolling_windows(list(range(10)), 99, 4) == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


def test_move_spaces():
    assert move_spaces("a \n", "b") == ("a", " \nb")
    assert move_spaces("a", " b") == ("a", " b")


def test_generation_by_settings(model, monkeypatch):
    """Requests of the same settings go together; a repeated one is another draw."""
    calls = []

    def continuer(prompts, names, settings):
        calls.append((prompts, names, settings))
        return [f"{settings.max_new_tokens} {number}" for number in range(len(prompts))]

    monkeypatch.setattr(model, "_continuer", continuer)
    few, many = {"until": ["."], "max_gen_toks": 4}, {"until": ["."]}
    requests = [Request(args) for args in (("The", few), ("The", many), ("", few), ("The", few))]
    assert model.generate_until(requests) == ["4 0", "256 0", "4 1", "4 2"]
    (prompts, names, settings), _ = calls
    the = model.vocabulary.encode("The")
    assert prompts == [the, [model.prefix_token_id], the] and len(set(names)) == 3
    assert settings.stops == (".",)
    assert ("generate_until", ("The", many), "256 0") in model.cache_hook.kept


def _files(vocabulary, tmp_path, config=None, processor=None):
    vocabulary.save(str(tmp_path))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if processor is not None:
        file = tmp_path / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": processor}))
    return tokenizer_files.read(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        (None, None, ([], [])),
        (None, START_PROCESSOR, ([0], [])),
        ({"add_bos_token": False}, START_PROCESSOR, ([0], [])),
        ({"add_bos_token": True}, None, ([], [])),
    ],
)
def test_tokens_around_a_text(config, processor, expected, vocabulary, tmp_path):
    assert added_tokens(_files(vocabulary, tmp_path, config, processor)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ([], [])),
        ({"add_bos_token": True}, ([0], [])),
        ({"add_bos_token": True, "bos_token": None}, ([], [])),
        ({"add_eos_token": True}, ([], [0])),
    ],
)
def test_without_tokenizer_json_its_settings_say(config, expected, vocabulary, tmp_path):
    files = _files(vocabulary, tmp_path)
    content = {"tokenizer_config.json": json.dumps(config).encode()}
    assert added_tokens(dataclasses.replace(files, files=content)) == expected


def test_conversations(model, monkeypatch):
    with pytest.raises(UserError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hello"}])
    before = model.tokenizer_name
    template = b"{{ bos_token }}{{ messages[0].content }}"
    monkeypatch.setattr(model, "_files", {"chat_template.jinja": template})
    assert model.apply_chat_template([{"role": "user", "content": "Hi"}]) == "<|endoftext|>Hi"
    assert model.chat_template(True) == template.decode()
    assert model.chat_template(False) is None
    assert model.tokenizer_name != before


def test_settings_name_what_stands_around_a_question(model_dir, tmp_path):
    """No fingerprint of the vocabulary or the model knows it."""
    copy = shutil.copytree(model_dir, tmp_path / "model")

    def around(add_bos=None, template=False):
        return harness_model.asked_in(str(copy), add_bos, template)

    assert around() == {"tokens_around": [[], [], [0]]}
    assert around(add_bos=True) == {"tokens_around": [[0], [], [0]]}
    assert around(template=True)["template_sha256"] is None  # As is told when it is asked for.
    digests = []
    for template in ("{{ bos_token }}", "{{ eos_token }}"):
        (copy / "vocabulary" / "chat_template.jinja").write_text(template)
        digests.append(around(template=True)["template_sha256"])
    assert None not in digests and len({*digests}) == 2 and "template_sha256" not in around()
    file = copy / "vocabulary" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": START_PROCESSOR}))
    assert around() == around(add_bos=True) != around(add_bos=False)
    coming = harness_model.asked_in(preview.Coming("x"), None, template=True)
    assert coming == dict.fromkeys(("tokens_around", "template_sha256"), NOT_YET)


def test_what_is_said_of_the_model(model):
    information = model.get_model_info()
    sizes = [np.prod(leaf.shape) for leaf in _leaves(model._loaded.params)]
    assert information["model_num_parameters"] == sum(sizes)
    assert information["model_fingerprint"] == model.fingerprint


def _leaves(tree):
    return [x for v in tree.values() for x in _leaves(v)] if isinstance(tree, dict) else [tree]


@pytest.mark.parametrize("setting", [{"max_length": 65}, {"max_length": 1}, {"batch_size": 0}])
def test_lengths_that_the_model_does_not_have(model_dir, setting):
    with pytest.raises(UserError, match="reads 2 to 64 tokens"):
        HarnessModel(model_dir, **setting)


def test_a_missing_harness_is_named(monkeypatch, model_dir):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(harness_model, "importlib", types.SimpleNamespace(import_module=missing))
    with pytest.raises(UserError, match=r"pip install 'detox-jax\[lm-eval\]'"):
        harness_model.harness_model(model_dir)
