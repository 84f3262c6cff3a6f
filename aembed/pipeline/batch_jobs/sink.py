"""What a job asks about texts in batches, above the sink that writes them.

A text that is out is no lease with an end: no job sends it, and none waits for it, until its batch was collected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from aembed.core.changes import Entry, Key, is_sound
from aembed.errors import AembedError
from aembed.pipeline.batch_jobs.books import Books
from aembed.pipeline.batch_jobs.collected import Collected
from aembed.pipeline.sinks import Sink, UpperSink
from aembed.pipeline.store_calls import await_store
from aembed.types import Known, Matrix, Vector

# Chosen: a statement of tenths of a second.
FORGOTTEN_AT_ONCE = 20_000


class BatchSink(UpperSink):
    """A sink whose texts may be out in batches, or bought by one and written nowhere yet; `collected` is what this run
    has read of them.

    `asks` says whether there may be anything to ask for: a job without batches pays nothing for those of others.
    `gathered` are texts that this job has put into a file which is not out yet.
    """

    def __init__(
        self,
        sink: Sink,
        books: Books,
        dimensions: int | None,
        *,
        asks: Callable[[], Awaitable[bool]],
        gathers: bool,
        collected: Collected | None = None,
    ) -> None:
        super().__init__(sink)
        self._books, self._dimensions, self._asks = books, dimensions, asks
        self.gathers = gathers
        self._collected = collected
        self.gathered: set[bytes] = set()
        self.flush: Callable[[], Awaitable[None]] | None = None
        """Sends the file that is gathered."""
        self._submitted = Counter[bytes]()
        self._left_behind: set[bytes] = set()
        self._used: set[bytes] = set()
        """Of what batches have left behind, what stands in rows by now, or was refused."""

    async def known(self, entries: Sequence[Entry]) -> Known:
        known = await self._sink.known(entries)
        if known.unchanged:
            self._note_used([entry for entry in entries if entry.record.id in known.unchanged])
        return known

    def hold(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        return self._collected.hold(entries) if self._collected else entries

    async def released(self, *, is_last: bool) -> Sequence[Entry]:
        return await self._collected.released(is_last=is_last) if self._collected else ()

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        bought = await self._bought(entries) if await self._asks() else {}
        left = [entry for entry in entries if entry.key not in bought]
        return {**bought, **(await self._sink.paid_vectors(left) if left else {})}

    async def _bought(self, entries: Sequence[Entry]) -> dict[Key, Vector]:
        names = [entry.fingerprint for entry in entries]
        read = await self._collected.find(names) if self._collected else {}
        states = await self._books.texts([name for name in names if name not in read])
        self._left_behind |= states.keys()
        found: dict[Key, Vector] = {}
        for entry in entries:
            vector = state.vector if (state := states.get(entry.fingerprint)) else None
            if (brought := read.get(entry.fingerprint)) is not None:
                found[entry.key] = brought  # Checked as it was read.
            elif vector is not None and is_sound(vector, self._dimensions or len(vector)):
                found[entry.key] = vector
        return found

    async def submitted(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        """A vector that a batch has brought since it was looked for counts as out: it is there for the next run."""
        if not entries or not await self._asks():
            return frozenset()
        states = await self._books.texts([entry.fingerprint for entry in entries])
        away = {name for name, state in states.items() if state.is_out or state.vector is not None}
        return {entry.key for entry in entries if entry.fingerprint in self.gathered or entry.fingerprint in away}

    async def note_submitted(self, entries: Sequence[Entry], *, is_known: bool = True) -> None:
        self._submitted.update(entry.fingerprint for entry in entries)
        for known in (True, False):
            if some := [entry for entry in entries if (entry.fingerprint not in self.gathered) == known]:
                await self._sink.note_submitted(some, is_known=known)

    async def send_gathered(self) -> None:
        if self.flush:
            await self.flush()

    def take_back(self, fingerprints: Collection[bytes]) -> int:
        """These are not out after all; returns how many records were counted as submitted for them."""
        self.gathered.difference_update(fingerprints)
        return sum(self._submitted.pop(each, 0) for each in set(fingerprints))

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        written = await self._sink.write(entries, matrix, model)
        if written == len(entries):  # Else which of the rows have other texts by now is not known.
            self._note_used(entries)
        if self._collected:
            await self._collected.settle_done()
        return written

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        await self._sink.refuse(refused)
        self._note_used([entry for entry, _ in refused])

    def _note_used(self, entries: Sequence[Entry]) -> None:
        names = [entry.fingerprint for entry in entries]
        if self._left_behind:
            self._used |= self._left_behind.intersection(names)
        if self._collected:
            self._used |= self._collected.note_used(names)

    async def forget_used(self) -> None:
        """What stands in rows is needed here no more; not before the job ends, as equal texts may come until then."""
        used, self._used = [*self._used], set()
        for start in range(0, len(used), FORGOTTEN_AT_ONCE):
            await await_store(self._books.place.forget_texts(used[start : start + FORGOTTEN_AT_ONCE]))
