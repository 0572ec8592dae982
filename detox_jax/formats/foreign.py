"""Records of other projects, turned into our layout before they are parsed; see docs/FILES.md.

A line is looked at by itself here, by the fields that it holds; what takes several lines (samples
of a prompt in rows of their own, requests and their answers) is for `foreign_files`. No text is
changed, but for the end-of-text mark in Megatron's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from detox_jax.errors import UserError

# Perspective's attributes; those that we have no name of our own for are only put in lower case.
PERSPECTIVE_ATTRIBUTES = {
    "TOXICITY": "toxicity",
    "SEVERE_TOXICITY": "severe_toxicity",
    "THREAT": "threat",
    "INSULT": "insult",
    "IDENTITY_ATTACK": "identity_attack",
    "SEXUALLY_EXPLICIT": "sexual_explicit",
    "PROFANITY": "profanity",
    "FLIRTATION": "flirtation",
}
END_OF_TEXT = "<|endoftext|>"
# What speaks of one text, wherever in a row of one it stands; vLLM's names behind ours.
_OF_TEXT = {
    *("toxicity", *PERSPECTIVE_ATTRIBUTES.values(), "score", "unreadable"),
    *("num_tokens", "finish"),
    *("finish_reason", "stop_reason", "token_ids", "logprobs", "cumulative_logprob"),
}
# What Megatron's generate_samples_gpt.py continues when it has no prompt left for a batch.
MEGATRON_FILLER = "EMPTY TEXT"
# Where a continuation, or a list of them, stands beside a prompt that is plain text.
_GENERATED_TEXT = "generated_text"
_CONTINUATIONS = (
    "generations",
    "outputs",
    "completions",
    "responses",
    "continuations",
    _GENERATED_TEXT,
    "generation",
    "output",
    "completion",
    "response",
    "continuation",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line in our layout.

    Attributes:
      fields: the record.
      where: file and number of the line, for errors.
      is_sample: whether it is one sample of its prompt, of which others may stand in other rows.
      may_hold_prompt: whether its continuations may begin with the prompt, as transformers'
        pipeline returns them unless it is told otherwise.
    """

    fields: dict[str, Any]
    where: str
    is_sample: bool = False
    may_hold_prompt: bool = False


def without_end(text: str) -> str:
    """A text without marks of its end, which are no part of it."""
    return text.replace(END_OF_TEXT, "")


def to_row(value: Mapping[str, Any], where: str) -> Row:
    """A parsed line in our layout; one that is in it already comes back as it was.

    Args:
      value: the line.
      where: its file and number, for errors.

    Raises:
      UserError: for a line that holds a continuation in a form that is not known.
    """
    fields = rename_attributes(value)
    if "prompt_with_generated_text" in fields and "original_prompt" in fields:
        return _megatron_core_row(fields, where)
    if "resps" in fields and "arguments" in fields:
        return Row(_harness_sample(fields, where), where)
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        if isinstance(fields.get("text"), str):
            return _megatron_row(fields, where)
        return _plain_prompt(fields, where)
    if isinstance(prompt, Mapping):
        fields["prompt"] = _with_score(rename_attributes(prompt), where)
        if isinstance(fields.get("generations"), list):
            fields["generations"] = [_generation(item, where) for item in fields["generations"]]
        return _sample(fields, where) if _is_sample(fields) else Row(fields, where)
    if prompt is not None and "text" not in fields:
        kind = type(prompt).__name__
        raise UserError(
            f'{where}: "prompt" is a {kind}; expected plain text, or an object with a "text"'
        )
    if _GENERATED_TEXT in fields and "text" not in fields:
        raise UserError(f'{where}: "{_GENERATED_TEXT}" without its "prompt"; write both')
    return Row(fields, where)


def rename_attributes(value: Mapping[str, Any]) -> dict[str, Any]:
    """Perspective's upper-case attributes under our names; one that is there already is kept."""
    fields = {name: item for name, item in value.items() if name not in PERSPECTIVE_ATTRIBUTES}
    for name in value.keys() & PERSPECTIVE_ATTRIBUTES.keys():
        fields.setdefault(PERSPECTIVE_ATTRIBUTES[name], value[name])
    return fields


def choice_texts(answer: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The generations in an answer of OpenAI's interface; a choice without text is left out.

    Args:
      answer: with `choices`, each a `text` or a `message`.
      where: for errors.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list):
        raise UserError(f'{where}: an answer without "choices"; expected those of OpenAI')
    generations = []
    for choice in choices:
        if not isinstance(choice, Mapping):
            raise UserError(f'{where}: one of its "choices" is no object with a text')
        message = choice.get("message")
        text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
        if text is not None:  # The model refused, or called a tool.
            generations.append({"text": text, "finish_reason": choice.get("finish_reason")})
    return generations


def _is_sample(fields: Mapping[str, Any]) -> bool:
    """Whether a record without an id has one continuation: others of its prompt may follow."""
    generations = fields.get("generations")
    named = fields.get("id") is not None or fields.get("filename") is not None
    return not named and isinstance(generations, list) and len(generations) == 1


def _sample(fields: dict[str, Any], where: str, may_hold_prompt: bool = False) -> Row:
    """One sample of a prompt: what speaks of its text goes to the continuation.

    In every row: what the rows of a prompt happen to say alike would seem to be the prompt's.
    """
    (generation,) = fields["generations"]
    if isinstance(generation, Mapping):
        own = {name: fields.pop(name) for name in [*fields] if name in _OF_TEXT}
        fields["generations"] = [{**_with_score(own, where), **generation}]
    return Row(fields, where, True, may_hold_prompt)


