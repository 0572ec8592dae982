"""Models by name: a local directory as it is, one in a bucket or a hub name through a cache."""

from __future__ import annotations

import re

from etils import epath

from detox_jax.errors import UserError
from detox_jax.formats import hub_data
from detox_jax.interop import bucket_copies

# Weights as safetensors only: a pickle may run code.
PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "README.md",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spm.model",
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(source: str, revision: str | None = None) -> tuple[epath.Path, dict[str, str]]:
    """The directory of a model on a disk, downloaded where `source` is a hub name or in a bucket.

    The hub's cache and its settings hold: `HF_HOME`, `HF_TOKEN`, and `HF_HUB_OFFLINE=1`, which uses
    the cache alone.

    Args:
      source: a directory, or a hub name, `gpt2` or `EleutherAI/pythia-70m`. A directory goes first.
      revision: branch, tag or commit of a hub name; its main branch where None.

    Returns:
      The directory on the disk, and where it came from: `{"repo", "revision"}` with the commit's
      hash for a hub name, `{}` for a directory.

    Raises:
      UserError: if there is no such directory and the hub does not give it: no such name, no such
        revision, no permission.
      Unavailable: where the network, the hub or the disk fails.
    """
    directory = epath.Path(source)
    if directory.is_dir():
        if revision is not None:
            raise UserError(f"{source} is a directory and has no revision; leave {revision!r} out")
        return bucket_copies.local(directory, PATTERNS), {}
    if directory.exists():
        raise UserError(f"{source}: is a file; give the directory that holds the model")
    if not _HUB_NAME.fullmatch(source) or source.startswith("."):
        raise UserError(f"{source}: no such directory, and not a hub name such as owner/model")
    snapshot = epath.Path(_download(source, revision))
    # The cache names a snapshot by its commit.
    return snapshot, {"repo": source, "revision": snapshot.name}


def _download(repo: str, revision: str | None) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(PATTERNS)
        )
    except (errors.HFValidationError, *hub_data.transport_errors()) as error:
        raise hub_data.refusal(repo, revision, error, of="model", place="directory") from None
