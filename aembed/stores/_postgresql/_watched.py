"""A column of a PostgreSQL table that is watched: looks at what triggers have noted, or at what an index finds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial

import anyio

from aembed.errors import StoreError
from aembed.stores._postgresql import _noticing as noticing
from aembed.stores._postgresql._building import OnBuild, build
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._empty_rows import IS_LED_BY, EmptyRows
from aembed.stores._postgresql._index import is_built
from aembed.stores._postgresql._listening import Listener
from aembed.stores._postgresql._scopes import ALL, EMPTY, Scope
from aembed.stores._postgresql._shared import SharedColumn
from aembed.types import Record

logger = logging.getLogger("aembed")

NOW = "SELECT pg_catalog.clock_timestamp()::text"
BOUND = "SELECT {id} FROM {table} AS t WHERE {is_keyed}{after} ORDER BY {keys} OFFSET {rows} LIMIT 1"
# Chosen: to read and hash so many texts of 1 kB takes a server a fifth of a second; no statement of a look at
# everything takes much longer, however large the table is.
RANGE = 50_000
"""Rows of one statement of a look at everything."""
# Chosen: as other ends of a column. Larger, a server that is away would hold up the end of the program.
LEAVE_SECONDS = 5.0
# Chosen: what others hold, or lock, just now is looked at again so soon.
BUSY_SECONDS = 0.5
# Chosen: statements that come in a burst are seen by one look. Larger, whoever edits a row waits for longer.
GATHER_SECONDS = 0.05
# Chosen: to ask the catalog takes a millisecond or two, and looks may follow each other twenty times a second.
CHECK_SECONDS = 1.0
"""Whether the triggers are there is asked so often at the most."""


class WatchedColumn(SharedColumn):
    """`watch` of a backfill; see Watched."""

    async def index_empty_rows(self, *, on_progress: OnBuild | None = None) -> None:
        """Builds a partial index of the rows without a vector, while writes go on: to look for some costs nothing then.

        Raises ConfigError behind a pooler in transaction mode.
        """
        table = await self._database.run(self._look, safe_path=False)
        await build(EmptyRows.of(table), self._database, on_progress=on_progress)

    async def index_of_empty_rows(self) -> str | None:
        """The name of that index, quoted, where it is not there yet."""

        async def name(table: ColumnLayout, connection: Connection) -> str | None:
            rows = EmptyRows.of(table)
            return None if await is_built(rows, connection) else rows.name

        return await self._run(name)

    async def noted(self) -> tuple[int, float] | None:
        """How many changes wait that triggers have noted, and for how many seconds the first; None without triggers."""
        return await self._run(partial(noticing.waiting, self._asked.vector))

    @asynccontextmanager
    async def watch(self, *, poll: float, recheck: float) -> AsyncIterator[ColumnLooks]:
        """See Watched. Raises ConfigError where another call watches it."""
        self._check_unwatched()
        self._is_watched = True
        listener, is_noted = Listener(self._database), False
        try:
            await self._leave()
            is_noted = await self._run(partial(noticing.are_current, self._asked.vector))
            is_told = is_noted and await listener.start()
            looks = ColumnLooks(self, listener if is_told else None, poll, recheck)
            await looks.see_by(is_noted, is_noted and not await self._run(noticing.is_subscribed))
            yield looks
        finally:
            with anyio.CancelScope(shield=True), suppress(StoreError), anyio.move_on_after(LEAVE_SECONDS):
                self._is_watched = False
                await listener.stop()
                try:
                    if (worker := self._worker) and worker.held and is_noted:
                        await self._database.run(partial(noticing.hand_back, worker), safe_path=False)
                finally:
                    await self._leave()

    async def _delay(
        self, is_noted: bool, is_told: bool, poll: float, recheck: float, table: ColumnLayout, connection: Connection
    ) -> str:
        """When a row that becomes pending is seen, in words."""
        everything = f"all rows are looked at every {recheck:g} s"
        if is_noted:
            seen = "at once" if is_told else f"within {poll:g} s, as no notification passes the pooler"
            replicated = await noticing.is_subscribed(table, connection)
            other = f", but for edits that logical replication brings, when {everything}" if replicated else ""
            return f"changes are seen {seen}{other or f'; {everything}'}"
        empty = f"rows without a vector are looked for every {poll:g} s"
        if not await is_built(EmptyRows.of(table), connection):
            empty += ", each time in the whole table (--create-index, or --create-triggers=watch)"
        if table.fingerprint is None:
            return f"{empty}; an edit of a row that has one is not seen (--fingerprint)"
        if not self._asked.updated_at:
            return f"{empty}; edits are seen when {everything} (--create-triggers=watch, or --updated-at)"
        edits = f"{self._asked.updated_at} tells of edits"
        if not await connection.fetchval(IS_LED_BY, table.oid, self._asked.updated_at):
            edits += f", which no index has: CREATE INDEX ON {table.table} ({self._asked.updated_at})"
        return f"{empty}; {edits}; {everything}"

    async def _take(self, is_noted: bool, *, anew: bool) -> noticing.Noted:
        """What a look is at; nothing where the role may not lease rows. `anew`: what is held is given up before."""
        worker = self._worker
        if worker is None or worker.has_lapsed or anew:
            # Others may have taken what it held.
            await self._leave()
            self._worker = await self._run(self._join)
        if (worker := self._worker) is None:
            return noticing.NOTHING
        worker.note_activity()
        return await self._database.run(partial(noticing.take, worker, is_noted), safe_path=False)

    async def _read_all(self) -> AsyncGenerator[Record, None]:
        """All that is pending, by ranges of keys."""
        last: list[str] | None = None
        while True:
            bound = await self._run(partial(self._find_bound, last))
            scope = ALL if bound is None else Scope(upto=bound)
            async with aclosing(self._pass(scope, last=last)) as records:
                async for record in records:
                    yield record
            if bound is None:
                return
            last = bound

    async def _find_bound(
        self, last: list[str] | None, table: ColumnLayout, connection: Connection
    ) -> list[str] | None:
        after, parts = table.after(last, 1), {"id": table.id, "table": table.table, "is_keyed": table.is_keyed}
        statement = BOUND.format(after=after, keys=table.key_list, rows=RANGE, **parts)
        id = await connection.fetchval(statement, *(last or ()))
        return None if id is None else native(id)


class ColumnLooks:
    """See Looks."""

    def __init__(self, column: WatchedColumn, listener: Listener | None, poll: float, recheck: float) -> None:
        self.delay = ""
        self._column, self._listener, self._poll, self._recheck = column, listener, poll, recheck
        self._is_noted = self._is_noted_whole = False
        """Whether triggers note what changes, and whether they note all of it."""
        self._updated_at: str | None = None
        self._checked_at = asyncio.get_running_loop().time()
        self._noted = noticing.NOTHING
        self._since: str | None = None
        """When the look before began, by the database's clock."""
        self._began_at: str | None = None
        self._is_begun = self._has_read = self._has_more = self._is_busy = False

    async def wait(self, seconds: float) -> None:
        if self._has_more:
            return
        seconds = min(seconds, BUSY_SECONDS) if self._is_busy else seconds
        if (listener := self._listener) is None:
            await asyncio.sleep(seconds)
        elif listener.is_there or not await listener.start():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await listener.told.wait()
                await asyncio.sleep(GATHER_SECONDS)
            listener.told.clear()

    async def see_by(self, is_noted: bool, is_noted_whole: bool) -> None:
        column = self._column
        is_told = self._listener is not None
        self._is_noted, self._is_noted_whole = is_noted, is_noted_whole
        self._updated_at = None if is_noted_whole else column._asked.updated_at
        self.delay = await column._run(partial(column._delay, is_noted, is_told, self._poll, self._recheck))

    async def _check_triggers(self) -> bool:
        """Whether they went away, or came, since the last look, so that rows may have changed unseen."""
        now, column = asyncio.get_running_loop().time(), self._column
        if now < self._checked_at + CHECK_SECONDS:
            return False
        self._checked_at = now
        before = self._is_noted, self._is_noted_whole
        is_noted, is_whole = await column._run(partial(noticing.look, column._asked.vector, self._is_noted))
        if (is_noted, is_whole) == before:
            return False
        await self.see_by(is_noted, is_whole)
        if before[0] and not is_noted:
            logger.warning("%s: the triggers that note changes are gone, or disabled; %s", column._place, self.delay)
        return True

    async def pending(self, *, everything: bool) -> AsyncIterator[Record]:
        self._noted = noticing.NOTHING
        column, self._has_read = self._column, False
        # A look that broke off has left leases, whose rows no look would be at.
        broke_off, self._is_begun = self._is_begun, True
        everything = await self._check_triggers() or everything
        self._noted = await column._take(self._is_noted, anew=broke_off)
        self._began_at = await column._run_statement(NOW) if self._updated_at else None
        reads = [column._read_all()] if everything else [column._pass(scope) for scope in self._scopes()]
        for read in reads:
            async with aclosing(read) as records:
                async for record in records:
                    self._has_read = True
                    yield record

    def _scopes(self) -> Iterator[Scope]:
        if self._noted.keys:
            yield Scope(ids=self._noted.keys)
        if self._is_noted_whole:
            return
        yield EMPTY
        if self._since:
            yield Scope(since=self._since, updated_at=self._updated_at)

    async def note_seen(self, left: AbstractSet[str]) -> None:
        column, kept = self._column, 0
        if (worker := column._worker) and (self._has_read or self._noted.keys):
            kept = await column._run(partial(noticing.settle, self._noted, left, worker))
            worker.note_given_up(list(worker.held))
        self._is_busy = kept > 0
        self._has_more = len(self._noted.entries) == noticing.MOST_TAKEN > kept
        self._since, self._is_begun = self._began_at, False
