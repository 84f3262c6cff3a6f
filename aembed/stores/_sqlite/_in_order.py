"""The rows of a store in the order of their ids, a page at a time.

Where no index has that order, numbers and ids are read a piece at a time, and sorted by a SQLite of its own in a
temporary file; then the rows are read by their numbers. No snapshot of the store is held, and memory stays flat.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from operator import itemgetter
from sqlite3 import Connection
from typing import Any

from aembed.stores._rules import decode
from aembed.stores._sqlite._database import select_in
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._rows import meta, space, vector
from aembed.types import Embedded

IDS = "SELECT rowid, id FROM aembed_rows WHERE rowid > ? ORDER BY rowid LIMIT ?"
CREATE = "CREATE TABLE ids (number INTEGER NOT NULL, id TEXT NOT NULL)"
ADD = "INSERT INTO ids (number, id) VALUES (?, ?)"
SORTED = "SELECT number, id FROM ids ORDER BY id, number DESC"
COLUMNS = "id, embedding, text, metadata, source, fingerprint"
"""Of a row as it is read."""
NEXT_PAGE = """SELECT id, embedding, text, metadata, source, fingerprint FROM aembed_rows
    WHERE id >= ? ORDER BY id LIMIT ?"""
NUMBERED_PAGE = """SELECT id, embedding, text, metadata, source, fingerprint FROM aembed_rows
    WHERE rowid IN ({}) ORDER BY id"""
# Chosen: 200 rows of 1,536 floats are 1.2 MB. Larger, one snapshot is held for longer; smaller, each page is a hop into
# the thread and back.
ROWS_PER_PAGE = 200
# Chosen: 8,192 rows of 256 floats lie on 330 pages. Larger, others wait longer where no log is written ahead; smaller,
# there are more hops into the thread and back.
IDS_AT_ONCE = 8192


class SortedIds:
    """Used by one thread at a time."""

    def __init__(self) -> None:
        # An empty name is a temporary file of SQLite, which is removed when it is closed.
        self._sorter = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._sorter.execute("PRAGMA journal_mode = OFF")
        self._sorter.execute(CREATE)
        self._sorter.execute("BEGIN")
        self._last = -(2**63)
        self._sorted: Iterator[tuple[int, str]] = iter(())
        self._before: str | None = None

    def take_in(self, connection: Connection) -> bool:
        """Reads some ids; whether those were all."""
        rows = connection.execute(IDS, (self._last, IDS_AT_ONCE)).fetchall()
        self._sorter.executemany(ADD, rows)
        if rows:
            self._last = rows[-1][0]
        if len(rows) == IDS_AT_ONCE:
            return False
        self._sorted = self._sorter.execute(SORTED)
        return True

    def next(self, most: int) -> list[tuple[int, str]]:
        """Numbers and ids of the rows that come next, each id once; of one that was there twice while ids were read
        the later row."""
        found: list[tuple[int, str]] = []
        for number, id in self._sorted:
            if id != self._before:
                found.append((number, id))
                self._before = id
            if len(found) == most:
                break
        return found

    def close(self) -> None:
        self._sorter.close()


def read_page(start: str, index: int, connection: Connection) -> list[Embedded]:
    """The rows whose ids come at or after `start`, the first of them numbered `index`, where ids have an index."""
    return _embedded(connection.execute(NEXT_PAGE, (start, ROWS_PER_PAGE)).fetchall(), index, connection)


def read_sorted_page(keys: Keys, ids: SortedIds, index: int, connection: Connection) -> list[Embedded] | None:
    """The same of those that come next; None where there are none any more."""
    if not (asked := dict(ids.next(ROWS_PER_PAGE))):
        return None
    found = [row for row in select_in(connection, NUMBERED_PAGE, asked) if row[0] in asked.values()]
    # Rows that were removed, and inserted anew, have another number by now.
    if moved := set(asked.values()) - {row[0] for row in found}:
        found += [row[2:] for row in keys.by_ids(moved, COLUMNS, connection)]
        found.sort(key=itemgetter(0))
    return _embedded(found, index, connection)


def _embedded(found: Sequence[Any], index: int, connection: Connection) -> list[Embedded]:
    of, model = space(connection), meta(connection, "answered_by") or ""
    return [
        Embedded(id, index + i, vector(blob), text, decode(metadata), source, of, model, fingerprint)
        for i, (id, blob, text, metadata, source, fingerprint) in enumerate(found)
    ]
