"""How a page's content security policy names the scripts and styles that it holds."""

from __future__ import annotations

import base64
import hashlib


def source_hash(text: str) -> str:
    """`sha256-...`, of what stands between the tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
