"""Indexes over a column that are dropped while it is filled: nothing unasked, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import asyncpg
import pytest

from aembed.embedder import Embedder
from aembed.errors import ConfigError, StoreError
from aembed.providers.fake import FakeProvider
from aembed.stores._postgresql import _aside
from aembed.stores.postgresql_column import PostgresColumn
from tests.stage.postgres import run_sql

INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{}' ORDER BY indexname"
BREAK = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}_cosine'::regclass"
KEPT = "SELECT index_name FROM aembed.dropped_indexes WHERE table_name = '{}' ORDER BY index_name"
OVER_THE_COLUMN = (
    "CREATE INDEX {table}_cosine ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m = 8)",
    "CREATE INDEX {table}_half ON {table} USING hnsw ((embedding::halfvec(64)) halfvec_cosine_ops)",
    'CREATE INDEX "{table} ""lists""" ON {table} USING ivfflat (embedding vector_l2_ops) WITH (lists = 2)',
    "CREATE INDEX {table}_some ON {table} USING hnsw (other vector_cosine_ops) WHERE embedding IS NOT NULL",
    "COMMENT ON INDEX {table}_cosine IS 'made by it''s owner'",
)
BESIDE = (
    "CREATE INDEX {table}_other ON {table} USING hnsw (other vector_cosine_ops)",
    "CREATE INDEX {table}_content ON {table} (content) WHERE embedding IS NULL",
)
DROPPING = """import asyncio, os, signal, sys
from aembed import PostgresColumn

async def main():
    await PostgresColumn(sys.argv[1], sys.argv[2], text="content").set_indexes_aside()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
async def column(database: str, table: str) -> AsyncIterator[PostgresColumn]:
    """Of 40 rows, 10 of which are filled."""
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(64), other vector(3))",
        f"INSERT INTO {table} SELECT i, 'section ' || i FROM generate_series(1, 40) AS i",  # noqa: S608
    )
    async with (
        aclosing(PostgresColumn(database, table, text="content")) as column,
        Embedder(FakeProvider()) as embedder,
    ):
        await embedder.backfill(column, limit=10)
        yield column


async def make(database: str, table: str, *statements: str) -> list[asyncpg.Record]:
    return await run_sql(database, *(each.format(table=table) for each in statements), INDEXES.format(table))


async def test_t29_each_index_over_the_column_is_dropped_and_is_the_same_again(
    database: str, table: str, column: PostgresColumn
) -> None:
    beside = await make(database, table, *BESIDE)
    before = await make(database, table, *OVER_THE_COLUMN)
    held = await column.indexes_there()
    assert held.there == (f'{table} "lists"', f"{table}_cosine", f"{table}_half", f"{table}_some")
    assert (held.aside, held.fixed, held.filled) == ((), "", 10)
    await column.set_indexes_aside()
    await column.set_indexes_aside()
    assert await run_sql(database, INDEXES.format(table)) == beside
    assert (await column.indexes_there()).aside == held.there
    async with Embedder(FakeProvider()) as embedder:
        await embedder.backfill(column)
        assert (await embedder.search(column, "section 33", k=1))[0].id == "33"
    await column.restore_indexes()
    assert await run_sql(database, INDEXES.format(table)) == before
    assert await run_sql(database, KEPT.format(table)) == []
    comment = f"SELECT obj_description('{table}_cosine'::regclass)"
    assert (await run_sql(database, comment))[0][0] == "made by it's owner"
    assert (await column.indexes_there()).aside == ()


async def test_t29_one_that_is_not_valid_is_said_to_be_so_and_is_valid_again(
    database: str, table: str, column: PostgresColumn
) -> None:
    await make(database, table, OVER_THE_COLUMN[0])
    await run_sql(database, BREAK.format(table))
    assert (await column.indexes_there()).there == (f"{table}_cosine (not valid)",)
    await column.set_indexes_aside()
    await column.restore_indexes()
    assert (await column.indexes_there()).there == (f"{table}_cosine",)


async def test_t29_a_build_that_broke_off_is_begun_anew(database: str, table: str, column: PostgresColumn) -> None:
    before = await make(database, table, OVER_THE_COLUMN[0])
    await column.set_indexes_aside()
    await make(database, table, OVER_THE_COLUMN[0])
    await run_sql(database, BREAK.format(table))
    await column.restore_indexes()
    assert await run_sql(database, INDEXES.format(table)) == before
    assert (await column.indexes_there()).there == (f"{table}_cosine",)


async def test_t29_one_that_somebody_has_built_meanwhile_is_not_built_twice(
    database: str, table: str, column: PostgresColumn
) -> None:
    await make(database, table, OVER_THE_COLUMN[0])
    await column.set_indexes_aside()
    after = await make(database, table, OVER_THE_COLUMN[0].replace("_cosine ON", "_mine ON"))
    await column.restore_indexes()
    assert await run_sql(database, INDEXES.format(table)) == after
    assert (await column.indexes_there()).aside == ()


async def test_t29_a_process_that_is_killed_after_the_drop_leaves_what_the_next_one_builds(
    database: str, table: str, column: PostgresColumn
) -> None:
    before = await make(database, table, OVER_THE_COLUMN[0])
    command = [sys.executable, "-c", DROPPING, database, table]
    done = await asyncio.to_thread(subprocess.run, command, env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    held = await column.indexes_there()
    assert (held.there, held.aside) == ((), (f"{table}_cosine",))
    await column.restore_indexes()
    assert await run_sql(database, INDEXES.format(table)) == before


async def test_t29_a_table_that_is_in_use_keeps_its_index(
    database: str, table: str, column: PostgresColumn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_aside, "PATIENCE", "SET LOCAL lock_timeout = '50ms'")
    before = await make(database, table, OVER_THE_COLUMN[0])
    reader = await asyncpg.connect(database)
    async with reader.transaction():
        await reader.fetch(f"SELECT id FROM {table}")  # noqa: S608
        with pytest.raises(StoreError, match="somebody uses the table, and no index was dropped"):
            await column.set_indexes_aside()
    await reader.close()
    assert await run_sql(database, INDEXES.format(table)) == before
    assert (await column.indexes_there()).aside == ()


async def test_t29_who_does_not_own_the_table_drops_nothing(database: str, table: str, column: PostgresColumn) -> None:
    before, role = await make(database, table, OVER_THE_COLUMN[0]), f"r_{table}"
    await run_sql(database, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, UPDATE ON {table} TO {role}")
    async with aclosing(PostgresColumn(database.replace("postgres@", f"{role}@", 1), table, text="content")) as other:
        assert (await other.indexes_there()).fixed == f"{table}_cosine: only the owner of the table may drop it"
        with pytest.raises(StoreError, match=r"_cosine is not dropped: only the owner"):
            await other.set_indexes_aside()
    await run_sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert await run_sql(database, INDEXES.format(table)) == before


async def test_t29_an_owner_who_may_keep_nothing_drops_nothing(
    database: str, table: str, column: PostgresColumn
) -> None:
    before, role = await make(database, table, OVER_THE_COLUMN[0]), f"r_{table}"
    await run_sql(database, f"CREATE ROLE {role} LOGIN", f"ALTER TABLE {table} OWNER TO {role}")
    async with aclosing(PostgresColumn(database.replace("postgres@", f"{role}@", 1), table, text="content")) as other:
        with pytest.raises(StoreError, match=r"may not keep in aembed\.dropped_indexes"):
            await other.set_indexes_aside()
    await run_sql(database, f"ALTER TABLE {table} OWNER TO postgres", f"DROP ROLE {role}")
    assert await run_sql(database, INDEXES.format(table)) == before


async def test_t29_a_partitioned_table_keeps_its_index(database: str, table: str) -> None:
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(64)) PARTITION BY HASH (id)",
        f"CREATE TABLE {table}_0 PARTITION OF {table} FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    before = await make(database, table, OVER_THE_COLUMN[0])
    async with aclosing(PostgresColumn(database, table, text="content")) as column:
        assert (await column.indexes_there()).fixed == f"{table}_cosine: it is over a partitioned table"
        with pytest.raises(StoreError, match="it is over a partitioned table"):
            await column.set_indexes_aside()
    assert await run_sql(database, INDEXES.format(table)) == before


async def test_t29_behind_a_pooler_nothing_is_dropped(
    database: str, pooled: str, table: str, column: PostgresColumn
) -> None:
    before = await make(database, table, OVER_THE_COLUMN[0])
    async with aclosing(PostgresColumn(pooled, table, text="content")) as other:
        with pytest.raises(ConfigError, match="direct connection"):
            await other.set_indexes_aside()
    assert await run_sql(database, INDEXES.format(table)) == before


async def test_t29_create_index_leaves_one_of_another_name(database: str, table: str, column: PostgresColumn) -> None:
    before = await make(database, table, OVER_THE_COLUMN[0])
    await column.create_index()
    assert await run_sql(database, INDEXES.format(table)) == before
