"""What decides an output: the settings that a manifest records and a rerun compares.

All of a verb's arguments decide, but for those that it names as free; content counts, not its
place. A `path` in settings says where something was: a note, not compared. One that holds settings
is a user's own name.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from detox_jax.errors import UserError
from detox_jax.parallel import processes

SCHEMA_VERSION = 2
# The version of the draws of text that is drawn; before there was a second, nothing named it.
DRAW = "sampling_draw"
# In a manifest of `evaluate`: the steered rows whose methods nobody gave. A steered row that is
# neither here nor has `steering` is of a version that knew of neither.
STEERING_NOT_GIVEN = "steering_not_given"
# How the difference between reports is called that show the same results in another order.
RESULTS_ORDER = "order of results"
# In settings of `compare`: the order of SCORES, whose first scorer is the reference, which earlier
# versions did not name.
SCORES_ORDER = "scores_order"
# Where a version before did otherwise: of text that is written, read or held out, the version of
# its rules, and of a training what it learns, in what order and of what classes. Nothing names
# either where both versions do the same. Of a pretrained encoder, the files of its tokenizer, which
# a version before did not compare.
TEXT_RULES, LEARNS, TOKENIZER = "text_rules", "learns", "tokenizer_sha256"
# What a version before did not name, and took another for: beside the fingerprint of a model's
# parameters what is computed from them, and of one that was made in the same way its parameters.
SPEC, WEIGHTS = "spec_sha256", "weights"
# Of questions, the tokens around each and the chat template.
AROUND, TEMPLATE = "tokens_around", "template_sha256"
# Of `panel`, the group that the others are compared with, where REFERENCE leaves it to their order.
REFERENCE_GROUP = "reference_group"
# Of a task that seqio has cached, its files; of a probe the chat template that it asks in; of files
# of text and tables as what their names have them read; of a registered task the labels that were
# chosen. What is unfinished goes on without.
CACHED_FILES, ASKED_IN, READ_AS = "cached_files", "asked_in", "read_as"
TASK_LABELS = "task_labels"
# Of a strategy of the user's, its field `path`, which versions before took for a note.
OWN_PATH = "own_path"
_WITHOUT = (CACHED_FILES, ASKED_IN, READ_AS, TASK_LABELS, OWN_PATH)
_UNNAMED = (SPEC, WEIGHTS, AROUND, TEMPLATE, REFERENCE_GROUP)
_MARKS = (TEXT_RULES, LEARNS, TOKENIZER, *_UNNAMED)
_LISTS = (AROUND, CACHED_FILES, READ_AS, TASK_LABELS, OWN_PATH)  # those that may be lists
_RULES_VERSION = 2
# Of a training under dropout; before, nothing named it.
_PARTS = "accumulation_steps"
# In settings of `convert`: what tells a model from others of its sizes and step. Versions before
# named less of it, and of an adaptation alone these two, which decide nothing of it.
_OF_MODEL = ("made_from", "fingerprint", "vocabulary")
_OF_WEIGHTS = ("dtype", "max_shard_bytes")
# In what such settings say of a model as text: where its base lies, which a version before named.
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PLACE = re.compile(rf"'path': {_QUOTED}, |, 'path': {_QUOTED}")
_NOTE = "path"
_SEEDS = ("random_seed", "seed")
_NOT_YET_SAID = "not known yet"
# Among what a setting can be: that it is not there.
ABSENT = object()
_is_ahead = contextvars.ContextVar("is_ahead", default=False)


@dataclasses.dataclass(frozen=True)
class NotYet:
    """In settings of a check: what is not known before an earlier step, or the verb, has read it.

    Attributes:
      among: what it can be, first what it is if nothing is damaged; anything where None.
      known: of a setting by names, those that are known.
    """

    among: tuple[Any, ...] | None = None
    known: Mapping[str, Any] | None = None


NOT_YET = NotYet()


def of_verb(
    verb: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    free: Collection[str],
    instead: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The settings of a verb's output: all of its arguments that are not named as free.

    An argument that is forgotten thus decides, and at worst makes a run begin anew; named one by
    one, a forgotten one would be silently reused.

    Args:
      verb: the function.
      arguments: its arguments, `locals()` in its first line.
      free: those that change where, how fast or how often, and never what is written.
      instead: of arguments that JSON does not hold, or that name content by its place: the settings
        that stand for them. Several arguments may stand in one; the others are then given `{}`.

    Raises:
      TypeError: for an argument that is neither JSON, nor a dataclass, nor in `instead`.
      UserError: for a seed that is not one.
    """
    names = inspect.signature(verb).parameters
    return _decided(verb.__name__, {name: arguments[name] for name in names}, free, instead or {})


