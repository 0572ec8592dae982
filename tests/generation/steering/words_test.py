"""Words that are never finished: the list, its spellings, and the automaton."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax import tokenizer_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation import asking
from detox_jax.generation.steering import words
from detox_jax.generation.steering.steering import Distribution
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary
from tests import tokenizers_made
from tests.conftest import SENTENCES
from tests.marks import slow_but


def _banned(phrases, text):
    """The tokens that would finish a phrase, found by looking."""
    return {
        phrase[-1]
        for phrase in phrases
        if len(phrase) == 1 or tuple(text[-len(phrase) + 1 :]) == phrase[:-1]
    }


def _of_automaton(automaton, text, width):
    """The same by the steering, which reads all but the last token as a prompt."""
    bans = words.Bans(
        *map(jnp.asarray, (automaton.symbol_V, automaton.next_SY, automaton.banned_SY))
    )
    prompt_N8 = jnp.array([[*text, *[3] * (8 - len(text))]])
    banned_RV = _banned_next(bans, prompt_N8, jnp.array([len(text)]), jnp.array(text[-1:]), width)
    return set(np.flatnonzero(banned_RV[0]).tolist())


@functools.partial(jax.jit, static_argnums=4)
def _banned_next(bans, prompts_NP, lengths_N, last_N, width):
    state = bans.start(prompts_NP, lengths_N, 16)
    everything = Distribution.of_model(jnp.zeros((1, width)), len(bans.symbol_V))
    after, _ = bans.adjust(everything, state, last_N)
    return everything.permitted_RV & ~after.permitted_RV


@pytest.mark.parametrize("seed", slow_but([0], range(2)))
def test_the_automaton_bans_what_looking_back_bans(seed):
    """Few tokens, so that phrases overlap, begin alike and hold each other."""
    noise = np.random.default_rng(seed)
    phrases = [tuple(noise.integers(1, 4, size=noise.integers(1, 5)).tolist()) for _ in range(6)]
    phrases = [phrase for phrase in phrases if len(phrase) > 1] + [(5,)]
    automaton = words.Automaton.of_phrases(phrases, 7)
    for _ in range(40):
        text = noise.integers(1, 7, size=noise.integers(1, 7)).tolist()
        assert _of_automaton(automaton, text, 8) == _banned(phrases, text), (phrases, text)


def test_an_end_that_begins_another_phrase_is_remembered():
    automaton = words.Automaton.of_phrases([(1, 2), (2, 3, 4), (3, 5)], 7)
    assert _of_automaton(automaton, [1, 2, 3], 8) == {4, 5}
    assert _of_automaton(automaton, [1], 8) == {2}
    assert _of_automaton(automaton, [6], 8) == set()
    assert automaton.most_banned == 2


def test_states_follow_the_drawn_tokens():
    automaton = words.Automaton.of_phrases([(1, 2, 3)], 5)
    bans = words.Bans(
        *map(jnp.asarray, (automaton.symbol_V, automaton.next_SY, automaton.banned_SY))
    )
    everything = Distribution.of_model(jnp.zeros((2, 8)), 5)
    state = bans.start(jnp.array([[1], [4]]), jnp.array([1, 1]), 16)
    _, state = bans.adjust(everything, state, jnp.array([1, 4]))
    after, _ = bans.adjust(everything, state, jnp.array([2, 2]))
    assert after.permitted_RV[:, 3].tolist() == [False, True]


def test_casings_and_spaces(vocabulary):
    assert words.casings("shut Up") == ["shut Up", "shut up", "Shut Up", "SHUT UP"]
    phrases = words.phrases_of(["moron"], vocabulary, "list")
    texts = {vocabulary.decode(ids) for ids in phrases}
    assert texts == {"moron", " moron", "Moron", " Moron", "MORON", " MORON"}
    assert len(phrases) == len(set(phrases)) == 6


def test_a_phrase_behind_other_text_has_tokens_of_its_own(tmp_path):
    """LLaMA's kind puts a space before any text, and by itself never writes what has none."""
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizers_made.write(
        tmp_path, tokenizers_made.byte_fallback_tokenizer(), tokenizer_config=config
    )
    vocabulary = Vocabulary.load(str(tmp_path))
    phrases = words.phrases_of(["la"], vocabulary, "list")
    spelt = {tuple(map(vocabulary.id_to_token, phrase)) for phrase in phrases}
    assert {("\u2581la",), ("la",), ("<0x4C>", "a"), ("\u2581", "<0x4C>", "a")} <= spelt
    automaton = words.Automaton.of_phrases(phrases, vocabulary.vocab_size)
    banned = {phrase[0] for phrase in phrases if len(phrase) == 1}
    before = vocabulary.encode("T\n")
    assert banned <= _of_automaton(automaton, before[-6:], 384) and len(banned) == 2


