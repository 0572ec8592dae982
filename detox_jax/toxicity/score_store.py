"""Scores on disk, by what they are the score of: one SQLite file that many processes may share.

A row is found by SHA-256 of the text, the scorer's fingerprint and the attribute; no text is
stored. Every operation opens the file anew, so that neither a fork nor a killed process matters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from detox_jax.errors import Unavailable, UserError, in_one_line, storage_trouble

SCHEMA_VERSION = 1
# "dtxs": tells our files from other SQLite databases.
_APPLICATION_ID = 0x64747873
_WAIT_S = 60.0
_HEADER = b"SQLite format 3\0"
_ID_AT = slice(68, 72)  # where SQLite keeps the application's id
_FIRST_PAGE = 4096
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# A full disk, one that fails, a file that others hold: none is mended by another path.
_STORAGE_CODES = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
)
_TABLES = """
CREATE TABLE scores (
  text_sha256 BLOB, fingerprint TEXT, attribute TEXT, score REAL, origin TEXT,
  PRIMARY KEY (text_sha256, fingerprint, attribute)
) WITHOUT ROWID;
CREATE TABLE imports (
  file_sha256 TEXT, fingerprint TEXT, attribute TEXT,
  PRIMARY KEY (file_sha256, fingerprint, attribute)
) WITHOUT ROWID;
"""
_FIRST_TABLE = _TABLES.split(";")[0].strip().encode()
# A score is never overwritten, so that a replay gives what the first run gave.
_PUT = """
INSERT INTO scores VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET score = excluded.score, origin = excluded.origin
WHERE score IS NULL AND excluded.score IS NOT NULL
"""
_PUT_IMPORT = "INSERT OR IGNORE INTO imports VALUES (?, ?, ?)"
SCORED = "scored"  # the origin of a score that the scorer gave on this machine
# What is shared is the most of a file, and asked for again and again is the little that is not. In
# a file that no machines share nobody asks, and there is no index.
_INDEX_UNSHARED = f"""
CREATE INDEX IF NOT EXISTS unshared ON scores (fingerprint, attribute) WHERE origin = '{SCORED}'
"""
_UNSHARED = f"""
SELECT text_sha256, score FROM scores
WHERE fingerprint = ? AND attribute = ? AND origin = '{SCORED}'
"""
_Result = TypeVar("_Result")


class _UnusableError(Exception):
    """The file is no cache of this version."""


def text_key(text: str) -> bytes:
    """What stands for a text: SHA-256 of its UTF-8 bytes; a lone surrogate counts as itself."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclasses.dataclass(frozen=True)
