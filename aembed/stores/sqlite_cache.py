"""A cache of vectors in a SQLite file, for any number of processes of one machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from sqlite3 import Connection

import numpy as np

from aembed.errors import ConfigError
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite._database import SQLiteDatabase, blobs, select_in
from aembed.types import Matrix, Vector

TABLES = (
    "CREATE TABLE IF NOT EXISTS aembed_cache (fingerprint BLOB PRIMARY KEY NOT NULL, made_at REAL NOT NULL, "
    "embedding BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS aembed_cache_made_at ON aembed_cache (made_at)",
)
IS_STORE = "SELECT 1 FROM sqlite_master WHERE name = 'aembed_rows'"
IS_CACHE = "SELECT 1 FROM sqlite_master WHERE name = 'aembed_cache'"
# 2440587.5 is the Julian day of 1970-01-01 00:00 UTC: seconds since 1970 by SQLite's clock.
VECTORS = "SELECT fingerprint, embedding FROM aembed_cache WHERE fingerprint IN ({})"
HELD = "SELECT fingerprint FROM aembed_cache WHERE fingerprint IN ({})"
KEEP = """INSERT OR IGNORE INTO aembed_cache (fingerprint, made_at, embedding)
    VALUES (?, (julianday('now') - 2440587.5) * 86400.0, ?)"""
PRUNE = """DELETE FROM aembed_cache WHERE rowid IN (SELECT rowid FROM aembed_cache
    WHERE made_at < (julianday('now') - 2440587.5) * 86400.0 - ? LIMIT ?)"""
COUNT = "SELECT count(*) FROM aembed_cache"
# Chosen: 10,000 rows of 1,536 floats are 60 MB, removed in tenths of a second. Larger, a job's writes wait for longer.
ROWS_AT_ONCE = 10_000
# Chosen: as that of a store. A write of another process takes tenths of a second.
LOCK_TIMEOUT = 30.0


def _held(fingerprints: Collection[bytes], connection: Connection) -> AbstractSet[bytes]:
    return {fingerprint for (fingerprint,) in select_in(connection, HELD, fingerprints)}


class SQLiteCache:
    """The table `aembed_cache` of a file of its own, which `prepare` creates, readable by its owner only."""

    def __init__(self, path: str) -> None:
        self._database = SQLiteDatabase(path, LOCK_TIMEOUT, "the cache was removed: run the same again")

    async def prepare(self, *, create: bool = True) -> bool:
        """Makes file and tables, and says whether they are there.

        Raises ConfigError for the file of a store, whose jobs lease texts in it, too.
        """
        if not create:
            return await self._database.read(
                lambda connection: connection.execute(IS_CACHE).fetchone() is not None, False
            )
        await self._database.create(self._make_tables)
        return True

    def _make_tables(self, connection: Connection) -> None:
        if connection.execute(IS_STORE).fetchone():
            raise ConfigError(f"{self._database.name} holds a store; give the cache a file of its own")
        for table in TABLES:
            connection.execute(table)

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        return await self._database.read_beside(partial(_vectors, fingerprints), {})

    async def keep(self, fingerprints: Sequence[bytes], matrix: Matrix) -> None:
        rows = [*zip(fingerprints, blobs(matrix), strict=True)]
        await self._database.write(partial(_keep, rows))

    async def prune(self, seconds: float) -> int:
        removed = 0
        while some := await self._database.write(partial(_prune, seconds)):
            removed += some
        return removed

    async def count(self) -> int:
        rows: int = await self._database.read_beside(lambda connection: connection.execute(COUNT).fetchone()[0], 0)
        return rows

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        return await self._database.write_lightly(partial(leases.join, seconds))

    async def others(self, token: int) -> bool:
        return await self._database.read_beside(partial(leases.others, token), False)

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        return await self._database.write_lightly(partial(leases.lease, token, wanted, done, seconds, _held))

    async def leave(self, token: int) -> None:
        await self._database.write_lightly(partial(leases.leave, token))

    async def aclose(self) -> None:
        await self._database.aclose()


open_url = SQLiteCache


def _keep(rows: Sequence[tuple[bytes, memoryview]], connection: Connection) -> None:
    # The cursor is no result: whoever let go of it would do so beside the thread that uses its statement.
    connection.executemany(KEEP, rows)


def _prune(seconds: float, connection: Connection) -> int:
    return connection.execute(PRUNE, (seconds, ROWS_AT_ONCE)).rowcount


def _vectors(fingerprints: AbstractSet[bytes], connection: Connection) -> dict[bytes, Vector]:
    found = select_in(connection, VECTORS, fingerprints)
    return {fingerprint: np.frombuffer(blob, "<f4").astype(np.float32) for fingerprint, blob in found}
