"""One job: a task that reads, a task that cuts batches, and a task for each batch on its way.

source -> Feed -> _admit (skip known, dedup, measure) -> Window -> _launch -> Dispatcher -> _deliver -> Sink
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import numpy as np

from aembed.core.changes import Entry, Fingerprinter, Item, oversize
from aembed.core.packing import Cap, Window, share
from aembed.core.pieces import combined
from aembed.core.progress import CALL_SECONDS, Tally
from aembed.counters import Measure
from aembed.dispatch import Answer, Answered, Deliver, Errand, Refused
from aembed.errors import AembedError, BudgetExceededError, InputError, SourceError, StoreError
from aembed.pipeline.reading import Feed, Read
from aembed.pipeline.sinks import Sink
from aembed.types import Failure, Known, Limits, Matrix, Progress, Refusal, Report

logger = logging.getLogger("aembed")

LINGER = 0.02
"""Seconds that a batch which is not full waits for a slow source."""
WINDOW_BATCHES = 16
"""Full batches read ahead at the most; fewer where concurrency is lower."""
DRAIN_TIMEOUT = 30.0
"""Seconds that a cancelled job waits for what it has sent (law 1)."""
PIECE_BYTES = 4_000_000
"""Hashed before the loop may do something else: about 5 ms (law 11)."""


@dataclass(frozen=True, slots=True)
class Observers:
    """The caller's own functions. What they raise is logged and does not touch the job."""

    on_progress: Callable[[Progress], object] | None = None
    on_failure: Callable[[Failure], object] | None = None


class Sender(Protocol):
    """What a job needs of a Dispatcher; the dry run has one that sends nothing."""

    concurrency: int

    @property
    def cap(self) -> Cap: ...
    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    async def send(self, batch: Sequence[Item], errand: Errand, deliver: Deliver) -> None: ...


