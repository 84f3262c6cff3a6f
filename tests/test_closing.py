"""A job that somebody else ends: its Embedder is closed, or a task of it is cancelled from outside.

Nothing is a vector that was never made, nothing goes out any more, and nothing is left.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, closing
from inspect import isawaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import (
    AembedError,
    Budget,
    ConfigError,
    Embedded,
    Embedder,
    Failure,
    FakeProvider,
    Limits,
    MemoryStore,
    Report,
    SQLiteColumn,
    SQLiteStore,
    StoppedError,
    StoreError,
    UnavailableError,
)
from aembed.pipeline.results import Results
from aembed.types import Known, Refusal, Reply, Rows
from tests.hostile.jobs import at, until
from tests.jobs import records, rows_of, vector_of, words
from tests.service.in_process import DIMENSIONS
from tests.service.server import Latency, Server
from tests.service.vectors import vector_of as vector_over_http
from tests.stage.clock import run_virtual

TEN = Limits(10, 300_000, 8_191, encoding="cl100k_base")


class Panic(BaseException):
    """As the panics of libraries in Rust come out."""


class Ending(FakeProvider):
    """Ends its third request by that, and answers all others."""

    def __init__(self, ending: BaseException) -> None:
        super().__init__(limits=TEN, latency=1.0, keep_texts=True)
        self.ending = ending

    async def embed(self, texts: Sequence[str], **options: Any) -> Reply:
        reply = await super().embed(texts, **options)
        if reply.request_id == "fake-2":
            raise self.ending
        return reply


def table_of(path: Path, texts: Sequence[str]) -> SQLiteColumn:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in texts])
    return SQLiteColumn(path, "notes", text="body")


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), Panic("at the disco")], ids=repr)
def test_b3_a_provider_whose_own_task_is_cancelled_ends_the_job_and_leaves_no_zeros(ending: BaseException) -> None:
    async def job() -> None:
        async with Embedder(Ending(ending), concurrency=2) as embedder:
            with pytest.raises(AembedError) as raised:
                await embedder.embed_documents(words(100))
        error = raised.value
        assert isinstance(error, StoppedError) == isinstance(ending, asyncio.CancelledError)
        assert error.__cause__ is not None
        assert error.report is not None
        assert error.embeddings is not None
        assert len(error.embeddings) == 100
        assert error.report.stored == sum(vector is not None for vector in error.embeddings) == 30
        for text, vector in zip(words(100), error.embeddings, strict=True):
            assert vector is None or np.array_equal(vector, vector_of(text))
        assert {failure.error for failure in error.embeddings.failures} == {error}
        with pytest.raises(AembedError, match="70 of 100 texts failed"):
            np.asarray(error.embeddings)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_b3_a_stream_says_what_became_of_it() -> None:
    async def job() -> None:
        provider = Ending(asyncio.CancelledError())
        async with Embedder(provider, concurrency=2) as embedder, embedder.stream(words(100)) as results:
            seen: list[Embedded | Failure] = []
            with pytest.raises(StoppedError) as raised:
                await read(results, seen.append)
            assert len(seen) == 30
            assert raised.value.report
            assert raised.value.report.pending == raised.value.report.inputs - 30 > 0

    run_virtual(job)


async def read(results: Results, keep: Callable[[Embedded | Failure], object]) -> None:
    async for result in results:
        if isawaitable(waiting := keep(result)):
            await waiting


def test_b3_rows_of_a_store_that_were_not_bought_stay_pending_and_come_the_next_time() -> None:
    async def job() -> None:
        provider, store = Ending(asyncio.CancelledError()), MemoryStore()
        async with Embedder(provider, concurrency=2) as embedder:
            with pytest.raises(StoppedError) as raised:
                await embedder.embed_into(store, records(words(100)))
            assert raised.value.report
            assert raised.value.report.stored == len(await rows_of(store)) == 30
            report = await embedder.embed_into(store, records(words(100)))
        assert (report.stored, report.unchanged) == (70, 30)

    run_virtual(job)


async def test_b3_a_column_too(tmp_path: Path) -> None:
    provider = Ending(asyncio.CancelledError())
    async with aclosing(table_of(tmp_path / "app.db", words(100))) as column:
        async with Embedder(provider, concurrency=2) as embedder:
            with pytest.raises(StoppedError) as raised:
                await embedder.backfill(column)
        assert raised.value.report
        assert await column.count() == 100 - raised.value.report.stored == 70


def tasks_of_requests() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "Dispatcher.send" in repr(task.get_coro())]


@pytest.mark.parametrize("steps", [0, 1, 30])
async def test_b3_a_request_that_is_cancelled_from_outside_ends_the_job(steps: int) -> None:
    """Also before its first step."""
    async with Server(latency=Latency(1.0, fixed=0.2)) as server, at(server, concurrency=3, max_batch_size=5) as one:
        job = asyncio.create_task(one.embed_documents(words(200)))
        while not tasks_of_requests():  # noqa: ASYNC110 - the very step in which it is made
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks_of_requests()[0].cancel()
        with pytest.raises(StoppedError) as raised:
            await job
        embeddings = raised.value.embeddings
        assert embeddings is not None
        for text, vector in zip(words(200), embeddings, strict=True):
            assert vector is None or np.array_equal(vector, vector_over_http(text, DIMENSIONS))
        got = 200 - len(embeddings.failures)
        assert 5 * server.ledger.accepted - 5 <= got <= 5 * server.ledger.accepted < 200
        await one.embed_documents(words(3))


class Cancelling(MemoryStore):
    """A call that waits for a task of its own, which somebody cancelled."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        if self.call == "known":
            raise asyncio.CancelledError
        return await super().known(digests, fingerprints)

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        if self.call == "write" and len(await rows_of(self)) == 20:
            raise asyncio.CancelledError
        await super().write(rows, refusals)


