"""A coordinator in a SQLite file, for any number of processes of one machine."""

from __future__ import annotations

import os
from functools import partial
from sqlite3 import Connection

from aembed.errors import ConfigError
from aembed.stores._coordinators import FORGET_DAYS, SALT_BYTES, Change, T
from aembed.stores._sqlite._database import SQLiteDatabase

TABLE = """CREATE TABLE IF NOT EXISTS aembed_limits (name TEXT PRIMARY KEY NOT NULL, state BLOB NOT NULL,
    changed_at REAL NOT NULL) WITHOUT ROWID"""
IS_OTHER = "SELECT 1 FROM sqlite_master WHERE name IN ('aembed_rows', 'aembed_cache')"
# 2440587.5 is the Julian day of 1970-01-01 00:00 UTC: seconds since 1970 by SQLite's clock.
NOW = "SELECT (julianday('now') - 2440587.5) * 86400.0"
GET = "SELECT state FROM aembed_limits WHERE name = ?"
PUT = """INSERT INTO aembed_limits (name, state, changed_at) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at"""
FORGET = "DELETE FROM aembed_limits WHERE changed_at < ? AND name <> ?"
SALT = "salt"
# Chosen: another worker's lease takes milliseconds. Larger, a file that somebody has locked would hold up the threads.
LOCK_TIMEOUT = 2.0


class SQLiteCoordinator:
    """The table `aembed_limits` of a file of its own, which `prepare` creates, readable by its owner only."""

    def __init__(self, path: str) -> None:
        self._database = SQLiteDatabase(path, LOCK_TIMEOUT, "the coordinator was removed: run the same again")

    async def prepare(self) -> bytes:
        """Makes file and table. Raises ConfigError for the file of a store or a cache, which are locked for longer."""
        return await self._database.create(self._make_table)

    async def exchange(self, name: str, change: Change[T], *, durable: bool) -> T:
        work = partial(_exchange, name, change)
        return await (self._database.write(work) if durable else self._database.write_lightly(work))

    async def aclose(self) -> None:
        await self._database.aclose()

    def _make_table(self, connection: Connection) -> bytes:
        if connection.execute(IS_OTHER).fetchone():
            raise ConfigError(f"{self._database.name} holds a store or a cache; give the coordinator a file of its own")
        connection.execute(TABLE)
        (now,) = connection.execute(NOW).fetchone()
        connection.execute(FORGET, (now - FORGET_DAYS * 86_400.0, SALT))
        if (held := connection.execute(GET, (SALT,)).fetchone()) is None:
            connection.execute(PUT, (SALT, held := os.urandom(SALT_BYTES), now))
            return bytes(held)
        return bytes(held[0])


open_url = SQLiteCoordinator


def _exchange(name: str, change: Change[T], connection: Connection) -> T:
    held = connection.execute(GET, (name,)).fetchone()
    (now,) = connection.execute(NOW).fetchone()
    state, result = change(held[0] if held else None, now)
    connection.execute(PUT, (name, state, now))
    return result
