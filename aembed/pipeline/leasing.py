"""This module leases texts that a job is about to send in its store, so that no other job pays for them meanwhile.

A lease is one of a fingerprint. It belongs to a worker, which is a number in the store that grows, and it ends by the
store's clock. A worker that shows no sign of life until then has none of its leases any more. What was written is never
leased: whoever did not get a lease finds the vector in the store sooner or later, or the lease free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress

import anyio

from aembed.errors import AembedError, StoreError
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Backlog, Leases, Store

logger = logging.getLogger("aembed")

# Chosen: a job that begins after another one was killed waits so long for what that had taken. Smaller, a process that
# is blocked for a while (a swap, a paused container) would lose its leases, and texts would be paid for twice.
LEASE_SECONDS = 10.0
"""A lease ends so many seconds after the last sign of life; a sign is given in each third of them."""
# Chosen: a job that comes second waits so long until it can be sure that the first one knows. Smaller, a job that is
# alone asks its store more often for nothing.
LOOK_SECONDS = 0.5
"""A job that was alone notices another one within so many seconds."""
# Chosen: longer than a job waits for a provider that answers nobody (`RetryPolicy.max_outage`, 900 s).
IDLE_SECONDS = 1_000.0
"""A job that neither reads nor writes for so many seconds lets its leases run out."""


NOTHING = b""
"""No text's fingerprint: with it a worker that holds nothing tells that it is not alone any more."""


class LeaseHolder:
    """One job that fills a store. While it is alone it writes no leases: it only looks for others."""

    def __init__(self, store: Leases, token: int, *, alone: bool) -> None:
        self._store = store
        self.token = token
        self.is_alone = alone
        self._held: set[bytes] = set()
        """What it has taken while it was alone, and what is not done yet."""
        self._done: list[bytes] = []
        self._observer_calls = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._active_at = self._looked_at = self._seen_at = self._loop.time()
        self._has_lapsed = False

    @property
    def has_lapsed(self) -> bool:
        """Whether no sign of life came in time, at least once: others may have taken what was leased here by then."""
        self._has_lapsed = self._has_lapsed or self._loop.time() - self._seen_at > LEASE_SECONDS
        return self._has_lapsed

    async def lease(self, fingerprints: Collection[bytes]) -> AbstractSet[bytes]:
        """The fingerprints that nobody else holds and that are not written yet; they are held here from now on."""
        self._active_at = self._loop.time()
        async with self._observer_calls:
            if self.is_alone and (self.has_lapsed or self._loop.time() - self._looked_at >= LOOK_SECONDS):
                await self._announce_holdings()
            if self.is_alone:
                self._held.update(fingerprints)
                return frozenset(fingerprints)
        return await self._lease(fingerprints)

    def note_done(self, fingerprints: Collection[bytes]) -> None:
        """Notes that texts are written or refused. The store is told of that with the next lease, which is soon enough:
        nobody waits for a lease of what is there.
        """
        self._active_at = self._loop.time()
        if self.is_alone:
            self._held.difference_update(fingerprints)
        if not self.is_alone or self._observer_calls.locked():
            self._done += fingerprints

    async def keep_alive(self) -> None:
        """Shows a sign of life for as long as the job shows one."""
        told_at = self._loop.time()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(StoreError):
                async with self._observer_calls:
                    await self._announce_holdings()
                now = self._loop.time()
                if now - told_at >= LEASE_SECONDS / 3 and now - self._active_at < IDLE_SECONDS:
                    told_at = now
                    await self._lease(())

    async def _announce_holdings(self) -> None:
        """Looks for other workers; once one has come, it is told what is held here.

        One that came while this job stood still may have left already: then the store is asked all the same.
        """
        self._looked_at = self._loop.time()
        if self.is_alone and (self.has_lapsed or await await_store(self._store.others(self.token))):
            await self._lease(self._held | {NOTHING})
            self.is_alone = False

    async def _lease(self, fingerprints: Collection[bytes]) -> AbstractSet[bytes]:
        done, self._done = self._done, []
        asked_at = self._loop.time()
        try:
            leased: AbstractSet[bytes] = await await_store(
                self._store.lease(self.token, fingerprints, done=done, seconds=LEASE_SECONDS)
            )
        except BaseException:
            self._done += done
            raise
        # The silence is looked for before this sign of life ends it.
        self._has_lapsed = self.has_lapsed
        self._seen_at = asked_at
        return leased


@asynccontextmanager
async def hold_leases(store: Store | Backlog | Leases) -> AsyncIterator[LeaseHolder | None]:
    """The worker of a job in this store; None where the store has no leases, or the role may not make them."""
    joined = await await_store(store.join(LEASE_SECONDS)) if isinstance(store, Leases) else None
    if joined is None or not isinstance(store, Leases):
        yield None
        return
    token, alone = joined
    worker = LeaseHolder(store, token, alone=alone)
    living = asyncio.get_running_loop().create_task(worker.keep_alive())
    try:
        yield worker
    finally:
        living.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([living])
            try:
                await await_store(store.leave(token))
            except AembedError as error:
                logger.warning("the leases of this job run out in %g s: %s", LEASE_SECONDS, error)
