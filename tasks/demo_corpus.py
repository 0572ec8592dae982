"""The demo's own corpus: forum comments from a grammar, calm held-out ones, and prompts.

A language model learns from it in a minute to write sentences, and to be rude where the comments
are rude: whether a comment is heated depends on its kind, a complaint or an argument far more often
than thanks, but is never certain. `tasks/demo/comments.txt` holds the sentences and
`tasks/demo/topics.txt` what they speak of.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_jax import records
from detox_jax.errors import UserError
from tasks import corpus_output

# Kind of comment: how often it is written, and how often it is heated.
KINDS: Mapping[str, tuple[float, float]] = {
    "thanks": (0.09, 0.02),
    "advice": (0.11, 0.02),
    "question": (0.11, 0.02),
    "praise": (0.09, 0.02),
    "story": (0.08, 0.05),
    "review": (0.13, 0.40),
    "complaint": (0.16, 0.50),
    "argument": (0.13, 0.55),
    "rant": (0.10, 0.55),
}
INVITING_KINDS = ("review", "complaint", "argument", "rant")
HEATED_SLOT_PROBABILITY = 0.85  # A heated comment still has calm sentences.
NUM_HELDOUT = 400
# Prompts that insult already, that are of kinds that invite insults, and others.
PROMPT_POOLS: Mapping[str, int] = {"rude": 16, "inviting": 48, "neutral": 48}
_PROMPT_WORDS = (4, 10)
_GRAMMAR_DIRECTORY = Path(__file__).parent / "demo"
_SLOT = re.compile(r"\{(=?)(\w+)(?:~(\w+))?\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a name in the grammar may become."""

    alternatives: tuple[str, ...]
    weights: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Comment:
    """One comment; `insulting` says whether an insult was written into it."""

    kind: str
    topic: str
    text: str
    insulting: bool


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The beginning of a held-out comment, and how its writer went on."""

    pool: str
    text: str
    continuation: str


def parse_rules(lines: Sequence[str]) -> dict[str, dict[str, Rule]]:
    """Reads the grammar's text form into `{topic: {name: rule}}`, topic "" before the first `@`."""
    alternatives: dict[str, dict[str, list[tuple[str, int]]]] = {"": {}}
    topic, name = "", ""
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("@"):
            topic = line[1:].strip()
            alternatives[topic] = {}
        elif not line.startswith(" "):
            name = line.strip().removesuffix(":")
            alternatives[topic][name] = []
        else:
            match = re.fullmatch(r"\s+(?:(\d+)\* )?(.+)", line.rstrip())
            assert match is not None, line
            alternatives[topic][name].append((match[2], int(match[1] or 1)))
    return {
        topic: {name: Rule(*zip(*rows, strict=True)) for name, rows in rules.items()}
        for topic, rules in alternatives.items()
    }


@functools.cache
def grammar() -> dict[str, dict[str, Rule]]:
    """The shipped grammar: the sentences under "", then the rules of each topic."""
    sentences = (_GRAMMAR_DIRECTORY / "comments.txt").read_text("utf-8").splitlines()
    topics = (_GRAMMAR_DIRECTORY / "topics.txt").read_text("utf-8").splitlines()
    return parse_rules(topics) | parse_rules(sentences)


class _Writer:
    """Writes one comment; remembers what it has said, so that it does not say it twice."""

    def __init__(self, rng: random.Random, topic: str, heated: bool):
        self._rng = rng
        self._rules = grammar()[""] | grammar()[topic]
        self._heated = heated
        self._fixed: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self.insulting = False

    def expand(self, name: str) -> str:
        rule = self._rules[name]
        fresh = [i for i, text in enumerate(rule.alternatives) if (name, text) not in self._said]
        indices = fresh or range(len(rule.alternatives))
        (index,) = self._rng.choices(indices, [rule.weights[i] for i in indices])
        chosen = rule.alternatives[index]
        self._said.add((name, chosen))
        return _SLOT.sub(self._fill, chosen)

    def _fill(self, slot: re.Match[str]) -> str:
        fixed, name, mild = slot.groups()
        if mild is not None:
            if not self._heated or self._rng.random() >= HEATED_SLOT_PROBABILITY:
                return self.expand(mild)
            self.insulting = True
        if not fixed:
            return self.expand(name)
        if name not in self._fixed:
            self._fixed[name] = self.expand(name)
        return self._fixed[name]


def write_comment(seed: int, index: int) -> Comment:
    """The comment number `index` of the stream that `seed` names."""
    rng = random.Random(f"{seed}-{index}")  # Seeding by text is the same on every version.
    kinds = list(KINDS)
    (kind,) = rng.choices(kinds, [KINDS[kind][0] for kind in kinds])
    topic = rng.choice([topic for topic in grammar() if topic])
    writer = _Writer(rng, topic, heated=rng.random() < KINDS[kind][1])
    text = _punctuate(writer.expand(f"mode_{kind}"), rng)
    return Comment(kind, topic, text, writer.insulting)


def _punctuate(text: str, rng: random.Random) -> str:
    """Articles and capitals as they are written; a few writers shout or use no capitals."""
    text = re.sub(r"\ba (?=(?:[aeio]|un(?!i)|ut)\w)(?!one\b)", "an ", text)
    text = re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
    manner = rng.random()
    if manner < 0.06:
        text = text.lower()
    elif manner < 0.14 and text.endswith("."):
        text = text[:-1] + "!"
    return text


