"""Verbs with all that they read and write in gs://: the bytes of a local disk, few requests."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest

from tests.bucket.conftest import cut_sentences, finish, put_tiny_run, start, succeed
from tests.conftest import SENTENCES

pytestmark = pytest.mark.bucket
CHAIN = Path(__file__).with_name("chain.py")
# At most so many, of which a rerun of the finished verb makes the second; docs/RELIABILITY.md shows
# those that were counted.
MOST = {
    "train": (520, 40),
    "generate": (120, 80),
    "score": (80, 30),
    "filter": (50, 20),
    "evaluate": (150, 30),
    "report": (120, 60),
    "train_vocabulary": (40, 20),
}
QUICKLY = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000"}  # TensorFlow's pause; else a second
# TensorBoard's and Orbax's own files hold the time; gin breaks lines by the length of a
# path, and the report's manifest has the hash of a file that names one.
OTHERWISE = re.compile(r"tensorboard/|checkpoints/|config\.gin$|report/manifest\.json$")


@pytest.fixture
def data(storage, tmp_path, vocabulary) -> Path:
    """What the chain reads, here and at the top of the bucket."""
    prompts = cut_sentences()
    for i, prompt in enumerate(prompts):
        prompt["prompt"]["toxicity"] = i / 6
    scored = [{"id": str(i), "text": text, "toxicity": i / 6} for i, text in enumerate(SENTENCES)]
    rows = {"prompts": prompts, "scored_documents": scored}
    return put_tiny_run(storage, tmp_path / "data", vocabulary, **rows)


def outputs_of(files: dict[str, bytes], root: str) -> dict[str, bytes]:
    """What must be the same wherever it was written, but for the place's name."""
    return {
        name: content.replace(root.encode(), b"ROOT")
        for name, content in files.items()
        # TensorFlow makes an object of every directory.
        if "/" in name and not name.endswith("/") and not OTHERWISE.search(name)
    }


def in_bucket(storage) -> dict[str, bytes]:
    return outputs_of(
        {name: each.data for name, each in storage.buckets["bkt"].items()}, "gs://bkt"
    )


def on_disk(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*.*") if path.is_file()]
    return outputs_of({str(path.relative_to(root)): path.read_bytes() for path in files}, str(root))


def requests_by_verb(storage, *command) -> dict[str, list[str]]:
    """Runs the chain; the requests that each verb made."""
    process = start(storage, *command)
    made, before = {}, len(storage.requests)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("done "):
            made[line.split()[1]] = storage.requests[before:]
            before = len(storage.requests)
    status, _, errors = finish(process)
    assert status == 0, errors
    return made


def test_the_chain_writes_what_it_writes_on_a_disk_with_few_requests(storage, data):
    local = start(storage, CHAIN, data, data / "model.gin")
    first = requests_by_verb(storage, CHAIN, "gs://bkt", data / "model.gin")
    succeed(local)
    written, expected = in_bucket(storage), on_disk(data)
    assert written.keys() == expected.keys()
    different = sorted(name for name in expected if written[name] != expected[name])
    assert different == []
    assert not [name for name in storage.buckets["bkt"] if ".partial" in name]
    again = requests_by_verb(storage, CHAIN, "gs://bkt", data / "model.gin")
    counts = {verb: (len(first[verb]), len(again[verb])) for verb in MOST}
    print(counts)  # for docs/RELIABILITY.md: pytest -s
    for verb, most in MOST.items():
        assert all(made <= bound for made, bound in zip(counts[verb], most, strict=True)), verb
        assert not [line for line in again[verb] if "/upload/" in line], verb
    assert in_bucket(storage) == written


def test_passing_faults_and_a_kill_change_nothing(storage, data):
    local = start(storage, CHAIN, data, data / "model.gin")
    storage.fault_share = 0.05
    storage.on_first(r"^POST .*name=scored/scored-", lambda: killed.kill())
    command = (CHAIN, "gs://bkt", data / "model.gin")
    killed = start(storage, *command, **QUICKLY)
    assert finish(killed)[0] < 0
    succeed(start(storage, *command, **QUICKLY))
    succeed(local)
    assert storage.faults > 20
    written, expected = in_bucket(storage), on_disk(data)
    assert written.keys() == expected.keys()
    assert not [name for name in expected if written[name] != expected[name]]


# Clients wait before they ask again, a second and then twice as long: who asks for everything once
# has its answer with the last request.
@pytest.mark.parametrize(
    ("root", "refused", "verb", "told"),
    [
        ("gs://none", [], "generate", "CHECKPOINT_PATH=gs://none/model"),
        ("gs://none", [], "train", "VOCABULARY_PATH=gs://none/vocabulary"),
        ("gs://bkt", [".*upload.*"], "train_vocabulary", "gs://bkt/new_vocabulary"),
        ("gs://bkt", [".*upload.*"], "filter", "gs://bkt/filtered"),
        ("gs://bkt", ["."], "filter", "filtered/manifest.json"),
    ],
)
def test_a_missing_bucket_or_role_is_one_line_and_not_asked_for_again(
    storage, data, root, refused, verb, told
):
    storage.refused = refused
    status, _, errors = finish(start(storage, CHAIN, root, data / "model.gin", verb))
    assert status == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("detox-jax: error: ") and told in errors
    denied = re.compile("|".join(refused) or ".")
    asked = collections.Counter(request for request in storage.requests if denied.search(request))
    assert asked and max(asked.values()) <= 2, asked.most_common(3)
