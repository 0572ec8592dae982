"""Reward-augmented decoding: figures by hand, a reward that is trained, and what is refused."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.classifiers import train_reward
from detox_jax.errors import UserError
from detox_jax.generation.steering import models
from detox_jax.generation.steering.reward import RewardAugmented
from detox_jax.models import reward as rewards
from detox_jax.vocabulary import ID_SHIFT, Vocabulary
from tests.classifiers import labelled_made
from tests.conftest import random_params
from tests.generation.steering import made


def _train(model_dir, directory, *flags):
    settings = {"LEARNING_RATE": 1e-2, "WARMUP_STEPS": 1}
    return labelled_made.train("train_reward", model_dir, directory, *flags, **settings)


@pytest.fixture(scope="module")
def trained(model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "model"
    assert _train(model_dir, path) == 0
    return str(path)


@pytest.fixture(scope="module")
def steered(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


def _expected(model, ids):
    """What a reward model says behind ids, by one pass without a cache."""
    hidden = made.read(model.module, model.params, ids, with_logits=False)[-1]
    return float(rewards.toxicity(hidden, rewards.head(model.module.config, model.params)))


def test_the_loss_reads_every_position(config):
    """As a sum by hand over two texts, of which one is shorter and counts twice."""
    model, params = random_params(config)
    batch = {
        "tokens": jnp.array([[5, 6, 7, 8], [9, 10, 0, 0]]),
        "labels": jnp.array([[1.0], [0.25]]),
        "weights": jnp.array([1.0, 2.0]),
    }
    loss = jax.jit(lambda params: train_reward.reward_loss(model, params, batch, None))
    total, weight = loss(params)
    by_hand = 0.0
    for ids, target, counts in (([5, 6, 7, 8], 1.0, 1), ([9, 10], 0.25, 2)):
        hidden = made.read(model, params, ids, with_logits=False)
        values = rewards.toxicity(hidden, rewards.head(config, params))
        n = len(ids)
        shares = 2 * np.arange(1, n + 1) / (n * (n + 1))
        by_hand += counts * np.sum(shares * (np.asarray(values) - target) ** 2)
    assert float(weight) == 3.0
    assert float(total) == pytest.approx(by_hand, rel=1e-5)


def test_a_text_is_read_as_it_is_decoded_behind_the_token_that_starts_it(vocabulary):
    """`generate` puts that token before each prompt; of LENGTH it is one."""
    encode = functools.partial(train_reward._encode, vocabulary)
    ids = [vocabulary.bos_id, *vocabulary.encode("You are an idiot")]
    shifted = [[i - ID_SHIFT for i in ids]]
    assert encode(64, ["You are an idiot"]) == shifted
    assert encode(3, ["You are an idiot"]) == [shifted[0][:3]]


@pytest.mark.slow
def test_a_trained_reward_tells_toxic_from_clean(trained, vocabulary, one_device_mesh):
    model = checkpoints.load_model(trained, one_device_mesh, is_reward=True)
    toxic, clean = (
        _expected(model, [vocabulary.bos_id, *vocabulary.encode(f"{text} 50")])
        for text in labelled_made.TEXTS
    )
    assert toxic > 0.7 and clean < 0.3


def test_candidates_get_what_the_reward_says(trained, steered, vocabulary, one_device_mesh):
    method = RewardAugmented(trained, beta=2.0, k=4)
    loaded = method.load(steered, one_device_mesh)
    assert loaded.reads_ends
    made.check_said_ahead(method, loaded)
    model = checkpoints.load_model(trained, one_device_mesh, is_reward=True)
    prompt = vocabulary.encode("You are an")
    prompts, lengths = jnp.array([prompt]), jnp.array([len(prompt)])
    logits = made.read(steered.module, steered.params, prompt)[None, -1].copy()
    end = vocabulary.end_ids[0]
    logits[0, end] = 99.0  # among the candidates
    size = steered.module.config.vocab_size
    found = made.first_step(loaded.steering, prompts, lengths, logits, size)
    candidates = np.argsort(-np.asarray(logits)[0])[:4]
    assert set(np.flatnonzero(found.allowed_RV[0])) == set(candidates) and end in candidates
    for token in candidates:
        ids = prompt if token == end else [*prompt, int(token)]
        added = 2 * (1 - np.clip(_expected(model, ids), 0, 1))
        assert found.logits_RV[0, token] - logits[0, token] == pytest.approx(added, abs=1e-3)
    assert loaded.settings["reward"]["fingerprint"] == model.fingerprint


def test_a_reward_of_an_earlier_version(
    trained, model_dir, steered, one_device_mesh, tmp_path, capsys
):
    """It learnt texts without their start token: it steers, with a warning; half of one ends."""
    said = "was trained on texts without the token that starts a document"
    path = tmp_path / "reward"
    shutil.copytree(trained, path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["settings"].pop("learns") == "texts behind the token that starts a document"
    RewardAugmented(str(path)).load(steered, one_device_mesh)
    assert said not in capsys.readouterr().err
    (path / "manifest.json").write_text(json.dumps(manifest))
    RewardAugmented(str(path)).load(steered, one_device_mesh)
    assert f"warning: RewardAugmented.reward: {path} {said}" in capsys.readouterr().err
    assert _train(model_dir, path) == 0
    (path / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert _train(model_dir, path) == 2
    assert "(learns: absent there, 'texts behind the token" in capsys.readouterr().err


def test_a_reward_is_no_language_model(trained, steered, one_device_mesh, tmp_path, capsys):
    reason = f"{trained}: a reward model of `train_reward`, which writes no text"
    for read in (checkpoints.load_model, checkpoints.load_params):
        with pytest.raises(UserError, match=reason):
            read(trained, one_device_mesh)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": {"text": "So"}}\n')
    out = tmp_path / "out"
    flags = (f"--checkpoint={trained}", f"--input={prompts}", f"--output={out}")
    assert cli.main(["generate", *flags]) == 2 and not out.exists()
    assert f"CHECKPOINT_PATH={reason}" in capsys.readouterr().err
    with pytest.raises(UserError, match=reason):  # An expert is a language model too.
        base = models.Base.of_steered(steered)
        models.read_expert("Experts.expert", trained, steered, base, one_device_mesh)


def test_the_vocabulary_of_another_checkpoint_is_refused(model_dir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    shutil.rmtree(copy / "vocabulary")
    Vocabulary.train(["zzz yyy xxx"], 300).save(str(copy / "vocabulary"))
    assert _train(str(copy), tmp_path / "reward") == 2
    assert "put back the vocabulary" in capsys.readouterr().err


def test_what_is_no_reward_of_the_model(
    trained, steered, model_dir, config, one_device_mesh, tmp_path
):
    with pytest.raises(UserError, match="holds none; give an output of `train_reward`"):
        RewardAugmented(model_dir).load(steered, one_device_mesh)
    with pytest.raises(UserError, match="no such checkpoint"):
        RewardAugmented(f"{tmp_path}/none").load(steered, one_device_mesh)
    other = Vocabulary.train(["some other words", "of another text"] * 4, 300)
    path = made.save_whole(tmp_path / "other", config, other, 9)
    foreign = checkpoints.load_model(path, one_device_mesh)
    with pytest.raises(UserError, match=r"RewardAugmented.reward: .* has vocabulary"):
        RewardAugmented(trained).load(foreign, one_device_mesh)
    assert RewardAugmented(trained, beta=0.0).load(steered, one_device_mesh).steering is None


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gin.LENGTH=1", "LENGTH: must be at least 2, got 1"),
        ("--gin.TRAIN_STEPS=0", "TRAIN_STEPS: must be at least 1, got 0"),
        ("--gin.INPUT=none.jsonl", "none.jsonl"),
    ],
)
def test_mistakes_of_the_verb_are_one_line(model_dir, tmp_path, capsys, flag, message):
    assert _train(model_dir, tmp_path / "model", flag) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_dry_run_says_what_is_trained(model_dir, tmp_path, capsys):
    assert _train(model_dir, tmp_path / "model", "--dry_run") == 0
    # One text in five is held out, by the hash of its id.
    assert re.search(r"to do  train_reward .* 3\d texts, .* 30 updates", capsys.readouterr().out)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"beta": float("inf")}, "RewardAugmented.beta is inf; must be a finite"),
        ({"k": 0}, "RewardAugmented.k is 0; must be at least 1"),
    ],
)
def test_numbers_are_checked(numbers, message):
    with pytest.raises(UserError, match=message):
        RewardAugmented("a", **numbers)
