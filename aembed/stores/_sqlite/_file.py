"""Opening one SQLite file, and noticing that it has gone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from aembed.errors import ConfigError, StoreError
from aembed.stores._sqlite._filters import MATCHES, matches

# With a write-ahead log and NORMAL, rows that were told as stored are lost in one simulated power cut of eight, and
# with FULL in none (SQLite 3.40, benchmarks.power_cuts).
PRAGMAS = ("synchronous = FULL", "wal_autocheckpoint = 2048")
"""A commit is on disk when it returns. The log is copied into the file every 64 MB (32 MB in files made earlier, with
pages of 16 KiB): the index over fingerprints, random by nature, then costs fewer bytes written."""


def path_of(path: str | os.PathLike[str]) -> Path:
    """The file that a path or a `sqlite:` URL means. Raises ConfigError for one that cannot be a file."""
    name = os.fspath(path)
    scheme, colon, rest = name.partition(":")
    if colon and scheme.partition("+")[0] == "sqlite":
        if "?" in rest:
            raise ConfigError("a sqlite: URL takes no parameters; give a file name that holds a ? as a plain path")
        if rest.startswith("//") and not rest.startswith("///") and rest != "//":
            raise ConfigError(f"sqlite:{rest} has two slashes; write sqlite:/{rest}")
        name = "" if rest == "//" else rest.removeprefix("///")
    if not name or "\0" in name:
        raise ConfigError("a SQLite store needs the name of a file: notes.db, or sqlite:///notes.db")
    if name == ":memory:":
        raise ConfigError("a SQLite store is a file; for one in memory write memory:")
    return Path(name)


BESIDE = ("-wal", "-shm")
"""Suffixes of the files that hold what is not in the main file yet, and that tell the processes of each other."""
HASH = "aembed_hash"
"""The name of `text_hash` in SQL, on connections of ours."""


class OpenFile:
    """The connection, and which files it has open. Used by the thread only, and once more at the very end."""

    def __init__(self, *, reads_only: bool = False) -> None:
        self._reads_only = reads_only
        self._connection: sqlite3.Connection | None = None
        self._files: dict[str, tuple[int, int]] = {}

    def connection(self, path: Path, timeout: float) -> sqlite3.Connection | None:
        """None where the file does not exist."""
        if self._connection is None and (identity := _identity(path)):
            self._files = {"": identity}
            self._connection = _connect(path, timeout, reads_only=self._reads_only)
        self.check(path)
        return self._connection

    def check(self, path: Path) -> None:
        """A file that was removed would take rows that nobody can read again; so would the log beside it."""
        for suffix, identity in self._files.items() if self._connection else ():
            if _identity(Path(f"{path}{suffix}")) != identity:
                self.close()
                raise StoreError(f"{path.name}{suffix} was removed or replaced while it was in use; run this again")

    def check_beside(self, path: Path) -> None:
        """After a transaction: the files beside the main one are there now, if they are used at all."""
        self.check(path)
        for suffix in BESIDE if self._connection else ():
            if suffix not in self._files and (found := _identity(Path(f"{path}{suffix}"))):
                self._files[suffix] = found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.close()


def text_hash(value: object, prepared: str = "") -> str | None:
    """What a text is known by in a column of fingerprints: SHA-256 of its UTF-8, as PostgreSQL columns have it.

    `prepared` tells how its vector was prepared, and stands before it; "" for a column without a preparation.
    """
    if value is None:
        return None
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return sha256(prepared.encode() + data).hexdigest()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path, timeout: float, *, reads_only: bool) -> sqlite3.Connection:
    # rw and not rwc, which would put an empty file in the place of one that is gone. With isolation_level=None the
    # sqlite3 module begins no transactions of its own. check_same_thread is off because the last close may come from
    # another thread.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (*PRAGMAS, f"query_only = {int(reads_only)}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function(MATCHES, 2, matches, deterministic=True)
        for parameters in (1, 2):
            connection.create_function(HASH, parameters, text_hash, deterministic=True)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def between_pages(connection: sqlite3.Connection) -> None:
    """A long read lets writes pass: where no log is written ahead, they would wait for its end.

    What is read after it is of a later moment.
    """
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("COMMIT")
        connection.execute("BEGIN")
