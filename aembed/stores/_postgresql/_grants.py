"""What the role may do in the schema `aembed`, asked of the catalog: to name a table there may be refused already."""

from __future__ import annotations

from aembed.stores._postgresql._database import Connection

TABLES = """FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'aembed' AND c.relkind = 'r' AND c.relname = ANY ($1::text[])"""
MAY_READ = f"""SELECT count(*) FILTER (WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND pg_catalog.has_table_privilege(c.oid, 'SELECT')) {TABLES}"""
# Each right is asked for by itself: of a list such as 'SELECT, INSERT' has_table_privilege tells whether any of them is
# held.
MAY_WRITE = f"""SELECT count(*) FILTER (WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
    AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')) {TABLES}"""
THERE = f"SELECT count(*) {TABLES}"
# Two sessions that run CREATE ... IF NOT EXISTS at once both find nothing, and one of them fails. It is a lock of the
# transaction, because a pooler in transaction mode gave a lock of the session to two owners.
LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('aembed', 0))"
"""Held by whoever makes what belongs to the schema `aembed`, until its transaction ends."""
# CASE keeps the order: has_schema_privilege raises an error for a schema that is not there.
MAY_CREATE = """SELECT CASE WHEN pg_catalog.to_regnamespace('aembed') IS NULL
    THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    ELSE pg_catalog.has_schema_privilege('aembed', 'USAGE')
        AND pg_catalog.has_schema_privilege('aembed', 'CREATE') END"""


async def may_write(connection: Connection, *tables: str) -> bool:
    """Whether all of these are there, and the role has every right that is needed on them."""
    return bool(await connection.fetchval(MAY_WRITE, list(tables)) == len(tables))


async def may_read(connection: Connection, *tables: str) -> bool:
    return bool(await connection.fetchval(MAY_READ, list(tables)) == len(tables))


async def may_create(connection: Connection, table: str) -> bool:
    """Whether that table is not there yet, and the role may make it."""
    return not await connection.fetchval(THERE, [table]) and bool(await connection.fetchval(MAY_CREATE))
