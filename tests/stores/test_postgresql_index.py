"""Indexes over partitioned tables, beside running writes, and what is told while they are built."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Space
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, new_table

SPACE = Space("fake", "fake", 8)
CREATE = "CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(8)) PARTITION BY RANGE (id)"
HALVES = (
    "CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (300)",
    'CREATE TABLE "{table} 2" PARTITION OF {table} FOR VALUES FROM (300) TO (999999)',
)
NESTED = (
    HALVES[0],
    "CREATE TABLE {table}_2 PARTITION OF {table} FOR VALUES FROM (300) TO (999999) PARTITION BY HASH (id)",
    "CREATE TABLE {table}_20 PARTITION OF {table}_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE {table}_21 PARTITION OF {table}_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
)
INDEXES = """SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam JOIN pg_partition_tree('{}') t ON t.relid = i.indrelid WHERE m.amname = 'hnsw'"""
WORD_INDEXES = """SELECT i.indexrelid::bigint, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = '{}'::regclass AND c.relname LIKE 'aembed_words_%'"""
TOUCH = "UPDATE {} SET text = text"
SECOND = """SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND (query LIKE 'DROP INDEX%' OR query LIKE '%pg_try_advisory_lock%')"""
"""Another builder has come so far."""
ROWS = "INSERT INTO {table} SELECT i, 'section ' || i FROM generate_series(1, 600) AS i"


@pytest.mark.parametrize("parts", [(), HALVES, NESTED], ids=["none", "halves", "nested"])
async def test_t17_each_partition_is_indexed_and_the_tables_index_is_valid(
    database: str, table: str, parts: Sequence[str]
) -> None:
    rows = [ROWS] if parts else []
    await new_table(database, table, *parts, *rows, create=CREATE, rows="SELECT 1")
    column = PostgresColumn(database, table, text="content")
    made = await column.preflight(SPACE, index=True)
    assert any(line.startswith("index ") for line in made)
    await backfilled(database, table, batch=200)
    seen = list[str]()
    await column.create_index(on_progress=lambda phase, done, total: seen.append(phase))
    await column.index_words()
    assert [line for line in await column.preflight(SPACE, index=True) if line.startswith("index ")] == []
    for _ in range(2):
        valid = [each for (each,) in await run_sql(database, INDEXES.format(table))]
        assert valid == [True] * (1 + len(parts))
        await column.create_index()
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        for i in (17, 400) if parts else ():
            (match,) = await embedder.search(column, f"section {i}", k=1)
            assert match.id == str(i)
            (match, *_) = await embedder.search(column, f"section {i}", k=3, hybrid=True)
            assert match.id == str(i)
    await column.aclose()


async def test_words_of_an_sql_expression_are_indexed_where_the_server_can(database: str, table: str) -> None:
    await new_table(database, table, *HALVES, ROWS, create=CREATE, rows="SELECT 1")
    for text_sql, may in (("content || ' (' || id || ')'", True), ("concat_ws(' ', content, id)", False)):
        column = PostgresColumn(database, table, text_sql=text_sql)
        lines = await column.preflight(SPACE, index=True)
        assert any("hybrid" in line for line in lines) is may
        if may:
            await column.index_words()
            async with Embedder(FakeProvider("fake", 8)) as embedder:
                await embedder.backfill(column)
                assert (await embedder.search(column, "section 17 (17)", k=1, hybrid=True))[0].id == "17"
        else:
            with pytest.raises(ConfigError, match="IMMUTABLE"):
                await column.index_words()
        await column.aclose()


async def until(database: str, question: str) -> list[tuple[object, ...]]:
    """What it gives, once it gives anything."""
    while True:
        if rows := await run_sql(database, question):
            return rows
        await asyncio.sleep(0.02)


async def test_t17_several_who_build_one_index_at_once_have_it_built_once(database: str, table: str) -> None:
    """A build waits for a transaction that has written; the index of another builder is not valid meanwhile."""
    one, other = (PostgresStore(database, table=table) for _ in range(2))
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        await embedder.embed_into(one, [f"text of option_{i}" for i in range(400)])
        writer = await asyncpg.connect(database)
        writing = writer.transaction()
        await writing.start()
        await writer.execute(TOUCH.format(table))
        first = asyncio.create_task(embedder.search(one, "option_7", hybrid=True))
        begun = await until(database, WORD_INDEXES.format(table))
        second = asyncio.create_task(embedder.search(other, "option_7", hybrid=True))
        await until(database, SECOND)
        await writing.commit()
        await writer.close()
        assert [matches[0].id for matches in await asyncio.gather(first, second)] == ["7", "7"]
    assert [valid for _, valid in begun] == [False]
    assert await run_sql(database, WORD_INDEXES.format(table)) == [(begun[0][0], True)]
    await one.aclose()
    await other.aclose()


async def test_t17_a_build_that_was_broken_off_is_taken_up(database: str, table: str) -> None:
    await new_table(database, table, *HALVES, ROWS, create=CREATE, rows="SELECT 1")
    await backfilled(database, table, batch=200)
    column = PostgresColumn(database, table, text="content")
    await column.create_index()
    ((name,),) = await run_sql(
        database,
        f"SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = '{table}'::regclass "  # noqa: S608
        "AND NOT i.indisprimary",
    )
    await run_sql(database, f"DROP INDEX {name}")
    await run_sql(database, f"CREATE INDEX {name} ON ONLY {table} USING hnsw (embedding vector_cosine_ops)")
    await column.create_index()
    assert [each for (each,) in await run_sql(database, INDEXES.format(table))] == [True] * 3
    await column.aclose()


async def test_t14_a_build_tells_how_much_of_it_is_done(database: str, table: str) -> None:
    await new_table(
        database,
        table,
        "UPDATE {table} SET embedding = (SELECT array_agg(random() + i * 0) FROM generate_series(1, 8) AS i)::vector",
        n=40_000,
    )
    column = PostgresColumn(database, table, text="content")
    seen = list[tuple[str, int, int]]()
    await column.create_index(memory="64MB", workers=0, on_progress=lambda *told: seen.append(told))
    with pytest.raises(ConfigError, match="must be a size"):
        await column.create_index(memory="much")
    await column.aclose()
    loading = [(done, total) for phase, done, total in seen if "loading" in phase and total]
    assert loading, seen
    assert loading == sorted(loading)
    assert all(0 <= done <= total for done, total in loading)