def write_comments(seed: int) -> Iterator[Comment]:
    """Distinct comments without end, the same for the same seed."""
    seen: set[str] = set()
    index = 0
    while True:
        comment = write_comment(seed, index)
        index += 1
        if comment.text.lower() not in seen:
            seen.add(comment.text.lower())
            yield comment


@functools.cache
def insults() -> frozenset[str]:
    """The words and phrases that are insults by themselves, in lower case."""
    rules = grammar()[""]
    names = ("harsh_adj", "harsh_person_noun", "harsh_plural_noun")
    return frozenset(text for name in names for text in rules[name].alternatives if "{" not in text)


def cut_prompt(comment: Comment, rng: random.Random, rude: bool = False) -> tuple[str, str] | None:
    """The first 4 to 10 words of a comment, and the rest.

    A `rude` prompt ends with the comment's first insult. None if there is no such beginning, or if
    less than three words would remain.
    """
    low, high = _PROMPT_WORDS
    words = comment.text.split(" ")
    length = rng.randint(low, high)
    if rude:
        bare = [word.lower().strip(".,!?:") for word in words]
        length = next((n for n, word in enumerate(bare, start=1) if word in insults()), 0)
    if not low <= length <= high or len(words) < length + 3:
        return None
    return " ".join(words[:length]), " " + " ".join(words[length:])


def _split(num_documents: int, seed: int) -> tuple[list[Comment], list[Comment], list[Beginning]]:
    """Comments for training, calm held-out ones, and prompts cut from others.

    The held-out ones come first in the stream, so that they do not depend on `num_documents`.
    """
    stream = write_comments(seed)
    heldout: list[Comment] = []
    prompts: dict[str, list[Beginning]] = {pool: [] for pool in PROMPT_POOLS}
    missing = sum(PROMPT_POOLS.values()) + NUM_HELDOUT
    for comment in stream:
        if prompt := _as_prompt(comment, prompts, seed):
            prompts[prompt.pool].append(prompt)
        elif len(heldout) < NUM_HELDOUT and not comment.insulting:
            heldout.append(comment)
        else:
            continue
        missing -= 1
        if not missing:
            break
    train = list(itertools.islice(stream, num_documents))
    return train, heldout, [prompt for pool in prompts.values() for prompt in pool]


def _as_prompt(
    comment: Comment, prompts: Mapping[str, Sequence[Beginning]], seed: int
) -> Beginning | None:
    """The prompt that a comment gives to the first pool that still needs it."""
    pools = ("rude", "inviting") if comment.kind in INVITING_KINDS else ("neutral",)
    for pool in pools:
        if len(prompts[pool]) < PROMPT_POOLS[pool]:
            rng = random.Random(f"{seed}-{comment.text}")
            if cut := cut_prompt(comment, rng, rude=pool == "rude"):
                return Beginning(pool, *cut)
    return None


def _prompt_records(prompts: Sequence[Beginning], scorer: Any | None) -> list[records.Prompt]:
    scores = scorer.score([prompt.text for prompt in prompts]) if scorer else [None] * len(prompts)
    return [
        records.Prompt(
            id=_comment_id("prompt", prompt.text + prompt.continuation),
            text=prompt.text,
            toxicity=score,
            extra={"challenging": False, "continuation": {"text": prompt.continuation}},
        )
        for prompt, score in zip(prompts, scores, strict=True)
    ]


def _comment_id(part: str, text: str) -> str:
    return f"{part}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write_demo_corpus(output_dir: str, num_documents: int = 12000, seed: int = 0) -> None:
    """Writes `train/`, `heldout_nontoxic/` and `prompts/` below `output_dir`.

    `heldout_nontoxic` holds comments without insults, of the same kinds; `prompts` the beginnings
    of other held-out comments, with the embedded scorer's toxicity: a seventh of them insult
    already, three sevenths are of kinds that invite insults. No comment is in two of the three.

    Args:
      output_dir: where the three directories go.
      num_documents: comments to train on.
      seed: names the stream of comments; the same seed gives the same bytes.

    Raises:
      UserError: if `num_documents` is not positive or `output_dir` cannot be written.
    """
    if num_documents < 1:
        raise UserError(f"num_documents={num_documents}: expected at least one document")
    scorer = corpus_output.embedded_scorer()
    settings = {"num_documents": num_documents, "seed": seed, "grammar": _grammar_hash()}
    prompt_settings = {**settings, "scorer": scorer.fingerprint if scorer else None}
    train, heldout, prompts = _split(num_documents, seed)
    for part, own_settings, name, rows in (
        ("train", settings, "documents", _documents("train", train)),
        ("heldout_nontoxic", settings, "documents", _documents("heldout", heldout)),
        ("prompts", prompt_settings, "prompts", _prompt_records(prompts, scorer)),
    ):
        directory = f"{output_dir}/{part}"
        corpus_output.write_shards(directory, "write_demo_corpus", own_settings, name, rows)


def _grammar_hash() -> str:
    files = [_GRAMMAR_DIRECTORY / name for name in ("comments.txt", "topics.txt")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _documents(part: str, comments: Sequence[Comment]) -> list[records.Document]:
    return [records.Document(_comment_id(part, comment.text), comment.text) for comment in comments]
