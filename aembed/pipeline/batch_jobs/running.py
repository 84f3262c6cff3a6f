"""A job with `batch=True`: batches that are out are collected first, and what is new is submitted at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import anyio

from aembed.batch_protocols import BatchProvider, BatchTerms, KeepsBatches
from aembed.core.progress import Tally
from aembed.errors import AembedError, ConfigError
from aembed.pipeline.batch_jobs.books import Books
from aembed.pipeline.batch_jobs.collecting import Collector
from aembed.pipeline.batch_jobs.sink import BatchSink
from aembed.pipeline.batch_jobs.submitting import BatchSubmitter
from aembed.pipeline.job import Job
from aembed.pipeline.leasing import LOOK_SECONDS
from aembed.pipeline.sinks import Sink
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Reclaims
from aembed.results import Report
from aembed.types import Space

logger = logging.getLogger("aembed")

# Chosen: a text that was edited while its batch ran may be edited back. Larger, the store keeps what nobody asks for.
KEPT_SECONDS = 30 * 86_400.0
"""A vector that a batch has brought, and that no row was written with, is kept for so long."""


class BatchRun:
    """What a batch job does besides, for one run."""

    def __init__(self, collector: Collector, submitter: BatchSubmitter, sink: BatchSink, tally: Tally) -> None:
        self.submitter, self.sink = submitter, sink
        self._collector, self._tally = collector, tally

    async def begin(self) -> None:
        """Looks at what is out. Raises BadRequestError where the provider refused a batch as a whole."""
        place = self._collector.books.place
        try:
            await await_store(place.prepare_batches())
            await self._collector.look()
            if failure := self._collector.failure:
                raise failure
            if forgotten := await place.forget_older(KEPT_SECONDS):
                logger.warning("%d vectors of batches are forgotten: no text has asked for them in 30 days", forgotten)
        except AembedError as error:
            error.report = error.report or self._tally.report(asyncio.get_running_loop().time())
            raise

    async def run(self, job: Job) -> None:
        """Runs the job, which writes what is read of results meanwhile, and sends what it has gathered."""
        reading = self.submitter.reading = asyncio.get_running_loop().create_task(self._read())
        try:
            try:
                await job.run()
                await reading
                await self.submitter.flush()
            except AembedError:
                await _leave(reading)
                with suppress(AembedError):
                    await self._collector.end()
                raise
            await self._collector.end()
            if isinstance(self._collector.books.place, Reclaims) and self.submitter.has_sent:
                await anyio.sleep(2 * LOOK_SECONDS)  # by then live jobs know, and its rows may be given up
        finally:
            with anyio.CancelScope(shield=True):
                await _leave(reading)
                await self._collector.collected.aclose()
            self.submitter.close()
            # Where the job was stopped, what was gathered and is not out is pending.
            gathered = self.sink.take_back([*self.sink.gathered])
            self._tally.submitted -= gathered + self.submitter.taken_back

    async def _read(self) -> None:
        await self._collector.read()
        await self.submitter.begin()


async def _leave(task: asyncio.Task[None]) -> None:
    """Ends it; what it raises has been raised, or is not what ends the run."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def run_job(job: Job, sink: Sink, batch_run: BatchRun | None) -> Report:
    """Runs a job, with its batches where it has some. Raises as `Job.run`."""
    try:
        await (batch_run.run(job) if batch_run else job.run())
    except AembedError as error:
        error.report = job.report()
        raise
    finally:
        if isinstance(sink, BatchSink):
            with anyio.CancelScope(shield=True):
                await sink.forget_used()
    return job.report()


def batch_edges(provider: object, place: object) -> tuple[BatchProvider, BatchTerms, KeepsBatches]:
    """The two edges of a batch job. Raises ConfigError for one that has no batches, before anything is read."""
    if not isinstance(provider, BatchProvider) or (terms := provider.batch_terms) is None:
        space = getattr(provider, "space", provider)
        raise ConfigError(
            f"{space} has no batch API that aembed knows; leave out batch (docs/providers.md lists those)"
        )
    if not isinstance(place, KeepsBatches):
        raise ConfigError(f"{place!r} keeps no batches; use a store or a column of SQLite or PostgreSQL")
    return provider, terms, place


def books_of(place: KeepsBatches, space: Space, clock: Callable[[], float]) -> Books:
    """Batches are those of a model at an endpoint, whatever prepares its texts: their fingerprints say that."""
    at = f" at {space.endpoint}" if space.endpoint else ""
    return Books(place, f"{space.provider}:{space.model}{at}", clock)
