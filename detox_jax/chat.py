"""Conversations as the text that a model was trained on: a tokenizer's chat template, rendered.

A template turns roles and texts into one text with the marks between them. Which marks those are
only the template knows, and how an answer ends too: `Exchange` asks it for both.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jinja2
from jinja2 import ext, sandbox

from detox_jax import tokenizer_files
from detox_jax.errors import UserError, in_one_line
from detox_jax.kinds import OneOf
from detox_jax.tokenizer_files import TOKENIZER_CONFIG_FILE
from detox_jax.vocabulary import Vocabulary

TEMPLATE_FILE = "chat_template.jinja"
AUTO = "auto"
# `auto`: the template where the tokenizer has one; True: it must have one; False: raw text.
Choice = Annotated[str, OneOf((AUTO,))] | bool
Message = Mapping[str, str]
# What `strftime_now` of a template says where a run must say the same tomorrow. Templates that name
# a date, such as Llama 3's, name this one where they have no clock.
_FIXED_DAY = datetime.datetime(2024, 7, 26)


def read_template(
    files: Mapping[str, bytes], name: str | None = None, remedy: str | None = None
) -> str | None:
    """The chat template among a tokenizer's files, None where there is none.

    Args:
      files: by name, see `tokenizer_files.TokenizerFiles`.
      name: of one of several templates; `default` where None.
      remedy: what to do where there are several and none of that name.

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
            f"{name or 'default'!r}; "
            + (remedy or f"put the one to use into its directory as {TEMPLATE_FILE}")
        )
    return named[name or "default"]


def special_tokens(files: Mapping[str, bytes], vocabulary: Vocabulary) -> dict[str, str]:
    """The names and spellings of the special tokens that a template may use.

    Args:
      files: of the tokenizer, by name.
      vocabulary: whose boundaries they are where no file names any and its class has them.
    """
    bos, eos = map(vocabulary.id_to_token, (vocabulary.bos_id, vocabulary.eos_id))
    return tokenizer_files.special_tokens(files, bos, eos)


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
    text = _rendered(template, messages, answer_next, tokens)
    return text if answer_next else _until_mark(text)


def _rendered(
    template: str,
    messages: Sequence[Message],
    answer_next: bool,
    tokens: Mapping[str, str | None],
    day: datetime.datetime | None = None,
) -> str:
    fields = {"tools": None, "documents": None, "add_generation_prompt": answer_next, **tokens}
    try:
        compiled = _compiled(template, day)
        try:
            return compiled.render(messages=messages, **fields)
        except jinja2.TemplateError:
            # Some templates refuse instructions of a system; the conversation is told without.
            without_system = [message for message in messages if message["role"] != "system"]
            if without_system == messages:
                raise
            return compiled.render(messages=without_system, **fields)
    except (jinja2.TemplateError, TypeError) as error:
        raise UserError(f"the tokenizer's chat template fails: {in_one_line(error)}") from None


# Stands behind a message that is to go on. Its last space shows whether the template strips.
_MARK = "\x02end of the last message\x03 "


def _until_mark(text: str) -> str:
    before, mark, after = text.rpartition(_MARK.rstrip())
    if not mark:
        raise UserError("the tokenizer's chat template drops the end of the last message")
    return before if after.startswith(" ") else before.rstrip()


@functools.lru_cache(maxsize=8)
def _compiled(template: str, day: datetime.datetime | None) -> jinja2.Template:
    """A template, whose clock stands at a day, or goes where None."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: (day or datetime.datetime.now()).strftime(
        form
    )
    return environment.from_string(template)


class _Generation(ext.Extension):
    """`{% generation %}`, which marks what a model is trained to write, and changes no text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)


