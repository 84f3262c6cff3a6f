"""What is out at a provider in batches, kept in a SQLite file: the batches, their texts, and vectors in no row yet.

`scope` tells apart a store and the columns of a user's own tables, which share the three tables.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from json import dumps, loads
from sqlite3 import Connection
from typing import Any, TypeVar

from aembed.batch_protocols import KeptBatch, OutText, SettledLine, TextState
from aembed.stores._sqlite._database import SQLiteDatabase, blobs
from aembed.stores._sqlite._rows import vector

T = TypeVar("T")

TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_batches (scope TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
        data TEXT NOT NULL, PRIMARY KEY (scope, key))""",
    """CREATE TABLE IF NOT EXISTS aembed_batch_texts (scope TEXT NOT NULL, key TEXT NOT NULL, line INTEGER NOT NULL,
        place INTEGER NOT NULL, fingerprint BLOB NOT NULL, weights TEXT, is_out INTEGER NOT NULL,
        PRIMARY KEY (scope, key, line, place)) WITHOUT ROWID""",
    """CREATE INDEX IF NOT EXISTS aembed_batch_texts_fingerprint
        ON aembed_batch_texts (scope, fingerprint)""",
    """CREATE TABLE IF NOT EXISTS aembed_batch_vectors (scope TEXT NOT NULL, fingerprint BLOB NOT NULL,
        vector BLOB, tries INTEGER NOT NULL DEFAULT 0, live INTEGER NOT NULL DEFAULT 0,
        changed_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
        PRIMARY KEY (scope, fingerprint))""",
)
HAS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aembed_batch_vectors'"
ANY = """SELECT EXISTS (SELECT 1 FROM aembed_batches WHERE scope = ?)
    OR EXISTS (SELECT 1 FROM aembed_batch_vectors WHERE scope = ?)"""
ALL = "SELECT key, data, version FROM aembed_batches WHERE scope = ? ORDER BY key"
BEGIN = "INSERT INTO aembed_batches (scope, key, version, data) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
ADD = "INSERT INTO aembed_batch_texts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
CHANGE = "UPDATE aembed_batches SET data = ?, version = version + 1 WHERE scope = ? AND key = ? AND version = ?"
RELEASE = "UPDATE aembed_batch_texts SET is_out = ? WHERE scope = ? AND key = ? AND is_out <> ?"
LINES = """SELECT line, fingerprint, weights FROM aembed_batch_texts WHERE scope = ? AND key = ?
    ORDER BY line, place"""
KEEP = """INSERT INTO aembed_batch_vectors (scope, fingerprint, vector) VALUES (?, ?, ?)
    ON CONFLICT (scope, fingerprint) DO UPDATE SET vector = excluded.vector, changed_at = excluded.changed_at"""
TRY = """INSERT INTO aembed_batch_vectors (scope, fingerprint, tries, live) VALUES (?, ?, 1, ?)
    ON CONFLICT (scope, fingerprint) DO UPDATE SET tries = tries + excluded.tries, live = max(live, excluded.live),
        changed_at = excluded.changed_at"""
SETTLE = "DELETE FROM aembed_batch_texts WHERE scope = ? AND key = ? AND line = ?"
TRY_REST = """INSERT INTO aembed_batch_vectors (scope, fingerprint, tries)
    SELECT DISTINCT scope, fingerprint, ? FROM aembed_batch_texts WHERE scope = ? AND key = ?
    ON CONFLICT (scope, fingerprint) DO UPDATE SET tries = tries + excluded.tries, changed_at = excluded.changed_at"""
END = (
    "DELETE FROM aembed_batch_texts WHERE scope = ? AND key = ?",
    "DELETE FROM aembed_batches WHERE scope = ? AND key = ?",
)
OUT = "SELECT 1 FROM aembed_batch_texts WHERE scope = ? AND fingerprint = ? AND is_out LIMIT 1"
STATE = "SELECT tries, live, vector FROM aembed_batch_vectors WHERE scope = ? AND fingerprint = ?"
FORGET = "DELETE FROM aembed_batch_vectors WHERE scope = ? AND fingerprint = ?"
FORGET_OLDER = """DELETE FROM aembed_batch_vectors WHERE scope = ?
    AND changed_at < (julianday('now') - 2440587.5) * 86400.0 - ?"""


