"""Models of Hugging Face in gs://: copied once to this machine's disk, where they are mapped."""

from __future__ import annotations

import json

import pytest
from etils import epath

from detox_jax.errors import Unavailable, UserError
from detox_jax.interop import bucket_copies, hub
from tests.bucket.conftest import start, succeed
from tests.bucket.stand_in import Object

AGAIN = Object(b"{ }", generation=8)
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def here(storage, tmp_path, monkeypatch):
    """This process reads the bucket, which holds a model, and has a cache directory of its own."""
    for name, value in {**storage.environment(), "XDG_CACHE_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    for name, content in {**FILES, "training/config.json": b"deeper"}.items():
        storage.buckets["bkt"][f"runs/encoder/{name}"] = Object(content, generation=7)


def local() -> epath.Path:
    return bucket_copies.local(epath.Path("gs://bkt/runs/encoder/"), hub.PATTERNS)


def downloads(storage) -> list[str]:
    return [line.split("?")[0].rsplit("/")[-1] for line in storage.requests if "alt=media" in line]


@pytest.mark.usefixtures("here")
def test_a_file_is_copied_once_for_each_of_its_generations(storage, tmp_path):
    first = local()
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    assert str(first).startswith(str(tmp_path / "home")) and first.parent.name.endswith("-encoder")
    assert local() == first and sorted(downloads(storage)) == ["config.json", "model.safetensors"]
    # Of the same size, and in the same second.
    storage.buckets["bkt"]["runs/encoder/config.json"] = Object(b"[]", generation=8)
    second = local()
    assert (second / "config.json").read_text() == "[]" and len(downloads(storage)) == 3
    assert (second / "model.safetensors").read_bytes() == b"weights"
    assert (first / "config.json").read_text() == "{}"  # Whoever reads it goes on.
    assert not [path for path in tmp_path.rglob("*.partial")]


@pytest.mark.usefixtures("here")
def test_what_cannot_be_copied_is_one_line(storage):
    storage.buckets["bkt"]["empty/notes.txt"] = Object(b"", generation=1)
    with pytest.raises(UserError, match="^gs://bkt/empty: holds no file of a model"):
        bucket_copies.local(epath.Path("gs://bkt/empty"), hub.PATTERNS)
    storage.refused = ["alt=media"]
    with pytest.raises(UserError, match="^gs://bkt/runs/encoder: cannot be read: no access to the"):
        local()
    storage.refused = []
    model = storage.buckets["bkt"]
    config = "runs/encoder/config.json"
    # The listing is answered; the first file that it names is another one by then.
    storage.on_first(r"^GET .*config.json.*alt=media", lambda: model.update({config: AGAIN}))
    with pytest.raises(Unavailable, match="encoder: was written anew while it was copied; run"):
        local()
    assert (local() / "config.json").read_bytes() == AGAIN.data


@pytest.mark.bucket
def test_an_encoder_is_trained_into_a_bucket_and_measured_from_there(storage, tmp_path):
    rows = [
        {"id": str(i), "text": f"{word} {i}", "toxicity": float(word == "idiot")}
        for i in range(60)
        for word in (("idiot", "thanks")[i % 2],)
    ]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    sizes = {"VOCAB_SIZE": 120, "EMB_DIM": 16, "NUM_HEADS": 2, "NUM_LAYERS": 1, "MLP_DIM": 16}
    settings = {**sizes, "LENGTH": 16, "BATCH_SIZE": 16, "TRAIN_STEPS": 4, "INPUT": documents}
    settings["OUTPUT_DIR"] = "gs://bkt/encoder"
    flags = [f"--gin.{name}={value}" for name, value in settings.items()]
    files = "--gin_file=gin_configs/scorers/train_encoder.gin"
    command = ("-m", "detox_jax", "train_scorer", files, *flags)
    home = tmp_path / "home"
    said = succeed(start(storage, *command, XDG_CACHE_HOME=str(home)))
    assert "gs://bkt/encoder: 4 steps" in said
    manifest = json.loads(storage.buckets["bkt"]["encoder/manifest.json"].data)
    assert manifest["complete"] and manifest["scorer"]["name"] == "encoder"
    [copy] = (home / "detox-jax" / "models").glob("*-encoder/*.model.safetensors")
    assert copy.read_bytes() == storage.buckets["bkt"]["encoder/model.safetensors"].data
