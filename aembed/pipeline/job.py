"""This module runs one job: a task that reads, a task that cuts batches, and a task for each batch on its way.

    source -> Feed -> Intake (skip known, join equals, measure) -> Batches -> Dispatcher -> Outcomes -> Sink
              fill     _read                                        _send     a task each   _deliver

A job ends in one of these ways:

    well       all was read and sent, and all that was sent has landed: the report
    stopped    an error that no further request can get past, of the provider, the store or the budget; no further
               request goes, what is on its way lands, and the first error is raised, with the report
    source     an error of the source: what was read before is finished, and then it is raised
    cancelled  law 1: intake stops, and the job waits up to DRAIN_TIMEOUT until all that was sent is stored; a second
               cancellation ends that wait
    closed     the Embedder closes: as stopped, with a StoppedError
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

import anyio

from aembed.core.billing import billed_tokens
from aembed.core.changes import Entries, Item
from aembed.core.pieces import combine_pieces
from aembed.core.progress import Tally
from aembed.counters import Measure
from aembed.dispatch import Answer, Answered, BatchSlots, PutAside, Refused, Submission
from aembed.errors import AembedError, BudgetExceededError, SourceError, StoppedError, StoreError
from aembed.limits import Limits
from aembed.pipeline.batches import Batches, Sender
from aembed.pipeline.budget_shares import BudgetShares
from aembed.pipeline.intake import Intake
from aembed.pipeline.leased_elsewhere import LeasedElsewhere
from aembed.pipeline.observing import LEAST_PATIENCE, PATIENCE, Observers
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.paid_rows import PaidRows
from aembed.pipeline.reading import Feed
from aembed.pipeline.sinks import Sink
from aembed.pipeline.spend_limit import SpendLimit
from aembed.results import Report

logger = logging.getLogger("aembed")

# Law 1: a cancelled `embed_into` or `backfill` waits, shielded, until everything sent is stored. Chosen: a full request
# takes 6 to 7 s, and Kubernetes kills what has not ended 30 s after SIGTERM.
DRAIN_TIMEOUT = 30.0
"""A cancelled job waits so many seconds for what it has sent."""

# Measured: the server takes the rows of one while those of the other are encoded. More would wait for each other.
WRITES = 2
"""So many writes of rows whose vectors are at hand are under way at once."""


class Job:
    """One job. `run` does all of its work, and may be called once."""

    def __init__(
        self,
        dispatcher: Sender,
        sink: Sink,
        feed: Feed,
        entries: Entries,
        measure: Measure,
        limits: Limits,
        tally: Tally,
        observers: Observers,
        spend_limit: SpendLimit,
    ) -> None:
        self._dispatcher = dispatcher
        self._sink = sink
        self._feed = feed
        self._tally = tally
        self._before = (tally.requests, tally.retries, tally.lost_tokens, tally.truncated)
        self._spend_limit = spend_limit
        # A place is held until the batch is stored: a crash buys again at most that many requests.
        self._batch_slots = BatchSlots(dispatcher.concurrency)
        self._submission = Submission(
            "document", measure.preparation, batch_slots=self._batch_slots, shorten=measure.shorten, shares=sink.shares
        )
        if spend_limit.is_limited:
            self._submission.spend_limit, self._submission.costs = spend_limit, measure
        self._outcomes = Outcomes(sink, tally, observers)
        self._tasks = tasks = dict[asyncio.Task[None], dict[int, Item]]()
        """The task of each batch, with what of the batch is not answered yet, where a budget may refuse it."""
        self._budget_shares = BudgetShares(spend_limit, measure, dispatcher.concurrency)
        # No method of the job: a circle would keep its vectors until the next collection of garbage.
        narrow_cap = partial(self._budget_shares.narrow_cap, tasks) if spend_limit.is_limited else None
        self._batches = Batches(dispatcher, tally, lambda: feed.starved, narrow_cap)
        self._submission.remaining = self._batches.remaining_batches
        self._submission.to_come = self._batches.to_come
        self._leased_elsewhere = LeasedElsewhere(sink, self._outcomes, self._batches)
        self._paid_rows = PaidRows(self._outcomes, measure.run_in_thread)
        self._intake = Intake(
            sink, entries, measure, limits, self._outcomes, self._batches, self._leased_elsewhere, self._paid_rows
        )
        self._error: AembedError | None = None
        self._scope: anyio.CancelScope | None = None
        self._all_sent = self._stopped = self._left = False

    async def run(self) -> Report:
        """Does the work of the job. Raises what stopped it, with `.report`; a failed text stops nothing.

        Without an error every input is stored, unchanged or failed; only rows of a table of the user's own, which may
        be edited meanwhile, may be pending.
        """
        try:
            await self._work()
        except BaseException as error:
            # Law 1: whenever the job is cancelled, what stopped it before has the rows that were paid for.
            if self._error:
                raise error from self._error
            raise
        report = self.report()
        stopping = self._error
        # Law 4: without an error every input of a job is stored, unchanged or failed, whatever became of its tasks.
        if not stopping and (not self._all_sent or (report.pending and self._sink.whole and not self._sink.gathers)):
            stopping = StoppedError("the job ended before all of its texts were done; run the same again")
        if stopping := stopping or (None if self._sink.dry else self._tally.common_error()):
            stopping.report = report
            raise stopping
        return report

    async def _work(self) -> None:
        """Reads, sends and stores all of it, until it is done, or stopped and what was on its way has landed."""
        patience = PATIENCE
        self._outcomes.follow(self._count_requests)
        try:
            if self._stopped:
                await self._feed.aclose()
            else:
                async with anyio.create_task_group() as group:
                    self._scope = group.cancel_scope
                    group.start_soon(self._feed.fill)
                    group.start_soon(self._read)
                    group.start_soon(self._send)
                    for _ in range(WRITES):
                        group.start_soon(self._stop_on_error, self._paid_rows.write)
                    if self._sink.leases:
                        group.start_soon(self._stop_on_error, self._leased_elsewhere.watch)
            await self._wait_until_landed()
        except BaseException:
            # Law 1: what was sent is paid for, so it is waited for although the job itself was cancelled.
            self._submission.drop()
            if self._sink.durable:
                with anyio.CancelScope(shield=True), anyio.move_on_after(DRAIN_TIMEOUT):
                    await self._wait_until_landed()
            patience = LEAST_PATIENCE
            raise
        finally:
            self._left = True
            self._count_requests()
            await self._outcomes.tell_last(patience=patience)

    def report(self) -> Report:
        return self._tally.report(asyncio.get_running_loop().time())

    def close(self) -> None:
        """The Embedder closes: no further request goes, what is on its way lands, and `run` raises StoppedError."""
        if self._left:
            return
        self._sink.let_go()
        self._stop(StoppedError("the Embedder was closed before the job had ended; run the same again"))

    def abandon(self) -> None:
        """Lets go of all that is not on its way."""
        self._stopped = True
        self._submission.drop()

    async def _read(self) -> None:
        async def read() -> None:
            try:
                async for chunk in self._feed.chunks():
                    await self._intake.admit(chunk)
            except SourceError as error:
                # What was read before is finished and kept; the error comes out at the end.
                self._error = error
            await self._intake.finish()
            await self._leased_elsewhere.finish()

        await self._stop_on_error(read)
        self._batches.end()
        self._paid_rows.end()

    async def _stop_on_error(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does a part of the work; what goes wrong in it stops the job."""
        try:
            await work()
        except asyncio.CancelledError as error:
            if anyio.current_effective_deadline() == -inf:
                raise
            self._stop(error)  # The store's own: a task that it waits for was cancelled.
        except Exception as error:
            self._stop(error)

    async def _send(self) -> None:
        """Gives each batch to a task of the dispatcher, until all was sent or the job stops."""
        limited = self._budget_shares.limited
        while True:
            try:
                batch = await self._batch_slots.run_when_free(self._next_batch)
            except Exception as error:
                self._stop(error)
                return
            if not batch:
                self._all_sent = True
                self._batch_slots.leave()
                self._leased_elsewhere.stop()
                return
            left = {id(item): item for item in batch} if limited else {}
            asked = self._spend_limit.asked
            # Law 1: one request = one owned task; a cancellation of the job does not reach it.
            task = self._dispatcher.start_task(
                self._dispatcher.send(batch, self._submission, partial(self._deliver, left))
            )
            self._tasks[task] = left
            task.add_done_callback(self._note_batch_end)
            # The next batch is cut to what is left of the budget, once this one is noted or refused.
            while limited and self._spend_limit.asked == asked and not task.done():
                await self._spend_limit.changed.wait()

    async def _next_batch(self) -> list[Item]:
        """The next batch; it is empty once all was taken."""
        while True:
            if self._budget_shares.limited:
                batch = await self._budget_shares.next_batch(self._batches, self._tasks)
            else:
                batch = await self._batches.next_batch()
            if not batch and await self._leased_elsewhere.are_left():
                continue
            if not batch or not self._sink.has_lapsed:
                return batch
            if batch := await self._leased_elsewhere.still_leased(batch):
                return batch

    def _note_batch_end(self, task: asyncio.Task[None]) -> None:
        """A batch has ended. Only its own job may cancel it, by dropping the submission; anybody else's ends the
        job. One that a budget did not allow may go in parts, or once others have landed."""
        left = self._tasks.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        dropped = self._submission.dropped
        if error is None:
            self._budget_shares.refused = 0
        elif isinstance(error, BudgetExceededError) and not dropped and self._budget_shares.may_go_on():
            self._batches.put_back(left.values())
        elif not (task.cancelled() and dropped):
            self._stop(error)
        self._batch_slots.leave()
        if self._budget_shares.limited:
            self._spend_limit.changed.tell()
        # A reply may have changed how much fits in a batch, and so in the window.
        self._batches.changed.tell()

    async def _deliver(self, left: dict[int, Item], answer: Answer) -> None:
        """Counts and stores one answer; the request's task ends only after that."""
        self._count_requests()
        for item in answer.items if left else ():
            del left[id(item)]
        match answer:
            case Answered(items, reply, shared=True):
                self._tally.duplicates += len(items)
                await self._outcomes.write_items(items, reply.matrix, reply.model)
            case Answered(items, reply):
                billed = billed_tokens(reply.usage.tokens, sum(item.tokens for item in items))
                self._tally.add_bill(billed, reply.usage.cost_usd)
                await self._outcomes.write_items(items, combine_pieces(items, reply.matrix), reply.model)
            case Refused(items, error):
                await self._outcomes.refuse_items(items, error)
            case PutAside(items, is_out):
                await self._outcomes.put_aside(items, is_out=is_out)
        await self._outcomes.tell()

    def _count_requests(self) -> None:
        requests, retries, lost_tokens, truncated = self._before
        self._tally.requests = requests + self._submission.requests
        self._tally.retries = retries + self._submission.retries
        self._tally.lost_tokens = lost_tokens + self._submission.lost_tokens
        self._tally.truncated = truncated + self._submission.truncated
        wait_report = self._dispatcher.wait_report
        self._tally.waiting = "" if self._left else wait_report.report_line(asyncio.get_running_loop().time())
        self._tally.last_error = wait_report.last_error if wait_report.last_error_at >= self._tally.started else ""

    def _stop(self, error: BaseException) -> None:
        """Stops the job: no further request goes, and what is on its way lands. The first error comes out at the end.

        Rows that were paid for come out with it, however many writes failed.
        """
        self._submission.drop()
        stopping, first = as_own_error(error), self._error
        if self._left and isinstance(stopping, StoreError):
            # Law 1: a second cancellation ended the wait, so nobody gets them any more.
            lost = sum(map(len, stopping.unsaved))
            logger.error("%d texts were paid for and not stored, the job was left: %s", lost, stopping)
        if not self._stopped:
            self._error = stopping
        elif isinstance(stopping, StoreError) and stopping.unsaved:
            if not isinstance(first, StoreError):
                stopping.__cause__, self._error = first, stopping
            elif stopping is not first:
                first.unsaved += stopping.unsaved
        self._stopped = True
        if self._scope:
            self._scope.cancel()

    async def _wait_until_landed(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def as_own_error(error: BaseException) -> AembedError:
    """The error itself if it is one of ours; a foreign one becomes the cause of one of ours."""
    if isinstance(error, AembedError):
        return error
    if isinstance(error, asyncio.CancelledError):
        stopping: AembedError = StoppedError(
            "a request or a call of the store was cancelled, and not by this job; run the same again"
        )
    else:
        logger.error("the job ended in an unexpected error", exc_info=error)
        stopping = AembedError(f"unexpected {type(error).__name__}")
    stopping.__cause__ = error
    return stopping
