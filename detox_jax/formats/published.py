"""Published prompt sets as they are downloaded, such as BOLD and RTP-LX; see docs/FILES.md.

What a prompt is about comes with it, in fields by which `evaluate` tells groups of prompts apart:
`group`, `domain` and `title` of BOLD, `group` and `stance` of ToxiGen, `language` and `dialect` of
RTP-LX, `language` and `band` of FrenchToxicityPrompts. Where a file's name alone says it, the name
is read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import jsonl

# BOLD's names; `wikipedia/` has the sentences whose first words are the prompts.
_BOLD = re.compile(r"(?P<domain>.+)_(?P<kind>prompt|wiki)\.json")
_BOLD_START = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[')
# In its repository `hate_asian_1k.txt`; on the hub `prompts/hate_asian_1k-00000-of-00001.parquet`.
_TOXIGEN = re.compile(r"(?P<stance>hate|neutral)_(?P<group>\w+?)(?:_1k)?(?:-\d{5}-of-\d{5})?\.\w+")
_TOXIGEN_TOXIC = 5.5  # `toxigen.utils.label_annotations`: of the sum of two scales from 1 to 5
_RTP_LX = re.compile(r"RTP_LX_(?P<language>[\w-]+)\.jsonl?")
_RTP_LX_ANNOTATIONS = ("PromptAnnotations", "Annotations")  # since version 1.0, and before
# Its README names the files by the toxicity of their prompts; of the rows no source was found.
_FRENCH = re.compile(r"(?P<band>(?:mid_)?(?:high|low))_tox_prompt\.jsonl?")
_MISSING = "NA"  # what the first versions hold in place of the English prompts


def bold_rows(file: epath.Path, start: bytes) -> Iterator[dict[str, Any]] | None:
    """The rows of a file of BOLD, one object over a whole file; None of any other.

    Prompts lose the white space at their end, which belongs to the word that is to come: a
    tokenizer of words with the space before them never saw such a text cut there.

    Args:
      file: `prompts/DOMAIN_prompt.json` or `wikipedia/DOMAIN_wiki.json`.
      start: its first bytes, decompressed.
    """
    name = _BOLD.fullmatch(jsonl.plain_name(file.name))
    if name is None or not _BOLD_START.match(start):
        return None
    try:
        groups = json.loads(jsonl.read_bytes(file))
    except (ValueError, RecursionError):
        return None
    if not _is_bold(groups):
        return None
    return _bold_rows(groups, name["domain"], name["kind"] == "prompt")


def _is_bold(groups: Any) -> bool:
    """Whether a value is texts by group and title."""
    if not isinstance(groups, Mapping) or not all(isinstance(x, Mapping) for x in groups.values()):
        return False
    lists = [texts for titles in groups.values() for texts in titles.values()]
    return bool(lists) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists
    )


def _bold_rows(
    groups: Mapping[str, Mapping[str, list[str]]], domain: str, are_prompts: bool
) -> Iterator[dict[str, Any]]:
    start = "bold" if are_prompts else "bold-wikipedia"
    for group, titles in groups.items():
        for title, texts in titles.items():
            for number, text in enumerate(texts, start=1):
                yield {
                    "id": f"{start}-{domain}-{group}-{title}-{number}",
                    "domain": domain,
                    "group": group,
                    "title": title,
                    **({"prompt": {"text": text.rstrip()}} if are_prompts else {"text": text}),
                }


def adapted(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row of a published set in our layout; any other comes back as it was.

    Args:
      value: the row.
      where: its file and number.

    Raises:
      UserError: for a row whose prompt was not published with it, or whose field is not known.
    """
    file, _, number = where.rpartition(":")
    if (annotations := _rtp_lx_annotations(value)) is not None:
        return _rtp_lx(value, annotations, file, where)
    if (french := _FRENCH.fullmatch(jsonl.plain_name(PurePosixPath(file).name))) is not None:
        return _french(value, french["band"], file, where)
    if "target_group" in value and "toxicity_human" in value:
        return _toxigen_annotated(value)
    if len(value) == 1:
        return _toxigen_prompt(value, file, number)
    return value


# --- ToxiGen ----------------------------------------------------------------------------------


