"""The rows of a store in the order of their ids, a page at a time.

Where no index has that order, numbers and ids are read a piece at a time, and sorted by a SQLite of its own in a
temporary file; then the rows are read by their numbers. No snapshot of the store is held, and memory stays flat.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.stores._row_pages import RowPage
from aembed.stores._rules import decode
from aembed.stores._sqlite._database import in_pieces, matrix_of
from aembed.stores._sqlite._filters import on_metadata
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._rows import meta, space

IDS = "SELECT rowid, id FROM aembed_rows WHERE ({}) AND rowid > ? ORDER BY rowid LIMIT ?"
CREATE = "CREATE TABLE ids (number INTEGER NOT NULL, id TEXT NOT NULL)"
ADD = "INSERT INTO ids (number, id) VALUES (?, ?)"
SORTED = "SELECT number, id FROM ids WHERE id >= ? ORDER BY id, number DESC"
COLUMNS = "id, embedding, text, metadata, source, fingerprint"
"""Of a row as it is read."""
NEXT_PAGE = """SELECT id, embedding, text, metadata, source, fingerprint FROM aembed_rows
    WHERE ({}) AND id >= ? ORDER BY id LIMIT ?"""
NUMBERED_PAGE = """SELECT id, embedding, text, metadata, source, fingerprint FROM aembed_rows
    WHERE rowid IN ({}) AND ({})"""
"""They are put in order afterwards: SQLite would take the vectors along while it sorts."""
# Chosen: 8,192 rows of 256 floats lie on 330 pages. Larger, others wait longer where no log is written ahead; smaller,
# there are more hops into the thread and back.
IDS_AT_ONCE = 8192


def first_after(after: str | None) -> str:
    """The first id that may come behind that one: text is compared byte by byte, so that nothing lies between an id and
    the same one with a NUL behind it."""
    return "" if after is None else after + "\0"


class SortedIds:
    """The ids of the rows that pass the filter, from `start` on. Used by one thread at a time."""

    def __init__(self, wanted: Filter, start: str) -> None:
        self._wanted, self._start = wanted, start
        # An empty name is a temporary file of SQLite, which is removed when it is closed.
        self._sorter = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._sorter.execute("PRAGMA journal_mode = OFF")
        self._sorter.execute(CREATE)
        self._sorter.execute("BEGIN")
        self._last = -(2**63)
        self._sorted: sqlite3.Cursor | None = None
        self._before: str | None = None

    def take_in(self, connection: Connection) -> bool:
        """Reads some ids; whether those were all."""
        condition, parameters = on_metadata(self._wanted)
        rows = connection.execute(IDS.format(condition), [*parameters, self._last, IDS_AT_ONCE]).fetchall()
        self._sorter.executemany(ADD, rows)
        if rows:
            self._last = rows[-1][0]
        if len(rows) == IDS_AT_ONCE:
            return False
        self._sorted = self._sorter.execute(SORTED, (self._start,))
        return True

    def next(self, most: int) -> list[tuple[int, str]]:
        """Numbers and ids of the rows that come next, each id once; of one that was there twice while ids were read
        the later row."""
        rows = self._sorted.fetchmany(most) if self._sorted else []
        found = {id: number for number, id in reversed(rows) if id != self._before}
        if rows and not found:
            return self.next(most)
        self._before = rows[-1][1] if rows else None
        return [(number, id) for id, number in reversed(found.items())]

    def close(self) -> None:
        self._sorter.close()


def read_page(wanted: Filter, size: int, name: Path, start: str, connection: Connection) -> RowPage:
    """The rows that pass the filter and whose ids come at or after `start`, where ids have an index."""
    condition, parameters = on_metadata(wanted)
    found = connection.execute(NEXT_PAGE.format(condition), [*parameters, start, size]).fetchall()
    return page_of(found, name, connection)


def read_sorted_page(
    keys: Keys, ids: SortedIds, wanted: Filter, size: int, name: Path, connection: Connection
) -> RowPage | None:
    """The same of those that come next; None where there are none any more."""
    if not (asked := dict(ids.next(size))):
        return None
    condition, parameters = on_metadata(wanted)
    left, found = set(asked.values()), list[Any]()
    for piece, marks in in_pieces(connection, asked, len(parameters)):
        rows = connection.execute(NUMBERED_PAGE.format(marks, condition), [*piece, *parameters])
        found += (row for row in rows if row[0] in left)
    # Rows that were removed, and inserted anew, have another number by now. So have those, with any filter, that pass
    # it no more.
    if moved := left.difference(row[0] for row in found):
        again = (row[2:] for row in keys.by_ids(moved, COLUMNS, connection))
        found += (row for row in again if wanted.matches(decode(row[3])))
    found.sort(key=itemgetter(0))
    return page_of(found, name, connection)


def read_ids(keys: Keys, ids: Sequence[str], name: Path, connection: Connection) -> RowPage:
    """The rows that have these ids."""
    return page_of([row[2:] for row in keys.by_ids(ids, COLUMNS, connection)], name, connection)


def page_of(found: Sequence[Any], name: Path, connection: Connection) -> RowPage:
    """Of rows that begin with the columns of COLUMNS."""
    of, model = space(connection), meta(connection, "answered_by") or ""
    ids, blobs, texts, metadata, sources, fingerprints, *_ = zip(*found, strict=True) if found else ((),) * 6
    matrix = matrix_of(blobs, (of.dimensions if of else None) or 0, name)
    return RowPage(ids, texts, metadata, sources, fingerprints, matrix, of, model)
