"""The corpus of the real run: comments and novels from DETOX_JAX_DATA, held-out text, RTP prompts.

Nothing of the text is printed. What may be held out never depends on a seed: GoEmotions' own dev
and test files, and one in twenty of everything else, by the hash of its id.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import html
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import labelled
from tasks.corpus_output import embedded_scorer, write_shards

DATA_VARIABLE = "DETOX_JAX_DATA"
VERB = "write_real_corpus"
TOXIC_PROMPT_SHARE = 0.25
HELDOUT_DIVISOR = 20
GOEMOTIONS_DIVISOR = 5
FILES = {
    "goemotions_train": "comments/goemotions_train.tsv",
    "goemotions_dev": "comments/goemotions_dev.tsv",
    "goemotions_test": "comments/goemotions_test.tsv",
    "civil_toxic": "comments/civil_toxic.csv",
    "wiki_talk": "comments/wiki_talk.csv",
    "novels": "text/novels_train.jsonl.gz",
    "movie_reviews": "text/movie_reviews.zip",
    "pros_cons": "text/pros_cons.zip",
    "prompts": "rtp/prompts_dev.jsonl",
}
_PARAGRAPH_WORDS = (15, 150)
_REVIEW_WORDS = 100
_SENTENCE_END = re.compile(r"[.!?][\"'\u201d\u2019)]*$")
# Emotions of GoEmotions that go with rudeness: anger, annoyance, disapproval, disgust.
_HOSTILE_EMOTIONS = frozenset({"2", "3", "10", "11"})

Source = Iterator[records.Document]
RecordT = TypeVar("RecordT", records.Document, records.Prompt)


def write_real_corpus(
    output_dir: str,
    data_dir: str | None = None,
    seed: int = 0,
    paragraphs_per_novel: int = 330,
    num_movie_reviews: int = 0,
    num_product_opinions: int = 0,
    num_heldout: int = 2000,
    num_prompts: int = 400,
) -> None:
    """Writes `train/`, `heldout/`, `heldout_nontoxic/`, `comments/`, `prompts/` in `output_dir`.

    `heldout_nontoxic` is the least toxic half of `heldout` by the embedded scorer; `comments` are
    comments of people that are in neither `train` nor `heldout`. A quarter of
    the prompts are toxic (Perspective's score is at least 0.5); all keep their records' fields.

    Args:
      output_dir: where the five directories go.
      data_dir: the directory of real data; that of the variable DETOX_JAX_DATA where None.
      seed: which paragraphs, reviews, held-out documents and prompts are drawn, and the order.
      paragraphs_per_novel: at most so many paragraphs of each novel, 15 to 150 words long.
      num_movie_reviews: passages of film reviews, about 100 words each.
      num_product_opinions: one-line opinions on products.
      num_heldout: held-out documents.
      num_prompts: RealToxicityPrompts records.

    Raises:
      UserError: if the directory or a file is missing, or a number cannot be met.
    """
    data = _data_directory(data_dir)
    limits = {
        "paragraphs_per_novel": paragraphs_per_novel,
        "num_movie_reviews": num_movie_reviews,
        "num_product_opinions": num_product_opinions,
    }
    used = _used_files(data, limits)
    inputs = {name: records.describe_input(str(file)) for name, file in used.items()}
    text_settings = {"seed": seed, **limits, "inputs": inputs}
    heldout_settings = {**text_settings, "num_heldout": num_heldout}
    prompt_settings = {"seed": seed, "num_prompts": num_prompts, "inputs": inputs["prompts"]}

    sample = _Sample(seed)
    train, heldout, comments = _split(_sources(used, limits, sample))
    heldout = sample.take(heldout, num_heldout, "heldout")
    if len(heldout) < num_heldout:
        raise UserError(f"num_heldout={num_heldout}: the data hold only {len(heldout)}")
    prompts = _prompts(used["prompts"], num_prompts, sample)
    scorer = embedded_scorer()
    nontoxic_settings = {**heldout_settings, "scorer": scorer.fingerprint if scorer else None}

    for part, settings, name, rows in (
        ("train", text_settings, "documents", sample.take(train, len(train), "train")),
        ("heldout", heldout_settings, "documents", heldout),
        ("heldout_nontoxic", nontoxic_settings, "documents", _least_toxic_half(heldout, scorer)),
        ("comments", text_settings, "documents", sample.take(comments, len(comments), "comments")),
        ("prompts", prompt_settings, "prompts", prompts),
    ):
        write_shards(f"{output_dir}/{part}", VERB, settings, name, rows)


def _data_directory(data_dir: str | None) -> Path:
    path = data_dir or os.environ.get(DATA_VARIABLE, "")
    if not path:
        raise UserError(f"{DATA_VARIABLE} is not set; set it to the directory of the real data")
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such directory; set {DATA_VARIABLE} to that of the real data")
    return Path(path)


def tasks_directory(data_dir: str | None = None) -> str:
    """Where the real data keeps the zero-shot tasks, for DOWNSTREAM_DIR.

    Args:
      data_dir: the directory of real data; that of the variable DETOX_JAX_DATA where None.

    Raises:
      UserError: if neither names a directory.
    """
    return str(_data_directory(data_dir) / "tasks")


def _used_files(data: Path, limits: Mapping[str, int]) -> dict[str, Path]:
    """The files that these settings need; all of them must be there before any work starts."""
    optional = {
        "novels": "paragraphs_per_novel",
        "movie_reviews": "num_movie_reviews",
        "pros_cons": "num_product_opinions",
    }
    used = {}
    for name, file in FILES.items():
        if name in optional and limits[optional[name]] <= 0:
            continue
        used[name] = data / file
        if not used[name].is_file():
            raise UserError(f"{used[name]}: no such file; {DATA_VARIABLE} must hold {file}")
    return used


class _Sample:
    """Draws by the hash of ids, so that the same seed draws the same rows from any order.

    Every draw has a purpose of its own in its hash: rows that one draw had put first would come
    first in the next as well.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def take(self, rows: Iterable[RecordT], count: int, purpose: str) -> list[RecordT]:
        """The `count` rows whose hashes are lowest, lowest first."""
        prefix = f"{self._seed}:{purpose}:"
        return sorted(rows, key=lambda row: records.stable_hash(prefix + row.id))[:count]


# --- sources ----------------------------------------------------------------------------------


def _sources(used: Mapping[str, Path], limits: Mapping[str, int], sample: _Sample) -> Source:
    """Every document that the settings ask for; ids name the source."""
    for name in ("goemotions_train", "goemotions_dev", "goemotions_test"):
        yield from _goemotions(name, used[name])
    yield from _comments("civil_toxic", used["civil_toxic"], "comment_id", "comment_text")
    yield from _comments("wiki_talk", used["wiki_talk"], "id", "text")
    if "novels" in used:
        yield from _novels(used["novels"], limits["paragraphs_per_novel"], sample)
    if "movie_reviews" in used:
        reviews = _movie_reviews(used["movie_reviews"])
        yield from sample.take(reviews, limits["num_movie_reviews"], "reviews")
    if "pros_cons" in used:
        opinions = _product_opinions(used["pros_cons"])
        yield from sample.take(opinions, limits["num_product_opinions"], "opinions")


def _document(source: str, number: str | int, text: str, label: float) -> records.Document:
    """`label` is a crude guess at toxicity from the source, used where there is no scorer."""
    return records.Document(f"{source}-{number}", " ".join(text.split()), extra={"label": label})


def _goemotions(source: str, file: Path) -> Source:
    for number, line in enumerate(file.read_text("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 3:
            raise UserError(f"{file}:{number}: expected text, emotion ids and id, tab-separated")
        text, emotions, comment_id = fields
        hostile = not _HOSTILE_EMOTIONS.isdisjoint(emotions.split(","))
        yield _document(source, comment_id.strip(), text, 0.5 if hostile else 0.1)


def _comments(source: str, file: Path, id_field: str, text_field: str) -> Source:
    with file.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        if not {id_field, text_field} <= set(rows.fieldnames or ()):
            raise UserError(f"{file}:1: expected the columns {id_field} and {text_field}")
        for row in rows:
            yield _document(source, row[id_field], row[text_field], float(row.get("api") or 1.0))


def _novels(file: Path, paragraphs_per_novel: int, sample: _Sample) -> Source:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            novel = json.loads(line)
            source = f"novel-{novel['id']}"
            paragraphs = (
                _document(source, number, text, 0.1)
                for number, text in enumerate(novel_paragraphs(novel["text"]))
            )
            yield from sample.take(paragraphs, paragraphs_per_novel, "paragraphs")


def novel_paragraphs(text: str) -> list[str]:
    """The paragraphs of 15 to 150 words; headings and verse, which end no sentence, are left out.

    Some novels have one line a paragraph, others are wrapped, with or without blank lines between:
    there a paragraph ends at a blank line, or with a sentence that ends well before the margin.
    """
    lines = [line.strip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    margin = lengths[int(0.95 * len(lengths))] if lengths else 0
    wrapped = margin < 200
    paragraphs: list[str] = []
    current: list[str] = []
    for line in [*lines, ""]:
        current.append(line)
        early_end = len(line) < 0.8 * margin and _SENTENCE_END.search(line)
        if not line or not wrapped or early_end:
            paragraphs.append(" ".join(current).strip())
            current = []
    low, high = _PARAGRAPH_WORDS
    return [p for p in paragraphs if low <= len(p.split()) <= high and _SENTENCE_END.search(p)]


def _movie_reviews(file: Path) -> Source:
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".txt"):
                continue
            lines = archive.read(name).decode("utf-8", "replace").splitlines()
            for number, passage in enumerate(_passages(map(_detokenize, lines))):
                yield _document(f"movie_reviews-{Path(name).stem}", number, passage, 0.2)


def _passages(lines: Iterable[str]) -> Iterator[str]:
    """Joins lines, a sentence each, to passages of about 100 words."""
    words: list[str] = []
    for line in lines:
        words += line.split()
        if len(words) >= _REVIEW_WORDS:
            yield " ".join(words)
            words = []
    if words:
        yield " ".join(words)


def _detokenize(line: str) -> str:
    """Undoes the spaces that the corpus has before punctuation and within brackets."""
    line = re.sub(r" +([.,;:!?)])", r"\1", line)
    return re.sub(r"\( +", "(", line)


def _product_opinions(file: Path) -> Source:
    with zipfile.ZipFile(file) as archive:
        for part in ("Pros", "Cons"):
            text = archive.read(f"pros_cons/Integrated{part}.txt").decode("utf-8", "replace")
            for number, match in enumerate(re.finditer(rf"<{part}>(.*?)</{part}>", text)):
                yield _document(f"pros_cons-{part.lower()}", number, html.unescape(match[1]), 0.1)


# --- what is held out -------------------------------------------------------------------------


def part_of(document_id: str) -> str | None:
    """Where a document belongs, "train", "heldout" or neither, whatever the settings are.

    One in five of GoEmotions' dev and test comments, as many for its size as of the other sources,
    so that held-out text mixes the sources as training text does.
    """
    if document_id.startswith("goemotions_train-"):
        return "train"
    if document_id.startswith("goemotions_"):
        return "heldout" if records.stable_hash(document_id) % GOEMOTIONS_DIVISOR == 0 else None
    return "heldout" if records.stable_hash(document_id) % HELDOUT_DIVISOR == 0 else "train"


def _split(documents: Source) -> tuple[list[records.Document], ...]:
    """Documents for training, held-out ones, and the rest; what training has too is dropped."""
    parts: dict[str | None, list[records.Document]] = {"train": [], "heldout": [], None: []}
    for document in documents:
        if document.text:
            parts[part_of(document.id)].append(document)
    known = {document.text.lower() for document in parts["train"]}
    unseen = (
        [document for document in parts[part] if document.text.lower() not in known]
        for part in ("heldout", None)
    )
    return parts["train"], *unseen


def _least_toxic_half(
    heldout: list[records.Document], scorer: Any | None
) -> list[records.Document]:
    """By the scorer's toxicity, or without one by what the sources' labels say."""
    if scorer is None:
        scored = [(float(document.extra["label"]), document) for document in heldout]
    else:
        scores = scorer.score([document.text for document in heldout])
        scored = [
            (score, dataclasses.replace(document, toxicity=score))
            for document, score in zip(heldout, scores, strict=True)
            if score is not None
        ]
    scored.sort(key=lambda pair: (pair[0], records.stable_hash(pair[1].id)))
    return [document for _, document in scored[: len(heldout) // 2]]


# --- prompts ----------------------------------------------------------------------------------


def _prompts(file: Path, count: int, sample: _Sample) -> list[records.Prompt]:
    """`count` scored records, a quarter of them toxic, in the order of their hashes.

    None of them is one that the embedded scorer was trained on.
    """
    toxic: list[records.Prompt] = []
    nontoxic: list[records.Prompt] = []
    for prompt in records.read_prompts(str(file)):
        if prompt.toxicity is not None and labelled.is_test_record(prompt.id):
            (toxic if prompt.toxicity >= records.TOXIC else nontoxic).append(prompt)
    num_toxic = round(TOXIC_PROMPT_SHARE * count)
    if len(toxic) < num_toxic or len(nontoxic) < count - num_toxic:
        raise UserError(
            f"num_prompts={count}: {file} has {len(toxic)} toxic and {len(nontoxic)} other "
            f"scored prompts, {num_toxic} and {count - num_toxic} are needed"
        )
    chosen = sample.take(toxic, num_toxic, "prompts")
    chosen += sample.take(nontoxic, count - num_toxic, "prompts")
    return sample.take(chosen, count, "order")
