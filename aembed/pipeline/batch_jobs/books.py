"""The records of batches, as a store or a column keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import msgspec.structs

from aembed.batch_protocols import KeepsBatches, KeptBatch, OutText, SettledLine, TextState
from aembed.core.batch_jobs import DONE, BatchRecord, Stage
from aembed.core.batch_queue import Queue, after_refusal
from aembed.pipeline.store_calls import await_store

QUEUE, PROVEN = "queue of ", "proven: "
"""Begin the keys under which the limit of a provider's queue is kept, and that batches of a model work there at all; no
batch has such a key."""


class Superseded(Exception):
    """Another process has changed the record meanwhile: it goes on with it."""


class Books:
    """What is kept of batches in one store or column, for one model. `clock` gives seconds since 1970."""

    def __init__(self, place: KeepsBatches, space: str, clock: Callable[[], float]) -> None:
        self.place = place
        self.space = space
        self.clock = clock

    async def records(self) -> list[BatchRecord]:
        """Those of this model."""
        return [record for record in await read_records(self.place) if record.space == self.space]

    async def begin(self, record: BatchRecord, lines: Sequence[Sequence[OutText]]) -> None:
        await await_store(self.place.begin_batch(_kept(record), lines, is_out=record.is_out))

    async def change(self, record: BatchRecord, **changes: Any) -> BatchRecord:
        """The record as it is now. Raises Superseded where somebody else has changed it."""
        if "stage" in changes:
            changes["changed_at"] = self.clock()
        changed = msgspec.structs.replace(record, **changes)
        if not await await_store(self.place.change_batch(_kept(changed), is_out=changed.is_out)):
            raise Superseded
        return msgspec.structs.replace(changed, version=record.version + 1)

    async def end(self, record: BatchRecord, *, tries: int = 0) -> None:
        """Forgets it, but that there was a batch: twins of it may come up later."""
        if record.stage is Stage.CREATED:
            changes = {"key": DONE + record.key, "version": 0, "stage": Stage.DONE, "changed_at": self.clock()}
            await self.begin(msgspec.structs.replace(record, **changes), [])
        await await_store(self.place.end_batch(record.key, tries=tries))

    async def lines(self, record: BatchRecord) -> Mapping[int, Sequence[OutText]]:
        lines: Mapping[int, Sequence[OutText]] = await await_store(self.place.batch_lines(record.key))
        return lines

    async def settle(self, record: BatchRecord, lines: Sequence[SettledLine]) -> None:
        await await_store(self.place.settle_lines(record.key, lines))

    async def texts(self, fingerprints: Sequence[bytes]) -> Mapping[bytes, TextState]:
        if not fingerprints:
            return {}
        states: Mapping[bytes, TextState] = await await_store(self.place.batch_texts(fingerprints))
        return states

    async def are_proven(self) -> bool:
        """Whether a batch of this model has ever brought a vector here."""
        return await self._find(PROVEN) is not None

    async def note_proven(self) -> None:
        if not await self.are_proven():
            await await_store(self.place.begin_batch(KeptBatch(PROVEN + self.space, ""), []))

    async def queue_tokens(self) -> float | None:
        """How many tokens the provider takes at once, as far as refusals have told."""
        kept = await self._find(QUEUE)
        return _queue_of(kept).tokens if kept else None

    async def note_full(self, tokens: float, limit: int | None) -> None:
        """Keeps that so many tokens were too many; `limit` is what the service says that it takes."""
        data = msgspec.json.encode(after_refusal(tokens, self.clock(), limit)).decode()
        if kept := await self._find(QUEUE):
            await await_store(self.place.change_batch(KeptBatch(kept.key, data, kept.version)))
        else:
            await await_store(self.place.begin_batch(KeptBatch(QUEUE + self.space, data), [], is_out=False))

    async def note_fit(self, tokens: float) -> None:
        """Keeps that so many tokens were out, and not too many."""
        kept = await self._find(QUEUE)
        if kept and (after := _queue_of(kept).after_fit(tokens, self.clock())) != _queue_of(kept):
            data = msgspec.json.encode(after).decode()
            await await_store(self.place.change_batch(KeptBatch(kept.key, data, kept.version)))

    async def _find(self, what: str) -> KeptBatch | None:
        kept: list[KeptBatch] = await await_store(self.place.batches())
        return next((each for each in kept if each.key == what + self.space), None)


async def read_records(place: KeepsBatches) -> list[BatchRecord]:
    """Those of all models."""
    records = list[BatchRecord]()
    for kept in await await_store(place.batches()):
        if not kept.key.startswith((QUEUE, PROVEN)):
            # The version in the data is that before the change which wrote it.
            record = msgspec.json.decode(kept.data, type=BatchRecord)
            records.append(msgspec.structs.replace(record, key=kept.key, version=kept.version))
    return records


def _queue_of(kept: KeptBatch) -> Queue:
    """Early stores have a plain number."""
    found = msgspec.json.decode(kept.data, type=Queue | float)
    return found if isinstance(found, Queue) else Queue(found)


def _kept(record: BatchRecord) -> KeptBatch:
    return KeptBatch(record.key, msgspec.json.encode(record).decode(), record.version)
