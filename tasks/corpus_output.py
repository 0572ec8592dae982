"""What the corpora written here share: shards, and the embedded scorer."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from detox_jax import outputs, records

SHARD_SIZE = 4000


def write_shards(
    directory: str,
    verb: str,
    settings: Mapping[str, Any],
    name: str,
    rows: Sequence[records.Record],
    **counts: Any,
) -> None:
    """Writes `rows` as shards called `name`, or what a killed run left to write.

    Raises:
      UserError: if the directory cannot be written or holds something else.
    """
    output = outputs.OutputDirectory(directory, verb, settings)
    if output.complete:
        return
    count = -(-len(rows) // SHARD_SIZE)
    for index in range(count):
        if not output.has_shard(name, index, count):
            output.write_shard(name, index, count, rows[index * SHARD_SIZE :][:SHARD_SIZE])
    output.finish(records=len(rows), **counts)


def embedded_scorer() -> Any | None:
    """The package's own scorer, or None in an installation without it."""
    if importlib.util.find_spec("detox_jax.toxicity.ngram") is None:
        return None
    return importlib.import_module("detox_jax.toxicity.ngram").NgramScorer()
