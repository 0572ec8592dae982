"""Whether methods were decoded alike: what `score` hands on of `generate`, and its comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from detox_jax.errors import UserError, suggestion

_SETTINGS = (
    "max_new_tokens",
    "sampling",
    "start_with_end_of_text",
    "num_samples",
    "random_seed",
    "dtype",
    "steering",
    "behind",
    "chat_template",
)
# Those that must be equal; a seed may differ, and `joined` cuts to equally many samples.
_COMPARED = (
    "max_new_tokens",
    "sampling",
    "start_with_end_of_text",
    "steering",
    "behind",
    "best_of",
    "chat_template",
)
_CHANGES = ("steering", "behind", "best_of")  # a model's own text, where there are any
_RAW_TEXT = "raw text"  # in place of a template's fingerprint
_CHOICE = ("selection", "samples_per_result")  # of `score`'s note on a `filter` among samples
_NEVER_OWN = ("max_new_tokens",)  # A shorter text is a less toxic one, whatever wrote it.
MAY_DIFFER = tuple(name for name in _COMPARED if name not in _NEVER_OWN)

# How a user says that a setting is meant to differ.
OWN_OF_EVALUATE = "evaluate.Method.own_decoding = ['{setting}']"


def of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """How continuations were decoded, by the manifest of `generate`, or of `score` behind it.

    None where it is silent.
    """
    is_generate = manifest.get("verb") == "generate"
    settings = manifest.get("settings" if is_generate else "generated")
    if not isinstance(settings, Mapping):
        return None
    decoding = settings.get("decoding")
    # Before version 2 of manifests all of it stood in one place.
    places = [decoding, settings] if isinstance(decoding, Mapping) else [settings]
    said = {name: place[name] for name in _SETTINGS for place in places if name in place}
    chosen = manifest.get("chosen") or {}
    # Files do not speak of a steering, tags, a choice and a template that they do not have.
    return {
        **said,
        "steering": said.get("steering", []),
        "behind": said.get("behind", {}),
        "best_of": {name: chosen[name] for name in _CHOICE if name in chosen},
        "chat_template": said.get("chat_template", _RAW_TEXT),
    }


def is_asked(decoding: Mapping[str, Any] | None) -> bool:
    """Whether prompts were asked in a chat template, as far as files say.

    Args:
      decoding: see `of_manifest`.
    """
    return (decoding or {}).get("chat_template", _RAW_TEXT) != _RAW_TEXT


def changed_by(decoding: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What makes a text another than the model's own behind the prompt as it stands.

    Args:
      decoding: see `of_manifest`.
    """
    names = [name for name in _CHANGES if (decoding or {}).get(name)]
    return (*names, *(["chat_template"] if is_asked(decoding) else []))


def check_own(own: Mapping[str, Collection[str]], advice: str = OWN_OF_EVALUATE) -> None:
    """Refuses names that are no settings of decoding: a misspelt one would let nothing differ.

    Args:
      own: of each method, names of the settings in which it is meant to differ.
      advice: see `compare`.

    Raises:
      UserError: naming the method, and the setting that may be meant.
    """
    known = [name for name in dict.fromkeys((*_COMPARED, *_SETTINGS)) if name not in _NEVER_OWN]
    for method, names in own.items():
        for name in names:
            if name not in known and name not in _NEVER_OWN:
                meant = suggestion(name, known) or f"; one of {', '.join(known)}"
                said = advice.format(method=method, setting=name)
                raise UserError(f"method {method!r}: `{said}`: no such setting of decoding{meant}")


def compare(
    decodings: Mapping[str, Mapping[str, Any] | None],
    baseline: str,
    own: Mapping[str, Collection[str]],
    advice: str = OWN_OF_EVALUATE,
) -> tuple[str, ...]:
    """Refuses methods that were decoded otherwise than the baseline.

    Args:
      decodings: of each method, None where its files do not say.
      baseline: the method that the others are compared with.
      own: names of the settings in which a method is meant to differ.
      advice: how `own` is given, with the method's name and the setting.

    Returns:
      A sentence where something could not be compared.

    Raises:
      UserError: naming the method and the setting.
    """
    for name, setting, here, there in _differences(decodings, baseline):
        if setting not in own.get(name, ()) or setting in _NEVER_OWN:
            raise UserError(
                f"method {name!r} was generated with {setting} {here!r}, {baseline!r} with "
                f"{there!r}; generate both alike"
                + _advice(setting, advice.format(method=name, setting=setting))
            )
    unknown = [name for name, decoding in decodings.items() if decoding is None]
    if not unknown:
        return ()
    return (f"Not compared, since the files do not say: how {', '.join(unknown)} was decoded.",)


def differ(
    here: Mapping[str, Any] | None, there: Mapping[str, Any] | None
) -> dict[str, tuple[Any, Any]]:
    """Both values of the settings that must be equal and are not, as far as both are known.

    Args:
      here: see `of_manifest`.
      there: likewise.
    """
    if here is None or there is None:
        return {}
    both = {name: (here.get(name), there.get(name)) for name in _COMPARED}
    return {name: (a, b) for name, (a, b) in both.items() if None not in (a, b) and a != b}


def said(decodings: Mapping[str, Mapping[str, Any] | None], baseline: str) -> tuple[str, ...]:
    """A sentence on the methods that were decoded otherwise than the baseline, and in what.

    Args:
      decodings: of each method, None where its files do not say.
      baseline: the method that the others are compared with.
    """
    others: dict[str, list[str]] = {}
    for name, setting, _, _ in _differences(decodings, baseline):
        others.setdefault(name, []).append(setting)
    if not others:
        return ()
    named = ", ".join(f"{name} ({', '.join(settings)})" for name, settings in others.items())
    return (f"Decoded otherwise than {baseline}: {named}.",)


def _differences(
    decodings: Mapping[str, Mapping[str, Any] | None], baseline: str
) -> Iterator[tuple[str, str, Any, Any]]:
    """Methods and settings that differ from the baseline's, with both values, as far as known."""
    reference = decodings[baseline]
    for name, decoding in decodings.items():
        for setting, (here, there) in differ(decoding, reference).items():
            yield name, setting, here, there


def _advice(setting: str, how: str) -> str:
    if setting in _NEVER_OWN:
        return ""
    return f", or say that the method is this: `{how}`"
