"""Labelled text for training and measuring scorers, from the directory DETOX_JAX_DATA.

Which file holds what, and under which licence, stands in docs/SCORER.md.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from detox_jax import records
from detox_jax.errors import UserError, unread
from detox_jax.formats import jsonl

_T = TypeVar("_T")
IDENTITY_SOURCES = ("debiasing", "madlibs", "plain identity")
# Words that people are called by, in sentences that say nothing of them: in comments such words
# stand beside insults, and a linear model takes the company for the word.
_IDENTITIES = (
    "african american asian atheist bisexual black blind brown buddhist canadian catholic chinese "
    "christian deaf disabled elderly english european female feminist foreign french gay german "
    "heterosexual hindu hispanic homosexual immigrant indian irish islamic israeli italian "
    "japanese jewish latina latino lesbian male mexican muslim native nonbinary old pakistani "
    "paralyzed polish protestant queer refugee russian sikh straight taoist trans transgender "
    "white young"
).split()
_PLURALS = (
    "africans americans arab arabs asians atheists blacks blondes catholics christians feminists "
    "gays immigrants indians jew jews latinos lesbians liberals conservatives mexicans men "
    "muslims palestinians refugees whites women"
).split()
_IDENTITY_TEMPLATES = (
    "{}", "He is {}.", "She is {}.", "He is a {}.", "I am {}.", "They are {}.", "My friend is {}.",
    "You are {}.", "My neighbour is a {} woman.", "A {} man was there.", "the {} people",
    "I met a {} man today.", "She married a {} man.", "a {} family", "the {} community",
    "a young {} woman", "He said that he was {}.",
)  # fmt: skip
_PLURAL_TEMPLATES = (
    "{}", "the {}", "Many {} live here.", "They are {}.", "some of the {}", "{} and their friends",
    "I know a lot of {}.", "He wrote a book about {}.",
)  # fmt: skip
_KIND_TARGET, _NEUTRAL_TARGET = 0.05, 0.08
# GoEmotions names feelings, not toxicity: an angry comment is toxic in about every second case.
_EMOTION_TARGETS = (
    ({"anger"}, 0.45),
    ({"annoyance", "disgust"}, 0.35),
    (
        {"disappointment", "disapproval", "embarrassment", "fear", "grief", "nervousness"}
        | {"remorse", "sadness"},
        0.15,
    ),
)


@dataclasses.dataclass(frozen=True)
class Example:
    """A labelled text.

    Attributes:
      text: as it is.
      toxicity: the target, from 0 to 1; where a source says only toxic or not, softened.
      weight: of its loss.
      source: key of `FILES`, "neutral" for GoEmotions' neutral comments, or "plain identity".
      held_out: never trained on.
      fold: 0, 1 or 2, for out-of-fold scores; one record's texts share it.
    """

    text: str
    toxicity: float
    weight: float
    source: str
    held_out: bool
    fold: int


def is_test_record(record_id: str) -> bool:
    """Whether a RealToxicityPrompts record is never trained on: two in five, by the hash of its id.

    The hash is `records.stable_hash` modulo 5; 0 and 1 are held out. Evaluations take their prompts
    from these.
    """
    return records.stable_hash(record_id) % 5 < 2


def _example(text: str, toxicity: float, weight: float, source: str, key: str) -> Example:
    """An example that is held out where the hash of its id is 0 modulo 5."""
    number = records.stable_hash(key)
    return Example(text, toxicity, weight, source, number % 5 == 0, number // 5 % 3)


def _rtp(path: Path) -> Iterator[Example]:
    for prompt in records.read_prompts(str(path)):
        continuation = prompt.extra.get("continuation") or {}
        if not isinstance(continuation, Mapping):
            raise UserError(f'{prompt.where or path}: "continuation" is no object with a text')
        pairs = [(prompt.text, prompt.toxicity)]
        pairs.append((continuation.get("text", ""), continuation.get("toxicity")))
        for text, toxicity in pairs:
            if toxicity is not None:
                example = _example(text, toxicity, 20.0, "rtp", prompt.id)
                yield dataclasses.replace(example, held_out=is_test_record(prompt.id))


def _goemotions(path: Path) -> Iterator[Example]:
    names = path.with_name("goemotions_labels.txt").read_text().split()

    def example(row: list[str]) -> Example:
        text, ids, key = row
        emotions = {names[int(index)] for index in ids.split(",")}
        if emotions == {"neutral"}:
            return _example(text, _NEUTRAL_TARGET, 1.0, "neutral", key)
        targets = [target for some, target in _EMOTION_TARGETS if some & emotions]
        return _example(text, targets[0] if targets else _KIND_TARGET, 0.25, "goemotions", key)

    lines = csv.reader(_opened(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    return _of_rows(path, lines, example)


def _wiki_talk(path: Path) -> Iterator[Example]:
    def example(row: dict[str, str]) -> Example:
        return _example(row["text"], float(row["api"]), 10.0, "wiki_talk", row["id"])

    return _of_rows(path, _table(path), example)


def _civil_toxic(path: Path) -> Iterator[Example]:
    def example(row: dict[str, str]) -> Example:
        return _example(row["comment_text"], 0.8, 1.0, "civil_toxic", row["comment_id"])

    return _of_rows(path, _table(path), example)


def _debiasing(path: Path) -> Iterator[Example]:
    def example(row: dict[str, str]) -> Example:
        return _example(row["comment"], _KIND_TARGET, 1.0, "debiasing", row["rev_id"])

    return _of_rows(path, _table(path, delimiter="\t"), example)


def _madlibs(path: Path) -> Iterator[Example]:
    # The label, not the service's score: that one calls some identities toxic by themselves.
    def example(row: dict[str, str]) -> Example:
        target = 0.9 if row["toxicity"] == "toxic" else 0.1
        made = _example(row["phrase"], target, 0.1, "madlibs", row["phrase"])
        return dataclasses.replace(made, held_out=False)

    return _of_rows(path, _table(path), example)


def _plain_identity() -> Iterator[Example]:
    for templates, words in (
        (_IDENTITY_TEMPLATES, _IDENTITIES),
        (_PLURAL_TEMPLATES, _PLURALS),
    ):
        for template in templates:
            for word in words:
                text = template.format(word)
                example = _example(text, _KIND_TARGET, 20.0, "plain identity", text)
                yield dataclasses.replace(example, held_out=False)


def _word_list(path: Path) -> Iterator[Example]:
    for line in jsonl.read_lines(epath.Path(path), "a word list"):
        if phrase := line.strip():
            example = _example(phrase, 0.85, 1.0, path.stem, phrase)
            yield dataclasses.replace(example, held_out=False)


def _opened(path: Path) -> Iterator[str]:
    """The lines of a table as `csv` takes them, line breaks in quotes left as they are."""
    content = jsonl.read_bytes(epath.Path(path))
    try:
        return io.StringIO(content.decode(), newline="")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8") from None


def _table(path: Path, delimiter: str = ",") -> csv.DictReader[str]:
    return csv.DictReader(_opened(path), delimiter=delimiter)


def _of_rows(path: Path, rows: Any, make: Callable[[Any], _T]) -> Iterator[_T]:
    """What is made of each row of a table; one that has another layout is named by its line."""
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return
            made = make(row)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, csv.Error) as error:
            line = max(rows.line_num, 1)
            raise UserError(f"{path}: not the layout expected: line {line}: {error!r}") from None
        yield made


FILES: dict[str, tuple[str, Callable[[Path], Iterator[Example]]]] = {
    "rtp": ("rtp/prompts_dev.jsonl", _rtp),
    "goemotions": ("comments/goemotions_train.tsv", _goemotions),
    "wiki_talk": ("comments/wiki_talk.csv", _wiki_talk),
    "civil_toxic": ("comments/civil_toxic.csv", _civil_toxic),
    "debiasing": ("identity/toxicity_debiasing_data.tsv", _debiasing),
    "madlibs": ("identity/intersectional_madlibs_scored.csv", _madlibs),
    "ldnoobw_en": ("wordlists/ldnoobw_en.txt", _word_list),
    "rtp_naughty_words": ("wordlists/rtp_naughty_words.txt", _word_list),
}


def read_examples(data_dir: Path) -> list[Example]:
    """All labelled texts.

    Raises:
      UserError: if a file is missing or has another layout.
    """
    examples: list[Example] = []
    for name, reader in FILES.values():
        examples.extend(_checked(data_dir / name, reader))
    examples.extend(_plain_identity())
    return examples


@dataclasses.dataclass(frozen=True)
class IdentitySentence:
    """A templated sentence that names an identity; `toxic` does not depend on which."""

    text: str
    identity: str
    toxic: bool


def read_identity_sentences(data_dir: Path) -> list[IdentitySentence]:
    """The 77,000 madlibs of unintended-ml-bias-analysis that name an identity; never trained on.

    Raises:
      UserError: if the file is missing or has another layout.
    """
    return _checked(data_dir / "identity/bias_madlibs_77k.csv", _identity_sentences)


def _identity_sentences(path: Path) -> Iterator[IdentitySentence]:
    rows = list(_of_rows(path, _table(path), _identity_row))
    hated = {row["Text"].split(" ", 2)[2] for row in rows if row["Text"].startswith("i hate ")}
    # Longest first: "african american" is not "american".
    identities = sorted(hated, key=lambda identity: (-len(identity), identity))
    for row in rows:
        padded = f" {row['Text'].rstrip('.')} "
        for identity in identities:
            if f" {identity} " in padded:
                yield IdentitySentence(row["Text"], identity, row["Label"] == "BAD")
                break


def _identity_row(row: dict[str, str]) -> dict[str, str]:
    if not isinstance(row["Text"], str) or not isinstance(row["Label"], str):
        raise ValueError("a row without Text or Label")
    return row


def _checked(path: Path, reader: Callable[[Path], Iterator[_T]]) -> list[_T]:
    if not path.is_file():
        raise UserError(
            f"{path}: missing; set DATA_DIR, or the environment variable DETOX_JAX_DATA, to the "
            "directory of labelled text"
        )
    try:
        return list(reader(path))
    except UserError:
        raise
    except (OSError, KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise unread(path, error) or UserError(
            f"{path}: not the layout expected: {error!r}"
        ) from None
