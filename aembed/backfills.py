"""What one call of `backfill` does: it fills a column in passes, once, or as long as it is watched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from aembed.batching import Batching
from aembed.core.progress import Tally
from aembed.engine import Engine
from aembed.pipeline.backfilling import Passes, raise_plainly
from aembed.pipeline.backlog_sink import BacklogSink
from aembed.pipeline.leasing import hold_leases
from aembed.pipeline.logs import log_ending
from aembed.pipeline.observing import Observers, OnFailure, OnProgress
from aembed.pipeline.reading import Feed, any_record
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.watching import PendingRows, Watching, look_at
from aembed.protocols import Backlog
from aembed.results import Report
from aembed.types import Space


@dataclass(eq=False, repr=False)
class Backfill:
    """`space` is what the column was prepared for."""

    engine: Engine
    backlog: Backlog
    batching: Batching
    space: Space
    spend_limit: SpendLimit
    on_progress: OnProgress | None
    on_failure: OnFailure | None
    retry_failed: bool
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = self.engine.make_tally()

    async def run(self, limit: int | None, *, batch: bool) -> Report:
        """Passes repeat until one finds nothing; with `batch` it is one."""
        passes = Passes(self.backlog.pending, self.tally, limit, self.on_failure)
        with log_ending("backfill", passes.report, self.engine.job_teller), raise_plainly():
            async with self._filling(passes) as fill:
                report = await fill(passes.records())
                while not batch and passes.has_another():
                    report = await fill(passes.records())
                return report

    async def watch(self, poll: float, recheck: float) -> Report:
        """It ends by being cancelled, or with what no wait mends."""
        prepare = partial(self.engine.prepare, self.backlog, self.spend_limit)
        async with look_at(self.backlog, poll, recheck) as looks:
            told = self.on_progress, self.on_failure
            watching = Watching(self.backlog, looks, self.tally, *told, self._filling, prepare, poll, recheck)
            self.engine.close_with(watching)
            with log_ending("backfill", watching.report):
                await watching.run()

    @asynccontextmanager
    async def _filling(self, passes: Passes) -> AsyncIterator[Callable[[PendingRows], Awaitable[Report]]]:
        """Gives what fills the rows of one pass, in one job."""
        observers = Observers(self.on_progress, passes.note_failure)
        async with hold_leases(self.backlog) as worker:
            filled = BacklogSink(self.backlog, passes, retry_failed=self.retry_failed, worker=worker)
            async with self.engine.caching.beneath(filled, self.space.dimensions) as cached:
                run = self.batching.make_run(cached, self.space, self.tally, self.spend_limit)
                sink = run.sink if run else await self.batching.heed(cached, self.space, worker)

                async def fill(rows: PendingRows) -> Report:
                    job = self.engine.make_job(
                        sink,
                        Feed(rows, any_record),
                        space=self.space,
                        observers=observers,
                        tally=self.tally,
                        spend_limit=self.spend_limit,
                        submitter=run.submitter if run else None,
                    )
                    return await self.batching.run(job, sink, run, self.spend_limit)

                yield fill