def of_struct(
    struct: Any,
    *,
    free: Collection[str] = (),
    instead: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The same of the fields of a dataclass, which a verb takes in place of many arguments."""
    values = {field.name: getattr(struct, field.name) for field in dataclasses.fields(struct)}
    return _decided(type(struct).__name__, values, free, instead or {})


def _decided(
    owner: str,
    values: Mapping[str, Any],
    free: Collection[str],
    instead: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    if unknown := ({*free, *instead} - values.keys()) | (set(free) & instead.keys()):
        raise TypeError(f"{owner}: {sorted(unknown)} are no arguments, or stand twice")
    decided: dict[str, Any] = {}
    for name, value in values.items():
        if name in _SEEDS:
            _check_seed(value)
        if name in instead:
            decided |= instead[name]
        elif name not in free:
            decided[name] = describe(value, f"{owner}.{name}")
    return decided


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(
            f"RANDOM_SEED is {seed!r}; give a whole number from 0 to {2**32 - 1}: JAX "
            "would cut any other to 32 bits"
        )


def describe(value: Any, name: str) -> Any:
    """A value as settings hold it: JSON as it is, a strategy by its class and its fields.

    Raises:
      TypeError: naming what is neither.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = {"method": type(value).__name__, **dataclasses.asdict(value)}
        if _NOTE in described and not is_ours(value):
            described[OWN_PATH] = described[_NOTE]
        return described
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(f"{name}: {error}; say what stands for it in `instead`") from None


def text_rules(differ: bool) -> dict[str, int]:
    """The mark of text that is written or read by other rules than before; nothing by the same."""
    return {TEXT_RULES: _RULES_VERSION} if differ else {}


def is_ours(strategy: Any) -> bool:
    """Whether a strategy is one of this package's, whose settings stand there as its fields.

    What one of the user's says of itself before it has read what it needs, a check does not ask.
    """
    return type(strategy).__module__.startswith(f"{__name__.partition('.')[0]}.")


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """While settings are asked for by a check: see `is_ahead`."""
    token = _is_ahead.set(True)
    try:
        yield
    finally:
        _is_ahead.reset(token)


def is_ahead() -> bool:
    """Whether a check asks, which writes nothing and does not read for minutes."""
    return _is_ahead.get()


def as_far_as_known(now: Any, there: Any) -> Any:
    """Settings with what is there in place of each `NotYet`, so that it does not differ.

    Args:
      now: settings of a check, or a part of them.
      there: the same of a manifest.
    """
    if isinstance(now, NotYet):
        return _supposed(now, there)
    if isinstance(now, Mapping):
        old = there if isinstance(there, Mapping) else {}
        filled = {name: as_far_as_known(x, old.get(name, ABSENT)) for name, x in now.items()}
        if old is there:
            return {name: value for name, value in filled.items() if value is not ABSENT}
        return {name: _said(value) for name, value in filled.items()}
    if isinstance(now, list | tuple):
        alike = isinstance(there, list) and len(there) == len(now)
        return [_said(as_far_as_known(x, there[i] if alike else ABSENT)) for i, x in enumerate(now)]
    return now


def _supposed(now: NotYet, there: Any) -> Any:
    """What stands for something that is not known yet, beside what is there."""
    if now.known is not None:
        if not isinstance(there, Mapping):
            return as_far_as_known(now.known, there)
        known = {
            name: as_far_as_known(x, there.get(name))
            for name, x in now.known.items()
            if name in there or (name in _MARKS and not isinstance(x, NotYet))
        }
        return {**there, **known}
    if now.among is None or there in now.among:
        return there
    return now.among[0]


def _said(value: Any) -> Any:
    """For a line that says how settings differ."""
    return _NOT_YET_SAID if value is ABSENT else value


def if_undamaged(now: Any) -> Any:
    """Settings of a check as they are when the verb has read what it reads, and finds no damage.

    Args:
      now: settings of a check, or a part of them.

    Raises:
      LookupError: where something is not known.
    """
    if isinstance(now, NotYet):
        if not now.among:
            raise LookupError(_NOT_YET_SAID)
        return now.among[0]
    if isinstance(now, Mapping):
        return {name: if_undamaged(value) for name, value in now.items()}
    return [if_undamaged(x) for x in now] if isinstance(now, list | tuple) else now


def without_notes(value: Any) -> Any:
    """Settings without what is not compared: where things were."""
    if isinstance(value, Mapping):
        return {
            key: without_notes(item)
            for key, item in value.items()
            if key != _NOTE or not isinstance(item, str | None)
        }
    return [without_notes(item) for item in value] if isinstance(value, list) else value


def moved(value: Any, before: str, now: str) -> Any:
    """Settings whose notes name places below a directory where they are since it was moved.

    Args:
      value: settings, or a part of them.
      before: the directory as the notes name it.
      now: where it is.
    """
    if isinstance(value, list):
        return [moved(item, before, now) for item in value]
    if not isinstance(value, Mapping):
        return value
    settings = {key: moved(item, before, now) for key, item in value.items()}
    note = settings.get(_NOTE)
    if isinstance(note, str) and note.startswith(f"{before}/"):
        settings[_NOTE] = now + note.removeprefix(before)
    return settings


def agree(there: Any, now: Any) -> bool:
    """Whether two settings are the same, wherever things were."""
    return without_notes(there) == without_notes(now)


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting in which a manifest differs from that of this run."""
    old, new = without_notes(there["settings"]), without_notes(now["settings"])
    new = _as_named(old, new, _WITHOUT)
    if there["verb"] in ("evaluate", "convert"):
        old, new = as_both_name(old, new)
    old, new = _with_marks(old, new, there["complete"])
    draw = old.get(DRAW, 1), new.get(DRAW)
    if there.get("schema_version") == 1:
        old, new = _as_version_2(there["verb"], old, new)
    if there["verb"] == "compare" and SCORES_ORDER in new:
        old = _with_order(there, old, new)
    if there["verb"] == "evaluate" and there["complete"]:
        new = _without_new_fields(there, old, new)
    if there["verb"] == "convert":
        old, new = _as_converted_before(old, new)
    if _PARTS not in old:  # It may be of as many parts as this run, and goes on.
        new = {name: value for name, value in new.items() if name != _PARTS}
    if draw[1] is not None:
        # Text that is finished stays; text that is not cannot go on with other draws.
        old, new = {**old, DRAW: draw[0]}, {**new, DRAW: draw[0] if there["complete"] else draw[1]}
    if there["verb"] == "report" and (first := _reordered(there["settings"], now["settings"])):
        return first
    if members := _members(old, new):
        return members
    found = processes.first_difference(old, new)
    return found and _by_place(found, there["settings"], now["settings"])


class Word(str):
    """Of a difference: what is no value of a setting, but said of one; it shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _with_marks(old: Any, new: Any, is_complete: bool) -> tuple[Any, Any]:
    """Both settings, with a word for each mark of this run that is missing there.

    What is finished stays as it is, and has the word in both; what is not differs in it.

    Args:
      old: settings of a manifest, or a part of them.
      new: those of this run.
      is_complete: whether the output is finished.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        marks = (name for name in _MARKS if name in new and name not in old)
        absent = {name: Word("absent") for name in marks if not _is_own_name(name, new[name])}
        old, new = {**old, **absent}, {**new, **(absent if is_complete else {})}
        pairs = {
            name: _with_marks(old[name], new[name], is_complete) for name in old if name in new
        }
        left, right = ({name: of[side] for name, of in pairs.items()} for side in (0, 1))
        return {**old, **left}, {**new, **right}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        both = [_with_marks(a, b, is_complete) for a, b in zip(old, new, strict=True)]
        return [left for left, _ in both], [right for _, right in both]
    return old, new


def differ_in_marks(there: Any, now: Any) -> bool:
    """Whether two settings are the same but for marks that only those of now have."""
    return not agree(there, now) and agree(*_with_marks(there, now, is_complete=True))


def as_named_before(there: Any, now: Any) -> Any:
    """Settings of now without what a version before did not name, where those there lack it.

    Args:
      there: settings of what stays or goes on, or a part of them.
      now: the same of this run.
    """
    return _as_named(there, now, (*_WITHOUT, *_UNNAMED))


def _as_named(there: Any, now: Any, names: Collection[str]) -> Any:
    """Settings of now without those of `names` that those there lack."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return {
            name: _as_named(there.get(name), value, names)
            for name, value in now.items()
            if name in there or name not in names or _is_own_name(name, value)
        }
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        return [_as_named(a, b, names) for a, b in zip(there, now, strict=True)]
    return now


