"""The tables of a SQLite store, and the questions asked of them. All of it runs on the store's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from json import dumps, loads
from pathlib import Path
from secrets import token_hex
from sqlite3 import Connection
from typing import Any

import numpy as np

from aembed.core.filters import Filter
from aembed.core.spaces import space_as_json, space_from_json
from aembed.stores._rules import decode, encode, probe_matrix, schema_version
from aembed.stores._search import SearchChunk
from aembed.stores._sqlite._changes import NotedTable, is_noted
from aembed.stores._sqlite._database import blobs, in_pieces, matrix_of, select_in
from aembed.stores._sqlite._filling import DROPPED, FillTarget, Row, fill, hooks_of, is_of_row, taken_back
from aembed.stores._sqlite._filters import on_metadata
from aembed.stores._sqlite._noted import upsert_noted
from aembed.types import Embedded, Known, Match, Refusal, Rows, Space, Vector

# The embedding is the last column: SQLite reads a row from its beginning, so that the columns before it are found
# without the pages that hold the vector.
TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_rows (
        id TEXT PRIMARY KEY NOT NULL, source TEXT, fingerprint BLOB NOT NULL, digest BLOB NOT NULL,
        updated_at TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT, embedding BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS aembed_rows_fingerprint ON aembed_rows (fingerprint)",
    "CREATE INDEX IF NOT EXISTS aembed_rows_source ON aembed_rows (source)",
    """CREATE TABLE IF NOT EXISTS aembed_refusals (
        id TEXT PRIMARY KEY NOT NULL, fingerprint BLOB NOT NULL, error TEXT NOT NULL, message TEXT NOT NULL,
        refused_at TEXT NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS aembed_meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
)
HAS_TABLES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aembed_meta'"
META = "SELECT value FROM aembed_meta WHERE key = ?"
SET_META = "INSERT OR REPLACE INTO aembed_meta (key, value) VALUES (?, ?)"
DELETE_META = "DELETE FROM aembed_meta WHERE key = ?"
ACCOUNT = "spent {}"
"""Key of what a job has spent."""
HAS_ROWS = "SELECT 1 FROM aembed_rows LIMIT 1"
COUNT = "SELECT count(*) FROM aembed_rows"
COUNT_REFUSALS = "SELECT count(*) FROM aembed_refusals"
SOURCES = "SELECT source, count(*) FROM aembed_rows WHERE source IS NOT NULL GROUP BY source"
DIGESTS = "SELECT id, digest FROM aembed_rows WHERE id IN ({})"
WRITTEN_AT = "SELECT id, digest, updated_at FROM aembed_rows WHERE id IN ({})"
REFUSED = "SELECT id, fingerprint, error, message FROM aembed_refusals WHERE id IN ({})"
REFUSALS = "SELECT id, fingerprint, error, message FROM aembed_refusals ORDER BY id"
# SQLite takes a column that is not grouped from some row of each group. Any will do: one fingerprint was paid for once.
VECTORS = "SELECT fingerprint, embedding FROM aembed_rows WHERE fingerprint IN ({}) GROUP BY fingerprint"
UPSERT = """INSERT INTO aembed_rows (embedding, id, text, metadata, source, fingerprint, digest, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP)
    ON CONFLICT (id) DO UPDATE SET text = excluded.text, metadata = excluded.metadata, source = excluded.source,
        fingerprint = excluded.fingerprint, digest = excluded.digest, embedding = excluded.embedding,
        updated_at = excluded.updated_at"""
KEPT = """SELECT embedding IS ? FROM aembed_rows
    WHERE id = ? AND text = ? AND coalesce(?, ?, 1) IS NOT NULL AND fingerprint = ? AND digest = ?"""
"""Its parameters are those of UPSERT."""
PROBE, PROBES = "a row that is taken back", 4
"""So many ids: a trigger may drop some of them for what they are."""
ONE = "SELECT id, text, metadata, source, fingerprint, digest FROM aembed_rows LIMIT 1"
TARGET = FillTarget("aembed_rows", UPSERT, KEPT, inserts=True)
REFUSE = """INSERT OR REPLACE INTO aembed_refusals (id, fingerprint, error, message, refused_at)
    VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)"""
HAS_REFUSALS = "SELECT 1 FROM aembed_refusals LIMIT 1"
FORGIVE = "DELETE FROM aembed_refusals WHERE id = ?"
IDS_OF = "SELECT id FROM aembed_rows WHERE source = ? ORDER BY id"
DELETE = "DELETE FROM aembed_rows WHERE id = ?"
PAGE = "SELECT id, embedding, text, metadata, source, fingerprint FROM aembed_rows WHERE id >= ? ORDER BY id LIMIT ?"
SEARCHED = "SELECT id, embedding FROM aembed_rows"
NUMBERED = "SELECT rowid, id, text, metadata, embedding FROM aembed_rows WHERE rowid IN ({})"
PICKED = """SELECT rowid, id, embedding FROM aembed_rows
    WHERE ({}) AND rowid IN (SELECT value FROM json_each(?))"""
