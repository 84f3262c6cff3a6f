"""The Embedder: picks the edges and offers the verbs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio

from aembed.coalesce import Coalescer
from aembed.core.cache import Cache
from aembed.core.changes import Fingerprinter
from aembed.core.pacing import Pacer
from aembed.core.packing import Cap
from aembed.core.progress import Tally
from aembed.core.spaces import agreed
from aembed.counters import Measure
from aembed.dispatch import Dispatcher, Home
from aembed.errors import AembedError, ConfigError, SpaceMismatchError
from aembed.pipeline.backfilling import Passes, told_plainly
from aembed.pipeline.job import Job, Sender
from aembed.pipeline.logs import logged
from aembed.pipeline.outcomes import Observers
from aembed.pipeline.planning import DryDispatcher, planned
from aembed.pipeline.purse import JobPurse, purse_of, spending
from aembed.pipeline.reading import Feed, any_record, known_length, refuse_what_is_no_list, rows_of, text_record
from aembed.pipeline.results import Results, run_and_close
from aembed.pipeline.sinks import BacklogSink, ListSink, PlanSink, Sink, StoreSink, StreamSink, guarded, note
from aembed.protocols import Backlog, Provider, Store
from aembed.providers import open_provider
from aembed.providers._threads import run_in_thread
from aembed.results import Embeddings, Plan, Progress, Report, Stats
from aembed.stores import Column, open_store
from aembed.types import (
    Budget,
    Embedded,
    Failure,
    InputType,
    Limits,
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

logger = logging.getLogger("aembed")

PROBE = "dimensions"
"""The one short text that is embedded where nothing else tells how wide the vectors are."""


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
        if concurrency < 1:
            raise ConfigError(f"concurrency={concurrency} must be at least 1")
        if cache_bytes < 0 or max_queue_size < 1:
            raise ConfigError(
                f"cache_bytes={cache_bytes} must be at least 0, max_queue_size={max_queue_size} at least 1"
            )
        if too_long not in ("error", "truncate", "split"):
            raise ConfigError(f'too_long={too_long!r} must be "error", "truncate" or "split"')
        self._provider = (
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
        self._provider.limits.check(max_batch_size, max_tokens_per_batch)
        self._narrowed = (max_batch_size, max_tokens_per_batch)
        self._wide = self._provider.limits
        self._narrow = self._wide.narrowed(*self._narrowed)
        self._concurrency = concurrency
        self._too_long: TooLong = too_long
        self._retry = retry
        self._timeout = timeout
        self._max_tokens = budget.tokens(self._provider.price_usd)
        self._pacer = Pacer(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrency=concurrency
        )
        self._random = Random()
        self._run_in_thread: Callable[..., Any] = run_in_thread
        self._cache = Cache(cache_bytes)
        self._max_queue_size = max_queue_size
        self._home = Home()
        self._engine: Dispatcher | None = None
        self._queries: Coalescer | None = None

    def __repr__(self) -> str:
        return f"<Embedder {self._provider.space}, {self._engine or 'idle'}>"

    @property
    def space(self) -> Space:
        """Which vectors this makes. `dimensions` is None until it is known."""
        space = self._provider.space
        known = self._engine.dimensions if self._engine else None
        return replace(space, dimensions=space.dimensions or known)

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return self._engine.in_flight if self._engine else 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 30.0) -> None:
        """Waits up to `timeout` seconds for what was sent to land, then closes the connections."""
        if not self._home.moved() and self._engine:
            await self._engine.drain(timeout)
        self._engine = self._queries = None
        self._home.leave()
        await self._provider.aclose()

    # verbs

    async def embed_documents(self, texts: Texts, *, on_progress: OnProgress | None = None) -> Embeddings:
        """The vectors of many texts, in their order; shape (n, dimensions).

        A text that fails is None in the result, with its reason in `.failures`. A stopped job (key, quota,
        outage, budget) raises what stopped it, with `.report` and `.embeddings`.
        """
        refuse_what_is_no_list(texts)
        total = known_length(texts)
        sink = ListSink(total)
        job = self._job(sink, Feed(texts, text_record), self.space, total, Observers(on_progress))
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
        return await self._coalescer().vector(text, timeout)

    def stats(self) -> Stats:
        """What goes on now. May be called from any thread."""
        dispatcher, loop = self._engine, self._home.loop
        stats = dispatcher.stats(loop.time()) if dispatcher and loop else Stats()
        return replace(stats, waiting=self._queries.waiting if self._queries else 0, cache=self._cache.stats())

    @asynccontextmanager
    async def stream(self, records: Records) -> AsyncIterator[Results]:
        """Results as they complete: `async with embedder.stream(records) as results: async for result in results`.

        Each is an Embedded or a Failure, with `.index`. Memory holds what is in flight and no more.
        Records are Record objects or plain str.
        """
        refuse_what_is_no_list(records)
        send, receive = anyio.create_memory_object_stream[list[Embedded | Failure]](0)
        job = self._job(StreamSink(send), Feed(rows_of(records), any_record), self.space, None, Observers())
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
        async with _opened(store) as opened, spending(self._max_tokens, opened, self.space) as purse:
            space = await self._prepare(opened, purse)
            sink = StoreSink(opened, retry_failed=retry_failed)
            feed = Feed(rows_of(records), any_record)
            observers = Observers(on_progress, on_failure)
            job = self._job(sink, feed, space, known_length(records), observers, purse=purse)
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
            dry = DryDispatcher(self._concurrency, Cap.of(self._limits()))
            feed = Feed(rows_of(records), any_record)
            report = await self._job(sink, feed, space, known_length(records), Observers(), dispatcher=dry).run()
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
        async with spending(self._max_tokens, backlog, self.space) as purse:
            space = await self._prepare(backlog, purse)
            passes = Passes(backlog, self._tally(), limit, on_failure)
            observers = Observers(on_progress, passes.failed)
            with logged("backfill", lambda: passes.tally.report(_now())), told_plainly():
                while True:
                    sink = BacklogSink(backlog, retry_failed=retry_failed)
                    feed = Feed(passes.records(), any_record)
                    report = await self._job(sink, feed, space, None, observers, tally=passes.tally, purse=purse).run()
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

    # parts of a job

    def _dispatcher(self) -> Dispatcher:
        """One for each event loop that this is used in, one after another."""
        if self._home.moved() or self._engine is None:
            self._queries = None
            self._engine = Dispatcher(
                self._provider,
                self._limits,
                concurrency=self._concurrency,
                retry=self._retry,
                timeout=self._timeout,
                dimensions=self.space.dimensions,
                pacer=self._pacer,
                random=self._random,
            )
        return self._engine

    def _coalescer(self) -> Coalescer:
        dispatcher = self._dispatcher()
        if self._queries is None:
            self._queries = Coalescer(
                dispatcher,
                self._fingerprinter(self.space, "query"),
                Measure(self._limits(), self._too_long, self._run_in_thread),
                self._limits,
                cache=self._cache,
                max_queue_size=self._max_queue_size,
            )
        return self._queries

    def _job(
        self,
        sink: Sink,
        feed: Feed,
        space: Space,
        total: int | None,
        observers: Observers,
        *,
        dispatcher: Sender | None = None,
        tally: Tally | None = None,
        purse: JobPurse | None = None,
    ) -> Job:
        return Job(
            dispatcher or self._dispatcher(),
            sink,
            feed,
            self._fingerprinter(space, "document"),
            self._measure(),
            self._limits(),
            tally or self._tally(total),
            observers,
            purse or purse_of(None if dispatcher else self._max_tokens, None, space),
        )

    def _tally(self, total: int | None = None) -> Tally:
        at_risk_tokens = self._concurrency * self._limits().max_tokens_per_batch
        return Tally(_now(), self._provider.price_usd, total, at_risk_tokens=at_risk_tokens)

    def _fingerprinter(self, space: Space, input_type: InputType) -> Fingerprinter:
        return Fingerprinter(space, input_type, self._too_long, self._limits().max_tokens_per_text)

    def _measure(self) -> Measure:
        return Measure(self._limits(), self._too_long, self._run_in_thread, exact=self._max_tokens is not None)

    def _limits(self) -> Limits:
        limits = self._provider.limits
        if limits is not self._wide:
            self._wide, self._narrow = limits, limits.narrowed(*self._narrowed)
        return self._narrow

    async def _prepare(self, store: Store | Backlog, purse: JobPurse) -> Space:
        """Law 6: what the store refuses is refused before money is spent. One short text at the most is."""
        space: Space = await guarded(store.prepare(self.space))
        if space.dimensions is None:
            await self._probe(purse)
            space = await guarded(store.prepare(self.space))
        self._dispatcher().dimensions = space.dimensions
        return space

    async def _probe(self, purse: JobPurse) -> None:
        """Embeds one short text, which tells how wide the vectors are."""
        job = self._job(ListSink(1), Feed([PROBE], text_record), self.space, 1, Observers(), purse=purse)
        try:
            report = await job.run()
        except AembedError as error:
            error.report = None
            raise
        if report.failures:
            raise report.failures[0].error


def _now() -> float:
    return asyncio.get_running_loop().time()


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
            f"here are vectors of {held}, asked for was {asked}; use their own model, or {way_out}"
        )
    return space