@pytest.mark.parametrize(("call", "error"), [("known", StoppedError), ("write", StoreError)])
async def test_b3_a_store_whose_own_task_is_cancelled_ends_the_job_with_what_was_paid_for(
    call: str, error: type[AembedError]
) -> None:
    provider, store = FakeProvider(limits=TEN, keep_texts=True), Cancelling(call)
    async with Embedder(provider, concurrency=1) as embedder:
        with pytest.raises(error) as raised:
            await embedder.embed_into(store, records(words(100)))
    unsaved = {text for rows in getattr(raised.value, "unsaved", ()) for text in rows.texts}
    billed = {text for request in provider.ledger.log for text in request.texts}
    stored = {row.text for row in (await rows_of(store)).values()}
    assert stored | unsaved == billed
    assert (len(stored), len(unsaved)) == ((0, 0) if call == "known" else (20, 10))
    assert raised.value.report


def test_b3_a_job_all_of_whose_tasks_are_cancelled_ends_with_an_error() -> None:
    """Those of its own task group, too: whoever cancels all tasks but its own."""

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=5.0), concurrency=2) as embedder:
            running = asyncio.create_task(embedder.embed_documents(iter(words(100))))
            await asyncio.sleep(1)
            for task in asyncio.all_tasks() - {running, asyncio.current_task()}:
                task.cancel()
            with pytest.raises(AembedError) as raised:
                await running
            assert raised.value.embeddings is not None
            assert not any(vector is not None for vector in raised.value.embeddings)

    run_virtual(job)


def test_b3_a_query_whose_request_is_cancelled_hears_of_it() -> None:
    async def job() -> None:
        provider = Ending(asyncio.CancelledError())
        async with Embedder(provider) as embedder:
            for text in ("one", "two"):
                await embedder.embed_query(text)
            with pytest.raises(UnavailableError, match="cancelled"):
                await embedder.embed_query("three")
            await embedder.embed_query("four")

    run_virtual(job)


# closing


def closed_in_mid_job(verb: Callable[[Embedder], Coroutine[Any, Any, Any]]) -> tuple[StoppedError, FakeProvider]:
    """Closed after 2.5 s, while three requests of a second each are on their way."""
    provider = FakeProvider(limits=TEN, latency=1.0, keep_texts=True)

    async def job() -> StoppedError:
        loop = asyncio.get_running_loop()
        embedder = Embedder(provider, concurrency=3)
        running = asyncio.create_task(verb(embedder))
        await asyncio.sleep(2.5)
        await embedder.aclose()
        assert loop.time() == 3.0
        assert running.done()
        assert provider.ledger.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        requests = provider.ledger.requests
        await asyncio.sleep(100)
        assert provider.ledger.requests == requests == 9
        with pytest.raises(StoppedError) as raised:
            await running
        assert raised.value.report
        assert raised.value.report.stored == 90
        return raised.value

    return run_virtual(job), provider