BEYOND = "SELECT rowid, id, embedding FROM aembed_rows WHERE ({}) AND rowid > ?"
NOTED = NotedTable("aembed_rows", "aembed_rows", "embedding")
FOUND = "SELECT id, text, metadata FROM aembed_rows WHERE id IN ({})"

# Chosen: 200 rows of 1,536 floats are 1.2 MB. Larger, one snapshot is held for longer; smaller, each page is a hop into
# the thread and back.
ROWS_PER_PAGE = 200
# Chosen: as the blocks of vectors that are kept. Smaller, numpy is called more often; larger, a search takes more
# memory.
CHUNK_BYTES = 16 * 1024 * 1024


def has_tables(connection: Connection) -> bool:
    return connection.execute(HAS_TABLES).fetchone() is not None


def create_tables(connection: Connection, version: int) -> None:
    for sql in TABLES:
        connection.execute(sql)
    set_meta("schema_version", version, connection)


def meta(connection: Connection, key: str) -> Any:
    row = connection.execute(META, (key,)).fetchone()
    return loads(row[0]) if row else None


def set_meta(key: str, value: Any, connection: Connection) -> None:
    connection.execute(SET_META, (key, dumps(value)))


def delete_meta(key: str, connection: Connection) -> None:
    connection.execute(DELETE_META, (key,))


def spend(job: str, tokens: int, connection: Connection) -> int:
    spent: int = (meta(connection, ACCOUNT.format(job)) or 0) + tokens
    set_meta(ACCOUNT.format(job), spent, connection)
    return spent


def answered_by(model: str, connection: Connection) -> str:
    held: str | None = meta(connection, "answered_by")
    if held and connection.execute(HAS_ROWS).fetchone():
        return held
    set_meta("answered_by", model, connection)
    return model


def move(space: Space, connection: Connection) -> None:
    delete_meta("answered_by", connection)
    keep_space(connection, space)


def space(connection: Connection) -> Space | None:
    held = meta(connection, "space")
    return space_from_json(held) if held else None


def keep_space(connection: Connection, space: Space) -> None:
    if space.dimensions:
        set_meta("schema_version", schema_version(space), connection)
        set_meta("space", space_as_json(space), connection)
    else:
        delete_meta("space", connection)


def count(connection: Connection) -> int:
    rows: int = connection.execute(COUNT).fetchone()[0]
    return rows


def count_refusals(connection: Connection) -> int:
    refusals: int = connection.execute(COUNT_REFUSALS).fetchone()[0]
    return refusals


def sources(connection: Connection) -> dict[str, int]:
    return dict(connection.execute(SOURCES).fetchall())


def refusals(connection: Connection) -> list[Refusal]:
    return [Refusal(*row) for row in connection.execute(REFUSALS)]


def known(digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes], connection: Connection) -> Known:
    held = dict(select_in(connection, DIGESTS, digests))
    unchanged = frozenset(id for id, digest in held.items() if digest == digests[id])
    refused = (Refusal(*row) for row in select_in(connection, REFUSED, fingerprints))
    return Known(
        unchanged,
        frozenset(held.keys() - unchanged),
        {refusal.id: refusal for refusal in refused if refusal.fingerprint == fingerprints[refusal.id]},
    )


def vectors(fingerprints: AbstractSet[bytes], connection: Connection) -> dict[bytes, Vector]:
    return {fingerprint: vector(blob) for fingerprint, blob in select_in(connection, VECTORS, fingerprints)}


def vector(blob: bytes) -> Vector:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def upsert(rows: Rows, connection: Connection) -> dict[int, str]:
    """Returns by position why rows were not taken: all others were. Comes first in its transaction."""
    if not hooks_of("aembed_rows", connection):
        try:
            if is_noted(NOTED, connection):
                upsert_noted(_given(rows), connection)
            else:
                connection.executemany(UPSERT, _given(rows))
        except sqlite3.Error as error:
            if not is_of_row(error):
                raise
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
        else:
            _forgive(rows.ids, connection)
            return {}
    _, refused = fill(list(_given(rows)), TARGET, connection)
    _forgive([id for number, id in enumerate(rows.ids) if number not in refused], connection)
    return refused


def _given(rows: Rows) -> Iterator[Row]:
    metadata = map(encode, rows.metadata)
    return zip(
        blobs(rows.matrix),
        rows.ids,
        rows.texts,
        metadata,
        rows.sources,
        rows.fingerprints,
        rows.digests,
        strict=True,
    )


