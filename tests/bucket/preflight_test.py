"""What preflight.py says of a bucket: all is well, or which package, role or bucket is missing."""

from __future__ import annotations

import pytest

from tests.bucket.conftest import finish, start
from tests.bucket.stand_in import Object
from tests.tpu_scripts.conftest import FAKE_JAX
from tests.tpu_scripts.flags_test import SCRIPTS

ROLES = "roles/storage.objectUser and roles/storage.legacyBucketReader (docs/TPU.md)"
NO_CLIENT = "import sys\nsys.modules['google.cloud.storage'] = None\n"


@pytest.fixture
def preflight(storage, tmp_path):
    """Runs it as the only worker: exit status, standard output, and the last line of errors."""
    packages = tmp_path / "packages"
    packages.mkdir()
    settings = {
        "WORKER_INDEX": "0",
        "NUM_WORKERS": "1",
        "COORDINATOR_IP": "127.0.0.1",
        "PYTHONPATH": str(packages),
        "JAX_PLATFORMS": "tpu",
    }

    def run(*more: str, bucket: str = "gs://bkt/runs", start_up: str = FAKE_JAX):
        (packages / "sitecustomize.py").write_text(start_up)
        script = SCRIPTS / "worker" / "preflight.py"
        flags = [f"--bucket={bucket}", *more, "--port=0"]  # any free port: nobody else is to come
        status, output, errors = finish(start(storage, script, *flags, **settings))
        return status, output, errors.strip().rpartition("\n")[2]

    return run


@pytest.mark.bucket
def test_a_checkpoint_is_saved_restored_and_removed(preflight, storage):
    objects = storage.buckets["bkt"]
    objects["runs/"] = objects["runs/other"] = Object(b"", generation=1)
    status, output, error = preflight()
    assert status == 0, error
    assert (
        "bucket: gs://bkt/runs can be written and read, and a checkpoint restored from it\n"
        "devices: 2 of 2 TPU v6 lite"
    ) in output
    assert sorted(objects) == ["runs/", "runs/other"]
    uploads = [request for request in storage.requests if request.startswith("POST /upload")]
    for step in (1, 2):
        assert any(f"/checkpoints/{step}/commit_success.txt" in request for request in uploads)


def test_a_missing_package_is_named(preflight):
    status, output, error = preflight(start_up=FAKE_JAX + NO_CLIENT)
    assert (status, "bucket:" in output) == (2, False)
    assert error.startswith(
        "preflight: gs://bkt/runs: google-cloud-storage is missing, which every checkpoint in "
        "gs:// needs; requirements.lock has it, so run setup.sh"
    )


def test_a_bucket_that_may_not_be_asked_about(preflight, storage):
    storage.refused = [r"^GET /storage/v1/b/bkt(\?|$)"]
    status, _, error = preflight()
    assert status == 2
    assert error.startswith(
        "preflight: gs://bkt/runs: the workers' account may not ask about the bucket "
        f"(storage.buckets.get); give it {ROLES}: "
    )


def test_no_such_bucket(preflight):
    assert preflight(bucket="gs://none/runs")[::2] == (
        2,
        "preflight: gs://none/runs: no such bucket",
    )


def test_a_bucket_with_a_hierarchical_namespace(preflight, storage):
    storage.hierarchical = True
    status, _, error = preflight()
    assert status == 2
    assert "hierarchical namespace" in error and "take a bucket without one" in error


def test_a_bucket_that_does_not_answer_is_not_waited_for(preflight):
    status, _, error = preflight("--bucket_timeout=0")
    assert status == 1
    assert error == "preflight: gs://bkt/runs: no checkpoint saved and restored within 0 s"


@pytest.mark.bucket
@pytest.mark.parametrize("refused", ["^POST", "^POST .*/params/.*/d/", "^DELETE"])
def test_objects_that_may_not_be_written_or_deleted(preflight, storage, refused):
    storage.refused = [refused]
    status, output, error = preflight()
    assert (status, "bucket:" in output) == (2, False)
    assert error.startswith(f"preflight: gs://bkt/runs: refused; give the workers' account {ROLES}")
    assert len(error) < 700


@pytest.mark.bucket
def test_another_error_may_be_mended_by_a_restart(preflight, storage):
    storage.on_first(r"^GET .*/checkpoints/2/commit_success.txt", storage.buckets["bkt"].clear)
    status, _, error = preflight()
    assert status == 1
    assert error.startswith("preflight: gs://bkt/runs: ")
