"""This module keeps a column filled: it looks again and again for rows that became pending, until it is cancelled.

A look reads what is pending and fills it, in one pass. Every `recheck` seconds a look is at everything, whatever the
backlog sees by itself; from then on rows that failed may be tried again. What the provider or the database does in an
outage ends no watch: it goes on once both are back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from math import inf
from typing import NoReturn, TypeAlias

import anyio

from aembed.core.progress import Tally
from aembed.errors import (
    AembedError,
    OutageError,
    RowRefusedError,
    RowsRefusedError,
    SpaceMismatchError,
    StoppedError,
    StoreError,
)
from aembed.pipeline.backfilling import Passes, raise_plainly
from aembed.pipeline.observing import ObserverCalls, Observers, OnFailure, OnProgress
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Backlog, Looks, Watched
from aembed.results import Failure, Report
from aembed.stores._rules import ClosedError
from aembed.types import Record, Rows

logger = logging.getLogger("aembed")

# Chosen: at most 1 % of a core. Larger, a table without an index of its empty rows is read for most of the time.
REST = 99.0
"""After a look that found nothing the watch rests for so many times as long as that took."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries after an outage has ended a look, at first and at the most."""
FOR_GOOD = (SpaceMismatchError, RowRefusedError, RowsRefusedError, ClosedError)
"""What no wait mends: vectors, or rows, that the table does not take, and a column that was closed."""

PendingRows: TypeAlias = AsyncIterator[Record | Failure]
Filling: TypeAlias = Callable[[Passes], AbstractAsyncContextManager[Callable[[PendingRows], Awaitable[Report]]]]


class PolledLooks:
    """Looks at a backlog that tells nothing: each reads all that is pending."""

    def __init__(self, backlog: Backlog, poll: float) -> None:
        self._backlog = backlog
        self.delay = f"rows are looked for every {poll:g} s"

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pending(self, *, everything: bool) -> AsyncIterator[Record]:
        return self._backlog.pending()

    async def note_seen(self, left: AbstractSet[str]) -> None:
        return None


def look_at(backlog: Backlog, poll: float, recheck: float) -> AbstractAsyncContextManager[Looks]:
    if isinstance(backlog, Watched):
        return backlog.watch(poll=poll, recheck=recheck)
    return nullcontext(PolledLooks(backlog, poll))


class Watching:
    """`filling` fills what a pass reads, in one job; `prepare` checks the column again after an outage."""

    def __init__(
        self,
        backlog: Backlog,
        looks: Looks,
        tally: Tally,
        on_progress: OnProgress | None,
        on_failure: OnFailure | None,
        filling: Filling,
        prepare: Callable[[], Awaitable[object]],
        poll: float,
        recheck: float,
    ) -> None:
        self._backlog, self._looks, self._tally = backlog, looks, tally
        self._on_progress, self._on_failure = on_progress, on_failure
        self._filling, self._prepare = filling, prepare
        self._poll, self._recheck = poll, recheck
        self._passes = self._make_passes()
        self._recheck_at = -inf
        self._everything = self._found = self._closed = False
        self._broken = False
        """Whether an outage has ended the look before."""
        self._unsaved: list[Rows] = []
        """What was paid for and could not be written then."""
        self._scope: anyio.CancelScope | None = None

    def close(self) -> None:
        """The Embedder closes: `run` raises StoppedError."""
        self._closed = True
        if self._scope:
            self._scope.cancel()

    def report(self) -> Report:
        return self._tally.report(asyncio.get_running_loop().time())

    async def run(self) -> NoReturn:
        """Until it is cancelled, or until something happens that no wait mends, which is raised."""
        pause, is_told = FIRST_PAUSE, False
        while True:
            try:
                if self._broken:
                    await self._recover()
                rest = await self._look()
            except (OutageError, StoreError) as error:
                if isinstance(error, FOR_GOOD):
                    raise
                self._broken = True
                if isinstance(error, StoreError):
                    # What told of changes may have been away, too, or is another database now.
                    self._recheck_at = -inf
                self._unsaved += getattr(error, "unsaved", ())
                logger.warning("%s: %s; the next look is in %.0f s", type(error).__name__, error, pause)
                await self._tell(f"{type(error).__name__}, the next look is in {pause:.0f} s")
                await self._wait(asyncio.sleep, pause)
                pause, is_told = min(2 * pause, LONGEST_PAUSE), False
                continue
            pause = FIRST_PAUSE
            if self._found or not is_told:
                await self._tell(f"watching: {self._looks.delay}")
                is_told = True
            await self._wait(self._looks.wait, rest)

    async def _look(self) -> float:
        """Fills what is pending. Returns the seconds until the next look."""
        loop = asyncio.get_running_loop()
        began, self._found = loop.time(), False
        self._everything = began >= self._recheck_at
        if self._everything:
            self._passes = self._make_passes()
        took = 0.0
        async with aclosing(self._passes.records()) as records:
            first = await anext(records, None)
            if first is None:
                took = 0.0 if self._everything else loop.time() - began
            else:
                self._found = True
                await self._fill_from(first, records)
        await self._looks.note_seen(self._passes.given_up)
        self._passes.count_again()
        if self._everything:
            # After its end: one that takes longer than that is no reason for the next.
            self._recheck_at = loop.time() + self._recheck
        return max(0.0, min(max(self._poll, REST * took), self._recheck_at - loop.time()))

    async def _fill_from(self, first: Record | Failure, rest: PendingRows) -> None:
        async def rows() -> PendingRows:
            yield first
            async for record in rest:
                yield record

        try:
            with raise_plainly():
                async with self._filling(self._passes) as fill:
                    await fill(rows())
        except AembedError as error:
            # That all of them failed, for one reason, stops a job and no watch: others will come.
            if not error.report or error.report.failed < error.report.inputs:
                raise

    async def _recover(self) -> None:
        """Raises what speaks against the column by now. Writes what was paid for before, where its text is the same."""
        self._passes.count_again()
        self._passes = self._make_passes()
        await self._prepare()
        while self._unsaved:
            rows = self._unsaved[-1]
            try:
                filled = await await_store(self._backlog.write(rows.ids, rows.texts, rows.matrix))
            except RowsRefusedError as error:
                filled = error.written
            self._unsaved.pop()
            self._tally.inputs += filled
            self._tally.stored += filled
        self._broken = False

    def _make_passes(self) -> Passes:
        def pending(limit: int | None) -> AsyncIterator[Record]:
            return self._looks.pending(everything=self._everything)

        return Passes(pending, self._tally, None, self._on_failure, _watched=True)

    async def _tell(self, waiting: str) -> None:
        """Tells how far it is, and what is waited for."""
        calls = ObserverCalls(Observers(self._on_progress))
        self._tally.waiting = waiting
        await calls.finish(self._tally.make_progress(asyncio.get_running_loop().time()))

    async def _wait(self, wait: Callable[[float], Awaitable[object]], seconds: float) -> None:
        with anyio.CancelScope() as self._scope:
            if not self._closed:
                await wait(seconds)
        self._scope = None
        if self._closed:
            error = StoppedError("the Embedder was closed; rows that come are filled by the next run")
            error.report = self.report()
            raise error
