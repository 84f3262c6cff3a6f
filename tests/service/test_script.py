from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import aembed
from aembed import AuthenticationError, ConfigError, Embedded, FakeProvider, MemoryStore, SQLiteColumn
from tests.jobs import all_of, records, rows_of, vector_of, words
from tests.stage.clock import run_virtual


class Closing(FakeProvider):
    """Knows whether it was closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_embed_documents() -> None:
    provider, told = Closing(), []
    embeddings = await aembed.embed_documents(words(5), model=provider, max_batch_size=2, on_progress=told.append)
    assert np.array_equal(embeddings.vectors, [vector_of(text) for text in words(5)])
    assert max(request.inputs for request in provider.ledger.log) == 2
    assert told[-1].stored == 5
    assert provider.closed


async def test_embed_query() -> None:
    provider = Closing()
    assert np.array_equal(await aembed.embed_query("one", model=provider), vector_of("one"))
    assert provider.ledger.log[0].input_type == "query"
    assert provider.closed


async def test_stream() -> None:
    provider = Closing()
    async with aembed.stream(words(5), model=provider, concurrency=1) as results:
        seen = await all_of(results)
        assert not provider.closed
    assert all(isinstance(result, Embedded) for result in seen)
    assert sorted(result.index for result in seen) == list(range(5))
    assert provider.closed


async def test_embed_into_and_search() -> None:
    store, failed = MemoryStore(), []
    report = await aembed.embed_into(
        store, records([*words(5), ""]), model="fake:fake", on_failure=lambda failure: failed.append(failure.id)
    )
    assert (report.stored, report.failed, failed) == (5, 1, ["id5"])
    assert len(await rows_of(store)) == 5
    [match] = await aembed.search(store, "text 3", model="fake:fake", k=1)
    assert (match.id, match.score) == ("id3", pytest.approx(1))


async def test_backfill(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "own.db") as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, vector BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(5)])
    connection.close()
    column = SQLiteColumn(tmp_path / "own.db", "notes", text="body", vector="vector")
    report = await aembed.backfill(column, model="fake:fake")
    await column.aclose()
    assert report.stored == 5


async def test_whatever_happens_the_provider_is_closed() -> None:
    provider = Closing(script=[AuthenticationError("401: key")])
    with pytest.raises(AuthenticationError):
        await aembed.embed_documents(words(5), model=provider)
    assert provider.closed


async def test_an_option_that_cannot_work_is_refused_before_anything_is_sent() -> None:
    provider = Closing()
    with pytest.raises(ConfigError):
        await aembed.embed_documents(words(5), model=provider, concurrency=0)
    assert provider.ledger.requests == 0


def test_a_cancelled_function_lets_what_was_sent_land() -> None:
    provider, store = Closing(latency=5.0), MemoryStore()

    async def job() -> None:
        task = asyncio.create_task(aembed.embed_into(store, records(words(5)), model=provider))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() == 5
        assert len(await rows_of(store)) == 5

    run_virtual(job)
    assert provider.closed