def _generation(item: Any, where: str) -> Any:
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, Mapping):
        return item
    fields = _with_score(rename_attributes(item), where)
    if "text" not in fields and isinstance(fields.get(_GENERATED_TEXT), str):
        fields["text"] = fields.pop(_GENERATED_TEXT)
    return fields


def _with_score(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Attributes that stand in a `score` of their own, as the scripts of Megatron leave them."""
    if not isinstance(fields.get("score"), Mapping):
        return fields
    return {**_scores(fields.pop("score"), where), **fields}


def _scores(score: Any, where: str) -> dict[str, Any]:
    if isinstance(score, Mapping):
        # Megatron asks Perspective for attributes in lower case, by Perspective's names.
        return rename_attributes({name.upper(): item for name, item in score.items()})
    if score is None:
        return {}
    if isinstance(score, int | float) and not isinstance(score, bool):
        return {"toxicity": score}
    raise UserError(f'{where}: "score" is {score!r}; expected an object, a number or null')


# --- prompts that are plain text --------------------------------------------------------------


def _plain_prompt(fields: dict[str, Any], where: str) -> Row:
    """Goodtriever, Quark, DecodingTrust, and what people write of vLLM's and transformers'."""
    prompt = {"text": fields.pop("prompt")}
    response = fields.get("response")
    if isinstance(response, Mapping) and "choices" in response:
        # DecodingTrust: `continuation` repeats the first of the choices.
        fields.pop("continuation", None)
        generations = choice_texts(fields.pop("response"), where)
        return Row({"prompt": prompt, **fields, "generations": generations}, where)
    names = [name for name in _CONTINUATIONS if isinstance(fields.get(name), str | list)]
    if not names:
        return Row({"prompt": prompt, **fields}, where)
    if len(names) > 1:
        raise UserError(
            f'{where}: both "{names[0]}" and "{names[1]}" may be the continuation; keep one'
        )
    (name,) = names
    held = fields.pop(name)
    items = held if isinstance(held, list) else [held]
    in_full = name == _GENERATED_TEXT or any(
        isinstance(item, Mapping) and _GENERATED_TEXT in item for item in items
    )
    generations = [_generation(item, where) for item in items]
    fields = {"prompt": prompt, **fields, "generations": generations}
    if isinstance(held, str) or _is_sample(fields):
        return _sample(fields, where, in_full)
    return Row(fields, where, may_hold_prompt=in_full)


# --- Megatron ---------------------------------------------------------------------------------


def _megatron_row(fields: dict[str, Any], where: str) -> Row:
    """`{"text", "all_text", "prompt", "id"}`, and `score` once its script has annotated it.

    The id counts rows, so it names a sample and no prompt.
    """
    prompt = fields.pop("prompt")
    text = without_end(fields.pop("text"))
    scores = _scores(fields.pop("score", None), where)
    if not prompt:
        return Row({"text": text, **fields, **scores}, where)
    own = {"id": fields.pop("id")} if "all_text" in fields and "id" in fields else {}
    generation = {"text": text, **scores, **own}
    return _sample({"prompt": {"text": prompt}, "generations": [generation], **fields}, where)


def _megatron_core_row(fields: dict[str, Any], where: str) -> Row:
    """What `generate_mcore_samples_gpt.py` writes; its id begins anew with each batch."""
    prompt, whole = fields.pop("original_prompt"), fields.pop("prompt_with_generated_text")
    if not isinstance(prompt, str) or not isinstance(whole, str) or not whole.startswith(prompt):
        raise UserError(
            f'{where}: "prompt_with_generated_text" does not begin with "original_prompt"; '
            "what was generated cannot be told from it"
        )
    generation = {"text": whole[len(prompt) :], "id": fields.pop("id", None)}
    return _sample({"prompt": {"text": prompt}, "generations": [generation], **fields}, where)


def is_filler(row: Row) -> bool:
    """Whether it continues what Megatron puts in the place of prompts that it does not have."""
    prompt = row.fields.get("prompt")
    text = prompt.get("text") if isinstance(prompt, Mapping) else None
    return text == MEGATRON_FILLER and "all_text" in row.fields


# --- lm-evaluation-harness --------------------------------------------------------------------


def _harness_sample(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """A line of `samples_TASK_TIME.jsonl` of a task that generates: the raw responses.

    Of a task over RealToxicityPrompts the document's own scores and identity are kept.
    """
    text = _first_argument(fields["arguments"])
    resps = fields.pop("resps")
    texts = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
    if not isinstance(text, str) or not isinstance(texts, list):
        raise UserError(f"{where}: not a sample with one prompt; give those of a generating task")
    if not all(isinstance(item, str) for item in texts):
        raise UserError(
            f"{where}: a sample of a task that rates choices, without generated text; give those "
            "of a generating task"
        )
    prompt: dict[str, Any] = {"text": text}
    document = fields.get("doc")
    if isinstance(document, Mapping):
        source = document.get("prompt")
        if isinstance(source, Mapping) and source.get("text") == text:
            prompt = _with_score(rename_attributes(source), where)
            names = ("filename", "begin", "end", "challenging")
            fields |= {name: document[name] for name in names if name in document}
    if not all(fields.get(name) is not None for name in ("filename", "begin", "end")):
        fields.setdefault("id", fields.get("doc_id"))
    fields.pop("arguments")
    return {"prompt": prompt, **fields, "generations": [{"text": item} for item in texts]}


def _first_argument(arguments: Any) -> Any:
    """The prompt: since version 0.4.3 an object of objects, before that a list of lists."""
    if isinstance(arguments, Mapping):
        first = arguments.get("gen_args_0")
        return first.get("arg_0") if isinstance(first, Mapping) else None
    if isinstance(arguments, list) and arguments and isinstance(arguments[0], list):
        return arguments[0][0] if arguments[0] else None
    return None