class KeepsBatchesInFile:
    """The methods of `KeepsBatches`, for whatever has a SQLite file."""

    _database: SQLiteDatabase
    _batch_scope = ""
    """What tells it apart from others in the same file."""

    async def prepare_batches(self) -> None:
        """Makes the tables `aembed_batches`, `aembed_batch_texts` and `aembed_batch_vectors`."""
        await self._database.write(_make_tables)

    async def has_batches(self) -> bool:
        """Whether there is anything here of batches, or of what they have brought."""
        scope = (self._batch_scope, self._batch_scope)
        return await self._read_batches(lambda connection: bool(connection.execute(ANY, scope).fetchone()[0]), False)

    async def batches(self) -> list[KeptBatch]:
        """All that are kept, by key."""
        nothing: list[KeptBatch] = []
        return await self._read_batches(self._all_batches, nothing)

    async def begin_batch(self, batch: KeptBatch, lines: Sequence[Sequence[OutText]], *, is_out: bool = True) -> None:
        """Keeps a batch and the texts of each of its lines, which are out from now on where it `is_out`."""
        await self._database.write(partial(self._begin_batch, batch, lines, is_out))

    async def change_batch(self, batch: KeptBatch, *, is_out: bool = True) -> bool:
        """Keeps other data of it, where nobody else has changed it since; returns whether it did."""
        return await self._database.write(partial(self._change_batch, batch, is_out))

    async def batch_lines(self, key: str) -> Mapping[int, Sequence[OutText]]:
        """The texts of the lines that nothing is settled of yet, by the number of the line."""
        nothing: dict[int, list[OutText]] = {}
        return await self._read_batches(partial(self._batch_lines, key), nothing)

    async def settle_lines(self, key: str, lines: Sequence[SettledLine]) -> None:
        """They are out no more: their vectors are kept, or that they had none."""
        await self._database.write(partial(self._settle_lines, key, lines))

    async def end_batch(self, key: str, *, tries: int) -> None:
        """Forgets a batch; the texts that are left of it have `tries` more behind them."""
        await self._database.write(partial(self._end_batch, key, tries))

    async def batch_texts(self, fingerprints: Collection[bytes]) -> Mapping[bytes, TextState]:
        """What there is of these texts; those of which there is nothing are left out."""
        nothing: dict[bytes, TextState] = {}
        return await self._read_batches(partial(self._batch_texts, fingerprints), nothing)

    async def forget_texts(self, fingerprints: Collection[bytes]) -> None:
        """They stand in rows by now, or were refused."""
        names = [(self._batch_scope, each) for each in fingerprints]
        await self._database.write(lambda connection: connection.executemany(FORGET, names).rowcount)

    async def forget_older(self, seconds: float) -> int:
        """Forgets vectors that were bought longer ago; returns how many."""
        older = self._batch_scope, seconds
        return await self._database.write(lambda connection: connection.execute(FORGET_OLDER, older).rowcount)

    def _read_batches(self, work: Callable[[Connection], T], empty: T) -> Awaitable[T]:
        return self._database.read(lambda c: work(c) if c.execute(HAS).fetchone() else empty, empty)

    def _all_batches(self, connection: Connection) -> list[KeptBatch]:
        return [KeptBatch(*row) for row in connection.execute(ALL, (self._batch_scope,))]

    def _begin_batch(
        self, batch: KeptBatch, lines: Sequence[Sequence[OutText]], is_out: bool, connection: Connection
    ) -> None:
        scope, key = self._batch_scope, batch.key
        connection.execute(BEGIN, (scope, key, batch.version, batch.data))
        texts = [(line, place, text) for line, each in enumerate(lines) for place, text in enumerate(each)]
        # A text that was sent whole has no weights.
        weights = [None if tuple(text.weights) == (1.0,) else dumps(list(text.weights)) for _, _, text in texts]
        rows = zip(texts, weights, strict=True)
        connection.executemany(
            ADD, [(scope, key, line, place, text.fingerprint, its, is_out) for (line, place, text), its in rows]
        )

    def _change_batch(self, batch: KeptBatch, is_out: bool, connection: Connection) -> bool:
        scope, key = self._batch_scope, batch.key
        if not connection.execute(CHANGE, (batch.data, scope, key, batch.version)).rowcount:
            return False
        connection.execute(RELEASE, (is_out, scope, key, is_out))
        return True

    def _batch_lines(self, key: str, connection: Connection) -> dict[int, list[OutText]]:
        lines: dict[int, list[OutText]] = {}
        for line, fingerprint, weights in connection.execute(LINES, (self._batch_scope, key)):
            text = OutText(fingerprint) if weights is None else OutText(fingerprint, tuple(loads(weights)))
            lines.setdefault(line, []).append(text)
        return lines

    def _settle_lines(self, key: str, lines: Sequence[SettledLine], connection: Connection) -> None:
        scope = self._batch_scope
        for line, fingerprints, matrix, live in lines:
            if not connection.execute(SETTLE, (scope, key, line)).rowcount:
                continue  # Somebody else has settled it.
            rows: list[tuple[Any, ...]]
            if matrix is None:
                rows = [(scope, each, live) for each in fingerprints]
                connection.executemany(TRY, rows)
            else:
                rows = [(scope, each, blob) for each, blob in zip(fingerprints, blobs(matrix), strict=True)]
                connection.executemany(KEEP, rows)

    def _end_batch(self, key: str, tries: int, connection: Connection) -> None:
        scope = self._batch_scope
        if tries:
            connection.execute(TRY_REST, (tries, scope, key))
        for statement in END:
            connection.execute(statement, (scope, key))

    def _batch_texts(self, fingerprints: Collection[bytes], connection: Connection) -> dict[bytes, TextState]:
        scope, states = self._batch_scope, dict[bytes, TextState]()
        for fingerprint in fingerprints:
            is_out = connection.execute(OUT, (scope, fingerprint)).fetchone() is not None
            row = connection.execute(STATE, (scope, fingerprint)).fetchone()
            if row:
                tries, live, blob = row
                states[fingerprint] = TextState(is_out, tries, bool(live), None if blob is None else vector(blob))
            elif is_out:
                states[fingerprint] = TextState(is_out)
        return states


def _make_tables(connection: Connection) -> None:
    for table in TABLES:
        connection.execute(table)
