"""The plane of SASA: figures by hand, what looking ahead reads, and what is refused."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import fit_subspace
from detox_jax.generation.steering import states, steering, subspace
from detox_jax.generation.steering.activations import ActivationOffset
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.generation.steering.subspace import SubspaceMargin
from detox_jax.vocabulary import Vocabulary
from tests.conftest import random_params
from tests.generation.steering import made
from tests.tokenizers_made import save_llama

CLEAN, TOXIC = [(1, 0), (2, 1), (1, 2)], [(-1, 0), (0, -1), (-2, 1)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_plane_between_two_classes(dtype):
    normal, centre = subspace.fit(np.array(CLEAN, dtype), np.array(TOXIC, dtype))
    np.testing.assert_allclose(normal, (0.839570, 0.543251), atol=1e-6)
    np.testing.assert_allclose(centre, (0.166667, 0.5), atol=1e-6)
    assert (np.array([1, 0]) - centre) @ normal == pytest.approx(0.428016, abs=1e-6)


def test_a_direction_without_variance_is_left_out():
    clean, toxic = (np.pad(np.array(x, float), ((0, 0), (0, 1))) for x in (CLEAN, TOXIC))
    clean[:, 2] = 5
    normal, _ = subspace.fit(clean, toxic)
    np.testing.assert_allclose(normal, (0.839570, 0.543251, 0), atol=1e-6)


def test_classes_that_have_no_plane():
    with pytest.raises(UserError, match="0 clean and 3 toxic texts; both are needed"):
        subspace.fit(np.zeros((0, 2)), np.array(TOXIC, float))
    with pytest.raises(UserError, match="the same hidden states"):
        subspace.fit(np.ones((3, 2)), np.ones((2, 2)))


def test_looking_ahead_reads_what_a_whole_pass_reads(config):
    """Prompts of several lengths, drawn tokens among the candidates and not."""
    model, params = random_params(config)
    prompts, new = [[5, 9, 30], [7], [40, 41, 42]], [[11, 60], [60, 12], [13, 14]]
    prompts_NP = jnp.array([[*p, *[0] * (3 - len(p))] for p in prompts])
    lookahead = Lookahead(model, params, 2)
    state = jax.jit(lambda: lookahead.start(prompts_NP, jnp.array([3, 1, 3]), 16))()
    step = jax.jit(lambda state, token_R, ids_Rk: _both(lookahead, state, token_R, ids_Rk))
    ids_Rk = np.array([[11, 12], [12, 11], [13, 14]])  # never 60
    text = [list(p[:-1]) for p in prompts]
    for token_R in [[p[-1] for p in prompts], *np.transpose(new)]:
        for row, token in zip(text, token_R, strict=True):
            row.append(int(token))
        read_RD, ahead_RkD, state = step(state, jnp.array(token_R), jnp.array(ids_Rk))
        for n, row in enumerate(text):
            np.testing.assert_allclose(read_RD[n], _hidden(model, params, row), atol=2e-5)
            for place, token in enumerate(ids_Rk[n]):
                whole = _hidden(model, params, [*row, int(token)])
                np.testing.assert_allclose(ahead_RkD[n, place], whole, atol=2e-5)
        ids_Rk = np.array([[12, 11], [12, 11], [14, 13]])


def test_candidates_take_no_copies_of_the_cache(config):
    """What a step needs beside its state for 16 candidates is less than two caches."""
    config = dataclasses.replace(config, max_length=512)
    model, params = random_params(config)
    k, rows, positions = 16, 4, 512
    lookahead = Lookahead(model, params, k)
    prompts = jnp.ones((rows, 3), jnp.int32), jnp.full(rows, 3)
    state = jax.eval_shape(lambda: lookahead.start(*prompts, positions))
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state[1]["cache"]))
    ids_Rk = jax.ShapeDtypeStruct((rows, k), jnp.int32)
    compiled = jax.jit(lookahead.ahead).lower(state, ids_Rk).compile()
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 2 * cache


def _both(lookahead, state, token_R, ids_Rk):
    read_RD, state = lookahead.read(state, token_R)
    ahead_RkD, state = lookahead.ahead(state, ids_Rk)
    return read_RD, ahead_RkD, state


def _hidden(model, params, ids):
    return np.asarray(made.read(model, params, ids, with_logits=False))[-1]


# --- from disk ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    lines = [
        f'{{"id": "d{n}", "text": "{text} {n}", "toxicity": {toxicity}}}\n'
        for n in range(20)
        for text, toxicity in [("You are an idiot" if n % 2 else "Thanks for that", n % 2 * 0.9)]
    ]
    path.write_text("".join(lines))
    return path


def _fit(model_dir, scored, directory, *flags):
    return cli.main(
        [
            "fit_subspace",
            f"--gin.CHECKPOINT_PATH={model_dir}",
            f"--gin.INPUT={scored}",
            f"--gin.OUTPUT_DIR={directory}",
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def fitted(model_dir, scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("subspace") / "plane"
    assert _fit(model_dir, scored, path) == 0
    return str(path)


@pytest.fixture(scope="module")
def steered(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


@pytest.mark.parametrize("places", [8, 1])
def test_what_the_verb_fits(model_dir, scored, steered, tmp_path, places):
    """The plane of the states at places within texts; batches and their order do not matter."""
    flags = [] if places == 8 else ["--gin.PLACES=1"]
    assert _fit(model_dir, scored, tmp_path / "plane", *flags) == 0
    normal, centre, digest = subspace.read(str(tmp_path / "plane"), steered)
    vocabulary, read_at = steered.vocabulary, ([], [])
    for odd, text in enumerate(("Thanks for that", "You are an idiot")):
        for n in range(odd, 20, 2):
            ids = vocabulary.encode(f"{text} {n}")
            for end in {math.ceil(len(ids) * part / places) for part in range(1, places + 1)}:
                read = _hidden(steered.module, steered.params, [vocabulary.bos_id, *ids[:end]])
                read_at[odd].append(read)
    assert len(read_at[0]) == 10 if places == 1 else len(read_at[0]) > 20
    by_hand = subspace.fit(*map(np.array, read_at))
    np.testing.assert_allclose(centre, by_hand[1], atol=1e-4)
    assert normal @ by_hand[0] > 0.99
    assert _fit(model_dir, scored, tmp_path / "again", *flags, "--gin.BATCH_SIZE=3") == 0
    again = subspace.read(str(tmp_path / "again"), steered)
    np.testing.assert_allclose(again[1], centre, atol=1e-4)
    assert len(digest) == 16


def test_no_place_is_within_a_prompt(steered):
    ids = fit_subspace._begun(steered.vocabulary, [("You are", " an idiot and so on")], 3)
    (prompt,) = states.encoded(steered.vocabulary, [("You are", "")])
    (whole,) = states.encoded(steered.vocabulary, [("You are", " an idiot and so on")])
    assert ids[-1] == whole and len(ids) == 3
    assert all(len(part) > len(prompt) and part == whole[: len(part)] for part in ids)


def test_a_text_has_the_ids_with_which_a_model_goes_on(tmp_path):
    """A tokenizer like LLaMA's would put a space before a text that it reads by itself."""
    save_llama(tmp_path)
    vocabulary = Vocabulary.load(str(tmp_path))
    texts = [("The bus", "es, and late"), ("The bus", " was late"), ("", "The bus")]
    for (prompt, text), ids in zip(texts, states.encoded(vocabulary, texts), strict=True):
        assert ids == [vocabulary.bos_id, *vocabulary.encode(prompt + text)]
    (prefixed,) = states.encoded(vocabulary, texts[:1], "You are:")
    behind = vocabulary.encode("The buses, and late")
    assert prefixed == [vocabulary.bos_id, *vocabulary.encode("You are:"), *behind]