def test_settings_say_where_more_is_banned_than_before(
    tmp_path, vocabulary, config, one_device_mesh
):
    """Under LLaMA's kind, a version before banned phrases and tags as they stand alone."""
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizers_made.write(
        tmp_path, tokenizers_made.byte_fallback_tokenizer(), tokenizer_config=settings
    )
    (tmp_path / "words.txt").write_text("la\n")
    for of, marked in ((Vocabulary.load(str(tmp_path)), {"text_rules": 2}), (vocabulary, {})):
        base = checkpoints.LoadedModel(None, None, of, "", None)
        loaded = words.BannedWords(str(tmp_path / "words.txt")).load(base, one_device_mesh)
        assert {**loaded.settings, **marked} == loaded.settings
        assert ("text_rules" in loaded.settings) == bool(marked)
        sizes = dataclasses.replace(config, vocab_size=of.vocab_size)
        assert asking.text_rules(sizes, of, Tags("la", "te")) == marked
        assert asking.text_rules(sizes, of, None) == {}
        wide = dataclasses.replace(config, vocab_size=of.vocab_size + 1)
        assert asking.text_rules(wide, of, None) == {"text_rules": 2}


def test_a_tag_behind_other_text_is_banned_too(tmp_path, one_device_mesh):
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizers_made.write(
        tmp_path, tokenizers_made.byte_fallback_tokenizer(), tokenizer_config=config
    )
    vocabulary = Vocabulary.load(str(tmp_path))
    (bans,) = asking.bans(Tags("la", "te"), vocabulary, one_device_mesh)
    banned = jnp.flatnonzero(bans.banned_SY[0][bans.symbol_V])
    spelt = {vocabulary.id_to_token(int(token)) for token in banned}
    assert spelt == {"\u2581la", "la", "te"}


def test_the_projects_own_list_says_whose_it_is():
    text = words.INSULTS.read_text()
    assert "CC0" in text
    listed = words.read_words(str(words.INSULTS))
    assert len(listed) > 50 and "idiot" in listed
    assert listed == sorted(listed) and [word.lower() for word in listed] == listed


def of_words(*tokens, unknown):
    """A vocabulary of a few words, to which all others are one unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore
    codec = tokenizer_files.TokenizersCodec(tokenizer)
    end = len(tokens)
    return Vocabulary(tokenizer_files.TokenizerFiles(codec, end, end, (end,), {}, "made"))


def test_what_the_tokenizer_cannot_write_is_refused():
    vocabulary = of_words("[UNK]", "moron", "you", unknown="[UNK]")
    assert words.phrases_of(["moron"], vocabulary, "list") == [(2,)]
    with pytest.raises(UserError, match="list: the tokenizer cannot write 'idiot'"):
        words.phrases_of(["moron", "idiot"], vocabulary, "list")


def test_a_list_of_all_tokens_is_refused(one_device_mesh, tmp_path):
    vocabulary = of_words("moron", "you", unknown="you")
    path, model = tmp_path / "all.txt", types.SimpleNamespace(vocabulary=vocabulary)
    path.write_text("moron\nyou\n")
    with pytest.raises(UserError, match="all.txt: bans all tokens of the vocabulary but"):
        words.BannedWords(str(path)).load(model, one_device_mesh)  # type: ignore
    path.write_text("moron\n")
    loaded = words.BannedWords(str(path)).load(model, one_device_mesh)  # type: ignore
    assert loaded.settings["words"]["phrases"] == 1


def test_phrases_that_the_vocabulary_spells_are_banned_in_text(vocabulary):
    """Whatever of a phrase stands at the end of a prompt counts."""
    phrases = words.phrases_of(["shut up", "stupid idea"], vocabulary, "list")
    automaton = words.Automaton.of_phrases(phrases, vocabulary.vocab_size)
    ids = vocabulary.encode(SENTENCES[4])  # "What a stupid idea, moron."
    end = next(
        n for n in range(len(ids)) if vocabulary.decode(ids[: n + 1]).endswith("stupid idea")
    )
    assert ids[end] in _of_automaton(automaton, ids[:end], 384)
    assert ids[end] not in _of_automaton(automaton, ids[: end - 1] + ids[:1], 384)
