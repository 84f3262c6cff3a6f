"""Stages 1 to 3: what was read is checked, looked up, joined with its equals, measured, and offered to be sent."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel
import numpy as np

from aembed.core.changes import Entry, Fingerprinter, oversize
from aembed.counters import Measure
from aembed.errors import AembedError, InputError
from aembed.pipeline.batches import Batches
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.reading import Read
from aembed.pipeline.sinks import Sink
from aembed.types import Failure, Known, Limits

PIECE_BYTES = 4_000_000
"""Hashed before the loop may do something else: about 5 ms (law 11)."""
COUNTED_BYTES = 32_000
"""The same where the tokens of every text are counted."""


class Intake:
    def __init__(
        self,
        sink: Sink,
        fingerprinter: Fingerprinter,
        measure: Measure,
        limits: Limits,
        outcomes: Outcomes,
        batches: Batches,
    ) -> None:
        self._sink = sink
        self._fingerprinter = fingerprinter
        self._measure = measure
        self._limits = limits
        self._outcomes = outcomes
        self._batches = batches

    async def admit(self, chunk: Sequence[tuple[int, Read]]) -> None:
        outcomes = self._outcomes
        outcomes.tally.inputs += len(chunk)
        entries = await self._entries(chunk)
        known = await self._sink.known(entries) if entries else Known()
        entries = [entry for entry in entries if not outcomes.settled(entry, known)]
        # Those whose equal is on its way are not looked up: only this task adds to what is on its way.
        entries = await self._unpaid([entry for entry in entries if not outcomes.joined(entry)])
        await outcomes.refuse(await self._offered(entries))
        await outcomes.tell()
        self._batches.notify()

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
            self._outcomes.fail(Failure(read.id, index, read.error))
            return None
        try:
            entry = self._fingerprinter.entry(index, read)
        except InputError as error:
            self._outcomes.fail(Failure(str(read.id), index, error))
            return None
        if refusal := self._sink.reject(read) or self._outcomes.contradiction(entry):
            self._outcomes.fail(Failure(read.id, index, refusal))
            return None
        return entry

    async def _unpaid(self, entries: list[Entry]) -> list[Entry]:
        """Writes the texts whose vector was paid for already; returns the others."""
        paid = await self._sink.paid({entry.fingerprint for entry in entries}) if entries else {}
        found = [entry for entry in entries if entry.fingerprint in paid]
        if found:
            await self._outcomes.write(found, np.stack([paid[entry.fingerprint] for entry in found]))
            return [entry for entry in entries if entry.fingerprint not in paid]
        return entries

    async def _offered(self, entries: Sequence[Entry]) -> list[tuple[Entry, AembedError]]:
        """Returns those that cannot be sent, with the reason."""
        refused: list[tuple[Entry, AembedError]] = []
        sent: set[bytes] = set()
        counted_bytes = 0
        for entry in entries:
            if counted_bytes >= COUNTED_BYTES:
                await anyio.lowlevel.checkpoint()
                counted_bytes = 0
            if self._outcomes.joined(entry):
                continue
            if error := self._outcomes.refusal(entry):
                refused.append((entry, error))
                continue
            # Its equal may have been sent and stored while this one waited for room.
            if entry.fingerprint in sent and not await self._unpaid([entry]):
                continue
            sent.add(entry.fingerprint)
            counted_bytes += entry.size_bytes if self._measure.exact else 0
            if error := await self._offer(entry):
                refused.append((entry, error))
        return refused

    async def _offer(self, entry: Entry) -> AembedError | None:
        """Returns why the text cannot be sent."""
        try:
            item = self._measure.quick(entry) or await self._measure.counted(entry)
        except InputError as error:
            return error
        if too_large := oversize(item, self._limits):
            return too_large
        self._outcomes.send(item)
        if self._batches.offer(item):
            await self._batches.room()
        return None
