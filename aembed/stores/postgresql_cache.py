"""A cache of vectors in a PostgreSQL database, for any number of processes and machines. It needs no pgvector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import numpy as np

from aembed.errors import ConfigError
from aembed.stores._postgresql import _shares as shares
from aembed.stores._postgresql._database import Connection, PostgresDatabase, T
from aembed.stores._postgresql._names import parse_name
from aembed.stores._postgresql._tables import LOCK, StoreLayout, StoreNames, schema_of
from aembed.types import Matrix, Vector

TABLE = "aembed_cache"
IS_OTHER = """SELECT to_regclass($1) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND attname = 'made_at' AND NOT attisdropped)"""
IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
# EXTERNAL spares the try to compress each vector.
TABLES = (
    """CREATE TABLE {rows} (fingerprint bytea PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        embedding bytea NOT NULL)""",
    "ALTER TABLE {rows} ALTER COLUMN embedding SET STORAGE EXTERNAL",
    "CREATE INDEX ON {rows} (made_at)",
)
VECTORS = "SELECT fingerprint, embedding FROM {rows} WHERE fingerprint = ANY ($1::bytea[])"
# In the order of the fingerprints, so that two writers never wait for each other in a circle.
KEEP = """INSERT INTO {rows} (fingerprint, embedding)
    SELECT * FROM unnest($1::bytea[], $2::bytea[]) AS row (fingerprint, embedding) ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO NOTHING"""
PRUNE = """DELETE FROM {rows} WHERE fingerprint IN (SELECT fingerprint FROM {rows}
    WHERE made_at < clock_timestamp() - make_interval(secs => $1) ORDER BY fingerprint LIMIT $2)"""
COUNT = "SELECT count(*) FROM {rows}"
# Chosen: as in a SQLite cache.
ROWS_AT_ONCE = 10_000
# Chosen: as those of a PostgresStore.
COMMAND_TIMEOUT, MAX_OUTAGE = 30.0, 90.0


class PostgresCache:
    """The table `aembed_cache`, or that of the URL's `table=`, with `_leases` and `_workers` beside it."""

    def __init__(self, url: str) -> None:
        self._database = PostgresDatabase(url, command_timeout=COMMAND_TIMEOUT, max_outage=MAX_OUTAGE)
        given = self._database.address.parameters if self._database.address else {}
        self._table = parse_name(given.get("table") or TABLE)
        # Called for its check alone: the longest name must not be cut by the server.
        str(self._table.beside("_workers"))
        self._layout: StoreLayout | None = None

    async def prepare(self, *, create: bool = True) -> bool:
        """Makes the tables, and says whether they are there. Raises ConfigError where one of that name is another."""
        schema = await self._database.run(partial(schema_of, self._table), safe_path=False)
        names = StoreNames.from_name(self._table, schema, copies=False)
        layout = StoreLayout(names, vectors="", storage="vector", dimensions=None, meta={})

        async def make(connection: Connection) -> bool:
            await connection.execute(LOCK, names.rows)
            if await connection.fetchval(IS_OTHER, names.rows):
                raise ConfigError(f"{names.rows} is no cache of aembed; name another one in the URL: ?table=NAME")
            is_there: bool = await connection.fetchval(IS_THERE, names.rows)
            for table in TABLES if create and not is_there else ():
                await connection.execute(layout.sql(table))
            return is_there or create

        self._layout = layout
        return await self._database.run(make)

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        found = await self._run(lambda layout, c: c.fetch(layout.sql(VECTORS), list(fingerprints)))
        return {fingerprint: np.frombuffer(sent, "<f4").astype(np.float32) for fingerprint, sent in found}

    async def keep(self, fingerprints: Sequence[bytes], matrix: Matrix) -> None:
        sent = [row.tobytes() for row in np.ascontiguousarray(matrix, dtype="<f4")]
        await self._run(lambda layout, c: c.execute(layout.sql(KEEP), list(fingerprints), sent))

    async def prune(self, seconds: float) -> int:
        removed = 0
        while True:
            tag: str = await self._run(lambda layout, c: c.execute(layout.sql(PRUNE), seconds, ROWS_AT_ONCE))
            if tag == "DELETE 0":
                return removed
            removed += int(tag.rpartition(" ")[2])

    async def count(self) -> int:
        rows: int = await self._run(lambda layout, c: c.fetchval(layout.sql(COUNT)))
        return rows

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        joined = await self._run(partial(shares.join, seconds))
        return joined[:2] if joined else None

    async def others(self, token: int) -> bool:
        return await self._run(partial(shares.others, token))

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        leased, _ = await self._run(partial(shares.lease, token, wanted, done, seconds))
        return leased

    async def leave(self, token: int) -> None:
        await self._run(partial(shares.leave, token))

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _run(self, work: Callable[[StoreLayout, Connection], Awaitable[T]]) -> T:
        layout = self._layout
        assert layout is not None, "prepare comes first"
        return await self._database.run(partial(work, layout))


open_url = PostgresCache
