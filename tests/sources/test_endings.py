"""However a job ends, the iterator that it read from is closed before the verb returns: what it holds is free again."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aembed import (
    AembedError,
    AuthenticationError,
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    FakeProvider,
    Limits,
    MemoryStore,
    Record,
    SourceError,
    SpaceMismatchError,
    StoppedError,
    StoreError,
)
from aembed.pipeline.reading import CLOSE_SECONDS
from tests.jobs import records, words
from tests.stage.clock import run_virtual
from tests.test_endings import TheirStore

TEN = Limits(10, 300_000, 8_191, encoding="cl100k_base")
GIVEN = records(words(2_000))


class Closable:
    """Counts how often it was closed, and when it was read after that."""

    def __init__(self) -> None:
        self.closed = 0

    def done(self) -> None:
        self.closed += 1


def generator(state: Closable, given: list[Record]) -> Iterator[Record]:
    try:
        yield from given
    finally:
        state.done()


async def async_generator(state: Closable, given: list[Record]) -> AsyncIterator[Record]:
    try:
        for record in given:
            await asyncio.sleep(0)
            yield record
    finally:
        await asyncio.sleep(0.1)
        state.done()


class Iterates:
    """A cursor, say: an iterator with `close`, which is no generator."""

    def __init__(self, state: Closable, given: list[Record]) -> None:
        self.state, self.given = state, iter(given)

    def __iter__(self) -> Iterates:
        return self

    def __next__(self) -> Record:
        return next(self.given)

    def close(self) -> None:
        self.state.done()


class IteratesAsync:
    """Its own iterator has no `__aiter__`."""

    def __init__(self, state: Closable, given: list[Record]) -> None:
        self.state, self.given = state, iter(given)

    def __aiter__(self) -> Any:
        return Anext(self)


class Anext:
    def __init__(self, parent: IteratesAsync) -> None:
        self.parent = parent

    async def __anext__(self) -> Record:
        await asyncio.sleep(0)
        try:
            return next(self.parent.given)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await asyncio.sleep(0.1)
        self.parent.state.done()


class Iterable:
    """What is made of it anew for each reading is closed; it is not."""

    def __init__(self, state: Closable, given: list[Record]) -> None:
        self.state, self.given = state, given

    def __iter__(self) -> Iterator[Record]:
        return generator(self.state, self.given)

    def close(self) -> None:
        raise AssertionError("it is the caller's")


SOURCES: dict[str, Callable[[Closable, list[Record]], Any]] = {
    "generator": generator,
    "async generator": async_generator,
    "iterator": Iterates,
    "async iterator": IteratesAsync,
    "iterable": Iterable,
}


class Ends:
    """Each ends a job over a source in its own way."""

    async def by_itself(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN)) as embedder:
            await embedder.embed_into(MemoryStore(), source)

    async def a_wrong_key(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN, script=[None, AuthenticationError("401")])) as embedder:
            await self.raising(AuthenticationError, embedder.embed_into(MemoryStore(), source))

    async def a_broken_store(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN)) as embedder:
            await self.raising(StoreError, embedder.embed_into(TheirStore(RuntimeError("their bug")), source))

    async def a_budget(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN), budget=Budget(max_billed_tokens=100)) as embedder:
            embedder._engine.run_in_thread = inline
            await self.raising(BudgetExceededError, embedder.embed_documents(source))

    async def a_store_of_another_model(self, source: Any) -> None:
        """Before anything was read."""
        store = MemoryStore()
        async with Embedder("fake:other") as other:
            await other.embed_into(store, GIVEN[:1])
        started = source if not hasattr(source, "__next__") else started_generator(source)
        async with Embedder(FakeProvider()) as embedder:
            await self.raising(SpaceMismatchError, embedder.embed_into(store, started))
            await self.raising(SpaceMismatchError, embedder.plan(store, started))

    async def cancelled(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=1.0)) as embedder:
            task = asyncio.create_task(embedder.embed_into(MemoryStore(), source))
            await asyncio.sleep(2.5)
            task.cancel()
            await self.raising(asyncio.CancelledError, task)

    async def cancelled_twice(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=1.0)) as embedder:
            task = asyncio.create_task(embedder.embed_into(MemoryStore(), source))
            await asyncio.sleep(2.5)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0)
            await self.raising(asyncio.CancelledError, task)

    async def closed(self, source: Any) -> None:
        embedder = Embedder(FakeProvider(limits=TEN, latency=1.0))
        task = asyncio.create_task(embedder.embed_into(MemoryStore(), source))
        await asyncio.sleep(2.5)
        await embedder.aclose()
        await self.raising(StoppedError, task)

    async def a_stream_that_is_left(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN, latency=1.0)) as embedder, embedder.stream(source) as results:
            async for _ in results:
                break

    async def a_stream_of_a_wrong_key(self, source: Any) -> None:
        provider = FakeProvider(limits=TEN, script=[AuthenticationError("401")])
        async with Embedder(provider) as embedder, embedder.stream(source) as results:
            await self.raising(AuthenticationError, read(results))

    async def a_plan(self, source: Any) -> None:
        async with Embedder(FakeProvider(limits=TEN)) as embedder:
            await embedder.plan(MemoryStore(), source)

    @staticmethod
    async def raising(error: type[BaseException], job: Any) -> None:
        with pytest.raises(error):
            await job


def started_generator(source: Any) -> Any:
    next(source)
    return source


async def read(results: Any) -> None:
    async for _ in results:
        pass


async def inline(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


WAYS = [name for name in vars(Ends) if not name.startswith("_") and name not in ("raising", "a_budget")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SOURCES)
def test_b5_whatever_ends_a_job_its_source_is_closed_once(kind: str, way: str) -> None:
    state = Closable()
    source = SOURCES[kind](state, GIVEN)

    async def job() -> None:
        await getattr(Ends(), way)(source)
        if way == "a_store_of_another_model" and kind in ("async generator", "iterable", "async iterator"):
            assert state.closed == 0, "nothing of it was begun"
            return
        assert state.closed >= 1
        assert state.closed == 1 or not kind.endswith("generator")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_b5_a_budget_that_is_used_up_closes_the_source_of_texts() -> None:
    state = Closable()

    async def texts() -> AsyncIterator[str]:
        try:
            for text in words(2_000):
                yield text
        finally:
            state.done()

    async def job() -> None:
        await Ends().a_budget(texts())
        assert state.closed == 1

    run_virtual(job)


def test_b5_a_source_that_hangs_while_it_closes_is_waited_for_no_longer_than_it_may(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hangs() -> AsyncIterator[Record]:
        try:
            for record in GIVEN:
                yield record
        finally:
            await asyncio.sleep(1_000)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(FakeProvider(limits=TEN, script=[AuthenticationError("401")])) as embedder:
            with pytest.raises(AuthenticationError):
                await embedder.embed_into(MemoryStore(), hangs())
        assert loop.time() == CLOSE_SECONDS

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)
    assert "did not close within 5 s" in caplog.text


@pytest.mark.parametrize("given", [GIVEN, GIVEN[:3]])
def test_b5_what_it_raises_while_it_closes_hides_no_other_error(
    given: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> AsyncIterator[Record]:
        try:
            for record in given:
                yield record
        finally:
            raise ValueError("their bug")

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, script=[AuthenticationError("401")])) as embedder:
            with pytest.raises(AuthenticationError if len(given) > 3 else AembedError) as raised:
                await embedder.embed_into(MemoryStore(), broken())
            assert isinstance(raised.value, AuthenticationError | SourceError)

    with caplog.at_level(logging.ERROR, "aembed"):
        run_virtual(job)


async def test_b5_a_file_of_the_callers_own_stays_open() -> None:
    lines = io.StringIO("one\ntwo\nthree\n")
    async with Embedder("fake:fake") as embedder:
        assert len(await embedder.embed_documents(lines)) == 3
    lines.seek(0)
    assert lines.readline() == "one\n"


async def test_b5_a_cursor_of_postgresql_gives_its_connection_back(database: str) -> None:
    """Where it was left open `pool.close()` waited for ever."""
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:

        async def rows() -> AsyncIterator[Record]:
            async with pool.acquire() as connection, connection.transaction():
                async for row in connection.cursor("SELECT n, 'text ' || n AS text FROM generate_series(1, 50000) n"):
                    yield Record(row["n"], row["text"])

        provider = FakeProvider(limits=TEN, script=[None, AuthenticationError("401: key")])
        async with Embedder(provider) as embedder:
            with pytest.raises(AuthenticationError):
                await embedder.embed_into(MemoryStore(), rows())
        assert pool.get_idle_size() == pool.get_size()
        async with asyncio.timeout(10):
            await pool.close()


async def test_b5_generators_within_generators_are_closed_too(tmp_path: Path) -> None:
    """A backlog of somebody's own: its rows come by way of a generator of ours."""
    state = Closable()

    class Backlog:
        async def prepare(self, space: Any) -> Any:
            return space

        def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
            return async_generator(state, GIVEN)

        async def write(self, ids: Any, texts: Any, matrix: Any) -> int:
            return len(ids)

        async def count(self) -> int:
            return 0

        async def search(self, vector: Any, k: int, *, where: Any = None) -> list[Any]:
            return []

        async def aclose(self) -> None: ...

    column = Backlog()
    async with Embedder(FakeProvider(limits=TEN, script=[AuthenticationError("401")])) as embedder:
        with pytest.raises(AuthenticationError):
            await embedder.backfill(column)
        assert state.closed == 1
        with pytest.raises(ConfigError):
            await embedder.backfill(column, limit=0)


async def test_b5_a_sqlite_cursor_is_free_when_the_verb_returns(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(3_000)])
    connection.commit()

    def rows() -> Iterator[Record]:
        for id, body in connection.execute("SELECT id, body FROM notes"):
            yield Record(id, body)

    async with Embedder(FakeProvider(limits=TEN, script=[AuthenticationError("401")])) as embedder:
        with pytest.raises(AuthenticationError):
            await embedder.embed_into(MemoryStore(), rows())
    connection.execute("DROP TABLE notes")  # "database table is locked" while a cursor reads it
    connection.close()


async def test_b5_two_event_loops_are_no_matter_of_it() -> None:
    """A generator is closed in the loop in which it was read, also where another one runs in another thread."""
    state = Closable()

    async def job() -> None:
        async with Embedder(FakeProvider(limits=TEN, script=[AuthenticationError("401")])) as embedder:
            with pytest.raises(AuthenticationError):
                await embedder.embed_into(MemoryStore(), async_generator(state, GIVEN))

    thread = threading.Thread(target=lambda: asyncio.run(job()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert state.closed == 1
