"""Where the rows of tests/simulation/batches.py are: in a store, or in a column of a table of the user's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aembed import Embedder, Record, Report, SQLiteColumn, SQLiteStore
from aembed.types import Vector
from tests.simulation.files import Process, SharedFile, threads_of


class Place(Protocol):
    """`opened` gives it as one process has it."""

    def opened(self, process: Process) -> Any: ...

    def edit(self, changes: Mapping[str, str]) -> None:
        """What the user does: these ids have these texts from now on."""
        ...

    async def run(self, embedder: Embedder, opened: Any, texts: Mapping[str, str], **options: Any) -> Report: ...

    def rows(self) -> Mapping[str, tuple[str, Vector]]:
        """Text and vector of each id that has one."""
        ...


@dataclass(frozen=True)
class InStore:
    path: Path
    file: SharedFile
    keeps_texts = True
    """A text that stands in a row is bought no more for another one."""

    @contextmanager
    def opened(self, process: Process) -> Iterator[SQLiteStore]:
        with _mortal(SQLiteStore(self.path), self.file, process) as store:
            yield store

    def edit(self, changes: Mapping[str, str]) -> None:
        pass

    async def run(self, embedder: Embedder, opened: Any, texts: Mapping[str, str], **options: Any) -> Report:
        return await embedder.embed_into(opened, [Record(id, text) for id, text in texts.items()], **options)

    def rows(self) -> Mapping[str, tuple[str, Vector]]:
        return _rows_in(self.path, "SELECT id, text, embedding FROM aembed_rows")


@dataclass(frozen=True)
class InColumn:
    path: Path
    file: SharedFile
    keeps_texts = False

    def __post_init__(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT, embedding BLOB)")

    @contextmanager
    def opened(self, process: Process) -> Iterator[SQLiteColumn]:
        with _mortal(SQLiteColumn(self.path, "notes", text="body"), self.file, process) as column:
            yield column

    def edit(self, changes: Mapping[str, str]) -> None:
        rows = [(id, text) for id, text in changes.items()]
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO notes (id, body) VALUES (?, ?)", rows)

    async def run(self, embedder: Embedder, opened: Any, texts: Mapping[str, str], **options: Any) -> Report:
        return await embedder.backfill(opened, **options)

    def rows(self) -> Mapping[str, tuple[str, Vector]]:
        return _rows_in(self.path, "SELECT id, body, embedding FROM notes WHERE embedding IS NOT NULL")


@contextmanager
def _mortal(opened: Any, file: SharedFile, process: Process) -> Iterator[Any]:
    file.open_for(process, opened._database)
    try:
        yield opened
    finally:
        for worker in threads_of(opened._database):
            worker.file.close()


def _rows_in(path: Path, query: str) -> Mapping[str, tuple[str, Vector]]:
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name IN ('aembed_rows', 'notes')").fetchone():
            return {}
        return {id: (text, np.frombuffer(blob, "<f4")) for id, text, blob in connection.execute(query)}
