"""An export as one commit of a repository of the hub.

One commit holds all files: a repository has the model before or the model after, and never a part
of each. What was exported stays where it is, and the same command uploads it again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from detox_jax import directory_lock, manifests, outputs, tokenizer_files
from detox_jax.errors import TRY_AGAIN, Unavailable, UserError, in_one_line
from detox_jax.interop.safetensors_io import ADAPTER_FILE

# Ours alone: where the model lay, and how it was made, is for this disk.
_NOT_UPLOADED = (manifests.MANIFEST, outputs.CONFIG, directory_lock.LOCK, outputs.TIMES_FILE)
# What an export writes, and an earlier one may have left: weights of another sharding, a whole
# model's files beside an adapter or an adapter's beside a model would be read with what is new.
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_WRITTEN = (ADAPTER_FILE, *tokenizer_files.MODEL_FILES, *tokenizer_files.KEPT)


@dataclasses.dataclass(frozen=True)
class Upload:
    """Where an export goes.

    Attributes:
      repo: `OWNER/NAME`; made where there is none.
      is_private: whether a repository that is made is.
      revision: a branch, made from the main one where there is none; the main one where None.
      message: of the commit.
    """

    repo: str
    is_private: bool = True
    revision: str | None = None
    message: str | None = None

    def check(self) -> None:
        """Refuses what cannot be uploaded, before anything is exported; asks nobody.

        Raises:
          UserError: for a name that is none, or without a token.
        """
        from huggingface_hub import constants, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise UserError(f"--push_to_hub={self.repo}: {in_one_line(error)}") from None
        if self.repo.count("/") != 1:
            raise UserError(f"--push_to_hub={self.repo}: give OWNER/NAME")
        if constants.HF_HUB_OFFLINE:
            raise UserError("--push_to_hub: HF_HUB_OFFLINE=1 forbids it; unset that")
        if get_token() is None:
            raise UserError(
                "--push_to_hub: no token of the hub; set HF_TOKEN, or log in: hf auth login"
            )

    def push(self, directory: epath.Path) -> str:
        """Uploads the files of a finished export.

        Args:
          directory: the export, on this disk.

        Returns:
          The address of the commit.

        Raises:
          UserError: if the hub refuses: token, permission, name, content.
          Unavailable: if it cannot be reached or fails.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            api.create_repo(self.repo, private=self.is_private, exist_ok=True)
            if self.revision is not None:
                api.create_branch(self.repo, branch=self.revision, exist_ok=True)
            there = api.list_repo_files(self.repo, revision=self.revision)
            commit = api.create_commit(
                self.repo,
                operations=list(_operations(directory, there)),
                commit_message=self.message or "Export by detox_jax",
                revision=self.revision,
            )
        except Exception as error:  # The hub's, and its HTTP library's, have no common class.
            raise self._refusal(error, directory) from error
        return commit.commit_url

    def _refusal(self, error: Exception, directory: epath.Path) -> Exception:
        """The one line that a failure is; what is no failure of the hub's is given back."""
        kept = f"what was exported stays in {directory}, and the same command uploads it"
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        reason = in_one_line(error)
        if status in (401, 403):
            return UserError(
                f"{self.repo}: the hub refuses the token ({status}): it needs the right to write "
                f"there; {kept}"
            )
        if status is not None and 400 <= status < 500 and status not in TRY_AGAIN:
            return UserError(f"{self.repo}: the hub refuses the upload: {reason}; {kept}")
        library = type(error).__module__.partition(".")[0]
        if (
            status is not None
            or isinstance(error, OSError)
            or library.startswith(("httpx", "requests"))
        ):
            return Unavailable(f"{self.repo}: the hub does not take it: {reason}; {kept}")
        if isinstance(error, ValueError):  # Of metadata that the hub's own check refuses.
            return UserError(f"{self.repo}: the hub refuses the upload: {reason}; {kept}")
        return error


def _operations(directory: epath.Path, there: Sequence[str]) -> Iterator[Any]:
    """The files, and those of an earlier export that are none of this one's."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = sorted(
        os.path.relpath(os.path.join(place, name), directory)
        for place, _, files in os.walk(directory)
        for name in files
    )
    names = [name for name in names if name not in _NOT_UPLOADED and not name.startswith(".")]
    for name in names:
        yield CommitOperationAdd(name, str(directory / name))
    for name in sorted(set(there) - set(names)):
        if (name.endswith(_WEIGHTS) or name in _WRITTEN) and "/" not in name:
            yield CommitOperationDelete(name)
