"""Word banning: phrases that are never finished, as an automaton over token ids.

A phrase of several tokens is banned by its last one, where the tokens before it are the end of the
row, its prompt included. Aho and Corasick's automaton (1975) knows with one state a row how much of
every phrase the row ends in, so that a step costs one gather, however many phrases there are.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from detox_jax import output_settings
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.formats.word_lists import read_words
from detox_jax.generation.steering.one_pass import Text
from detox_jax.generation.steering.steering import Distribution, Loaded, State
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import Vocabulary

INSULTS = Path(__file__).with_name("insults.txt")
# What a phrase may stand behind without a space. Tokenizers such as LLaMA's put a space before any
# text, so that by itself a phrase never has the tokens that it has there.
_BEFORE = ("\n", '"', "(")

Phrase = tuple[int, ...]  # token ids


@dataclasses.dataclass(frozen=True)
class BannedWords:
    """Bans words and phrases in all casings, with and without a space before them.

    What is banned is the way in which the tokenizer writes a phrase, by itself and behind other
    text; a model may still spell it with other tokens.

    Attributes:
      words_file: one phrase a line, `#` before comments; the package's own mild insults where None.
    """

    files: ClassVar = {"words_file": None}

    words_file: str | None = None

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for a list that cannot be read or is empty, a phrase that the vocabulary cannot
            write, or so many that no token is left.
        """
        source = str(self.words_file or INSULTS)
        words = read_words(source)
        phrases = phrases_of(words, base.vocabulary, source)
        automaton = Automaton.of_phrases(phrases, base.vocabulary.vocab_size)
        # Padding is no token, and a text that could only end would be no text.
        if automaton.most_banned >= base.vocabulary.vocab_size - 2:
            raise UserError(
                f"{source}: bans all tokens of the vocabulary but end-of-text; leave phrases out"
            )
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
        settings = {
            "method": "BannedWords",
            "words": {"path": source, "sha256": digest, "phrases": len(words)},
            # A version before banned phrases as they stand by themselves alone.
            **output_settings.text_rules(differ_behind(words, base.vocabulary)),
        }
        return Loaded(Bans.of(automaton, mesh), settings)


def phrases_of(words: Sequence[str], vocabulary: Vocabulary, source: str) -> list[Phrase]:
    """Every way in which the vocabulary writes the phrases, each once.

    Args:
      words: phrases as text.
      vocabulary: of the model.
      source: where the phrases are from, for the error.

    Raises:
      UserError: naming a phrase that the vocabulary cannot write in any casing.
    """
    spellings = [
        [space + cased for cased in casings(word) for space in ("", " ")] for word in words
    ]
    ways = iter(ways_of([text for texts in spellings for text in texts], vocabulary))
    phrases: dict[Phrase, None] = {}
    for word, texts in zip(words, spellings, strict=True):
        # A vocabulary without a letter writes another token in its place, or drops it.
        written = [ids for text in texts for ids in next(ways) if writes(vocabulary, ids, text)]
        if not written:
            raise UserError(
                f"{source}: the tokenizer cannot write {word!r}, so it cannot be banned; "
                "leave it out"
            )
        phrases |= dict.fromkeys(written)
    return list(phrases)


def ways_of(texts: Sequence[str], vocabulary: Vocabulary) -> list[list[Phrase]]:
    """How a vocabulary writes each of the texts: first by itself, then behind other text."""
    alone = vocabulary.encode_batch(texts)
    behind = [vocabulary.encode_continuations([b] * len(texts), texts) for b in _BEFORE]
    return [list(dict.fromkeys(map(tuple, ways))) for ways in zip(alone, *behind, strict=True)]


def differ_behind(texts: Sequence[str], vocabulary: Vocabulary) -> bool:
    """Whether a vocabulary writes any of the texts otherwise behind other text than by itself."""
    return any(len(ways) > 1 for ways in ways_of(texts, vocabulary))


def casings(phrase: str) -> list[str]:
    """A phrase as it is, in lower case, With Capitals, and in UPPER CASE; each once."""
    title = " ".join(word[:1].upper() + word[1:].lower() for word in phrase.split(" "))
    return list(dict.fromkeys([phrase, phrase.lower(), title, phrase.upper()]))


def writes(vocabulary: Vocabulary, ids: Phrase, text: str) -> bool:
    """Whether ids are a text, but for white space around it."""
    return bool(ids) and vocabulary.decode(ids).strip() == text.strip()


