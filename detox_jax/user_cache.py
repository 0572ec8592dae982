"""The user's cache directory: what can be made again, all of which may be removed at any time."""

from __future__ import annotations

import os
from pathlib import Path


def directory(kind: str) -> Path:
    """Where a kind of it lies on this machine; it need not exist.

    Args:
      kind: such as "compiled" or "models".
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "detox-jax" / kind
