"""Rows that a worker holds while their vectors are made, so that no other pays for them too.

A worker is a row of `aembed.workers`, whose token grows with every one that joins and whose end is told by the
database's clock. A lease of a worker whose time is over may be taken; its late write then finds another token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from aembed.errors import StoreError
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._scopes import Scope

TABLES = """CREATE TABLE IF NOT EXISTS aembed.workers (token bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        expires_at timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS aembed.leases (target text, key text, failed boolean NOT NULL DEFAULT false,
        token bigint NOT NULL REFERENCES aembed.workers ON DELETE CASCADE, PRIMARY KEY (target, key));
    CREATE INDEX IF NOT EXISTS leases_token ON aembed.leases (token)"""
NAMES = ("workers", "leases")
LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('aembed.workers', 0))"
"""Tokens become visible in their order."""
# Chosen: without an end the table would grow with every job. A worker that comes back within a day still finds its row.
FORGET = "DELETE FROM aembed.workers WHERE expires_at < pg_catalog.clock_timestamp() - interval '1 day'"
JOIN = """INSERT INTO aembed.workers (expires_at)
    VALUES (pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $1)) RETURNING token"""
BEAT = """UPDATE aembed.workers SET expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $2)
    WHERE token = $1"""
LEAVE = "DELETE FROM aembed.workers WHERE token = $1"
# Chosen: a sign of life that met the outage is tried again within a second of the server's start (LONGEST_PAUSE), which
# leaves room for two more. Larger, the rows of workers that died with the server wait longer.
ALIVE = """greatest(w.expires_at, pg_catalog.pg_postmaster_start_time() + interval '3 s')
    > pg_catalog.clock_timestamp()"""
"""Nobody could show a sign of life while the server was away: all have a moment to come back."""
# A row that another transaction writes just now is passed over, and found by the next pass. A lease with a larger token
# than this statement can see belongs to a worker that has joined since: it lives, though its row is not seen.
CLAIM = """WITH page AS (
    SELECT {id} AS id, ({text})::text AS text FROM {rows} WHERE {condition} AND NOT EXISTS (
        SELECT FROM aembed.leases l JOIN aembed.workers w ON w.token = l.token WHERE l.target = $2 AND l.key = {id}
            AND (w.token = $3 OR {alive}))
    ORDER BY {keys} LIMIT $1 FOR NO KEY UPDATE OF t SKIP LOCKED),
claimed AS (
    INSERT INTO aembed.leases AS l (target, key, token) SELECT $2, id, $3 FROM page
    ON CONFLICT (target, key) DO UPDATE SET token = excluded.token, failed = false
    WHERE l.token <= (SELECT pg_catalog.max(token) FROM aembed.workers) AND NOT EXISTS (
        SELECT FROM aembed.workers w WHERE w.token = l.token AND {alive})
    RETURNING key)
