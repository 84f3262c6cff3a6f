"""The questions asked of a PostgreSQL store, and how its rows are written. All of it runs in a transaction.

No codec is needed, on nobody's connection: vectors come as `vector_send`, metadata goes and comes as text, and rows
are written by COPY in its binary form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from json import loads

from aembed.errors import StoreError
from aembed.stores._lives import Life
from aembed.stores._postgresql._apart import SOME, Refused, write_row_by_row
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._hooks import Hook, check_unhooked
from aembed.stores._postgresql._parts import LockedError
from aembed.stores._postgresql._proof import SAME, write_with_proof
from aembed.stores._postgresql._staging import POSITION, position_column, stage_rows, statement_work, touched_rows
from aembed.stores._postgresql._tables import StoreLayout, find_tables, set_meta
from aembed.stores._postgresql._wire import Column, EncodedColumn, copy_pieces, vector_of
from aembed.stores._rules import encode
from aembed.types import Known, Matrix, Metadata, Refusal, Rows, StoreInfo, Vector

KNOWN = """SELECT id, digest, NULL AS error, NULL AS message FROM {rows} WHERE id = ANY ($1::text[])
    UNION ALL SELECT id, fingerprint, error, message FROM {refusals} WHERE id = ANY ($2::text[])"""
VECTORS = """SELECT DISTINCT ON (fingerprint) fingerprint, {v}.vector_send(embedding::{v}.vector) AS sent FROM {rows}
    WHERE fingerprint = ANY ($1::bytea[]) ORDER BY fingerprint, id"""
# PostgreSQL refuses COPY into a table whose policies hold for the role (row_security_active): such a write is staged.
FORGIVE = """WITH forgiven AS (DELETE FROM {refusals} WHERE id = ANY ($1::text[]))
    SELECT row_security_active($2::text) OR EXISTS (SELECT FROM {rows} WHERE id = ANY ($1::text[]))"""
HELD = """WITH free AS (SELECT id FROM {rows} WHERE id = ANY ($1::text[]) FOR NO KEY UPDATE SKIP LOCKED)
    SELECT id FROM {rows} WHERE id = ANY ($1::text[]) AND id NOT IN (SELECT id FROM free)"""
# COLLATE "C" is the order in which Python sorts ids. Of concurrent upserts in random order 112 of 120 deadlocked, of
# those sorted by their key none did (PostgreSQL 18).
UPSERT = """INSERT INTO {rows} (id, text, metadata, source, fingerprint, digest, embedding)
    SELECT id, text, metadata, source, fingerprint, digest, aembed_vector
    FROM pg_temp.aembed_staged ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO UPDATE SET text = excluded.text, metadata = excluded.metadata, source = excluded.source,
        fingerprint = excluded.fingerprint, digest = excluded.digest, embedding = excluded.embedding,
        updated_at = excluded.updated_at"""
# The moments stand in the statement and are no parameters: where it is run for a part of the rows, $1 and $2 are the
# bounds of that part (SOME).
FENCED = (
    UPSERT.replace("INTO {rows}", "INTO {rows} AS held", 1)
    + """
    WHERE clock_timestamp() <= to_timestamp({ends_at!r}) OR held.updated_at < to_timestamp({since!r})
        OR held.digest = excluded.digest"""
)
"""A worker that was frozen past its end replaces nothing that was written since its last sign of life."""
NEWER = """SELECT id, digest FROM {rows} WHERE id = ANY ($1::text[]) AND updated_at >= to_timestamp($2::float8)"""
IS_OVER = "SELECT clock_timestamp() > to_timestamp($1::float8)"
MEANT = "SELECT aembed_row FROM pg_temp.aembed_staged"
KEPT = """SELECT s.aembed_row FROM {rows} AS t JOIN pg_temp.aembed_staged AS s ON t.id = s.id
    WHERE t.digest = s.digest AND t.fingerprint = s.fingerprint AND """
REFUSE = """INSERT INTO {refusals} (id, fingerprint, error, message)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[])
    ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, error = excluded.error,
        message = excluded.message, refused_at = excluded.refused_at"""
REFUSALS = "SELECT id, fingerprint, error, message FROM {refusals} ORDER BY id"
IDS_OF = "SELECT id FROM {rows} WHERE source = $1 ORDER BY id"
DELETE_REFUSALS = "DELETE FROM {refusals} WHERE id = ANY ($1::text[])"
# DELETE alone would lock rows in the order in which it comes upon them; the subquery locks them by id, as every write.
DELETE = "DELETE FROM {rows} WHERE id IN (SELECT id FROM {rows} WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE)"
SELECT = """SELECT id, text, metadata::text AS metadata, source, fingerprint,
    {v}.vector_send(embedding::{v}.vector) AS sent FROM {rows} """
COUNT = "SELECT count(*) FROM {rows}"
ANSWERED_BY = "SELECT value::text FROM {meta} WHERE key = 'answered_by'"
HAS_ROWS = "SELECT EXISTS (SELECT FROM {rows})"
COUNT_REFUSALS = "SELECT count(*) FROM {refusals}"
SOURCES = "SELECT source, count(*) AS rows FROM {rows} WHERE source IS NOT NULL GROUP BY source"
SIZE = "SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest($1::text[]) AS name"
NAMED = SELECT + "WHERE id = ANY ($1::text[])"


class LateError(StoreError):
    """Rows stay as others have written them, while the worker that writes these stood still."""


async def newer_ids(rows: Rows, since: float, layout: StoreLayout, connection: Connection) -> set[str]:
    """The ids of those of which something else was written since then."""
    given = dict(zip(rows.ids, rows.digests, strict=True))
    found = await connection.fetch(layout.sql(NEWER), list(given), since)
    return {id for id, digest in found if digest != given[id]}


async def known(
    digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes], layout: StoreLayout, connection: Connection
) -> Known:
    found = await connection.fetch(layout.sql(KNOWN), list(digests), list(fingerprints))
    held = {id: digest for id, digest, error, _ in found if error is None}
    unchanged = frozenset(id for id, digest in held.items() if digest == digests[id])
    refused = [Refusal(*row) for row in found if row["error"] is not None]
    return Known(
        unchanged,
        frozenset(held.keys() - unchanged),
        {refusal.id: refusal for refusal in refused if refusal.fingerprint == fingerprints[refusal.id]},
    )


async def vectors(fingerprints: AbstractSet[bytes], layout: StoreLayout, connection: Connection) -> dict[bytes, Vector]:
    found = await connection.fetch(layout.sql(VECTORS), list(fingerprints))
    return {fingerprint: vector_of(sent) for fingerprint, sent in found}


async def upsert(
    rows: Rows,
    picked: Sequence[int],
    keep_text: bool,
    hooks: tuple[Hook, ...],
    refused: Refused | None,
    life: Life | None,
    layout: StoreLayout,
    connection: Connection,
) -> int:
    """COPY straight into the table where no id is there yet; else by way of a staging table.

    COPY knows no ON CONFLICT: where another writer was first, it fails, and the next try finds the row. `hooks` are
    those of the table that are known: with any, each row is read again. `refused`, where it is not None, is filled with
    the rows that the table does not take, by their positions in `picked`; else one of them ends all. Raises
    DroppedError and LockedError, with such positions, too, HookedError where there are hooks and none was known, and
    LateError where others have written some of them since `life`, the writing worker's, was over.
    """
    ids = [rows.ids[i] for i in picked]
    columns: dict[str, tuple[str, Column]] = {
        "id": ("text", EncodedColumn(str.encode, rows.ids, picked)),
        "text": ("text", EncodedColumn(str.encode, rows.texts, picked) if keep_text else [None] * len(picked)),
        "metadata": ("jsonb", EncodedColumn(_jsonb, rows.metadata, picked)),
        "source": ("text", EncodedColumn(_utf8, rows.sources, picked)),
        "fingerprint": ("bytea", EncodedColumn(bytes, rows.fingerprints, picked)),
        "digest": ("bytea", EncodedColumn(bytes, rows.digests, picked)),
    }
    # Of the speed of psql's own COPY of the same 20,000 rows of 1,536 floats, COPY straight into the table reached 0.79
    # to 0.99, and by way of a staging table 0.51 to 0.78.
    is_there = await connection.fetchval(layout.sql(FORGIVE), ids, layout.names.rows)
    if is_there and len(ids) > 1:
        await _lock(ids, layout, connection)
    upsert = layout.sql(UPSERT)
    if life:
        ends_at, since = (life.ends_at, life.seen_at) if life.lapsed_at is None else (0.0, life.lapsed_at)
        upsert = FENCED.format(rows=layout.names.rows, ends_at=ends_at, since=since)
    if hooks or refused is not None:
        if life and life.lapsed_at is None and await connection.fetchval(IS_OVER, life.ends_at):
            raise LateError(f"{layout.names.rows}: the time of the worker that writes is over")
        taken = await _write_one_by_one(columns, rows.matrix, picked, upsert, hooks, refused, layout, connection)
    elif is_there or not layout.names.copies:
        work, copies = statement_work(upsert, connection), layout.names.copies
        matrix, vectors = rows.matrix, layout.vectors
        taken = await stage_rows(columns, matrix, picked, layout.storage, vectors, work, connection, copies=copies)
    else:
        taken = await _copy_rows(columns, rows.matrix, picked, layout, connection)
    if not hooks:
        await check_unhooked(layout.names.rows, connection)
    if taken + len(refused or ()) != len(ids):
        reason = f"{layout.names.rows}: the server took {taken:,} rows of {len(ids):,}, and does not say why"
        raise LateError(reason) if life else StoreError(reason)
    return taken


async def _lock(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> None:
    """Locks those that are there. Raises LockedError where other transactions hold some."""
    if held := {id for (id,) in await connection.fetch(layout.sql(HELD), ids)}:
        raise LockedError(frozenset(i for i, id in enumerate(ids) if id in held))


async def _copy_rows(
    columns: Mapping[str, tuple[str, Column]],
    matrix: Matrix,
    picked: Sequence[int],
    layout: StoreLayout,
    connection: Connection,
) -> int:
    tag = await connection.copy_to_table(
        layout.names.table,
        schema_name=layout.names.schema,
        columns=[*columns, "embedding"],
        source=copy_pieces([values for _, values in columns.values()], matrix, layout.storage, picked),
        format="binary",
    )
    return touched_rows(tag)


async def _write_one_by_one(
    columns: Mapping[str, tuple[str, Column]],
    matrix: Matrix,
    picked: Sequence[int],
    upsert: str,
    hooks: tuple[Hook, ...],
    refused: Refused | None,
    layout: StoreLayout,
    connection: Connection,
) -> int:
    """In one piece: what a trigger does to a later row may undo an earlier one."""
    size, place = len(picked), layout.names.rows
    work = statement_work(upsert, connection)
    if refused is not None:
        some = upsert.replace("FROM pg_temp.aembed_staged", f"FROM pg_temp.aembed_staged WHERE {SOME}")
        work = write_row_by_row(range(size), some, refused, place, connection)
    if hooks:
        kept = layout.sql(KEPT) + SAME.format(there="t.embedding", sent="s.aembed_vector", v=layout.vectors)
        work = write_with_proof(MEANT, kept, work, place, place, connection, () if refused is None else refused)
    columns = {**columns, POSITION: ("integer", position_column(range(size)))}
    copies, vectors = layout.names.copies, layout.vectors
    return await stage_rows(
        columns, matrix, picked, layout.storage, vectors, work, connection, copies=copies, rows=size
    )


def _jsonb(metadata: Metadata | None) -> bytes | None:
    """The binary form of jsonb: its version, then the text."""
    text = encode(metadata)
    return None if text is None else b"\x01" + text.encode()


def _utf8(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


async def refuse(refusals: Sequence[Refusal], layout: StoreLayout, connection: Connection) -> None:
    latest = {refusal.id: refusal for refusal in refusals}
    rows = [latest[id] for id in sorted(latest)]
    columns = ([getattr(each, name) for each in rows] for name in ("id", "fingerprint", "error", "message"))
    await connection.execute(layout.sql(REFUSE), *columns)


async def refusals(layout: StoreLayout, connection: Connection) -> list[Refusal]:
    return [Refusal(*row) for row in await connection.fetch(layout.sql(REFUSALS))]


async def stale(source: str, keep: AbstractSet[str], layout: StoreLayout, connection: Connection) -> list[str]:
    return [id for (id,) in await connection.fetch(layout.sql(IDS_OF), source) if id not in keep]


async def delete(ids: Sequence[str], layout: StoreLayout, connection: Connection) -> int:
    await connection.execute(layout.sql(DELETE_REFUSALS), list(ids))
    tag: str = await connection.execute(layout.sql(DELETE), list(ids))
    return int(tag.rpartition(" ")[2])


async def answered_by(model: str, layout: StoreLayout, connection: Connection) -> str:
    held = await connection.fetchval(layout.sql(ANSWERED_BY))
    if held and await has_rows(layout, connection):
        return str(loads(held))
    await set_meta("answered_by", model, layout, connection)
    return model


async def has_rows(layout: StoreLayout, connection: Connection) -> bool:
    return bool(await connection.fetchval(layout.sql(HAS_ROWS)))


async def info(layout: StoreLayout, connection: Connection) -> StoreInfo:
    # What others have noted since the layout was read counts.
    layout, names = await find_tables(layout.names, connection) or layout, layout.names
    rows = await connection.fetchval(layout.sql(COUNT))
    return StoreInfo(
        rows,
        layout.space if rows else None,
        await connection.fetchval(SIZE, [names.rows, names.refusals, names.meta]),
        await connection.fetchval(layout.sql(COUNT_REFUSALS)),
        {row["source"]: row["rows"] for row in await connection.fetch(layout.sql(SOURCES))},
        layout.meta.get("last_run"),
    )
