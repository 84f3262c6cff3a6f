"""The tables of a PostgreSQL store: what is there, and how they are made.

Every name is quoted by `quote_name`, and every name is written with its schema: pgvector's type and operators too.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps, loads
from typing import Any

import asyncpg

from aembed.core.spaces import space_as_json, space_from_json
from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._index import ODD_PREFIX, IndexTarget
from aembed.stores._postgresql._names import TableName, quote_name
from aembed.stores._postgresql._wire import Storage
from aembed.stores._postgresql._words import WordTarget
from aembed.stores._rules import FIRST_SCHEMA, check_schema, schema_version
from aembed.types import Space

MOST_INDEXED = 2_000
"""Dimensions of a vector that pgvector's HNSW can index; of a halfvec 4,000."""
MOST_STORED = 16_000
"""Dimensions that pgvector can store, in either type."""

SCHEMA_OF = """SELECT coalesce(
    (SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.to_regclass($1)), pg_catalog.current_schema())"""
EXTENSION = """SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector'"""
# Supabase keeps extensions in a schema named `extensions`.
NEW_EXTENSION_SCHEMA = """SELECT coalesce((SELECT nspname FROM pg_namespace WHERE nspname = 'extensions'),
    (SELECT nspname FROM pg_namespace WHERE nspname = 'public'), $1)"""
LAYOUT = """SELECT to_regclass($1) IS NOT NULL AS has_rows, to_regclass($2) IS NOT NULL AS has_meta,
    (SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = to_regclass($1) AND a.attname = 'embedding') AS storage,
    (SELECT a.atttypmod FROM pg_attribute a
     WHERE a.attrelid = to_regclass($1) AND a.attname = 'embedding') AS dimensions"""
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
WRITABLE = """SELECT current_setting('transaction_read_only') = 'off'
    AND has_table_privilege($1, 'SELECT') AND has_table_privilege($1, 'INSERT')
    AND has_table_privilege($1, 'UPDATE')"""
LACKS_ODD = """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') AND pg_catalog.pg_table_size(c.oid) <= $3
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class o ON o.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND pg_catalog.starts_with(o.relname, $2))
    FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)"""
