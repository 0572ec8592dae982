"""Which files of a data set's directory are which split: what the Hugging Face hub reads of names.

Either README.md says it (`configs` in the YAML at its head), or the names of files and directories
do. The order of what is tried is that of `datasets` (`data_files.py` of datasets 5.2.0), but for
splits that nothing names: all files together are "train" there and here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detox_jax.errors import UserError
from detox_jax.formats import jsonl, row_formats

README = "README.md"
TRAIN = "train"
# The words by which names tell a split.
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:.*/)?data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*")
_NUMBERED = re.compile(r"(?P<name>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\b.*")
# What the hub makes of every data set, on the branch refs/convert/parquet.
_CONVERTED = re.compile(r"(?P<config>[^/]+)/(?P<split>[^/]+)/\d{4}\.parquet")
_NOT_DATA = re.compile(
    r"(^|/)(\.|__|(README|LICENSE|NOTICE|CITATION|requirements)\b"
    r"|(config|dataset_infos?|dataset_dict|state)\.json$)"
)
_HEAD = re.compile(r"\A---\r?\n(?P<yaml>.*?)\r?\n---", re.S)


def splits(
    names: Sequence[str], readme: str, config: str | None, where: str
) -> dict[str, list[str]]:
    """The files of each split, in the order of their names.

    Args:
      names: of all files, relative to the directory, with `/`.
      readme: README.md, empty where there is none.
      config: which of several configurations; the default or only one where None.
      where: the data set, for errors.

    Raises:
      UserError: where no file is data, README.md cannot be read, or a configuration is to be named.
    """
    data = sorted(
        name for name in names if name.endswith(row_formats.SUFFIXES) and not _NOT_DATA.search(name)
    )
    parts = _splits(data, readme, config, where)
    for files in parts.values():
        _check_shards(files, where)
    return parts


def _splits(data: list[str], readme: str, config: str | None, where: str) -> dict[str, list[str]]:
    if configs := _configs(readme, where):
        chosen = configs[_config_name(list(configs), config, _default(configs), where)]
        return _declared(chosen, data, where)
    converted = [_CONVERTED.fullmatch(name) for name in data]
    if data and all(converted):
        by_config: dict[str, dict[str, list[str]]] = {}
        for match in filter(None, converted):
            parts = by_config.setdefault(match["config"], {})
            parts.setdefault(match["split"], []).append(match[0])
        return by_config[_config_name(list(by_config), config, "default", where)]
    if config not in (None, "default"):
        raise UserError(f"{where}: no configuration {config!r}; its README.md declares none")
    if not data:
        kinds = ", ".join(row_formats.KINDS)
        raise UserError(f"{where}: holds no data that can be read ({kinds})")
    return _by_names(_of_one_kind(data))


def _check_shards(files: Sequence[str], where: str) -> None:
    """Refuses files numbered of so many of which one is not there, as in a cache half filled."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in files:
        if match := _NUMBERED.fullmatch(name):
            numbers.setdefault((match["name"], match["count"]), set()).add(int(match["index"]))
    for (name, count), found in numbers.items():
        if missing := sorted(set(range(int(count))) - found):
            raise UserError(f"{where}: {name}-{missing[0]:05d}-of-{count} is missing; fetch it")


def _config_name(names: list[str], config: str | None, default: str | None, where: str) -> str:
    if config is None and len(names) == 1:
        return names[0]
    chosen = default if config is None else config
    if chosen in names:
        return chosen
    said = "has several configurations" if config is None else f"no configuration {config!r}"
    raise UserError(f"{where}: {said}; name one of {', '.join(names)} with #config=NAME")


# --- README.md --------------------------------------------------------------------------------


def _configs(readme: str, where: str) -> dict[str, Mapping[str, Any]]:
    """The configurations with files of their own that README.md declares, by name."""
    head = _HEAD.match(readme.removeprefix("\ufeff"))
    if head is None:
        return {}
    import yaml  # huggingface_hub, a dependency, reads such heads with it.

    try:
        declared = yaml.safe_load(head["yaml"])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: {README}: the YAML at its head is malformed: {reason}") from None
    configs = declared.get("configs") if isinstance(declared, Mapping) else None
    return {
        str(item.get("config_name", "default")): item
        for item in (configs if isinstance(configs, list) else [])
        if isinstance(item, Mapping) and ("data_files" in item or "data_dir" in item)
    }


def _default(configs: Mapping[str, Mapping[str, Any]]) -> str:
    marked = [name for name, item in configs.items() if item.get("default") is True]
    return marked[0] if marked else "default"


def _declared(config: Mapping[str, Any], data: Sequence[str], where: str) -> dict[str, list[str]]:
    """The files that a configuration's `data_dir` and `data_files` name."""
    directory = str(config.get("data_dir") or "").strip("./")
    below = f"{directory}/" if directory else ""
    files = config.get("data_files")
    if files is None:
        found = [name for name in data if name.startswith(below)]
        return _by_names(_of_one_kind(found)) if found else {}
    parts: dict[str, list[str]] = {}
    for split, patterns in _pairs(files):
        for pattern in patterns:
            matches = _matches(below + str(pattern).removeprefix("./"))
            parts.setdefault(split, []).extend(name for name in data if matches.fullmatch(name))
    if empty := next((split for split, names in parts.items() if not names), None):
        raise UserError(f"{where}: {README} names files for the split {empty!r} that are not there")
    return {split: list(dict.fromkeys(names)) for split, names in parts.items()}


def _pairs(files: Any) -> list[tuple[str, list[str]]]:
    """`data_files` in any of its forms, as splits and patterns."""
    if isinstance(files, Mapping):
        return [(str(split), _list(patterns)) for split, patterns in files.items()]
    pairs = []
    for item in _list(files):
        if isinstance(item, Mapping):
            pairs.append((str(item.get("split", TRAIN)), _list(item.get("path"))))
        else:
            pairs.append((TRAIN, [item]))
    return pairs


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str) -> re.Pattern[str]:
    """A glob as a pattern: `*` stays in its directory, `**` does not."""
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            meaning.get(token) or (token if token.startswith("[") else re.escape(token))
            for token in tokens
        )
    )


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """The names that a glob of the hub's matches, in their order; a name is itself."""
    if pattern in names:
        return [pattern]
    matches = _matches(pattern)
    return sorted(name for name in names if matches.fullmatch(name))


# --- names ------------------------------------------------------------------------------------


def _of_one_kind(data: Sequence[str]) -> list[str]:
    """The files of the commonest format: a table of metadata beside Parquet is no data."""
    kinds = [jsonl.plain_name(name).rpartition(".")[2] for name in data]
    commonest = max(sorted(set(kinds)), key=kinds.count)
    return [name for name, kind in zip(data, kinds, strict=True) if kind == commonest]


def _by_names(data: Sequence[str]) -> dict[str, list[str]]:
    """Splits by `data/SPLIT-00000-of-00001`, else by words in names, those of directories first."""
    shards = [_SHARD.fullmatch(name) for name in data]
    parts: dict[str, list[str]] = {}
    if any(shards):
        for match in filter(None, shards):
            parts.setdefault(match["split"], []).append(match[0])
        return parts
    for part in (0, 2):  # of directory, slash, file
        parts = {}
        for split, words in _WORDS.items():
            pattern = re.compile(rf"(^|[-._ 0-9/])({'|'.join(words)})($|[-._ 0-9/])")
            if found := [name for name in data if pattern.search(name.rpartition("/")[part])]:
                parts[split] = found
        if parts:
            return parts
    return {TRAIN: list(data)}
