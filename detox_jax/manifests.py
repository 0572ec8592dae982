"""What an output directory says of itself: its manifest, and the hashes of its shards there."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from etils import epath

from detox_jax import atomic_files, output_settings
from detox_jax.errors import UserError
from detox_jax.formats import jsonl

MANIFEST = "manifest.json"
_HASHED_AHEAD = 1 << 30  # bytes: a second from a disk, some from a bucket
SHARD = re.compile(r"^(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.jsonl$")


def read_manifest(directory: epath.Path) -> dict[str, Any]:
    """The manifest of an output directory.

    Raises:
      UserError: if there is none or it is not one of ours.
    """
    path = epath.Path(directory) / MANIFEST
    if not path.exists():
        raise UserError(f"{directory}: no {MANIFEST}; not an output of detox-jax")
    try:
        manifest = jsonl.json_object(path.read_bytes(), str(path))
    except UserError:
        manifest = {}
    if not _is_manifest(manifest):
        raise UserError(f"{path}: not a manifest of detox-jax")
    if (version := manifest.get("schema_version", 1)) > output_settings.SCHEMA_VERSION:
        raise UserError(
            f"{path}: of version {version}, this is version {output_settings.SCHEMA_VERSION}; a "
            "later detox-jax wrote it: install that"
        )
    return manifest


def verb_of(directory: epath.Path) -> str | None:
    """The verb that wrote a directory; None where no manifest there can be read."""
    with contextlib.suppress(UserError):
        return read_manifest(directory)["verb"]
    return None


def _is_manifest(value: Mapping[str, Any]) -> bool:
    """Whether what each run relies on is there, and of its kind."""
    version, shards = value.get("schema_version", 1), value.get("shards", {})
    return (
        isinstance(value.get("complete"), bool)
        and isinstance(value.get("verb"), str)
        and isinstance(value.get("settings"), dict)
        and isinstance(version, int)
        and isinstance(shards, dict)
        and all(isinstance(shard, dict) and "sha256" in shard for shard in shards.values())
    )


def versions() -> dict[str, str]:
    """The versions that a manifest records."""
    packages = ("detox-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
    return {package: metadata.version(package) for package in packages}


def shard_name(name: str, index: int, count: int) -> str:
    """`documents-00003-of-00010.jsonl`."""
    return f"{name}-{index:05d}-of-{count:05d}.jsonl"


def hash_files(files: Iterable[epath.Path]) -> Any:
    """SHA-256 over the bytes of `files`, in order; `NOT_YET` where a check would read too long.

    Raises:
      UserError: for a shard that is not as its verb wrote it, by the manifest beside it.
    """
    files = list(files)
    if output_settings.is_ahead() and sum(file.stat().length for file in files) > _HASHED_AHEAD:
        return output_settings.NOT_YET
    digest = hashlib.sha256()
    expected: dict[epath.Path, Mapping[str, Any]] = {}
    for file in files:
        if file.parent not in expected:
            expected[file.parent] = _written_shards(file.parent)
        known = expected[file.parent].get(file.name)
        of_file = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
            if known is not None:
                of_file.update(block)
        if known is not None and known["sha256"] != of_file.hexdigest():
            raise UserError(
                f"{file}: damaged: its bytes are not those that `{expected[file.parent]['']}` "
                f"wrote; remove the directory ({removal(file.parent)}) and run that command again"
            )
    return digest.hexdigest()


def hash_of(file: epath.Path) -> str:
    """SHA-256 of one file, whatever its manifest says."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: epath.Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _written_shards(directory: epath.Path) -> dict[str, Any]:
    """What a finished manifest says of its shards, and under the empty name its verb."""
    if not (directory / MANIFEST).exists():
        return {}
    manifest = read_manifest(directory)
    shards = manifest.get("shards") if manifest["complete"] else None
    return {**shards, "": manifest.get("verb")} if isinstance(shards, Mapping) else {}


def removal(path: epath.Path) -> str:
    """The command that removes a directory."""
    command = "rm -r" if atomic_files.is_local(path) else "gcloud storage rm -r"
    return f"{command} {shlex.quote(str(path))}"
