"""One SQLite file, the threads that use it, and values on their way into it and out of it.

One thread writes, and reads what a job has to know before it writes. Another answers questions, a third one searches:
with the log ahead (WAL) they read beside a write, and never hold one back. A fourth one makes maps for searches.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aembed.errors import StoreError
from aembed.stores._sqlite._file import path_of
from aembed.stores._sqlite._searches import Searches
from aembed.stores._sqlite._thread import SQLiteThread, Work
from aembed.types import Matrix

T = TypeVar("T")

# Measured (SQLite 3.40): 28,500 rows of 1,536 floats a second with pages of 4 KiB, 43,000 with 16 KiB, 61,000 with 32
# KiB.
PAGE_BYTES = 32768
"""Five rows of 1,536 floats, with little left over; pages of 16 KiB hold two, and a quarter of each stays empty."""
# Chosen: SQLite before 3.32 takes 999 variables, later ones 32,766. Larger pieces would save little: each value is
# looked up in the index by itself.
MOST_VARIABLES = 500
# Chosen: four times the 64 MB after which SQLite copies its log into the file by itself, which it cannot finish while
# one snapshot follows another. Smaller, searches would wait more often; larger, the disk holds rows twice for longer.
NOT_UTF8 = "Could not decode to UTF-8"
"""What the sqlite3 module says of a text."""
MOST_LOG_BYTES = 256 * 1024 * 1024


class SQLiteDatabase:
    """A SQLite file. Raises StoreError, never sqlite3's own errors."""

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float, absent: str) -> None:
        self.name = path_of(path)
        self._absent = absent
        self._writer = SQLiteThread(self.name, lock_timeout)
        self._reader = SQLiteThread(self.name, lock_timeout, "-reads", reads_only=True)
        self._searcher = SQLiteThread(self.name, lock_timeout, "-searches", reads_only=True)
        self.searches = Searches(self._searcher)
        self.mapper = SQLiteThread(self.name, lock_timeout, "-maps")
        """Makes maps, and is idle otherwise."""
        self._most_log_bytes = MOST_LOG_BYTES

    def read(self, work: Work[T], missing: T) -> Awaitable[T]:
        """`work` on one snapshot, in turn with the writes; `missing` where there is no file. Creates nothing."""
        return self._run_on(self._writer, work, missing)

    def read_beside(self, work: Work[T], missing: T) -> Awaitable[T]:
        """The same beside the writes: it sees what was written before."""
        return self._run_on(self._reader, work, missing)

    def read_there(self, work: Work[T]) -> Awaitable[T]:
        """As `read`, on a file that has to be there: raises StoreError where it is not."""
        return self._run_on(self._writer, work, self.absent_error)

    def read_there_beside(self, work: Work[T]) -> Awaitable[T]:
        """As `read_beside`, on a file that has to be there."""
        return self._run_on(self._reader, work, self.absent_error)

    def write(self, work: Work[T], then: Callable[[], object] | None = None) -> Awaitable[T]:
        """`work` in one transaction, durable on return. It may be tried again, so it must be repeatable.

        `then` is called on the thread once it is there, also where nobody waits for it any more.
        """
        return self._writer.run(lambda: self._run_write(work, then))

    def write_lightly(self, work: Work[T]) -> Awaitable[T]:
        """`work` in one transaction that may be lost with the power, and is not waited for on the disk."""
        return self._writer.run(lambda: self._run_light_write(work))

    def create(self, work: Work[T]) -> Awaitable[T]:
        """As `write`, on a file that is made first if it is missing: readable by its owner only, in WAL mode."""
        return self._writer.run(lambda: self._create_file(work))

    def size_bytes(self) -> int:
        """Of the file and its write-ahead log, on disk."""
        path = self._writer.path
        return sum(each.stat().st_size for each in (path, Path(f"{path}-wal")) if each.exists())

    async def aclose(self) -> None:
        """Closes the file, after the work that was handed in before. Later calls raise StoreError."""
        # The writer is closed last: the last connection of all copies SQLite's log into the file and removes it.
        for worker in (self.mapper, self._searcher, self._reader, self._writer):
            await worker.aclose()

    def _run_on(self, worker: SQLiteThread, work: Work[T], absent: T | StoreError) -> Awaitable[T]:
        return worker.run(lambda: worker.run_transaction("BEGIN", work, absent))

    def _run_write(self, work: Work[T], then: Callable[[], object] | None = None) -> T:
        result = self._writer.run_transaction("BEGIN IMMEDIATE", work, self.absent_error)
        if then:
            then()
        self._bound_log()
        return result

    @property
    def absent_error(self) -> StoreError:
        return StoreError(f"{self.name} does not exist; {self._absent}")

    def _run_light_write(self, work: Work[T]) -> T:
        connection = self._writer.open()
        # SQLite changes `synchronous` outside of transactions only, so it is set before this one and set back after it.
        synchronous: int = connection.execute("PRAGMA synchronous").fetchone()[0] if connection else 0
        if connection:
            connection.execute(f"PRAGMA synchronous = {min(1, synchronous)}")
        try:
            return self._run_write(work)
        finally:
            with suppress(sqlite3.Error):  # Closed after an error: the next connection begins as it should.
                if connection:
                    connection.execute(f"PRAGMA synchronous = {synchronous}")

    def _bound_log(self) -> None:
        """While one snapshot follows another SQLite cannot begin its log anew: for this the readers wait a moment."""
        log = Path(f"{self._writer.path}-wal")
        size_bytes = log.stat().st_size if log.exists() else 0
        connection = self._writer.open() if size_bytes >= self._most_log_bytes else None
        if connection is None:
            return
        with self._reader.between_snapshots, self._searcher.between_snapshots, suppress(sqlite3.Error):
            (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
            # Where another process reads, the checkpoint is left at once: to wait for it here would hold back all
            # writes.
            connection.execute("PRAGMA busy_timeout = 0")
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout = {timeout}")
            # Where another process reads it is tried again later, not after each write.
            self._most_log_bytes = MOST_LOG_BYTES + (size_bytes if busy else 0)

    def _create_file(self, work: Work[T]) -> T:
        path = self._writer.path
        if not path.parent.is_dir():
            raise StoreError(f"the folder of {self.name} does not exist; create {self.name.parent} first")
        with suppress(FileExistsError):
            # SQLite itself would make it readable for everybody whom the umask lets.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if connection := self._writer.open():
            # This order: SQLite fixes the size of pages once the file is in WAL mode, or holds anything.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
        return self._run_write(work)


def fetch_all(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = (), errors: str = "surrogateescape"
) -> list[Any]:
    """The rows. A text that is not UTF-8 comes with lone surrogates (PEP 383), so that it spoils its own row only; or,
    with `errors="replace"`, with U+FFFD, so that it can be shown."""
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if NOT_UTF8 not in str(error):
            raise
    # Not from the beginning: a function of Python for each text takes several times as long.
    connection.text_factory = partial(bytes.decode, errors=errors)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.text_factory = str


def is_broken(value: object) -> bool:
    """Whether it is a text that is not UTF-8, as `fetch_all` gives it."""
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def select_in(connection: sqlite3.Connection, sql: str, values: Iterable[Any]) -> Iterator[Any]:
    """The rows of `sql`, whose `{}` becomes a `?` for each value, in pieces within SQLite's limit on variables."""
    for piece, marks in in_pieces(connection, values):
        yield from connection.execute(sql.format(marks), piece)


def in_pieces(
    connection: sqlite3.Connection, values: Iterable[Any], others: int = 0
) -> Iterator[tuple[list[Any], str]]:
    """The values in pieces, each with a `?` for each, that leave room for so many other variables."""
    most = max(1, min(MOST_VARIABLES, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - others))
    given = list(values)
    for start in range(0, len(given), most):
        piece = given[start : start + most]
        yield piece, ",".join("?" * len(piece))


def blobs(matrix: Matrix) -> Iterator[memoryview]:
    """The rows of a matrix as little-endian float32, without copying them where it has that form already.

    One at a time: a list of them would be thousands of objects that make a full collection of garbage due.
    """
    width = matrix.shape[1] * 4
    if matrix.size:
        flat = np.ascontiguousarray(matrix, dtype="<f4").data.cast("B")
        yield from (flat[start : start + width] for start in range(0, len(flat), width))


def matrix_of(blobs: Sequence[bytes], dimensions: int, name: Path) -> Matrix:
    """Blobs as a matrix of shape (n, dimensions). Raises StoreError where one is of another kind or length."""
    if not ({*map(type, blobs)} <= {bytes} and {*map(len, blobs)} <= {dimensions * 4}):
        raise StoreError(f"{name} holds a vector that is not {dimensions} float32 in a blob; embed these rows again")
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimensions).astype(np.float32, copy=False)
