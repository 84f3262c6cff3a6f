"""The Embedder: picks the edges and offers the verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import anyio

from aembed.backfills import Backfill
from aembed.batch_protocols import BatchProvider, BatchState, BatchTerms
from aembed.batching import Batching, cancel_batches, look_at_batches
from aembed.engine import Engine
from aembed.engines import AnyStore, Engines, check_space, use_store
from aembed.errors import AembedError, ConfigError
from aembed.events import OnEvent
from aembed.limits import Budget, RetryPolicy
from aembed.options import Key, Options
from aembed.pipeline.arrow_records import ArrowBatch, ArrowStream
from aembed.pipeline.channel import Channel
from aembed.pipeline.leasing import hold_leases
from aembed.pipeline.leasing_sinks import note
from aembed.pipeline.logs import log_ending
from aembed.pipeline.moving import move
from aembed.pipeline.observing import Observers, OnFailure, OnProgress
from aembed.pipeline.planning import make_plan
from aembed.pipeline.reading import (
    Feed,
    any_record,
    known_length,
    refuse_what_is_no_list,
    rows_of,
    space_of,
    text_record,
)
from aembed.pipeline.results import Results, run_and_close
from aembed.pipeline.sinks import ListSink, StreamSink
from aembed.pipeline.spend_limit import close_when_done
from aembed.pipeline.store_calls import await_store
from aembed.pipeline.store_sinks import PlanSink, StoreSink
from aembed.protocols import Backlog, Provider, Store
from aembed.providers import provider_of
from aembed.query_verbs import QueryVerbs
from aembed.ranges import check_seconds, check_whole_number, dimensions_of
from aembed.results import Embeddings, Failure, Plan, Report, Stats
from aembed.types import Embedded, Record, Space, TooLong, Vector

Texts: TypeAlias = Iterable[str] | AsyncIterable[str]
RecordLike: TypeAlias = Record | str | Embedded | Failure | ArrowBatch
"""A str is a record whose id is its position; a row of another store is one too; a Failure is told as it is. A batch of
Arrow's is as many records as it has rows."""
Records: TypeAlias = Iterable[RecordLike] | AsyncIterable[RecordLike] | Store | ArrowStream


