"""A cache that all verbs and any number of processes share: what is in it is not bought. The judge is the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import textwrap
import uuid
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest

from aembed import (
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    FakeProvider,
    MemoryStore,
    PostgresColumn,
    Record,
    SQLiteColumn,
    StoreError,
)
from aembed.providers.fake import fake_vectors
from aembed.stores import open_cache
from aembed.types import Matrix
from tests.jobs import records, words
from tests.service.own_process import KEY, MODEL, ROOT, serving

KINDS = ("sqlite", "postgresql", "pooled")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a new cache."""
    if request.param == "sqlite":
        return str(tmp_path / "cache.db")
    url: str = request.getfixturevalue("database" if request.param == "postgresql" else "pooled")
    return f"{url}{'&' if '?' in url else '?'}table=c_{tmp_path.name.replace('-', '_')[-30:]}".lower()


def vectors_of(texts: list[str]) -> Matrix:
    return fake_vectors([text.encode() for text in texts], 64)


def embedder(place: str | Path, provider: FakeProvider, **options: Any) -> Embedder:
    return Embedder(provider, cache=place, max_batch_size=10, **options)


async def by_documents(one: Embedder, texts: list[str], folder: Path) -> None:
    vectors = await one.embed_documents(texts)
    assert np.array_equal(vectors.vectors, vectors_of(texts))


async def by_stream(one: Embedder, texts: list[str], folder: Path) -> None:
    async with one.stream(texts) as results:
        found = {result.id: result async for result in results}
    assert sorted(map(int, found)) == [*range(len(texts))]


async def by_store(one: Embedder, texts: list[str], folder: Path) -> None:
    store = MemoryStore()
    report = await one.embed_into(store, records(texts))
    assert report.stored == len(texts)
    for row in [row async for row in store.rows()]:
        assert np.array_equal(row.vector, vectors_of([row.text or ""])[0])


async def by_column(one: Embedder, texts: list[str], folder: Path) -> None:
    path = folder / f"notes{uuid.uuid4().hex}.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in texts])
    column = SQLiteColumn(path, "notes", text="body")
    report = await one.backfill(column)
    assert report.stored == len(texts)
    await column.aclose()
    with closing(sqlite3.connect(path)) as connection:
        for text, blob in connection.execute("SELECT body, embedding FROM notes"):
            assert np.array_equal(np.frombuffer(blob, "<f4"), vectors_of([text])[0])


Verb = Callable[[Embedder, list[str], Path], Coroutine[Any, Any, None]]
VERBS: tuple[Verb, ...] = (by_documents, by_stream, by_store, by_column)


@pytest.mark.parametrize("first", VERBS)
async def test_t25_what_one_verb_has_bought_no_other_one_buys(place: str, first: Verb, tmp_path: Path) -> None:
    texts, folder = words(35), tmp_path / "tables"
    folder.mkdir()
    provider = FakeProvider(dimensions=64)
    async with embedder(place, provider) as one:
        await first(one, texts, folder)
    assert provider.ledger.texts == 35
    for verb in VERBS:
        async with embedder(place, provider) as other:
            await verb(other, texts, folder)
    assert provider.ledger.texts == 35
    async with embedder(place, provider) as other:
        await other.embed_documents([*texts, "a new one", "a new one"])
    assert provider.ledger.texts == 36


async def test_a_column_of_postgresql_is_filled_from_the_cache(database: str, tmp_path: Path) -> None:
    column = PostgresColumn(database, "cached_notes", text="body")
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    await connection.execute("CREATE TABLE cached_notes (id int PRIMARY KEY, body text, embedding vector(64))")
    await connection.execute("INSERT INTO cached_notes SELECT n, 'text ' || n FROM generate_series(0, 29) n")
    await connection.close()
    provider = FakeProvider(dimensions=64)
    async with embedder(tmp_path / "cache.db", provider) as one:
        await one.embed_documents(words(20))
        report = await one.backfill(column)
    await column.aclose()
    assert (report.stored, provider.ledger.texts) == (30, 30)


async def test_many_replies_at_once_are_all_kept(place: str) -> None:
    provider = FakeProvider(dimensions=64, latency=0.01)
    for _ in range(2):
        async with Embedder(provider, cache=place, max_batch_size=200, concurrency=16) as one:
            found = await one.embed_documents(words(6_000))
        assert np.array_equal(found.vectors, vectors_of(words(6_000)))
    assert provider.ledger.texts == 6_000


