"""The questions asked of a user's own table, and how its vectors are written. All of it runs in a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql._apart import SOME, Refused, write_row_by_row
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._hooks import Hook, check_unhooked
from aembed.stores._postgresql._parts import LockedError
from aembed.stores._postgresql._proof import SAME, write_with_proof
from aembed.stores._postgresql._scopes import Scope
from aembed.stores._postgresql._sending import send_rows, sends_vectors
from aembed.stores._postgresql._staging import (
    BY_KEY,
    POSITION,
    ROWS,
    position_column,
    stage_rows,
    statement_work,
    touched_rows,
)
from aembed.stores._postgresql._wire import Column, EncodedColumn, vector_of
from aembed.types import Matrix, Vector

SELECT = "SELECT {columns} FROM {table} AS t WHERE {condition}"
PAGE = "SELECT {id}, ({text})::text FROM {rows} WHERE {condition} ORDER BY {keys} LIMIT $1"
FILL = """UPDATE {table} AS t SET {vector} = aembed_new.aembed_vector{mark} FROM {rows}
    WHERE {is_key} AND {hash} = aembed_new.aembed_hash"""
STAGED = "pg_temp.aembed_staged AS aembed_new"
SENT = """unnest({given}, ${hashes}::bytea[], ${vectors}::{type}[])
        AS aembed_new ({names}, aembed_hash, aembed_vector)"""
MEANT = """SELECT aembed_new.aembed_row FROM {table} AS t, pg_temp.aembed_staged AS aembed_new
    WHERE {is_key} AND {hash} = aembed_new.aembed_hash FOR NO KEY UPDATE OF t"""
FILL_SOME = FILL + f" AND aembed_new.{SOME}"
KEPT = """SELECT aembed_new.aembed_row FROM {table} AS t, pg_temp.aembed_staged AS aembed_new
    WHERE {is_key} AND {hash} = aembed_new.aembed_hash AND {is_same}{is_marked}"""
ALREADY = """SELECT count(*) FROM {table} AS t
    JOIN unnest({given}, ${hashes}::bytea[]) AS aembed_new ({names}, aembed_hash)
    ON {is_key} AND {hash} = aembed_new.aembed_hash WHERE t.{vector} IS NOT NULL"""
CLEAR = """UPDATE {table} AS t SET {vector} = NULL, {fingerprint} = NULL FROM unnest({given}) AS aembed_new ({names})
    WHERE {is_key} AND t.{vector} IS NOT NULL AND t.{fingerprint} IS NOT NULL
        AND t.{fingerprint} IS DISTINCT FROM {hash}"""
FREE = """SELECT {id} FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}) ON {is_key}
    FOR NO KEY UPDATE OF t SKIP LOCKED"""
THERE = FREE.partition("FOR NO KEY")[0]
COUNT_FREE = "SELECT count(*) FROM ({rows}) AS free".replace("{rows}", FREE.replace("{id}", ""))
LOCKED = "another transaction holds it locked; end that one (pg_stat_activity, or pg_prepared_xacts, tells which)"
LEASED = "other workers take it and give it up again and again; wait for their end"
POLICY = (
    "a policy (row-level security) hides it from what this role updates; leave it out (where=), or let it be updated"
)
RECLAIM = """WITH held AS (
    SELECT {id} AS id FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}) ON {is_key}
    WHERE {condition} FOR NO KEY UPDATE OF t SKIP LOCKED)
