"""This module says where the vectors of a job go (stage 8), and answers what is asked before paying (stage 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np

from aembed.core.changes import Entry, Key
from aembed.core.failing import FailureLog
from aembed.core.spread import SpreadDict
from aembed.errors import AembedError, InputError, StoppedError
from aembed.pipeline.channel import Channel
from aembed.results import Embeddings, Failure, Report
from aembed.types import Embedded, Known, Matrix, Record, Vector

# Law 11: CPU work of more than 5 ms is done in a thread. A
# result of 1 MB is filled within 1 ms; a thread would cost more.
INLINE_BYTES = 1_000_000
"""A result up to this size is filled on the loop, parts of a larger one in a thread."""
# Chosen: to free so many keys takes a tenth of a millisecond; a checkpoint costs as much as some hundred of them.
MOST_FREED = 1_000
"""The loop may do something else after so many keys were freed."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What other jobs have done: vectors that they paid for, ids that they wrote or that were refused to them."""

    paid: Mapping[Key, Vector]
    known: Known
    gone: AbstractSet[str] = frozenset()
    """The ids of rows that have another text by now, or are there no more."""


class Sink:
    """What a job asks of the place where its vectors go. These are the answers of one that has no memory of its own."""

    durable = False
    """Whether a cancelled job waits for what it sent: only what is stored is worth waiting for."""
    keeps = False
    """Whether something of the texts outlives them: then their fingerprints and digests are needed."""
    numbered = False
    """Whether ids are positions, so that none comes twice."""
    dry = False
    """Whether it only finds out what would be done."""
    whole = True
    """Whether all that is written is kept. A row of the user's own that was edited meanwhile is not filled."""
    leases = False
    """Whether other jobs may be at work on the same store."""
    shares = True
    """Whether others may wait for what this job sends: no reader of its results holds it up."""
    gathers = False
    """Whether texts go into batches of the provider: then some may have to wait for room in its queue."""

    @property
    def has_lapsed(self) -> bool:
        """Whether other jobs may have taken what this one had leased, because it stood still for too long."""
        return False

    def rejection_of(self, record: Record) -> InputError | None:
        return None

    async def known(self, entries: Sequence[Entry]) -> Known:
        return Known()

    def hold(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Holds back those whose vectors are on their way from elsewhere; returns the others."""
        return entries

    async def released(self, *, is_last: bool) -> Sequence[Entry]:
        """Those that were held and are no longer; if nothing is read any more (`is_last`), it waits for some."""
        return ()

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        """The vectors of the entries that were paid for already."""
        return {}

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        """The keys of the entries that no other job is about to send; from now on no other job may send them."""
        return {entry.key for entry in entries}

    async def submitted(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        """The keys of those that are out at the provider in a batch: they are neither sent nor waited for."""
        return frozenset()

    async def note_submitted(self, entries: Sequence[Entry], *, is_known: bool) -> None:
        """These go out in a batch, and this job is done with them. `is_known`: the store tells other jobs so by now."""

    async def send_gathered(self) -> None:
        """Sends what is gathered for a batch, as others wait for it."""

    async def settled(self, entries: Sequence[Entry]) -> Settled:
        """What has become of those that other jobs had leased."""
        return Settled(await self.paid_vectors(entries), await self.known(entries))

    async def may_take_over(self, model: str) -> bool:
        """Whether vectors that rows of another store carry, and that this model made, may be written here."""
        return False

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        """Row i of the matrix belongs to entries[i]; `model` made it. Returns how many were written."""
        raise NotImplementedError

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        """Keeps texts that were refused for their content."""

    async def fail(self, failures: Sequence[Failure]) -> None:
        """Shows failures of any kind."""

    def note_left(self, entries: Sequence[Entry]) -> None:
        """These stay pending, where not all that is read is done with (`whole`): nothing was bought for them."""

    def let_go(self) -> None:
        """The job is to end: nothing may hold back what lands any more."""


class UpperSink(Sink):
    """A sink above another one, which answers what this one has no answer of its own for."""

    keeps = True

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.durable, self.numbered, self.dry = sink.durable, sink.numbered, sink.dry
        self.whole, self.leases, self.shares = sink.whole, sink.leases, sink.shares

    @property
    def has_lapsed(self) -> bool:
        return self._sink.has_lapsed

    def rejection_of(self, record: Record) -> InputError | None:
        return self._sink.rejection_of(record)

    async def known(self, entries: Sequence[Entry]) -> Known:
        return await self._sink.known(entries)

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        return await self._sink.lease(entries)

    async def settled(self, entries: Sequence[Entry]) -> Settled:
        return await self._sink.settled(entries)

    async def may_take_over(self, model: str) -> bool:
        return await self._sink.may_take_over(model)

    async def fail(self, failures: Sequence[Failure]) -> None:
        await self._sink.fail(failures)

    def note_left(self, entries: Sequence[Entry]) -> None:
        self._sink.note_left(entries)

    def let_go(self) -> None:
        self._sink.let_go()


class ListSink(Sink):
    """Fills one matrix in the order of the input. Equal texts are found however far apart they stand.

    `inputs` is the number of texts where the caller holds them all; else no text is held here once it was worked on.
    """

    numbered = True

    def __init__(
        self, inputs: int | None = None, run_in_thread: Callable[..., Awaitable[Any]] = anyio.to_thread.run_sync
    ) -> None:
        self.keeps = inputs is None
        self._inputs = inputs
        self._run_in_thread = run_in_thread
        self._filling = anyio.Lock()
        self._matrix: Matrix = np.empty((0, 0), dtype=np.float32)
        self._index = SpreadDict[Key, int]()
        self._ended = np.zeros(inputs or 0, np.bool_)
        self._failures = FailureLog()

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        found = {entry.key: self._index.get(entry.key) for entry in entries}
        return {key: self._matrix[index] for key, index in found.items() if index is not None}

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        indices = [entry.index for entry in entries]
        async with self._filling:
            # Each row may be the first to touch its 2 MB of memory, 5 ms a piece.
            await self._run(self._fill, indices, matrix)
        self._index.update(zip([entry.key for entry in entries], indices, strict=True))
        self._note_ended(indices)
        return len(entries)

    async def fail(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            self._failures.add(failure.index, failure.error)
        self._note_ended([failure.index for failure in failures])

    async def make_embeddings(
        self, report: Report, dimensions: int | None, stopped: AembedError | None = None
    ) -> Embeddings:
        """The vectors that there are; a text that the job did not come to has failed with what stopped the job."""
        inputs = max(report.inputs, self._inputs or 0) if stopped else report.inputs
        await self._run(self._reserve, inputs, self._matrix.shape[1] or dimensions or 0)
        missing = np.flatnonzero(~self._ended[:inputs]).tolist() + list(range(len(self._ended), inputs))
        # Law 4: every input ends in exactly one way. Whatever happened, a row that was never written is no vector.
        self._failures.add_all(missing, stopped or StoppedError("the job ended before it came to this text"))
        for freed in self._index.clear():
            if freed > MOST_FREED:
                await anyio.lowlevel.checkpoint()
        return Embeddings(self._matrix[:inputs], self._failures.in_order(), report)

    async def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        """Does what touches the whole of a large matrix, or copies it, in a thread (law 11)."""
        if self._matrix.nbytes > INLINE_BYTES:
            await self._run_in_thread(work, *arguments)
        else:
            work(*arguments)

    def _fill(self, indices: list[int], matrix: Matrix) -> None:
        self._reserve(max(indices) + 1, matrix.shape[1])
        self._matrix[indices] = matrix

    def _reserve(self, inputs: int, dimensions: int) -> None:
        if len(self._matrix) < inputs or not self._matrix.shape[1]:
            size = max(inputs, self._inputs or 2 * len(self._matrix))
            matrix = np.zeros((size, dimensions), dtype=np.float32)
            if self._matrix.size:
                matrix[: len(self._matrix)] = self._matrix
            self._matrix = matrix

    def _note_ended(self, indices: list[int]) -> None:
        if (most := max(indices, default=-1)) >= len(self._ended):
            ended = np.zeros(max(most + 1, 2 * len(self._ended)), np.bool_)
            ended[: len(self._ended)] = self._ended
            self._ended = ended
        self._ended[indices] = True


class StreamSink(Sink):
    """Gives results to a reader as they complete; a slow reader holds the job back."""

    shares = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        # They are made as they are read. A view of one row that a reader keeps would keep the whole batch alive.
        results = (
            Embedded(
                entry.record.id, entry.index, row.copy(), entry.record.text, entry.record.metadata, entry.record.source
            )
            for entry, row in zip(entries, matrix, strict=True)
        )
        await self._channel.put(results)
        return len(entries)

    async def fail(self, failures: Sequence[Failure]) -> None:
        await self._channel.put(list(failures))

    def let_go(self) -> None:
        self._channel.let_go()