def probe(dimensions: int, connection: Connection) -> str:
    """Why neither a row of ours is kept nor one that is there already; both are taken back. "" where one is.

    A new row that is refused for what it is proves nothing while the table is empty: the job's may be others.
    """
    (blob,), reasons = blobs(probe_matrix(dimensions)), set[str]()
    for _ in range(PROBES):
        reason = _tried((blob, f"aembed probe {token_hex(8)}", PROBE, None, None, b"", b""), connection)
        if not reason:
            return ""
        reasons.add(reason)
    if found := connection.execute(ONE).fetchone():
        return _tried((blob, *found), connection)
    return next((reason for reason in reasons if reason.startswith(DROPPED)), "")


def _tried(row: Row, connection: Connection) -> str:
    _, refused = taken_back([row], TARGET, connection)
    return refused.get(0, "")


def newer_ids(rows: Rows, since: float, connection: Connection) -> set[str]:
    """The ids of those of which something else was written since then; in the same second counts, too."""
    moment = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    given = dict(zip(rows.ids, rows.digests, strict=True))
    held = select_in(connection, WRITTEN_AT, given)
    return {id for id, digest, written_at in held if written_at >= moment and digest != given[id]}


def _forgive(ids: Sequence[str], connection: Connection) -> None:
    """One statement for each id costs a tenth of an upsert: mostly there is nothing to forgive."""
    if connection.execute(HAS_REFUSALS).fetchone():
        connection.executemany(FORGIVE, zip(ids))


def refuse(refusals: Sequence[Refusal], connection: Connection) -> None:
    connection.executemany(REFUSE, [(each.id, each.fingerprint, each.error, each.message) for each in refusals])


def stale(source: str, keep: AbstractSet[str], connection: Connection) -> list[str]:
    return [id for (id,) in connection.execute(IDS_OF, (source,)) if id not in keep]


def delete(ids: Sequence[str], connection: Connection) -> int:
    _forgive(ids, connection)
    return max(0, connection.executemany(DELETE, zip(ids)).rowcount)


def read_page(start: str, index: int, connection: Connection) -> list[Embedded]:
    """The rows whose ids come at or after `start`, the first of them numbered `index`."""
    found = connection.execute(PAGE, (start, ROWS_PER_PAGE)).fetchall()
    of, model = space(connection), meta(connection, "answered_by") or ""
    return [
        Embedded(id, index + i, vector(blob), text, decode(metadata), source, of, model, fingerprint)
        for i, (id, blob, text, metadata, source, fingerprint) in enumerate(found)
    ]


def find_rows(ids: Sequence[str], connection: Connection) -> dict[str, tuple[str, dict[str, Any] | None]]:
    return {id: (text, decode(metadata)) for id, text, metadata in select_in(connection, FOUND, ids)}


def read_numbered(numbers: Sequence[int], wanted: Filter, connection: Connection) -> Iterator[tuple[int, Match, bytes]]:
    """Of these rowids the rows that pass the filter, without a score, and their vectors."""
    condition, parameters = on_metadata(wanted) if wanted else ("1", [])
    for piece, marks in in_pieces(connection, numbers, len(parameters)):
        sql = f"{NUMBERED.format(marks)} AND {condition}"
        for number, id, text, metadata, blob in connection.execute(sql, [*piece, *parameters]):
            yield number, Match(id, text, decode(metadata), 0.0), blob


def chunks(wanted: Filter, dimensions: int, name: Path, connection: Connection) -> Iterator[SearchChunk]:
    """The vectors of the rows that pass the filter, 16 MB at a time."""
    condition, parameters = on_metadata(wanted)
    cursor = connection.execute(f"{SEARCHED} WHERE {condition}", parameters)
    while rows := cursor.fetchmany(max(1, CHUNK_BYTES // (dimensions * 4))):
        yield SearchChunk.from_rows([id for id, _ in rows], matrix_of([blob for _, blob in rows], dimensions, name))


def picked(wanted: Filter, connection: Connection, numbers: str) -> Iterator[tuple[int, str, bytes]]:
    """Number, id and vector of the rows with these numbers, a JSON array, that pass the filter."""
    condition, parameters = on_metadata(wanted) if wanted else ("1", [])
    return connection.execute(PICKED.format(condition), [*parameters, numbers])


def beyond(wanted: Filter, connection: Connection, last: int) -> Iterator[tuple[int, str, bytes]]:
    """The same of the rows with larger numbers."""
    condition, parameters = on_metadata(wanted) if wanted else ("1", [])
    return connection.execute(BEYOND.format(condition), [*parameters, last])
