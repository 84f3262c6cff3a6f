"""What is out at a provider in batches, kept in PostgreSQL: the batches, their texts, and vectors in no row yet.

A store has three tables for it beside its rows. All columns of users' tables have them in the schema `aembed`, where
`scope` tells one from another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from json import dumps, loads
from typing import TypeVar

import anyio.lowlevel
import numpy as np

from aembed.batch_protocols import KeptBatch, OutText, SettledLine, TextState
from aembed.errors import StoreError
from aembed.stores._postgresql._database import Connection

T = TypeVar("T")

LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))"
# A role that may not read them has no batches; to_regclass would raise an error for a schema that it may not use.
THERE = """SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = (pg_catalog.parse_ident($1))[1] AND c.relname = (pg_catalog.parse_ident($1))[2]
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))"""
# CASE keeps the order: has_schema_privilege raises an error for a schema that is not there.
MAY_CREATE = """SELECT CASE WHEN pg_catalog.to_regnamespace(pg_catalog.quote_ident($1)) IS NULL THEN false
    ELSE pg_catalog.has_schema_privilege($1, 'CREATE') END"""
# What the session knows of tables that were not there may be as old as its transaction, so that IF NOT EXISTS is needed
# under the lock, too. The unique key is there for its index.
TABLES = (
    """CREATE TABLE IF NOT EXISTS {batches} (scope text NOT NULL, key text NOT NULL, version bigint NOT NULL,
        data text NOT NULL, PRIMARY KEY (scope, key))""",
    """CREATE TABLE IF NOT EXISTS {texts} (scope text NOT NULL, key text NOT NULL, line integer NOT NULL,
        place integer NOT NULL,
        fingerprint bytea NOT NULL, weights text, is_out boolean NOT NULL DEFAULT true,
        PRIMARY KEY (scope, key, line, place), UNIQUE (fingerprint, scope, key, line, place))""",
    """CREATE TABLE IF NOT EXISTS {vectors} (scope text NOT NULL, fingerprint bytea NOT NULL, vector bytea,
        tries integer NOT NULL DEFAULT 0, live boolean NOT NULL DEFAULT false,
        changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), PRIMARY KEY (scope, fingerprint))""",
    "ALTER TABLE {vectors} ALTER COLUMN vector SET STORAGE EXTERNAL",
)
ANY = """SELECT EXISTS (SELECT FROM {batches} WHERE scope = $1) OR EXISTS (SELECT FROM {vectors} WHERE scope = $1)"""
ALL = "SELECT key, data, version FROM {batches} WHERE scope = $1 ORDER BY key"
BEGIN = "INSERT INTO {batches} (scope, key, version, data) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
# A transaction is tried again after a COMMIT whose answer was lost.
ADD = """INSERT INTO {texts} (scope, key, is_out, line, place, fingerprint, weights)
    SELECT $1, $2, $3, * FROM unnest($4::int[], $5::int[], $6::bytea[], $7::text[]) ON CONFLICT DO NOTHING"""
CHANGE = """UPDATE {batches} SET data = $4, version = version + 1
    WHERE scope = $1 AND key = $2 AND (version = $3 OR (version = $3 + 1 AND data = $4))"""
RELEASE = "UPDATE {texts} SET is_out = $3 WHERE scope = $1 AND key = $2 AND is_out <> $3"
# Few rows: Python looks through all objects that refer to others whenever there are many new ones, for tens of ms.
LINES = """SELECT line, pg_catalog.array_agg(fingerprint ORDER BY place), pg_catalog.array_agg(weights ORDER BY place)
    FROM {texts} WHERE scope = $1 AND key = $2 GROUP BY line ORDER BY line"""
SETTLE = "DELETE FROM {texts} WHERE scope = $1 AND key = $2 AND line = ANY ($3::int[]) RETURNING line"
# In the order of the fingerprints, so that two writers never wait for each other in a circle.
KEEP = """INSERT INTO {vectors} (scope, fingerprint, vector)
    SELECT DISTINCT ON (fingerprint) $1, fingerprint, vector
    FROM unnest($2::bytea[], $3::bytea[]) AS row (fingerprint, vector) ORDER BY fingerprint
    ON CONFLICT (scope, fingerprint) DO UPDATE SET vector = excluded.vector, changed_at = excluded.changed_at"""
TRY = """INSERT INTO {vectors} AS v (scope, fingerprint, tries, live)
    SELECT $1, fingerprint, 1, bool_or(live) FROM unnest($2::bytea[], $3::boolean[]) AS row (fingerprint, live)
    GROUP BY fingerprint ORDER BY fingerprint
    ON CONFLICT (scope, fingerprint) DO UPDATE SET tries = v.tries + excluded.tries,
        live = v.live OR excluded.live, changed_at = excluded.changed_at"""
TRY_REST = """INSERT INTO {vectors} AS v (scope, fingerprint, tries)
    SELECT DISTINCT scope, fingerprint, $3::int FROM {texts} WHERE scope = $1 AND key = $2 ORDER BY fingerprint
    ON CONFLICT (scope, fingerprint) DO UPDATE SET tries = v.tries + excluded.tries,
        changed_at = excluded.changed_at"""
END = (
    "DELETE FROM {texts} WHERE scope = $1 AND key = $2",
    "DELETE FROM {batches} WHERE scope = $1 AND key = $2",
)
STATES = """SELECT fingerprint, t.fingerprint IS NOT NULL AS is_out, coalesce(v.tries, 0), coalesce(v.live, false),
        v.vector
    FROM (SELECT DISTINCT fingerprint FROM {texts} WHERE scope = $1 AND is_out AND fingerprint = ANY ($2::bytea[])) AS t
    FULL JOIN (SELECT fingerprint, tries, live, vector FROM {vectors}
        WHERE scope = $1 AND fingerprint = ANY ($2::bytea[])) AS v USING (fingerprint)"""
FORGET = "DELETE FROM {vectors} WHERE scope = $1 AND fingerprint = ANY ($2::bytea[])"
FORGET_OLDER = """DELETE FROM {vectors}
    WHERE scope = $1 AND changed_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)"""

# Law 11: a batch may have 50,000 texts; of so many the loop is held up for 3 ms.
AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class BatchTables:
    """The names of the three tables, quoted, with their schema; and what tells this place from others in them."""

    batches: str
    texts: str
    vectors: str
    schema: str
    scope: str = ""

    def sql(self, statement: str) -> str:
        return statement.format(batches=self.batches, texts=self.texts, vectors=self.vectors)


class KeepsBatchesInTables:
    """The methods of `KeepsBatches`, for whatever has a PostgreSQL database."""

    async def _run_batches(self, work: Callable[[BatchTables, Connection], Awaitable[T]]) -> T:
        """`work` in one transaction, which may be tried again."""
        raise NotImplementedError

    async def prepare_batches(self) -> None:
        """Makes the tables. Raises StoreError where the role may not."""
        await self._run_batches(_make_tables)

    async def has_batches(self) -> bool:
        """Whether there is anything here of batches, or of what they have brought."""

        async def look(names: BatchTables, connection: Connection) -> bool:
            if not await connection.fetchval(THERE, names.vectors):
                return False
            return bool(await connection.fetchval(names.sql(ANY), names.scope))

        return await self._run_batches(look)

    async def batches(self) -> list[KeptBatch]:
        """All that are kept, by key."""

        async def read(names: BatchTables, connection: Connection) -> list[KeptBatch]:
            if not await connection.fetchval(THERE, names.vectors):
                return []
            return [KeptBatch(*row) for row in await connection.fetch(names.sql(ALL), names.scope)]

        return await self._run_batches(read)

    async def begin_batch(self, batch: KeptBatch, lines: Sequence[Sequence[OutText]], *, is_out: bool = True) -> None:
        """Keeps a batch and the texts of each of its lines, which are out from now on where it `is_out`."""
        rows = [(number, place, text) for number, line in enumerate(lines) for place, text in enumerate(line)]
        weights = [None if text.weights == (1.0,) else dumps(list(text.weights)) for _, _, text in rows]
        columns = (
            [line for line, _, _ in rows],
            [place for _, place, _ in rows],
            [text.fingerprint for _, _, text in rows],
        )

        async def begin(names: BatchTables, connection: Connection) -> None:
            await connection.execute(names.sql(BEGIN), names.scope, batch.key, batch.version, batch.data)
            await connection.execute(names.sql(ADD), names.scope, batch.key, is_out, *columns, weights)

        await self._run_batches(begin)

    async def change_batch(self, batch: KeptBatch, *, is_out: bool = True) -> bool:
        """Keeps other data of it, where nobody else has changed it since; returns whether it did."""

        async def change(names: BatchTables, connection: Connection) -> bool:
            place = names.scope, batch.key
            if await connection.execute(names.sql(CHANGE), *place, batch.version, batch.data) == "UPDATE 0":
                return False
            await connection.execute(names.sql(RELEASE), *place, is_out)
            return True

        return await self._run_batches(change)

    async def batch_lines(self, key: str) -> Mapping[int, Sequence[OutText]]:
        """The texts of the lines that nothing is settled of yet, by the number of the line."""

        async def read(names: BatchTables, connection: Connection) -> dict[int, list[OutText]]:
            lines: dict[int, list[OutText]] = {}
            since = 0
            for line, fingerprints, weights in await connection.fetch(names.sql(LINES), names.scope, key):
                texts = zip(fingerprints, weights, strict=True)
                lines[line] = [
                    OutText(text) if its is None else OutText(text, tuple(loads(its))) for text, its in texts
                ]
                since += len(fingerprints)
                if since >= AT_ONCE:
                    since = 0
                    await anyio.lowlevel.checkpoint()
            return lines

        return await self._run_batches(read)

    async def settle_lines(self, key: str, lines: Sequence[SettledLine]) -> None:
        """They are out no more: their vectors are kept, or that they had none."""

        async def settle(names: BatchTables, connection: Connection) -> None:
            rows = await connection.fetch(names.sql(SETTLE), names.scope, key, [line.line for line in lines])
            own = {number for (number,) in rows}
            # Others were settled by somebody else.
            vectors, tried = list[tuple[bytes, bytes]](), list[tuple[bytes, bool]]()
            for line in lines:
                if line.line not in own:
                    continue
                if line.matrix is None:
                    tried += [(fingerprint, line.live) for fingerprint in line.fingerprints]
                else:
                    sent = map(np.ndarray.tobytes, np.ascontiguousarray(line.matrix, dtype="<f4"))
                    vectors += zip(line.fingerprints, sent, strict=True)
            for statement, pairs in ((KEEP, vectors), (TRY, tried)):
                if pairs:
                    await connection.execute(names.sql(statement), names.scope, *map(list, zip(*pairs, strict=True)))

        await self._run_batches(settle)

    async def end_batch(self, key: str, *, tries: int) -> None:
        """Forgets a batch; the texts that are left of it have `tries` more behind them."""

        async def end(names: BatchTables, connection: Connection) -> None:
            if tries:
                await connection.execute(names.sql(TRY_REST), names.scope, key, tries)
            for statement in END:
                await connection.execute(names.sql(statement), names.scope, key)

        await self._run_batches(end)

    async def batch_texts(self, fingerprints: Collection[bytes]) -> Mapping[bytes, TextState]:
        """What there is of these texts; those of which there is nothing are left out."""

        async def read(names: BatchTables, connection: Connection) -> dict[bytes, TextState]:
            if not await connection.fetchval(THERE, names.vectors):
                return {}
            found = await connection.fetch(names.sql(STATES), names.scope, list(fingerprints))
            return {
                fingerprint: TextState(
                    is_out, tries, live, None if sent is None else np.frombuffer(sent, "<f4").astype(np.float32)
                )
                for fingerprint, is_out, tries, live, sent in found
            }

        return await self._run_batches(read)

    async def forget_texts(self, fingerprints: Collection[bytes]) -> None:
        """They stand in rows by now, or were refused."""
        await self._run_batches(lambda names, c: c.execute(names.sql(FORGET), names.scope, list(fingerprints)))

    async def forget_older(self, seconds: float) -> int:
        """Forgets vectors that were bought longer ago; returns how many."""
        tag = await self._run_batches(lambda names, c: c.execute(names.sql(FORGET_OLDER), names.scope, seconds))
        return int(str(tag).rpartition(" ")[2])


async def _make_tables(names: BatchTables, connection: Connection) -> None:
    await connection.execute(LOCK, names.batches)
    if await connection.fetchval(THERE, names.vectors):
        return
    if not await connection.fetchval(MAY_CREATE, names.schema):
        raise StoreError(
            f"batches are kept in tables of the schema {names.schema}, where the role may make none; "
            "GRANT CREATE on it, or run without batch"
        )
    for table in TABLES:
        await connection.execute(names.sql(table))
