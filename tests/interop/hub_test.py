"""Hub names: directories first, revisions pinned, the cache alone when offline, clear refusals."""

import errno
import os
import subprocess
import sys
import types

import huggingface_hub
import pytest
from huggingface_hub import errors

from detox_jax.errors import Unavailable, UserError
from detox_jax.formats import hub_data
from detox_jax.interop import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_directory_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert hub.resolve(str(tmp_path)) == (tmp_path, {})
    with pytest.raises(UserError, match="is a directory and has no revision"):
        hub.resolve(str(tmp_path), "main")


def test_a_hub_name_is_pinned_to_its_commit(tmp_path, monkeypatch):
    calls = []

    def download(repo, *, revision, allow_patterns):
        calls.append((repo, revision, allow_patterns))
        return str(tmp_path / "snapshots" / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    path, source = hub.resolve("owner/model", "v1")
    assert path.name == COMMIT and source == {"repo": "owner/model", "revision": COMMIT}
    ((repo, revision, patterns),) = calls
    assert (repo, revision) == ("owner/model", "v1")
    assert "*.safetensors" in patterns and not any("bin" in pattern for pattern in patterns)


@pytest.mark.parametrize("source", ["/no/such/dir", "./model", "../x/y", "a/b/c", "has space"])
def test_what_is_no_name(source):
    with pytest.raises(UserError, match="no such directory, and not a hub name"):
        hub.resolve(source)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give the directory"):
        hub.resolve(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "accept on its page and set HF_TOKEN"),
        ("RepositoryNotFoundError", "neither a directory here nor a model of the hub"),
        ("RevisionNotFoundError", "no such revision"),
        ("HFValidationError", "not a hub name: reason"),
        ("HfHubHTTPError", "the hub did not give it: reason"),
    ],
)
def test_refusals_of_the_hub(kind, message, monkeypatch):
    cls = getattr(errors, kind)
    error = cls.__new__(cls)
    error.args = ("reason\nand a long page",)
    if kind == "HFValidationError":
        error.args = ("reason",)

    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(cls, "__str__", lambda self: self.args[0])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=message) as raised:
        hub.resolve("owner/model", "v1")
    assert "owner/model at revision 'v1'" in str(raised.value) and "\n" not in str(raised.value)


def _answered(status):
    error = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    error.response = types.SimpleNamespace(status_code=status)
    error.args = (f"{status} of the server",)
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the cache/blob")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.LocalEntryNotFoundError("no answer"),
            "the hub cannot be reached .*the same command",
        ),
        (_answered(503), "not fetched: 503"),
        (_answered(429), "not fetched: 429"),
        (FULL, "not fetched: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "not fetched: No space left on device"),
        (ConnectionError("nobody there"), r"the hub cannot be reached \(nobody there\)"),
    ],
)
def test_what_may_be_had_later_is_no_mistake(error, message, monkeypatch):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(errors.HfHubHTTPError, "__str__", lambda self: self.args[0])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(Unavailable, match=f"^owner/model: .*{message}"):
        hub.resolve("owner/model")
    with pytest.raises(Unavailable, match=f"^owner/data: .*{message}"):
        hub_data._download("owner/data", None, (str(message),))


def test_an_address_that_is_none_is_a_line(monkeypatch):
    """As of HF_ENDPOINT=banana, of which the HTTP library's own error is no error of the hub's."""
    (transport,) = {*hub_data.transport_errors()} - {OSError}

    def download(*args, **kwargs):
        raise transport("Request URL is missing an 'http://' or 'https://' protocol.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="^owner/model: the hub did not give it: Request URL is mi"):
        hub.resolve("owner/model")


def test_offline_takes_the_cache_alone(tmp_path):
    """In a process of its own: the hub's library reads its variables when it is imported."""
    repo = tmp_path / "models--owner--model"
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    program = (
        "from detox_jax.interop import hub\n"
        "print(*hub.resolve('owner/model'))\n"
        "hub.resolve('owner/other')\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": "."}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert f"snapshots/{COMMIT}" in result.stdout
    assert f"{{'repo': 'owner/model', 'revision': '{COMMIT}'}}" in result.stdout
    assert (
        "UserError: owner/other: neither a directory here nor in the hub's cache" in result.stderr
    )
