"""Jobs into PostgreSQL that the server ends or hinders: what was paid for is in the table or in the error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import quote

import asyncpg
import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.errors import StoreError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record, Space
from tests.stage.postgres import Server, create_database, run_sql
from tests.stores.samples import SPACE, rows

ROWS = 400
BATCH = 10
TRIGGER = (
    "CREATE FUNCTION raise_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN new; END $$",
    "CREATE TRIGGER r BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION raise_{table}()",
)
WAITING = """SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"""
CANARY = "canary-7f3a-in-the-text"


def records(n: int = ROWS) -> list[Record]:
    return [Record(f"{i:04d}", f"section {i}") for i in range(n)]


async def new_table(database: str, table: str, n: int = ROWS) -> None:
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(8))",
        f"INSERT INTO {table} SELECT i, 'section ' || i FROM generate_series(0, {n - 1}) AS i",  # noqa: S608
    )


def check_ledger(provider: FakeProvider, stored: set[str], error: StoreError) -> None:
    """Every text that was paid for is in the table or in the error, none in both; intake stopped."""
    unsaved = {text for part in error.unsaved for text in part.texts}
    paid = {text for request in provider.ledger.log for text in request.texts}
    assert unsaved
    assert stored | unsaved == paid
    assert not stored & unsaved
    assert len(paid) < ROWS


DISK_FULL = "RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file'"
AWAY: tuple[str, ...] = ()
ENDINGS: dict[str, tuple[Sequence[str], Sequence[str], str]] = {
    "away": (AWAY, AWAY, "cannot be reached"),
    "full": (TRIGGER, TRIGGER, "the server's disk is full; free some space"),
    "changed": (
        ["ALTER TABLE {table} RENAME COLUMN digest TO other"],
        ["ALTER TABLE {table} RENAME COLUMN embedding TO other"],
        "42703",
    ),
}
"""What happens to a store's table and to a user's, and what the error says."""


@pytest.mark.parametrize("kind", ["store", "column"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_s2_s13_s14_what_was_paid_for_is_in_the_table_or_in_the_error(
    server: Server, table: str, kind: str, ending: str
) -> None:
    database = create_database(server.url, table)
    provider = FakeProvider("fake", 8, latency=0.1, keep_texts=True)
    of_store, of_column, sentence = ENDINGS[ending]
    change, text = (of_store, "text") if kind == "store" else (of_column, "content")
    place: Any
    if kind == "store":
        place = PostgresStore(database, table=table, max_store_outage=1.0)
    else:
        await new_table(database, table)
        place = PostgresColumn(database, table, text="content", max_store_outage=1.0)
    async with Embedder(provider, concurrency=4, max_batch_size=BATCH) as embedder:
        running = embedder.embed_into(place, records()) if kind == "store" else embedder.backfill(place)
        job = asyncio.create_task(running)
        while provider.ledger.requests < 8:  # noqa: ASYNC110 - a ledger does not call
            await asyncio.sleep(0.01)
        if change:
            await run_sql(database, *(part.format(table=table, body=DISK_FULL) for part in change))
        else:
            await asyncio.to_thread(server.halt)
        try:
            with pytest.raises(StoreError, match=sentence) as raised:
                await job
        finally:
            if not change:
                await asyncio.to_thread(server.start)
    await place.aclose()
    vector = "other" if kind == "column" and ending == "changed" else "embedding"
    found = await run_sql(database, f"SELECT {text} FROM {table} WHERE {vector} IS NOT NULL")  # noqa: S608
    check_ledger(provider, {row[0] for row in found}, raised.value)
    assert raised.value.report
    assert raised.value.report.stored == len(found)


# Locks


async def test_s6_a_deadlock_that_comes_all_the_same_is_tried_again(database: str, table: str) -> None:
    store = PostgresStore(database, table=table)
    await store.prepare(SPACE)
    await store.write(rows(["a", "b"]))
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            await other.execute(f"UPDATE {table} SET source = 'theirs' WHERE id = 'b'")  # noqa: S608
            writing = asyncio.create_task(store.write(rows(["a", "b"], edition="2")))
            while not await run_sql(database, WAITING):
                assert not writing.done()
            await other.execute(f"UPDATE {table} SET source = 'theirs' WHERE id = 'a'")  # noqa: S608
        await writing
    finally:
        await other.close()
    found = await run_sql(database, f"SELECT text FROM {table} ORDER BY id")  # noqa: S608
    assert [text for (text,) in found] == ["text 2 of a", "text 2 of b"]
    await store.aclose()


IDS = [str(i) for i in range(10)]
TEXTS = [f"section {id}" for id in IDS]


async def fill(column: PostgresColumn) -> None:
    assert await column.write(IDS, TEXTS, np.ones((10, 8), np.float32)) == 10


async def clear(column: PostgresColumn) -> None:
    await column.fail(IDS)


@pytest.mark.parametrize(
    ("write", "before"),
    [
        (fill, ()),
        (fill, [part.replace("{body}", "PERFORM 1") for part in TRIGGER]),
        (clear, ["UPDATE {table} SET embedding = '[1,1,1,1,1,1,1,1]', seen = 'another'"]),
    ],
    ids=["fill", "with a trigger", "clear"],
)
async def test_s6_no_statement_of_the_users_ends_in_a_deadlock_with_a_write(
    database: str, table: str, write: Callable[[PostgresColumn], Awaitable[None]], before: Sequence[str]
) -> None:
    await new_table(database, table, len(IDS))
    await run_sql(database, f"ALTER TABLE {table} ADD seen bytea", *(part.format(table=table) for part in before))
    column = PostgresColumn(database, table, text="content", fingerprint="seen")
    await column.prepare(Space("fake", "fake", 8))
    await write_beside_a_transaction(database, f"UPDATE {table} SET content = content WHERE id = ", write(column))  # noqa: S608
    emptied = await run_sql(database, f"SELECT count(*) FROM {table} WHERE embedding IS NULL")  # noqa: S608
    assert emptied == [(len(IDS) if write is clear else 0,)]
    await column.aclose()


async def test_s6_no_statement_of_the_users_ends_in_a_deadlock_with_a_store(database: str, table: str) -> None:
    store = PostgresStore(database, table=table)
    await store.prepare(SPACE)
    await store.write(rows(IDS))
    update = f"UPDATE {table} SET source = 'theirs' WHERE id::int = "  # noqa: S608
    await write_beside_a_transaction(database, update, store.write(rows(IDS, edition="2")))
    found = await run_sql(database, f"SELECT text FROM {table} ORDER BY id")  # noqa: S608
    assert [text for (text,) in found] == [f"text 2 of {id}" for id in IDS]
    await store.aclose()


async def write_beside_a_transaction(database: str, update: str, write: Coroutine[Any, Any, None]) -> None:
    """A transaction that holds two rows of those that are written, and takes the others once the write waits."""
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            await other.execute("SET LOCAL deadlock_timeout = '10ms'")
            await other.execute(f"{update}9; {update}7")
            writing = asyncio.create_task(write)
            while not await run_sql(database, WAITING):
                assert not writing.done()
            for id in IDS:
                await other.execute(update + id)
        await writing
    finally:
        await other.close()


# What a user's own table may have


async def test_s9_a_statement_timeout_halves_the_write_of_a_column(database: str, table: str) -> None:
    await new_table(database, table, 32)
    await run_sql(database, *(part.format(table=table, body="PERFORM pg_sleep(0.02)") for part in TRIGGER))
    hurried = PostgresColumn(f"{database}?options=-c%20statement_timeout%3D200", table, text="content")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        report = await embedder.backfill(hurried)
    await hurried.aclose()
    assert (report.stored, report.requests) == (32, 1)


async def test_s22_no_message_quotes_a_text_of_a_column(database: str, table: str) -> None:
    await new_table(database, table, 1)
    await run_sql(database, f"UPDATE {table} SET content = '{CANARY}'")  # noqa: S608
    column = PostgresColumn(database, table, text="content")
    await column.prepare(Space("fake", "fake", 8))
    raising = "RAISE EXCEPTION 'refused %', new.content"
    await run_sql(database, *(part.format(table=table, body=raising) for part in TRIGGER))
    with pytest.raises(StoreError, match="P0001") as caught:
        await column.write(["0"], [CANARY], np.ones((1, 8), np.float32))
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__
    await column.aclose()


async def test_i12_a_key_too_long_to_be_leased_is_said_before_anything_is_paid(database: str, table: str) -> None:
    await run_sql(database, f"CREATE TABLE {table} (id text PRIMARY KEY, content text, embedding vector(8))")
    key = "".join(map(chr, np.random.default_rng(1).integers(0x41, 0x5B, 2_680)))
    await run_sql(database, f"INSERT INTO {table} VALUES ('{key}', 'text')")  # noqa: S608
    provider, column = FakeProvider("fake", 8), PostgresColumn(database, table, text="content")
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match="54000"):
            await embedder.backfill(column)
    await column.aclose()
    assert provider.ledger.requests == 0


async def test_z5_names_in_front_of_ours_change_nothing_for_a_column(database: str, table: str) -> None:
    await run_sql(
        database,
        "DROP SCHEMA IF EXISTS evil CASCADE",
        "CREATE SCHEMA evil",
        "CREATE DOMAIN evil.vector AS text",
        "CREATE FUNCTION evil.vector_send(public.vector) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
        "CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
        "CREATE FUNCTION evil.same(public.vector, public.vector) RETURNS float8 LANGUAGE sql AS 'SELECT 0::float8'",
        "CREATE OPERATOR evil.<#> (LEFTARG = public.vector, RIGHTARG = public.vector, FUNCTION = evil.same)",
        "CREATE TABLE evil.leases (target text, key text, token bigint)",
    )
    await new_table(database, table, 3)
    path = quote("-c search_path=evil,public", safe="")
    column = PostgresColumn(f"{database}?options={path}", f"public.{table}", text="content")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        assert (await embedder.backfill(column)).stored == 3
        (match,) = await embedder.search(column, "section 2", k=1)
    assert match.text == "section 2"
    await column.aclose()