class ScoreStore:
    """The scores that one scorer gave, in a file that other scorers may share.

    A file of another schema version, or a corrupted one, is set aside as `PATH.corrupt` with a
    warning, and a new one is begun: it holds nothing that the scorer cannot give again, so it must
    not end a run of hours. It is not removed, since a service's scores cost money and quota. A file
    that shows no trace of a cache is another program's, and left where it is.

    Attributes:
      path: of the SQLite file, on a local disk; made where it is missing.
      fingerprint: of the scorer.
      attribute: of the scorer, "toxicity" for most.
    """

    path: str
    fingerprint: str
    attribute: str

    def get(self, texts: Iterable[str]) -> dict[str, float | None]:
        """The texts that have a row, with their scores; None where the scorer had no answer.

        Raises:
          UserError: if the file cannot be used.
        """

        def read(database: sqlite3.Connection) -> dict[str, float | None]:
            scores = {}
            query = (
                "SELECT score FROM scores WHERE text_sha256 = ? AND fingerprint = ?"
                " AND attribute = ?"
            )
            for text in texts:
                key = (text_key(text), self.fingerprint, self.attribute)
                if row := database.execute(query, key).fetchone():
                    scores[text] = row[0]
            return scores

        texts = list(texts)
        return self._with_database(read)

    def put(self, scores: Mapping[str, float | None], origin: str = SCORED) -> None:
        """Keeps scores, all or none; a score that is there already stays.

        Args:
          scores: by text.
          origin: "scored", or the name of an imported file.

        Raises:
          UserError: if the file cannot be used.
        """
        rows = self._rows(scores, origin)
        self._with_database(lambda database: database.executemany(_PUT, rows))

    def has_import(self, file_sha256: str) -> bool:
        """Whether a file with this hash has been imported for this scorer."""
        query = "SELECT 1 FROM imports WHERE file_sha256 = ? AND fingerprint = ? AND attribute = ?"
        key = (file_sha256, self.fingerprint, self.attribute)
        return bool(self._with_database(lambda database: database.execute(query, key).fetchone()))

    def imports(self) -> set[str]:
        """The hashes of all files that have been imported for this scorer."""
        query = "SELECT file_sha256 FROM imports WHERE fingerprint = ? AND attribute = ?"
        values = (self.fingerprint, self.attribute)
        return self._with_database(lambda database: {x for (x,) in database.execute(query, values)})

    def put_import(self, scores: Mapping[str, float | None], origin: str, file_sha256: str) -> None:
        """Keeps the scores of a file, and that it was imported, in one transaction."""
        rows = self._rows(scores, origin)

        def write(database: sqlite3.Connection) -> None:
            database.executemany(_PUT, rows)
            database.execute(_PUT_IMPORT, (file_sha256, self.fingerprint, self.attribute))

        self._with_database(write)

    def flush(self) -> None:
        """Does nothing: what was put is in the file."""

    def unshared(self) -> dict[bytes, float | None]:
        """By `text_key`, what was scored and never marked with `put_shared`."""
        values = (self.fingerprint, self.attribute)

        def read(database: sqlite3.Connection) -> dict[bytes, float | None]:
            database.execute(_INDEX_UNSHARED)
            return dict(database.execute(_UNSHARED, values))

        return self._with_database(read)

    def put_shared(self, scores: Mapping[bytes, float | None], name: str) -> None:
        """Keeps the scores of an object that machines share, and that they are in it.

        Args:
          scores: by `text_key`.
          name: of the object, which then counts as imported.
        """
        scorer = (self.fingerprint, self.attribute)
        rows = [(key, *scorer, score, name) for key, score in scores.items()]
        query = (
            "UPDATE scores SET origin = ? WHERE text_sha256 = ? AND fingerprint = ?"
            f" AND attribute = ? AND origin = '{SCORED}'"
        )

        def write(database: sqlite3.Connection) -> None:
            database.executemany(_PUT, rows)
            database.executemany(query, [(name, key, *scorer) for key in scores])
            database.execute(_PUT_IMPORT, (name, *scorer))

        self._with_database(write)

    def _rows(self, scores: Mapping[str, float | None], origin: str) -> list[tuple]:
        return [
            (text_key(text), self.fingerprint, self.attribute, score, origin)
            for text, score in scores.items()
        ]

    def _with_database(self, use: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Runs `use` in a transaction; once more on a new file where the old one is corrupted."""
        try:
            try:
                return _run(self.path, use)
            except _UnusableError:
                return _run(self.path, use)
        except (OSError, sqlite3.Error, _UnusableError) as error:
            if _is_of_storage(error):
                raise Unavailable(
                    f"{self.path}: cannot be used as a score cache: {in_one_line(error)}; the "
                    "scores in it are kept: make room or mend the storage, then run the same "
                    "command again"
                ) from None
            raise UserError(
                f"{self.path}: cannot be used as a score cache: {in_one_line(error)}; "
                "give another path"
            ) from None


def _is_of_storage(error: Exception) -> bool:
    """Whether the disk is full or fails, or another process holds the file, however good it is."""
    # Of an extended code the last byte is the kind.
    kind = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    is_held = isinstance(error, TimeoutError)  # the lock's
    return is_held or storage_trouble(error) is not None or kind in _STORAGE_CODES


def _run(path: str, use: Callable[[sqlite3.Connection], _Result]) -> _Result:
    with contextlib.closing(_open(path)) as database:
        try:
            with database:
                return use(database)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            reason = str(error)
    with _lock(path):
        # Another process may have set it aside by now.
        if not _is_sound(path):
            _set_aside(path, reason)
    raise _UnusableError(reason)


def _open(path: str) -> sqlite3.Connection:
    """A connection to a cache of this version, which is made or made anew where it must be."""
    # Without the lock another process may set it aside while we look: with it we look again.
    with contextlib.suppress(_UnusableError, FileNotFoundError):
        if os.path.exists(path):
            return _checked(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        try:
            if os.path.exists(path):
                return _checked(path)
        except _UnusableError as error:
            _set_aside(path, str(error))
        _create(path)
        return _checked(path)


def _checked(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != _APPLICATION_ID:
            raise UserError(f"{path}: is another program's SQLite database; give another path")
        if version != SCHEMA_VERSION:
            require_ours(path)
            raise _UnusableError(f"is a cache of version {version}, not {SCHEMA_VERSION}")
        database.execute("PRAGMA synchronous = NORMAL")
        return database
    except sqlite3.DatabaseError as error:
        database.close()
        if _is_corrupt(error):
            require_ours(path)
            raise _UnusableError(str(error)) from None
        raise
    except BaseException:
        database.close()
        raise


def require_ours(path: str) -> None:
    """Refuses a file that shows no trace of a cache: a results.json, say, would be moved away.

    What a power cut leaves is empty, zeros, or has its header or its first table's statement; and
    no other program has SQLite keep a write-ahead log beside its file.

    Raises:
      UserError: if it is a file of something else.
    """
    with open(path, "rb") as file:
        page = file.read(_FIRST_PAGE)
    is_sqlite = page.startswith(_HEADER)
    if is_sqlite:
        is_ours = page[_ID_AT] == _APPLICATION_ID.to_bytes(4, "big")
    else:
        is_cut = _HEADER.startswith(page)
        is_ours = is_cut or not any(page) or _FIRST_TABLE in page or os.path.exists(f"{path}-wal")
    if not is_ours:
        kind = "another program's SQLite database" if is_sqlite else "no score cache"
        raise UserError(f"{path}: is {kind}; give another path")


def _create(path: str) -> None:
    """Makes an empty cache; it appears whole, as others may open it at any moment."""
    new = f"{path}.new"
    for suffix in ("", "-wal", "-shm"):
        Path(new + suffix).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(new)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(
            f"BEGIN; PRAGMA application_id = {_APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; {_TABLES} COMMIT;"
        )
    os.replace(new, path)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _CORRUPT


def _is_sound(path: str) -> bool:
    """Whether every page of the file can be read."""
    try:
        with contextlib.closing(_checked(path)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except (sqlite3.DatabaseError, _UnusableError):
        return False


def _set_aside(path: str, reason: str) -> None:
    """Renames the file and the two that SQLite keeps beside it; a warning says so."""
    aside = next(name for name in _names(f"{path}.corrupt") if not os.path.exists(name))
    # A write-ahead log that stayed would be replayed into the new file.
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path + suffix, aside + suffix)
    print(
        f"warning: {path}: {reason}; a new cache is begun, the old file is {aside}",
        file=sys.stderr,
    )


def _names(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}-{number}"
        number += 1


def _lock(path: str) -> FileLock:
    """Held while the file is made or set aside; not while it is used."""
    return FileLock(f"{path}.lock", timeout=_WAIT_S)