def test_candidates_are_steered_to_the_clean_side(fitted, steered, one_device_mesh):
    method = SubspaceMargin(fitted, beta=3.0, k=4)
    loaded = method.load(steered, one_device_mesh)
    assert loaded.reads_ends
    published = SubspaceMargin(fitted, published=True).load(steered, one_device_mesh)
    assert not published.reads_ends
    made.check_said_ahead(method, loaded)
    prompt = steered.vocabulary.encode("You are")
    prompts, lengths = jnp.array([prompt]), jnp.array([len(prompt)])
    logits = made.read(steered.module, steered.params, prompt)[None, -1]
    size = steered.module.config.vocab_size
    found = made.first_step(loaded.steering, prompts, lengths, logits, size)
    candidates = np.argsort(-np.asarray(logits)[0])[:4]
    assert set(np.flatnonzero(found.allowed_RV[0])) == set(candidates)
    normal, centre, _ = subspace.read(fitted, steered)
    for token in set(candidates) - set(steered.vocabulary.end_ids):
        margin = (_hidden(steered.module, steered.params, [*prompt, int(token)]) - centre) @ normal
        added = found.logits_RV[0, token] - logits[0, token]
        assert added == pytest.approx(3 * margin, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.THRESHOLD=0.95"], "10 clean|20 texts below and 0 from 0.95 on"),
        (["--gin.THRESHOLD=0.0"], "THRESHOLD: must be above 0 and at most 1, got 0.0"),
        (["--gin.MOST_TEXTS=0"], "MOST_TEXTS: must be at least 1, got 0"),
    ],
)
def test_mistakes_of_the_verb_are_one_line(model_dir, scored, tmp_path, capsys, flags, message):
    import re

    assert _fit(model_dir, scored, tmp_path / "plane", *flags) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_dry_run_counts_the_texts(model_dir, scored, fitted, tmp_path, capsys):
    assert _fit(model_dir, scored, tmp_path / "plane", "--dry_run") == 0
    assert "10 clean, 10 toxic" in capsys.readouterr().out
    assert not (tmp_path / "plane").exists()
    assert _fit(model_dir, scored, fitted, "--dry_run") == 0
    assert "1 steps, 1 of them done" in capsys.readouterr().out


