"""A score cache in gs://, which outlives the machine that filled it; `convert` into a bucket."""

from __future__ import annotations

import json
import threading

import pytest

from tests.bucket.conftest import finish, start, succeed, upload
from tests.bucket.verbs_test import QUICKLY
from tests.conftest import SENTENCES, write_tiny_run

pytestmark = pytest.mark.bucket
VERB = ("-m", "detox_jax")


def documents(root, names):
    lines = [json.dumps({"id": name, "text": f"{name}: {SENTENCES[0]}"}) for name in names]
    path = root / f"{names[0]}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_score_cache_outlives_its_machine(storage, tmp_path):
    score = (
        *VERB,
        "score",
        "--gin.SCORER=@cache.CachedScorer()",
        "--gin.SCORE_CACHE=gs://bkt/scores",
    )
    every = documents(tmp_path, [f"d{i}" for i in range(40)])
    first = (*score, f"--gin.INPUT={every}", "--gin.OUTPUT_DIR=gs://bkt/scored")
    preempted = start(storage, *first, XDG_CACHE_HOME=str(tmp_path / "a"))
    storage.on_first(r"^POST .*name=scored/scored-", preempted.kill)
    assert finish(preempted)[0] < 0
    assert [name for name in storage.buckets["bkt"] if name.startswith("scores/")]
    replay = (*first, "--gin.REPLAY_ONLY=True")
    succeed(start(storage, *replay, XDG_CACHE_HOME=str(tmp_path / "b")))
    others = documents(tmp_path, ["new"])
    asked = (
        *score,
        f"--gin.INPUT={others}",
        "--gin.OUTPUT_DIR=gs://bkt/no",
        "--gin.REPLAY_ONLY=True",
    )
    status, _, errors = finish(start(storage, *asked, XDG_CACHE_HOME=str(tmp_path / "b")))
    assert status == 2 and "gs://bkt/scores: 1 of 1 texts have no score" in errors


def test_an_outage_is_said_while_it_lasts_and_ridden_out(storage, tmp_path, vocabulary):
    """Every request fails for 45 s, of which 30 are waited for without a word."""
    root = tmp_path / "data"
    root.mkdir()
    write_tiny_run(root, vocabulary, num_documents=20)
    upload(storage, root)
    storage.fault_share = 1.0
    threading.Timer(45, lambda: setattr(storage, "fault_share", 0.0)).start()
    verb = (*VERB, "train_vocabulary", "--gin.INPUT=gs://bkt/documents.jsonl")
    more = ("--gin.VOCAB_SIZE=300", "--gin.OUTPUT_DIR=gs://bkt/vocabulary_2")
    process = start(storage, *verb, *more)
    status, _, errors = finish(process)
    assert status == 0, errors
    assert "gs://bkt/" in errors and "waiting" in errors


def test_convert_goes_into_a_bucket_and_is_whole_after_a_kill(storage, tmp_path, vocabulary):
    root = tmp_path / "data"
    root.mkdir()
    write_tiny_run(root, vocabulary, num_documents=20)
    train = (*VERB, "train", f"--gin_file={root / 'model.gin'}")
    settings = (
        f"--gin.INPUT={root}/documents.jsonl",
        f"--gin.VOCABULARY_PATH={root}/vocabulary",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.TRAIN_STEPS=2",
        f"--gin.MODEL_DIR={root}/model",
    )
    succeed(start(storage, *train, *settings))
    succeed(start(storage, *VERB, "convert", f"--from={root}/model", f"--to_hf={root}/hf"))
    convert = (*VERB, "convert", f"--from_hf={root}/hf", "--to=gs://bkt/back")
    killed = start(storage, *convert, **QUICKLY)
    storage.on_first(r"^POST .*name=back/model.json", killed.kill)
    assert finish(killed)[0] < 0
    succeed(start(storage, *convert, **QUICKLY))
    generate = (*VERB, "generate", f"--gin.INPUT={root}/prompts.jsonl", "--gin.MAX_NEW_TOKENS=4")
    (root / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": {"text": "The"}}) + "\n")
    written = []
    for checkpoint in ("gs://bkt/back", f"{root}/model"):
        out = tmp_path / f"out{len(written)}"
        more = (f"--gin.CHECKPOINT_PATH={checkpoint}", f"--gin.OUTPUT_DIR={out}")
        succeed(start(storage, *generate, *more))
        written.append([file.read_bytes() for file in sorted(out.glob("generations-*"))])
    assert written[0] == written[1] and written[0]
