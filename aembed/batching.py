"""What one call of a verb does about batches: it makes some, or keeps its hands off those that are out."""

from __future__ import annotations

import asyncio
from math import inf

from aembed.batch_protocols import BatchState, KeepsBatches
from aembed.core.progress import Tally
from aembed.engine import Engine
from aembed.errors import ConfigError
from aembed.pipeline.batch_jobs.asking import cancel, look_at
from aembed.pipeline.batch_jobs.brought import Brought
from aembed.pipeline.batch_jobs.collected import Collected
from aembed.pipeline.batch_jobs.collecting import Collector
from aembed.pipeline.batch_jobs.running import BatchRun, batch_edges, books_of, run_job
from aembed.pipeline.batch_jobs.settling import CheckModel
from aembed.pipeline.batch_jobs.sink import BatchSink
from aembed.pipeline.batch_jobs.submitting import BatchSubmitter
from aembed.pipeline.job import Job
from aembed.pipeline.leasing import LOOK_SECONDS, LeaseHolder
from aembed.pipeline.sinks import Sink
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Backlog, Store
from aembed.results import Report
from aembed.types import Space


class BatchWatch:
    """Whether a live job has to ask for batches: where some were there, or another job may have made some since."""

    def __init__(self, place: KeepsBatches, worker: LeaseHolder | None) -> None:
        self._place, self._worker = place, worker
        self._are_there, self._looked_at = False, -inf

    async def look(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        self._are_there = await await_store(self._place.has_batches())

    async def asks(self) -> bool:
        if self._worker is None:
            # Rows that are held one by one tell nothing of other jobs. One that makes batches holds its rows until
            # this was looked at (BatchRun).
            if not self._are_there and asyncio.get_running_loop().time() - self._looked_at >= LOOK_SECONDS:
                await self.look()
            return self._are_there
        return self._are_there or not self._worker.is_alone


class Batching:
    """Raises ConfigError where `batch` is asked for and cannot be, before anything is read or sent."""

    def __init__(self, engine: Engine, place: Store | Backlog, batch: bool, fallback_live: bool) -> None:
        if fallback_live and not batch:
            raise ConfigError("fallback_live goes with batch=True")
        if batch:
            batch_edges(engine.provider, place)
        self._engine, self._place = engine, place
        self._batch, self._fallback_live = batch, fallback_live

    def make_run(
        self,
        sink: Sink,
        space: Space,
        tally: Tally,
        spend_limit: SpendLimit,
        check_model: CheckModel | None = None,
    ) -> BatchRun | None:
        """None for a live job."""
        if not self._batch:
            return None
        engine = self._engine
        provider, terms, keeper = batch_edges(engine.provider, self._place)
        books = books_of(keeper, space, engine.clock)
        # A token of a batch counts as much of a budget in dollars as it costs; of one in tokens it is a token.
        counts_tokens = any(budget.max_billed_tokens is not None for budget in engine.options.budgets)
        share = 1.0 if counts_tokens else terms.price_factor
        collected = Collected(books, Brought(engine.run_in_thread))
        asking = BatchSink(sink, books, space.dimensions, asks=_always, gathers=True, collected=collected)
        collector = Collector(
            provider,
            books,
            collected,
            tally,
            spend_limit,
            terms.price_factor,
            share,
            space.dimensions,
            check_model,
            not terms.tried,
            bill=engine.meter,
            teller=engine.batch_teller,
        )
        submitter = BatchSubmitter(
            engine.dispatcher,
            provider,
            terms,
            engine.limits,
            books,
            asking,
            engine.measure_documents(space),
            spend_limit,
            price_share=share,
            fallback_live=self._fallback_live,
            teller=engine.batch_teller,
        )
        return BatchRun(collector, submitter, asking, tally)

    async def heed(self, sink: Sink, space: Space, worker: LeaseHolder | None) -> Sink:
        """The sink of a live job: what is out in a batch is not sent, and what one has brought is taken.

        Batches of others are asked for where there are some, or may be by now.
        """
        place = self._place
        if not isinstance(place, KeepsBatches):
            return sink
        watch = BatchWatch(place, worker)
        await watch.look()
        books = books_of(place, space, self._engine.clock)
        return BatchSink(sink, books, space.dimensions, asks=watch.asks, gathers=False)

    async def run(self, job: Job, sink: Sink, run: BatchRun | None, spend_limit: SpendLimit) -> Report:
        """Runs the job, once what is ready was collected."""
        if run:
            await run.begin()
        report = await run_job(job, sink, run)
        spend_limit.goes_on = report.submitted > 0
        return report


async def look_at_batches(engine: Engine, place: Store | Backlog) -> list[BatchState]:
    """What the provider says of those that are out. Raises ConfigError where there can be none."""
    provider, _, keeper = batch_edges(engine.provider, place)
    return await look_at(provider, books_of(keeper, engine.space, engine.clock))


async def cancel_batches(engine: Engine, place: Store | Backlog) -> int:
    """Cancels those that are out; returns how many. Raises ConfigError where there can be none."""
    provider, _, keeper = batch_edges(engine.provider, place)
    return await cancel(provider, books_of(keeper, engine.space, engine.clock))


async def _always() -> bool:
    return True
