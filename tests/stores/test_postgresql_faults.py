"""A server that restarts, freezes or is cut off, and poolers in transaction mode."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.errors import StoreError
from aembed.stores._postgresql import _leases as leases
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record
from tests.stage.postgres import Pooler, Server, create_database, run_sql
from tests.stage.proxy import Proxy
from tests.stores.samples import SPACE, digests, rows, vectors
from tests.stores.tables import backfilled, new_table, trigger


@pytest.fixture(scope="module")
def stoppable(server: Server) -> str:
    return create_database(server.url, "stoppable")


@asynccontextmanager
async def opened(place: Any, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(place, **options)
    try:
        yield store
    finally:
        await store.aclose()


def through(proxy: Proxy, database: str) -> str:
    parts = urlsplit(database)
    return parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()


def port_of(database: str) -> int:
    return urlsplit(database).port or 5432


async def every(column: PostgresColumn) -> list[Record]:
    return [record async for record in column.pending()]


async def count(database: str, table: str) -> int:
    found = await run_sql(database, f"SELECT count(*) FROM {table}")  # noqa: S608
    return int(found[0][0])


# Restarts


async def test_s1_writes_go_on_after_an_immediate_restart(server: Server, stoppable: str, table: str) -> None:
    names = [f"{i:04d}" for i in range(600)]
    async with opened(stoppable, table=table) as store:
        await store.prepare(SPACE)
        writes = [asyncio.create_task(store.write(rows([name]))) for name in names]
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(server.halt)
        await asyncio.to_thread(server.start)
        await store.write(rows(["after"]))
        await asyncio.gather(*writes)
        assert (await store.known(digests(names), {})).unchanged == set(names)


async def test_s2_a_server_away_for_longer_ends_the_write(server: Server, stoppable: str, table: str) -> None:
    async with opened(stoppable, table=table, max_store_outage=0.5) as store:
        await store.prepare(SPACE)
        await asyncio.to_thread(server.halt)
        try:
            with pytest.raises(StoreError, match="cannot be reached"):
                await store.write(rows(["a"]))
        finally:
            await asyncio.to_thread(server.start)
        await store.write(rows(["a"]))
        assert await count(stoppable, table) == 1


async def test_s1_a_job_pays_for_nothing_twice_when_the_server_restarts(server: Server, stoppable: str) -> None:
    await run_sql(
        stoppable,
        "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector)",
        "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(1, 3000) AS i",
    )
    column = PostgresColumn(stoppable, "sections", text="content")
    async with Embedder("fake:8", max_batch_size=50) as embedder:
        job = asyncio.create_task(embedder.backfill(column))
        while not (await run_sql(stoppable, "SELECT FROM sections WHERE embedding IS NOT NULL LIMIT 1")):
            assert not job.done()
        await asyncio.to_thread(server.halt)
        await asyncio.to_thread(server.start)
        report = await job
    await column.aclose()
    assert (report.stored, report.pending, report.failed) == (3000, 0, 0)
    assert report.requests == 60


async def test_s2_c7_workers_come_back_with_the_server_before_others_take_their_rows(
    server: Server, stoppable: str, table: str
) -> None:
    await run_sql(
        stoppable,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(4))",
        f"INSERT INTO {table} SELECT i, 'text ' || i FROM generate_series(1, 3) AS i",  # noqa: S608
    )
    holder, *others = [PostgresColumn(stoppable, table, text="content", lease_seconds=1.0) for _ in range(5)]
    for column in (holder, *others):
        await column.prepare(SPACE)
    held = await every(holder)
    waiting = [asyncio.create_task(every(column)) for column in others]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.halt)
    await asyncio.sleep(1.5)
    await asyncio.to_thread(server.start)
    await asyncio.sleep(2.0)
    assert not any(task.done() for task in waiting)
    assert await holder.write([each.id for each in held], [each.text for each in held], vectors(3)) == 3
    assert await asyncio.gather(*waiting) == [[]] * 4
    for column in (holder, *others):
        await column.aclose()


# Cuts


@pytest.mark.parametrize("further", [0, 5], ids=["before the first statement", "in the first answer"])
async def test_s1_a_first_connection_that_is_lost_once_it_stood_is_made_again(
    database: str, table: str, further: int
) -> None:
    async with Proxy(port_of(database)) as proxy:
        connection = await asyncpg.connect(through(proxy, database))
        proxy.cut_after = proxy.down.passed_bytes + further
        connection.terminate()
        async with opened(through(proxy, database), table=table) as store:
            connections, preparing = proxy.connections, asyncio.create_task(store.prepare(SPACE))
            while proxy.connections < connections + 2 and not preparing.done():
                await asyncio.wait([preparing], timeout=0.01)
            proxy.cut_after = None
            await preparing
            assert (await store.info()).rows == 0


async def test_s3_a_lost_reply_to_commit_is_written_again(database: str, table: str) -> None:
    async with opened(database, table=table) as store:
        await store.prepare(SPACE)
    async with Proxy(port_of(database)) as proxy, opened(through(proxy, database), table=table) as store:
        await store.info()
        await proxy.drop_connections()
        before = proxy.down.passed_bytes
        await store.write(rows(["a"]))
        answer_bytes = proxy.down.passed_bytes - before
        await proxy.drop_connections()
        proxy.down.stall_after = answer_bytes - 10
        writing = asyncio.create_task(store.write(rows(["b"])))
        while await count(database, table) < 2:
            assert not writing.done()
        assert not writing.done()
        await proxy.drop_connections()
        proxy.down.resume()
        await writing
        assert [row.id async for row in store.rows()] == ["a", "b"]


async def test_s3_a_lost_reply_to_commit_is_counted_once_in_a_column(database: str, table: str) -> None:
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(4))",
        f"INSERT INTO {table} VALUES (1, 'one'), (2, 'two')",  # noqa: S608
    )
    async with Proxy(port_of(database)) as proxy:
        column = PostgresColumn(through(proxy, database), table, text="content")
        await column.prepare(SPACE)
        first, second = [record async for record in column.pending()]
        await proxy.drop_connections()
        before = proxy.down.passed_bytes
        assert await column.write([first.id], [first.text], vectors(1)) == 1
        answer_bytes = proxy.down.passed_bytes - before
        await proxy.drop_connections()
        proxy.down.stall_after = answer_bytes - 10
        writing = asyncio.create_task(column.write([second.id], [second.text], vectors(1)))
        filled = f"SELECT count(*) FROM {table} WHERE embedding IS NOT NULL"  # noqa: S608
        while await run_sql(database, filled) != [(2,)]:
            assert not writing.done()
        assert not writing.done()
        await proxy.drop_connections()
        proxy.down.resume()
        assert await writing == 1
        await column.aclose()
    await run_sql(database, f"DROP TABLE {table}", "DROP SCHEMA aembed CASCADE")


async def test_a_cut_at_any_place_of_the_servers_answers_is_survived(database: str, table: str) -> None:
    cuts = range(20, 1400, 97)
    async with opened(database, table=table) as store:
        await store.prepare(SPACE)
    async with Proxy(port_of(database)) as proxy, opened(through(proxy, database), table=table) as store:
        await store.info()
        for cut in cuts:
            await proxy.drop_connections()
            connections, proxy.cut_after = proxy.connections, cut
            writing = asyncio.create_task(store.write(rows([f"{cut:04d}", "again"])))
            while proxy.connections < connections + 2 and not writing.done():
                await count(database, table)
            proxy.cut_after = None
            await writing
        assert [row.id async for row in store.rows()] == [*(f"{cut:04d}" for cut in cuts), "again"]


async def test_s3_rows_whose_claim_got_no_answer_are_read_all_the_same(
    database: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has committed that they are ours, and we do not know it."""
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(4))",
        f"INSERT INTO {table} SELECT i, 'text ' || i FROM generate_series(1, 20) AS i",  # noqa: S608
    )
    claims, claim = 0, leases.claim
    async with Proxy(port_of(database)) as proxy:

        async def claim_and_lose_the_commit(*arguments: Any) -> list[tuple[str, str, bool]]:
            nonlocal claims
            claims += 1
            found = await claim(*arguments)
            proxy.cut_after = 0 if claims == 1 else None
            return found

        monkeypatch.setattr(leases, "claim", claim_and_lose_the_commit)
        column = PostgresColumn(through(proxy, database), table, text="content")
        await column.prepare(SPACE)
        reading = asyncio.create_task(every(column))
        while proxy.cut_after is None:
            await count(database, table)
        connections = proxy.connections
        while proxy.connections == connections:
            await count(database, table)
        proxy.cut_after = None
        assert len(await asyncio.wait_for(reading, 20)) == 20
        assert claims > 1
        await column.aclose()


