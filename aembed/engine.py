"""What one Embedder works with: its provider, its limits, and for each event loop one Dispatcher and one Coalescer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from aembed.coalesce import Coalescer
from aembed.core.cache import Cache
from aembed.core.changes import Fingerprinter, Unkept
from aembed.core.pacing import Pacer
from aembed.core.packing import Cap
from aembed.core.progress import Tally
from aembed.counters import Measure
from aembed.dispatch import Dispatcher, Home
from aembed.errors import AembedError, ConfigError
from aembed.pipeline.job import Job, Sender
from aembed.pipeline.outcomes import Observers
from aembed.pipeline.planning import DryDispatcher
from aembed.pipeline.purse import JobPurse, purse_of
from aembed.pipeline.reading import Feed, text_record
from aembed.pipeline.sinks import ListSink, Sink
from aembed.pipeline.store_sinks import guarded
from aembed.protocols import Backlog, Learns, Provider, Store
from aembed.providers._threads import run_in_thread
from aembed.results import Stats
from aembed.types import Budget, InputType, Limits, RetryPolicy, Space, TooLong

PROBE = "dimensions"
"""The one short text that is embedded where nothing else tells how wide the vectors are."""


@dataclass(frozen=True, slots=True)
class Options:
    """Those of an Embedder that its provider has no part in. Raises ConfigError for one that cannot work."""

    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_batch_size: int | None
    max_tokens_per_batch: int | None
    too_long: TooLong
    retry: RetryPolicy
    timeout: float
    budget: Budget
    cache_bytes: int
    max_queue_size: int

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("cache_bytes", 0), ("max_queue_size", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name}={value} must be at least {least}")
        if self.too_long not in ("error", "truncate", "split"):
            raise ConfigError(f'too_long={self.too_long!r} must be "error", "truncate" or "split"')


class Engine:
    """`random` and `run_in_thread` are what a simulation replaces."""

    def __init__(self, provider: Provider, options: Options) -> None:
        provider.limits.check(options.max_batch_size, options.max_tokens_per_batch)
        self.provider = provider
        self.options = options
        self.max_tokens = options.budget.tokens(provider.price_usd)
        self.random = Random()
        self.run_in_thread: Callable[..., Any] = run_in_thread
        self._wide, self._narrow = provider.limits, self._narrowed(provider.limits)
        self._pacer = Pacer(
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
            concurrency=options.concurrency,
        )
        self._cache = Cache(options.cache_bytes)
        self._home = Home()
        self._dispatcher: Dispatcher | None = None
        self._coalescer: Coalescer | None = None

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
            self._wide, self._narrow = limits, self._narrowed(limits)
        return self._narrow

    @property
    def in_flight(self) -> int:
        return self._dispatcher.in_flight if self._dispatcher else 0

    @property
    def dispatcher(self) -> Dispatcher:
        """One for each event loop that this is used in, one after another."""
        if self._home.moved() or self._dispatcher is None:
            options = self.options
            self._coalescer = None
            self._dispatcher = Dispatcher(
                self.provider,
                lambda: self.limits,
                concurrency=options.concurrency,
                retry=options.retry,
                timeout=options.timeout,
                dimensions=self.space.dimensions,
                pacer=self._pacer,
                random=self.random,
            )
        return self._dispatcher

    @property
    def coalescer(self) -> Coalescer:
        dispatcher = self.dispatcher
        if self._coalescer is None:
            self._coalescer = Coalescer(
                dispatcher,
                self._fingerprinter(self.space, "query"),
                Measure(self.limits, self.options.too_long, self.run_in_thread),
                lambda: self.limits,
                cache=self._cache,
                max_queue_size=self.options.max_queue_size,
            )
        return self._coalescer

    def stats(self) -> Stats:
        dispatcher, loop = self._dispatcher, self._home.loop
        stats = dispatcher.stats(loop.time()) if dispatcher and loop else Stats()
        waiting = self._coalescer.waiting if self._coalescer else 0
        return replace(stats, waiting=waiting, cache=self._cache.stats())

    async def aclose(self, timeout: float) -> None:
        moved = self._home.moved()
        try:
            if self._dispatcher and not moved:
                await self._dispatcher.drain(timeout)
        finally:
            self._dispatcher = self._coalescer = None
            self._home.leave()
            await self.provider.aclose()

    # jobs

    async def learn(self) -> None:
        """What a server tells of its model before texts are measured for it."""
        if isinstance(self.provider, Learns):
            await self.provider.learn()

    def job(
        self,
        sink: Sink,
        feed: Feed,
        *,
        space: Space | None = None,
        observers: Observers = Observers(),
        total: int | None = None,
        tally: Tally | None = None,
        purse: JobPurse | None = None,
    ) -> Job:
        purse = purse or purse_of(self.max_tokens, None, self.space)
        return self._made(
            self.dispatcher, sink, feed, space or self.space, observers, tally or self.tally(total), purse
        )

    def dry_job(self, sink: Sink, feed: Feed, *, space: Space, total: int | None) -> Job:
        """It sends nothing and costs nothing."""
        dry = DryDispatcher(self.options.concurrency, Cap.of(self.limits))
        return self._made(dry, sink, feed, space, Observers(), self.tally(total), purse_of(None, None, space))

    def _made(
        self,
        sender: Sender,
        sink: Sink,
        feed: Feed,
        space: Space,
        observers: Observers,
        tally: Tally,
        purse: JobPurse,
    ) -> Job:
        entries = self._fingerprinter(space, "document") if sink.keeps else Unkept()
        exact = self.max_tokens is not None
        measure = Measure(self.limits, self.options.too_long, self.run_in_thread, exact=exact)
        return Job(sender, sink, feed, entries, measure, self.limits, tally, observers, purse)

    def tally(self, total: int | None = None) -> Tally:
        at_risk_tokens = self.options.concurrency * self.limits.max_tokens_per_batch
        now = asyncio.get_running_loop().time()
        return Tally(now, self.provider.price_usd, total, at_risk_tokens=at_risk_tokens)

    async def prepare(self, store: Store | Backlog, purse: JobPurse) -> Space:
        """Law 6: what the store refuses is refused before money is spent. One short text at the most is."""
        await self.learn()
        space: Space = await guarded(store.prepare(self.space))
        if space.dimensions is None:
            await self._probe(purse)
            space = await guarded(store.prepare(self.space))
        self.dispatcher.dimensions = space.dimensions
        return space

    async def _probe(self, purse: JobPurse) -> None:
        """Embeds one short text, which tells how wide the vectors are."""
        job = self.job(ListSink(1), Feed([PROBE], text_record), total=1, purse=purse)
        try:
            report = await job.run()
        except AembedError as error:
            error.report = None
            raise
        if report.failures:
            raise report.failures[0].error

    def _fingerprinter(self, space: Space, input_type: InputType) -> Fingerprinter:
        return Fingerprinter(space, input_type, self.options.too_long, self.limits.max_tokens_per_text)

    def _narrowed(self, limits: Limits) -> Limits:
        return limits.narrowed(self.options.max_batch_size, self.options.max_tokens_per_batch)