def test_planes_that_do_not_fit(fitted, steered, config, vocabulary, one_device_mesh, tmp_path):
    other = made.save_whole(tmp_path / "other", config, vocabulary, 7)
    with pytest.raises(UserError, match="was fitted on model .*, but the model is"):
        SubspaceMargin(fitted).load(checkpoints.load_model(other, one_device_mesh), one_device_mesh)
    with pytest.raises(UserError, match="none holds none; give an output of `fit_subspace`"):
        SubspaceMargin(f"{tmp_path}/none").load(steered, one_device_mesh)
    assert SubspaceMargin(fitted, beta=0.0).load(steered, one_device_mesh).steering is None


def test_a_plane_of_its_base_is_refused_before_any_work(
    fitted, model_dir, one_device_mesh, tmp_path
):
    """As at work; vectors of its base fit an adaptation."""
    adapted = made.save_adaptation(tmp_path / "adapted", model_dir, one_device_mesh, 1)
    method = SubspaceMargin(fitted)
    steering.check_fit([method], model_dir)
    with pytest.raises(UserError, match="was fitted on model .*, but the model is"):
        steering.check_fit([method], adapted)
    with pytest.raises(UserError, match="was fitted on model .*, but the model is"):
        method.load(checkpoints.load_model(adapted, one_device_mesh), one_device_mesh)
    base = checkpoints.load_model(model_dir, one_device_mesh)
    vectors = made.save_vectors(tmp_path / "vectors", base, "in_context")
    steering.check_fit([ActivationOffset(vectors)], adapted)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"normal": np.ones(3), "centre": np.ones(3)},
            r"its normal is \(3,\), the model needs \(32,\)",
        ),
        ({"normal": np.ones(32)}, "its centre is not there"),
        (b"nothing", "cannot be read"),
        ("nan", "not finite"),
    ],
)
def test_a_damaged_plane(fitted, steered, tmp_path, arrays, message):
    import shutil

    directory = tmp_path / "plane"
    shutil.copytree(fitted, directory)
    if isinstance(arrays, bytes):
        (directory / subspace.FILE).write_bytes(arrays)
    else:
        if arrays == "nan":
            width = steered.module.config.emb_dim
            arrays = {"normal": np.full(width, np.nan), "centre": np.zeros(width)}
        np.savez(directory / subspace.FILE, **arrays)
    with pytest.raises(UserError, match=message):
        subspace.read(str(directory), steered)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"beta": float("nan")}, "SubspaceMargin.beta is nan; must be a finite"),
        ({"k": 0}, "SubspaceMargin.k is 0; must be at least 1"),
        ({"base_top_p": 0.0}, "SubspaceMargin.base_top_p is 0.0"),
    ],
)
def test_numbers_are_checked(numbers, message):
    with pytest.raises(UserError, match=message):
        SubspaceMargin("a", **numbers)