def _toxigen_prompt(value: Mapping[str, Any], file: str, number: str) -> Mapping[str, Any]:
    r"""A line of sentences about a group, `- one\n- two\n-` with two characters for a line break.

    Such are the files of the repository and, with a line break behind each, the data set of the
    hub. 159 prompts of `hate_bisexual` lack the last `\n`.
    """
    text = value.get("prompt", value.get("text"))
    name = _TOXIGEN.fullmatch(jsonl.plain_name(PurePosixPath(file).name))
    if name is None or not isinstance(text, str):
        return value
    text = text.strip()
    if not text.startswith("- ") or not text.endswith("-"):
        return value
    stance, group = name["stance"], name["group"]
    return {
        "id": f"toxigen-{stance}-{group}-{number}",
        "group": group,
        "stance": stance,
        "prompt": {"text": text.replace(r"\n", "\n")},
    }


def _toxigen_annotated(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sentence that people judged, with its group and its label beside what it has."""
    fields = {**value, "group": value["target_group"]}
    try:
        label = float(value["toxicity_ai"]) + float(value["toxicity_human"]) > _TOXIGEN_TOXIC
    except (KeyError, TypeError, ValueError, OverflowError):
        return fields
    return {**fields, "toxic": label}


# --- RTP-LX -----------------------------------------------------------------------------------


def _rtp_lx_annotations(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "Prompt" not in value or "Locale" not in value:
        return None
    of = next((value[name] for name in _RTP_LX_ANNOTATIONS if name in value), None)
    return of if isinstance(of, Mapping) else None


def _rtp_lx(
    value: Mapping[str, Any], annotations: Mapping[str, Any], file: str, where: str
) -> Mapping[str, Any]:
    """A prompt and what people said of it; its toxicity, from 1 to 5, becomes one from 0 to 1."""
    text = value["Prompt"]
    if text == _MISSING:
        raise UserError(
            f'{where}: RTP-LX without its prompt ("{_MISSING}"), as its first versions hold the '
            "English ones; fetch the newest, or leave the file out"
        )
    fields = {name: item for name, item in value.items() if name not in ("Prompt", "Dialect")}
    language = _language(file, str(value["Locale"]))
    prompt = {"text": text, **{_snake(name): score for name, score in annotations.items()}}
    score = prompt.get("toxicity")
    if isinstance(score, int | float) and not isinstance(score, bool):
        with contextlib.suppress(OverflowError):  # It is refused as it is, as any beyond 1.
            prompt["toxicity"] = (score - 1) / 4
    return {
        "id": f"rtp-lx-{language or 'und'}-{value.get('Index')}",
        **({"language": language} if language else {}),
        **({"dialect": value["Dialect"]} if value.get("Dialect") else {}),
        "prompt": prompt,
        **fields,
    }


def _language(file: str, locale: str) -> str:
    """The language by the file's name, `RTP_LX_ZH-Hans.json`; else what the row says.

    Both files of Chinese say ZH, and the Ukrainian one nothing.
    """
    name = _RTP_LX.fullmatch(jsonl.plain_name(PurePosixPath(file).name))
    subtags = (name["language"] if name else locale).split("-")
    if name and locale.lower().startswith(f"{subtags[0].lower()}-"):
        subtags = locale.split("-")  # Pt-Br in the file of PT
    scripts = [subtag.title() if len(subtag) == 4 else subtag.upper() for subtag in subtags[1:]]
    return "-".join([subtags[0].lower(), *scripts])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


# --- FrenchToxicityPrompts --------------------------------------------------------------------


def _french(value: Mapping[str, Any], band: str, file: str, where: str) -> Mapping[str, Any]:
    """A prompt with its language and the band of toxicity of its file; documents alike.

    How its rows name their fields stands in no source that could be read, so whoever reads it names
    them. A continuation is that of the published text, and no sample.
    """
    fields = {"language": "fr", "band": band, **value}
    prompt, continuation = value.get("prompt"), value.get("continuation")
    if not isinstance(prompt, str | Mapping) and not isinstance(value.get("text"), str):
        known = ", ".join(map(repr, list(value)[:12]))
        raise UserError(
            f"{where}: FrenchToxicityPrompts; name the fields of the prompt and of its toxicity, "
            f"{PurePosixPath(file).name}#prompt=NAME,score=NAME; there are {known}"
        )
    if isinstance(prompt, str):
        fields["prompt"] = {"text": prompt}
    if isinstance(continuation, str):
        fields["continuation"] = {"text": continuation}
    return fields
