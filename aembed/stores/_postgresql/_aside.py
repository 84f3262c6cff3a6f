"""Indexes of vectors that are dropped while their column is filled, and built again.

pgvector takes a row into an HNSW index a hundred times as slowly as PostgreSQL writes it, and ten times as slowly as a
build does. What is dropped is kept in `aembed.dropped_indexes` in the same transaction, and stays there until the index
is there again and valid: whatever dies in between, a later run finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from aembed.errors import StoreError
from aembed.stores._indexes_there import IndexesThere
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._grants import LOCK, may_create, may_read, may_write
from aembed.stores._postgresql._index import TableIndex
from aembed.stores._postgresql._names import quote_name

NAME = "dropped_indexes"
TABLE = """CREATE SCHEMA IF NOT EXISTS aembed;
    CREATE TABLE IF NOT EXISTS aembed.dropped_indexes (table_schema text, table_name text, column_name text,
        index_name text, definition text NOT NULL, comment text,
        dropped_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (table_schema, table_name, index_name))"""
# What an index is over stands in pg_depend, also where it is an expression or a condition. The methods left out are
# those of PostgreSQL itself, which are fast.
FOUND = """SELECT c.relname AS name, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid AS is_valid,
        pg_catalog.obj_description(i.indexrelid, 'pg_class') AS comment,
        CASE WHEN NOT pg_catalog.pg_has_role(c.relowner, 'USAGE') THEN 'only the owner of the table may drop it'
            WHEN t.relkind = 'p' OR c.relispartition THEN 'it is over a partitioned table'
            WHEN c.reltablespace <> 0 THEN 'it is in a tablespace of its own' ELSE '' END AS fixed
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attname = $2
    WHERE i.indrelid = $1::bigint::oid AND m.amname NOT IN ('btree', 'hash', 'gin', 'gist', 'spgist', 'brin')
        AND EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.objid = i.indexrelid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)
    ORDER BY c.relname"""
PLAIN_NAMES = "SET LOCAL search_path = pg_catalog"
"""Then a definition names everything with its schema, and can be run in any session."""
FILLED = "SELECT count(*) FROM {table} WHERE {vector} IS NOT NULL"
KEEP = """INSERT INTO aembed.dropped_indexes (table_schema, table_name, column_name, index_name, definition, comment)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (table_schema, table_name, index_name)
    DO UPDATE SET column_name = excluded.column_name, definition = excluded.definition, comment = excluded.comment"""
KEPT = """SELECT index_name, definition, comment FROM aembed.dropped_indexes
    WHERE table_schema = $1 AND table_name = $2 AND column_name = $3 ORDER BY index_name"""
FORGET = "DELETE FROM aembed.dropped_indexes WHERE table_schema = $1 AND table_name = $2 AND index_name = $3"
IS_THERE = "SELECT pg_catalog.to_regclass($1) IS NOT NULL"
COMMENT = "SELECT pg_catalog.format('COMMENT ON INDEX %s IS %L', $1::text, $2::text)"
# Chosen: who reads the table for longer is not to have all others wait behind the DROP.
PATIENCE = "SET LOCAL lock_timeout = '5s'"
# Chosen, with two runs in mind: with pgvector 0.8.6 and the defaults of HNSW rows of 256 floats were written 100 to 200
# times as slowly as without, on a machine that did other work, too. It is a guess of the order of the time.
SECONDS_OF_256 = 0.003


@dataclass(frozen=True, slots=True)
class SetAside(TableIndex):
    """An index that was dropped."""

    index: str
    definition: str
    comment: str | None

    @property
    def name(self) -> str:
        return quote_name(self.index)

    def create(self, *, concurrently: bool, only: bool = False) -> str:
        how = "INDEX CONCURRENTLY IF NOT EXISTS" if concurrently else "INDEX IF NOT EXISTS"
        return self.definition.replace("INDEX", how, 1)


async def look(column: str, table: ColumnLayout, connection: Connection) -> IndexesThere:
    found = [] if table.vector in table.absent else await connection.fetch(FOUND, table.oid, column)
    aside = await _set_aside(column, table, connection)
    filled = await connection.fetchval(FILLED.format(table=table.table, vector=table.vector)) if found else 0
    fixed = next((f"{row['name']}: {row['fixed']}" for row in found if row["fixed"]), "")
    seconds = SECONDS_OF_256 * len(found) * max(1.0, (table.dimensions or 0) / 256)
    there = tuple(row["name"] if row["is_valid"] else f"{row['name']} (not valid)" for row in found)
    return IndexesThere(there, tuple(each.index for each in aside), fixed, filled, seconds)


async def set_aside(place: str, column: str, table: ColumnLayout, connection: Connection) -> None:
    await connection.execute(PLAIN_NAMES)
    found = await connection.fetch(FOUND, table.oid, column)
    if not found:
        return
    for row in found:
        if row["fixed"]:
            raise StoreError(f"{place}: index {row['name']} is not dropped: {row['fixed']}")
    if await may_create(connection, NAME):
        await connection.execute(LOCK)
        await connection.execute(TABLE)
    if not await may_write(connection, NAME):
        raise StoreError(f"{place}: the role may not keep in aembed.{NAME} how an index is made, so none is dropped")
    try:
        await connection.execute(PATIENCE)
        for row in found:
            kept = row["name"], row["definition"], row["comment"]
            await connection.execute(KEEP, table.schema, table.name, column, *kept)
            await connection.execute(f"DROP INDEX {quote_name(table.schema)}.{quote_name(row['name'])}")
    except asyncpg.LockNotAvailableError:
        raise StoreError(f"{place}: somebody uses the table, and no index was dropped; try again later") from None


async def find_aside(column: str, table: ColumnLayout, connection: Connection) -> Sequence[SetAside]:
    """Those that are to be built. One that somebody has built meanwhile, under whatever name, is forgotten."""
    await connection.execute(PLAIN_NAMES)
    valid = {_what(row["definition"]) for row in await connection.fetch(FOUND, table.oid, column) if row["is_valid"]}
    aside = await _set_aside(column, table, connection)
    for each in aside:
        if _what(each.definition) in valid:
            await forget(each, table, connection)
    return [each for each in aside if _what(each.definition) not in valid]


async def forget(index: SetAside, table: ColumnLayout, connection: Connection) -> None:
    """It is there again: it gets its comment, and is kept no more."""
    if index.comment is not None and await connection.fetchval(IS_THERE, index.full_name):
        await connection.execute(await connection.fetchval(COMMENT, index.full_name, index.comment))
    await connection.execute(FORGET, table.schema, table.name, index.index)


def _what(definition: str) -> str:
    """All but the name."""
    return definition.partition(" ON ")[2]


async def _set_aside(column: str, table: ColumnLayout, connection: Connection) -> Sequence[SetAside]:
    if not await may_read(connection, NAME):
        return []
    rows = await connection.fetch(KEPT, table.schema, table.name, column)
    return [SetAside(table.table, table.schema, name, *more) for name, *more in rows]
