"""Copies of models in buckets: what a kill or a power cut has left of them."""

import os

import pytest
from etils import epath

from detox_jax.interop import bucket_copies


class Blob:
    """In place of an object, which says when it is downloaded."""

    generation, content_encoding = 7, None

    def __init__(self, content, during=lambda: None):
        self.size, self._content, self._during, self.count = len(content), content, during, 0

    def download_to_file(self, stream, if_generation_match):
        assert if_generation_match == self.generation
        self.count += 1
        self._during()
        stream.write(self._content)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Copies a model of these objects; gives its directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def copied(**blobs):
        monkeypatch.setattr(bucket_copies, "_blobs", lambda _: blobs)
        return bucket_copies.local(epath.Path("gs://bkt/model"), ["*"])

    return copied


def test_a_copy_that_was_cut_is_copied_again(copied):
    weights, config = Blob(b"weights"), Blob(b"{}")
    directory = copied(weights=weights, config=config)
    with open(directory / "weights", "r+b") as file:
        file.truncate(3)
    assert copied(weights=weights, config=config) == directory
    assert (directory / "weights").read_bytes() == b"weights"
    assert (weights.count, config.count) == (2, 1)
    packed = Blob(b"unpacked")
    packed.content_encoding, packed.size = "gzip", 3
    copied(packed=packed)
    copied(packed=packed)
    assert packed.count == 1


def test_a_copy_is_on_the_disk_before_it_has_its_name(copied, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    replace = type(bucket_copies.Path()).replace

    def noted(path, target):
        done.append(os.path.basename(target)) if path.is_file() else None
        return replace(path, target)

    monkeypatch.setattr(bucket_copies.Path, "replace", noted)
    copied(weights=Blob(b"weights"))
    assert done == ["fsync", "7.weights"]


def test_what_a_kill_left_goes_and_what_another_process_copies_stays(copied, tmp_path):
    place = (copied(weights=Blob(b"weights"))).parent
    left = place / ".6.weights.0123abcd.partial"
    left.write_bytes(b"wei")
    notes = place / "notes.partial"
    notes.write_text("")

    def another_begins():
        assert not left.exists()
        copied(other=Blob(b"other"))

    directory = copied(more=Blob(b"more", another_begins))
    assert (directory / "more").read_bytes() == b"more"
    assert [path.name for path in tmp_path.rglob("*.partial")] == ["notes.partial"]
