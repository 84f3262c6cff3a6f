"""Law 6: what cannot be written to a user's own table is found, and what is made is said, before money is spent."""

from __future__ import annotations

from dataclasses import replace

from aembed.core.spaces import agreed
from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.stores._postgresql import _bookkeeping as books
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql._columns import Layout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._index import is_indexed
from aembed.stores._rules import mismatch
from aembed.types import Space

READ_ONLY = "SELECT pg_catalog.current_setting('transaction_read_only') = 'on'"
HIDDEN = "pg_catalog.row_security_active($1::bigint::oid)"
OWNS = """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c
    WHERE c.oid = $1::bigint::oid"""
ADD = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type}"
EXTERNAL = "ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL"
PROBE = """UPDATE {table} AS t SET {vector} = pg_catalog.array_fill(1::real, ARRAY[$1::int])::{v}.{storage}{mark}
    WHERE ({keys}) IN ({one})"""
EMPTY = "Fill another column, or empty this one first: UPDATE {} SET {} = NULL"


async def announced(
    place: str, asked: Space, held: Space | None, index: bool, table: Layout, connection: Connection
) -> list[str]:
    """What will be made, a line each. Raises as `checked`."""
    space = await checked(place, asked, held, table, connection)
    added = table.additions(space.dimensions) if space.dimensions else {}
    lines = [f"column {name} {type} of {table.table}" for name, type in added.items()]
    if await books.will_be_made(connection):
        lines.append(books.MADE)
    target = replace(table.target, dimensions=space.dimensions) if table.vector in added else table.target
    knowable = target.dimensions or table.vector not in table.absent
    if index and knowable and target.create(concurrently=True) and not await is_indexed(target, connection):
        lines.append(f"index {target.name} (HNSW, cosine) on {table.vector} of {table.table}")
    return lines


async def checked(place: str, asked: Space, held: Space | None, table: Layout, connection: Connection) -> Space:
    """The space that the column is for from now on. Raises what speaks against it."""
    await check(place, table, connection)
    width = table.dimensions or await sql.filled_width(table, connection)
    space = agreed(held, asked)
    if space is None and held and await sql.filled_width(table, connection):
        raise mismatch(place, held, asked, EMPTY.format(table.table, table.vector))
    space = space or asked
    fitting(place, space, width, table)
    await probe(place, space.dimensions or 1, table, connection)
    return space


def fitting(place: str, space: Space, width: int | None, table: Layout) -> None:
    if width is not None and space.dimensions not in (None, width):
        raise SpaceMismatchError(
            f"{place} is {table.storage}({width}), the model gives {space.dimensions}; "
            f"add --dimensions {width} (dimensions={width}), or fill a column of type vector({space.dimensions})"
        )


async def check(place: str, table: Layout, connection: Connection) -> None:
    if await connection.fetchval(READ_ONLY):
        raise StoreError(f"{place} cannot be written: the server, or the role, is read-only; connect to the primary")
    if table.absent and not await connection.fetchval(OWNS, table.oid):
        columns = ", ".join(sorted(table.absent))
        raise StoreError(f"{place}: only the owner of {table.table} may add {columns}; connect as the owner")
    missing = " OR ".join(f"t.{key} IS NULL" for key in table.keys)
    nameless = f"({missing}) AND ({table.text}) IS NOT NULL AND {table.is_stale}{table.condition} LIMIT 1"
    if await connection.fetchval(sql.select("1", nameless, table)):
        raise ConfigError(f"{place}: a row to be filled has NULL in its key; give it a value")


async def add_columns(place: str, dimensions: int, table: Layout, connection: Connection) -> None:
    """Adds what is absent; a vector is stored as it is, because it cannot be compressed."""
    await check(place, table, connection)
    for name, type in table.additions(dimensions).items():
        await connection.execute(ADD.format(table=table.table, column=name, type=type))
        if name == table.vector:
            await connection.execute(EXTERNAL.format(table=table.table, column=name))


async def probe(place: str, dimensions: int, table: Layout, connection: Connection) -> None:
    """Writes one pending row and takes it back: permissions, triggers, constraints and row-level security speak now."""
    if table.absent:
        return
    await connection.execute("SAVEPOINT aembed_probe")
    statement = PROBE.format(
        table=table.table,
        vector=table.vector,
        v=table.vectors,
        storage=table.storage,
        keys=table.key_list,
        one=sql.select(table.key_list, f"{table.is_pending} LIMIT 1 FOR UPDATE SKIP LOCKED", table),
        mark=sql.mark(table),
    )
    tag = await connection.execute(statement, table.dimensions or dimensions)
    await connection.execute("ROLLBACK TO SAVEPOINT aembed_probe")
    if tag == "UPDATE 0" and await connection.fetchval(
        sql.select(HIDDEN, f"{table.is_pending} LIMIT 1", table), table.oid
    ):
        raise StoreError(f"{place}: the server writes no row for this role; a policy (row-level security) hides them")