async def test_texts_of_other_models_and_dimensions_are_others(place: str) -> None:
    providers = [FakeProvider(dimensions=64), FakeProvider(dimensions=32), FakeProvider("other", dimensions=64)]
    for provider in (*providers, *providers):
        async with embedder(place, provider) as one:
            assert (await one.embed_documents(words(5))).vectors.shape == (5, provider.space.dimensions)
    assert [provider.ledger.texts for provider in providers] == [5, 5, 5]


async def test_what_was_bought_before_a_stop_is_kept(place: str) -> None:
    provider = FakeProvider(dimensions=64)
    async with embedder(place, provider, budget=Budget(max_billed_tokens=40)) as one:
        with pytest.raises(BudgetExceededError) as raised:
            await one.embed_documents(words(100))
    bought = provider.ledger.texts
    assert 0 < bought < 100
    assert raised.value.report is not None
    async with embedder(place, provider) as one:
        await one.embed_documents(words(100))
    assert provider.ledger.texts == 100


async def test_a_cancelled_job_keeps_what_was_on_its_way(place: str) -> None:
    provider = FakeProvider(dimensions=64, latency=0.3)
    async with embedder(place, provider) as one:
        running = asyncio.create_task(one.embed_documents(words(40)))
        for _ in range(1_000):
            if provider.ledger.texts == 40:
                break
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    async with embedder(place, provider) as one:
        await one.embed_documents(words(40))
    assert provider.ledger.texts == 40


async def test_t25_jobs_at_once_of_several_embedders_pay_for_each_text_once(place: str) -> None:
    """Into lists and into stores of their own."""
    provider = FakeProvider(dimensions=64, latency=0.05)
    embedders = [embedder(place, provider, concurrency=2) for _ in range(4)]
    await asyncio.gather(
        embedders[0].embed_documents(words(200)),
        embedders[1].embed_documents(words(200, start=50)),
        embedders[2].embed_into(MemoryStore(), records(words(200))),
        embedders[3].embed_into(MemoryStore(), [Record(f"other {n}", text) for n, text in enumerate(words(250))]),
    )
    for each in embedders:
        await each.aclose()
    assert provider.ledger.texts == 250


async def test_a_plan_knows_the_cache_and_makes_none(place: str, tmp_path: Path) -> None:
    provider = FakeProvider(dimensions=64)
    async with embedder(place, provider) as one:
        plan = await one.plan(tmp_path / "notes.db", records(words(20)))
        assert plan.requests == 2
        cache = open_cache(place)
        assert not await cache.prepare(create=False)
        await cache.aclose()
        await one.embed_documents(words(20))
        plan = await one.plan(tmp_path / "notes.db", records(words(20)))
        assert (plan.new, plan.requests, plan.tokens) == (20, 0, 0)
    assert not (tmp_path / "notes.db").exists()


async def test_queries_are_kept_only_where_that_is_asked_for(place: str) -> None:
    provider = FakeProvider(dimensions=64)
    for _ in range(2):
        async with embedder(place, provider) as one:
            await one.embed_query("what is it?")
    assert provider.ledger.texts == 2
    for _ in range(3):
        async with embedder(place, provider, cache_queries=True) as one:
            vector = await one.embed_query("what is it?")
            assert np.array_equal(vector, vectors_of(["what is it?"])[0])
    assert provider.ledger.texts == 3
    store = MemoryStore()
    async with embedder(place, provider, cache_queries=True) as one:
        await one.embed_into(store, records(words(3)))
        await one.search_many(store, ["what is it?", "and that?"])
        await one.search(store, "and that?")
    assert provider.ledger.texts == 7


async def test_t26_a_cache_that_is_broken_keeps_no_query_from_its_answer(tmp_path: Path) -> None:
    provider = FakeProvider(dimensions=64)
    path = tmp_path / "cache.db"
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)
    async with embedder(path, provider, cache_queries=True) as one:
        assert (await one.embed_query("what is it?")).shape == (64,)
        with pytest.raises(StoreError):
            await one.embed_documents(["a text"])
    assert provider.ledger.texts == 1


