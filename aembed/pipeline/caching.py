"""This module puts a cache beneath a sink: what it has is not sent, and replies are kept there before they go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from aembed.core.changes import Entry, Key, is_sound
from aembed.errors import AembedError, StoreError
from aembed.pipeline.leasing import LeaseHolder, hold_leases
from aembed.pipeline.sinks import Settled, Sink, UpperSink
from aembed.pipeline.store_calls import await_store
from aembed.stores import open_cache
from aembed.stores._caches import VectorCache
from aembed.types import Matrix, Vector


class Caching:
    """The cache of one Embedder, opened when it is first needed; there is none at the place None."""

    def __init__(self, place: str | Path | None) -> None:
        """Raises ConfigError for what is no place of a cache."""
        self._place = place
        self._cache = None if place is None else open_cache(place)
        self._is_ready = False

    @property
    def is_on(self) -> bool:
        return self._place is not None

    @asynccontextmanager
    async def beneath(self, sink: Sink, dimensions: int | None) -> AsyncIterator[Sink]:
        """The sink with the cache beneath it, while a job runs. A dry job makes nothing."""
        cache = await self._open(create=not sink.dry) if self.is_on else None
        if cache is None:
            yield sink
        elif sink.dry:
            yield CachingSink(sink, cache, None, dimensions)
        else:
            async with hold_leases(cache) as worker:
                yield CachingSink(sink, cache, worker, dimensions)

    async def find(self, fingerprint: bytes) -> Vector | None:
        """The vector of one query."""
        cache = await self._open()
        held = await await_store(cache.vectors({fingerprint})) if cache else {}
        return held.get(fingerprint)

    async def keep(self, fingerprint: bytes, vector: Vector) -> None:
        """Keeps the vector of one query."""
        if cache := await self._open():
            await await_store(cache.keep([fingerprint], vector[None]))

    async def aclose(self) -> None:
        """Closes it; what comes later opens it again."""
        cache, self._is_ready = self._cache, False
        if self._place is not None:
            self._cache = open_cache(self._place)
        if cache:
            await cache.aclose()

    async def _open(self, *, create: bool = True) -> VectorCache | None:
        """None where there is none yet, and none is to be made."""
        cache = self._cache
        if cache and not self._is_ready:
            if not await await_store(cache.prepare(create=create)):
                return None
            self._is_ready = True
        return cache


class CachingSink(UpperSink):
    """A sink whose texts are looked up, and leased, in a cache. A dry one only looks.

    Texts are leased in the store first and in the cache then, always in this order, so that no two jobs wait for each
    other in a circle.
    """

    def __init__(self, sink: Sink, cache: VectorCache, worker: LeaseHolder | None, dimensions: int | None) -> None:
        super().__init__(sink)
        self._cache, self._worker, self._dimensions = cache, worker, dimensions
        self.durable = not sink.dry
        self.leases = worker is not None or sink.leases
        self._found: set[bytes] = set()
        """What came out of the cache and is not written yet, so that it is not put there again."""

    @property
    def has_lapsed(self) -> bool:
        return self._sink.has_lapsed or (self._worker is not None and self._worker.has_lapsed)

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        paid = await self._sink.paid_vectors(entries)
        return {**paid, **await self._look_up([entry for entry in entries if entry.key not in paid])}

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        keys = await self._sink.lease(entries)
        if self._worker is None:
            return keys
        mine = [entry for entry in entries if entry.key in keys]
        leased = await self._worker.lease([entry.fingerprint for entry in mine])
        return {entry.key for entry in mine if entry.fingerprint in leased}

    async def note_submitted(self, entries: Sequence[Entry], *, is_known: bool) -> None:
        if self._worker and is_known:
            self._worker.note_done([entry.fingerprint for entry in entries])
        await self._sink.note_submitted(entries, is_known=is_known)

    async def settled(self, entries: Sequence[Entry]) -> Settled:
        told = await self._sink.settled(entries)
        done = told.known.unchanged | told.known.refused.keys() | told.gone
        left = [entry for entry in entries if entry.key not in told.paid and entry.record.id not in done]
        return Settled({**told.paid, **await self._look_up(left)}, told.known, told.gone)

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        """What cannot be kept in the cache is written all the same, before the error is raised."""
        broken: StoreError | None = None
        fresh = {entry.fingerprint: row for row, entry in enumerate(entries) if entry.fingerprint not in self._found}
        self._found.difference_update(entry.fingerprint for entry in entries)
        try:
            if fresh and not self.dry:
                rows = matrix if len(fresh) == len(matrix) else matrix[np.array([*fresh.values()])]
                await await_store(self._cache.keep([*fresh], rows))
            if self._worker:
                self._worker.note_done([entry.fingerprint for entry in entries])
        except StoreError as error:
            broken = error
        written = await self._sink.write(entries, matrix, model)
        if broken:
            raise broken
        return written

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if self._worker:
            self._worker.note_done([entry.fingerprint for entry, _ in refused])
        await self._sink.refuse(refused)

    async def _look_up(self, entries: Sequence[Entry]) -> dict[Key, Vector]:
        if not entries:
            return {}
        held: Mapping[bytes, Vector] = await await_store(self._cache.vectors({entry.fingerprint for entry in entries}))
        # A file that anybody may have written to is believed no more than a reply is.
        found = {name: vector for name, vector in held.items() if is_sound(vector, self._dimensions or len(vector))}
        self._found |= found.keys()
        return {entry.key: found[entry.fingerprint] for entry in entries if entry.fingerprint in found}
