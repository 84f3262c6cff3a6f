"""What is kept of users' columns in the schema `aembed`: which vectors they are for, and which texts were refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps, loads

from aembed.core.spaces import space_as_json, space_from_json
from aembed.stores._postgresql import _accounts as accounts
from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._errors import while_making
from aembed.stores._postgresql._grants import LOCK, may_create, may_read, may_write
from aembed.types import Refusal, Space

TABLES = (
    """CREATE SCHEMA IF NOT EXISTS aembed;
    CREATE TABLE IF NOT EXISTS aembed.columns (table_schema text, table_name text, column_name text,
        space jsonb NOT NULL, PRIMARY KEY (table_schema, table_name, column_name));
    CREATE TABLE IF NOT EXISTS aembed.refusals (target text, key text, fingerprint bytea NOT NULL, error text NOT NULL,
        message text NOT NULL, refused_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (target, key));
    """
    + leases.TABLES
    + ";"
    + accounts.TABLE
)
MADE = "schema aembed, which keeps what the column is for, which texts were refused and who works on which rows"
COLUMNS, REFUSALS = "columns", "refusals"
# A jsonb goes and comes as text: no codec is set on connections, which may be those of a pool of the user's.
SPACE = """SELECT space::text FROM aembed.columns
    WHERE table_schema = $1 AND table_name = $2 AND column_name = $3"""
SET_SPACE = """INSERT INTO aembed.columns (table_schema, table_name, column_name, space)
    VALUES ($1, $2, $3, $4::text::jsonb)
    ON CONFLICT (table_schema, table_name, column_name) DO UPDATE SET space = excluded.space"""
REFUSED = "SELECT key, fingerprint, error, message FROM aembed.refusals WHERE target = $1 "
REFUSED_OF, IN_ORDER = REFUSED + "AND key = ANY ($2::text[])", "ORDER BY key"
REFUSE = """INSERT INTO aembed.refusals (target, key, fingerprint, error, message)
    SELECT $1, * FROM unnest($2::text[], $3::bytea[], $4::text[], $5::text[])
    ON CONFLICT (target, key) DO UPDATE SET fingerprint = excluded.fingerprint, error = excluded.error,
        message = excluded.message, refused_at = excluded.refused_at"""
FORGIVE = "DELETE FROM aembed.refusals WHERE target = $1 AND key = ANY ($2::text[])"


async def read_space(column: str, table: ColumnLayout, connection: Connection) -> Space | None:
    if not await may_read(connection, COLUMNS):
        return None
    found: str | None = await connection.fetchval(SPACE, table.schema, table.name, column)
    return space_from_json(loads(found)) if found else None


async def make_schema(connection: Connection) -> bool:
    """Makes the schema where it is missing and may be made; returns whether all of it may be written."""
    if await may_create(connection, COLUMNS):
        await connection.execute(LOCK)
        with while_making("schema aembed"):
            await connection.execute(TABLES)
    return await may_write(connection, COLUMNS, REFUSALS, *leases.NAMES)


async def keep_space(column: str, space: Space, table: ColumnLayout, connection: Connection) -> None:
    if await may_write(connection, COLUMNS):
        as_json = dumps(space_as_json(space))
        await connection.execute(SET_SPACE, table.schema, table.name, column, as_json)


async def read_refused(ids: Sequence[str], column: str, table: ColumnLayout, connection: Connection) -> list[Refusal]:
    if not await may_write(connection, REFUSALS):
        return []
    return [Refusal(*row) for row in await connection.fetch(REFUSED_OF, leases.lease_target(column, table), list(ids))]


async def refusals(column: str, table: ColumnLayout, connection: Connection) -> list[Refusal]:
    if not await may_read(connection, REFUSALS):
        return []
    return [Refusal(*row) for row in await connection.fetch(REFUSED + IN_ORDER, leases.lease_target(column, table))]


async def refuse(refusals: Mapping[str, Refusal], column: str, table: ColumnLayout, connection: Connection) -> None:
    if not await may_write(connection, REFUSALS):
        return
    # Sorted, as in every write: workers that take their locks in one order do not deadlock.
    rows = [refusals[id] for id in sorted(refusals)]
    fields = ([getattr(each, name) for each in rows] for name in ("id", "fingerprint", "error", "message"))
    await connection.execute(REFUSE, leases.lease_target(column, table), *fields)


async def forgive(ids: Sequence[str], column: str, table: ColumnLayout, connection: Connection) -> None:
    await connection.execute(FORGIVE, leases.lease_target(column, table), list(ids))
