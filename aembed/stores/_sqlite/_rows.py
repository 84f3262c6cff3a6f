"""The tables of a SQLite store, and the questions asked of them. All of it runs on the store's thread."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from json import dumps, loads
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import numpy as np

from aembed.core.filters import Filter
from aembed.core.spaces import space_as_json, space_from_json
from aembed.stores._rules import decode, probe_ids, probe_matrix, schema_version
from aembed.stores._search import SearchChunk
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._database import blobs, in_pieces, matrix_of, select_in
from aembed.stores._sqlite._editions import SCHEMA_OF_RUNS, top
from aembed.stores._sqlite._editions import create as create_runs
from aembed.stores._sqlite._filling import DROPPED, FillTarget, taken_back
from aembed.stores._sqlite._filters import on_metadata
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._upserting import Upsert
from aembed.types import Known, Match, Refusal, Rows, Space, Vector

# The embedding is the last column: SQLite reads a row from its beginning, so that the columns before it are found
# without the pages that hold the vector. Ids and fingerprints have no index: see _keys. `rowid` is the number of a row
# also in the tables that earlier builds made, whose primary key is the id.
TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_rows (
        number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 4294967294), id TEXT NOT NULL, source TEXT,
        fingerprint BLOB NOT NULL, digest BLOB NOT NULL, updated_at TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT,
        embedding BLOB NOT NULL)""",
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
REFUSED = "SELECT id, fingerprint, error, message FROM aembed_refusals WHERE id IN ({})"
REFUSALS = "SELECT id, fingerprint, error, message FROM aembed_refusals ORDER BY id"
UPSERT = """INSERT INTO aembed_rows (embedding, id, text, metadata, source, fingerprint, digest, rowid, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP)
    ON CONFLICT (rowid) DO UPDATE SET text = excluded.text, metadata = excluded.metadata, source = excluded.source,
        fingerprint = excluded.fingerprint, digest = excluded.digest, embedding = excluded.embedding,
        updated_at = excluded.updated_at WHERE id = excluded.id"""
KEPT = """SELECT embedding IS ? FROM aembed_rows
    WHERE id = ? AND text = ? AND coalesce(?, ?, 1) IS NOT NULL AND fingerprint = ? AND digest = ? AND rowid = ?"""
"""Its parameters are those of UPSERT."""
PROBE = "a row that is taken back"
ONE = "SELECT id, text, metadata, source, fingerprint, digest, rowid FROM aembed_rows LIMIT 1"
TARGET = FillTarget("aembed_rows", UPSERT, KEPT, inserts=True)
REFUSE = """INSERT OR REPLACE INTO aembed_refusals (id, fingerprint, error, message, refused_at)
    VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)"""
HAS_REFUSALS = "SELECT 1 FROM aembed_refusals LIMIT 1"
FORGIVE = "DELETE FROM aembed_refusals WHERE id = ?"
IDS_OF = "SELECT id FROM aembed_rows WHERE source = ? ORDER BY id"
DELETE = "DELETE FROM aembed_rows WHERE rowid = ?"
FOUND = "SELECT id, text, metadata FROM aembed_rows WHERE id IN ({})"
SEARCHED = "SELECT id, embedding FROM aembed_rows"
NUMBERED = "SELECT rowid, id, text, metadata, embedding FROM aembed_rows WHERE rowid IN ({})"
VECTORS = "SELECT rowid, id, embedding FROM aembed_rows WHERE ({}) AND rowid {}"
NOTED = NotedTable("aembed_rows", "aembed_rows", "embedding")

# Chosen: as the blocks of vectors that are kept. Smaller, numpy is called more often; larger, a search takes more
# memory.
CHUNK_BYTES = 16 * 1024 * 1024


def create_tables(connection: Connection) -> None:
    for sql in TABLES:
        connection.execute(sql)
    set_meta("schema_version", SCHEMA_OF_RUNS, connection)
    create_runs(connection)


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
        held = meta(connection, "schema_version") or 0
        set_meta("schema_version", max(held, schema_version(space)), connection)
        set_meta("space", space_as_json(space), connection)
    else:
        delete_meta("space", connection)


def count(connection: Connection) -> int:
    rows: int = connection.execute(COUNT).fetchone()[0]
    return rows


def refusals(connection: Connection) -> list[Refusal]:
    return [Refusal(*row) for row in connection.execute(REFUSALS)]