async def test_t26_vectors_that_are_wrong_are_bought_again(tmp_path: Path) -> None:
    provider, path = FakeProvider(dimensions=64), tmp_path / "cache.db"
    async with embedder(path, provider) as one:
        await one.embed_documents(words(4))
    wrong = [np.full(64, np.nan, "<f4"), np.zeros(64, "<f4"), np.ones(63, "<f4")]
    with closing(sqlite3.connect(path)) as connection, connection:
        held = [row for (row,) in connection.execute("SELECT rowid FROM aembed_cache")]
        assert len(held) == 4
        for row, vector in zip(held, wrong, strict=False):
            connection.execute("UPDATE aembed_cache SET embedding = ? WHERE rowid = ?", (vector.tobytes(), row))
    async with embedder(path, provider) as one:
        found = await one.embed_documents(words(4))
    assert np.array_equal(found.vectors, vectors_of(words(4)))
    assert provider.ledger.texts == 7


async def test_t26_what_was_paid_for_is_stored_where_the_cache_breaks_in_mid_job(tmp_path: Path) -> None:
    path, store = tmp_path / "cache.db", MemoryStore()
    provider = FakeProvider(dimensions=64)
    async with embedder(path, provider) as one:
        await one.embed_documents(["a text"])
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON aembed_cache BEGIN SELECT RAISE(FAIL, 'full'); END"
            )
        with pytest.raises(StoreError, match="refuses the row"):
            await one.embed_into(store, records(words(10)))
    assert len([row async for row in store.rows()]) == provider.ledger.texts - 1 == 10


async def test_it_keeps_neither_ids_nor_texts(tmp_path: Path) -> None:
    async with embedder(tmp_path / "cache.db", FakeProvider(dimensions=64)) as one:
        await one.embed_into(MemoryStore(), [Record("an-id-of-mine", "a text of mine", {"key": "a value of mine"})])
    for path in (tmp_path / name for name in os.listdir(tmp_path)):
        assert b"of-mine" not in path.read_bytes()
        assert b"of mine" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


async def test_prune_removes_what_is_older(place: str) -> None:
    provider = FakeProvider(dimensions=64)
    async with embedder(place, provider) as one:
        await one.embed_documents(words(5))
    cache = open_cache(place)
    await cache.prepare()
    assert (await cache.prune(3_600.0), await cache.count()) == (0, 5)
    await asyncio.sleep(0.05)
    assert (await cache.prune(0.01), await cache.count()) == (5, 0)
    await cache.aclose()


@pytest.mark.parametrize("wrong", ["", "memory:", "redis://host/0", 5])
def test_what_is_no_place_for_a_cache_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"cache|known"):
        Embedder(FakeProvider(), cache=wrong)


async def test_t26_a_store_is_no_cache(tmp_path: Path, database: str) -> None:
    provider = FakeProvider(dimensions=64)
    async with Embedder(provider) as one:
        await one.embed_into(tmp_path / "notes.db", records(words(3)))
        await one.embed_into(database, records(words(3)))
    for place in (tmp_path / "notes.db", f"{database}{'&' if '?' in database else '?'}table=aembed"):
        async with embedder(place, provider) as one:
            with pytest.raises(ConfigError, match=r"of its own|no cache"):
                await one.embed_documents(["a text"])
    assert provider.ledger.texts == 6


JOB = f"""
    import asyncio, sys
    from aembed import Embedder
    from aembed.pipeline import leasing
    leasing.LEASE_SECONDS = 3.0
    async def main(place, url, count):
        async with Embedder({MODEL!r}, api_key={KEY!r}, base_url=url, concurrency=2, max_batch_size=10,
                            cache=place) as embedder:
            found = await embedder.embed_documents([f"text {{number}}" for number in range(count)])
            print(len(found), len(found.failures))
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_t25_a_block_that_was_killed_is_run_again_for_what_was_in_flight(place: str) -> None:
    """As an engine of many machines does it: two workers of four are killed, and their blocks begin again."""

    async def begin(url: str) -> asyncio.subprocess.Process:
        arguments = ["-c", textwrap.dedent(JOB), place, url, "300"]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=pipe, stderr=pipe)

    async with serving("--key", KEY, "--latency", "0.3") as service:
        processes = [await begin(service.url) for _ in range(4)]
        for _ in range(1_000):
            if (await service.ledger())["requests"] >= 4:
                break
            await asyncio.sleep(0.05)
        for process in processes[:2]:
            os.kill(process.pid, signal.SIGKILL)
        processes += [await begin(service.url) for _ in range(2)]
        told = await asyncio.gather(*[process.communicate() for process in processes])
        billed = sum((await service.texts()).values())
    for process, (out, error) in zip(processes[2:], told[2:], strict=True):
        assert (process.returncode, out) == (0, b"300 0\n"), error.decode()
    assert 300 <= billed <= 300 + 2 * 2 * 10 + 1