def _is_own_name(name: str, value: Any) -> bool:
    """Whether a name that versions before did not write is one of a user's own, by its value.

    Such as of a row, of seeds or of sheets: it stands before settings, or a list where ours do not.
    """
    return isinstance(value, Mapping) or (isinstance(value, list) and name not in _LISTS)


def as_both_name(there: Any, now: Any) -> tuple[Any, Any]:
    """Both settings, each without what a version before did not name and the other lacks.

    Such as of a model that is gone: nothing tells its weights.

    Args:
      there: settings of before, or a part of them.
      now: those of this run.
    """
    now = as_named_before(there, now)
    return as_named_before(now, there), now


def _members(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first difference, where it is that one setting lists what the other does not.

    A method, a task or a file that is there alone has no value on the other side.
    """
    for setting in sorted(old.keys() | new.keys()):
        left: Any = old.get(setting)
        right: Any = new.get(setting)
        if left == right:
            continue
        if _by_name(left) and _by_name(right) and left.keys() != right.keys():
            name = min(left.keys() ^ right.keys())
            given, absent = Word("given"), Word("absent")
            there, now = (given, absent) if name in left else (absent, given)
            return f"{setting}.{name}", there, now
        if _inputs(left) and _inputs(right) and len(left) != len(right):
            return setting, Word(f"{len(left)} of them"), Word(f"{len(right)}")
        return None
    return None


def _reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The difference where a report shows the same results in another order: the first place."""
    before, after = old.get("results"), new.get("results")
    if not (isinstance(before, list) and isinstance(after, list)) or agree(before, after):
        return None
    in_order = (sorted(map(_as_text, without_notes(of))) for of in (before, after))
    if len({*map(tuple, in_order)}) > 1:
        return None
    first = next(pair for pair in zip(before, after, strict=True) if not agree(*pair))
    there, now = (str(of.get("results.json", {}).get(_NOTE)) for of in first)
    end_there, end_now = ("/".join(path.split("/")[-2:]) for path in (there, now))
    if end_there != end_now:
        there, now = end_there, end_now
    return RESULTS_ORDER, there, now


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _by_name(setting: Any) -> bool:
    """Whether a setting holds things by the names that a user gave them."""
    return isinstance(setting, Mapping) and all(isinstance(x, Mapping) for x in setting.values())


def _inputs(setting: Any) -> bool:
    """Whether a setting is a list of inputs, each known by the hash of its bytes."""
    return isinstance(setting, list) and all(
        isinstance(x, Mapping) and "sha256" in x for x in setting
    )


def difference_of_parts(
    setting: str, there: Mapping[str, Any], now: Mapping[str, Any], has_part: Callable[[str], bool]
) -> tuple[str, Any, Any] | None:
    """As `difference`, of an output in parts, which goes on where this run lists more of them.

    Args:
      setting: that lists the parts: their names, or what decides each by its name.
      there: the manifest.
      now: that of this run.
      has_part: whether a part is there; asked of an unfinished output.
    """
    before, after = there["settings"].get(setting), now["settings"].get(setting)
    if type(before) is not type(after) or not isinstance(before, list | dict):
        return difference(there, now)
    made = [name for name in before if there["complete"] or has_part(name)]
    # What is finished stays; none is added that is made otherwise.
    is_complete = there["complete"] and set(after) <= set(made)
    as_if: Any = before
    if isinstance(before, dict):
        as_if = {**after, **{name: before[name] for name in made}}
    elif all(name in after for name in made):
        as_if = after
    settings = {**there["settings"], setting: as_if}
    return difference({**there, "complete": is_complete, "settings": settings}, now)


def _by_place(
    found: tuple[str, Any, Any], there: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[str, Any, Any]:
    """A difference between two inputs by where they are, which says more than a hash or a count."""
    name, _, field = found[0].rpartition(".")
    places = []
    for settings in (there, now):
        value: Any = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        places.append(value.get(_NOTE) if isinstance(value, Mapping) else None)
    if not all(isinstance(place, str) for place in places) or places[0] == places[1]:
        return found
    if field == "sha256":
        was, is_now = (f"{str(v)[:8]} of {p}" for v, p in zip(found[1:], places, strict=True))
        return found[0], was, is_now
    return (name, places[0], places[1]) if field == "files" else found


def _without_new_fields(there: Mapping[str, Any], old: Any, new: Any) -> Any:
    """`new` without what rows are told of that were finished when `evaluate` did not take it.

    Their table stays: without a perplexity of rows that are steered, and without the mark of a
    scorer that decided otherwise than by a filter. It stays too whatever a row is said to differ
    in, which lets rows be compared and changes no figure of those that were.
    """
    not_given = there.get(STEERING_NOT_GIVEN, ())

    def as_before(name: str, method: Any) -> Any:
        known = old["methods"].get(name, {})
        if "decided_by" not in known:
            method = {key: value for key, value in method.items() if key != "decided_by"}
        if "own_decoding" in known:
            method = {**method, "own_decoding": known["own_decoding"]}
        if "steering" in known or name in not_given or not method.get("steering"):
            return method
        return {key: value for key, value in method.items() if key != "steering"}

    methods = {name: as_before(name, method) for name, method in new["methods"].items()}
    return {**new, "methods": methods}


def names_model(settings: Mapping[str, Any]) -> bool:
    """Whether settings of a conversion tell its model from others of the same sizes and step."""
    ends = (settings.get(name) for name in ("checkpoint", "source"))
    return any(isinstance(end, Mapping) and not end.keys().isdisjoint(_OF_MODEL) for end in ends)


def _as_converted_before(old: Any, new: Any) -> tuple[Any, Any]:
    """Settings of a conversion and of this one, as far as a version that named less knew them."""

    def known(there: Any, now: Any) -> Any:
        if not isinstance(there, Mapping) or not isinstance(now, Mapping):
            return now
        return {name: x for name, x in now.items() if name in there or name not in _OF_MODEL}

    def placeless(there: Any, name: str) -> Any:
        if not isinstance(there, Mapping) or not isinstance(there.get(name), str):
            return there
        return {**there, name: _PLACE.sub("", there[name])}

    old = placeless(old, "model")
    if "checkpoint" in old:
        old = {**old, "checkpoint": placeless(old["checkpoint"], "config")}
    ends = {
        name: known(old.get(name), new[name]) for name in ("checkpoint", "source") if name in new
    }
    old = {name: x for name, x in old.items() if name in new or name not in _OF_WEIGHTS}
    return old, known(old, {**new, **ends})


def _with_order(there: Mapping[str, Any], old: Any, new: Any) -> Any:
    """`old` with the order of its scores, as far as a manifest without it tells: of the scorers."""
    order = new[SCORES_ORDER]
    if "scorers" in there:
        order = {**order, "scorers": [*there["scorers"]]}
    return {SCORES_ORDER: order, **old}


def _as_version_2(verb: str, old: Any, new: Any) -> tuple[Any, Any]:
    """Settings of a run of version 1 and of this one, as far as version 1 knew them.

    It listed what decides by hand, and named models by their places in `evaluate`, results in
    `report`.
    """
    if verb == "report":  # Its order was that of the places.
        old = {"results": sorted(old["results"].values(), key=json.dumps)}
        new = {**new, "results": sorted(new["results"], key=json.dumps)}
    if verb == "evaluate":
        old = {name: value for name, value in old.items() if name != "reference"}
        for method in old["methods"].values():
            method.pop("checkpoint_path", None)
    if verb == "train":
        old["config"].pop("remat", None)
    return old, _known(new, old)


def _known(new: Any, old: Any) -> Any:
    """`new` without the keys that `old` does not have."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {name: _known(new[name], old[name]) for name in new if name in old}
