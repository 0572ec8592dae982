"""What the plain package leaves to the extras `train` and `parquet`, and the line that says so."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from detox_jax.errors import UserError

TRAIN = "pip install 'detox-jax[train]'"
# The extra that brings a package: seqio's tasks, the TensorFlow under them, the log of a training;
# Parquet and Arrow, which `train` brings too.
EXTRAS = {
    **dict.fromkeys(
        (
            "clu",
            "importlib_resources",
            "seqio",
            "tensorboard",
            "tensorflow",
            "tensorflow_datasets",
            "tensorflow_text",
        ),
        "train",
    ),
    "pyarrow": "parquet",
}
_NO_MODULE = re.compile(r"No module named '(?P<package>\w+)")
# What etils and fsspec say of a path in a bucket, which TensorFlow reads where it is installed.
_BUCKET_WORDS = ("gcsfs", "gs://")


def missing(error: BaseException, what: str) -> str | None:
    """What to install, where an import fails for want of an extra.

    Args:
      error: that ended an import.
      what: that cannot go on: a verb, a file.

    Returns:
      One line, or None where no extra has anything to do with it.

    >>> missing(ModuleNotFoundError("No module named 'seqio'"), "train")
    "train needs seqio: pip install 'detox-jax[train]'"
    """
    if not isinstance(error, ImportError):
        return None
    # Gin raises another error in place of the import's, which has its words and not its name.
    named = _NO_MODULE.search(str(error))
    if named and (extra := EXTRAS.get(named["package"])):
        return f"{what} needs {named['package']}: pip install 'detox-jax[{extra}]'"
    if any(word in str(error) for word in _BUCKET_WORDS):
        return f"{what}: a path in a bucket needs TensorFlow: {TRAIN}"
    return None


@contextlib.contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Says in one line what to install, where what happens inside needs an extra.

    Args:
      what: that needs it: a verb.

    Raises:
      UserError: in place of the import's error.
    """
    try:
        yield
    except ImportError as error:
        if line := missing(error, what):
            raise UserError(line) from None
        raise
