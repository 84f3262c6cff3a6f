"""Searches of a table in SQLite by its map: the rows that can be among the best are read and scored, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.stores._map._codes import CodedQuery
from aembed.stores._map._file import MapError, MapId, RowMap
from aembed.stores._map._shortlist import Shortlist, shortlists
from aembed.stores._search import Best, NearestQuery, SearchChunk, find_nearest_of_each
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._database import matrix_of
from aembed.stores._sqlite._making import MapMaker, is_stale, is_worthwhile, map_path

Numbered: TypeAlias = tuple[int, str, bytes]
"""The number of a row, its id, its vector."""
Found: TypeAlias = list[tuple[str, float]]
# Chosen: the first rows that are read tell how good the k-th best is, which saves reading most others. Larger, rows
# are read for nothing; smaller, the k-th best of them is worse.
_FIRST_READ = 16
# Chosen: 1,024 rows of 1,536 floats are 6 MB, and 13 MB more while they are scored. Larger, 100,000 equal rows would
# take more memory.
_READ_AT_ONCE = 1024
# Chosen: so many rows are tried before a filter is taken for one that few rows pass. Larger, such a search reads them
# for nothing, and then those that pass; smaller, filters that one row of a hundred passes go the slow way.
_TRIED = 1000


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows that pass the filter of a search."""

    read: Callable[[str, str | int], Iterable[Numbered]]
    """Those whose number passes a test in SQL, which has one parameter."""
    is_filtered: bool
    dimensions: int
    name: Path

    def some(self, numbers: NDArray[np.int64]) -> Iterator[SearchChunk]:
        for start in range(0, len(numbers), _READ_AT_ONCE):
            picked = json.dumps(numbers[start : start + _READ_AT_ONCE].tolist())
            yield from self._chunks(self.read("IN (SELECT value FROM json_each(?))", picked))

    def later(self, last: int) -> Iterator[SearchChunk]:
        return self._chunks(self.read("> ?", last))

    def _chunks(self, found: Iterable[Numbered]) -> Iterator[SearchChunk]:
        rows = iter(found)
        while page := list(islice(rows, _READ_AT_ONCE)):
            matrix = matrix_of([blob for *_, blob in page], self.dimensions, self.name)
            if not np.isfinite(matrix).all():
                raise MapError("a row holds NaN or infinity, which have no place in an order")
            yield SearchChunk.from_rows([id for _, id, _ in page], matrix)


@dataclass(eq=False, repr=False)
class TableMap:
    """The map of a table as the one thread that searches has it: opened when it is first needed, checked, left when the
    table has another one, and asked for when it has none."""

    _path: Path
    _noted: NotedTable
    _maker: MapMaker
    _searches_without: int = 0
    _mapped: RowMap | None = None
    _is_checked: bool = False
    _bad: MapId | None = None
    _unknown: int = 0
    """How many rows the last search had to read because the map does not know them."""

    def find(self, queries: Sequence[NearestQuery], reader: RowReader, connection: Connection) -> list[Found | None]:
        """As `find_nearest_of_each`; None for a query that no map can answer."""
        found: list[Found | None] = [None] * len(queries)
        if mapped := self._current(reader.dimensions, connection):
            try:
                mapped.check_size()
                found = self._find(queries, reader, mapped, connection)
            except MapError:
                self._throw_away(mapped.id)
            else:
                if is_stale(self._unknown, len(mapped.rows)):
                    self._maker.start(reader.dimensions)
                return found
        if is_worthwhile(self._noted, reader.dimensions, connection):
            self._searches_without += 1
            # A program that searches once is not to write anything.
            if self._searches_without > 1:
                self._maker.start(reader.dimensions)
        return found

    def _throw_away(self, id: MapId) -> None:
        self._mapped, self._bad = None, id
        with suppress(OSError):
            map_path(self._path, id.token).unlink()

    def _current(self, dimensions: int, connection: Connection) -> RowMap | None:
        """The map that is good for the connection's snapshot."""
        asked = changes.state(self._noted, dimensions, connection)
        if self._mapped and self._mapped.id != asked:
            self._mapped = None
        if self._mapped is None and asked and asked != self._bad:
            try:
                self._mapped, self._is_checked = RowMap.open(map_path(self._path, asked.token), asked), False
            except FileNotFoundError:
                return None
            except (OSError, ValueError, MapError):
                self._throw_away(asked)
        return self._mapped

    def _find(
        self, queries: Sequence[NearestQuery], reader: RowReader, mapped: RowMap, connection: Connection
    ) -> list[Found | None]:
        noted = self._changed(mapped, connection)
        found = find_nearest_of_each(queries, self._unknown_rows(reader, noted, mapped))
        best = list(map(Best, queries, found))
        # A query of length 0 is as near to one row as to all others.
        asked = [number for number, query in enumerate(queries) if query.vector.any()]
        coded = [CodedQuery.of(queries[number].vector, mapped.frame) for number in asked]
        wanted = [max(queries[number].k, _TRIED if reader.is_filtered else 0) for number in asked]
        gone = mapped.positions_of(noted)
        answers: list[Found | None] = [None] * len(queries)
        if asked:
            lists = shortlists(mapped, coded, wanted, gone, check=not self._is_checked)
            self._is_checked = True
            for number, shortlist in zip(asked, lists, strict=True):
                if _rescore(shortlist, best[number], mapped, reader):
                    answers[number] = best[number].found()
        return answers

    def _changed(self, mapped: RowMap, connection: Connection) -> NDArray[np.int64]:
        """The numbers of rows of which the map tells what was true before."""
        noted = changes.changed(self._noted, connection)
        return noted[noted <= mapped.last]

    def _unknown_rows(self, reader: RowReader, noted: NDArray[np.int64], mapped: RowMap) -> Iterator[SearchChunk]:
        self._unknown = len(noted)
        yield from reader.some(noted)
        for chunk in reader.later(mapped.last):
            self._unknown += len(chunk.ids)
            yield chunk


def _rescore(shortlist: Shortlist, best: Best, mapped: RowMap, reader: RowReader) -> bool:
    """Reads and scores rows until no other can be among the best. False where that is not certain in the end.

    Nothing is taken on trust: rows that are gone, or do not pass the filter, are not read and do not count.
    """
    start, size = 0, _FIRST_READ
    while start < len(shortlist.positions) and shortlist.most[start] >= best.floor:
        positions = shortlist.positions[start : start + size]
        possible = shortlist.most[start : start + size] >= best.floor
        for chunk in reader.some(mapped.rows[positions[possible]]):
            best.add(chunk.ids, chunk.matrix)
        start, size = start + size, _READ_AT_ONCE
    return best.floor >= shortlist.rest
