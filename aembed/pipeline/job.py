"""One job: a task that reads, a task that cuts batches, and a task for each batch on its way.

source -> Feed -> Intake (skip known, join equals, measure) -> Batches -> Dispatcher -> Outcomes -> Sink
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import anyio

from aembed.core.changes import Entries, Item
from aembed.core.packing import Cap
from aembed.core.pieces import combined
from aembed.core.progress import Tally
from aembed.counters import Measure
from aembed.dispatch import Answer, Answered, Deliver, Errand, Places, Purse, Refused
from aembed.errors import AembedError, SourceError, StoreError
from aembed.pipeline.batches import Batches
from aembed.pipeline.intake import Intake
from aembed.pipeline.outcomes import Observers, Outcomes, now
from aembed.pipeline.reading import Feed
from aembed.pipeline.sinks import Sink
from aembed.results import Report
from aembed.types import Limits

logger = logging.getLogger("aembed")

DRAIN_TIMEOUT = 30.0
"""Seconds that a cancelled job waits for what it has sent (law 1)."""


class Sender(Protocol):
    """What a job needs of a Dispatcher; the dry run has one that sends nothing."""

    concurrency: int

    @property
    def slots(self) -> int: ...
    @property
    def cap(self) -> Cap: ...
    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    async def send(self, batch: Sequence[Item], errand: Errand, deliver: Deliver) -> None: ...


class Job:
    def __init__(
        self,
        dispatcher: Sender,
        sink: Sink,
        feed: Feed,
        entries: Entries,
        measure: Measure,
        limits: Limits,
        tally: Tally,
        observers: Observers = Observers(),
        purse: Purse | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._sink = sink
        self._feed = feed
        self._tally = tally
        self._before = (tally.requests, tally.retries, tally.lost_tokens)
        # A place is held until the batch is stored: a crash buys again at most that many requests.
        self._places = Places(dispatcher.concurrency)
        self._errand = Errand("document", purse=purse, places=self._places)
        self._outcomes = Outcomes(sink, tally, observers)
        self._batches = Batches(lambda: dispatcher.slots, lambda: dispatcher.cap, lambda: feed.starved)
        self._intake = Intake(sink, entries, measure, limits, self._outcomes, self._batches)
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: AembedError | None = None
        self._stopped = self._left = False

    async def run(self) -> Report:
        """Raises what stopped the job, with `.report`; a failed text stops nothing."""
        try:
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                group.start_soon(self._feed.fill)
                group.start_soon(self._read)
                group.start_soon(self._send)
            await self._landed()
        except BaseException as error:
            self._errand.drop()
            if self._sink.durable:
                with anyio.CancelScope(shield=True), anyio.move_on_after(DRAIN_TIMEOUT):
                    await self._landed()
            if self._error:
                raise error from self._error
            raise
        finally:
            self._left = True
            self._count_requests()
            self._outcomes.tell_last()
        report = self.report()
        if self._error:
            self._error.report = report
            raise self._error
        return report

    def report(self) -> Report:
        return self._tally.report(now())

    def abandon(self) -> None:
        """Lets go of all that is not on its way."""
        self._stopped = True
        self._errand.drop()

    async def _read(self) -> None:
        try:
            async for chunk in self._feed.chunks():
                await self._intake.admit(chunk)
        except SourceError as error:
            # What was read before is finished and kept; the error comes out at the end.
            self._error = error
        except Exception as error:
            self._stop(error)
        self._batches.end()

    async def _send(self) -> None:
        while True:
            await self._places.take()
            batch = await self._batches.next()
            if not batch:
                self._places.leave()
                return
            task = self._dispatcher.own(self._carry(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, batch: list[Item]) -> None:
        try:
            await self._dispatcher.send(batch, self._errand, self._deliver)
        except Exception as error:
            self._stop(error)
        finally:
            self._places.leave()
            # A reply may have changed how much fits in a batch, and so in the window.
            self._batches.notify()

    async def _deliver(self, answer: Answer) -> None:
        self._count_requests()
        match answer:
            case Answered(items, reply):
                # A reply that does not say what it cost is counted as the provider estimates it.
                tokens = reply.usage.tokens
                self._tally.billed_tokens += round(sum(item.tokens for item in items)) if tokens is None else tokens
                await self._outcomes.write_items(items, combined(items, reply.matrix), reply.model)
            case Refused(items, error):
                await self._outcomes.refuse_items(items, error)
        await self._outcomes.tell()

    def _count_requests(self) -> None:
        requests, retries, lost_tokens = self._before
        self._tally.requests = requests + self._errand.requests
        self._tally.retries = retries + self._errand.retries
        self._tally.lost_tokens = lost_tokens + self._errand.lost_tokens

    def _stop(self, error: Exception) -> None:
        """No further request; what is on its way lands."""
        self._errand.drop()
        self._close(error)

    def _close(self, error: Exception) -> None:
        """No further batch. The first error is the one that comes out."""
        stopping = error if isinstance(error, AembedError) else _unexpected(error)
        if self._left and isinstance(stopping, StoreError):
            # Law 1: a second cancellation ended the wait, so nobody gets them any more.
            lost = sum(map(len, stopping.unsaved))
            logger.error("%d texts were paid for and not stored, the job was left: %s", lost, stopping)
        if not self._stopped:
            self._error = stopping
        elif isinstance(stopping, StoreError) and stopping.unsaved:
            self._keep_unsaved(stopping)
        self._stopped = True
        self._scope.cancel()

    def _keep_unsaved(self, error: StoreError) -> None:
        """Rows that were paid for come out with the error, however many writes failed."""
        if not isinstance(self._error, StoreError):
            error.__cause__, self._error = self._error, error
        elif error is not self._error:
            self._error.unsaved += error.unsaved

    async def _landed(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _unexpected(error: Exception) -> AembedError:
    logger.error("the job ended in an unexpected error", exc_info=error)
    stopping = AembedError(f"unexpected {type(error).__name__}")
    stopping.__cause__ = error
    return stopping