@pytest.mark.parametrize("given", [list, iter])
def test_b4_closing_ends_a_list_with_what_it_has(given: Any) -> None:
    error, provider = closed_in_mid_job(lambda embedder: embedder.embed_documents(given(words(400))))
    assert error.embeddings is not None
    got = {text for text, vector in zip(words(400), error.embeddings, strict=False) if vector is not None}
    assert got == {text for request in provider.ledger.log for text in request.texts}
    assert {failure.error for failure in error.embeddings.failures} == {error}


def test_b4_closing_ends_a_job_for_a_store_with_all_that_was_sent() -> None:
    store = MemoryStore()
    closed_in_mid_job(lambda embedder: embedder.embed_into(store, records(words(400))))

    async def rows() -> int:
        return len(await rows_of(store))

    assert run_virtual(rows) == 90


def test_b4_closing_ends_a_job_whose_source_gives_nothing() -> None:
    closed = []

    async def slow() -> AsyncIterator[str]:
        try:
            for text in words(90):
                yield text
            await asyncio.sleep(1_000)
        finally:
            closed.append(True)

    closed_in_mid_job(lambda embedder: embedder.embed_documents(slow()))
    assert closed


def test_b4_closing_ends_a_stream_and_its_reader_has_all_that_was_paid_for() -> None:
    provider = FakeProvider(limits=TEN, latency=1.0)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        embedder = Embedder(provider, concurrency=3)
        async with embedder.stream(iter(words(400))) as results:
            seen: list[Embedded | Failure] = []

            async def keep(result: Embedded | Failure) -> None:
                seen.append(result)
                if len(seen) == 5:
                    await asyncio.sleep(10)  # three batches wait for their reader
                    await embedder.aclose()
                    assert loop.time() == 11.0

            with pytest.raises(StoppedError):
                await read(results, keep)
        assert len({result.index for result in seen}) == len(seen) == provider.ledger.texts
        assert all(isinstance(result, Embedded) for result in seen)

    run_virtual(job)


def test_b4_what_waits_to_be_tried_again_is_not() -> None:
    def script(number: int, texts: Sequence[str]) -> Any:
        return UnavailableError("503", status_code=503)

    provider = FakeProvider(limits=TEN, script=script)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        embedder = Embedder(provider, concurrency=3)
        running = asyncio.create_task(embedder.embed_documents(words(400)))
        query = asyncio.create_task(embedder.embed_query("a question", timeout=1_000))
        await asyncio.sleep(50)
        requests = provider.ledger.requests
        assert not query.done()
        await embedder.aclose()
        assert (loop.time(), provider.ledger.requests) == (50, requests)
        with pytest.raises(StoppedError):
            await running
        with pytest.raises(UnavailableError, match="closed"):
            await query

    run_virtual(job)


def test_b4_no_longer_than_it_may_take() -> None:
    async def job() -> None:
        loop = asyncio.get_running_loop()
        for timeout in (0, 5):
            began, store = loop.time(), MemoryStore()
            embedder = Embedder(FakeProvider(limits=TEN, latency=1_000.0), timeout=2_000)
            running = asyncio.create_task(embedder.embed_into(store, records(words(30))))
            await asyncio.sleep(1)
            await embedder.aclose(timeout=timeout)
            assert loop.time() == began + 1 + timeout
            assert asyncio.all_tasks() <= {asyncio.current_task(), running}
            with pytest.raises(StoppedError) as raised:
                await running
            assert raised.value.report
            assert raised.value.report.lost_tokens > 0

    run_virtual(job)


class Slow(MemoryStore):
    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        await asyncio.sleep(60)


def test_b4_rows_that_a_store_did_not_take_in_time_come_out_with_the_error() -> None:
    async def job() -> None:
        provider = FakeProvider(limits=TEN, keep_texts=True)
        embedder = Embedder(provider)
        running = asyncio.create_task(embedder.embed_into(Slow(), records(words(30))))
        await asyncio.sleep(1)
        await embedder.aclose(timeout=5)
        with pytest.raises(StoreError) as raised:
            await running
        assert {text for rows in raised.value.unsaved for text in rows.texts} == set(words(30))
        assert isinstance(raised.value.__cause__, StoppedError)

    run_virtual(job)


