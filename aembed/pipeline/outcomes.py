"""Stages 8 and 9: what becomes of each entry, told to the sink, to the tally and to the caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from aembed.core.changes import Entry, Item, Key
from aembed.core.progress import CALL_SECONDS, Tally
from aembed.errors import AembedError, BadRequestError, InputError, InvalidReplyError
from aembed.pipeline.sinks import Sink
from aembed.results import Progress
from aembed.types import Failure, Known, Matrix, Record, Refusal

logger = logging.getLogger("aembed")

MOST_REFUSED = 10_000
"""Texts that the provider refused and that are remembered."""


@dataclass(frozen=True, slots=True)
class Observers:
    """The caller's own functions. What they raise is logged and does not touch the job."""

    on_progress: Callable[[Progress], object] | None = None
    on_failure: Callable[[Failure], object] | None = None


class Outcomes:
    """Law 4: every entry ends in exactly one of stored, unchanged and failed; those that do not are pending."""

    def __init__(self, sink: Sink, tally: Tally, observers: Observers) -> None:
        self.tally = tally
        self.refused: dict[Key, AembedError] = {}
        """Why the provider refused texts in this run: an equal one is not sent again. The last MOST_REFUSED (law 8)."""
        self._sink = sink
        self._observers = observers
        self._on_their_way: dict[Key, Item] = {}
        self._held: dict[str, bytes | Record] = {}
        self._untold: list[Failure] = []
        self._reported = float("-inf")

    # equal texts and equal ids

    def send(self, items: Mapping[Key, Item]) -> None:
        """From now on equal texts join these items."""
        self._on_their_way.update(items)

    def join(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that have no equal on its way; the others will be paid for once."""
        on_their_way, new = self._on_their_way, []
        for entry in entries:
            if item := on_their_way.get(entry.key):
                self.joined(entry, item)
            else:
                new.append(entry)
        return new

    def joined(self, entry: Entry, item: Item) -> None:
        item.entries.append(entry)
        self.tally.duplicates += 1

    def objection(self, entry: Entry) -> InputError | None:
        """Why the entry cannot be a row: its store cannot write it, or it contradicts an earlier one.

        The same id twice is one row; with another text or other metadata it is a mistake.
        """
        record = entry.record
        if self._sink.numbered:
            return None
        if refusal := self._sink.reject(record):
            return refusal
        holds = entry.digest or record
        if self._held.setdefault(record.id, holds) == holds:
            return None
        return InputError(f"the id {record.id!r} was given before with another text; give each text its own id")

    # endings of an entry

    def unsettled(self, entries: list[Entry], known: Known) -> list[Entry]:
        """Those of which the store does not know all there is to know."""
        if not known.unchanged and not known.refused:
            return entries
        return [entry for entry in entries if not self._settled(entry, known)]

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

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> None:
        """Row i of the matrix belongs to entries[i]."""
        written = await self._sink.write(entries, matrix, model)
        # Not in one statement: that would read the tally before a wait in which other writes are counted.
        self.tally.stored += written
        self._forget(entries)

    async def write_items(self, items: Sequence[Item], matrix: Matrix, model: str = "") -> None:
        """Row i belongs to items[i]. Equal texts may join while a write is under way: they are written, too."""
        while waiting := _taken(items):
            entries, counts = waiting
            one_each = counts.count(1) == len(items)
            await self.write(entries, matrix if one_each else np.repeat(matrix, counts, axis=0), model)
        self._arrived(items)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        self._remember(refused)
        await self._sink.refuse(refused)
        self._fail_entries(refused)

    async def refuse_items(self, items: Sequence[Item], error: AembedError) -> None:
        while waiting := _taken(items):
            await self.refuse([(entry, error) for entry in waiting[0]])
        self._arrived(items)

    def _remember(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        for entry, error in refused:
            if isinstance(error, BadRequestError | InvalidReplyError):
                self.refused[entry.key] = error
        while len(self.refused) > MOST_REFUSED:
            del self.refused[next(iter(self.refused))]

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
            self._on_their_way.pop(item.key, None)

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Law 8: a stream remembers the ids of its window, a list all of them."""
        if self.tally.total is None:
            for entry in entries:
                self._held.pop(entry.record.id, None)

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


def _taken(items: Sequence[Item]) -> tuple[list[Entry], list[int]] | None:
    """The entries that wait, and how many do for each item; None where none does."""
    waiting = [item.entries for item in items]
    entries, counts = list(chain.from_iterable(waiting)), list(map(len, waiting))
    for each in waiting:
        each.clear()
    return (entries, counts) if entries else None


def _refused_earlier(refusal: Refusal) -> AembedError:
    return InputError(f"refused earlier ({refusal.error}): {refusal.message}")