SELECT page.id, page.text, claimed.key IS NOT NULL AS is_mine FROM page LEFT JOIN claimed ON claimed.key = page.id"""
FREE_ROW = """SELECT {id} FROM {table} AS t WHERE {is_pending} AND NOT EXISTS (
    SELECT FROM aembed.leases l JOIN aembed.workers w ON w.token = l.token WHERE l.target = $1 AND l.key = {id}
        AND (w.token = $2 OR {alive})) LIMIT 1"""
OTHERS = """SELECT EXISTS (SELECT FROM aembed.leases l JOIN aembed.workers w ON w.token = l.token
    WHERE l.target = $1 AND l.token <> $2 AND NOT l.failed AND {alive})""".replace("{alive}", ALIVE)
RELEASE = "DELETE FROM aembed.leases WHERE target = $1 AND token = $2 AND key = ANY ($3::text[]) RETURNING key"
FAIL = "UPDATE aembed.leases SET failed = true WHERE target = $1 AND token = $2 AND key = ANY ($3::text[])"
HOLD_FAILED = """INSERT INTO aembed.leases (target, key, token, failed)
    SELECT $1, key, $2, true FROM unnest($3::text[]) AS key ON CONFLICT (target, key) DO NOTHING"""
FREE = "DELETE FROM aembed.leases WHERE target = $1 AND token = $2"
FORGET_LOST = """DELETE FROM aembed.leases
    WHERE target = $1 AND token = $2 AND NOT failed AND key <> ALL ($3::text[])"""
"""What was claimed in our name, and the answer was lost."""

# Chosen: four requests of 2,048 texts. Smaller, requests could not be filled; larger, one worker would hold the last
# rows of a table while the others have nothing to do.
MOST_CLAIMED = 8_192
"""Rows that one worker holds at the most, so that others find some."""
# Chosen: larger, a worker whose failed rows are never told would stand still for longer; much smaller, the bound above
# would bind nobody.
STALLED_SECONDS = 2.0
IDLE_SECONDS = 1_000.0
"""A worker that neither reads nor writes for so long lets its leases run out: longer than a job waits for a provider
that answers nobody (`RetryPolicy.max_outage`)."""


class ColumnWorker:
    """One pass over a backlog: a token, what it holds, and the task that keeps it alive."""

    def __init__(self, token: int, target: str, lease_seconds: float) -> None:
        self.token = token
        self.target = target
        self.lease_seconds = lease_seconds
        self.held: set[str] = set()
        self._active_at = self._seen_at = asyncio.get_running_loop().time()
        self._has_lapsed = False
        self._freed = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    @property
    def has_lapsed(self) -> bool:
        """Whether no sign of life came in time, at least once: others may have taken what was held here."""
        silence = asyncio.get_running_loop().time() - self._seen_at
        self._has_lapsed = self._has_lapsed or silence > self.lease_seconds
        return self._has_lapsed

    def keep_alive(self, beat: Callable[[], Awaitable[object]]) -> None:
        self.note_activity()
        self._beating = asyncio.create_task(self._beat(beat))

    def note_taken(self, ids: Iterable[str]) -> None:
        self.held.update(ids)
        self.note_activity()

    def note_given_up(self, ids: Iterable[str]) -> None:
        self.held.difference_update(ids)
        self.note_activity()
        self._freed.set()

    def note_activity(self) -> None:
        self._active_at = asyncio.get_running_loop().time()

    async def wait_for_room(self) -> None:
        """Waits while enough is held; not for ever, because a row that failed may never be told."""
        if len(self.held) >= MOST_CLAIMED:
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STALLED_SECONDS):
                    await self._freed.wait()

    async def stop_beating(self) -> None:
        """Ends the task that keeps it alive."""
        if self._beating:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self, beat: Callable[[], Awaitable[object]]) -> None:
        while True:
            # Two signs of life may be lost before the lease runs out, and the third still comes in time.
            await asyncio.sleep(self.lease_seconds / 3)
            if asyncio.get_running_loop().time() - self._active_at < IDLE_SECONDS:
                with suppress(StoreError):
                    asked_at = asyncio.get_running_loop().time()
                    await beat()
                    # The silence is looked for before this sign of life ends it.
                    self._has_lapsed = self.has_lapsed
                    self._seen_at = asked_at


def lease_target(column: str, table: ColumnLayout) -> str:
    return f"{table.table}.{column}"


async def join(lease_seconds: float, connection: Connection) -> int:
    await connection.execute(LOCK)
    await connection.execute(FORGET)
    token: int = await connection.fetchval(JOIN, lease_seconds)
    return token


async def claim(
    last: Sequence[str] | None,
    size: int,
    scope: Scope,
    worker: ColumnWorker,
    table: ColumnLayout,
    connection: Connection,
) -> list[tuple[str, str, bool]]:
    """Id, text and whether it is ours now, of the free pending rows of that scope after a key; in key order."""
    rows, condition, parameters = scope.of(table, last, 4)
    statement = CLAIM.format(
        id=table.id,
        text=table.text,
        rows=rows,
        condition=condition,
        keys=table.key_list,
        alive=ALIVE,
    )
    found = await connection.fetch(statement, size, worker.target, worker.token, *parameters)
    return [(id, text, is_mine) for id, text, is_mine in found]


async def find_free(worker: ColumnWorker, table: ColumnLayout, connection: Connection) -> str | None:
    """The id of a pending row that nobody holds: it may be locked by a transaction that is no worker's."""
    statement = FREE_ROW.format(id=table.id, table=table.table, is_pending=table.is_pending, alive=ALIVE)
    found: str | None = await connection.fetchval(statement, worker.target, worker.token)
    return found


async def forget_lost(worker: ColumnWorker, connection: Connection) -> bool:
    """Whether the server held rows for us that we know nothing of; they are free again."""
    tag: str = await connection.execute(FORGET_LOST, worker.target, worker.token, list(worker.held))
    return tag != "DELETE 0"
