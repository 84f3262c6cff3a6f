"""A column of a SQLite table that is watched: all rows are looked at, once the file has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from math import inf
from sqlite3 import Connection

from aembed.errors import StoreError
from aembed.protocols import Looks
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.types import Record


class WatchedColumn:
    """`watch` of a backfill."""

    _database: SQLiteDatabase

    def pending(self) -> AsyncIterator[Record]:
        raise NotImplementedError

    @asynccontextmanager
    async def watch(self, *, poll: float, recheck: float) -> AsyncIterator[Looks]:
        """See Watched."""
        yield FileLooks(self._database, self.pending, poll, recheck)


class FileLooks:
    """See Looks. A look reads the whole table; between two of them `PRAGMA data_version` is asked every `poll` seconds,
    which reads nothing."""

    def __init__(
        self, database: SQLiteDatabase, pending: Callable[[], AsyncIterator[Record]], poll: float, recheck: float
    ) -> None:
        self.delay = f"rows are looked for within {poll:g} s of a change of the file"
        self._database, self._pending = database, pending
        self._poll, self._recheck = poll, recheck
        self._seen: tuple[Connection, int] | None = None
        self._everything = False
        self._recheck_at = inf

    async def wait(self, seconds: float) -> None:
        """Returns after so many seconds where the file has changed since the last look began, else once it has."""
        await asyncio.sleep(seconds)
        while not await self._has_changed():
            left = self._recheck_at - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(self._poll, left))

    async def pending(self, *, everything: bool) -> AsyncIterator[Record]:
        self._everything = everything
        # Before it is read: what is written meanwhile is seen by the next look.
        self._seen = await self._database.read_there_beside(_version)
        async for record in self._pending():
            yield record

    async def note_seen(self, left: AbstractSet[str]) -> None:
        if self._everything:
            self._recheck_at = asyncio.get_running_loop().time() + self._recheck

    async def _has_changed(self) -> bool:
        try:
            return await self._database.read_there_beside(_version) != self._seen
        except StoreError:
            return True  # The look says what is wrong.


def _version(connection: Connection) -> tuple[Connection, int]:
    """What another number of the same connection differs from once any other one has written."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return connection, version
