"""The rows of a store as they lie in its file, a page at a time: to read them in any other order takes several times as
long, since each page of the file would be read for each of its rows.

No snapshot is held. A row that is removed and inserted anew meanwhile has another number, behind all that were there:
so these are read as well, up to the last one that is there then, and once somebody else has written, rows whose id has
come before are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aembed.core.filters import Filter
from aembed.stores._row_pages import RowPage
from aembed.stores._sqlite._editions import top
from aembed.stores._sqlite._filters import on_metadata
from aembed.stores._sqlite._in_order import page_of

NEXT = """SELECT id, embedding, text, metadata, source, fingerprint, rowid FROM aembed_rows
    WHERE ({}) AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"""
# SQLite counts here, for one connection, what all others have written.
VERSION = "PRAGMA data_version"


class RowsAsWritten:
    """One reading. The hashes of a million ids are 8 MB; where somebody writes they are looked up, and take 60."""

    def __init__(self, wanted: Filter) -> None:
        condition, self._parameters = on_metadata(wanted)
        self._next = NEXT.format(condition)
        self._last, self._end = -(2**63), -(2**63)
        self._ends = 0
        self._version: tuple[Connection, int] | None = None
        self._hashes: list[NDArray[np.int64]] = []
        self._seen: set[int] | None = None

    def next_page(self, size: int, name: Path, connection: Connection) -> RowPage | None:
        """None at the end. A page may be empty."""
        while not (rows := connection.execute(self._next, [*self._parameters, self._last, self._end, size]).fetchall()):
            if self._ends == 2:
                return None
            self._ends, self._end = self._ends + 1, top(connection)
        self._last = rows[-1][-1]
        version = (connection, connection.execute(VERSION).fetchone()[0])
        self._version = self._version or version
        if version != self._version and self._seen is None:
            self._seen = {each for page in self._hashes for each in page.tolist()}
        return page_of(self._new(rows), name, connection)

    def _new(self, rows: Sequence[Any]) -> Sequence[Any]:
        if self._seen is None:
            self._hashes.append(np.fromiter((hash(row[0]) for row in rows), np.int64, len(rows)))
            return rows
        # Among ten million ids two have one hash once in 370,000 readings.
        seen = self._seen
        new = [row for row in rows if hash(row[0]) not in seen]
        seen.update(hash(row[0]) for row in new)
        return new
