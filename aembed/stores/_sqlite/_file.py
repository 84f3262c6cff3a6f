"""What a SQLite file is named by, and what our connections to it know besides."""

from __future__ import annotations

import os
import sqlite3
from hashlib import sha256
from pathlib import Path

from aembed.errors import ConfigError


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


HASH = "aembed_hash"
"""The name of `text_hash` in SQL, on connections of ours."""


def text_hash(value: object, prepared: str = "") -> str | None:
    """What a text is known by in a column of fingerprints: SHA-256 of its UTF-8, as PostgreSQL columns have it.

    `prepared` tells how its vector was prepared, and stands before it; "" for a column without a preparation.
    """
    if value is None:
        return None
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return sha256(prepared.encode() + data).hexdigest()


def between_pages(connection: sqlite3.Connection) -> None:
    """A long read lets writes pass: where no log is written ahead, they would wait for its end.

    What is read after it is of a later moment.
    """
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("COMMIT")
        connection.execute("BEGIN")
