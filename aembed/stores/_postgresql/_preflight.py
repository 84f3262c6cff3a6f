"""Law 6: what cannot be written to a user's own table is found, and what is made is said, before money is spent."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TypeAlias

from aembed.core.spaces import merge_spaces, settled_space
from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.stores._postgresql import _bookkeeping as books
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql._columns import ColumnLayout, ColumnRequest
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._grants import may_create, may_write
from aembed.stores._postgresql._hooks import Hook, hooks_of
from aembed.stores._postgresql._index import is_built, is_indexed
from aembed.stores._postgresql._names import TableName
from aembed.stores._postgresql._proof import try_write
from aembed.stores._postgresql._words import may_index_words
from aembed.stores._rules import EMPTY, mismatch_error, probe_matrix
from aembed.types import Space

logger = logging.getLogger("aembed")

Texts: TypeAlias = dict[str, str]
ReadTexts: TypeAlias = Callable[[Callable[[ColumnLayout, Connection], Awaitable[Texts]]], Awaitable[Texts]]
"""Runs such a question in a transaction of its own."""

READ_ONLY = "SELECT pg_catalog.current_setting('transaction_read_only') = 'on'"
HIDDEN = "pg_catalog.row_security_active($1::bigint::oid)"
OWNS = """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c
    WHERE c.oid = $1::bigint::oid"""
ADD = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type}"
EXTERNAL = "ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL"
INHERITED = """SELECT n.nspname, c.relname FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhparent = $1::bigint::oid AND NOT c.relispartition ORDER BY 1, 2 LIMIT 5"""
# Chosen: with a single row, one odd row would stop a job that can fill all others; each one costs a write and a
# savepoint.
MOST_PROBED = 8
"""Rows from either end of the table, where the first is not taken: one row that is refused fails alone."""


async def announce_changes(
    place: str,
    asked: Space,
    held: Space | None,
    index: bool,
    table: ColumnLayout,
    connection: Connection,
) -> list[str]:
    """What will be made, a line each. Raises as `check_column`."""
    space = await check_column(place, asked, held, table, connection)
    await probe(place, space.dimensions, table, connection)
    added = table.additions(space.dimensions) if space.dimensions else {}
    lines = [f"column {name} {type} of {table.table}" for name, type in added.items()]
    if await may_create(connection, books.COLUMNS):
        lines.append(books.MADE)
    target = replace(table.target, dimensions=space.dimensions) if table.vector in added else table.target
    knowable = target.dimensions or table.vector not in table.absent
    if index and knowable and target.create(concurrently=True) and not await is_indexed(target, connection):
        await _check_owner(place, table, connection)
        lines.append(f"index {target.name} (HNSW, cosine) on {table.vector} of {table.table}")
    words = table.word_target
    if index and not await is_built(words, connection):
        await _check_owner(place, table, connection)
        if await may_index_words(words, connection):
            lines.append(f"index {words.name} (GIN, words for hybrid search) on the texts of {table.table}")
    return lines


async def _check_owner(place: str, table: ColumnLayout, connection: Connection) -> None:
    if not await connection.fetchval(OWNS, table.oid):
        raise StoreError(f"{place}: only the owner of {table.table} may index it; connect as the owner for --index")


async def check_column(
    place: str, asked: Space, held: Space | None, table: ColumnLayout, connection: Connection
) -> Space:
    """The space that the column is for from now on. Raises what speaks against it."""
    await check(place, table, connection)
    width = table.dimensions or await sql.filled_width(table, connection)
    space = merge_spaces(held, asked)
    if space is None and held and await sql.filled_width(table, connection):
        raise mismatch_error(place, held, asked, EMPTY.format(table.table, table.vector))
    space = space or settled_space(asked)
    may_keep = await may_create(connection, books.COLUMNS) or await may_write(connection, books.COLUMNS)
    if space.preparation and not may_keep:
        raise SpaceMismatchError(
            f"{place}: the role may not keep what the column is for (docs/table.md has the GRANTs), and so nobody "
            "would know next time how its texts were prepared: without the options that prepare texts they are not"
        )
    check_width(place, space, width, table)
    return space


def check_width(place: str, space: Space, width: int | None, table: ColumnLayout) -> None:
    if width is not None and space.dimensions not in (None, width):
        raise SpaceMismatchError(
            f"{place} is {table.storage}({width}), the model gives {space.dimensions}; "
            f"add --dimensions {width} (dimensions={width}), or fill a column of type vector({space.dimensions})"
        )


async def check(place: str, table: ColumnLayout, connection: Connection) -> None:
    if await connection.fetchval(READ_ONLY):
        raise StoreError(f"{place} cannot be written: the server, or the role, is read-only; connect to the primary")
    if table.absent and not await connection.fetchval(OWNS, table.oid):
        columns = ", ".join(sorted(table.absent))
        raise StoreError(f"{place}: only the owner of {table.table} may add {columns}; connect as the owner")
    missing = " OR ".join(f"t.{key} IS NULL" for key in table.keys)
    nameless = f"({missing}) AND ({table.text}) IS NOT NULL AND {table.is_stale}{table.condition} LIMIT 1"
    if await connection.fetchval(sql.select("1", nameless, table)):
        raise ConfigError(f"{place}: a row to be filled has NULL in its key; give it a value")
    if heirs := await connection.fetch(INHERITED, table.oid):
        twice = f"true GROUP BY {table.key_list} HAVING count(*) > 1 LIMIT 1"
        if await connection.fetchval(sql.select("true", twice, table)):
            names = ", ".join(str(TableName(row["relname"], row["nspname"])) for row in heirs)
            raise ConfigError(
                f"{place}: a key stands in several rows, because tables inherit from it (INHERITS) and a unique key "
                f"holds for one of them alone; fill those by themselves ({names}), or make the keys of all rows unique"
            )


async def check_texts(place: str, asked: ColumnRequest, run: ReadTexts) -> None:
    """Raises ConfigError for a text that is another one each time that it is read. Somebody may edit it once."""
    if asked.text_sql is None:
        return
    before = await run(sql.read_some_texts)
    for _ in range(2):
        now = await run(partial(sql.read_texts_again, list(before)))
        if all(before[id] == text for id, text in now.items()):
            return
        before = now
    raise ConfigError(
        f"text_sql of {place} gives another text each time that it is read, so that no vector would be that "
        "of its row: leave out what changes by itself, as now() and random() do"
    )


async def add_columns(place: str, dimensions: int, table: ColumnLayout, connection: Connection) -> None:
    """Adds what is absent; a vector is stored as it is, because it cannot be compressed."""
    await check(place, table, connection)
    for name, type in table.additions(dimensions).items():
        await connection.execute(ADD.format(table=table.table, column=name, type=type))
        if name == table.vector:
            await connection.execute(EXTERNAL.format(table=table.table, column=name))


async def probe(place: str, dimensions: int | None, table: ColumnLayout, connection: Connection) -> tuple[Hook, ...]:
    """Writes a row the way the job will, reads it again and takes it back; returns what any write has to pass.

    Permissions, triggers, rules, constraints and row-level security speak now. Raises StoreError where no row is taken.
    """
    if table.absent:
        return ()
    hooks = await hooks_of(table.table, connection)
    width = table.dimensions or dimensions or 1
    reason: StoreError | None = None
    async with aclosing(_find_candidates(table, connection)) as candidates:
        async for id, text in candidates:
            refusal = await _try_row(id, text, width, hooks, place, table, connection)
            if refusal is None:
                return hooks
            reason = reason or refusal
    if reason is None and await connection.fetchval(
        sql.select(HIDDEN, f"{table.is_pending} LIMIT 1", table), table.oid
    ):
        raise StoreError(f"{place}: the server writes no row for this role; a policy (row-level security) hides them")
    if reason is not None and (table.dimensions or dimensions):
        raise reason from None
    return hooks


async def warn_of_hidden_rows(place: str, table: ColumnLayout, connection: Connection) -> None:
    """Where nothing would be done, without a word: a role that may only update sees nothing to update."""
    is_empty = not await connection.fetchval(sql.select("1", "true LIMIT 1", table))
    if is_empty and await connection.fetchval(f"SELECT {HIDDEN}", table.oid):
        logger.warning(
            "%s: this role sees no row, and policies (row-level security) may hide them all; if there are some, "
            "CREATE POLICY ... FOR SELECT, or connect as the owner",
            place,
        )


async def _find_candidates(table: ColumnLayout, connection: Connection) -> AsyncGenerator[tuple[str, str], None]:
    """Id and text of some pending rows, locked; then of some that are filled, where pending ones were not taken."""
    descending = ", ".join(f"t.{key} DESC" for key in table.keys)
    keyed = "".join(f" AND t.{key} IS NOT NULL" for key in table.keys)
    filled = f"({table.text}) IS NOT NULL AND t.{table.vector} IS NOT NULL{keyed}{table.condition}"
    found = False
    for condition, most in (
        # The first question has no order, and so no sort of a large table: mostly that row is taken, and it is the only
        # one.
        (table.is_pending, 1),
        (f"{table.is_pending} ORDER BY {table.key_list}", MOST_PROBED),
        (f"{table.is_pending} ORDER BY {descending}", MOST_PROBED),
        (filled, MOST_PROBED),
    ):
        # A row that another worker writes just now is passed over: to wait for it would hold up the start of the job.
        columns, free = f"{table.id}, ({table.text})::text", f"{condition} LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED"
        for id, text in await connection.fetch(sql.select(columns, free, table)):
            found = True
            yield id, text
        if not found:
            return


async def try_refused_again(place: str, ids: Sequence[str], table: ColumnLayout, connection: Connection) -> set[str]:
    """Those of the rows, which the table refused earlier, that it takes: each is written and taken back."""
    hooks = await hooks_of(table.table, connection)
    width = table.dimensions or await sql.filled_width(table, connection) or 1
    texts = await sql.read_texts_again(ids, table, connection)
    refusals = {id: await _try_row(id, text, width, hooks, place, table, connection) for id, text in texts.items()}
    return {id for id, refusal in refusals.items() if refusal is None}


async def _try_row(
    id: str, text: str, width: int, hooks: tuple[Hook, ...], place: str, table: ColumnLayout, connection: Connection
) -> StoreError | None:
    """Why this row is not taken."""
    batch = sql.FillBatch([id], [sha256(text.encode()).digest()], probe_matrix(width), [0])
    return await try_write(partial(sql.update, batch, [0], hooks, None, place, table, connection), place, connection)