class Job:
    def __init__(
        self,
        dispatcher: Sender,
        sink: Sink,
        fingerprinter: Fingerprinter,
        measure: Measure,
        limits: Limits,
        tally: Tally,
        observers: Observers = Observers(),
        max_tokens: float | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._sink = sink
        self._fingerprinter = fingerprinter
        self._measure = measure
        self._limits = limits
        self._observers = observers
        self._max_tokens = max_tokens
        self._reserved_tokens = 0.0
        self.tally = tally
        self._errand = Errand(fingerprinter.input_type)
        self._window = Window[Item]()
        self._live: dict[bytes, Item] = {}
        self._digests: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._permits = anyio.Semaphore(dispatcher.concurrency)
        self._new_failures: list[Failure] = []
        self._changed = anyio.Event()
        self._ended = False
        self._shared: tuple[Cap, int] | None = None
        self._offered = Cap(0, 0.0)
        self._launched = 0
        self._error: AembedError | None = None
        self._stopped = False
        self._reported = float("-inf")

    async def run(self, feed: Feed) -> Report:
        """Raises what stopped the job, with `.report`; a failed text stops nothing."""
        self._feed = feed
        try:
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                group.start_soon(feed.fill)
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
            self._report_progress(last=True)
            self._observers = Observers()
        report = self.report()
        if self._error:
            self._error.report = report
            raise self._error
        return report

    def report(self) -> Report:
        return self.tally.report(_now())

    def abandon(self) -> None:
        """Lets go of all that is not on its way."""
        self._stopped = True
        self._errand.drop()

    # 1 to 3: read, skip known, measure

    async def _read(self) -> None:
        try:
            async for chunk in self._feed.chunks():
                await self._admit(chunk)
                self._notify()
        except SourceError as error:
            # What was read before is finished and kept; the error comes out at the end.
            self._error = error
        except Exception as error:
            self._stop(error)
        self._ended = True
        self._notify()

    async def _admit(self, chunk: Sequence[tuple[int, Read]]) -> None:
        self.tally.inputs += len(chunk)
        entries = await self._entries(chunk)
        known = await self._sink.known(entries) if entries else Known()
        entries = [entry for entry in entries if not self._settled(entry, known)]
        entries = [entry for entry in entries if not self._joined(entry)]
        await self._reuse(entries)
        refused = []
        for entry in entries:
            if not self._joined(entry) and (error := await self._offer(entry)):
                refused.append((entry, error))
        await self._refuse(refused)
        await self._flush_failures()
        self._report_progress()

    async def _entries(self, chunk: Sequence[tuple[int, Read]]) -> list[Entry]:
        entries, hashed_bytes = [], 0
        for index, read in chunk:
            if entry := self._entry(index, read):
                entries.append(entry)
                hashed_bytes += entry.size_bytes
            if hashed_bytes >= PIECE_BYTES:
                await anyio.lowlevel.checkpoint()
                hashed_bytes = 0
        return entries

    def _entry(self, index: int, read: Read) -> Entry | None:
        if isinstance(read, Failure):
            self._fail([Failure(read.id, index, read.error)])
            return None
        try:
            entry = self._fingerprinter.entry(index, read)
        except InputError as error:
            self._fail([Failure(str(read.id), index, error)])
            return None
        if refusal := self._sink.reject(read) or self._contradiction(entry):
            self._fail([Failure(read.id, index, refusal)])
            return None
        return entry

    def _contradiction(self, entry: Entry) -> InputError | None:
        """The same id twice is one row; with another text or other metadata it is a mistake."""
        first = self._digests.setdefault(entry.record.id, entry.digest)
        if first == entry.digest:
            return None
        return InputError(f"the id {entry.record.id!r} was given before with another text; give each text its own id")

    def _settled(self, entry: Entry, known: Known) -> bool:
        if entry.record.id in known.unchanged:
            self.tally.unchanged += 1
            self._forget([entry])
            return True
        if refusal := known.refused.get(entry.record.id):
            self.tally.refused_earlier += 1
            self._fail_entries([(entry, _refused_earlier(refusal))])
            return True
        return False

    def _joined(self, entry: Entry) -> bool:
        """Whether an equal text is on its way: it will be paid for once."""
        item = self._live.get(entry.fingerprint)
        if item is None:
            return False
        item.entries.append(entry)
        self.tally.duplicates += 1
        return True

    async def _reuse(self, entries: list[Entry]) -> None:
        """Writes the texts whose vector was paid for already, and takes them off the list."""
        paid = await self._sink.paid({entry.fingerprint for entry in entries}) if entries else {}
        if not paid:
            return
        found = [entry for entry in entries if entry.fingerprint in paid]
        entries[:] = [entry for entry in entries if entry.fingerprint not in paid]
        await self._write(found, np.stack([paid[entry.fingerprint] for entry in found]))

    async def _offer(self, entry: Entry) -> AembedError | None:
        """Returns why the text cannot be sent."""
        try:
            item = self._measure.quick(entry) or await self._measure.counted(entry)
        except InputError as error:
            return error
        if too_large := oversize(item, self._limits):
            return too_large
        self._live[entry.fingerprint] = item
        self._window.add(item)
        self._offered = Cap(self._offered.inputs + item.inputs, self._offered.tokens + item.tokens)
        if self._window.is_full(self._cap()):
            self._notify()
        while self._window.is_full(self._cap(), self._window_batches):
            await self._changed.wait()
        return None

    # 4: pack

    async def _send(self) -> None:
        while True:
            await self._permits.acquire()
            batch = await self._next_batch()
            if not batch:
                return
            self._launch(batch)

    async def _next_batch(self) -> list[Item]:
        while not self._window.is_full(self._cap()):
            if self._ended:
                return self._last_batch()
            if len(self._window):
                with anyio.move_on_after(LINGER) as waited:
                    await self._changed.wait()
                if waited.cancelled_caught and self._feed.starved:
                    return self._window.take(self._cap())
            else:
                await self._changed.wait()
        return self._last_batch() if self._ended else self._window.take(self._cap())

    def _last_batch(self) -> list[Item]:
        if not len(self._window):
            return []
        cap = self._cap()
        if not self._shared or self._shared[0] != cap:
            self._shared = cap, self._share(cap)
        batches = self._shared[1]
        self._shared = cap, batches - 1
        return self._window.take(cap, max(1, batches))

    def _share(self, cap: Cap) -> int:
        """How many batches to make of the rest: full waves, and at most `concurrency` requests above the least."""
        slots = self._dispatcher.concurrency
        least = self._window.least_batches(cap)
        spare = slots + cap.least_batches(self._offered.inputs, self._offered.tokens) - self._launched - least
        return min(share(least, self._window.tokens, slots), least + max(0, spare))

    def _launch(self, batch: list[Item]) -> None:
        self._launched += 1
        self._notify()
        try:
            self._reserve(batch)
        except BudgetExceededError as error:
            # The batches before this one are within the budget: they are sent and stored.
            self._close(error)
            return
        task = self._dispatcher.own(self._carry(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reserve(self, batch: Sequence[Item]) -> None:
        """Law 6: what would exceed the budget is not sent."""
        tokens = sum(item.tokens for item in batch)
        spent = self.tally.billed_tokens + self._reserved_tokens
        if self._max_tokens is not None and spent + tokens > self._max_tokens:
            raise BudgetExceededError(
                f"the next request needs about {tokens:,.0f} tokens and {max(0, self._max_tokens - spent):,.0f} "
                "are left of the budget; raise it and run the same again"
            )
        self._reserved_tokens += tokens

    async def _carry(self, batch: list[Item]) -> None:
        try:
            await self._dispatcher.send(batch, self._errand, self._deliver)
        except Exception as error:
            self._stop(error)
        finally:
            self._permits.release()
            # A reply may have changed how much fits in a batch, and so in the window.
            self._notify()

    # 8 and 9: store, report

    async def _deliver(self, answer: Answer) -> None:
        match answer:
            case Answered(items, reply):
                # A reply that does not say what it cost is counted as the provider estimates it.
                estimate = sum(item.tokens for item in items)
                self.tally.billed_tokens += round(estimate) if reply.usage.tokens is None else reply.usage.tokens
                self._reserved_tokens -= estimate
                await self._settle(items, combined(items, reply.matrix))
            case Refused(items, error):
                self._reserved_tokens -= sum(item.tokens for item in items)
                # Equal texts may join while the refusal is written.
                while entries := [entry for item in items for entry in _taken(item)]:
                    await self._refuse([(entry, error) for entry in entries])
                self._retire(items)
        await self._flush_failures()
        self._report_progress()

    async def _settle(self, items: Sequence[Item], matrix: Matrix) -> None:
        """Writes until no entry waits for these vectors; equal texts may join while a write is under way."""
        while waiting := [(row, entry) for row, item in enumerate(items) for entry in _taken(item)]:
            rows = [row for row, _ in waiting]
            await self._write(
                [entry for _, entry in waiting], matrix if rows == list(range(len(items))) else matrix[rows]
            )
        self._retire(items)

    async def _write(self, entries: list[Entry], matrix: Matrix) -> None:
        written = await self._sink.write(entries, matrix)
        self.tally.stored += written
        self._forget(entries)

    async def _refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        await self._sink.refuse(refused)
        self._fail_entries(refused)

    def _fail_entries(self, failed: Sequence[tuple[Entry, AembedError]]) -> None:
        self._fail([Failure(entry.record.id, entry.index, error) for entry, error in failed])
        self._forget([entry for entry, _ in failed])

    def _fail(self, failures: Sequence[Failure]) -> None:
        self.tally.fail(failures)
        self._new_failures += failures
        for failure in failures:
            self._call(self._observers.on_failure, failure)

    async def _flush_failures(self) -> None:
        failures, self._new_failures = self._new_failures, []
        if failures:
            await self._sink.fail(failures)

    def _retire(self, items: Sequence[Item]) -> None:
        for item in items:
            self._live.pop(item.fingerprint, None)

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Law 8: a stream remembers the ids of its window, a list all of them."""
        if self.tally.total is None:
            for entry in entries:
                self._digests.pop(entry.record.id, None)

    # endings

    def _stop(self, error: Exception) -> None:
        """No further request; what is on its way lands."""
        self._errand.drop()
        self._close(error)

    def _close(self, error: Exception) -> None:
        """No further batch. The first error is the one that comes out."""
        stopping = error if isinstance(error, AembedError) else _unexpected(error)
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

    def _cap(self) -> Cap:
        return self._dispatcher.cap

    @property
    def _window_batches(self) -> int:
        return min(self._dispatcher.concurrency, WINDOW_BATCHES) + 1

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _report_progress(self, *, last: bool = False) -> None:
        self.tally.requests, self.tally.retries = self._errand.requests, self._errand.retries
        now = _now()
        if last or now - self._reported >= CALL_SECONDS:
            self._reported = now
            self._call(self._observers.on_progress, self.tally.progress(now))

    def _call(self, observer: Callable[[Any], object] | None, value: object) -> None:
        if observer is None:
            return
        try:
            observer(value)
        except Exception:
            logger.exception("%r raised; the job goes on", observer)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _unexpected(error: Exception) -> AembedError:
    logger.error("the job ended in an unexpected error", exc_info=error)
    stopping = AembedError(f"unexpected {type(error).__name__}")
    stopping.__cause__ = error
    return stopping


def _taken(item: Item) -> list[Entry]:
    entries, item.entries = item.entries, []
    return entries


def _refused_earlier(refusal: Refusal) -> AembedError:
    return InputError(f"refused earlier ({refusal.error}): {refusal.message}")
