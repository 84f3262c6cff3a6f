"""This module counts how many batches of a job are on their way, and lends the place of one that rests to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

T = TypeVar("T")


class BatchSlots:
    """Places for so many batches at a time; as many more may rest besides, which cost nothing while they do."""

    # Law 8: memory is bounded by the window of work in flight, so those that rest are bounded, too.

    def __init__(self, number: int) -> None:
        self._semaphore = anyio.Semaphore(number)
        self._most_resting = number
        self._resting = self._returning = 0
        self._unused = False

    async def run_when_free(self, batch: Callable[[], Awaitable[T]]) -> T:
        """Waits for a place, and then for the batch that is to have it; meanwhile one that rested may use the place."""
        await self._semaphore.acquire()
        while self._returning:
            self.leave()
            await self._semaphore.acquire()
        self._unused = True
        try:
            taken = await batch()
        except BaseException:
            if self._unused:
                self._unused = False
                self.leave()
            raise
        if not self._unused:
            await self._semaphore.acquire()
        self._unused = False
        return taken

    def leave(self) -> None:
        self._semaphore.release()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[None]:
        """Gives the place to others for a while; at the end it is taken again, unless it is still unused."""
        if self._resting >= self._most_resting:
            yield
            return
        self._resting += 1
        self.leave()
        try:
            yield
        finally:
            self._resting -= 1
            with anyio.CancelScope(shield=True):
                await self._return()

    async def _return(self) -> None:
        if self._unused:
            self._unused = False
            return
        self._returning += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._returning -= 1
