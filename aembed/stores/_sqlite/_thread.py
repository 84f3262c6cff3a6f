"""A thread, and the connection to one SQLite file that it alone uses, and that notices when the file has gone."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar

from aembed.errors import StoreError
from aembed.stores._rules import ClosedError
from aembed.stores._sqlite._file import HASH, text_hash
from aembed.stores._sqlite._filters import MATCHES, matches

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]

# Chosen: SQLite waits so long inside of one call, which nothing can end. Larger, lock_timeout would be kept less
# exactly.
BUSY_SECONDS = 5.0
# Chosen: SQLite answers some locks at once, whatever its own timeout is. Without a pause the thread would spin until
# the other process is done; larger, it would be late.
PAUSE_SECONDS = 0.05
# With a write-ahead log and NORMAL, rows that were told as stored are lost in one simulated power cut of eight, and
# with FULL in none (SQLite 3.40, benchmarks.power_cuts).
PRAGMAS = ("synchronous = FULL", "wal_autocheckpoint = 2048")
"""A commit is on disk when it returns. The log is copied into the file every 64 MB (32 MB in files made earlier, with
pages of 16 KiB): what is written to one page again and again, as the indexes of files made earlier are, costs fewer
bytes then."""
BESIDE = ("-wal", "-shm")
"""Suffixes of the files that hold what is not in the main file yet, and that tell the processes of each other."""
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


class OpenFile:
    """The connection, and which files it has open. Used by the thread only, and once more at the very end."""

    def __init__(self, *, reads_only: bool = False) -> None:
        self._reads_only = reads_only
        self._connection: sqlite3.Connection | None = None
        self._files: dict[str, tuple[int, int]] = {}

    def connection(self, path: Path, timeout: float) -> sqlite3.Connection | None:
        """None where the file does not exist."""
        if self._connection is None and (identity := _identity(path)):
            self._files = {"": identity}
            self._connection = _connect(path, timeout, reads_only=self._reads_only)
        self.check(path)
        return self._connection

    def check(self, path: Path) -> None:
        """A file that was removed would take rows that nobody can read again; so would the log beside it."""
        for suffix, identity in self._files.items() if self._connection else ():
            if _identity(Path(f"{path}{suffix}")) != identity:
                self.close()
                raise StoreError(f"{path.name}{suffix} was removed or replaced while it was in use; run this again")

    def check_beside(self, path: Path) -> None:
        """After a transaction: the files beside the main one are there now, if they are used at all."""
        self.check(path)
        for suffix in BESIDE if self._connection else ():
            if suffix not in self._files and (found := _identity(Path(f"{path}{suffix}"))):
                self._files[suffix] = found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.close()


class SQLiteThread:
    """Opens the file when it is first needed. Raises StoreError, never sqlite3's own errors.

    What was handed to the thread is always finished or rolled back there, also when the caller is cancelled, so no
    transaction is left open. The thread begins with the first work.
    """

    def __init__(self, name: Path, lock_timeout: float, thread: str = "", *, reads_only: bool = False) -> None:
        self.name = name
        self.path = name.absolute()
        self.lock_timeout = lock_timeout
        self.file = OpenFile(reads_only=reads_only)
        self.between_snapshots = Lock()
        """Held while a thread that reads only has a snapshot."""
        self._reads_only = reads_only
        self._began = self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"aembed-sqlite{thread}")
        weakref.finalize(self, self.file.close)

    def run(self, call: Callable[[], T]) -> Awaitable[T]:
        """Hands the call to the thread at once; what is returned waits for its outcome."""
        return await_outcome(self.submit(lambda: self.explain_errors(call)))

    def submit(self, call: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise ClosedError(f"{self.name} was closed; open the store again")
        self._began = True
        return self._thread.submit(call)

    async def aclose(self) -> None:
        """Closes the file, after the work that was handed in before. Later calls raise StoreError."""
        if self._closed:
            return
        # Handed in before the door is shut: `submit` takes nothing for a thread that is closed.
        closing = self.submit(self.file.close) if self._began else None
        self._closed = True
        self._thread.shutdown(wait=False)
        if closing:
            await await_outcome(closing)

    # on the thread

    def open(self) -> sqlite3.Connection | None:
        """None where there is no file."""
        return self.file.connection(self.path, min(BUSY_SECONDS, self.lock_timeout))

    def run_transaction(self, begin: str, work: Work[T], absent: T | Exception) -> T:
        """What the work gives; where there is no file `absent`, which is raised if it is an error."""
        connection = self.open()
        if connection is None:
            if isinstance(absent, Exception):
                raise absent
            return absent
        with self.between_snapshots if self._reads_only else nullcontext():
            try:
                connection.execute(begin)
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            finally:
                if connection.in_transaction:
                    self.file.close()
        self.file.check_beside(self.path)
        return result

    def explain_errors(self, call: Callable[[], T]) -> T:
        """Tries again while another process holds the lock; what goes wrong in the end is a StoreError."""
        until = time.monotonic() + self.lock_timeout
        try:
            while True:
                try:
                    return call()
                except sqlite3.OperationalError as error:
                    if _code(error) not in BUSY or time.monotonic() >= until:
                        raise
                time.sleep(PAUSE_SECONDS)
        except sqlite3.Error as error:
            raise StoreError(self._sentence(error)) from None
        except UnicodeError:
            raise StoreError(f"{self.name} keeps text as UTF-8; a lone surrogate was to be written or read") from None
        except OSError as error:
            raise StoreError(f"{self.name} cannot be opened: {error.strerror}; check the file and its folder") from None

    def _sentence(self, error: sqlite3.Error) -> str:
        """Without SQLite's own message where that may quote a text."""
        if _code(error) in BUSY:
            waited = f"{self.lock_timeout:g} s"
            return f"{self.name} stayed locked by another process for {waited}; end that one, then run this again"
        told = error if _code(error) == sqlite3.SQLITE_ERROR else type(error).__name__
        sentence = SENTENCES.get(_code(error), f"failed: {told}")
        return f"{self.name} {sentence} ({getattr(error, 'sqlite_errorname', 'sqlite3')})"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path, timeout: float, *, reads_only: bool) -> sqlite3.Connection:
    # rw and not rwc, which would put an empty file in the place of one that is gone. With isolation_level=None the
    # sqlite3 module begins no transactions of its own. check_same_thread is off because the last close may come from
    # another thread.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (*PRAGMAS, f"query_only = {int(reads_only)}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function(MATCHES, 2, matches, deterministic=True)
        for parameters in (1, 2):
            connection.create_function(HASH, parameters, text_hash, deterministic=True)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 where the error is the sqlite3 module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


async def await_outcome(done: Future[T]) -> T:
    """Awaits the thread. Cancelling this leaves the work alone, whether it has begun or not."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def deliver(done: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle, waiter, done)

    done.add_done_callback(deliver)
    return await waiter


def _settle(waiter: asyncio.Future[T], done: Future[T]) -> None:
    if waiter.done():
        return
    if (error := done.exception()) is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(done.result())