class Embedder(QueryVerbs):
    """Turns texts into vectors, many requests at a time, inside the provider's limits.

    `model` is "provider:model" ("openai:text-embedding-3-small"), "local", or a Provider object.
    `api_key` and `base_url` default to the provider's own environment variables; the key may be an async callable
    that gives a token, called again once that was refused. `base_url` may be a list of addresses that serve the
    same model: what one refuses, or cannot take now, goes to another; `api_key` is then for all, or a list with one
    for each, and `concurrency` and the ceilings a minute hold for each address. `concurrency` is the most requests
    in flight; "auto" begins with 8 and goes up to 64, as long as the provider takes them. Where it takes fewer,
    that is found out. `requests_per_minute` and `tokens_per_minute` are ceilings; None: learned from the replies.
    `max_batch_size` (inputs) and `max_tokens_per_batch` may only be smaller than the provider's own limits. A text
    of more tokens than the model takes fails (`too_long="error"`), is cut ("truncate"), or is embedded in pieces
    whose weighted mean is its vector ("split"). `timeout` is the most seconds one request may take. `budget`, one
    or several, stops a job before the request that would exceed it, and `query_budget` queries. `cache_bytes` is
    the memory for vectors of queries that come again, 0: none. `cache` is a file, or a postgresql:// URL, that keeps
    the vectors of all verbs for any number of processes, so that nothing is bought twice; of queries only with
    `cache_queries`. `coordinator` is a file, or a postgresql:// URL, by which all workers that name it share the
    limits of a key, and budgets of a day or a month. `max_queue_size` is the most queries that may wait,
    None: any number.
    `http_client` is an httpx (or httpx2) AsyncClient of your own, which aembed never closes. `on_event` is a plain
    function that is told of requests, retries, outages, batches and jobs by the values of `aembed.events`.

    Use it as `async with Embedder(...) as embedder`, or construct it and `await embedder.aclose()`.
    Raises ConfigError for what cannot work, before anything is read or sent.
    """

    def __init__(
        self,
        model: str | Provider,
        *,
        api_key: Key | Sequence[Key] = None,
        base_url: str | Sequence[str] | None = None,
        dimensions: int | None = None,
        concurrency: int | Literal["auto"] = 8,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_batch_size: int | None = None,
        max_tokens_per_batch: int | None = None,
        too_long: TooLong = "error",
        retry: RetryPolicy = RetryPolicy(),
        # Chosen: by recorded replies OpenAI takes 78 ms and 20 to 24 us a token, 6 to 7 s for a full request, so that
        # 60 leave room for slower servers. Larger, a request that hangs holds its slot for longer.
        timeout: float = 60.0,
        budget: Budget | Sequence[Budget] | None = None,
        query_budget: Budget | Sequence[Budget] | None = None,
        cache: str | Path | None = None,
        cache_queries: bool = False,
        cache_bytes: int = 0,
        coordinator: str | Path | None = None,
        # Chosen: at a thousand answers a second it is emptied within the 10 s that a query waits. Larger, callers wait
        # who cannot be answered in time; smaller, bursts are refused that could be.
        max_queue_size: int | None = 10_000,
        http_client: Any = None,
        on_event: OnEvent | None = None,
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
            query_budget=query_budget,
            cache=cache,
            cache_queries=cache_queries,
            cache_bytes=cache_bytes,
            coordinator=coordinator,
            max_queue_size=max_queue_size,
            on_event=on_event,
        )
        own: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            "dimensions": dimensions_of(dimensions),
            "http_client": http_client,
        }
        self._engine = Engine(provider_of(model, own, options.most_in_flight), options)
        self._engines = Engines(self._engine)

    def __repr__(self) -> str:
        return f"<Embedder {self._engine}>"

    @property
    def space(self) -> Space:
        """Which vectors this makes. `dimensions` is None until it is known, `preparation` is what options ask for: a
        store has its own, and one that is new gets what the model wants."""
        return self._engine.space

    @property
    def batch_terms(self) -> BatchTerms | None:
        """What a batch may carry, and on which terms; None where the provider has none."""
        provider = self._engine.provider
        return provider.batch_terms if isinstance(provider, BatchProvider) else None

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return sum(engine.in_flight for engine in self._engines.all())

    async def __aenter__(self) -> Self:
        for engine in self._engines.all():
            engine.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, timeout: float = 30.0) -> None:
        """Closes it. Nothing more is sent; what was sent may land for `timeout` seconds; then the connections close.

        Jobs that still run end with StoppedError, which has their report and what they had got; queries that were not
        on their way hear UnavailableError at once. What is asked of a closed Embedder is a ConfigError; it may be
        opened again by `async with`, or in another event loop.
        """
        seconds = check_seconds("timeout", timeout, zero=True)
        async with AsyncExitStack() as stack:
            for engine in self._engines.all():
                stack.push_async_callback(engine.aclose, seconds)

    # verbs

    async def embed_documents(self, texts: Texts, *, on_progress: OnProgress | None = None) -> Embeddings:
        """The vectors of many texts, in their order; shape (n, dimensions).

        A text that fails is None in the result, with its reason in `.failures`. A stopped job (key, quota,
        outage, budget) raises what stopped it, with `.report` and `.embeddings`.
        """
        return await self._embed_documents(texts, None, on_progress)

    async def _embed_documents(
        self, texts: Texts, space: Space | None = None, on_progress: OnProgress | None = None
    ) -> Embeddings:
        """`space` is that of the store that they are for, where they are for one."""
        engine = self._engine
        with engine.run_verb():
            refuse_what_is_no_list(texts)
            await engine.learn()
            total = known_length(texts)
            sink = ListSink(total, engine.run_in_thread)
            spend_limit, observers = engine.budgets.limit_of_calls(), Observers(on_progress)
            feed = Feed(texts, text_record)
            # What is made for a store is compared with what that holds, so it is made anew.
            async with nullcontext(sink) if space else engine.use_cache(sink, spend_limit) as cached:
                job = engine.make_job(
                    cached, feed, space=space, total=total, observers=observers, spend_limit=spend_limit
                )
                try:
                    with log_ending("embed_documents", job.report, engine.job_teller):
                        report = await job.run()
                except AembedError as error:
                    error.embeddings = await sink.make_embeddings(job.report(), self.space.dimensions, error)
                    raise
            return await sink.make_embeddings(report, self.space.dimensions)

    async def embed_document(self, text: str) -> Vector:
        """The vector of one document, the caller's own; shape (dimensions,). As `embed_query` is for questions.

        Calls that come together share requests, equal texts share one input, and any number may wait; each waits as
        long as a job would. Of a call that is cancelled nothing is sent that was not on its way. With `cache` each call
        looks there first and has a request of its own. `budget` holds, as for all calls without a store. Raises
        InputError or what the provider said of this text, and what would stop a job; UnavailableError after an outage.
        """
        if not self._engine.caching.is_on:
            return await self._engine.document_vector(text)
        found = await self.embed_documents([text])
        if found.failures:
            raise found.failures[0].error
        vector: Vector = found.vectors[0].copy()
        return vector

    def stats(self) -> Stats:
        """What goes on now: the queue, requests in flight, limits, what sets the speed, the gate, errors, latency, what
        was spent, the cache; see Stats.

        It sends nothing and waits for nothing. May be called from any thread.
        """
        return self._engine.make_stats()

    @asynccontextmanager
    async def stream(self, records: Records) -> AsyncIterator[Results]:
        """Results as they complete: `async with embedder.stream(records) as results: async for result in results`.

        Each is an Embedded, whose `.vector` is a copy of shape (dimensions,), or a Failure, with `.index`, its position
        in the input. Memory holds what is in flight and no more. Records are Record objects or plain str. What stops
        the job is raised by the iteration, with `.report`. Leaving the block early sends nothing more.
        """
        refuse_what_is_no_list(records, tables=True)
        engine, channel = self._engine, Channel()
        async with AsyncExitStack() as stack:
            with engine.run_verb():
                await engine.learn()
                spend_limit = engine.budgets.limit_of_calls()
                sink = await stack.enter_async_context(engine.use_cache(StreamSink(channel), spend_limit))
                job = engine.make_job(sink, Feed(rows_of(records), any_record), spend_limit=spend_limit)
                ended = run_and_close(job, channel, engine.run_verb(), engine.job_teller)
                running = asyncio.get_running_loop().create_task(ended)
            try:
                yield Results(channel, running)
            finally:
                job.abandon()
                running.cancel()
                channel.leave()
                await asyncio.gather(running, return_exceptions=True)

    async def embed_into(
        self,
        store: AnyStore,
        records: Records,
        *,
        on_progress: OnProgress | None = None,
        on_failure: OnFailure | None = None,
        retry_failed: bool = False,
        batch: bool = False,
        fallback_live: bool = False,
    ) -> Report:
        """Embeds what the store does not have yet and writes every reply at once.

        `records` is any iterable or async iterable of Record, another store, or a table in Arrow's form: a data frame,
        a reader, or record batches, with columns `text` and `id`; all others are metadata. Rows whose text, metadata
        and source are unchanged cost nothing; nor do rows of another store that hold vectors of the same model, width
        and server, made from the same text: those are taken over. Texts that were refused earlier are skipped unless
        `retry_failed`. Cancelled, it waits up to 30 s until everything sent is stored.

        `batch`: through the provider's batch API, for less money and within a day. It collects what is ready, writes
        it, submits what is new and returns: `submitted` of the report are out, and the same again collects them. With
        `fallback_live` texts that two batches gave nothing are sent live (docs/batch.md).

        Raises SpaceMismatchError, before anything is sent, for a store of another model; else what stopped the job,
        with `.report`.
        """
        refuse_what_is_no_list(records, tables=True)
        async with (
            aclosing(Feed(rows_of(records), any_record)) as feed,
            use_store(store) as opened,
            self._engines.run_verb_on(opened) as engine,
            close_when_done(engine.budgets.limit_of_job(opened, engine.space)) as spend_limit,
        ):
            batching = Batching(engine, opened, batch, fallback_live)
            space = await engine.prepare(opened, spend_limit, await await_store(space_of(records)))
            async with hold_leases(opened) as worker:
                stored = StoreSink(opened, retry_failed=retry_failed, worker=worker)
                observers = Observers(on_progress, on_failure)
                tally = engine.make_tally(known_length(records))
                async with engine.caching.beneath(stored, space.dimensions) as cached:
                    run = batching.make_run(cached, space, tally, spend_limit, stored.check_model)
                    sink = run.sink if run else await batching.heed(cached, space, worker)
                    job = engine.make_job(
                        sink,
                        feed,
                        space=space,
                        observers=observers,
                        tally=tally,
                        spend_limit=spend_limit,
                        submitter=run.submitter if run else None,
                    )
                    try:
                        with log_ending("embed_into", job.report, engine.job_teller):
                            return await batching.run(job, sink, run, spend_limit)
                    finally:
                        with anyio.CancelScope(shield=True):
                            await note(opened, job.report())

    async def batches(self, store: AnyStore | Backlog) -> list[BatchState]:
        """What the provider says of the batches that are out for a store or a column; see `embed_into`, `batch`."""
        async with (
            nullcontext(store) if isinstance(store, Backlog) else use_store(store) as opened,
            self._engines.run_verb_on(opened) as engine,
        ):
            return await look_at_batches(engine, opened)

    async def cancel_batches(self, store: AnyStore | Backlog) -> int:
        """Cancels the batches that are out for a store or a column; returns how many. What has run is billed, and the
        next run with `batch` writes it."""
        async with (
            nullcontext(store) if isinstance(store, Backlog) else use_store(store) as opened,
            self._engines.run_verb_on(opened) as engine,
        ):
            return await cancel_batches(engine, opened)

    async def plan(self, store: AnyStore, records: Records, *, retry_failed: bool = False) -> Plan:
        """What `embed_into` would do, with its requests, tokens and price. Sends nothing and writes nothing.

        Reads all of `records`. Raises SpaceMismatchError where the store holds vectors of another model.
        """
        refuse_what_is_no_list(records, tables=True)
        async with (
            aclosing(Feed(rows_of(records), any_record)) as feed,
            use_store(store) as opened,
            self._engines.run_verb_on(opened) as engine,
        ):
            await engine.learn()
            info = await opened.info()
            check_space(info.space, engine.space)
            space = engine.planned_space(info.space, await await_store(space_of(records)))
            if info.space:
                engine.preparing.note(opened, space)
            planned = PlanSink(opened, retry_failed=retry_failed)
            with closing(planned):
                async with engine.caching.beneath(planned, space.dimensions) as sink:
                    report = await engine.make_dry_job(sink, feed, space=space, total=known_length(records)).run()
        return make_plan(report, planned.changed)

    async def move(self, store: AnyStore | Backlog) -> float:
        """Makes the rows of a store, or of a column of a table of your own, this Embedder's, where another name or
        address of the same model made them.

        A few of its texts are embedded again, and have to have the same vectors; nothing else is bought, then or
        later. Returns the least cosine similarity that was seen. Raises SpaceMismatchError where the vectors differ.
        """
        engine = self._engine
        with engine.run_verb():
            if isinstance(store, Backlog):
                await engine.learn()
                return await move(store, self.space, self._embed_documents)
            async with use_store(store) as opened:
                await engine.learn()
                return await move(opened, self.space, self._embed_documents)

    async def backfill(
        self,
        backlog: Backlog,
        *,
        limit: int | None = None,
        on_progress: OnProgress | None = None,
        on_failure: OnFailure | None = None,
        retry_failed: bool = False,
        batch: bool = False,
        fallback_live: bool = False,
        watch: bool = False,
        # Chosen: a column that is told of changes sees them at once; another one asks its index so often for nothing.
        poll: float = 5.0,
        recheck: float = 3600.0,
    ) -> Report:
        """Fills the empty embedding column of a table of your own; passes repeat until one finds nothing.

        Every reply is written at once, in a transaction of its own. A row whose text is edited meanwhile is read again.
        `limit` is the most rows. Texts that were refused earlier are skipped until they change, unless `retry_failed`.
        Raises ConfigError or SpaceMismatchError, before anything is sent, for a table that cannot be filled or holds
        vectors of another model; else what stopped the job, with `.report`. Cancelled, it waits up to 30 s until
        everything sent is stored. `batch` and `fallback_live` are those of `embed_into`; then it is one pass.

        `watch`: it goes on, and fills what becomes pending, until it is cancelled, which is its end. Rows are looked
        for at least every `poll` seconds (more seldom where looking takes long), and in all of the table every
        `recheck` seconds; a column that has triggers for it (docs/watching.md) sees them at once. Outages of the
        provider and of the database are waited for, however long they last. Any number of workers may watch one table.
        """
        limit = None if limit is None else check_whole_number("limit", limit, 1, why=", or None")
        seconds = check_seconds("poll", poll), check_seconds("recheck", recheck)
        if watch and (batch or limit is not None):
            raise ConfigError("watch goes on for ever: leave out batch and limit")
        async with (
            self._engines.run_verb_on(backlog) as engine,
            close_when_done(engine.budgets.limit_of_job(backlog, engine.space)) as spend_limit,
        ):
            batching = Batching(engine, backlog, batch, fallback_live)
            space = await engine.prepare(backlog, spend_limit)
            run = Backfill(engine, backlog, batching, space, spend_limit, on_progress, on_failure, retry_failed)
            return await (run.watch(*seconds) if watch else run.run(limit, batch=batch))
