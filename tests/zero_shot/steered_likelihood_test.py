"""Continuations read under a steered model: the reader, and the verbs that read with it."""

import json
import types

import numpy as np
import pytest

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering.contrast import PrefixContrast
from detox_jax.generation.steering.words import BannedWords
from detox_jax.zero_shot import steered_likelihood
from detox_jax.zero_shot.harness_model import HarnessModel
from detox_jax.zero_shot.likelihood import LikelihoodReader
from detox_jax.zero_shot.steered_likelihood import SteeredReader

LONG = list(range(5, 80))  # beyond the context of 64
PAIRS = [
    ([5, 9, 30], [7, 8]),
    ([5, 9, 30], [40]),
    ([5], [6, 7, 8, 9, 10]),
    ([5, 6], []),
    (LONG, [11, 12, 13]),
]


@pytest.fixture(scope="module")
def base(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("idiot\n")
    return str(path)


def _reader(method, base, mesh, batch_size=3):
    return steered_likelihood.reader(base, [method.load(base, mesh)], mesh, batch_size, 64)


def test_a_method_that_changes_nothing_reads_as_the_model(base, words, one_device_mesh):
    """Whatever the batch; contexts are cut alike, and nothing is certain to follow."""
    plain = steered_likelihood.reader(base, [], one_device_mesh, 3, 64)
    steered = _reader(BannedWords(words), base, one_device_mesh)
    assert isinstance(plain, LikelihoodReader) and isinstance(steered, SteeredReader)
    expected = plain(PAIRS)
    for found in (steered(PAIRS), _reader(BannedWords(words), base, one_device_mesh, 1)(PAIRS)):
        values = [[of.log_probability for of in each] for each in (found, expected)]
        np.testing.assert_allclose(*values, atol=1e-3)
        assert [of.is_greedy for of in found] == [of.is_greedy for of in expected]


def test_a_method_of_strength_0_is_none(base, one_device_mesh):
    reader = _reader(PrefixContrast(alpha=0.0), base, one_device_mesh)
    assert isinstance(reader, LikelihoodReader)


def test_a_banned_word_is_impossible(base, words, one_device_mesh):
    encode = base.vocabulary.encode
    pairs = [(encode("You"), encode(text)) for text in (" idiot", " lamp")]
    banned, other = _reader(BannedWords(words), base, one_device_mesh)(pairs)
    assert banned.log_probability == -np.inf and not banned.is_greedy
    assert np.isfinite(other.log_probability)


def test_what_a_method_can_read_counts(base, one_device_mesh):
    """Its prefix stands before the text; a continuation that does not fit is refused."""
    reader = _reader(PrefixContrast("You are."), base, one_device_mesh)
    prefix = len(base.vocabulary.encode("You are."))
    assert reader.max_length == 64 - prefix
    (found,) = reader([(LONG, [11, 12, 13])])
    (cut,) = reader([(LONG[-(64 - prefix + 1 - 3) :], [11, 12, 13])])
    assert found == cut
    with pytest.raises(
        UserError, match=f"has 64 tokens, but the steered model reads {64 - prefix}"
    ):
        reader([([5], LONG[:64])])


# --- the verbs ----------------------------------------------------------------------------------


def _choices(out, model_dir, words, *flags):
    rows = [{"goal": "Who?", "sol1": "idiot", "sol2": "a lamp", "label": 0}]
    rows += [{"goal": "What?", "sol1": "idiot", "sol2": "an idiot", "label": 0}]
    files = out.parent / "tasks"
    files.mkdir(exist_ok=True)
    (files / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (files / "lambada.jsonl").write_text(json.dumps({"text": "You are an idiot"}) + "\n")
    given = {"CHECKPOINT_PATH": model_dir, "OUTPUT_DIR": out, "TASKS_DIR": files}
    given |= {"TASKS": "['piqa', 'lambada']", "words.BannedWords.words_file": words}
    named = [f"--gin.{name}={value}" for name, value in given.items()]
    return cli.main(["choices", *named, "--gin.STEERING=[@words.BannedWords()]", *flags])


def test_choices_that_are_banned_are_never_chosen(model_dir, words, tmp_path):
    out = tmp_path / "out"
    assert _choices(out, model_dir, words) == 0
    lines = (out / "piqa-00000-of-00001.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["log_likelihoods"][0] is None and first["log_likelihoods"][1] < 0
    # The second is right by its place alone, which is no answer where nothing can be said.
    assert second["log_likelihoods"] == [None, None]
    assert [row["correct"] for row in (first, second)] == [False, False]
    assert [row["correct_norm"] for row in (first, second)] == [False, False]
    accuracies = json.loads((out / "accuracies.json").read_text())
    assert accuracies["tasks"]["lambada"]["perplexity"] is None  # infinite
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert settings["steering"][0]["method"] == "BannedWords"
    assert _choices(out, model_dir, words) == 0  # the same again, from what is there


def test_other_steering_is_another_output(model_dir, words, tmp_path, capsys):
    assert _choices(tmp_path / "out", model_dir, words) == 0
    (other := tmp_path / "other.txt").write_text("fool\n")
    assert _choices(tmp_path / "out", model_dir, str(other)) == 2
    assert "made with other settings (steering" in capsys.readouterr().err.splitlines()[-1]
    assert _choices(tmp_path / "out", model_dir, words, "--gin.STEERING=()") == 2
    assert "nothing uses words.BannedWords" in capsys.readouterr().err.splitlines()[-1]


def test_the_harness_reads_and_writes_what_is_steered(model_dir, words):
    model = HarnessModel(model_dir, batch_size=2, max_length=24, steering=[BannedWords(words)])
    model.cache_hook = types.SimpleNamespace(add_partial=lambda *_: None)
    request = types.SimpleNamespace(args=("You", " idiot"))
    assert model.loglikelihood([request]) == [(-np.inf, False)]
    assert model.methods[0].settings["method"] == "BannedWords"
    contrast = HarnessModel(
        model_dir, batch_size=2, max_length=24, steering=[PrefixContrast("You are.", alpha=9.0)]
    )
    assert contrast.max_length == 24
    plain = HarnessModel(model_dir, batch_size=2, max_length=24)
    texts = []
    for harness in (plain, contrast):
        harness.cache_hook = model.cache_hook
        until = types.SimpleNamespace(args=("The bus", {"max_gen_toks": 6}))
        texts.append(harness.generate_until([until]))
    assert texts[0] != texts[1]
