"""Generation until a string: settings, pieces, stops."""

import copy
import dataclasses

import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import continuation, decoding, sampling
from detox_jax.generation.continuation import Continuer, Settings, before_stop


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({}, sampling.Greedy()),
        ({"temperature": 0.0, "do_sample": False, "num_beams": 1}, sampling.Greedy()),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.9}, sampling.Greedy()),
        ({"temperature": 0.7}, sampling.TemperatureSampling(0.7)),
        ({"do_sample": True}, sampling.TemperatureSampling(1.0)),
        ({"do_sample": True, "top_k": 5}, sampling.TopKSampling(5, 1.0)),
        ({"temperature": 0.5, "top_p": 0.9}, sampling.TopPSampling(0.9, 0.5)),
        ({"do_sample": True, "top_k": 0, "top_p": 1.0}, sampling.TemperatureSampling(1.0)),
        # As text, for which YAML takes 9e-1 and 1e1.
        ({"temperature": "5e-1", "top_p": "9e-1"}, sampling.TopPSampling(0.9, 0.5)),
        ({"do_sample": True, "top_k": "1e1"}, sampling.TopKSampling(10, 1.0)),
        ({"do_sample": True, "top_k": "0"}, sampling.TemperatureSampling(1.0)),
        ({"temperature": "0"}, sampling.Greedy()),
    ],
)
def test_how_tokens_are_drawn(values, method):
    assert Settings.parse(values, 7).sampling == method


def test_stops_and_limits():
    assert Settings.parse({}, 7) == Settings(sampling.Greedy(), 7, ())
    assert Settings.parse({"until": "x", "max_gen_toks": 3}, 7).stops == ("x",)
    parsed = Settings.parse({"until": ["a", "", "b"], "max_new_tokens": 3}, 7)
    assert (parsed.stops, parsed.max_new_tokens) == (("a", "b"), 3)
    assert Settings.parse({"max_gen_toks": "1e3"}, 7).max_new_tokens == 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4 is not supported"),
        ({"penalty_alpha": 0.6}, "penalty_alpha = 0.6"),
        ({"do_sample": True, "top_k": 5, "top_p": 0.9}, "set one"),
        ({"do_sample": True, "temperature": 0.0}, "must be positive"),
        ({"max_gen_toks": 0}, "must be at least 1"),
        ({"temperature": "hot"}, "temperature = 'hot': expected a number"),
        ({"max_tokens": "many"}, "max_tokens = 'many': expected a number"),
        ({"do_sample": True, "top_k": []}, "top_k = \\[\\]: expected a number"),
        ({"temperature": "inf"}, "temperature = 'inf': expected a number"),
        ({"max_gen_toks": "2.5"}, "max_gen_toks = '2.5': expected a whole number"),
        ({"do_sample": True, "top_k": 1.5}, "top_k = 1.5: expected a whole number"),
    ],
)
def test_what_is_not_supported_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        Settings.parse(values, 7)


def test_text_ends_before_the_first_stop():
    assert before_stop("one. two\nthree", ["\n", ". "]) == "one"
    assert before_stop("one", ["\n"]) == "one"


@pytest.fixture(scope="module")
def loaded(model_dir, one_device_mesh):
    return checkpoints.load_model(model_dir, one_device_mesh)


PROMPTS = [[5, 6, 7], [8] * 30, [9]]
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def whole(loaded, one_device_mesh):
    """What the decoder writes in one go."""
    decoder = decoding.Decoder(
        loaded.module,
        loaded.params,
        one_device_mesh,
        sampling=sampling.Greedy(),
        max_new_tokens=10,
        end_ids=loaded.vocabulary.end_ids,
        seed=0,
    )
    samples = decoder(PROMPTS, NAMES, num_samples=1, num_rows=3, bucket=32)
    return [loaded.vocabulary.decode(sample.tokens) for (sample,) in samples]


def test_pieces_make_the_whole(loaded, one_device_mesh, whole, monkeypatch):
    monkeypatch.setattr(continuation, "_PIECE", 4)
    continuer = Continuer(loaded, one_device_mesh, 2, 64, 0)
    assert continuer(PROMPTS, NAMES, Settings(sampling.Greedy(), 10, ())) == whole
    # One that holds a stop string ends there, and the others go on.
    stop = whole[1][2:4]
    stopped = continuer(PROMPTS, NAMES, Settings(sampling.Greedy(), 10, (stop,)))
    assert stopped == [text.split(stop)[0] for text in whole] and stopped != whole


def test_any_of_several_tokens_ends_a_text(loaded, one_device_mesh, whole, monkeypatch):
    monkeypatch.setattr(continuation, "_PIECE", 4)
    vocabulary = copy.copy(loaded.vocabulary)
    ids = vocabulary.encode(whole[0])
    vocabulary.end_ids = (vocabulary.eos_id, ids[5])
    listed = dataclasses.replace(loaded, vocabulary=vocabulary)
    continuer = Continuer(listed, one_device_mesh, 3, 64, 0)
    (text, *_) = continuer(PROMPTS, NAMES, Settings(sampling.Greedy(), 10, ()))
    assert text == vocabulary.decode(ids[: ids.index(ids[5])]) != whole[0]


def test_a_prompt_is_cut_from_the_left_to_leave_room(loaded, one_device_mesh, whole):
    continuer = Continuer(loaded, one_device_mesh, 3, 13, 0)
    cut = continuer([[7, 8, *PROMPTS[0]]], NAMES[:1], Settings(sampling.Greedy(), 10, ()))
    assert cut == whole[:1]
    with pytest.raises(UserError, match="max_gen_toks is 13, but the model reads 13"):
        continuer(PROMPTS, NAMES, Settings(sampling.Greedy(), 13, ()))


def test_draws_are_named_by_text_and_piece(loaded, one_device_mesh, monkeypatch):
    monkeypatch.setattr(continuation, "_PIECE", 4)
    continuer = Continuer(loaded, one_device_mesh, 2, 64, 0)
    drawn = Settings(sampling.TemperatureSampling(1.0), 8, ())
    first, second, other = continuer([[5, 6]] * 3, ["a", "a", "b"], drawn)
    assert first == second != other
