"""Real SQLite files on virtual time, shared by several workers: they are away at times, and their clock is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aembed.errors import StoreError
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores._sqlite._thread import SQLiteThread
from tests.simulation.world import Session

How = Literal["refuses", "hangs", "loses"]
"""What a file that is away does: it says so at once; it is locked, and does what is asked when it is back, or says so
after as long as a real one would; or it does what is asked, and its answer is lost."""


@dataclass(frozen=True, slots=True)
class Away:
    """From one second to another."""

    start: float
    end: float
    how: How


@dataclass(eq=False)
class Process:
    """One life of a worker; nothing of it arrives anywhere once it `is_dead`."""

    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class SharedFile:
    """When one file is away, and when its clock is set by how many seconds."""

    away: Sequence[Away]
    steps: Sequence[tuple[float, float]]

    @property
    def back_at(self) -> float:
        """From then on it is there."""
        return max([away.end for away in self.away], default=0.0)

    def is_away(self, now: float) -> Away | None:
        return next((away for away in self.away if away.start <= now < away.end), None)

    def days(self) -> float:
        """What julianday('now') says."""
        now = asyncio.get_running_loop().time()
        return 2_440_587.5 + (1e9 + now + sum(by for at, by in self.steps if at <= now)) / 86_400.0

    def open_for(self, process: Process, database: SQLiteDatabase) -> None:
        """That process has opened the file; what it asks is done at once, unless the file is away."""
        for worker in threads_of(database):
            worker._thread = Thread(self, process, worker.lock_timeout)  # type: ignore[assignment]
            worker.file = Clocked(self, reads_only=worker._reads_only)


def threads_of(database: SQLiteDatabase) -> Sequence[SQLiteThread]:
    return database._writer, database._reader, database._searcher, database.mapper


@dataclass(eq=False)
class Thread:
    """In the place of a thread of SQLite's."""

    file: SharedFile
    process: Process
    patience: float
    """Seconds for which a locked file is waited for."""

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        done, loop = Future[Any](), asyncio.get_running_loop()
        away = self.file.is_away(loop.time())
        if away and away.how == "hangs":
            seconds = min(away.end - loop.time(), self.patience)
            loop.call_later(seconds, self._do, call, done, self.file.is_away(loop.time() + seconds))
        else:
            self._do(call, done, away)
        return done

    def _do(self, call: Callable[[], Any], done: Future[Any], away: Away | None) -> None:
        try:
            result = None
            if not self.process.is_dead and (away is None or away.how == "loses"):
                result = call()
            if self.process.is_dead or away:
                raise StoreError("the file is away")
            done.set_result(result)
        except BaseException as error:
            done.set_exception(error)

    def shutdown(self, wait: bool = True) -> None:
        pass


class Clocked(Session):
    """Connections whose clock is that of the file."""

    def __init__(self, file: SharedFile, *, reads_only: bool) -> None:
        super().__init__({}, reads_only=reads_only)
        self._days = file.days

    def connection(self, path: Path, timeout: float) -> Any:
        before, connection = self._set, super().connection(path, timeout)
        if connection is not None and connection is not before:
            connection.create_function("julianday", 1, lambda _: self._days())
        return connection
