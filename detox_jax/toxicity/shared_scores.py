"""Scores in a bucket, by what they are the score of: what outlives the machine that asked for them.

An object store has no SQLite. What one machine scored goes there in objects that are never written
again, named by the hash of what they hold, and each machine has a `ScoreStore` on its disk that it
asks, into which it takes every object once:

    gs://bucket/scores/DIGEST OF THE SCORER/SHA-256.jsonl
      {"schema_version": 1, "fingerprint": "…", "attribute": "toxicity"}
      {"text_sha256": "…", "score": 0.25}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping

from etils import epath

from detox_jax import user_cache
from detox_jax.errors import writing
from detox_jax.toxicity.score_store import ScoreStore

_SCHEMA_VERSION = 1
# What a killed machine may lose: so many scores, or those of so many seconds.
_MOST_UNSHARED = 1000
_SHARED_EVERY_S = 30.0


@dataclasses.dataclass
class SharedScores:
    """As `ScoreStore`, for a directory of a bucket that many machines share.

    Attributes:
      path: the directory.
      fingerprint: of the scorer.
      attribute: of the scorer, "toxicity" for most.
    """

    path: str
    fingerprint: str
    attribute: str

    def __post_init__(self):
        scorer = json.dumps([self.fingerprint, self.attribute])
        self._directory = epath.Path(self.path) / hashlib.sha256(scorer.encode()).hexdigest()[:16]
        file_name = f"{hashlib.sha256(self.path.encode()).hexdigest()[:16]}.sqlite"
        local = user_cache.directory("scores") / file_name
        self._local = ScoreStore(str(local), self.fingerprint, self.attribute)
        self._unshared, self._shared_at = 0, time.monotonic()
        self._take_over()
        self.flush()  # What a killed run on this machine had not shared.

    def get(self, texts: Iterable[str]) -> dict[str, float | None]:
        """See `ScoreStore`."""
        return self._local.get(texts)

    def put(self, scores: Mapping[str, float | None]) -> None:
        """Keeps scores here, and from time to time in the bucket.

        Raises:
          UserError: if the file on this machine's disk cannot be used.
          Unavailable: where the storage fails.
        """
        self._local.put(scores)
        self._unshared += len(scores)
        late = time.monotonic() - self._shared_at > _SHARED_EVERY_S
        if self._unshared >= _MOST_UNSHARED or late:
            self.flush()

    def flush(self) -> None:
        """Writes to the bucket what it does not hold yet; see `put` for errors."""
        self._unshared, self._shared_at = 0, time.monotonic()
        if not (scores := self._local.unshared()):
            return
        content = self._encoded(scores)
        name = _name(content)
        with writing(self._directory / name):
            (self._directory / name).write_bytes(content)
        self._local.put_shared(scores, name)

    def has_import(self, file_sha256: str) -> bool:
        """See `ScoreStore`."""
        return self._local.has_import(file_sha256)

    def put_import(self, scores: Mapping[str, float | None], origin: str, file_sha256: str) -> None:
        """See `ScoreStore`; the bucket needs no copy of what a file holds."""
        self._local.put_import(scores, origin, file_sha256)

    def _take_over(self) -> None:
        """Takes every object in that this machine does not have."""
        if not self._directory.exists():
            return
        taken = self._local.imports()
        for file in sorted(self._directory.glob("*.jsonl")):
            if file.name in taken:
                continue
            content = file.read_bytes()
            if _name(content) != file.name:
                print(f"warning: {file}: damaged; its scores are left out", file=sys.stderr)
                continue
            rows = [json.loads(line) for line in content.splitlines()[1:]]
            scores = {bytes.fromhex(row["text_sha256"]): row["score"] for row in rows}
            self._local.put_shared(scores, file.name)

    def _encoded(self, scores: Mapping[bytes, float | None]) -> bytes:
        head = {
            "schema_version": _SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "attribute": self.attribute,
        }
        rows = ({"text_sha256": key.hex(), "score": scores[key]} for key in sorted(scores))
        return "".join(json.dumps(line) + "\n" for line in (head, *rows)).encode()


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.jsonl"