INSERT INTO aembed.leases AS l (target, key, token) SELECT $1, id, $2 FROM held
ON CONFLICT (target, key) DO UPDATE SET token = excluded.token, failed = false
WHERE l.token = excluded.token OR NOT EXISTS (SELECT FROM aembed.workers w WHERE w.token = l.token AND {alive})
RETURNING key"""

# Chosen: larger, a page of long texts takes more memory, and a worker keeps more rows from the others; smaller, a round
# trip for each page takes the time.
ROWS_PER_PAGE = 500
# Chosen: now() and random() change every text, so that a few rows show it. Each of them costs a statement.
MOST_COMPARED = 3


def select(columns: str, condition: str, table: ColumnLayout) -> str:
    return SELECT.format(columns=columns, table=table.table, condition=condition)


def row_columns(table: ColumnLayout) -> str:
    """Id, text, and the vector as `vector_send` gives it."""
    return f"{table.id}, ({table.text})::text, {table.vectors}.vector_send(t.{table.vector}::{table.vectors}.vector)"


async def filled_width(table: ColumnLayout, connection: Connection) -> int | None:
    """Dimensions of one vector that is there already."""
    if table.vector in table.absent:
        return None
    columns = f"{table.vectors}.vector_dims(t.{table.vector}::{table.vectors}.vector)"
    width: int | None = await connection.fetchval(select(columns, f"t.{table.vector} IS NOT NULL LIMIT 1", table))
    return width


async def read_page(
    last: Sequence[str] | None, size: int, scope: Scope, table: ColumnLayout, connection: Connection
) -> list[tuple[str, str]]:
    """Id and text of the pending rows of that scope after a key, in key order."""
    rows, condition, parameters = scope.of(table, last, 2)
    statement = PAGE.format(id=table.id, text=table.text, rows=rows, condition=condition, keys=table.key_list)
    return [(id, text) for id, text in await connection.fetch(statement, size, *parameters)]


async def free_ids(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> set[str]:
    """Those of the rows that this role may write, and that no other transaction holds."""
    statement = FREE.format(id=table.id, table=table.table, **table.given_keys(1))
    return {id for (id,) in await connection.fetch(statement, *map(list, zip(*map(native, ids), strict=True)))}


async def lock(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> None:
    """Locks the rows. Raises LockedError where other transactions hold some; one row alone is not asked for."""
    if len(ids) < 2:
        return
    await connection.execute(BY_KEY)
    parts, keys = {"table": table.table, **table.given_keys(1)}, [*map(list, zip(*map(native, ids), strict=True))]
    if await connection.fetchval(COUNT_FREE.format(**parts), *keys) == len(ids):
        return
    there = {id for (id,) in await connection.fetch(THERE.format(id=table.id, **parts), *keys)}
    if held := there - await free_ids(ids, table, connection):
        raise LockedError(frozenset(i for i, id in enumerate(ids) if id in held))


async def find_holder(id: str, table: ColumnLayout, connection: Connection) -> str:
    """What keeps a pending row from being written, as far as can be seen."""
    row, key = select("true", f"{table.is_pending} AND {table.is_key}", table), native(id)
    await connection.execute("SAVEPOINT aembed_lock")
    try:
        is_free = await connection.fetchval(f"{row} FOR NO KEY UPDATE NOWAIT", *key)
    except asyncpg.LockNotAvailableError:
        await connection.execute("ROLLBACK TO SAVEPOINT aembed_lock")
        return LOCKED
    return LEASED if is_free or not await connection.fetchval(row, *key) else POLICY


async def sample(most: int, table: ColumnLayout, connection: Connection) -> list[tuple[str, str, Vector]]:
    """Id, text and vector of some filled rows; where the hash of each text is kept, none whose text is another now."""
    if table.vector in table.absent:
        return []
    has_both = f"t.{table.vector} IS NOT NULL AND ({table.text}) IS NOT NULL"
    condition = f"{has_both} AND {table.is_current}{table.condition} LIMIT $1"
    found = await connection.fetch(select(row_columns(table), condition, table), most)
    return [(id, text, vector_of(vector)) for id, text, vector in found]


async def read_some_texts(table: ColumnLayout, connection: Connection) -> dict[str, str]:
    """Some texts that are pending, by their ids."""
    columns, condition = f"{table.id}, ({table.text})::text", f"{table.is_pending} LIMIT {MOST_COMPARED}"
    found = await connection.fetch(select(columns, condition, table))
    return {row[0]: row[1] for row in found}


async def read_texts_again(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> dict[str, str]:
    """Those texts as they are now."""
    statement = select(f"({table.text})::text", table.is_key, table)
    found = {id: await connection.fetchval(statement, *native(id)) for id in ids}
    return {id: text for id, text in found.items() if text is not None}


async def count(table: ColumnLayout, connection: Connection) -> int:
    pending: int = await connection.fetchval(select("count(*)", table.is_pending, table))
    return pending


@dataclass(frozen=True, slots=True)
class FillBatch:
    """Rows to be filled: the key of each, the hash of the text that was embedded, and the row of its vector."""

    ids: Sequence[str]
    hashes: Sequence[bytes]
    matrix: Matrix
    rows: Sequence[int]

    def pick(self, positions: Sequence[int]) -> FillBatch:
        ids, hashes = [self.ids[i] for i in positions], [self.hashes[i] for i in positions]
        return FillBatch(ids, hashes, self.matrix, [self.rows[i] for i in positions])


async def fill(
    batch: FillBatch,
    worker: leases.ColumnWorker | None,
    again: bool,
    hooks: tuple[Hook, ...],
    refused: Refused | None,
    place: str,
    table: ColumnLayout,
    connection: Connection,
) -> int:
    """COPY into a staging table and UPDATE from it; a row whose text is another by now is left alone.

    `again`: the answer to an earlier try was lost. Rows that are no longer held may have been filled by it. `hooks` are
    those of the table that are known: with any, each row is read again. `refused`, where it is not None, is filled with
    the rows that the table does not take, by their positions; else one of them ends all. Raises DroppedError, with
    positions, too, LockedError, and HookedError where there are hooks and none was known.
    """
    filled, mine = 0, list(range(len(batch.ids)))
    await lock(batch.ids, table, connection)
    if worker is not None:
        # Leases are given up in the transaction that writes: a worker that comes too late finds none, and writes
        # nothing.
        released = await connection.fetch(leases.RELEASE, worker.target, worker.token, list(batch.ids))
        held = {key for (key,) in released}
        others = [i for i, id in enumerate(batch.ids) if id not in held]
        if again and others:
            filled = await _count_filled_already(batch.pick(others), table, connection)
        mine = [i for i, id in enumerate(batch.ids) if id in held]
    if mine:
        filled += await update(batch, mine, hooks, refused, place, table, connection)
    if worker is not None and refused:
        # They were released with the others, and get no vector in this run.
        failed = [batch.ids[i] for i in refused]
        await connection.execute(leases.HOLD_FAILED, worker.target, worker.token, failed)
    if mine and not hooks:
        await check_unhooked(table.table, connection)
    return filled


async def update(
    batch: FillBatch,
    picked: Sequence[int],
    hooks: tuple[Hook, ...],
    refused: Refused | None,
    place: str,
    table: ColumnLayout,
    connection: Connection,
) -> int:
    """As `fill`, of rows that nobody else holds."""
    rows = batch.pick(picked)
    keys = list(zip(*map(native, rows.ids), strict=True))
    parts = {"table": table.table, "hash": table.hash, **table.given_keys(1)}
    mark = f", {table.fingerprint} = {table.stored_hash}" if table.fingerprint else ""
    filling = {"vector": table.vector, "mark": mark, **parts}
    if refused is None and not hooks and table.copies and await sends_vectors(table.storage, connection):
        after, type = len(table.keys), f"{table.vectors}.{table.storage}"
        sent = SENT.format(hashes=after + 1, vectors=after + 2, type=type, **parts)
        statement = FILL.format(rows=sent, **filling)
        return await send_rows(statement, [*keys, rows.hashes], rows.matrix, rows.rows, table.storage, connection)
    columns: dict[str, tuple[str, Column]] = {
        name: ("text", EncodedColumn(str.encode, values, range(len(values))))
        for name, values in zip(table.given_names, keys, strict=True)
    }
    columns["aembed_hash"] = ("bytea", rows.hashes)
    size = ROWS
    if hooks or refused is not None:
        # In one piece: what a trigger does to a later row may undo an earlier one.
        size = len(picked)
        columns[POSITION] = ("integer", position_column(picked))
    work = statement_work(FILL.format(rows=STAGED, **filling), connection)
    if refused is not None:
        some = FILL_SOME.format(rows=STAGED, **filling)
        work = write_row_by_row(picked, some, refused, place, connection)
    if hooks:
        is_marked = f" AND t.{table.fingerprint} = {table.stored_hash}" if table.fingerprint else ""
        same = SAME.format(there=f"t.{table.vector}", sent="aembed_new.aembed_vector", v=table.vectors)
        meant, kept = MEANT.format(**parts), KEPT.format(is_same=same, is_marked=is_marked, **parts)
        untaken = () if refused is None else refused
        work = write_with_proof(meant, kept, work, place, table.table, connection, untaken)
    copies = table.copies
    return await stage_rows(
        columns, rows.matrix, rows.rows, table.storage, table.vectors, work, connection, copies=copies, rows=size
    )


async def clear(ids: Sequence[str], table: ColumnLayout, connection: Connection) -> int:
    """Empties those of the rows that have a vector of another text than theirs. Raises LockedError."""
    await lock(ids, table, connection)
    statement = CLEAR.format(
        table=table.table,
        vector=table.vector,
        fingerprint=table.fingerprint,
        **table.given_keys(1),
        hash=table.stored_hash,
    )
    return (
        touched_rows(await connection.execute(statement, *map(list, zip(*map(native, ids), strict=True)))) if ids else 0
    )


async def reclaim(
    ids: Sequence[str], worker: leases.ColumnWorker, table: ColumnLayout, connection: Connection
) -> set[str]:
    """Those of the rows that are pending and that no other living worker holds: this one, which lives again, does."""
    await connection.execute(leases.BEAT, worker.token, worker.lease_seconds)
    statement = RECLAIM.format(
        id=table.id,
        table=table.table,
        **table.given_keys(3),
        condition=table.is_pending,
        alive=leases.ALIVE,
    )
    keys = map(list, zip(*map(native, ids), strict=True))
    return {key for (key,) in await connection.fetch(statement, worker.target, worker.token, *keys)} if ids else set()


async def _count_filled_already(batch: FillBatch, table: ColumnLayout, connection: Connection) -> int:
    """How many of these rows have a vector, and the text that it is for."""
    parts = {"table": table.table, "vector": table.vector, "hash": table.hash, **table.given_keys(1)}
    statement = ALREADY.format(hashes=len(table.keys) + 1, **parts)
    keys = zip(*map(native, batch.ids), strict=True)
    count: int = await connection.fetchval(statement, *map(list, keys), list(batch.hashes))
    return count
