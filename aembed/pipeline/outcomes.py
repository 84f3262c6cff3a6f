"""This module tells the sink, the tally and the caller what becomes of each entry (stages 8 and 9).

Law 4: every input ends in exactly one of stored, unchanged, failed (with a typed reason), pending (the job stopped
early) and, in a batch job, submitted. "Stored" was seen in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import anyio
import anyio.lowlevel

from aembed.core.changes import Entry, Item, Key
from aembed.core.progress import CALL_SECONDS, TICK_SECONDS, Tally
from aembed.errors import (
    AembedError,
    BadRequestError,
    InputError,
    InvalidReplyError,
    RowsRefusedError,
    UnavailableError,
)
from aembed.pipeline.observing import PATIENCE, ObserverCalls, Observers
from aembed.pipeline.sinks import Sink
from aembed.results import Failure
from aembed.types import Known, Matrix, Record, Refusal

# Chosen: the ticker asks the clock again no sooner, so that a clock that stands still does not keep the loop busy.
LEAST_SLEEP = 0.01
"""Seconds that the ticker sleeps at the least."""
# Law 8: memory is bounded. Chosen: ten MB of errors or so. With
# fewer, an equal text may be sent, and refused, once more.
MOST_REFUSED = 10_000
"""So many texts that the provider refused are remembered."""
# Chosen: a full request of OpenAI, whose rows are written at once, too. Larger, each write would hold up the loop.
MOST_EQUALS = 2_048
"""So many copies of texts are written at once."""


class Outcomes:
    """The endings of a job's entries: each one is stored, unchanged or failed exactly once; what is not is pending."""

    def __init__(self, sink: Sink, tally: Tally, observers: Observers) -> None:
        self.tally = tally
        self.refused: dict[Key, AembedError] = {}
        """Why the provider refused texts in this run, so that an equal one is not sent again; the last MOST_REFUSED."""
        self._sink = sink
        self._observers = observers
        self._observer_calls = ObserverCalls(observers)
        self.on_their_way: set[Key] = set()
        """What is sent: equal texts join these."""
        self._joined: dict[Key, list[Entry]] = {}
        self._held: dict[str, bytes | Record] = {}
        self._untold: list[Failure] = []
        self._reported = float("-inf")
        self._ticker: asyncio.Task[None] | None = None

    # equal texts and equal ids

    def join(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries that have no equal on its way; the others join theirs, so that a text is paid for once."""
        new = []
        for entry in entries:
            if entry.key in self.on_their_way:
                self.join_equal(entry)
            else:
                new.append(entry)
        return new

    def join_equal(self, entry: Entry) -> None:
        self._joined.setdefault(entry.key, []).append(entry)
        self.tally.duplicates += 1

    def contradiction_error(self, entry: Entry) -> InputError | None:
        """The error for an id that came before with another text or other metadata; an equal record is one row."""
        if self._sink.numbered:
            return None
        record = entry.record
        holds = entry.digest or record
        if self._held.setdefault(record.id, holds) == holds:
            return None
        return InputError(f"the id {record.id!r} was given before with another text; give each text its own id")

    # endings of an entry

    def unsettled_entries(self, entries: list[Entry], known: Known) -> list[Entry]:
        """The entries that the store does not hold as they are, and has not refused before."""
        if not known.unchanged and not known.refused:
            return entries
        unsettled: list[Entry] = []
        for entry in entries:
            if entry.record.id in known.unchanged:
                self.tally.unchanged += 1
                self._forget([entry])
            elif refusal := known.refused.get(entry.record.id):
                self.tally.refused_earlier += 1
                self._fail_entries([(entry, _earlier_refusal_error(refusal))])
            else:
                unsettled.append(entry)
        return unsettled

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> None:
        """Writes vectors: row i of the matrix belongs to entries[i]."""
        # Law 1: one request = one owned task = one reply = one short store transaction. Law 2: no transaction is open
        # while a request is under way: it begins and ends inside of this call.
        refused: Mapping[str, AembedError] = {}
        try:
            written = await self._sink.write(entries, matrix, model)
        except RowsRefusedError as error:
            refused, written = error.rows, error.written
        # Not in one statement: that would read the tally before a wait in which other writes are counted.
        self.tally.stored += written
        self._forget(entries)
        if refused:
            await self.refuse([(entry, refused[entry.record.id]) for entry in entries if entry.record.id in refused])

    async def write_items(self, items: Sequence[Item], matrix: Matrix, model: str = "") -> None:
        """Writes vectors of items, row i for items[i], and of equal texts that join while a write is under way."""
        rows, entries = self._take_equals(items)
        now, some = _cut_off(rows, entries)
        all_rows = matrix[[*range(len(items)), *now]] if now else matrix
        await self.write([item.entry for item in items] + some, all_rows, model)
        await self._write_equals(rows, entries, matrix, model)
        while (taken := self._take_equals(items))[0]:
            await self._write_equals(*taken, matrix, model)
        self._note_arrived(items)

    async def _write_equals(self, rows: list[int], entries: list[Entry], matrix: Matrix, model: str = "") -> None:
        """Writes entries[i] with row rows[i] of the matrix, and empties both; a text that came a million times is
        written, and freed, in parts."""
        while rows:
            some_rows, some = _cut_off(rows, entries)
            await self.write(some, matrix[some_rows], model)
            await anyio.lowlevel.checkpoint()

    async def write_found(self, items: Sequence[Item], matrix: Matrix, known: Known) -> None:
        """Takes over texts that other jobs have written, some for the very same records. Row i belongs to items[i]."""
        there = [item.entry.record.id in known.unchanged for item in items]
        unchanged = [row for row, is_there in enumerate(there) if is_there]
        changed = [row for row, is_there in enumerate(there) if not is_there]
        if changed:
            await self.write_items([items[row] for row in changed], matrix[changed])
        settled = [items[row] for row in unchanged]
        self.tally.unchanged += len(settled)
        self._forget([item.entry for item in settled])
        while (taken := self._take_equals(settled))[0]:
            await self._write_equals(*taken, matrix[unchanged])
        self._note_arrived(settled)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        for entry, error in refused:
            if isinstance(error, BadRequestError | InvalidReplyError | UnavailableError):
                self.refused[entry.key] = error
        while len(self.refused) > MOST_REFUSED:
            del self.refused[next(iter(self.refused))]
        await self._sink.refuse(refused)
        self._fail_entries(refused)

    async def refuse_items(self, items: Sequence[Item], error: AembedError) -> None:
        entries = [item.entry for item in items]
        while entries := entries + self._take_equals(items)[1]:
            await self.refuse([(entry, error) for entry in entries])
            entries = []
        self._note_arrived(items)

    async def put_aside(self, items: Sequence[Item], *, is_out: bool) -> None:
        """The items are out in a batch, with their equals, and a later run writes them; or they stay pending, as there
        is no room for them in the provider's queue."""
        entries = [item.entry for item in items] + self._take_equals(items)[1]
        if is_out:
            self.tally.submitted += len(entries)
            await self._sink.note_submitted(entries, is_known=True)
        else:
            self._sink.note_left(entries)
        self._forget(entries)
        self._note_arrived(items)

    async def note_refused_elsewhere(self, item: Item, refusal: Refusal) -> None:
        """The item was refused to another job, which has kept that in the store."""
        error, entries = _earlier_refusal_error(refusal), [item.entry]
        while entries := entries + self._take_equals([item])[1]:
            self.tally.refused_earlier += len(entries)
            self._fail_entries([(entry, error) for entry in entries])
            entries = []
        self._note_arrived([item])

    def leave_pending(self, item: Item) -> Item | None:
        """Its row stays pending: nothing was sent for it. Returns an equal text of another row, if there is one."""
        self._sink.note_left([item.entry])
        self._forget([item.entry])
        equals = self._joined.pop(item.entry.key, [])
        if not equals:
            self._note_arrived([item])
            return None
        first, *rest = equals
        if rest:
            self._joined[item.entry.key] = rest
        self.tally.duplicates -= 1
        return Item(first, item.texts, item.tokens, item.weights)

    def _take_equals(self, items: Sequence[Item]) -> tuple[list[int], list[Entry]]:
        """The entries of equal texts that have joined since, each with the row of its item."""
        rows: list[int] = []
        entries: list[Entry] = []
        for row, item in enumerate(items if self._joined else ()):
            equals = self._joined.pop(item.entry.key, ())
            rows += [row] * len(equals)
            entries += equals
        return rows, entries

    def fail(self, failure: Failure) -> None:
        """Counts and tells a failure; also one of an input that never became an entry."""
        self.tally.fail([failure])
        self._untold.append(failure)
        self._observer_calls.tell_failure(failure)

    def _fail_entries(self, failed: Sequence[tuple[Entry, AembedError]]) -> None:
        for entry, error in failed:
            self.fail(Failure(entry.record.id, entry.index, error))
        self._forget([entry for entry, _ in failed])

    def _note_arrived(self, items: Sequence[Item]) -> None:
        self.on_their_way.difference_update([item.entry.key for item in items])

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Forgets ids that came to their end, where the length of the input is not known."""
        # Law 8: memory is bounded by the window. There is exact dedup for a list; in a stream within the window, and
        # beyond it by the store.
        if self.tally.total is None:
            for entry in entries:
                self._held.pop(entry.record.id, None)

    # to the caller

    async def tell(self) -> None:
        failures, self._untold = self._untold, []
        if failures:
            await self._sink.fail(failures)
        if self._observers.on_progress:
            self._tell_progress(CALL_SECONDS)
        if self._observers.on_failure:
            await self._observer_calls.wait_for_room()

    def follow(self, refresh: Callable[[], None]) -> None:
        """Whoever follows the job sees that it lives, and what it waits for, also while nothing comes."""
        if self._observers.on_progress:
            self._ticker = asyncio.get_running_loop().create_task(self._tick(refresh))

    async def _tick(self, refresh: Callable[[], None]) -> None:
        while True:
            due = self._reported + TICK_SECONDS - asyncio.get_running_loop().time()
            await asyncio.sleep(min(max(due, LEAST_SLEEP), TICK_SECONDS))
            refresh()
            self._tell_progress(TICK_SECONDS)

    def _tell_progress(self, since: float) -> None:
        """Tells the progress, unless it was told less than so many seconds ago."""
        now = asyncio.get_running_loop().time()
        if now - self._reported >= since:
            self._reported = now
            self._observer_calls.tell_progress(self.tally.make_progress(now))

    async def tell_last(self, *, patience: float = PATIENCE) -> None:
        ticker, self._ticker = self._ticker, None
        if ticker:
            ticker.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ticker])
        follows = self._observers.on_progress is not None
        last = self.tally.report(asyncio.get_running_loop().time()) if follows else None
        await self._observer_calls.finish(last, patience=patience)


def _cut_off(rows: list[int], entries: list[Entry]) -> tuple[list[int], list[Entry]]:
    """Takes as many off their ends as are written at once."""
    some = rows[-MOST_EQUALS:], entries[-MOST_EQUALS:]
    del rows[-MOST_EQUALS:], entries[-MOST_EQUALS:]
    return some


def _earlier_refusal_error(refusal: Refusal) -> AembedError:
    return InputError(f"refused earlier ({refusal.error}): {refusal.message}")
