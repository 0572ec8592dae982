"""Data sets of the Hugging Face hub by name: what is in them, and their files in the hub's cache.

A revision is looked up once in a process and is a commit from then on: what is hashed is what is
read. The hub's own settings hold: `HF_HOME`, `HF_TOKEN`, and `HF_HUB_OFFLINE=1`, with which the
cache alone is used.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import re
import urllib.parse
from pathlib import Path
from typing import Any

from etils import epath

from detox_jax.errors import Unavailable, UserError, in_one_line, network_trouble

_SCHEME = "hf://datasets/"
_NAME = r"[\w.-]+(?:/[\w.-]+)?"
# A revision with slashes is one of the hub's own, refs/convert/parquet or refs/pr/7.
_ADDRESS = re.compile(
    rf"(?P<repo>{_NAME})(?:@(?P<revision>refs/(?:convert|pr)/[^/#]+|[^/#]+))?(?:/(?P<inside>.+))?"
)
_BARE = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[^#]+)?")


@dataclasses.dataclass(frozen=True)
class Repository:
    """A data set at one commit.

    Attributes:
      name: `OWNER/NAME`.
      revision: as it was asked for; the main branch where None.
      commit: the hash that its revision is.
      files: the names of all its files; offline, of those that the cache has.
    """

    name: str
    revision: str | None
    commit: str
    files: tuple[str, ...]

    def fetch(self, names: list[str]) -> list[epath.Path]:
        """The files, downloaded where the cache does not have them.

        Raises:
          UserError: if the hub does not give one.
          Unavailable: where the network, the hub or the disk fails.
        """
        snapshot = _download(self.name, self.revision, tuple(names))
        if snapshot.name != self.commit:  # The branch has moved on since its name was looked up.
            snapshot = _download(self.name, self.commit, tuple(names))
        files = [snapshot / name for name in names]
        if missing := next((file for file in files if not file.exists()), None):
            raise UserError(
                f"{self.name}: {missing.name} is not in the hub's cache, and the hub cannot be "
                "reached; download it elsewhere and give its files"
            )
        return files

    def read(self, name: str) -> str:
        """The text of a file; empty where there is none."""
        if name not in self.files:
            return ""
        return self.fetch([name])[0].read_bytes().decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Address:
    """What names a data set of the hub.

    Attributes:
      repo: `OWNER/NAME`, or `NAME` alone.
      revision: branch, tag or commit; the main branch where None.
      inside: a file or a glob in it; empty for the whole.
    """

    repo: str
    revision: str | None
    inside: str

    def at(self, commit: str) -> str:
        """The address with the commit that it was read at."""
        return f"{_SCHEME}{self.repo}@{commit}" + (f"/{self.inside}" if self.inside else "")


def address(source: str) -> Address | None:
    """What an input names on the hub; None for what is no name of a data set there.

    `hf://datasets/OWNER/NAME[@REVISION][/FILE]`, or `OWNER/NAME[@REVISION]` where no such file, and
    no directory OWNER, is here.

    Raises:
      UserError: for an `hf://` address of anything but a data set.
    """
    if source.startswith("hf:"):
        match = _ADDRESS.fullmatch(source.removeprefix(_SCHEME))
        if not source.startswith(_SCHEME) or match is None:
            raise UserError(f"{source}: expected {_SCHEME}OWNER/NAME[@REVISION][/FILE]")
        revision = match["revision"] and urllib.parse.unquote(match["revision"])
        return Address(match["repo"], revision, match["inside"] or "")
    if not _BARE.fullmatch(source) or Path(source.partition("/")[0]).exists():
        return None
    repo, _, revision = source.partition("@")
    return Address(repo, revision or None, "")


@functools.cache
def repository(repo: str, revision: str | None) -> Repository:
    """A data set and its files' names.

    Raises:
      UserError: if the hub does not know it, or is not to be asked and the cache does not have it.
      Unavailable: where it cannot be reached, and the cache does not have it.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        info = huggingface_hub.HfApi().dataset_info(repo, revision=revision)
        names = tuple(sibling.rfilename for sibling in info.siblings or ())
        return Repository(repo, revision, str(info.sha), names)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise refusal(repo, revision, error) from None
    except transport_errors() as error:  # no network
        cached = _cached(repo, revision)
        if cached is None:
            raise refusal(repo, revision, error) from None
        return cached


def _cached(repo: str, revision: str | None) -> Repository | None:
    """What the cache has of a data set, by the layout that the hub's documentation gives.

    `snapshot_download` refuses a snapshot of which only some files are there.
    """
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repo, repo_type="dataset")
    place = Path(constants.HF_HUB_CACHE) / folder
    ref = place / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = place / "snapshots" / (commit or "")
    if commit is None or not snapshot.is_dir():
        return None
    files = (path for path in snapshot.rglob("*") if path.is_file())
    names = sorted(path.relative_to(snapshot).as_posix() for path in files)
    return Repository(repo, revision, commit, tuple(names))


@functools.cache
def _download(repo: str, revision: str | None, names: tuple[str, ...]) -> epath.Path:
    """The snapshot with the files; the hub's library notes which commit the revision is."""
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
        )
    except transport_errors() as error:
        raise refusal(repo, revision, error) from None
    return epath.Path(snapshot)


def transport_errors() -> tuple[type[Exception], ...]:
    """Errors of the HTTP library that the hub's is built on: requests, httpx or httpx2 by version.

    The hub's own are among them.
    """
    from huggingface_hub import errors

    base: Any = errors.HfHubHTTPError.__bases__[0]
    return (OSError, base)


def refusal(
    repo: str, revision: str | None, error: Exception, *, of: str = "data set", place: str = "file"
) -> UserError | Unavailable:
    """What the hub's errors mean, in one line.

    Args:
      repo: that was asked for.
      revision: the one of it; the main branch where None.
      error: what the hub's library raised.
      of: what it is there.
      place: what its name may have been meant for here.
    """
    from huggingface_hub import constants, errors

    at = f"{repo} at revision {revision!r}" if revision else repo
    missing = f"{at}: neither a {place} here nor in the hub's cache, and the hub cannot be reached"
    elsewhere = f"download it elsewhere and give its {place}{'s' if place == 'file' else ''}"
    if isinstance(error, errors.GatedRepoError):
        reason = "its owner asks for consent; accept on its page and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = "the hub has no such revision"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = (
            f"neither a {place} here nor a {of} of the hub; check the name, and set HF_TOKEN if "
            "it is private"
        )
    elif isinstance(error, errors.HFValidationError):
        reason = f"not a hub name: {in_one_line(error)}"
    elif constants.HF_HUB_OFFLINE and not _is_of_the_cache(error):
        return UserError(f"{missing} (HF_HUB_OFFLINE=1); {elsewhere}")
    elif isinstance(error, errors.LocalEntryNotFoundError):
        return Unavailable(f"{missing} (no network?); run the same command again, or {elsewhere}")
    elif (failing := network_trouble(error)) is not None:
        if _is_of_the_cache(error) or isinstance(error, errors.HfHubHTTPError):
            return Unavailable(f"{at}: not fetched: {failing}; run the same command again")
        return Unavailable(f"{missing} ({failing}); run the same command again, or {elsewhere}")
    else:
        reason = f"the hub did not give it: {(str(error) or repr(error)).splitlines()[0]}"
    return UserError(f"{at}: {reason}")


def _is_of_the_cache(error: Exception) -> bool:
    """Whether the system refuses a file of the cache, as where the disk is full."""
    is_of_network = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not is_of_network