async def test_s15_a_frozen_server_is_given_up_after_the_command_timeout(database: str, table: str) -> None:
    async with (
        Proxy(port_of(database)) as proxy,
        opened(through(proxy, database), table=table, command_timeout=0.5) as store,
    ):
        await store.prepare(SPACE)
        proxy.down.stall_after = 0
        writing = asyncio.create_task(store.write(rows(["a", "b"])))
        done, _ = await asyncio.wait([writing], timeout=1.0)
        assert not done
        proxy.down.resume()
        await proxy.drop_connections()
        await asyncio.wait_for(writing, 20)
        assert (await store.info()).rows == 2


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP is POSIX")
async def test_s15_a_stopped_backend_is_left_for_another(server: Server, stoppable: str, table: str) -> None:
    async with opened(stoppable, table=table, command_timeout=0.5) as store:
        await store.prepare(SPACE)
        await store.write(rows(["a"]))
        idle = await run_sql(stoppable, "SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'idle'")
        pids = [pid for (pid,) in idle]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.wait_for(store.write(rows(["a", "b"])), 20)
            assert await count(stoppable, table) == 2
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert pids


# Many writers


async def test_s6_sixteen_writers_with_shuffled_keys(database: str, table: str) -> None:
    stores = [PostgresStore(database, table=table) for _ in range(16)]
    await stores[0].prepare(SPACE)
    names = [f"{i:03d}" for i in range(125)]

    async def upserts(store: PostgresStore, seed: int) -> None:
        for turn in range(5):
            shuffled = np.random.default_rng([seed, turn]).permutation(names).tolist()
            await store.write(rows(shuffled, vectors(125, seed=turn)))

    await asyncio.gather(*(upserts(store, seed) for seed, store in enumerate(stores)))
    assert await count(database, table) == 125
    await asyncio.gather(*(store.aclose() for store in stores))


