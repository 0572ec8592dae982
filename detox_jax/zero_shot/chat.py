"""Conversations as the text that a model was trained on: a tokenizer's chat template, rendered."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, sandbox

from detox_jax.errors import UserError
from detox_jax.tokenizer_files import TOKENIZER_CONFIG_FILE

TEMPLATE_FILE = "chat_template.jinja"
Message = Mapping[str, str]


def read_template(files: Mapping[str, bytes], name: str | None = None) -> str | None:
    """The chat template among a tokenizer's files, None where there is none.

    Args:
      files: by name, see `tokenizer_files.TokenizerFiles`.
      name: of one of several templates; `default` where None.

    Raises:
      UserError: if there are several, and none of that name.
    """
    if TEMPLATE_FILE in files and name is None:
        return files[TEMPLATE_FILE].decode()
    config = json.loads(files.get(TOKENIZER_CONFIG_FILE, b"{}"))
    template = config.get("chat_template")
    if not isinstance(template, list):
        return template or (files[TEMPLATE_FILE].decode() if TEMPLATE_FILE in files else None)
    named = {entry["name"]: entry["template"] for entry in template}
    if (name or "default") not in named:
        raise UserError(
            f"the tokenizer has the chat templates {', '.join(sorted(named))}, and no "
            f"{name or 'default'!r}; name one of them: APPLY_CHAT_TEMPLATE"
        )
    return named[name or "default"]


def render(
    template: str, messages: Sequence[Message], *, answer_next: bool, **tokens: str | None
) -> str:
    """A conversation as text.

    Args:
      template: in Jinja, as Hugging Face's tokenizers carry it.
      messages: `{"role": ..., "content": ...}`.
      answer_next: whether the text ends where the model's answer starts; else it ends with the
        last message, for the model to go on with.
      **tokens: `bos_token`, `eos_token`, ...

    Raises:
      UserError: if the template cannot be read, or refuses the conversation.
    """
    messages = [dict(message) for message in messages]
    if not answer_next:
        messages[-1]["content"] += _MARK
    fields = {"tools": None, "documents": None, "add_generation_prompt": answer_next, **tokens}
    try:
        compiled = _environment().from_string(template)
        try:
            text = compiled.render(messages=messages, **fields)
        except jinja2.TemplateError:
            # Some templates refuse instructions of a system; the conversation is told without.
            without_system = [message for message in messages if message["role"] != "system"]
            if without_system == messages:
                raise
            text = compiled.render(messages=without_system, **fields)
    except jinja2.TemplateError as error:
        raise UserError(f"the tokenizer's chat template fails: {error}") from None
    return text if answer_next else _until_mark(text)


# Stands behind a message that is to go on. Its last space shows whether the template strips.
_MARK = "\x02end of the last message\x03 "


def _until_mark(text: str) -> str:
    before, mark, after = text.rpartition(_MARK.rstrip())
    if not mark:
        raise UserError("the tokenizer's chat template drops the end of the last message")
    return before if after.startswith(" ") else before.rstrip()


def _environment() -> jinja2.Environment:
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


class _Generation(ext.Extension):
    """`{% generation %}`, which marks what a model is trained to write, and changes no text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)
