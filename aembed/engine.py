"""What one Embedder works with: its provider, its limits, and for each event loop one Dispatcher and one Coalescer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakSet

from aembed.coalesce import Coalescer
from aembed.core.billing import Billing
from aembed.core.cache import Cache
from aembed.core.changes import Fingerprinter, UnstoredEntries
from aembed.core.metering import Meter, measured
from aembed.core.pacing import Pacer
from aembed.core.packing import Cap
from aembed.core.progress import Tally
from aembed.core.spaces import merge_spaces
from aembed.counters import Measure
from aembed.dispatch import Coordination, Dispatcher, LoopAffinity, SharedLimit, Teller, origin_of
from aembed.errors import AembedError, ConfigError, StoreError
from aembed.limits import Limits
from aembed.options import Options
from aembed.pipeline.batch_jobs.submitting import BatchSubmitter
from aembed.pipeline.batches import Sender
from aembed.pipeline.budgets import Budgets
from aembed.pipeline.caching import Caching
from aembed.pipeline.job import Job
from aembed.pipeline.observing import Observers
from aembed.pipeline.planning import DryDispatcher
from aembed.pipeline.preparing import Preparing
from aembed.pipeline.reading import Feed, text_record
from aembed.pipeline.shared_budgets import SharedBudgets
from aembed.pipeline.sinks import ListSink, Sink
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.store_calls import await_store
from aembed.pipeline.telling import BatchTeller, JobTeller
from aembed.pipeline.watching import Watching
from aembed.protocols import Backlog, HasAddresses, Learns, Provider, Store
from aembed.providers._threads import run_in_thread
from aembed.results import Stats
from aembed.types import InputType, Record, Space, Vector

logger = logging.getLogger("aembed")

PROBE = "dimensions"
"""The one short text that is embedded where nothing else tells how wide the vectors are."""

# Chosen: longer than any outage that a RetryPolicy waits for; timers of uvloop take no infinity.
AS_LONG_AS_IT_TAKES = 1e8
"""Seconds within which a single document has its vector: it ends by an answer, or by what the provider says."""


class Engine:
    """`random`, `run_in_thread` and `clock` (seconds since 1970) are what a simulation replaces."""

    def __init__(self, provider: Provider, options: Options) -> None:
        provider.limits.check(options.max_batch_size, options.max_tokens_per_batch)
        self.provider = provider
        self.options = options
        self._coordination = None if options.coordinator is None else Coordination(options.coordinator)
        shared = SharedBudgets(self._coordination, provider).account_of if self._coordination else None
        self.budgets = Budgets(options.budgets, provider.price_usd, provider.limits, shared=shared)
        self._query_spend_limit = Budgets(options.query_budgets, provider.price_usd, shared=shared).limit_of_queries()
        self.random = Random()
        self.run_in_thread: Callable[..., Any] = run_in_thread
        self.clock: Callable[[], float] = time.time
        self._wide, self._narrow = provider.limits, self._narrow_limits(provider.limits)
        self._addresses = provider.addresses if isinstance(provider, HasAddresses) else (provider,)
        # What the user set holds for each address, as slots do: each has an account, or a server, of its own.
        self._pacers = [
            Pacer(
                requests_per_minute=options.requests_per_minute,
                tokens_per_minute=options.tokens_per_minute,
                texts_per_minute=each.limits.texts_per_minute,
                texts_per_request=each.limits.max_batch_size,
                concurrency=options.most_in_flight,
                first_concurrency=options.first_in_flight,
            )
            for each in self._addresses
        ]
        self._most_in_flight = len(self._pacers) * options.most_in_flight
        self._first_in_flight = len(self._pacers) * options.first_in_flight
        self._meters = [Meter(price_usd=provider.price_usd) for _ in self._addresses]
        self._tell = None if options.on_event is None else Teller(options.on_event)
        self._cache = Cache(options.cache_bytes)
        self.caching = Caching(options.cache)
        self._billing = Billing()
        self._loop_affinity = LoopAffinity()
        self._dispatcher: Dispatcher | None = None
        self._coalescers = dict[tuple[str, InputType], Coalescer]()
        """By the preparation and the input type of their texts."""
        self.preparing = Preparing(provider)
        self._jobs: WeakSet[Job | Watching] = WeakSet()
        self._verbs: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"{self.provider.space}, {self._dispatcher or 'idle'}"

    @property
    def space(self) -> Space:
        space = self.provider.space
        known = self._dispatcher.dimensions if self._dispatcher else None
        return replace(space, dimensions=space.dimensions or known)

    @property
    def limits(self) -> Limits:
        """The provider's, which its replies may change, with the user's where those are smaller."""
        limits = self.provider.limits
        if limits is not self._wide:
            self._wide, self._narrow = limits, self._narrow_limits(limits)
        return self._narrow

    @property
    def in_flight(self) -> int:
        return self._dispatcher.in_flight if self._dispatcher else 0

    @property
    def running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that this is used in, while it runs."""
        return self._loop_affinity.running

    @property
    def dispatcher(self) -> Dispatcher:
        """One for each event loop that this is used in, one after another."""
        self._arrive()
        if self._dispatcher is None:
            options, shared = self.options, list[SharedLimit]()
            if self._coordination is not None:
                # The limits of each address as workers share them, anew for each event loop.
                shared = self._coordination.limits = [
                    SharedLimit(self._coordination, address, pacer)
                    for address, pacer in zip(self._addresses, self._pacers, strict=True)
                ]
            self._dispatcher = Dispatcher(
                self.provider,
                lambda: self.limits,
                concurrency=options.most_in_flight,
                retry=options.retry,
                timeout=options.timeout,
                dimensions=self.space.dimensions,
                pacer=self._pacers if isinstance(self.provider, HasAddresses) else self._pacers[0],
                random=self.random,
                shared=shared,
                meters=self._meters,
                tell=self._tell,
            )
        return self._dispatcher

    def coalescer_of(self, preparation: str, input_type: InputType = "query") -> Coalescer:
        """That of queries for a store of this preparation, or that of single documents.

        Raises ConfigError where this is closed, and for a budget of documents that nobody could keep.
        """
        self.check_open()
        coalescer = self._coalescers.get((preparation, input_type))
        if coalescer is None:
            documents = input_type == "document"
            if self._query_spend_limit and not any(kind == "query" for _, kind in self._coalescers):
                self._query_spend_limit.renew()
            spend_limit = self.budgets.limit_of_calls() if documents else self._query_spend_limit
            space = replace(self.space, preparation=preparation)
            coalescer = self._coalescers[preparation, input_type] = Coalescer(
                self.dispatcher,
                input_type,
                self._make_fingerprinter(space, input_type),
                self._make_measure(space, input_type),
                lambda: self.limits,
                cache=self._cache,
                # A document has to be embedded whenever it comes; who asks for a query asks again.
                max_queue_size=None if documents else self.options.max_queue_size,
                spend_limit=spend_limit if spend_limit and spend_limit.is_limited else None,
            )
        return coalescer

    # the time from the first verb to the end

    def check_open(self) -> None:
        """Raises ConfigError where this is closed."""
        self._arrive()
        if self._loop_affinity.closed:
            raise ConfigError("this Embedder is closed; make another one, or open it again by async with")

    @contextmanager
    def run_verb(self) -> Iterator[None]:
        """While a verb of many texts runs: `aclose` waits for its end. Raises ConfigError where this is closed."""
        self.check_open()
        verbs, ended = self._verbs, asyncio.get_running_loop().create_future()
        verbs.add(ended)
        try:
            yield
        finally:
            verbs.discard(ended)
            ended.set_result(None)

    def open(self) -> None:
        """After `aclose`: `async with` opens it again."""
        self._arrive()
        self._loop_affinity.closed = False

    def _arrive(self) -> None:
        """What belongs to an event loop that has stopped is let go of."""
        if self._loop_affinity.has_moved():
            self._dispatcher, self._coalescers = None, {}
            self._jobs, self._verbs = WeakSet(), set()

    async def aclose(self, timeout: float) -> None:
        """Takes no new work, ends jobs, lets what was sent land for `timeout` seconds, closes the connections."""
        self._arrive()
        self._loop_affinity.closed = True
        dispatcher = self._dispatcher
        try:
            for coalescer in self._coalescers.values():
                coalescer.close()
            for job in [*self._jobs]:
                job.close()
            if dispatcher:
                await dispatcher.drain(timeout, self._verbs)
        finally:
            # While this waited, the Embedder may have been opened again and have another dispatcher, which stays.
            if self._dispatcher is dispatcher:
                self._dispatcher, self._coalescers = None, {}
            # Each is closed whatever becomes of the others; the last one here is the first.
            async with AsyncExitStack() as closing:
                closing.push_async_callback(self.provider.aclose)
                closing.push_async_callback(self.caching.aclose)
                if self._coordination:
                    closing.push_async_callback(self._coordination.aclose)

    def make_stats(self) -> Stats:
        dispatcher, loop = self._dispatcher, self._loop_affinity.loop
        stats = dispatcher.make_stats(loop.time()) if dispatcher and loop else Stats()
        waiting = sum(coalescer.waiting for coalescer in [*self._coalescers.values()])
        return replace(measured(stats, self._meters), waiting=waiting, cache=self._cache.stats())

    @property
    def job_teller(self) -> JobTeller | None:
        """Who is told of its jobs; None where nobody listens."""
        return JobTeller(self._tell, origin_of(self.provider)) if self._tell else None

    @property
    def batch_teller(self) -> BatchTeller | None:
        """Who is told of its batches."""
        return BatchTeller(self._tell, origin_of(self.provider)) if self._tell else None

    @property
    def meter(self) -> Meter:
        """Where the bills of batches are counted; of several addresses that of the first."""
        return self._meters[0]

    # jobs

    def close_with(self, job: Job | Watching) -> None:
        """`aclose` ends it, too; one that watches also while it waits between two jobs."""
        self._jobs.add(job)
        if self._loop_affinity.closed:
            job.close()

    async def learn(self) -> None:
        """What a server tells of its model before texts are measured for it."""
        if isinstance(self.provider, Learns):
            await self.provider.learn()

    def make_job(
        self,
        sink: Sink,
        feed: Feed,
        *,
        space: Space | None = None,
        observers: Observers = Observers(),
        total: int | None = None,
        tally: Tally | None = None,
        spend_limit: SpendLimit,
        submitter: BatchSubmitter | None = None,
    ) -> Job:
        """`submitter`: texts go into batches, which reserve their money themselves."""
        tally = tally or self.make_tally(total)
        # Without a store the texts are prepared as the options ask.
        space = space or replace(self.space, preparation=self.preparing.own)
        if submitter:
            unlimited, limits = SpendLimit([]), submitter.limits
            return self._assemble_job(submitter, sink, feed, space, observers, tally, unlimited, limits)
        return self._assemble_job(self.dispatcher, sink, feed, space, observers, tally, spend_limit)

    def make_dry_job(self, sink: Sink, feed: Feed, *, space: Space, total: int | None) -> Job:
        """It sends nothing and costs nothing."""
        dry = DryDispatcher(self._first_in_flight, Cap.from_limits(self.limits))
        return self._assemble_job(dry, sink, feed, space, Observers(), self.make_tally(total), SpendLimit([]))

    def _assemble_job(
        self,
        sender: Sender,
        sink: Sink,
        feed: Feed,
        space: Space,
        observers: Observers,
        tally: Tally,
        spend_limit: SpendLimit,
        limits: Limits | None = None,
    ) -> Job:
        entries = self._make_fingerprinter(space, "document") if sink.keeps else UnstoredEntries()
        if isinstance(entries, Fingerprinter):
            feed.heed(entries.kind)
        job = Job(
            sender,
            sink,
            feed,
            entries,
            self.measure_documents(space),
            limits or self.limits,
            tally,
            observers,
            spend_limit,
        )
        self.close_with(job)
        return job

    def make_tally(self, total: int | None = None) -> Tally:
        at_risk_tokens = self._most_in_flight * self.limits.max_tokens_per_batch
        now = asyncio.get_running_loop().time()
        return Tally(now, total, price_usd=self.provider.price_usd, at_risk_tokens=at_risk_tokens)

    async def prepare(self, store: Store | Backlog, spend_limit: SpendLimit, carried: Space | None = None) -> Space:
        """Law 6: what the store refuses is refused before money is spent. One short text at the most is.

        `carried` is the space of the rows that are to be written, where they have vectors.
        """
        await self.learn()
        space = await self.preparing.prepare(store, self.space, carried)
        if space.dimensions is None:
            if (known := widen_space(space, carried)).dimensions is None:
                await self._probe(spend_limit)
                known = replace(self.space, preparation=space.preparation)
            # Asked once more: only with the dimensions can the store tell whether its rows, or its column, are as wide.
            space = await await_store(store.prepare(known))
        self.dispatcher.dimensions = space.dimensions
        self.preparing.note(store, space)
        return space

    def planned_space(self, held: Space | None, carried: Space | None) -> Space:
        """What `prepare` would give for a store that holds this space."""
        return widen_space(self.preparing.planned(held, self.space, carried), carried)

    @asynccontextmanager
    async def use_cache(self, sink: Sink, spend_limit: SpendLimit) -> AsyncIterator[Sink]:
        """The sink of a job without a store, with the cache beneath it, where there is one."""
        # Fingerprints name the dimensions, so a cache is asked only once they are known.
        if self.caching.is_on and self.space.dimensions is None:
            await self._probe(spend_limit)
        async with self.caching.beneath(sink, self.space.dimensions) as cached:
            yield cached

    async def query_vector(self, preparation: str, text: str, timeout: float) -> Vector:
        """That of one query, for a store of this preparation."""
        coalescer = self.coalescer_of(preparation)
        if not self.options.cache_queries or coalescer.remembers(text):
            return await coalescer.vector(text, timeout)
        # The provider's own space: what replies tell of the dimensions would change the fingerprint in mid-life.
        space = replace(self.provider.space, preparation=preparation)
        fingerprint = self._make_fingerprinter(space, "query").make_entry(0, Record("query", text)).fingerprint
        with _without_broken_cache():
            if (held := await self.caching.find(fingerprint)) is not None:
                return held
        vector = await coalescer.vector(text, timeout)
        with _without_broken_cache():
            await self.caching.keep(fingerprint, vector)
        return vector

    async def document_vector(self, text: str) -> Vector:
        """That of one document without a store, whose request others may share."""
        await self.learn()
        return await self.coalescer_of(self.preparing.own, "document").vector(text, AS_LONG_AS_IT_TAKES)

    async def _probe(self, spend_limit: SpendLimit) -> None:
        """Embeds one short text, which tells how wide the vectors are."""
        found = ListSink(1)
        try:
            async with self.caching.beneath(found, None) as sink:
                job = self.make_job(sink, Feed([PROBE], text_record), total=1, spend_limit=spend_limit)
                report = await job.run()
        except AembedError as error:
            # The report is that of the probe, and would be told as that of the job, which has not begun.
            error.report = None
            raise
        if report.failures:
            raise report.failures[0].error
        self.dispatcher.dimensions = (await found.make_embeddings(report, None)).vectors.shape[1]

    def _make_fingerprinter(self, space: Space, input_type: InputType) -> Fingerprinter:
        return Fingerprinter(space, input_type, self.options.too_long, self.limits.max_tokens_per_text)

    def measure_documents(self, space: Space) -> Measure:
        """What tells how many tokens the texts of a job for this space cost."""
        return self._make_measure(space, "document", exact=self.budgets.is_limited)

    def _make_measure(self, space: Space, input_type: InputType, *, exact: bool = False) -> Measure:
        return Measure(
            self.limits,
            self.options.too_long,
            self.run_in_thread,
            exact=exact,
            billing=self._billing,
            provider=self.provider,
            preparation=self.preparing.checked(space),
            input_type=input_type,
        )

    def _narrow_limits(self, limits: Limits) -> Limits:
        return limits.narrowed(self.options.max_batch_size, self.options.max_tokens_per_batch)


def widen_space(space: Space, carried: Space | None) -> Space:
    """The space with the dimensions of the vectors that are there already, where those are of the same model."""
    merged = merge_spaces(carried, replace(space, preparation=""))
    return replace(merged, preparation=space.preparation) if merged else space


@contextmanager
def _without_broken_cache() -> Iterator[None]:
    """Nobody who waits is kept from an answer by a cache that cannot be read or written."""
    try:
        yield
    except StoreError as error:
        logger.warning("a query goes without the cache: %s", error)
