"""The coalescer makes few requests of many small awaits: of the queries of one Embedder on one event loop that are
prepared alike, as those for one store are. Documents that are awaited one by one have a coalescer of their own; what is
said here of queries is true of them, too.

    vector(text) -+- in the cache --------------------------------------------------------------> a copy of the vector
                  +- the gate is closed for longer than the call can wait ----------------------> UnavailableError
                  +- an equal text has a flight: the call joins it, wherever that is
                  +- else a new flight begins; or the queue is full ----------------------------> OverloadedError
                          |
        +-----------------+----------------+-----------------------------+
        v (a long text)                    v (a short one)               v (a job has sent this very text)
    counting, in a thread -----------> queued <-- no answer there --- waits for the job's answer --> settled or failed
        |                                  |
        | too long: InputError             | the batching task has leave to send: a slot, the budgets, an open gate
        v                                  v
      failed                            in a load: one request, or its parts -+- answered: settled, and in the cache
                                           |                                  +- refused alone: failed
                                           |                                  +- the request failed for good: failed
                                           +-- let go of unsent, or the budget took a part only: queued again

    The last call of a flight leaves (cancelled, or out of time): a flight that is not in a load is forgotten at once;
    a load that nobody waits for is let go of if it was not sent, and lands if it was (law 1: it is paid for).

There is one batching task as long as something waits: it takes what is there once it may send, and carries the last
load. A text that comes while no other query is on its way goes at once; what comes while some are gathers (`_queue.py`)
until a slot, the budget and the gate give leave.

Law 1: a cancelled `embed_query` gets its CancelledError at once, and what was sent lands in a task of the dispatcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from math import ceil, inf
from typing import Any

from aembed.coalesce._flights import (
    Flight,
    QueryBatch,
    QuerySpendLimit,
    Waiter,
    error_for_calls,
    held_back_error,
    reason_of,
    unavailable_error,
)
from aembed.coalesce._queue import Queue
from aembed.coalesce._timeouts import Timeouts
from aembed.core.cache import Cache
from aembed.core.changes import Entry, Fingerprinter, Item, oversize_error
from aembed.core.packing import totals
from aembed.core.pieces import combine_pieces
from aembed.counters import Measure
from aembed.dispatch import Answer, Answered, Dispatcher, Permit, Refused, SharedAnswer, Submission, Waiting
from aembed.errors import BudgetExceededError, OverloadedError, copy_error
from aembed.limits import Limits
from aembed.types import InputType, Record, Vector


class Coalescer:
    """The queries, or the single documents, of one Embedder on one event loop that are prepared alike; `vector` is
    its door."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        input_type: InputType,
        fingerprinter: Fingerprinter,
        measure: Measure,
        limits: Callable[[], Limits],
        *,
        cache: Cache,
        max_queue_size: int | None,
        spend_limit: QuerySpendLimit | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._input_type: InputType = input_type
        self._fingerprinter = fingerprinter
        self._measure = measure
        self._limits = limits
        self._cache = cache
        self._max_queue_size = inf if max_queue_size is None else max_queue_size
        self._flights: dict[bytes, Flight] = {}
        self._spend_limit = spend_limit
        self._queue = Queue(dispatcher)
        self._counting = 0
        self._batches_in_flight = 0
        self._batching: asyncio.Task[None] | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._timeouts = Timeouts(self._loop, self._expire)
        self._on_close = partial(self._loop.call_soon, self._give_up_early)
        dispatcher.call_on_close(self._on_close)

    def __repr__(self) -> str:
        return f"<Coalescer {self.waiting} waiting, {len(self._flights)} in all, {self._batches_in_flight} requests>"

    @property
    def waiting(self) -> int:
        """How many texts are not on their way yet."""
        return len(self._queue.flights) + self._counting

    async def vector(self, text: str, timeout: float) -> Vector:
        """The caller's own vector. Raises InputError, OverloadedError, UnavailableError, or what the provider said."""
        entry = self._make_entry(text)
        vector = self._cache.get(entry.fingerprint)
        if vector is not None:
            return vector
        # Law 7: while the provider is away everybody waits; a call that cannot wait so long hears it at once.
        closed = self._dispatcher.seconds_until_open
        if closed > timeout:
            raise held_back_error(closed)
        flight = self._flights.get(entry.fingerprint) or self._new_flight(entry)
        waiter: Waiter = self._loop.create_future()
        if flight.batch and not flight.waiters:
            flight.batch.want(+1)
        flight.waiters[waiter] = self._timeouts.start(waiter, timeout)
        try:
            return await waiter
        except BaseException:
            self._leave(flight, waiter)
            raise
        finally:
            self._timeouts.stop(waiter, timeout)

    def remembers(self, text: str) -> bool:
        """Whether its vector is in memory. Raises InputError."""
        return self._cache.get(self._make_entry(text).fingerprint) is not None

    def close(self) -> None:
        """Closes the door: who is not on the way hears it at once; what is on its way lands, and is not tried again."""
        self._closed = True
        flights = [*self._flights.values()]
        self._fail(
            [each for each in flights if not each.batch or each.batch.submission.waiting], asyncio.CancelledError()
        )
        for flight in flights:
            if flight.batch:
                flight.batch.submission.drop()

    # a call

    def _make_entry(self, text: str) -> Entry:
        """Raises InputError, which calls the text by its input type."""
        return self._fingerprinter.make_entry(0, Record(self._input_type, text))

    def _new_flight(self, entry: Entry) -> Flight:
        """Begins the flight of a text: it is queued at once, or after it was counted. Raises OverloadedError."""
        # Law 8: memory is bounded. A queue without an end would answer nobody in time.
        if (waiting := self.waiting) >= self._max_queue_size:
            # As long as the oldest has waited now, a new query would
            # wait as well; 0.1 s at the least, or callers would loop.
            oldest, error = self._queue.oldest, OverloadedError(f"{waiting:,} queries wait already; try again shortly")
            waited = self._loop.time() - oldest.since if oldest else 0.0
            error.retry_after = max(waited, self._dispatcher.seconds_until_open, 0.1)
            raise error
        item = self._measure.measure_quickly(entry)
        if item:
            self._check(item)
        flight = self._flights[entry.fingerprint] = Flight(entry.fingerprint, self._loop.time())
        if self._dispatcher.is_heard:
            flight.context = copy_context()
        if item:
            flight.item = item
            self._enqueue(flight)
        else:
            self._counting += 1
            self._dispatcher.start_task(self._count(flight, entry)).add_done_callback(self._note_count_end)
        return flight

    def _leave(self, flight: Flight, waiter: Waiter) -> None:
        """A call leaves its flight. A text that nobody waits for any more is not sent; one that is on its way lands."""
        if flight.waiters.pop(waiter, None) is None or flight.waiters:
            return
        if flight.batch:
            flight.batch.want(-1)
        else:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.fingerprint) is flight:
            del self._flights[flight.fingerprint]
        if self._queue.flights.get(flight.fingerprint) is flight:
            self._queue.remove(flight)
            if not self._queue.flights and self._batching:
                batching, self._batching = self._batching, None
                batching.cancel()

    def _expire(self, waiter: Waiter, timeout: float) -> None:
        waiter.set_exception(unavailable_error(f"no vector within {timeout:g} s", self._dispatcher.seconds_until_open))

    def _give_up_early(self) -> None:
        """Tells whoever cannot wait so long, and is not on the way, that the gate is closed or the request rests."""
        now, closed = self._loop.time(), self._dispatcher.seconds_until_open
        for flight in self._flights.values():
            if flight.batch and not flight.batch.submission.waiting:
                continue
            seconds = max(closed, flight.batch.submission.rests_until - now) if flight.batch else closed
            for waiter, deadline in flight.waiters.items():
                if deadline < now + seconds and not waiter.done():
                    waiter.set_exception(held_back_error(seconds))

    # the queue

    async def _count(self, flight: Flight, entry: Entry) -> None:
        """Counts the tokens of a long text in a thread, and queues it."""
        # Law 11: CPU work of more than 5 ms is done in a thread; tiktoken releases the interpreter.
        try:
            flight.item = await self._measure.measure(entry)
            self._check(flight.item)
        except BaseException as error:
            self._fail([flight], error)
            raise
        if flight.waiters:
            self._enqueue(flight)

    def _note_count_end(self, task: asyncio.Task[None]) -> None:
        self._counting -= 1

    def _check(self, item: Item) -> None:
        if error := oversize_error(item, self._limits()):
            raise error

    def _enqueue(self, flight: Flight) -> None:
        """Queues a text; one that a job has sent already waits for the job's answer instead."""
        if sent := self._dispatcher.find_sent(flight.item, self._input_type, self._measure.preparation):
            sent.add_done_callback(partial(self._take_shared_answer, flight))
        else:
            self._put_in_queue(flight)

    def _take_shared_answer(self, flight: Flight, sent: Waiting) -> None:
        """Takes over what the job was answered; where it has no answer, the text is sent after all."""
        outcome = None if sent.cancelled() else sent.result()
        if not flight.waiters or self._closed:
            self._forget(flight)
        elif isinstance(outcome, SharedAnswer):
            self._cache.put(flight.fingerprint, outcome.vector, flight.item.tokens)
            self._settle(flight, outcome.vector)
        elif outcome:
            self._fail([flight], outcome)
        else:
            self._put_in_queue(flight)

    def _put_in_queue(self, flight: Flight) -> None:
        self._queue.add(flight)
        if self._batching is None:
            self._batching = self._dispatcher.start_task(self._send_all())
            self._batching.add_done_callback(self._note_batching_end)

    async def _send_all(self) -> None:
        """The batching task, of which there is one as long as something waits.

        It takes what is there once it may send, gives each load to a task of its own, and carries the last one itself.
        """
        self._queue.parts = 0
        batch = await self._next_batch()
        others = bool(self._queue.flights)
        while self._queue.flights:
            self._note_departure(batch, self._dispatcher.start_task(self._send_batch(batch)))
            batch = await self._next_batch()
        batching, self._batching = self._batching, None
        assert batching is not None
        self._note_departure(batch, batching)
        if others:
            await asyncio.sleep(0)  # they leave before it, as they came
        await self._send_batch(batch)

    async def _next_batch(self) -> QueryBatch:
        if self._batches_in_flight and not self._queue.parts:
            await self._queue.gather()
        if self._spend_limit:
            await self._wait_until_affordable(self._spend_limit)
        assert self._queue.oldest is not None
        permit = await self._dispatcher.admit(self._queue.oldest.item.tokens, self._new_submission())
        left = self._spend_limit.tokens_left if self._spend_limit else inf
        return self._make_batch(self._queue.take(left, self._measure.most_cost), permit)

    async def _wait_until_affordable(self, spend_limit: QuerySpendLimit) -> None:
        """Waits until the oldest query can be afforded.

        It fails only once nothing is on its way any more: what that was noted with beyond its cost is free again then.
        """
        # Law 6: what can be refused is refused before money is spent, by the budget of queries here.
        while (oldest := self._queue.oldest) and (
            cost := ceil(self._measure.most_cost(oldest.item))
        ) > spend_limit.tokens_left:
            if self._batches_in_flight:
                await spend_limit.changed.wait()
            else:
                self._fail([oldest], spend_limit.exceeded_error(cost))
                await asyncio.sleep(0)  # with the last one the batching task is dismissed

    def _note_batching_end(self, batching: asyncio.Task[None]) -> None:
        """The batching task has ended. Its error is told to all who wait."""
        if self._batching is batching:
            self._batching = None
            self._fail([*self._queue.flights.values()], reason_of(batching))

    # a request

    def _make_batch(self, flights: Sequence[Flight], permit: Permit) -> QueryBatch:
        """Makes one request of flights; its leave was got for the oldest of them, and is grown to what it carries."""
        items = [flight.item for flight in flights]
        texts, tokens = totals(items)
        self._dispatcher.resize(permit, tokens, texts)
        submission = self._new_submission()
        submission.permit, submission.when_resting = permit, self._on_close
        # Calls that share a request may have a context each; the first of them is told.
        submission.wanted_since, submission.context = flights[0].since, flights[0].context
        batch = QueryBatch(submission, items, {flight.fingerprint: flight for flight in flights}, len(flights))
        for flight in flights:
            flight.batch = batch
        return batch

    def _new_submission(self) -> Submission:
        submission = Submission(
            self._input_type, self._measure.preparation, interactive=True, shorten=self._measure.shorten
        )
        if self._spend_limit:
            submission.spend_limit, submission.costs = self._spend_limit, self._measure
        return submission

    def _send_batch(self, batch: QueryBatch) -> Coroutine[Any, Any, None]:
        return self._dispatcher.send(batch.items, batch.submission, partial(self._deliver, batch))

    def _note_departure(self, batch: QueryBatch, task: asyncio.Task[None]) -> None:
        self._batches_in_flight += 1
        task.add_done_callback(partial(self._note_batch_end, batch))

    async def _deliver(self, batch: QueryBatch, answer: Answer) -> None:
        flights = [batch.flights.pop(item.entry.fingerprint) for item in answer.items]
        wanted = sum([bool(flight.waiters) for flight in flights])
        match answer:
            case Answered(items, reply):
                for flight, item, vector in zip(flights, items, combine_pieces(items, reply.matrix), strict=True):
                    self._cache.put(flight.fingerprint, vector, item.tokens)
                    self._settle(flight, vector)
            case Refused(error=error):
                self._fail(flights, error)
        batch.want(-wanted)

    def _note_batch_end(self, batch: QueryBatch, task: asyncio.Task[None]) -> None:
        """A load has ended. What was not answered shares its error, unless it was let go of and a call has joined."""
        self._batches_in_flight -= 1
        if not self._batches_in_flight:
            self._queue.ripe.set()
        if self._spend_limit:
            self._spend_limit.changed.tell()
        # The budget refused the load, while a part of it may go now, or all of it once others have landed.
        refused = not task.cancelled() and isinstance(task.exception(), BudgetExceededError)
        may_go_again = refused and (len(batch.flights) > 1 or self._batches_in_flight > 0)
        if self._closed or not (batch.submission.dropped or may_go_again):
            self._fail([*batch.flights.values()], reason_of(task))
            return
        for flight in batch.flights.values():
            flight.batch = None
            if flight.waiters:
                self._enqueue(flight)
            else:
                self._forget(flight)

    def _settle(self, flight: Flight, vector: Vector) -> None:
        """Gives each call of the flight a vector of its own."""
        # A call that was cancelled has a future that is done: to set its result would raise, and leave others hanging.
        self._forget(flight)
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_result(vector.copy())
        flight.waiters.clear()

    def _fail(self, flights: Iterable[Flight], reason: BaseException) -> None:
        error = error_for_calls(reason, closed=self._closed, held_back_for=self._dispatcher.seconds_until_open)
        for flight in flights:
            self._forget(flight)
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_exception(copy_error(error))
            flight.waiters.clear()
