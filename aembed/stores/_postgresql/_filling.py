"""The questions asked of a user's own table, and how its vectors are written. All of it runs in a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql._columns import Layout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._index import is_indexed, widen
from aembed.stores._postgresql._names import quoted
from aembed.stores._postgresql._staging import staged
from aembed.stores._postgresql._wire import Column, literal, normalized, vector_of
from aembed.stores._rules import Scalar
from aembed.types import Matrix, Vector

Filters: TypeAlias = tuple[str, list[str]]

READ_ONLY = "SELECT pg_catalog.current_setting('transaction_read_only') = 'on'"
HIDDEN = "pg_catalog.row_security_active($1::bigint::oid)"
SELECT = "SELECT {columns} FROM {table} AS t WHERE {condition}"
OWNS = """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c
    WHERE c.oid = $1::bigint::oid"""
ADD = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type}"
EXTERNAL = "ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL"
PROBE = """UPDATE {table} AS t SET {vector} = pg_catalog.array_fill(1::real, ARRAY[$1::int])::{v}.{storage}{mark}
    WHERE ({keys}) IN ({one})"""
FILL = """UPDATE {table} AS t SET {vector} = aembed_new.aembed_vector{mark} FROM pg_temp.aembed_staged AS aembed_new
    WHERE {is_key} AND {hash} = aembed_new.aembed_hash"""
DISTANCE = "{v}.l2_normalize(t.{vector}::{v}.vector) OPERATOR({v}.<#>) $1::text::{v}.vector"

ROWS_PER_PAGE = 500
SHORTLIST = 50


def select(columns: str, condition: str, table: Layout) -> str:
    return SELECT.format(columns=columns, table=table.table, condition=condition)


async def check(place: str, table: Layout, connection: Connection) -> None:
    """Law 6: what cannot be written is found before money is spent."""
    if await connection.fetchval(READ_ONLY):
        raise StoreError(f"{place} cannot be written: the server, or the role, is read-only; connect to the primary")
    if table.absent and not await connection.fetchval(OWNS, table.oid):
        columns = ", ".join(sorted(table.absent))
        raise StoreError(f"{place}: only the owner of {table.table} may add {columns}; connect as the owner")
    missing = " OR ".join(f"t.{key} IS NULL" for key in table.keys)
    nameless = f"({missing}) AND ({table.text}) IS NOT NULL AND {table.is_stale}{table.condition} LIMIT 1"
    if await connection.fetchval(select("1", nameless, table)):
        raise ConfigError(f"{place}: a row to be filled has NULL in its key; give it a value")


async def add_columns(columns: Mapping[str, str], table: Layout, connection: Connection) -> None:
    """Adds them by name and type; a vector is kept as it is, because it cannot be compressed."""
    for name, type in columns.items():
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
        one=select(table.key_list, f"{table.is_pending} LIMIT 1 FOR UPDATE SKIP LOCKED", table),
        mark=_mark(table),
    )
    tag = await connection.execute(statement, table.dimensions or dimensions)
    await connection.execute("ROLLBACK TO SAVEPOINT aembed_probe")
    if tag == "UPDATE 0" and await connection.fetchval(select(HIDDEN, f"{table.is_pending} LIMIT 1", table), table.oid):
        raise StoreError(f"{place}: the server writes no row for this role; a policy (row-level security) hides them")


async def filled_width(table: Layout, connection: Connection) -> int | None:
    """Dimensions of one vector that is there already."""
    if table.vector in table.absent:
        return None
    columns = f"{table.vectors}.vector_dims(t.{table.vector}::{table.vectors}.vector)"
    width: int | None = await connection.fetchval(select(columns, f"t.{table.vector} IS NOT NULL LIMIT 1", table))
    return width


async def page(last: Sequence[str] | None, size: int, table: Layout, connection: Connection) -> list[tuple[str, str]]:
    """Id and text of the pending rows after a key, in key order."""
    condition = f"{table.is_pending}{table.after(last, 2)} ORDER BY {table.key_list} LIMIT $1"
    found = await connection.fetch(select(f"{table.id}, ({table.text})::text", condition, table), size, *(last or ()))
    return [(id, text) for id, text in found]


async def count(table: Layout, connection: Connection) -> int:
    pending: int = await connection.fetchval(select("count(*)", table.is_pending, table))
    return pending


async def fill(
    ids: Sequence[str],
    hashes: Sequence[bytes],
    matrix: Matrix,
    worker: leases.Worker | None,
    table: Layout,
    connection: Connection,
) -> int:
    """COPY into a staging table and UPDATE from it; a row whose text is another by now is left alone."""
    if worker is not None:
        mine = await leases.released(ids, worker, connection)
        picked = [i for i, id in enumerate(ids) if id in mine]
        ids, hashes, matrix = [ids[i] for i in picked], [hashes[i] for i in picked], matrix[picked]
    if not ids:
        return 0
    names = [f"aembed_key{i}" for i in range(len(table.keys))]
    keys = zip(*(map(str.encode, native(id)) for id in ids), strict=True)
    columns: dict[str, tuple[str, Column]] = {name: ("text", list(key)) for name, key in zip(names, keys, strict=True)}
    columns["aembed_hash"] = ("bytea", hashes)
    return await staged(columns, matrix, table.storage, table.vectors, _fill(names, table), connection)


def _fill(names: Sequence[str], table: Layout) -> str:
    pairs = zip(table.keys, names, table.key_types, strict=True)
    is_key = " AND ".join(f"t.{key} = aembed_new.{name}::{type}" for key, name, type in pairs)
    return FILL.format(table=table.table, vector=table.vector, mark=_mark(table), is_key=is_key, hash=table.hash)


def _mark(table: Layout) -> str:
    return f", {table.fingerprint} = {table.stored_hash}" if table.fingerprint else ""


def filters(where: Mapping[str, Scalar], table: Layout) -> Filters:
    """SQL whose parameters begin at $3, and their values."""
    parts, values = [], []
    for name, value in where.items():
        type = table.type_of(name)
        if value is None:
            parts.append(f" AND t.{quoted(name)} IS NULL")
        else:
            values.append(str(value).lower() if isinstance(value, bool) else str(value))
            parts.append(f" AND t.{quoted(name)} = ${len(values) + 2}::text::{type}")
    return "".join(parts), values


async def candidates(
    query: Vector, k: int, filters: Filters, table: Layout, connection: Connection
) -> list[tuple[str, str | None, Vector]]:
    """Id, text and vector of the k best rows and some more: the server compares in float32."""
    sent = f"{table.vectors}.vector_send(t.{table.vector}::{table.vectors}.vector)"
    most, order = 2 * k + SHORTLIST, f"{DISTANCE.format(v=table.vectors, vector=table.vector)}, {table.key_list}"
    if await is_indexed(table.target, connection):
        await widen(most, connection)
        order = table.target.distance("t.")
    condition = f"t.{table.vector} IS NOT NULL{table.condition}{filters[0]} ORDER BY {order} LIMIT $2"
    columns = f"{table.id}, ({table.text})::text, {sent}"
    statement = select(columns, condition, table)
    found = await connection.fetch(statement, literal(normalized(query)), most, *filters[1])
    return [(id, text, vector_of(vector)) for id, text, vector in found]
