"""Batches whose results were read and whose rows this run writes: a line is settled once each of its texts is in a row.

Until then its texts are out, and its results at the provider: a run that ends before reads them once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from aembed.batch_protocols import BatchState, SettledLine
from aembed.core.batch_jobs import BatchRecord
from aembed.core.changes import Entry
from aembed.dispatch import Notice
from aembed.pipeline.batch_jobs.books import Books
from aembed.pipeline.batch_jobs.brought import Brought
from aembed.protocols import Store
from aembed.types import Vector

# Chosen: as many as two writes hold. Smaller, there is a transaction more for each; larger, whoever is killed keeps so
# many vectors that stand in rows already.
TEXTS_AT_ONCE = 2_048
# Chosen: 6 MB at 1,536 dimensions.
KEPT_AT_ONCE = 1_024

# Law 8: memory is bounded. Chosen: results come in any order, so that with fewer the job would wait for the last of a
# batch before it wrote its first rows.
MOST_HELD, MOST_HELD_BYTES = 50_000, 32_000_000
"""So many records, and bytes of text, wait for results that are being read."""

# Chosen: as many as are read at once, so that the loop is never held up.
RELEASED_AT_ONCE = 256


@dataclass(eq=False, slots=True)
class ReadBatch:
    """`lines` are the texts of those that are not settled because their vectors are here, by their number. `state` is
    there once all was read: then it is done with as soon as they are. `tokens` are what is told of it."""

    record: BatchRecord
    lines: dict[int, Sequence[bytes]] = field(default_factory=dict)
    state: BatchState | None = None
    tokens: int = 0


@dataclass(eq=False, slots=True)
class _Line:
    batch: ReadBatch
    number: int
    left: int


class Collected:
    """What one run has read of results, and what of it stands in rows by now."""

    def __init__(self, books: Books, brought: Brought) -> None:
        self.batches: list[ReadBatch] = []
        self._books, self._brought = books, brought
        self._expected = Counter[bytes]()
        """Of how many lines that are not read yet each is."""
        self._came = Notice()
        self._held: dict[bytes, list[Entry]] = {}
        self._held_count = self._held_bytes = 0
        self._released: list[Entry] = []
        self._lines: dict[bytes, _Line] = {}
        self._used: set[bytes] = set()
        self._done: list[_Line] = []
        self._texts_done = 0

    # from whoever reads results

    def expect(self, fingerprints: Iterable[bytes]) -> None:
        """Results of these are going to be read, each time that one is named."""
        self._expected.update(fingerprints)

    def note_read(self, fingerprints: Iterable[bytes] | None = None, *, found: bool = False) -> None:
        """The next results of these were read: they were `found`, or may come with those of another batch; without any,
        nothing comes any more."""
        read = list[bytes]()
        for name in [*self._expected] if fingerprints is None else fingerprints:
            left = self._expected.get(name, 0) - 1
            if found or fingerprints is None or not left:
                self._expected.pop(name, None)
                read.append(name)
            elif left > 0:
                self._expected[name] = left
        for name in read if self._held else ():
            for entry in self._held.pop(name, ()):
                self._released.append(entry)
                self._held_count -= 1
                self._held_bytes -= entry.size_bytes
        self._came.tell()

    async def bring(self, batch: ReadBatch, lines: Sequence[SettledLine]) -> bool:
        """Whether the vectors of these lines were taken; else they are to be kept in the store."""
        names = [name for line in lines for name in line.fingerprints]
        matrices = [line.matrix for line in lines if line.matrix is not None]
        if not await self._brought.add(names, matrices):
            return False
        for line in lines:
            batch.lines[line.line] = line.fingerprints
            left = _Line(batch, line.line, len(set(line.fingerprints)))
            self._lines.update(dict.fromkeys(line.fingerprints, left))
        self.note_read(names, found=True)
        return True

    # from whoever writes rows

    def hold(self, entries: Sequence[Entry]) -> list[Entry]:
        """Holds back those whose results are going to be read; returns the others."""
        others = list[Entry]()
        for entry in entries:
            if entry.fingerprint in self._expected:
                self._held.setdefault(entry.fingerprint, []).append(entry)
                self._held_count += 1
                self._held_bytes += entry.size_bytes
            else:
                others.append(entry)
        return others

    async def released(self, *, is_last: bool) -> list[Entry]:
        """Some of those that were held and are no longer. It waits while too many are held; if it `is_last`, while any
        are."""
        while (
            not self._released
            and self._held
            and (is_last or self._held_count > MOST_HELD or self._held_bytes > MOST_HELD_BYTES)
        ):
            await self._came.wait()
        released, self._released = self._released[-RELEASED_AT_ONCE:], self._released[:-RELEASED_AT_ONCE]
        return released

    async def find(self, fingerprints: Collection[bytes]) -> Mapping[bytes, Vector]:
        """Their vectors, as far as a batch has brought them."""
        names, matrix = await self._brought.find(fingerprints)
        return dict(zip(names, matrix, strict=True))

    def note_used(self, fingerprints: Iterable[bytes]) -> set[bytes]:
        """These stand in rows by now, or will in none. Returns those of them that are here."""
        here = {name for name in fingerprints if name in self._brought}
        for name in here - self._used:
            if line := self._lines.get(name):
                line.left -= 1
                if not line.left:
                    self._done.append(line)
                    self._texts_done += len(line.batch.lines[line.number])
        self._used |= here
        return here

    async def settle_done(self) -> None:
        """Settles lines of which nothing is left, many in one transaction. A column does not know which texts it has:
        another row may have the same, until the job ends."""
        if self._texts_done >= TEXTS_AT_ONCE and isinstance(self._books.place, Store):
            done, self._done, self._texts_done = self._done, [], 0
            for batch in {line.batch for line in done}:
                await self._settle(batch, [SettledLine(line.number, ()) for line in done if line.batch is batch])

    async def settle_rest(self, batch: ReadBatch) -> None:
        """What stands in no row is kept in the store."""
        lines, kept = list[SettledLine](), 0
        for number, names in [*batch.lines.items()]:
            left = [name for name in names if name not in self._used]
            found, matrix = await self._brought.find(left)
            lines.append(SettledLine(number, found, matrix if found else None))
            kept += len(found)
            if kept >= KEPT_AT_ONCE:
                await self._settle(batch, lines)
                lines, kept = [], 0
            await anyio.lowlevel.checkpoint()
        await self._settle(batch, lines)

    async def _settle(self, batch: ReadBatch, lines: Collection[SettledLine]) -> None:
        if lines:
            await self._books.settle(batch.record, [*lines])
            for line in lines:
                batch.lines.pop(line.line, None)

    async def aclose(self) -> None:
        await self._brought.aclose()
