"""This module takes in what was read (stages 1 to 3): checked, looked up, joined with its equals, measured, offered.

Law 6: what can be refused is refused before money is spent; so bad texts, and texts that are too long, end here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import anyio.lowlevel

from aembed.core.changes import Entries, Entry, Item, Key, oversize_error
from aembed.counters import Measure
from aembed.errors import AembedError, InputError
from aembed.limits import Limits
from aembed.pipeline.batches import Batches
from aembed.pipeline.leased_elsewhere import LeasedElsewhere
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.paid_rows import PaidRows
from aembed.pipeline.reading import Chunk, count_inputs, record_in
from aembed.pipeline.sinks import Sink
from aembed.results import Failure
from aembed.types import Embedded, Record, Unread

# Law 11: CPU work that takes longer than 5 ms is done in a thread, or in pieces. Hashing 1 MB takes about 1 ms.
PIECE_BYTES = 1_000_000
"""So many bytes are hashed before the loop may do something else."""
# Measured: to encode, hash and judge 5 MB takes 10 ms, so a text of this size stays near 1 ms on the loop.
LONG_CHARACTERS = 500_000
"""A text of more characters is encoded, hashed and judged by its store in a thread."""
# Measured: exact counts of 19,207 sections (17.6 MB) took 1.8 s of CPU, which is 3 ms for so many bytes.
COUNTED_BYTES = 32_000
"""So many bytes are counted before the loop may do something else, where the tokens of every text are counted."""
# OpenAI: 300,000 tokens a request by its estimate of a fourth of the bytes are 1.2 MB. Larger, the first request of a
# job would start later; smaller, the store is asked more often.
PORTION_BYTES = 1_000_000
"""So many bytes are measured before any of them is offered."""


class Intake:
    """Takes in the chunks of a job; only what has to be paid for gets into the window of batches."""

    def __init__(
        self,
        sink: Sink,
        entries: Entries,
        measure: Measure,
        limits: Limits,
        outcomes: Outcomes,
        batches: Batches,
        leased_elsewhere: LeasedElsewhere,
        paid_rows: PaidRows,
    ) -> None:
        self._sink = sink
        self._entries_of = entries
        self._entry = partial(_make_storable_entry, entries, sink) if sink.keeps else entries.make_entry
        self._measure = measure
        self._limits = limits
        self._outcomes = outcomes
        self._batches = batches
        self._leased_elsewhere = leased_elsewhere
        self._paid_rows = paid_rows

    async def admit(self, chunk: Chunk) -> None:
        """Takes in one chunk; what has to be paid for is offered, and the rest is written, or has ended."""
        outcomes = self._outcomes
        outcomes.tally.inputs += count_inputs(chunk)
        carried: dict[Key, Embedded] = {}
        entries = await self._make_entries(chunk, carried)
        entries = outcomes.unsettled_entries(entries, await self._sink.known(entries)) if entries else []
        own = [entry for entry in entries if entry.key in carried]
        others = self._sink.hold([entry for entry in entries if entry.key not in carried] if own else entries)
        await self._take_in([*own, *others], carried)
        while released := await self._sink.released(is_last=False):
            await self._take_in(released, {})

    async def finish(self) -> None:
        """All was read: what was held back is taken in as it is released."""
        while released := await self._sink.released(is_last=True):
            await self._take_in(released, {})

    async def _take_in(self, entries: Sequence[Entry], carried: Mapping[Key, Embedded]) -> None:
        outcomes = self._outcomes
        for portion in portions(entries):
            # Those whose equal is on its way are not looked up: only this task adds to what is on its way.
            items = await self._make_items(await self._write_paid(outcomes.join(portion), carried))
            outcomes.on_their_way.update(items)
            offered = await self._leased_elsewhere.sift(items)
            await outcomes.tell()
            await self._batches.offer(offered)
        await outcomes.tell()

    async def _make_entries(self, chunk: Chunk, carried: dict[Key, Embedded]) -> list[Entry]:
        """The entries of a chunk, without those that cannot be embedded or stored.

        Rows whose own vector can be taken over are put into `carried`.
        """
        start, reads = chunk
        outcomes, entries, hashed_bytes = self._outcomes, [], 0
        index = start - 1
        for read in reads:
            index += 1
            if isinstance(read, Unread):
                outcomes.tally.unchanged += read.count
                index += read.count - 1
                continue
            if isinstance(read, Failure):
                outcomes.fail(Failure(read.id, index, read.error))
                continue
            row = read if isinstance(read, Embedded) else None
            record = read if isinstance(read, Record) else record_in(read)
            try:
                if isinstance(record.text, str) and len(record.text) > LONG_CHARACTERS:
                    entry = await self._measure.run_in_thread(self._entry, index, record)
                else:
                    entry = self._entry(index, record)
                if refusal := outcomes.contradiction_error(entry):
                    raise refusal
            except InputError as error:
                outcomes.fail(Failure(str(read.id), index, error.with_traceback(None)))
                continue
            entries.append(entry)
            if row and self._entries_of.is_paid_by(row, entry):
                carried[entry.key] = row
            hashed_bytes += entry.size_bytes
            if hashed_bytes >= PIECE_BYTES:
                await anyio.lowlevel.checkpoint()
                hashed_bytes = 0
        return entries

    async def _write_paid(self, entries: list[Entry], carried: Mapping[Key, Embedded]) -> list[Entry]:
        """The texts whose vector was paid for already, here or where they come from, are on their way into their rows;
        returns the others."""
        paid = await self._sink.paid_vectors(entries) if entries else {}
        if paid:
            found = [entry for entry in entries if entry.key in paid]
            await self._paid_rows.add(found, [paid[entry.key] for entry in found])
            entries = [entry for entry in entries if entry.key not in paid]
        for model in {row.model for row in carried.values()}:
            of_model = {key: row.vector for key, row in carried.items() if row.model == model}
            found = [entry for entry in entries if entry.key in of_model]
            if found and await self._sink.may_take_over(model):
                await self._paid_rows.add(found, [of_model[entry.key] for entry in found], model)
                entries = [entry for entry in entries if entry.key not in of_model]
        return entries

    async def _make_items(self, entries: Sequence[Entry]) -> dict[Key, Item]:
        """One item for each different text, without those that cannot be sent."""
        items: dict[Key, Item] = {}
        refused: list[tuple[Entry, AembedError]] = []
        counted_bytes = 0
        for entry in entries:
            if entry.key in items:
                self._outcomes.join_equal(entry)
                continue
            if error := self._outcomes.refused.get(entry.key):
                refused.append((entry, error))
                continue
            try:
                item = self._measure.measure_quickly(entry) or await self._measure.measure(entry)
            except InputError as error:
                refused.append((entry, error))
                continue
            if too_large := oversize_error(item, self._limits):
                refused.append((entry, too_large))
                continue
            items[entry.key] = item
            counted_bytes += entry.size_bytes
            if counted_bytes >= COUNTED_BYTES and self._measure.exact:
                await anyio.lowlevel.checkpoint()
                counted_bytes = 0
        if refused:
            await self._outcomes.refuse(refused)
        return items


def portions(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """The entries in portions; it is a single one where their texts are short."""
    start = size_bytes = 0
    for end, entry in enumerate(entries, 1):
        size_bytes += entry.size_bytes
        if size_bytes >= PORTION_BYTES:
            yield entries[start:end]
            start, size_bytes = end, 0
    if start < len(entries):
        yield entries[start:]


def _make_storable_entry(entries: Entries, sink: Sink, index: int, record: Record) -> Entry:
    """The entry of a record. Raises InputError for a record that cannot be embedded or stored."""
    entry = entries.make_entry(index, record)
    if refusal := sink.rejection_of(entry.record):
        raise refusal
    return entry