VERBS: dict[str, Callable[[Embedder], Coroutine[Any, Any, Any]]] = {
    "embed_documents": lambda embedder: embedder.embed_documents(["text"]),
    "embed_query": lambda embedder: embedder.embed_query("text"),
    "embed_into": lambda embedder: embedder.embed_into(MemoryStore(), ["text"]),
    "plan": lambda embedder: embedder.plan(MemoryStore(), ["text"]),
    "stream": lambda embedder: streamed(embedder),
    "backfill": lambda embedder: embedder.backfill(SQLiteColumn("none.db", "notes", text="body")),
    "search": lambda embedder: searched(embedder),
}


async def streamed(embedder: Embedder) -> None:
    async with embedder.stream(["text"]) as results:
        async for _ in results:
            pass


async def searched(embedder: Embedder) -> None:
    store = MemoryStore()
    async with Embedder("fake:fake") as other:
        await other.embed_into(store, records(["text"]))
    await embedder.search(store, "text")


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("name", VERBS)
async def test_b4_what_is_asked_of_a_closed_embedder_is_a_config_error(name: str, used: bool) -> None:
    provider = FakeProvider()
    embedder = Embedder(provider)
    if used:
        await embedder.embed_query("first")
    await embedder.aclose()
    await embedder.aclose()
    requests = provider.ledger.requests
    with pytest.raises(ConfigError, match="this Embedder is closed"):
        await VERBS[name](embedder)
    assert provider.ledger.requests == requests
    assert embedder.stats().in_flight == 0
    async with embedder:
        assert len(await embedder.embed_query("again")) == 64


async def test_b4_over_sockets_no_request_no_connection_and_no_task_is_left(tmp_path: Path) -> None:
    tasks = asyncio.all_tasks()
    async with Server(latency=Latency(1.0, fixed=0.3, per_token=0)) as server:
        beside = asyncio.all_tasks() - tasks
        async with at(server, concurrency=4, max_batch_size=5) as embedder:
            jobs = [
                asyncio.create_task(embedder.embed_documents(words(500))),
                asyncio.create_task(embedder.embed_into(tmp_path / "rows.db", records(words(500, 500)))),
            ]
            queries = [asyncio.create_task(embedder.embed_query(text)) for text in words(30, 1_000)]
            await until(lambda: server.ledger.accepted >= 8)
            requests = server.ledger.requests
        assert all(job.done() for job in jobs)
        left = asyncio.all_tasks() - tasks - beside - {*jobs, *queries}
        assert not [task for task in left if "aembed" in repr(task.get_coro())]
        await until(lambda: server.connections == 0)
        assert server.ledger.requests <= requests + 4
        assert (server.ledger.in_flight, server.ledger.abandoned, server.ledger.texts_again) == (0, 0, 0)
        ends = await asyncio.gather(*jobs, *queries, return_exceptions=True)
        assert {type(end) for end in ends[:2]} == {StoppedError}
        assert {type(end) for end in ends[2:]} <= {np.ndarray, UnavailableError}
        async with aclosing(SQLiteStore(tmp_path / "rows.db")) as store:
            stored = (await store.info()).rows
        documents: Any = ends[0]
        got = sum(vector is not None for vector in documents.embeddings)
        answered = sum(isinstance(end, np.ndarray) for end in ends[2:])
        assert got + stored + answered == len(server.ledger.times_billed)


async def spent(path: Path, job: str) -> int:
    async with aclosing(SQLiteStore(path)) as store:
        return await store.spend(job, 0)


async def test_b4_a_budgets_account_is_closed_when_nothing_is_pending_and_not_before(tmp_path: Path) -> None:
    provider = FakeProvider(limits=TEN, latency=0.01)
    budget, path = Budget(max_billed_tokens=1_000), tmp_path / "rows.db"
    embedder = Embedder(provider, concurrency=1, budget=budget)
    running = asyncio.create_task(embedder.embed_into(path, records(words(100))))
    await until(lambda: provider.ledger.requests >= 3)
    await embedder.aclose()
    with pytest.raises(StoppedError):
        await running
    assert await spent(path, "fake:fake") == provider.ledger.billed_tokens > 0
    async with Embedder(provider, budget=budget) as embedder:
        report: Report = await embedder.embed_into(path, records(words(100)))
    assert (report.pending, await spent(path, "fake:fake")) == (0, 0)