# --- question and answer ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One question and its answer in a tokenizer's template: what `generate` asks, `train` learns.

    Attributes:
      template: in Jinja.
      tokens: names and spellings of special tokens.
      vocabulary: text to ids.
    """

    template: str
    tokens: Mapping[str, str]
    vocabulary: Vocabulary

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of what decides the text: template and tokens; for manifests."""
        content = json.dumps([self.template, dict(sorted(self.tokens.items()))])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def question(self, asked: str) -> str:
        """The text up to where the answer starts; an empty question asks for anything at all."""
        return self._render([_user(asked)], answer_next=True)

    def begun(self, asked: str, answer: str) -> str:
        """The text up to the end of an answer that is to go on."""
        return _until_mark(self._render([_user(asked), _assistant(answer + _MARK)]))

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text, in which the template has put all special tokens."""
        return self.vocabulary.encode(text) or [self.vocabulary.bos_id]

    def answered(self, asked: str, answer: str) -> tuple[list[int], list[int]]:
        """The ids of a question, and of its answer with the token that ends the turn.

        What a template writes behind that token the model never writes, and is left out.

        Raises:
          UserError: for a template that starts an answer otherwise than it asks for one.
        """
        question = self.question(asked)
        whole = self._render([_user(asked), _assistant(answer)])
        if not whole.startswith(question):
            raise UserError(
                "the tokenizer's chat template starts an answer otherwise than it asks for one, so "
                "that no text can be trained on as an answer; CHAT_TEMPLATE=False takes raw text"
            )
        given, ids = self.ids(question), self.ids(whole)
        if ids[: len(given)] == given:
            written = ids[len(given) :]
        else:  # A token reaches over the border.
            (written,) = self.vocabulary.encode_continuations([question], [whole[len(question) :]])
        ends = [place for place, token in enumerate(written) if token in self.end_ids]
        return given, written[: ends[-1] + 1] if ends else [*written, self.vocabulary.eos_id]

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which an answer ends: the vocabulary's, and the template's end of a turn."""
        ends = self.vocabulary.end_ids
        text = self._render([_user("So"), _assistant(_MARK)])
        behind = text.rpartition(_MARK.rstrip())[2].lstrip()
        first = self.vocabulary.encode(behind)[:1]
        is_token = [
            i
            for i in first
            if behind.startswith(self.vocabulary.id_to_token(i) or " ")
            and not self.vocabulary.decode([i])
        ]
        return tuple(dict.fromkeys([*ends, *is_token]))

    def _render(self, messages: Sequence[Message], answer_next: bool = False) -> str:
        return _rendered(self.template, messages, answer_next, self.tokens, _FIXED_DAY)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def exchange(vocabulary: Vocabulary, choice: Choice = AUTO) -> Exchange | None:
    """How a model is asked; None where it is given raw text.

    Args:
      vocabulary: with the tokenizer's files.
      choice: see `Choice`.

    Raises:
      UserError: if a template is wanted and there is none, or it cannot be read.
    """
    if choice is False:
        return None
    remedy = (
        f"put the one to use into {vocabulary.source} as {TEMPLATE_FILE}, or take raw text where "
        "there is a choice: CHAT_TEMPLATE=False"
    )
    template = read_template(vocabulary.files, remedy=remedy)
    if template is None and choice == AUTO:
        return None
    if template is None:
        raise UserError(
            f"CHAT_TEMPLATE is True, but {vocabulary.source} holds no chat template; put "
            f"{TEMPLATE_FILE} there, or take CHAT_TEMPLATE='auto'"
        )
    return Exchange(template, special_tokens(vocabulary.files, vocabulary), vocabulary)


def has_template(vocabulary: Vocabulary) -> bool:
    """Whether a tokenizer has a template, if only several of which none is the default."""
    try:
        return read_template(vocabulary.files) is not None
    except UserError:
        return True


def settings(exchange: Exchange | None) -> dict[str, str]:
    """What stands in settings; nothing of raw text, so that older outputs go on."""
    return {} if exchange is None else {"chat_template": exchange.fingerprint}


def said(vocabulary: Vocabulary, asks: bool) -> str | None:
    """The line about a tokenizer's template; None where it has none.

    Args:
      vocabulary: with the tokenizer's files.
      asks: whether the template is used.
    """
    if asks:
        return "in the tokenizer's chat template; CHAT_TEMPLATE=False takes raw text"
    if not has_template(vocabulary):
        return None
    return "warning: raw text, though the tokenizer has a chat template"
