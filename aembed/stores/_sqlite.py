"""One SQLite file, and the one thread that touches it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from aembed.errors import StoreError
from aembed.stores._sqlite_file import OpenFile, path_of, transaction
from aembed.types import Matrix

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]

BUSY_SECONDS = 5.0
PAUSE_SECONDS = 0.05
PAGE_BYTES = 32768
"""Five rows of 1,536 floats, with little left over; pages of 16 KiB hold two, and a quarter of each stays empty."""
MOST_VARIABLES = 500
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; choose another file",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a copy, or build a new store beside it",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only; check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that it is a file, and the permissions of it and its folder",
    sqlite3.SQLITE_PERM: "cannot be opened: permission denied; check the permissions of the file and its folder",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; free some space, then run this again",
    sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk: its space, your quota, a network mount",
    sqlite3.SQLITE_TOOBIG: "cannot hold a row of more than 1 GB; cut that text into pieces",
    sqlite3.SQLITE_CONSTRAINT: "refuses the row: a constraint of the table does not hold",
}


class Database:
    """A SQLite file, opened when it is first needed, by a thread of its own.

    What was handed to the thread is always finished or rolled back there, also when the caller is
    cancelled, so no transaction is left open. Raises StoreError, never sqlite3's own errors.
    """

    def __init__(self, path: str | os.PathLike[str], lock_timeout: float, absent: str) -> None:
        self.name = path_of(path)
        self._path = self.name.absolute()
        self.lock_timeout = lock_timeout
        self._absent = absent
        self._file = OpenFile()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aembed-sqlite")
        weakref.finalize(self, self._file.close)

    async def read(self, work: Work[T], missing: T) -> T:
        """`work` on one snapshot; `missing` where there is no file. Creates nothing."""
        return await self._run(lambda: self._transacted("BEGIN", work) if self._open() else missing)

    async def write(self, work: Work[T]) -> T:
        """`work` in one transaction, durable on return. It may be tried again, so it must be repeatable."""
        return await self._run(lambda: self._written(work))

    async def create(self, work: Work[T]) -> T:
        """As `write`, on a file that is made first if it is missing: readable by its owner only, in WAL mode."""
        return await self._run(lambda: self._created(work))

    def size_bytes(self) -> int:
        """Of the file and its write-ahead log, on disk."""
        return sum(path.stat().st_size for path in (self._path, Path(f"{self._path}-wal")) if path.exists())

    async def aclose(self) -> None:
        """Closes the file, after the work that was handed in before. Later calls raise StoreError."""
        if not self._closed:
            closing = self._submit(self._file.close)
            self._closed = True
            self._thread.shutdown(wait=False)
            await _outcome(closing)

    async def _run(self, call: Callable[[], T]) -> T:
        return await _outcome(self._submit(lambda: self._explained(call)))

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise StoreError(f"{self.name} was closed; open the store again")
        return self._thread.submit(call)

    def _explained(self, call: Callable[[], T]) -> T:
        try:
            return self._retried(call)
        except sqlite3.Error as error:
            raise StoreError(self._sentence(error)) from None
        except UnicodeError:
            raise StoreError(f"{self.name} keeps text as UTF-8; a lone surrogate was to be written or read") from None
        except OSError as error:
            raise StoreError(f"{self.name} cannot be opened: {error.strerror}; check the file and its folder") from None

    def _retried(self, call: Callable[[], T]) -> T:
        """Tries again while another process holds the lock."""
        until = time.monotonic() + self.lock_timeout
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if _code(error) not in BUSY or time.monotonic() >= until:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _sentence(self, error: sqlite3.Error) -> str:
        """Without SQLite's own message where that may quote a text."""
        if _code(error) in BUSY:
            waited = f"{self.lock_timeout:g} s"
            return f"{self.name} stayed locked by another process for {waited}; end that one, then run this again"
        told = error if _code(error) == sqlite3.SQLITE_ERROR else type(error).__name__
        sentence = SENTENCES.get(_code(error), f"failed: {told}")
        return f"{self.name} {sentence} ({getattr(error, 'sqlite_errorname', 'sqlite3')})"

    def _written(self, work: Work[T]) -> T:
        if not self._open():
            raise StoreError(f"{self.name} does not exist; {self._absent}")
        result = self._transacted("BEGIN IMMEDIATE", work)
        self._file.check(self._path)
        return result

    def _created(self, work: Work[T]) -> T:
        self._make()
        if connection := self._open():
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
        return self._written(work)

    def _make(self) -> None:
        if not self._path.parent.is_dir():
            raise StoreError(f"the folder of {self.name} does not exist; create {self.name.parent} first")
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _open(self) -> sqlite3.Connection | None:
        return self._file.connection(self._path, min(BUSY_SECONDS, self.lock_timeout))

    def _transacted(self, begin: str, work: Work[T]) -> T:
        connection = self._open()
        assert connection is not None
        try:
            with transaction(connection, begin):
                return work(connection)
        finally:
            if connection.in_transaction:
                self._file.close()


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 where the error is the sqlite3 module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


async def _outcome(done: Future[T]) -> T:
    """Awaits the thread. Cancelling this leaves the work alone, whether it has begun or not."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def deliver(done: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle, waiter, done)

    done.add_done_callback(deliver)
    return await waiter


def _settle(waiter: asyncio.Future[T], done: Future[T]) -> None:
    error = done.exception()
    if waiter.done():
        return
    if error is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(done.result())


def select_in(connection: sqlite3.Connection, sql: str, values: Iterable[Any]) -> Iterator[Any]:
    """The rows of `sql`, whose `{}` becomes a `?` for each value, in pieces within SQLite's limit on variables."""
    most = min(MOST_VARIABLES, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER))
    given = list(values)
    for start in range(0, len(given), most):
        piece = given[start : start + most]
        yield from connection.execute(sql.format(",".join("?" * len(piece))), piece)


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
    if any(not isinstance(blob, bytes) or len(blob) != dimensions * 4 for blob in blobs):
        raise StoreError(f"{name} holds a vector that is not {dimensions} float32 in a blob; embed these rows again")
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimensions).astype(np.float32, copy=False)
