"""The questions asked of a user's own table, and how its vectors are written. All of it runs in a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

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

SELECT = "SELECT {columns} FROM {table} AS t WHERE {condition}"
FILL = """UPDATE {table} AS t SET {vector} = aembed_new.aembed_vector{mark} FROM pg_temp.aembed_staged AS aembed_new
    WHERE {is_key} AND {hash} = aembed_new.aembed_hash"""
ALREADY = """SELECT count(*) FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}, aembed_hash)
    ON {is_key} AND {hash} = aembed_new.aembed_hash WHERE t.{vector} IS NOT NULL"""
DISTANCE = "{v}.l2_normalize(t.{vector}::{v}.vector) OPERATOR({v}.<#>) $1::text::{v}.vector"

ROWS_PER_PAGE = 500
SHORTLIST = 50


def select(columns: str, condition: str, table: Layout) -> str:
    return SELECT.format(columns=columns, table=table.table, condition=condition)


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
    again: bool,
    table: Layout,
    connection: Connection,
) -> int:
    """COPY into a staging table and UPDATE from it; a row whose text is another by now is left alone.

    `again`: the answer to an earlier try was lost. Rows that are no longer held may have been filled by it.
    """
    filled = 0
    if worker is not None:
        mine = await leases.released(ids, worker, connection)
        others = [i for i, id in enumerate(ids) if id not in mine]
        if again and others:
            filled = await _already([ids[i] for i in others], [hashes[i] for i in others], table, connection)
        picked = [i for i, id in enumerate(ids) if id in mine]
        ids, hashes, matrix = [ids[i] for i in picked], [hashes[i] for i in picked], matrix[picked]
    if not ids:
        return filled
    columns: dict[str, tuple[str, Column]] = {
        name: ("text", [value.encode() for value in values])
        for name, values in zip(_names(table), zip(*map(native, ids), strict=True), strict=True)
    }
    columns["aembed_hash"] = ("bytea", hashes)
    statement = FILL.format(
        table=table.table, vector=table.vector, mark=mark(table), is_key=_is_key(table), hash=table.hash
    )
    return filled + await staged(columns, matrix, table.storage, table.vectors, statement, connection)


async def _already(ids: Sequence[str], hashes: Sequence[bytes], table: Layout, connection: Connection) -> int:
    """How many of these rows have a vector, and the text that it is for."""
    types = [*("text[]" for _ in table.keys), "bytea[]"]
    statement = ALREADY.format(
        table=table.table,
        vector=table.vector,
        given=", ".join(f"${i}::{type}" for i, type in enumerate(types, 1)),
        names=", ".join(_names(table)),
        is_key=_is_key(table),
        hash=table.hash,
    )
    keys = zip(*map(native, ids), strict=True)
    count: int = await connection.fetchval(statement, *map(list, keys), list(hashes))
    return count


def _names(table: Layout) -> list[str]:
    return [f"aembed_key{i}" for i in range(len(table.keys))]


def _is_key(table: Layout) -> str:
    pairs = zip(table.keys, _names(table), table.key_types, strict=True)
    return " AND ".join(f"t.{key} = aembed_new.{name}::{type}" for key, name, type in pairs)


def mark(table: Layout) -> str:
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
