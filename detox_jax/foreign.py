"""Records of other projects, turned into our layout before they are parsed.

RealToxicityPrompts' own file, and the `generations` that DExperts writes, are our layout already.
Goodtriever also writes generations as plain strings. Megatron writes one row a sample,
`{"text", "prompt", "id", "score"}` with `prompt` a string: a row with a prompt becomes a prompt
with one generation, a row without one a document. Its ids count rows, so several samples of one
prompt stay records of their own; they are not grouped.
"""

from __future__ import annotations

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
_END_OF_TEXT = "<|endoftext|>"


def to_our_layout(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parsed line in our layout; one that is in it already comes back as it was.

    Args:
      value: the line.
      where: its file and number, for errors.

    Raises:
      UserError: for a Megatron score that is neither an object, a number nor null.
    """
    fields = rename_attributes(value)
    prompt = fields.get("prompt")
    if isinstance(prompt, str) and isinstance(fields.get("text"), str):
        return _megatron_row(fields, where)
    if isinstance(prompt, Mapping):
        fields["prompt"] = rename_attributes(prompt)
        if isinstance(fields.get("generations"), list):
            fields["generations"] = [_generation(item) for item in fields["generations"]]
    return fields


def rename_attributes(value: Mapping[str, Any]) -> dict[str, Any]:
    """Perspective's upper-case attributes under our names; one that is there already is kept."""
    fields = {name: item for name, item in value.items() if name not in PERSPECTIVE_ATTRIBUTES}
    for name in value.keys() & PERSPECTIVE_ATTRIBUTES.keys():
        fields.setdefault(PERSPECTIVE_ATTRIBUTES[name], value[name])
    return fields


def _generation(item: Any) -> Any:
    if isinstance(item, str):
        return {"text": item}
    return rename_attributes(item) if isinstance(item, Mapping) else item


def _megatron_row(fields: dict[str, Any], where: str) -> dict[str, Any]:
    prompt = fields.pop("prompt")
    text = fields.pop("text").replace(_END_OF_TEXT, "")
    score = fields.pop("score", None)
    if isinstance(score, Mapping):
        # Megatron asks Perspective for attributes in lower case, by Perspective's names.
        scores = rename_attributes({name.upper(): item for name, item in score.items()})
    elif score is None:
        scores = {}
    elif isinstance(score, int | float) and not isinstance(score, bool):
        scores = {"toxicity": score}
    else:
        raise UserError(f'{where}: "score" is {score!r}; expected an object, a number or null')
    if not prompt:
        return {"text": text, **fields, **scores}
    return {"prompt": {"text": prompt}, "generations": [{"text": text, **scores}], **fields}