# Poolers in transaction mode


async def test_s10_a_full_pooler_is_waited_for(pooler: Pooler, database: str, table: str) -> None:
    full = Pooler(database, "max_client_conn = 1\n")
    try:
        other = await asyncpg.connect(full.before(database), statement_cache_size=0)
        async with opened(full.before(database), table=table) as store:
            waiting = asyncio.create_task(store.prepare(SPACE))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.5)
            await other.close()
            assert await waiting == SPACE
    finally:
        full.stop()


async def test_s7_many_tasks_share_a_pooler_with_no_setting(pooled: str, table: str) -> None:
    stores = [PostgresStore(pooled, table=table) for _ in range(4)]
    await stores[0].prepare(SPACE)

    async def work(store: PostgresStore, i: int) -> None:
        for turn in range(15):
            await store.write(rows([f"{i}-{turn}", "shared"]))
            await store.known(digests(["shared"]), {})
            await store.search(vectors(1)[0], 3)

    await asyncio.gather(*(work(store, i) for i, store in enumerate(stores * 4)))
    assert (await stores[0].info()).rows == 16 * 15 + 1
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_s7_a_pool_with_prepared_statements_behind_a_pooler_is_told_what_to_do(pooled: str, table: str) -> None:
    pool = await asyncpg.create_pool(pooled, min_size=0, max_size=8)
    stores = [PostgresStore(pool, table=table, max_store_outage=0.1) for _ in range(8)]

    async def ask() -> None:
        for _ in range(20):
            await asyncio.gather(*(store.prepare(SPACE) for store in stores))
            await asyncio.gather(*(store.known(digests(["a"]), {}) for store in stores))

    try:
        with pytest.raises(StoreError, match="statement_cache_size=0"):
            await ask()
    finally:
        pool.terminate()


async def test_s7_a_direct_connection_keeps_its_prepared_statements(database: str, pooled: str) -> None:
    for url, behind in ((database, False), (pooled, True)):
        async with opened(url) as store:
            assert await store._database._is_behind_pooler() is behind


async def test_s7_s8_a_backfill_through_a_pooler(pooled: str, database: str) -> None:
    await run_sql(
        database,
        "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector)",
        "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(1, 2000) AS i",
    )
    columns = [PostgresColumn(pooled, "sections", text="content") for _ in range(2)]
    async with Embedder("fake:8", max_batch_size=100) as embedder:
        reports = await asyncio.gather(*(embedder.backfill(column) for column in columns))
        assert sum(report.stored for report in reports) == 2000
        (match,) = await embedder.search(columns[0], "section 77", k=1)
        assert match.id == "77"
    for column in columns:
        await column.aclose()


SLOWLY = trigger("PERFORM pg_sleep(0.01); RETURN new;")


async def test_s9_a_write_that_outlasts_transaction_timeout_is_halved(database: str, table: str) -> None:
    await new_table(database, table, *SLOWLY, n=60)
    if not await run_sql(database, "SELECT 1 FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    ended = await backfilled(f"{database}?options=-c%20transaction_timeout%3D400", table, batch=60)
    assert ended.report is not None
    assert (ended.report.stored, ended.error) == (60, None)
    assert max(ended.bought.values()) == 1


async def test_s9_a_transaction_timeout_that_nothing_passes_is_named(database: str, table: str) -> None:
    # So long that the looks at the table are over before, also on a busy machine, and a write never is.
    await new_table(database, table, *trigger("PERFORM pg_sleep(1); RETURN new;"), n=2)
    if not await run_sql(database, "SELECT 1 FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    ended = await backfilled(f"{database}?options=-c%20transaction_timeout%3D300", table)
    assert "transaction_timeout is too short; raise it for this role" in str(ended.error)


async def test_s7_a_pooler_in_statement_mode_is_told_at_once(pooler: Pooler, database: str, table: str) -> None:
    await new_table(database, table, n=2)
    by_statement = Pooler(database, mode="statement")
    try:
        ended = await backfilled(by_statement.before(database), table)
    finally:
        by_statement.stop()
    assert "a pooler in statement mode is in between" in str(ended.error)
