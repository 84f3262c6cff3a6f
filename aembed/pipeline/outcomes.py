"""Stages 8 and 9: what becomes of each entry, told to the sink, to the tally and to the caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aembed.core.changes import Entry, Item
from aembed.core.progress import CALL_SECONDS, Tally
from aembed.errors import AembedError, BadRequestError, InputError, InvalidReplyError
from aembed.pipeline.sinks import Sink
from aembed.results import Progress
from aembed.types import Failure, Known, Matrix, Refusal

logger = logging.getLogger("aembed")

MOST_REFUSED = 10_000
"""Texts that the provider refused: remembered, so that an equal one is not sent."""


@dataclass(frozen=True, slots=True)
class Observers:
    """The caller's own functions. What they raise is logged and does not touch the job."""

    on_progress: Callable[[Progress], object] | None = None
    on_failure: Callable[[Failure], object] | None = None


class Outcomes:
    """Law 4: every entry ends in exactly one of stored, unchanged and failed; those that do not are pending."""

    def __init__(self, sink: Sink, tally: Tally, observers: Observers) -> None:
        self.tally = tally
        self._sink = sink
        self._observers = observers
        self._on_their_way: dict[bytes, Item] = {}
        self._refused: dict[bytes, AembedError] = {}
        self._digests: dict[str, bytes] = {}
        self._untold: list[Failure] = []
        self._reported = float("-inf")

    # equal texts and equal ids

    def send(self, item: Item) -> None:
        """From now on equal texts join this item."""
        self._on_their_way[item.fingerprint] = item

    def joined(self, entry: Entry) -> bool:
        """Whether an equal text is on its way: it will be paid for once."""
        item = self._on_their_way.get(entry.fingerprint)
        if item is None:
            return False
        item.entries.append(entry)
        self.tally.duplicates += 1
        return True

    def refusal(self, entry: Entry) -> AembedError | None:
        """Why an equal text was refused by the provider in this run: it is not sent again."""
        return self._refused.get(entry.fingerprint)

    def contradiction(self, entry: Entry) -> InputError | None:
        """The same id twice is one row; with another text or other metadata it is a mistake."""
        first = self._digests.setdefault(entry.record.id, entry.digest)
        if first == entry.digest:
            return None
        return InputError(f"the id {entry.record.id!r} was given before with another text; give each text its own id")

    # endings of an entry

    def settled(self, entry: Entry, known: Known) -> bool:
        """Whether the store knows all there is to know of it."""
        if entry.record.id in known.unchanged:
            self.tally.unchanged += 1
            self._forget([entry])
            return True
        if refusal := known.refused.get(entry.record.id):
            self.tally.refused_earlier += 1
            self._fail_entries([(entry, _refused_earlier(refusal))])
            return True
        return False

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> None:
        """Row i of the matrix belongs to entries[i]."""
        written = await self._sink.write(entries, matrix, model)
        # Not in one statement: that would read the tally before a wait in which other writes are counted.
        self.tally.stored += written
        self._forget(entries)

    async def write_items(self, items: Sequence[Item], matrix: Matrix, model: str = "") -> None:
        """Row i belongs to items[i]. Equal texts may join while a write is under way: they are written, too."""
        while waiting := _taken(items):
            rows, entries = waiting
            in_order = rows == list(range(len(items)))
            await self.write(entries, matrix if in_order else matrix[rows], model)
        self._arrived(items)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        self._remember(refused)
        await self._sink.refuse(refused)
        self._fail_entries(refused)

    async def refuse_items(self, items: Sequence[Item], error: AembedError) -> None:
        while waiting := _taken(items):
            await self.refuse([(entry, error) for entry in waiting[1]])
        self._arrived(items)

    def _remember(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        """The last of them (law 8)."""
        for entry, error in refused:
            if isinstance(error, BadRequestError | InvalidReplyError):
                self._refused[entry.fingerprint] = error
        while len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]

    def fail(self, failure: Failure) -> None:
        """For what never became an entry."""
        self.tally.fail([failure])
        self._untold.append(failure)
        self._call(self._observers.on_failure, failure)

    def _fail_entries(self, failed: Sequence[tuple[Entry, AembedError]]) -> None:
        for entry, error in failed:
            self.fail(Failure(entry.record.id, entry.index, error))
        self._forget([entry for entry, _ in failed])

    def _arrived(self, items: Sequence[Item]) -> None:
        for item in items:
            self._on_their_way.pop(item.fingerprint, None)

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Law 8: a stream remembers the ids of its window, a list all of them."""
        if self.tally.total is None:
            for entry in entries:
                self._digests.pop(entry.record.id, None)

    # to the caller

    async def tell(self) -> None:
        failures, self._untold = self._untold, []
        if failures:
            await self._sink.fail(failures)
        if now() - self._reported >= CALL_SECONDS:
            self._report_progress()

    def tell_last(self) -> None:
        """The last progress; what lands after it is nobody's business any more."""
        self._report_progress()
        self._observers = Observers()

    def _report_progress(self) -> None:
        self._reported = now()
        self._call(self._observers.on_progress, self.tally.progress(self._reported))

    def _call(self, observer: Callable[[Any], object] | None, value: object) -> None:
        if observer is None:
            return
        try:
            observer(value)
        except Exception:
            logger.exception("%r raised; the job goes on", observer)


def now() -> float:
    return asyncio.get_running_loop().time()


def _taken(items: Sequence[Item]) -> tuple[list[int], list[Entry]] | None:
    """The entries that wait, each with the row of its item; None where none does."""
    rows: list[int] = []
    entries: list[Entry] = []
    for row, item in enumerate(items):
        for entry in item.entries:
            rows.append(row)
            entries.append(entry)
        item.entries.clear()
    return (rows, entries) if entries else None


def _refused_earlier(refusal: Refusal) -> AembedError:
    return InputError(f"refused earlier ({refusal.error}): {refusal.message}")