STILL = "LOCK TABLE {rows} IN SHARE MODE NOWAIT"
# Chosen: they are read within a second, while writes wait. Larger tables are searched with care, as before.
MOST_SCANNED = 256 * 1024 * 1024
"""Bytes of a table that may be read to index what is odd of it."""
# COLLATE "C" is the order of bytes: pages come in the order of Python's strings, and an update of the system's locales,
# which reorders text, leaves these indexes right. EXTERNAL spares the try to compress each vector.
TABLES = (
    """CREATE TABLE {rows} (id text COLLATE "C" PRIMARY KEY, text text, metadata jsonb, source text COLLATE "C",
        fingerprint bytea NOT NULL, digest bytea NOT NULL, embedding {type} NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now())""",
    "ALTER TABLE {rows} ALTER COLUMN embedding SET STORAGE EXTERNAL",
    "CREATE INDEX ON {rows} (fingerprint)",
    "CREATE INDEX ON {rows} (source)",
    """CREATE TABLE {refusals} (id text COLLATE "C" PRIMARY KEY, fingerprint bytea NOT NULL, error text NOT NULL,
        message text NOT NULL, refused_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE TABLE {meta} (key text PRIMARY KEY, value jsonb NOT NULL)",
)
RETYPE = "ALTER TABLE {rows} ALTER COLUMN embedding TYPE {type} USING NULL"
# ALTER ... TYPE sets the storage of a column back to that of its type.
RESTORE = "ALTER TABLE {rows} ALTER COLUMN embedding SET STORAGE EXTERNAL"
META = "SELECT key, value::text AS value FROM {meta}"
SET_META = """INSERT INTO {meta} (key, value) VALUES ($1, $2::text::jsonb)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
DELETE_META = "DELETE FROM {meta} WHERE key = $1"
ACCOUNT = "spent {}"
"""Key of what a job has spent."""
SPEND = """INSERT INTO {meta} AS m (key, value) VALUES ($1, to_jsonb($2::bigint))
    ON CONFLICT (key) DO UPDATE SET value = to_jsonb(m.value::bigint + $2::bigint) RETURNING value::bigint"""


@dataclass(frozen=True, slots=True)
class StoreNames:
    """The tables of a store, quoted, with their schema. `rows` is the lock, too, under which they are made."""

    rows: str
    refusals: str
    meta: str
    leases: str
    workers: str
    sources: str
    """Of which files are remembered."""
    files: str
    schema: str
    table: str
    copies: bool = True
    """Whether the server knows COPY."""

    @classmethod
    def from_name(cls, name: TableName, schema: str, copies: bool) -> StoreNames:
        placed = TableName(name.table, schema)
        suffixes = ("", "_refusals", "_meta", "_leases", "_workers", "_memory", "_memories")
        rows, refusals, meta, leases, workers, sources, files = (str(placed.beside(suffix)) for suffix in suffixes)
        return cls(rows, refusals, meta, leases, workers, sources, files, schema, name.table, copies)


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """What was found. `vectors` is the schema of pgvector, quoted; `dimensions` None where the column takes any."""

    names: StoreNames
    vectors: str
    storage: Storage
    dimensions: int | None
    meta: dict[str, Any]

    @property
    def space(self) -> Space | None:
        return space_from_json(self.meta["space"]) if "space" in self.meta else None

    @property
    def target(self) -> IndexTarget:
        names = self.names
        return IndexTarget(names.rows, names.schema, '"embedding"', self.vectors, self.storage, self.dimensions)

    @property
    def word_target(self) -> WordTarget:
        return WordTarget(self.names.rows, self.names.schema, '"text"')

    def sql(self, statement: str) -> str:
        names = self.names
        return statement.format(
            rows=names.rows,
            refusals=names.refusals,
            meta=names.meta,
            leases=names.leases,
            workers=names.workers,
            sources=names.sources,
            files=names.files,
            v=self.vectors,
        )


async def schema_of(name: TableName, connection: Connection) -> str:
    """Where the table is, or would be made. Asked with the search path of the user."""
    schema = name.schema or await connection.fetchval(SCHEMA_OF, str(name))
    if schema is None:
        raise ConfigError(f"the search path has no schema for {name}; write SCHEMA.{name.table}")
    return str(schema)


async def find_tables(names: StoreNames, connection: Connection) -> StoreLayout | None:
    """Raises StoreError for tables that are not ours, or of a later aembed."""
    row = await connection.fetchrow(LAYOUT, names.rows, names.meta)
    if not row["has_meta"]:
        if row["has_rows"]:
            raise StoreError(
                f"the table {names.rows} is there and is not aembed's: choose another name with ?table=NAME, "
                "or fill a column of it with PostgresColumn"
            )
        return None
    vectors = quote_name(await connection.fetchval(EXTENSION))
    held = await connection.fetch(META.format(meta=names.meta))
    layout = StoreLayout(
        names,
        vectors,
        row["storage"],
        row["dimensions"] if (row["dimensions"] or -1) > 0 else None,
        {each["key"]: loads(each["value"]) for each in held},
    )
    check_schema(layout.names.rows, layout.meta.get("schema_version", 0))
    if layout.storage not in ("vector", "halfvec"):
        raise StoreError(f"{layout.names.rows} has no column embedding of type vector or halfvec; it was changed")
    return layout


async def make_tables(names: StoreNames, storage: Storage | None, space: Space, connection: Connection) -> StoreLayout:
    """Creates the tables, and the extension where it is missing and the role may."""
    vectors = await connection.fetchval(EXTENSION)
    if not vectors:
        vectors = await connection.fetchval(NEW_EXTENSION_SCHEMA, names.schema)
        await connection.execute(f"CREATE EXTENSION IF NOT EXISTS vector SCHEMA {quote_name(vectors)}")
    kind = choose_storage(storage, space.dimensions)
    for statement in TABLES:
        await connection.execute(
            statement.format(
                rows=names.rows,
                refusals=names.refusals,
                meta=names.meta,
                type=column_type(kind, space.dimensions, quote_name(vectors)),
            )
        )
    layout = StoreLayout(names, quote_name(vectors), kind, space.dimensions, {})
    if names.copies:
        await connection.execute(layout.target.create_odd)
    await set_meta("schema_version", FIRST_SCHEMA, layout, connection)
    return layout


async def index_odd(layout: StoreLayout, connection: Connection) -> None:
    """Gives tables of an earlier aembed the index of what the operator is wrong for, where they are small and nobody
    writes at the moment."""
    if not layout.names.copies or not await connection.fetchval(LACKS_ODD, layout.names.rows, ODD_PREFIX, MOST_SCANNED):
        return
    await connection.execute("SAVEPOINT aembed_odd")
    try:
        # Not waited for: all other writers would wait behind it.
        await connection.execute(layout.sql(STILL))
        await connection.execute(layout.target.create_odd)
    except asyncpg.LockNotAvailableError:
        await connection.execute("ROLLBACK TO SAVEPOINT aembed_odd")
    await connection.execute("RELEASE SAVEPOINT aembed_odd")


def choose_storage(storage: Storage | None, dimensions: int | None) -> Storage:
    """halfvec where a vector could not be indexed. Raises ConfigError for more than can be stored."""
    if dimensions and dimensions > MOST_STORED:
        raise ConfigError(f"pgvector stores at most {MOST_STORED:,} dimensions, these are {dimensions:,}")
    return storage or ("halfvec" if (dimensions or 0) > MOST_INDEXED else "vector")


def column_type(storage: Storage, dimensions: int | None, vectors: str) -> str:
    return f"{vectors}.{storage}({dimensions})" if dimensions else f"{vectors}.{storage}"


async def retype(storage: Storage | None, space: Space, layout: StoreLayout, connection: Connection) -> None:
    """The column of a table without rows, for another width."""
    kind = choose_storage(storage, space.dimensions)
    wanted = column_type(kind, space.dimensions, layout.vectors)
    await connection.execute(RETYPE.format(rows=layout.names.rows, type=wanted))
    await connection.execute(layout.sql(RESTORE))


async def set_meta(key: str, value: Any, layout: StoreLayout, connection: Connection) -> None:
    await connection.execute(layout.sql(SET_META), key, dumps(value))


async def keep_space(space: Space, layout: StoreLayout, connection: Connection) -> None:
    if space.dimensions:
        await set_meta("schema_version", schema_version(space), layout, connection)
        await set_meta("space", space_as_json(space), layout, connection)
    else:
        await connection.execute(layout.sql(DELETE_META), "space")


async def move(space: Space, layout: StoreLayout, connection: Connection) -> None:
    await connection.execute(layout.sql(DELETE_META), "answered_by")
    await keep_space(space, layout, connection)


async def spend(job: str, tokens: int, layout: StoreLayout, connection: Connection) -> int:
    spent: int = await connection.fetchval(layout.sql(SPEND), ACCOUNT.format(job), tokens)
    return spent


async def close_account(job: str, layout: StoreLayout, connection: Connection) -> None:
    await connection.execute(layout.sql(DELETE_META), ACCOUNT.format(job))
