"""Connections to one database: a pool of our own, or the user's, and transactions that survive an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, TypeAlias, TypeVar

import asyncpg
from tenacity import AsyncRetrying, RetryCallState

from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql._errors import TAKEN, Refused, explain_error, is_busy, is_cut_off, is_outage, is_slow
from aembed.stores._postgresql._url import ServerAddress, parse
from aembed.stores._rules import ClosedError

T = TypeVar("T")
Connection: TypeAlias = Any
Work: TypeAlias = Callable[[Connection], Awaitable[T]]


# READ COMMITTED is named because a role or a database may have another default, in which an upsert beside other writers
# fails with serialization errors. remote_apply waits for more than `on`, and is left as it is.
BEGIN = """BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_catalog.set_config('synchronous_commit', 'on', true)
    WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.<>) 'remote_apply'"""
"""What is told as stored outlives a crash, whatever the database or the role has set."""
AT_ONCE = "SET CONSTRAINTS ALL IMMEDIATE"
"""Triggers and keys that wait for the COMMIT speak now."""
# pg_temp is named, and last: a path that does not name it has it searched first, where anybody may make a table.
SAFE_PATH = "; SET LOCAL search_path = pg_catalog, pg_temp"
"""Nobody's schema stands in front of the names that we use."""
CATALOG_FIRST = """; SELECT pg_catalog.set_config('search_path', pg_catalog.array_to_string(ARRAY(
        SELECT pg_catalog.quote_ident(name) FROM pg_catalog.unnest(pg_catalog.current_schemas(false))
            WITH ORDINALITY AS path (name, place) WHERE name OPERATOR(pg_catalog.<>) 'pg_catalog' ORDER BY place),
        ', '), true)
    WHERE 'pg_catalog' OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(false))"""
"""Where the user's own path names it, schemas before it have operators and functions in the place of the server's; what
does not name it has it first."""
SAME_TEXT = """; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL IntervalStyle = 'postgres';
    SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C';
    SET LOCAL quote_all_identifiers = off"""
"""A key, and a text, is written the same for every worker, whatever its session has set. The order of day and month in
dates that are read stays the session's."""
# Chosen: one writes, others show signs of life, answer questions and search. PostgreSQL takes 100 in all by default,
# and each process has a pool of its own; with a single one every search would wait for a write.
MOST_CONNECTIONS = 4
# Chosen: a deadlock or a key that somebody takes is over in milliseconds, and an outage is looked at once a second.
# Larger, rows that were paid for would wait longer in memory once the server is back.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# Chosen: asyncpg's pool.close() waits for every connection that is in use. Larger, a server that hangs would hold up
# the end of a program; smaller, a rollback that is under way would be cut off.
CLOSE_SECONDS = 10.0
# Chosen: asyncpg's close() of PGlite behind pglite-socket waits for its whole timeout, each time.
QUIT_SECONDS = 2.0
"""That a server which is well may take to end a connection."""
ONE_SESSION = ("PGlite",)
"""Servers whose connections are all one session, so that a prepared statement of one is there for the next, too."""
# Chosen: another writer may come first once or twice. Where a key is taken four times in a row it is a unique key of
# the user's own, which no try passes.
MOST_TAKEN = 4
"""Tries of a write that meets a key which another writer took first: it finds that row at the next. And of what took
longer than transactions may, which counts what this program did meanwhile."""


