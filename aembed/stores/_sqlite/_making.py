"""Making the map of a table in a thread of its own, page by page, while searches and writes go on."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from aembed.errors import StoreError
from aembed.stores._map._codes import Frame, encode_rows
from aembed.stores._map._file import MOST_DIMENSIONS, MapError, MapId, MapWriter, RowMap
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite._changes import SMALLEST, Edition, NotedTable
from aembed.stores._sqlite._database import matrix_of
from aembed.stores._sqlite._thread import SQLiteThread, T, Work
from aembed.types import Matrix

logger = logging.getLogger("aembed")

PAGE = """SELECT {rowid}, {vector} FROM {table} WHERE {rowid} >= ? AND {rowid} <= ?
    AND {vector} IS NOT NULL ORDER BY {rowid} LIMIT ?"""
# Measured (384 dimensions): the first search of 8 MB takes 41 ms of CPU without a map and 3 with it, the next ones 1.6
# and 1.2. Larger, first searches take longer; smaller, files and triggers are made for nothing.
MAPPED_FROM_BYTES = 8 * 1024 * 1024
"""Of vectors in a table; smaller ones are read for each search, or kept in memory."""
# Chosen: a transaction that reads 4 MB takes some 5 ms. Larger, a file without a log ahead is locked for longer.
_PAGE_BYTES = 4 * 1024 * 1024
# Chosen: the mean of 1,000 rows is off by a thirtieth of what they differ by. More would cost more than they save.
_SAMPLED = 1000
# Chosen: a part of a map is written to many times a second. One that was left alone for so long is what a process that
# was killed left behind.
_ABANDONED_AFTER = 60.0
# Chosen: 1,000 rows of 1,536 floats are read and scored in 10 ms. Smaller, maps are made more often; larger, searches
# take longer meanwhile.
_MOST_UNKNOWN = 1000
# Chosen: a tenth of a core's time, where a store changes faster than maps are made. Smaller, searches would be slowed
# down by the making; larger, by the rows that the map does not know.
_REST = 10
_REST_AFTER_FAILURE = 60.0


def is_stale(unknown: int, known: int) -> bool:
    """Whether a map is to be made anew that does not know so many rows."""
    return unknown > max(_MOST_UNKNOWN, known // 10)


def is_worthwhile(noted: NotedTable, dimensions: int, connection: Connection) -> bool:
    """Whether its vectors are so many that a map saves more than it costs."""
    return changes.highest(noted, connection) * dimensions * 4 >= MAPPED_FROM_BYTES


def map_path(path: Path, token: int) -> Path:
    """Beside the database."""
    return path.with_name(f"{path.name}-map-{token:016x}")


def part_path(path: Path, token: int) -> Path:
    """The name of a map while it is written."""
    return path.with_name(f"{path.name}-map-{token:016x}.part")


class _GivenUp(Exception):
    """No map is made, for the reason that it tells."""


class MapMaker:
    """Makes one map at a time. What hinders it (a folder that is read-only, a full disk, a lock) leaves the table
    without a new one, and is no error of the search that wanted it."""

    def __init__(self, worker: SQLiteThread, noted: NotedTable, *, creates_triggers: bool = False) -> None:
        self._worker, self._noted, self._creates_triggers = worker, noted, creates_triggers
        self._running: Future[None] | None = None
        self._lock = Lock()
        self._stopped = Event()
        self._to_the_end = False
        self._rests_until = 0.0

    def start(self, dimensions: int, *, to_the_end: bool = False) -> None:
        """Unless one is being made, or was a short time ago. One that is made `to_the_end` is waited for in the end."""
        with self._lock, suppress(StoreError):
            if (self._running is None or self._running.done()) and time.monotonic() >= self._rests_until:
                self._to_the_end = to_the_end
                self._running = self._worker.submit(lambda: self._make(dimensions))

    def stop(self) -> None:
        """Unless it is to be made to the end."""
        if not self._to_the_end:
            self._stopped.set()

    # on the thread

    def _make(self, dimensions: int) -> None:
        began, rest = time.monotonic(), _REST_AFTER_FAILURE
        try:
            if dimensions <= MOST_DIMENSIONS and self._worker.explain_errors(self._worker.open):
                self._make_map(dimensions)
                rest = _REST * (time.monotonic() - began)
        # ValueError: a vector holds NaN.
        except (StoreError, OSError, ValueError, MapError, _GivenUp) as error:
            logger.info("%s is searched without a map: %s", self._worker.name, error)
        finally:
            self._worker.file.close()
            self._rests_until = time.monotonic() + rest

    def _is_wanted(self, dimensions: int, connection: Connection) -> bool:
        """Whether there is no good map, or the table has changed much since."""
        asked = changes.state(self._noted, dimensions, connection)
        if asked is None:
            return True
        try:
            RowMap.open(map_path(self._worker.path, asked.token), asked)
        except (OSError, ValueError, MapError):
            return True
        rows, stale = changes.counts(self._noted, connection)
        return is_stale(stale, rows)

    def _make_map(self, dimensions: int) -> None:
        if not self._run("BEGIN", partial(self._is_wanted, dimensions)):
            return
        self._remove_files(())
        edition = self._run("BEGIN IMMEDIATE", self._begin)
        token = changes.new_token()
        path = map_path(self._worker.path, token)
        part = part_path(self._worker.path, token)
        try:
            self._write(part, MapId(token, edition.schema, dimensions), edition.last)
            part.replace(path)
            if not self._run("BEGIN IMMEDIATE", partial(changes.publish, self._noted, edition, token)):
                raise _GivenUp("another process made one, or the tables were changed")
        except BaseException:
            for each in (part, path):
                each.unlink(missing_ok=True)
            raise
        self._remove_files(self._run("BEGIN", changes.tokens))

    def _begin(self, connection: Connection) -> Edition:
        if not self._creates_triggers and not changes.is_noted(self._noted, connection):
            raise _GivenUp("the triggers that note its changes are gone")
        return changes.begin(self._noted, connection)

    def _write(self, part: Path, id: MapId, last: int) -> None:
        frame = Frame.of_sample(self._run("BEGIN", partial(self._read_sample, last, id.dimensions)))
        writer = MapWriter(part, id, last, frame)
        try:
            for rows, matrix in self._pages(last, id.dimensions):
                writer.add(rows, encode_rows(matrix, frame))
                if self._stopped.is_set():
                    raise _GivenUp("it is being closed")
            writer.finish()
        finally:
            writer.close()

    def _read_sample(self, last: int, dimensions: int, connection: Connection) -> Matrix:
        sql, blobs = self._noted.sql(PAGE), []
        for start in np.linspace(0, last, _SAMPLED).astype(int).tolist():
            blobs += [blob for _, blob in connection.execute(sql, (start, last, 1))]
        return matrix_of(blobs, dimensions, self._worker.name)

    def _pages(self, last: int, dimensions: int) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        """Each in a transaction of its own, so that nobody waits for all of them."""
        start, size = SMALLEST, max(1, _PAGE_BYTES // (4 * dimensions))
        while page := self._run("BEGIN", partial(self._read_page, start, last, size)) if start <= last else []:
            matrix = matrix_of([blob for _, blob in page], dimensions, self._worker.name)
            yield np.array([row for row, _ in page], np.int64), matrix
            start = page[-1][0] + 1

    def _read_page(self, start: int, last: int, size: int, connection: Connection) -> list[tuple[int, bytes]]:
        return connection.execute(self._noted.sql(PAGE), (start, last, size)).fetchall()

    def _run(self, begin: str, work: Work[T]) -> T:
        gone = _GivenUp("the file is gone")
        return self._worker.explain_errors(lambda: self._worker.run_transaction(begin, work, gone))

    def _remove_files(self, tokens: Collection[int]) -> None:
        """Those that killed processes left, and with tokens all maps but theirs. Raises _GivenUp where another process
        is making one."""
        path = self._worker.path
        kept = {map_path(path, token).name for token in tokens}
        is_map = re.compile(re.escape(path.name) + r"-map-[0-9a-f]{16}(\.part)?")
        for each in path.parent.iterdir():
            found = is_map.fullmatch(each.name)
            if not found or each.name in kept or not (found[1] or kept):
                continue
            with suppress(OSError):
                if found[1] and time.time() - each.stat().st_mtime < _ABANDONED_AFTER:
                    raise _GivenUp("another process makes one")
                each.unlink()