def known(keys: Keys, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes], connection: Connection) -> Known:
    held = {id: digest for _, id, digest in keys.by_ids(digests, "digest", connection)}
    unchanged = frozenset(id for id, digest in held.items() if digest == digests[id])
    refused = (Refusal(*row) for row in select_in(connection, REFUSED, fingerprints))
    return Known(
        unchanged,
        frozenset(held.keys() - unchanged),
        {refusal.id: refusal for refusal in refused if refusal.fingerprint == fingerprints[refusal.id]},
    )


def vectors(keys: Keys, fingerprints: AbstractSet[bytes], connection: Connection) -> dict[bytes, Vector]:
    found = keys.by_fingerprints(fingerprints, "embedding", connection)
    return {fingerprint: vector(blob) for _, fingerprint, blob in found}


def written(keys: Keys, fingerprints: Collection[bytes], connection: Connection) -> set[bytes]:
    """Those that a row has."""
    return {fingerprint for _, fingerprint, _ in keys.by_fingerprints(fingerprints, "1", connection)}


def vector(blob: bytes) -> Vector:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def upsert(rows: Rows, keys: Keys, connection: Connection) -> dict[int, str]:
    """Returns by position why rows were not taken: all others were. Comes first in its transaction."""
    refused = Upsert(rows, keys, connection).run(TARGET)
    _forgive([id for number, id in enumerate(rows.ids) if number not in refused], connection)
    return refused


def delete(keys: Keys, ids: Sequence[str], connection: Connection) -> int:
    _forgive(ids, connection)
    numbers = keys.numbers_of(ids, connection).values()
    return max(0, connection.executemany(DELETE, [(number,) for number in numbers]).rowcount)


def probe(dimensions: int, connection: Connection) -> str:
    """Why neither a row of ours is kept nor one that is there already; both are taken back. "" where one is.

    A new row that is refused for what it is proves nothing while the table is empty: the job's may be others.
    """
    (blob,), reasons = blobs(probe_matrix(dimensions)), set[str]()
    for id in probe_ids():
        row = (blob, id, PROBE, None, None, b"", b"", top(connection) + 1)
        _, refused = taken_back([row], TARGET, connection)
        if not refused:
            return ""
        reasons.add(refused[0])
    if found := connection.execute(ONE).fetchone():
        _, refused = taken_back([(blob, *found)], TARGET, connection)
        return refused.get(0, "")
    return next((reason for reason in reasons if reason.startswith(DROPPED)), "")


def newer_ids(keys: Keys, rows: Rows, since: float, connection: Connection) -> set[str]:
    """The ids of those of which something else was written since then; in the same second counts, too."""
    moment = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    given = dict(zip(rows.ids, rows.digests, strict=True))
    held = keys.by_ids(given, "digest, updated_at", connection)
    return {id for _, id, digest, written_at in held if written_at >= moment and digest != given[id]}


def _forgive(ids: Sequence[str], connection: Connection) -> None:
    """One statement for each id costs a tenth of an upsert: mostly there is nothing to forgive."""
    if connection.execute(HAS_REFUSALS).fetchone():
        connection.executemany(FORGIVE, zip(ids))


def refuse(refusals: Sequence[Refusal], connection: Connection) -> None:
    connection.executemany(REFUSE, [(each.id, each.fingerprint, each.error, each.message) for each in refusals])


def stale(source: str, keep: AbstractSet[str], connection: Connection) -> list[str]:
    return [id for (id,) in connection.execute(IDS_OF, (source,)) if id not in keep]


def find_rows(keys: Keys, ids: Sequence[str], connection: Connection) -> dict[str, tuple[str, dict[str, Any] | None]]:
    found = {id: (text, decode(metadata)) for _, id, text, metadata in keys.by_ids(ids, "text, metadata", connection)}
    # A row that somebody has put between others, with a number of his own, is in no run (_keys): all are read for it.
    missing = [id for id in ids if id not in found]
    return found | {id: (text, decode(metadata)) for id, text, metadata in select_in(connection, FOUND, missing)}


def read_numbered(numbers: Sequence[int], wanted: Filter, connection: Connection) -> Iterator[tuple[int, Match, bytes]]:
    """Of these rowids the rows that pass the filter, without a score, and their vectors."""
    condition, parameters = on_metadata(wanted)
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


def read_vectors(
    wanted: Filter, connection: Connection, test: str, value: str | int
) -> Iterator[tuple[int, str, bytes]]:
    """Number, id and vector of the rows that pass the filter and whose number passes that test."""
    condition, parameters = on_metadata(wanted)
    return connection.execute(VECTORS.format(condition, test), [*parameters, value])