class OwnConnection(asyncpg.Connection):
    """A connection of a pool of ours."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.vectors_sent: set[str] = set()
        """The types of pgvector for which it has a codec (_sending)."""


async def keep_session(connection: Connection) -> None:
    """Nothing outlives a transaction of ours, so that a connection needs no reset."""


class PostgresDatabase:
    """A PostgreSQL database. Raises StoreError, never asyncpg's own errors.

    `place` is a URL or an asyncpg pool; a pool is left as it was: no codec, no setting, and it stays open.
    """

    def __init__(self, place: str | Any, *, command_timeout: float, max_outage: float) -> None:
        self.address: ServerAddress | None = parse(place) if isinstance(place, str) else None
        self.name = str(self.address) if self.address else "the database of the pool"
        self._given = None if isinstance(place, str) else place
        self._pool: Any = self._given
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self.command_timeout = command_timeout
        self._max_outage = max_outage
        self._random = Random()
        self._reached = False
        self._closed = False
        self._hangs = self._one_session = False
        self.copies, self.copies_known = True, False
        """Whether the server knows COPY, and whether that was tried."""

    async def run(self, work: Work[T], *, safe_path: bool = True, slow_ends: bool = False, of_rows: bool = False) -> T:
        """`work` in one transaction, durable on return. It may be tried again, so it must be repeatable.

        Tried again while the server is away, restarts or is full, for `max_outage` seconds; not before it was
        reached once. `slow_ends`: a statement that takes too long raises SlowError at once. `of_rows`: rows are
        written, and RowRefusedError is raised where one of them is to blame.
        """
        began = asyncio.get_running_loop().time()

        def may_pass(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if error is None or (slow_ends and is_slow(error)):
                return False
            # A part that can be halved (`slow_ends`) is tried once more only: its halves tell which row it is.
            if of_rows and getattr(error, "sqlstate", None) == TAKEN:
                return state.attempt_number < (2 if slow_ends else MOST_TAKEN)
            if is_cut_off(error):
                return state.attempt_number < MOST_TAKEN
            return is_busy(error) or (self._reached and is_outage(error))

        def is_late(state: RetryCallState) -> bool:
            return asyncio.get_running_loop().time() - began >= self._max_outage

        retrying = AsyncRetrying(retry=may_pass, wait=self._pause, stop=is_late, sleep=asyncio.sleep, reraise=True)
        try:
            return await retrying(self.run_once, work, BEGIN + (SAFE_PATH if safe_path else CATALOG_FIRST + SAME_TEXT))
        except Refused as error:
            raise explain_error(error, self.name, of_rows=of_rows) from None

    async def run_once(self, work: Work[T], begin: str = BEGIN + SAFE_PATH) -> T:
        """`work` in one transaction that is not tried again. Raises what asyncpg raises."""
        pool = await self._open_pool()
        try:
            connection = await pool.acquire()
        except TimeoutError:
            raise ConnectionError("no connection in time") from None
        # Before a connection stood once, a wrong host or port is told at once, and not waited for as an outage.
        self._reached = True
        try:
            return await self._run_transaction(work, begin, connection)
        finally:
            with suppress(*Refused):
                await pool.release(connection)

    async def check_direct(self) -> None:
        """Raises ConfigError behind a pooler in transaction mode, where no index can be built."""
        address = self.address
        if address is None or address.keeps_sessions:
            return
        if address.behind_pooler or await self._is_behind_pooler():
            raise ConfigError(
                "an index is built over a direct connection, not through a pooler in transaction mode; "
                "give the URL of the server itself (on Supabase: the direct connection, or port 5432)"
            )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection that is in no transaction."""
        async with (await self._open_pool()).acquire() as connection:
            yield connection

    async def has_room(self) -> bool:
        """Whether a connection may be held beside those that are at work."""
        return bool((await self._open_pool()).get_max_size() > 1)

    async def aclose(self) -> None:
        """Closes the pool, if it is ours. Later calls raise StoreError."""
        self._closed = True
        await self.disconnect()

    async def disconnect(self) -> None:
        """Closes the connections, if they are ours; later calls open new ones."""
        pool, self._pool = self._pool, self._given
        if pool is None or pool is self._given:
            return
        try:
            if not self._hangs:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()
        except Refused:
            self._hangs = True
        finally:
            pool.terminate()

    def _pause(self, state: RetryCallState) -> float:
        # The exponent has a bound, since 2.0 ** 1024 overflows in a long outage. Pauses differ at random, so that two
        # writers that deadlocked do not meet again.
        longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(state.attempt_number, 10))
        return self._random.uniform(longest / 2, longest)

    async def _run_transaction(self, work: Work[T], begin: str, connection: Connection) -> T:
        """Ends the connection on doubt: what a cancelled or timed out statement still does is rolled back."""
        try:
            async with asyncio.timeout(self.command_timeout):
                await connection.execute(begin)
                result = await work(connection)
                # PostgreSQL answers a COMMIT of a transaction that has failed with ROLLBACK, and with no error.
                if await connection.execute("COMMIT") != "COMMIT":
                    raise StoreError(f"{self.name} rolled the transaction back; nothing was written")
                return result
        except (asyncpg.PostgresError, StoreError) as error:
            try:
                if is_outage(error):
                    _end(connection)
                elif connection.is_in_transaction():
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await connection.execute("ROLLBACK")
            except Refused:
                _end(connection)
            raise
        except BaseException:
            _end(connection)
            raise

    async def _open_pool(self) -> Any:
        if self._closed:
            raise ClosedError(f"{self.name} was closed; open the store again")
        loop = asyncio.get_running_loop()
        if self._given is not None or (self._pool is not None and self._loop is loop):
            return self._pool
        # Lock and pool belong to the loop that made them. Of a loop that has stopped nothing can be awaited any more.
        if self._loop is not loop:
            self._loop, self._pool, self._opening = loop, None, asyncio.Lock()
        async with self._opening:
            self._pool = self._pool or await self._create()
            return self._pool

    async def _create(self) -> Any:
        assert self.address is not None
        try:
            shared = self.address.behind_pooler or await self._is_behind_pooler() or self._one_session
        except TimeoutError:
            raise ConnectionError("no answer in time") from None
        # Behind a pooler in transaction mode asyncpg's prepared statements are lost: 220 errors in 240 iterations with
        # its default of 100, none with 0 (PgBouncer). min_size is 10 by default, which it would open at once.
        return await asyncpg.create_pool(
            **self.address.connect,
            min_size=0,
            max_size=MOST_CONNECTIONS,
            statement_cache_size=0 if shared else 100,
            command_timeout=self.command_timeout,
            reset=keep_session,
            connection_class=OwnConnection,
        )

    async def _is_behind_pooler(self) -> bool:
        """A pooler answers the connection itself: the process that it names is not the one that runs statements."""
        assert self.address is not None
        connection = await asyncpg.connect(
            **self.address.connect, statement_cache_size=0, command_timeout=self.command_timeout
        )
        self._reached = True
        try:
            backend, version = await connection.fetchrow("SELECT pg_catalog.pg_backend_pid(), pg_catalog.version()")
            self._one_session = any(name in version for name in ONE_SESSION)
            return bool(backend != connection.get_server_pid())
        finally:
            # A server that does not end its side of a connection is there all the same.
            try:
                await connection.close(timeout=QUIT_SECONDS)
            except Refused:
                self._hangs = True
                _end(connection)


@asynccontextmanager
async def taken_back(connection: Connection) -> AsyncIterator[None]:
    """What is done within is tried: it is taken back, and the transaction goes on."""
    await connection.execute("SAVEPOINT aembed_trial")
    try:
        yield
    finally:
        # A connection that was lost has no transaction any more, and one of a pool raises where it is asked: the error
        # that ended it is the one to be told.
        with suppress(asyncpg.InterfaceError):
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK TO SAVEPOINT aembed_trial")


def _end(connection: Connection) -> None:
    """A connection that was lost has left the pool by itself."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()
