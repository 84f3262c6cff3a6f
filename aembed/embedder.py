"""The Embedder: picks the edges and offers the verbs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import anyio

from aembed.coalesce import embed_queries
from aembed.core.filters import parse_filter
from aembed.core.spaces import differ_in_preparation, merge_spaces
from aembed.engine import Engine
from aembed.errors import AembedError, ConfigError, SpaceMismatchError
from aembed.options import Key, Options
from aembed.pipeline.backfilling import Passes, raise_plainly
from aembed.pipeline.backlog_sink import BacklogSink
from aembed.pipeline.channel import Channel
from aembed.pipeline.leasing import hold_leases
from aembed.pipeline.leasing_sinks import await_store, note
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
from aembed.pipeline.searching import prepare_hybrid, search_all, search_store
from aembed.pipeline.sinks import ListSink, StreamSink
from aembed.pipeline.spend_limit import close_when_done
from aembed.pipeline.store_sinks import PlanSink, StoreSink
from aembed.protocols import Backlog, FollowsStores, Provider, Store
from aembed.providers import open_provider
from aembed.ranges import check_seconds, check_whole_number, dimensions_of, one_line_of
from aembed.results import Embeddings, Plan, Report, Stats
from aembed.stores import Column, open_store
from aembed.types import (
    Budget,
    Embedded,
    Failure,
    Match,
    Metadata,
    Record,
    RetryPolicy,
    Space,
    TooLong,
    Vector,
)

Texts: TypeAlias = Iterable[str] | AsyncIterable[str]
RecordLike: TypeAlias = Record | str | Embedded | Failure
"""A str is a record whose id is its position; a row of another store is one too; a Failure is told as it is."""
Records: TypeAlias = Iterable[RecordLike] | AsyncIterable[RecordLike] | Store
AnyStore: TypeAlias = Store | str | os.PathLike[str]
# Chosen: people do not wait for longer. Larger, callers would hold on to requests of web apps that are given up.
QUERY_TIMEOUT = 10.0
"""Seconds within which a query has its vector, where nothing else is said."""
# Chosen: a tenth of the queue, so that the queries of others find room there. Smaller, a provider that takes few texts
# in a request would have fewer requests in flight.
QUERIES_AT_ONCE = 1_000


class Embedder:
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
    the memory for vectors of queries that come again, 0: none. `max_queue_size` is the most queries that may wait,
    None: any number.
    `http_client` is an httpx (or httpx2) AsyncClient of your own, which aembed never closes.

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
        cache_bytes: int = 0,
        # Chosen: at a thousand answers a second it is emptied within the 10 s that a query waits. Larger, callers wait
        # who cannot be answered in time; smaller, bursts are refused that could be.
        max_queue_size: int | None = 10_000,
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
            query_budget=query_budget,
            cache_bytes=cache_bytes,
            max_queue_size=max_queue_size,
        )
        own: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            "dimensions": dimensions_of(dimensions),
            "http_client": http_client,
        }
        self._options = options
        self._engine = Engine(_provider_of(model, own, options.most_in_flight), options)
        self._followed: dict[str, Engine] = {}
        """By its name, each other model that a store went on with (FollowsStores)."""

    def __repr__(self) -> str:
        return f"<Embedder {self._engine}>"

    @property
    def space(self) -> Space:
        """Which vectors this makes. `dimensions` is None until it is known, `preparation` is what options ask for: a
        store has its own, and one that is new gets what the model wants."""
        return self._engine.space

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return sum(engine.in_flight for engine in self._engines)

    @property
    def _engines(self) -> list[Engine]:
        return [self._engine, *self._followed.values()]

    async def __aenter__(self) -> Self:
        for engine in self._engines:
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
            for engine in self._engines:
                stack.push_async_callback(engine.aclose, seconds)

    @asynccontextmanager
    async def _run_verb_on(self, store: Store | Backlog) -> AsyncIterator[Engine]:
        """While a verb of many texts runs: the engine of the model that made the rows of that store."""
        with self._engine.run_verb():
            held = None
            if isinstance(self._engine.provider, FollowsStores):
                if isinstance(store, Store):
                    held = (await await_store(store.info())).space
                elif isinstance(store, Column):
                    held = await await_store(store.space())
            engine = self._engine_for(held)
            with nullcontext() if engine is self._engine else engine.run_verb():
                yield engine

    def _engine_for(self, held: Space | None) -> Engine:
        """This Embedder's own, but where a store holds rows of another model that its provider has."""
        provider = self._engine.provider
        other = provider.for_store(held) if held and isinstance(provider, FollowsStores) else None
        if held is None or other is None:
            return self._engine
        self._engine.check_open()
        if held.model not in self._followed:
            self._followed[held.model] = Engine(other, self._options)
        return self._followed[held.model]

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
            job = engine.make_job(sink, feed, space=space, total=total, observers=observers, spend_limit=spend_limit)
            try:
                with log_ending("embed_documents", job.report):
                    report = await job.run()
            except AembedError as error:
                error.embeddings = sink.make_embeddings(job.report(), self.space.dimensions, error)
                raise
            return sink.make_embeddings(report, self.space.dimensions)

    async def embed_query(self, text: str, *, timeout: float = QUERY_TIMEOUT) -> Vector:
        """The vector of one query, the caller's own; shape (dimensions,).

        Calls that come together share requests, equal texts share one input. Cancelled, or after `timeout` seconds,
        it leaves the others alone. Raises InputError or what the provider said of this text; UnavailableError with
        `.retry_after` where there is no vector in time, at once where the provider asks to wait for longer;
        OverloadedError at once where `max_queue_size` queries wait.
        """
        return await self._engine.coalescer.vector(text, check_seconds("timeout", timeout))

    def stats(self) -> Stats:
        """What goes on now: the queue, requests in flight, limits, what sets the speed, the gate, the cache; see Stats.

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
        refuse_what_is_no_list(records)
        engine, channel = self._engine, Channel()
        with engine.run_verb():
            await engine.learn()
            spend_limit = engine.budgets.limit_of_calls()
            job = engine.make_job(StreamSink(channel), Feed(rows_of(records), any_record), spend_limit=spend_limit)
            running = asyncio.get_running_loop().create_task(run_and_close(job, channel, engine.run_verb()))
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
    ) -> Report:
        """Embeds what the store does not have yet and writes every reply at once.

        `records` is any iterable or async iterable of Record, or another store. Rows whose text, metadata
        and source are unchanged cost nothing; nor do rows of another store that hold vectors of the same model, width
        and server, made from the same text: those are taken over. Texts that were refused earlier are skipped unless
        `retry_failed`. Cancelled, it waits up to 30 s until everything sent is stored.

        Raises SpaceMismatchError, before anything is sent, for a store of another model; else what stopped the job,
        with `.report`.
        """
        refuse_what_is_no_list(records)
        async with (
            aclosing(Feed(rows_of(records), any_record)) as feed,
            _use_store(store) as opened,
            self._run_verb_on(opened) as engine,
            close_when_done(engine.budgets.limit_of_job(opened, engine.space)) as spend_limit,
        ):
            space = await engine.prepare(opened, spend_limit, await await_store(space_of(records)))
            async with hold_leases(opened) as worker:
                sink = StoreSink(opened, retry_failed=retry_failed, worker=worker)
                observers = Observers(on_progress, on_failure)
                total = known_length(records)
                job = engine.make_job(
                    sink, feed, space=space, observers=observers, total=total, spend_limit=spend_limit
                )
                try:
                    with log_ending("embed_into", job.report):
                        return await job.run()
                finally:
                    with anyio.CancelScope(shield=True):
                        await note(opened, job.report())

    async def plan(self, store: AnyStore, records: Records, *, retry_failed: bool = False) -> Plan:
        """What `embed_into` would do, with its requests, tokens and price. Sends nothing and writes nothing.

        Reads all of `records`. Raises SpaceMismatchError where the store holds vectors of another model.
        """
        refuse_what_is_no_list(records)
        async with (
            aclosing(Feed(rows_of(records), any_record)) as feed,
            _use_store(store) as opened,
            self._run_verb_on(opened) as engine,
        ):
            await engine.learn()
            info = await opened.info()
            check_space(info.space, engine.space)
            space = engine.planned_space(info.space, await await_store(space_of(records)))
            if info.space:
                engine.preparing.note(opened, space)
            sink = PlanSink(opened, retry_failed=retry_failed)
            report = await engine.make_dry_job(sink, feed, space=space, total=known_length(records)).run()
        return make_plan(report, sink.changed)

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
            async with _use_store(store) as opened:
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
    ) -> Report:
        """Fills the empty embedding column of a table of your own; passes repeat until one finds nothing.

        Every reply is written at once, in a transaction of its own. A row whose text is edited meanwhile is read again.
        `limit` is the most rows. Texts that were refused earlier are skipped until they change, unless `retry_failed`.
        Raises ConfigError or SpaceMismatchError, before anything is sent, for a table that cannot be filled or holds
        vectors of another model; else what stopped the job, with `.report`. Cancelled, it waits up to 30 s until
        everything sent is stored.
        """
        limit = None if limit is None else check_whole_number("limit", limit, 1, why=", or None")
        async with (
            self._run_verb_on(backlog) as engine,
            close_when_done(engine.budgets.limit_of_job(backlog, engine.space)) as spend_limit,
        ):
            space = await engine.prepare(backlog, spend_limit)
            passes = Passes(backlog, engine.make_tally(), limit, on_failure)
            observers = Observers(on_progress, passes.note_failure)
            with log_ending("backfill", passes.report), raise_plainly():
                async with hold_leases(backlog) as worker:
                    sink = BacklogSink(backlog, passes, retry_failed=retry_failed, worker=worker)
                    while True:
                        feed = Feed(passes.records(), any_record)
                        job = engine.make_job(
                            sink,
                            feed,
                            space=space,
                            observers=observers,
                            tally=passes.tally,
                            spend_limit=spend_limit,
                        )
                        report = await job.run()
                        if not passes.has_another():
                            return report

    async def search(
        self,
        store: AnyStore | Backlog,
        text: str,
        *,
        k: int = 5,
        where: Metadata | None = None,
        hybrid: bool = False,
    ) -> list[Match]:
        """The k rows nearest to the text, best first; `Match.score` is the cosine similarity, 1 is equal.

        `where` is a filter of the rows' metadata, in a column of a table of its columns: {"lang": "en"} for equal, a
        list for any of its values, {"year": {"gte": 2000, "lt": 2020}} for a range; docs/searching.md has all of it.
        With `hybrid` rows that hold exact names of the text (options, functions, error codes) come first, too, and
        `Match.rank` is the order; a store of aembed's own builds the index for it at the first such search. An
        empty store gives an empty list, without a request. Raises ConfigError for what is no filter and where the store
        finds no words, SpaceMismatchError for a store of another model, and what `embed_query` raises.
        """
        k = check_whole_number("k", k, 1)
        parse_filter(where)
        async with self._use_searched(store) as (engine, opened, space):
            if space is None:
                return []
            words = await prepare_hybrid(opened) if hybrid else None
            vector = await engine.coalescer_of(space.preparation).vector(text, QUERY_TIMEOUT)
            engine.preparing.note(opened, space)
            return await search_store(opened, words, text, vector, k, where)

    async def search_many(
        self,
        store: AnyStore | Backlog,
        texts: Iterable[str],
        *,
        k: int = 5,
        where: Metadata | None = None,
        hybrid: bool = False,
    ) -> list[list[Match]]:
        """For each text, in their order, what `search` finds. The texts share requests, and the searches passes.

        A text that fails, as an empty one, is a PartialError with `.embeddings`, before any search, and costs the
        others nothing: those have their vectors there. Raises what stopped them all, with `.embeddings`, and what
        `search` raises; a text of which there is no vector within `timeout` of the Embedder is an UnavailableError.
        """
        refuse_what_is_no_list(texts)
        k, asked = check_whole_number("k", k, 1), list(texts)
        parse_filter(where)
        with self._engine.run_verb():
            async with self._use_searched(store) as (engine, opened, space):
                if space is None or not asked:
                    return [[] for _ in asked]
                words = await prepare_hybrid(opened) if hybrid else None
                coalescer, options = engine.coalescer_of(space.preparation), engine.options
                at_once = max(QUERIES_AT_ONCE, engine.limits.max_batch_size)
                embeddings = await embed_queries(
                    asked,
                    lambda text: coalescer.vector(text, max(QUERY_TIMEOUT, options.timeout)),
                    min(at_once, options.max_queue_size or at_once),
                )
                engine.preparing.note(opened, space)
                return await search_all(opened, words, asked, embeddings.vectors, k, where)

    @asynccontextmanager
    async def _use_searched(
        self, store: AnyStore | Backlog
    ) -> AsyncIterator[tuple[Engine, Store | Backlog, Space | None]]:
        """The engine of its model, the store, and the space of its vectors; None while it is empty."""
        if isinstance(store, Backlog):
            held = await store.space() if isinstance(store, Column) else None
            engine = self._engine_for(held)
            yield engine, store, check_space(held, engine.space, "fill another column")
            return
        async with _use_store(store) as opened:
            info = await opened.info()
            engine = self._engine_for(info.space)
            yield engine, opened, info.space and check_space(info.space, engine.space)


def _provider_of(model: object, own: Mapping[str, Any], concurrency: int) -> Provider:
    """`own` are the options that a provider has a part in. Raises ConfigError before any I/O."""
    given = {name: value for name, value in own.items() if value is not None}
    if not isinstance(model, str):
        if not isinstance(model, Provider):
            raise ConfigError(
                f"model={one_line_of(model)} must be a str, as openai:text-embedding-3-small, or an object "
                "with all that "
                "aembed.Provider has"
            )
        if given:
            raise ConfigError(f"{next(iter(given))}= is for a model that is named by a str; give it to the provider")
        return model
    if not isinstance(given.get("base_url", ""), str | list | tuple):
        raise ConfigError(f"base_url must be a str, not {type(given['base_url']).__name__}, or a list of them")
    key = given.get("api_key", "")
    for each in key if isinstance(key, list | tuple) else [key]:
        if not isinstance(each, str) and not callable(each):
            raise ConfigError(f"api_key must be a str or an async callable, not {type(each).__name__}")
    client = given.get("http_client")
    if client is not None and not (hasattr(client, "build_request") and hasattr(client, "aclose")):
        raise ConfigError(f"http_client must be an AsyncClient of httpx or httpx2, not {type(client).__name__}")
    return open_provider(str.__str__(model), **given, concurrency=concurrency)


@asynccontextmanager
async def _use_store(store: AnyStore) -> AsyncIterator[Store]:
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


NEW_STORE = "build a new store beside it: await embedder.embed_into(new_store, old_store)"


def check_space(held: Space | None, asked: Space, way_out: str = NEW_STORE) -> Space:
    """The space of a store, or a column, that is only read."""
    space = merge_spaces(held, asked)
    if space is None:
        assert held is not None
        prepared = differ_in_preparation(held, asked)
        own = "leave out the options that prepare texts" if prepared else "use their own model"
        raise SpaceMismatchError(f"it holds vectors of {held}, asked for was {asked}; {own}, or {way_out}")
    return space
