"""Rows for the stores' tests."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np

from aembed.types import Matrix, Metadata, Rows, Space

Unprivileged = Callable[[], AbstractContextManager[None]]
SPACE = Space("fake", "letters", 4)

URLS: dict[str, Callable[[Path, str], str]] = {
    "memory": lambda folder, database: "memory:",
    "postgresql": lambda folder, database: f"{database}?table=t_{uuid.uuid4().hex}",
    "sqlite": lambda folder, database: f"sqlite:///{folder / 'notes.db'}",
}
"""How to make an empty store of each scheme, in a folder or in a database; a new store adds its line."""

NewPlace = Callable[[str, Path], str]
"""Scheme and folder to the URL of an empty store."""


def vectors(n: int, dimensions: int = 4, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).standard_normal((n, dimensions), dtype=np.float32)


def rows(
    ids: Sequence[str],
    matrix: Matrix | None = None,
    *,
    metadata: Sequence[Metadata | None] | None = None,
    source: str | None = None,
    edition: str = "1",
) -> Rows:
    """Text, fingerprint and digest follow from the id and the edition."""
    return Rows(
        ids,
        [f"text {edition} of {id}" for id in ids],
        metadata or [None] * len(ids),
        [source] * len(ids),
        [fingerprint(id, edition) for id in ids],
        [digest(id, edition) for id in ids],
        vectors(len(ids)) if matrix is None else matrix,
    )


def fingerprint(id: str, edition: str = "1") -> bytes:
    return f"fingerprint {edition} {id}".encode()


def digest(id: str, edition: str = "1") -> bytes:
    return f"digest {edition} {id}".encode()


def digests(ids: Sequence[str], edition: str = "1") -> dict[str, bytes]:
    return {id: digest(id, edition) for id in ids}


def fingerprints(ids: Sequence[str], edition: str = "1") -> dict[str, bytes]:
    return {id: fingerprint(id, edition) for id in ids}


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Read by a connection of its own."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def count(path: Path) -> object:
    return query(path, "SELECT count(*) FROM aembed_rows")[0][0]


def unit(*values: float) -> Any:
    return np.array(values, dtype=np.float32)
