"""Methods that were decoded otherwise do not compare."""

import pytest

from detox_jax.errors import UserError
from detox_jax.evaluation import decoding

TOP_P = {"method": "TopPSampling", "p": 0.9}
GREEDY = {"method": "Greedy"}
SETTINGS = {
    "decoding": {"max_new_tokens": 20, "sampling": TOP_P, "random_seed": 0, "num_samples": 25},
    "start_with_end_of_text": True,
}


def of(**changes):
    known = decoding.of_manifest({"generated": SETTINGS})
    return {**known, **changes}


def compare(mine, own=()):
    return decoding.compare({"base": of(), "mine": mine}, "base", {"mine": own})


def test_what_a_manifest_says():
    known = decoding.of_manifest({"generated": SETTINGS})
    assert known["max_new_tokens"] == 20 and known["sampling"] == TOP_P
    assert known["start_with_end_of_text"] is True
    flat = {**SETTINGS["decoding"], "start_with_end_of_text": True}  # up to version 1
    assert decoding.of_manifest({"generated": flat}) == known
    assert decoding.of_manifest({"verb": "generate", "settings": SETTINGS}) == known
    assert decoding.of_manifest({"verb": "filter", "settings": SETTINGS}) is None
    assert decoding.of_manifest({}) is None
    assert decoding.of_manifest({"generated": 3}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 10}, "'mine' was generated with max_new_tokens 10, 'base' with 20"),
        ({"sampling": GREEDY}, "sampling .*Greedy.*own_decoding = "),
        ({"start_with_end_of_text": False}, "start_with_end_of_text False, 'base' with True"),
    ],
)
def test_another_decoding_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        compare(of(**change))


STEERED = [{"method": "BannedWords"}]


def test_a_steering_is_compared_also_where_only_one_has_any():
    steered = {**SETTINGS, "decoding": {**SETTINGS["decoding"], "steering": STEERED}}
    mine = decoding.of_manifest({"generated": steered})
    assert mine["steering"] == STEERED and of()["steering"] == []
    with pytest.raises(
        UserError, match="steering .*BannedWords.*'base' with \\[\\]; .*own_decoding"
    ):
        compare(mine)
    assert compare(mine, own=["steering"]) == ()


def test_a_template_is_compared_with_raw_text_which_files_do_not_name():
    asked = {**SETTINGS, "chat_template": "0123456789abcdef"}
    mine = decoding.of_manifest({"generated": asked})
    assert decoding.is_asked(mine) and not decoding.is_asked(of()) and not decoding.is_asked(None)
    assert decoding.changed_by(mine) == ("chat_template",) and decoding.changed_by(None) == ()
    said = "chat_template '0123456789abcdef', 'base' with 'raw text'; .*own_decoding = "
    with pytest.raises(UserError, match=said):
        compare(mine)
    with pytest.raises(UserError, match="chat_template 'raw text', 'base' with '0123456789abcdef'"):
        decoding.compare({"base": mine, "mine": of()}, "base", {})
    assert compare(mine, own=["chat_template"]) == ()
    decoding.check_own({"mine": ["chat_template"]})
    assert decoding.said({"base": of(), "mine": mine}, "base") == (
        "Decoded otherwise than base: mine (chat_template).",
    )


def test_a_method_may_be_its_decoding_but_not_its_limit():
    assert compare(of(sampling=GREEDY), own=["sampling"]) == ()
    with pytest.raises(UserError, match="max_new_tokens 10"):
        compare(of(max_new_tokens=10), own=["max_new_tokens"])


def test_who_was_decoded_otherwise_is_said():
    others = {"base": of(), "mine": of(sampling=GREEDY, steering=STEERED), "same": of()}
    assert decoding.said({**others, "unknown": None}, "base") == (
        "Decoded otherwise than base: mine (sampling, steering).",
    )
    assert decoding.said({"base": of(), "same": of()}, "base") == ()


def test_a_setting_that_is_none_cannot_be_ones_own():
    decoding.check_own({"mine": ["sampling", "best_of", "max_new_tokens"], "base": []})
    said = "method 'mine': `evaluate.Method.own_decoding = \\['steerin'\\]`: no .* mean steering"
    with pytest.raises(UserError, match=said):
        decoding.check_own({"mine": ["sampling", "steerin"]})
    with pytest.raises(UserError, match="no such setting of decoding; one of sampling, start_"):
        decoding.check_own({"mine": ["xyz"]})


def test_how_to_say_so_is_the_callers():
    with pytest.raises(UserError, match="say that the method is this: `OWN of mine: sampling`"):
        decodings = {"base": of(), "mine": of(sampling=GREEDY)}
        decoding.compare(decodings, "base", {}, "OWN of {method}: {setting}")


def test_seeds_and_numbers_of_samples_may_differ():
    assert compare(of(random_seed=7, num_samples=5)) == ()


def test_what_is_unknown_is_said():
    assert compare(None) == ("Not compared, since the files do not say: how mine was decoded.",)
