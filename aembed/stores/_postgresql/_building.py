"""An index is built beside running writes, in a session of its own and with no time limit.

A partitioned table cannot be indexed so: its own index is made first, without its partitions and not valid yet; then
each partition is indexed beside running writes, and what is built is attached. With the last one it becomes valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeAlias

from aembed.stores._postgresql._aside import SetAside
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._empty_rows import EmptyRows
from aembed.stores._postgresql._errors import Refused, explain_error
from aembed.stores._postgresql._index import INVALID, PROGRESS, RESET, IndexTarget, settings
from aembed.stores._postgresql._names import TableName
from aembed.stores._postgresql._words import WordTarget

OnBuild: TypeAlias = Callable[[str, int, int], object]
"""Phase of an index's build, how much of it is done, and how much there is: blocks of the table, or rows."""
BuildTarget: TypeAlias = IndexTarget | WordTarget | EmptyRows | SetAside

# asyncpg takes timeout=None for the command_timeout of the connection, so that no limit has to be a large number.
# Chosen: a week; smaller, a build over a large table might be given up after hours of work.
NO_TIMEOUT = 7 * 86_400.0
# Chosen: each look is a short transaction of its own. Larger, a phase of a small table would pass unseen.
WATCH_SECONDS = 0.5
# By level, since `_parts` looks up the parent of a partition among those that came before it.
PARTITIONS = """SELECT c.relname AS name, n.nspname AS schema, c.relkind::text AS kind,
        p.relname AS parent, pn.nspname AS parent_schema
    FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) t
        JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_class p ON p.oid = t.parentrelid
        LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
    ORDER BY t.level, n.nspname, c.relname"""
LOCK = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1, 0))"
"""Of the session: one who builds the same index is waited for, since his would be taken for one that was broken off."""
UNLOCK = "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended($1, 0))"
ATTACHED = "SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = pg_catalog.to_regclass($1))"
ATTACH = "ALTER INDEX {parent} ATTACH PARTITION {index}"


async def build(
    target: BuildTarget,
    database: PostgresDatabase,
    *,
    memory: str | None = None,
    workers: int | None = None,
    on_progress: OnBuild | None,
) -> None:
    prepare = settings(memory, workers)
    # Called for its checks alone: a width that cannot be indexed is refused before a connection is opened.
    target.create(concurrently=True)
    await database.check_direct()
    try:
        async with database.session() as connection:
            try:
                for statement in prepare:
                    await connection.execute(statement)
                async with _alone(target, connection):
                    await _build_parts(await _parts(target, connection), database, connection, on_progress)
            finally:
                with suppress(*Refused):
                    # The connection may belong to the user's pool, and goes back as it was.
                    await connection.execute(RESET)
    except Refused as error:
        raise explain_error(error, database.name) from None


@asynccontextmanager
async def _alone(target: BuildTarget, connection: Connection) -> AsyncIterator[None]:
    while True:
        # Tried again and again, and not waited for: the other's CREATE INDEX CONCURRENTLY waits for our statements, and
        # the server would take that for a deadlock.
        if await connection.fetchval(LOCK, target.full_name):
            break
        await asyncio.sleep(WATCH_SECONDS)
    try:
        yield
    finally:
        with suppress(*Refused):
            await connection.execute(UNLOCK, target.full_name)


async def _parts(target: BuildTarget, connection: Connection) -> Sequence[tuple[BuildTarget, BuildTarget | None, bool]]:
    """The table and its partitions, each with what it is a partition of, and whether it has partitions itself."""
    parts = list[tuple[BuildTarget, BuildTarget | None, bool]]()
    for row in await connection.fetch(PARTITIONS, target.table):
        part = replace(target, table=str(TableName(row["name"], row["schema"])), schema=row["schema"])
        parent = TableName(row["parent"], row["parent_schema"]) if row["parent"] else None
        above = next((other for other, *_ in parts if parent and other.table == str(parent)), None)
        parts.append((part, above, row["kind"] == "p"))
    return parts or [(target, None, False)]


async def _build_parts(
    parts: Sequence[tuple[BuildTarget, BuildTarget | None, bool]],
    database: PostgresDatabase,
    connection: Connection,
    on_progress: OnBuild | None,
) -> None:
    for part, above, is_parent in parts:
        if is_parent:
            await connection.execute(part.create(concurrently=False, only=True), timeout=NO_TIMEOUT)
            await _attach(part, above, connection)
    leaves = [(part, above) for part, above, is_parent in parts if not is_parent]
    for number, (part, above) in enumerate(leaves, 1):
        # CREATE INDEX CONCURRENTLY that broke off leaves an index which is not valid; IF NOT EXISTS would take it for
        # the finished one.
        if await connection.fetchval(INVALID, part.full_name):
            await connection.execute(f"DROP INDEX CONCURRENTLY {part.full_name}", timeout=NO_TIMEOUT)
        which = f"partition {number} of {len(leaves)}: " if above else ""
        watching = asyncio.create_task(_watch(part, which, database, on_progress)) if on_progress else None
        try:
            await connection.execute(part.create(concurrently=True), timeout=NO_TIMEOUT)
        finally:
            if watching:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        await _attach(part, above, connection)


async def _attach(part: BuildTarget, above: BuildTarget | None, connection: Connection) -> None:
    if above and not await connection.fetchval(ATTACHED, part.full_name):
        await connection.execute(ATTACH.format(parent=above.full_name, index=part.full_name))


async def _watch(target: BuildTarget, which: str, database: PostgresDatabase, on_progress: OnBuild) -> None:
    async def asked(connection: Connection) -> Any:
        return await connection.fetchrow(PROGRESS, target.table)

    while True:
        if row := await database.run(asked):
            on_progress(which + row["phase"], row["done"], row["total"])
        await asyncio.sleep(WATCH_SECONDS)
