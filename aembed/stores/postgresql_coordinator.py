"""A coordinator in a PostgreSQL database, for any number of processes and machines."""

from __future__ import annotations

import os
from functools import partial

import anyio

from aembed.errors import ConfigError
from aembed.stores._coordinators import FORGET_DAYS, SALT_BYTES, Change, T
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._errors import Refused, explain_error
from aembed.stores._postgresql._names import TableName, parse_name
from aembed.stores._postgresql._tables import LOCK, schema_of

TABLE = "aembed_limits"
IS_OTHER = """SELECT to_regclass($1) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND attname = 'changed_at' AND NOT attisdropped)"""
IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
# A worker's lease changes a few rows many times: room in each page lets them be changed in place.
CREATE = """CREATE TABLE {} (name text PRIMARY KEY, state bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 50)"""
NEW = "INSERT INTO {} (name, state) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
GET = "SELECT state FROM {} WHERE name = $1"
# The row is locked first: whoever asks at the same time waits, and then sees what was written.
TAKE = "SELECT state, extract(epoch FROM clock_timestamp())::float8 FROM {} WHERE name = $1 FOR UPDATE"
PUT = "UPDATE {} SET state = $2, changed_at = clock_timestamp() WHERE name = $1"
FORGET = "DELETE FROM {} WHERE changed_at < clock_timestamp() - make_interval(days => $1) AND name <> $2"
LIGHTLY = "SET LOCAL synchronous_commit = off"
SALT = "salt"
# Chosen: a lease takes a millisecond; the first connection may go by way of a name that is looked up and TLS.
COMMAND_TIMEOUT = 10.0


class PostgresCoordinator:
    """The table `aembed_limits`, or that of the URL's `table=`. It uses one connection, and nothing of its session."""

    def __init__(self, url: str) -> None:
        self._database = PostgresDatabase(url, command_timeout=COMMAND_TIMEOUT, max_outage=0.0)
        given = self._database.address.parameters if self._database.address else {}
        self._name = parse_name(given.get("table") or TABLE)
        self._table = ""
        self._turn = anyio.Lock(fast_acquire=True)

    async def prepare(self) -> bytes:
        """Makes the table. Raises ConfigError where one of that name is another."""
        schema = await self._database.run(partial(schema_of, self._name), safe_path=False)
        self._table = str(TableName(self._name.table, schema))
        return await self._database.run(self._make_table)

    async def exchange(self, name: str, change: Change[T], *, durable: bool) -> T:
        assert self._table, "prepare comes first"
        try:
            async with self._turn:
                return await self._database.run_once(partial(self._change, name, change, durable))
        except Refused as error:
            raise explain_error(error, self._database.name) from None

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _make_table(self, connection: Connection) -> bytes:
        await connection.execute(LOCK, self._table)
        if await connection.fetchval(IS_OTHER, self._table):
            raise ConfigError(f"{self._table} is no coordinator of aembed; name another one in the URL: ?table=NAME")
        if not await connection.fetchval(IS_THERE, self._table):
            await connection.execute(CREATE.format(self._table))
        await connection.execute(FORGET.format(self._table), FORGET_DAYS, SALT)
        await connection.execute(NEW.format(self._table), SALT, os.urandom(SALT_BYTES))
        return bytes(await connection.fetchval(GET.format(self._table), SALT))

    async def _change(self, name: str, change: Change[T], durable: bool, connection: Connection) -> T:
        if not durable:
            await connection.execute(LIGHTLY)
        held = await connection.fetchrow(TAKE.format(self._table), name)
        if held is None:
            await connection.execute(NEW.format(self._table), name, b"")
            held = await connection.fetchrow(TAKE.format(self._table), name)
        state, result = change(bytes(held[0]) or None, held[1])
        await connection.execute(PUT.format(self._table), name, state)
        return result


open_url = PostgresCoordinator
