"""Vectors of a store that are kept in memory between searches, and brought up to date row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path
from sqlite3 import Connection

import numpy as np

from aembed.stores._search import SearchChunk
from aembed.stores._sqlite._database import matrix_of, select_in
from aembed.types import Matrix, Vector

SEEN = "SELECT rowid, id, fingerprint FROM aembed_rows WHERE rowid <= ?"
FIRST = "SELECT rowid, id, embedding FROM aembed_rows WHERE rowid <= ?"
BEYOND = "SELECT rowid, id, embedding FROM aembed_rows WHERE rowid > ?"
SOME = "SELECT rowid, id, embedding FROM aembed_rows WHERE rowid IN ({})"

# SQLite's largest rowid: all rows are kept until there are too many.
LARGEST = 2**63 - 1
# Chosen: while a block is read, it is in memory three times: as rows, joined, and in its place. Smaller, numpy is
# called more often in each search.
BLOCK_BYTES = 16 * 1024 * 1024


class SearchedRows:
    """The first rows of a store, as many as are small enough; those beyond them are read each time.

    A row of the same id and fingerprint has the same vector, unless it was written here: `renewed` has those numbers.
    """

    def __init__(self, dimensions: int, name: Path, most_bytes: int) -> None:
        self.dimensions = dimensions
        self._name = name
        self._most_rows = most_bytes // (dimensions * 4)
        self._block_rows = max(1, BLOCK_BYTES // (dimensions * 4))
        self._last = LARGEST
        self._matrices: list[Matrix] = []
        self._lengths: list[Vector] = []
        self._ids: list[list[str]] = []
        self._rows: list[int] = []
        self._places: dict[int, int] = {}
        self._seen: dict[int, tuple[str, bytes]] = {}

    def chunks(self, connection: Connection) -> Iterator[SearchChunk]:
        for ids, matrix, lengths in zip(self._ids, self._matrices, self._lengths, strict=True):
            yield SearchChunk(ids, matrix[: len(ids)], lengths[: len(ids)])
        if self._last < LARGEST:
            for _, chunk in self._read(connection.execute(BEYOND, (self._last,))):
                yield chunk

    def update(self, renewed: AbstractSet[int], connection: Connection) -> None:
        """To what the connection's snapshot holds."""
        # Chosen: half. Were any free place enough, a store that is just too large would take rows in and push them out
        # again in turn.
        if len(self._rows) < self._most_rows // 2:
            self._last = LARGEST
        found = connection.execute(SEEN, (self._last,))
        seen: dict[int, tuple[str, bytes]] = {row: (id, fingerprint) for row, id, fingerprint in found}
        changed = renewed | {row for row, _ in self._seen.items() ^ seen.items()}
        for row in changed & self._places.keys():
            self._remove(row)
        wanted = sorted(changed & seen.keys())
        if len(wanted) > (room := self._most_rows - len(self._rows)):
            self._last = wanted[room] - 1
            del wanted[room:]
            for row in [row for row in seen if row > self._last]:
                del seen[row]
                if row in self._places:
                    self._remove(row)
        is_first = not self._rows
        rows_read = connection.execute(FIRST, (self._last,)) if is_first else select_in(connection, SOME, wanted)
        for rows, chunk in self._read(iter(rows_read)):
            self._add(rows, chunk)
        self._seen = seen

    def _read(self, found: Iterator[tuple[int, str, bytes]]) -> Iterator[tuple[Sequence[int], SearchChunk]]:
        while page := list(islice(found, self._block_rows)):
            rows, ids, blobs = zip(*page, strict=True)
            yield rows, SearchChunk.from_rows(ids, matrix_of(blobs, self.dimensions, self._name))

    def _add(self, rows: Sequence[int], chunk: SearchChunk) -> None:
        start = 0
        while start < len(rows):
            block, used = divmod(len(self._rows), self._block_rows)
            if block == len(self._ids):
                self._matrices.append(np.empty((self._block_rows, self.dimensions), np.float32))
                self._lengths.append(np.empty(self._block_rows, np.float32))
                self._ids.append([])
            end = min(len(rows), start + self._block_rows - used)
            self._matrices[block][used : used + end - start] = chunk.matrix[start:end]
            self._lengths[block][used : used + end - start] = chunk.lengths[start:end]
            self._ids[block] += chunk.ids[start:end]
            for row in rows[start:end]:
                self._places[row] = len(self._rows)
                self._rows.append(row)
            start = end

    def _remove(self, row: int) -> None:
        """The last one takes its place."""
        place, last = self._places.pop(row), self._rows.pop()
        (block, at), (end_block, end) = divmod(place, self._block_rows), divmod(len(self._rows), self._block_rows)
        if row != last:
            self._matrices[block][at] = self._matrices[end_block][end]
            self._lengths[block][at] = self._lengths[end_block][end]
            self._ids[block][at] = self._ids[end_block][end]
            self._rows[place], self._places[last] = last, place
        self._ids[end_block].pop()
        if not self._ids[end_block]:
            del self._ids[end_block], self._matrices[end_block], self._lengths[end_block]
