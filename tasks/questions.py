"""The questions of the zero-shot benchmarks, worded as lm-evaluation-harness 0.4 words them.

One function a benchmark: a record, of TFDS or of the benchmark's own file, becomes a `Question`.
The harness (https://github.com/EleutherAI/lm-evaluation-harness) has no HANS, which is asked as it
asks RTE, the other task of two sentences and two labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detox_jax.zero_shot.questions import Question

Record = Mapping[str, Any]


def anli(record: Record) -> Question:
    """Adversarial NLI (Nie et al., 2020)."""
    prompt = f"{record['context']}\nQuestion: {record['hypothesis']} True, False, or Neither?"
    label = _index(record["label"], ("e", "n", "c"))
    return _choose(f"{prompt}\nAnswer:", ("True", "Neither", "False"), label)


def arc(record: Record) -> Question:
    """ARC (Clark et al., 2018); its own file nests the choices in the question."""
    question = record["question"]
    if isinstance(question, Mapping):
        stem, choices = question["stem"], question["choices"]
        texts, labels = ([choice[key] for choice in choices] for key in ("text", "label"))
    else:
        stem, choices = question, record["choices"]
        texts, labels = choices["text"], choices["label"]
    return _choose(f"Question: {stem}\nAnswer:", texts, labels.index(record["answerKey"]))


def boolq(record: Record) -> Question:
    """BoolQ (Clark et al., 2019) as SuperGLUE has it."""
    prompt = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
    return _choose(prompt, ("no", "yes"), _index(record["label"], ("false", "true")))


def hans(record: Record) -> Question:
    """HANS (McCoy et al., 2019), asked as the harness asks RTE."""
    prompt = f"{record['sentence1']}\nQuestion: {record['sentence2']} True or False?\nAnswer:"
    label = _index(record["gold_label"], ("entailment", "non-entailment"))
    return _choose(prompt, ("True", "False"), label)


def hellaswag(record: Record) -> Question:
    """HellaSwag (Zellers et al., 2019).

    TFDS joins the two parts of the context. The second, the beginning of a sentence that the
    endings continue, exists in the part from ActivityNet alone; there it is taken to be what
    follows the last full stop.
    """
    if "ctx_a" in record:
        first, second = record["ctx_a"], record["ctx_b"]
    elif record["source_id"].startswith("activitynet") and ". " in record["context"]:
        first, _, second = record["context"].rpartition(". ")
        first += "."
    else:
        first, second = record["context"], ""
    context = f"{record['activity_label']}: {first} {second.capitalize()}"
    endings = [_without_markup(ending) for ending in record["endings"]]
    label = _index(record["label"], ("0", "1", "2", "3"))
    return _choose(_without_markup(context), endings, label)


def lambada(record: Record) -> Question:
    """LAMBADA (Paperno et al., 2016): the last word of a passage, set apart by a space.

    TFDS has the passages as published, in lower case and tokenised (`lambada_standard` of the
    harness); files with natural text make `lambada_openai`.
    """
    text = record["text"] if "text" in record else record["passage"].rstrip("\n")
    context, _, word = text.rpartition(" ")
    return Question((context,), (f" {word}",), 0, (len(word),))


def piqa(record: Record) -> Question:
    """PIQA (Bisk et al., 2020)."""
    prompt = f"Question: {record['goal']}\nAnswer:"
    return _choose(prompt, (record["sol1"], record["sol2"]), _index(record["label"], ("0", "1")))


def race(record: Record) -> Question:
    """RACE (Lai et al., 2017): an article's last question, those before it with their answers."""
    prompt = f"Article: {record['article']}\n\n"
    problems = list(zip(record["questions"], record["options"], record["answers"], strict=True))
    for question, options, answer in problems[:-1]:
        right = options["ABCD".index(answer)]
        if question.endswith("  _  ."):
            prompt += f"{question[:-5]}{right}\n"
        else:
            prompt += f"Question: {question}\nAnswer: {right}\n"
    question, options, answer = problems[-1]
    return _choose(prompt + question, options, "ABCD".index(answer))


def wic(record: Record) -> Question:
    """WiC (Pilehvar and Camacho-Collados, 2019)."""
    first, second = record["sentence1"], record["sentence2"]
    word = first[record["start1"] : record["end1"]]
    prompt = (
        f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: Is the word '{word}' used in the "
        "same way in the two sentences above?\nAnswer:"
    )
    return _choose(prompt, ("no", "yes"), _index(record["label"], ("false", "true")))


def winogrande(record: Record) -> Question:
    """WinoGrande (Sakaguchi et al., 2019) by partial evaluation.

    The blank is filled in with either option, and the likelihood is that of what follows it (Trinh
    and Le, 2018, https://arxiv.org/abs/1806.02847).
    """
    before, _, after = record["sentence"].partition("_")
    inputs = tuple(before + record[option] for option in ("option1", "option2"))
    label = record["label"] if "label" in record else record["answer"]
    target = after.strip()
    return Question(inputs, (f" {target}",) * 2, _index(label, ("1", "2")), (len(target),) * 2)


def _choose(context: str, choices: Sequence[str], answer: int) -> Question:
    """Choices that follow one context, each after a space."""
    targets = tuple(f" {choice}" for choice in choices)
    return Question((context,) * len(targets), targets, answer, tuple(map(len, choices)))


def _index(label: Any, names: Sequence[str]) -> int:
    """A label as a number; files have its name, TFDS its number."""
    return names.index(label) if isinstance(label, str) else int(label)


def _without_markup(text: str) -> str:
    """HellaSwag's text without what its source, WikiHow, left in it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
