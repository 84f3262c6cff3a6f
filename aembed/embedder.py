"""The Embedder: picks the edges and offers the verbs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio

from aembed.core.spaces import agreed
from aembed.engine import Engine, Options
from aembed.errors import AembedError, ConfigError, SpaceMismatchError
from aembed.pipeline.backfilling import Passes, told_plainly
from aembed.pipeline.logs import logged
from aembed.pipeline.outcomes import Observers
from aembed.pipeline.planning import planned
from aembed.pipeline.purse import spending
from aembed.pipeline.reading import Feed, any_record, known_length, refuse_what_is_no_list, rows_of, text_record
from aembed.pipeline.results import Results, run_and_close
from aembed.pipeline.sinks import ListSink, StreamSink
from aembed.pipeline.store_sinks import BacklogSink, PlanSink, StoreSink, note
from aembed.protocols import Backlog, Provider, Store
from aembed.providers import open_provider
from aembed.results import Embeddings, Plan, Progress, Report, Stats
from aembed.stores import Column, open_store
from aembed.types import (
    Budget,
    Embedded,
    Failure,
    Match,
    Metadata,
    RetryPolicy,
    Space,
    TooLong,
    Vector,
)

OnProgress: TypeAlias = Callable[[Progress], object]
OnFailure: TypeAlias = Callable[[Failure], object]
Texts: TypeAlias = Iterable[str] | AsyncIterable[str]
Records: TypeAlias = Iterable[Any] | AsyncIterable[Any] | Store
AnyStore: TypeAlias = Store | str | os.PathLike[str]


class Embedder:
    """Turns texts into vectors, many requests at a time, inside the provider's limits.

    `model` is "provider:model" ("openai:text-embedding-3-small"), "local", or a Provider object.
    `api_key` and `base_url` default to the provider's own environment variables. `concurrency` is the most
    requests in flight. `requests_per_minute` and `tokens_per_minute` are ceilings; None: learned from the
    replies. `max_batch_size` (inputs) and `max_tokens_per_batch` may only be smaller than the
    provider's own limits. A text of more tokens than the model takes fails (`too_long="error"`), is cut
    ("truncate"), or is embedded in pieces whose weighted mean is its vector ("split"). `timeout` is the most
    seconds one request may take. `budget` stops a job before the request that would exceed it. `cache_bytes` is the
    memory for vectors of queries that come again, 0: none. `max_queue_size` is the most queries that may wait.
    `http_client` is an httpx (or httpx2) AsyncClient of your own, which aembed never closes.

    Use it as `async with Embedder(...) as embedder`, or construct it and `await embedder.aclose()`.
    Raises ConfigError for what cannot work, before anything is read or sent.
    """

    def __init__(
        self,
        model: str | Provider,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_batch_size: int | None = None,
        max_tokens_per_batch: int | None = None,
        too_long: TooLong = "error",
        retry: RetryPolicy = RetryPolicy(),
        timeout: float = 60.0,
        budget: Budget = Budget(),
        cache_bytes: int = 0,
        max_queue_size: int = 10_000,
        http_client: Any = None,
    ) -> None:
        options = Options(
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_batch_size=max_batch_size,
            max_tokens_per_batch=max_tokens_per_batch,
            too_long=too_long,
            retry=retry,
            timeout=timeout,
            budget=budget,
            cache_bytes=cache_bytes,
            max_queue_size=max_queue_size,
        )
        provider = (
            open_provider(
                model,
                api_key=api_key,
                base_url=base_url,
                dimensions=dimensions,
                concurrency=concurrency,
                http_client=http_client,
            )
            if isinstance(model, str)
            else model
        )
        self._engine = Engine(provider, options)

    def __repr__(self) -> str:
        return f"<Embedder {self._engine}>"

    @property
    def space(self) -> Space:
        """Which vectors this makes. `dimensions` is None until it is known."""
        return self._engine.space

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return self._engine.in_flight

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 30.0) -> None:
        """Waits up to `timeout` seconds for what was sent to land, then closes the connections."""
        await self._engine.aclose(timeout)

    # verbs

    async def embed_documents(self, texts: Texts, *, on_progress: OnProgress | None = None) -> Embeddings:
        """The vectors of many texts, in their order; shape (n, dimensions).

        A text that fails is None in the result, with its reason in `.failures`. A stopped job (key, quota,
        outage, budget) raises what stopped it, with `.report` and `.embeddings`.
        """
        refuse_what_is_no_list(texts)
        await self._engine.learn()
        total = known_length(texts)
        sink = ListSink(total, self._engine.run_in_thread)
        job = self._engine.job(sink, Feed(texts, text_record), total=total, observers=Observers(on_progress))
        try:
            with logged("embed_documents", job.report):
                report = await job.run()
        except AembedError as error:
            error.embeddings = sink.embeddings(job.report(), self.space.dimensions, error)
            raise
        return sink.embeddings(report, self.space.dimensions)

    async def embed_query(self, text: str, *, timeout: float = 10.0) -> Vector:
        """The vector of one query, the caller's own; shape (dimensions,).

        Calls that come together share requests, equal texts share one input. Cancelled, or after `timeout` seconds,
        it leaves the others alone. Raises InputError or what the provider said of this text; UnavailableError with
        `.retry_after` where there is no vector in time, at once where the provider asks to wait for longer;
        OverloadedError at once where `max_queue_size` queries wait.
        """
        return await self._engine.coalescer.vector(text, timeout)

    def stats(self) -> Stats:
        """What goes on now. May be called from any thread."""
        return self._engine.stats()

    @asynccontextmanager
    async def stream(self, records: Records) -> AsyncIterator[Results]:
        """Results as they complete: `async with embedder.stream(records) as results: async for result in results`.

        Each is an Embedded or a Failure, with `.index`. Memory holds what is in flight and no more.
        Records are Record objects or plain str.
        """
        refuse_what_is_no_list(records)
        await self._engine.learn()
        send, receive = anyio.create_memory_object_stream[Iterable[Embedded | Failure]](0)
        job = self._engine.job(StreamSink(send), Feed(rows_of(records), any_record))
        running = asyncio.get_running_loop().create_task(run_and_close(job, send))
        try:
            yield Results(receive, running)
        finally:
            job.abandon()
            running.cancel()
            receive.close()
            await asyncio.gather(running, return_exceptions=True)

    async def embed_into(
        self,
        store: AnyStore,
        records: Records,
        *,
        on_progress: OnProgress | None = None,
        on_failure: OnFailure | None = None,
        retry_failed: bool = False,
    ) -> Report:
        """Embeds what the store does not have yet and writes every reply at once.

        `records` is any iterable or async iterable of Record, or another store. Rows whose text, metadata
        and source are unchanged cost nothing; texts that were refused earlier are skipped unless
        `retry_failed`. Cancelled, it waits up to 30 s until everything sent is stored.
        """
        refuse_what_is_no_list(records)
        async with _opened(store) as opened, spending(self._engine.max_tokens, opened, self.space) as purse:
            space = await self._engine.prepare(opened, purse)
            sink = StoreSink(opened, retry_failed=retry_failed)
            feed = Feed(rows_of(records), any_record)
            observers = Observers(on_progress, on_failure)
            total = known_length(records)
            job = self._engine.job(sink, feed, space=space, observers=observers, total=total, purse=purse)
            try:
                with logged("embed_into", job.report):
                    return await job.run()
            finally:
                with anyio.CancelScope(shield=True):
                    await note(opened, job.report())

    async def plan(self, store: AnyStore, records: Records, *, retry_failed: bool = False) -> Plan:
        """What `embed_into` would do. Sends nothing and writes nothing."""
        refuse_what_is_no_list(records)
        async with _opened(store) as opened:
            info = await opened.info()
            space = check_space(info.space, self.space)
            sink = PlanSink(opened, retry_failed=retry_failed)
            feed = Feed(rows_of(records), any_record)
            report = await self._engine.dry_job(sink, feed, space=space, total=known_length(records)).run()
        return planned(report, sink.changed)

    async def backfill(
        self,
        backlog: Backlog,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
        on_failure: OnFailure | None = None,
        retry_failed: bool = False,
    ) -> Report:
        """Fills the empty embedding column of a table of your own; passes repeat until one finds nothing.

        Texts that were refused earlier are skipped until they change, unless `retry_failed`.
        """
        engine = self._engine
        async with spending(engine.max_tokens, backlog, self.space) as purse:
            space = await engine.prepare(backlog, purse)
            passes = Passes(backlog, engine.tally(), limit, on_failure)
            observers = Observers(on_progress, passes.failed)
            with logged("backfill", passes.report), told_plainly():
                while True:
                    sink = BacklogSink(backlog, retry_failed=retry_failed)
                    feed = Feed(passes.records(), any_record)
                    job = engine.job(sink, feed, space=space, observers=observers, tally=passes.tally, purse=purse)
                    report = await job.run()
                    if not passes.another():
                        return report

    async def search(
        self, store: AnyStore | Backlog, text: str, *, k: int = 5, where: Metadata | None = None
    ) -> list[Match]:
        """The k rows nearest to the text, best first. `where` keeps rows whose metadata has these values."""
        if k < 1:
            raise ConfigError(f"k={k} must be at least 1")
        if isinstance(store, Backlog):
            if isinstance(store, Column):
                check_space(await store.space(), self.space, "fill another column")
            return await store.search(await self.embed_query(text), k, where=where)
        async with _opened(store) as opened:
            info = await opened.info()
            if info.space is None:
                return []
            check_space(info.space, self.space)
            return await opened.search(await self.embed_query(text), k, where=where)


@asynccontextmanager
async def _opened(store: AnyStore) -> AsyncIterator[Store]:
    """A store given by its URL is closed again; one that the caller opened stays open."""
    if isinstance(store, Store):
        yield store
        return
    opened = open_store(store)
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


NEW_STORE = "build a new store beside it: aembed index OLD_URL --store NEW_URL -m MODEL"


def check_space(held: Space | None, asked: Space, way_out: str = NEW_STORE) -> Space:
    """The space of a store, or a column, that is only read."""
    space = agreed(held, asked)
    if space is None:
        raise SpaceMismatchError(
            f"it holds vectors of {held}, asked for was {asked}; use their own model, or {way_out}"
        )
    return space
