"""The judge that others trained."""

from importlib import util

import pytest

from detox_jax.errors import UserError
from detox_jax.toxicity import profanity_check


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'detox-jax\[judges\]'"):
        profanity_check.ProfanityCheckScorer()


def test_scores_and_fingerprint(monkeypatch):
    pytest.importorskip("profanity_check")
    scorer = profanity_check.ProfanityCheckScorer()
    assert scorer.fingerprint == profanity_check.ProfanityCheckScorer().fingerprint
    assert scorer.fingerprint.startswith("profanity-check-1.")
    texts = ["What a stupid idea, you idiot.", "The bus was late again this morning.", " "]
    rude, calm, blank = scorer.score(texts)
    assert rude > 0.9 > 0.3 > calm and blank == 0.0
    monkeypatch.setattr(profanity_check, "_BATCH", 2)
    assert scorer.score(texts) == pytest.approx([rude, calm, blank])
    assert scorer.score([]) == []