# --- the automaton ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Automaton:
    """Which tokens would finish a phrase, by what the text ends in.

    A state is the longest end of the text that begins a phrase; state 0 is none. Tokens that are in
    no phrase are one symbol, so tables are as large as the list, not as the vocabulary.

    Attributes:
      symbol_V: the symbol of each token, 0 for those in no phrase.
      next_SY: the state after each symbol.
      banned_SY: whether the symbol would finish a phrase.
    """

    symbol_V: np.ndarray
    next_SY: np.ndarray
    banned_SY: np.ndarray

    @classmethod
    def of_phrases(cls, phrases: Iterable[Phrase], vocab_size: int) -> Automaton:
        """Builds the automaton of phrases of at least one token each."""
        phrases = list(phrases)
        tokens = sorted({token for phrase in phrases for token in phrase})
        symbol_V = np.zeros(vocab_size, np.int32)
        symbol_V[tokens] = np.arange(1, 1 + len(tokens))
        # The tree of all beginnings of phrases, whole phrases not included.
        children: list[dict[int, int]] = [{}]
        ends: list[set[int]] = [set()]
        for phrase in phrases:
            state, symbols = 0, [int(symbol_V[token]) for token in phrase]
            for symbol in symbols[:-1]:
                if symbol not in children[state]:
                    children[state][symbol] = len(children)
                    children.append({})
                    ends.append(set())
                state = children[state][symbol]
            ends[state].add(symbols[-1])
        next_SY = np.zeros((len(children), 1 + len(tokens)), np.int32)
        banned_SY = np.zeros(next_SY.shape, bool)
        # Breadth first: a state takes over what its longest proper end does, which is shorter.
        waiting = collections.deque([(0, 0)])
        while waiting:
            state, shorter = waiting.popleft()
            next_SY[state], banned_SY[state] = next_SY[shorter], banned_SY[shorter]
            banned_SY[state, list(ends[state])] = True
            for symbol, child in children[state].items():
                waiting.append((child, int(next_SY[shorter, symbol]) if state else 0))
                next_SY[state, symbol] = child
        return cls(symbol_V, next_SY, banned_SY)

    @property
    def most_banned(self) -> int:
        """The number of tokens that are banned together, at most."""
        return int(self.banned_SY.sum(axis=1).max())


@struct.dataclass
class Bans:
    """The automaton's tables on the devices; the state of a row is the automaton's."""

    symbol_V: jax.Array
    next_SY: jax.Array
    banned_SY: jax.Array

    @classmethod
    def of(cls, automaton: Automaton, mesh: Mesh) -> Bans:
        """The tables of an automaton, on all devices."""
        tables = (automaton.symbol_V, automaton.next_SY, automaton.banned_SY)
        return cls(*meshes.to_mesh(tables, meshes.replicated(mesh)))

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        del positions

        def read(state_N: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            token_N, p = column
            return jnp.where(p < lengths_N - 1, self._next(state_N, token_N), state_N), None

        start_N = jnp.zeros_like(lengths_N)
        columns = (prompts_NP.T, jnp.arange(prompts_NP.shape[1]))
        return {0: jax.lax.scan(read, start_N, columns)[0]}

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        state_R = self._next(state[0], token_R)
        return self.adjust_text(distribution, state_R), {0: state_R}

    def read_text(self, text: Text) -> jax.Array:
        """See `OnePass`; the automaton's states."""

        def read(state_N: jax.Array, token_N: jax.Array) -> tuple[jax.Array, jax.Array]:
            state_N = self._next(state_N, token_N)
            return state_N, state_N

        start_N = self.start(text.prompts_NP, text.lengths_N, 0)[0]
        return jax.lax.scan(read, start_N, text.read_NT.T)[1].T

    def adjust_text(self, distribution: Distribution, known: jax.Array) -> Distribution:
        """See `OnePass`."""
        width = distribution.logits_RV.shape[-1]
        symbol_V = jnp.pad(self.symbol_V, (0, width - len(self.symbol_V)))
        return distribution.ban(self.banned_SY[known][:, symbol_V])

    def _next(self, state_R: jax.Array, token_R: jax.Array) -> jax.Array:
        return self.next_SY[state_R, self.symbol_V[token_R]]
