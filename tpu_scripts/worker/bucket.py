"""On a worker: can this machine write to the bucket, and save and restore a checkpoint there?

A process of its own for preflight.py, which can end it where the bucket never answers, and which
keeps it off the TPU. Each worker tries for itself, in a directory that is removed again. What is
wrong is one line on standard output, with status 1, or 2 where no restart mends it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import platform
import sys
import textwrap
import time
import uuid

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError

ROLES = "roles/storage.objectUser and roles/storage.legacyBucketReader (docs/TPU.md)"


def main() -> int:
    """Tries the bucket; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--worker", required=True)
    args = parser.parse_args()
    is_google = args.bucket.startswith("gs://")
    try:
        if is_google:
            ask_about(args.bucket.removeprefix("gs://").partition("/")[0])
        try_directory(epath.Path(args.bucket) / f".preflight-{uuid.uuid4().hex}-{args.worker}")
    except Exception as error:  # every client of the bucket has errors of its own
        reason = textwrap.shorten(str(error), 400)  # tensorstore's errors hold its whole settings
        refused = is_google and "permission" in f"{type(error).__name__} {reason}".lower()
        advice = f"refused; give the workers' account {ROLES}: " if refused else ""
        print(f"{args.bucket}: {advice}{reason}")
        return 2 if refused or isinstance(error, UserError) else 1
    return 0


def ask_about(name: str) -> None:
    """Asks Google Cloud what Orbax asks before it looks for steps.

    Raises:
      UserError: if a package, a role or the bucket is missing, or the bucket is of the wrong kind.
    """
    try:
        from google.api_core import exceptions
        from google.cloud import storage
    except ImportError as error:
        raise UserError(
            "google-cloud-storage is missing, which every checkpoint in gs:// needs; "
            f"requirements.lock has it, so run setup.sh ({error})"
        ) from None
    try:
        bucket = storage.Client().get_bucket(name)
    except exceptions.NotFound:
        raise UserError("no such bucket") from None
    except exceptions.Forbidden as error:
        raise UserError(
            "the workers' account may not ask about the bucket (storage.buckets.get); give it "
            f"{ROLES}: {error.message}"
        ) from None
    has_control = importlib.util.find_spec("google.cloud.storage_control_v2")
    if bucket.hierarchical_namespace_enabled and not has_control:
        raise UserError(
            "the bucket has a hierarchical namespace, where Orbax deletes no step without "
            "google-cloud-storage-control; take a bucket without one"
        )


def try_directory(directory: epath.Path) -> None:
    """Writes a file, saves two steps of which the first is deleted again, restores, removes all.

    Raises:
      RuntimeError: if what is read is not what was written.
    """
    try:
        write_to(directory / "file")
        save_and_restore(directory)
    except Exception:
        with contextlib.suppress(Exception):  # the first error is the one that tells
            directory.rmtree(missing_ok=True)
        raise
    directory.rmtree()


def write_to(path: epath.Path) -> None:
    """Writes and reads a file.

    Raises:
      RuntimeError: if what is read is not what was written.
    """
    content = f"{platform.node()} {time.time()}"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    if path.read_text() != content:
        raise RuntimeError(f"{path} reads differently from what was written")


def save_and_restore(model_dir: epath.Path) -> None:
    """Does to a small array what training does to a model.

    Raises:
      RuntimeError: if other steps are left than should be, or what is restored differs.
    """
    params = {"x": jax.numpy.arange(8.0)}
    with checkpoints.manager(model_dir, max_to_keep=1) as manager:
        for step in (1, 2):
            saved = ocp.args.Composite(params=ocp.args.StandardSave(params))
            manager.save(step, args=saved)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, params)
    try:
        restored = checkpoints.restore_arrays(model_dir, 2, "params", abstract)
    except UserError as error:  # Damage a moment after the save is the storage's, nobody's mistake.
        raise RuntimeError(str(error)) from error
    if checkpoints.saved_steps(model_dir) != [2] or not np.array_equal(restored["x"], params["x"]):
        raise RuntimeError(f"{model_dir}: a checkpoint is restored differently from what was saved")


if __name__ == "__main__":
    sys.exit(main())
