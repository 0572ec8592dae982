"""What lines of other projects' files say only together: samples of a prompt, answers to requests.

Where a project writes one row a sample, the rows of a prompt that stand one after another become
one record. Lines are read one at a time; what is held is one prompt's rows, a batch's requests that
have no answer yet, and its answers of one sample each, since those of a prompt come in any order.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detox_jax.errors import UserError
from detox_jax.formats import foreign, published, record_ids
from detox_jax.formats.foreign import Row


class Reader:
    """Rows in our layout from the files of one source, in their order."""

    def __init__(self, says: bool = True):
        """`says` whether what is left out is said."""
        self._says = says
        self._requests: dict[str | int, Row] = {}
        # Of requests that were answered with one sample; whether any had several.
        self._answered: dict[str | int, Row] = {}
        self._has_several = False

    def rows(self, file: str, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
        """The records of a file.

        Args:
          file: its name, for errors.
          lines: its lines, parsed, with their numbers.

        Raises:
          UserError: for a line that no layout explains, or an answer without its request.
        """
        return _grouped(self._kept(file, lines))

    def rest(self, file: str) -> Iterator[Row]:
        """What a batch's lines say only together, once all files are read.

        Answers of one sample each, those of a prompt as one record where prompts come back; and
        requests without an answer, bare prompts.

        Args:
          file: the last one, for what is said.
        """
        rows = [self._answered.get(name, row) for name, row in self._requests.items()]
        are_samples = bool(self._answered) and not self._has_several
        size = _samples_per_prompt(rows) if are_samples else 1
        if size == 1:
            yield from rows
            return
        prompts = [*_by_prompt(rows, size)]
        if self._says:
            print(
                f"{file}: {len(rows)} requests of one sample each are read as {len(prompts)} "
                f"prompts of {size} samples, by their texts",
                file=sys.stderr,
            )
        yield from prompts

    def _kept(self, file: str, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
        fillers = 0
        harness_filter: Any = None
        whole: bool | None = None
        for number, value in lines:
            where = f"{file}:{number}"
            if "custom_id" in value and ("response" in value or "body" in value):
                row = self._of_batch(value, where)
                if row is None:
                    continue
            else:
                row = foreign.to_row(published.adapted(value, where), where)
            if "filtered_resps" in row.fields:
                # The harness writes all samples again for each filter; the raw responses are equal.
                if harness_filter is None:
                    harness_filter = row.fields.get("filter", "")
                if row.fields.get("filter", "") != harness_filter:
                    continue
            if foreign.is_filler(row):
                fillers += 1
                continue
            if row.may_hold_prompt:
                row, whole = _without_prompt(row, whole)
            yield row
        if fillers and self._says:
            print(
                f"{file}: {fillers} rows of Megatron's filler prompt are left out", file=sys.stderr
            )

    def _of_batch(self, value: Mapping[str, Any], where: str) -> Row | None:
        """A line of an OpenAI batch: a request is kept until its answer comes."""
        name = _batch_id(value, where)
        if "body" in value and "response" not in value:
            text = _request_text(value["body"], where)
            self._requests[name] = Row({"id": name, "prompt": {"text": text}}, where)
            return None
        answer, request = _answer(value["response"]), self._requests.get(name)
        if request is None:
            raise UserError(
                f"{where}: an answer of a batch, whose prompt stands in the request {name!r}; give "
                "the file of requests with it, by a glob or a directory in which it comes first"
            )
        if answer is None:
            return None  # It failed; the request stays a prompt without continuations.
        if name in self._answered:
            raise UserError(f"{where}: another answer to the request {name!r}; leave one out")
        generations = foreign.choice_texts(answer, where)
        row = Row({**request.fields, "generations": generations}, where)
        if len(answer["choices"]) == 1:
            self._answered[name] = row
            return None
        self._has_several = True
        del self._requests[name]
        return row


def row_alone(value: Mapping[str, Any], where: str) -> Row | None:
    """What a line holds by itself; None of an answer, whose prompt stands in another line.

    Raises:
      UserError: for a line that no layout explains.
    """
    if "custom_id" not in value or ("response" not in value and "body" not in value):
        return foreign.to_row(published.adapted(value, where), where)
    name = _batch_id(value, where)
    if "response" not in value:
        text = _request_text(value["body"], where)
        return Row({"id": name, "prompt": {"text": text}}, where)
    if (answer := _answer(value["response"])) is not None:
        foreign.choice_texts(answer, where)
    return None


def _batch_id(value: Mapping[str, Any], where: str) -> str | int:
    name = value["custom_id"]
    if not isinstance(name, str | int):
        raise UserError(f'{where}: "custom_id" is {name!r}; expected text')
    return name


def _answer(response: Any) -> Mapping[str, Any] | None:
    """The body of an answer; None of a request that failed."""
    body = response.get("body", response) if isinstance(response, Mapping) else None
    return body if isinstance(body, Mapping) and "choices" in body else None


def _request_text(body: Any, where: str) -> str:
    """The prompt of a completion, or the last message of the user of a chat."""
    body = body if isinstance(body, Mapping) else {}
    text = body.get("prompt")
    if isinstance(body.get("messages"), list):
        users = [m for m in body["messages"] if isinstance(m, Mapping) and m.get("role") == "user"]
        text = users[-1].get("content") if users else None
        if isinstance(text, list) and all(map(_is_text_part, text)):
            text = "".join(part["text"] for part in text)
    if not isinstance(text, str):
        raise UserError(f"{where}: a request without a prompt of text; give completions or chats")
    return text


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def _without_prompt(row: Row, whole: bool | None) -> tuple[Row, bool | None]:
    """Cuts the prompt off where the file's `generated_text` is prompt and continuation together.

    Raises:
      UserError: if it is so in some rows and not in others, which no pipeline writes.
    """
    prompt = row.fields["prompt"]["text"]
    generations = row.fields["generations"]
    texts = [item.get("text", "") for item in generations if isinstance(item, Mapping)]
    if not prompt or len(texts) < len(generations) or not all(isinstance(t, str) for t in texts):
        return row, whole
    for text in texts:
        begins = text.startswith(prompt)
        whole = begins if whole is None else whole
        if begins != whole:
            raise UserError(
                f'{row.where}: "generated_text" begins with its prompt in some rows and not in '
                "others; write the continuation alone"
            )
    if whole:
        generations = [{**item, "text": item["text"][len(prompt) :]} for item in generations]
        row = dataclasses.replace(row, fields={**row.fields, "generations": generations})
    return row, whole


def _samples_per_prompt(rows: Sequence[Row]) -> int:
    """How many requests of one sample each a prompt has; 1 where they are of different prompts.

    A data set may hold a prompt several times, as `record_ids` knows: a few that come back are no
    samples, and beside samples such a prompt has twice as many requests as the others.
    """
    requests = Counter(_prompt_text(row) for row in rows)
    if len(rows) - len(requests) <= record_ids.REPEATED_PROMPTS * len(rows):
        return 1
    prompts_of = Counter(number for number in requests.values() if number > 1)
    return max(prompts_of, key=lambda number: (prompts_of[number], number))


def _by_prompt(rows: Iterable[Row], size: int) -> Iterator[Row]:
    """The requests of each prompt in their order, so many a record; their ids name samples."""
    of_prompts: dict[Any, list[Row]] = {}
    for row in rows:
        of_prompts.setdefault(_prompt_text(row), []).append(row)
    for of in of_prompts.values():
        for start in range(0, len(of), size):
            samples = of[start : start + size]
            generations = [
                {**generation, "id": row.fields["id"]}
                for row in samples
                for generation in row.fields.get("generations", ())
            ]
            first = samples[0]
            yield Row({"prompt": first.fields["prompt"], "generations": generations}, first.where)


# --- one row a sample -------------------------------------------------------------------------


def _grouped(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of one prompt after another as one; all else as it is."""
    pending: list[Row] = []
    for row in rows:
        if pending and not (row.is_sample and _prompt_text(row) == _prompt_text(pending[0])):
            yield _merged(pending)
            pending = []
        if row.is_sample:
            pending.append(row)
        else:
            yield row
    if pending:
        yield _merged(pending)


def _prompt_text(row: Row) -> Any:
    return row.fields["prompt"].get("text")


def _merged(rows: list[Row]) -> Row:
    """One record; what differs between its rows goes to the generation that it came with."""
    first = rows[0]
    if len(rows) == 1:
        return first
    shared = {
        name: value
        for name, value in first.fields.items()
        if name != "generations" and all(row.fields.get(name) == value for row in rows)
    }
    shared["prompt"] = first.fields["prompt"]
    generations = []
    for row in rows:
        own = {name: value for name, value in row.fields.items() if name not in shared}
        (generation,) = own.pop("generations")
        own.pop("prompt", None)
        generations.append({**own, **generation} if isinstance(generation, Mapping) else generation)
    return dataclasses.replace(first, fields={**shared, "generations": generations})
