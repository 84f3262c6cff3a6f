from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol, TypeVar

import anyio

from aembed.dispatch._admission import Ticket
from aembed.types import InputType

T = TypeVar("T")


class Places:
    """So many batches at a time; as many more may rest besides, which cost nothing."""

    def __init__(self, number: int) -> None:
        self._semaphore = anyio.Semaphore(number)
        self._most_resting = number
        self._resting = self._returning = 0
        self._unused = False

    async def take_for(self, batch: Callable[[], Awaitable[T]]) -> T:
        """A place, and the batch that is to have it. Meanwhile one that has rested may have the place."""
        await self._semaphore.acquire()
        while self._returning:
            self.leave()
            await self._semaphore.acquire()
        self._unused = True
        try:
            taken = await batch()
        except BaseException:
            self._release_unused()
            raise
        if not self._unused:
            await self._semaphore.acquire()
        self._unused = False
        return taken

    def leave(self) -> None:
        self._semaphore.release()

    @asynccontextmanager
    async def left(self) -> AsyncIterator[None]:
        """Gives the place to others for a while; it is taken again, or never had, at the end."""
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

    def _release_unused(self) -> None:
        if self._unused:
            self._unused = False
            self.leave()


class Held(Protocol):
    """What was noted of one request before it went out. It stays noted where neither of these is told."""

    def release(self) -> None:
        """The request was refused, or never left: it cost nothing."""
        ...

    async def settle(self, billed: int | None) -> None:
        """It was answered, and cost that; None where the reply did not say."""
        ...


class Purse(Protocol):
    """What a job may spend. Asked before each request, each try of it included."""

    async def reserve(self, tokens: int) -> Held:
        """Notes what the request may cost before it goes out. Raises BudgetExceededError where that is not left."""
        ...


class Costs(Protocol):
    """What texts may cost that the provider's own estimate counts as so many tokens."""

    def most_billed(self, texts: Sequence[str], tokens: float) -> int: ...
    def believed(self, texts: Sequence[str], tokens: float, billed: int | None) -> int | None:
        """What a reply says that they cost, if it can be meant."""
        ...


@dataclass(slots=True, eq=False)
class Errand:
    """What a caller wants sent, as long as it wants it. A query's goes before those of jobs.

    `lost_tokens` may have been billed: their requests were sent, and no usable reply came.
    """

    input_type: InputType = "document"
    interactive: bool = False
    purse: Purse | None = None
    costs: Costs | None = None
    """Given with a purse."""
    requests: int = 0
    retries: int = 0
    lost_tokens: int = 0
    dropped: bool = False
    ticket: Ticket | None = None
    """Leave for its first request, where that was got beforehand."""
    places: Places | None = None
    """What its batches hold while they are sent, and until they are stored."""
    rests_until: float = -inf
    """Until then a request of it that was refused is not sent again, as its server asked."""
    when_resting: Callable[[], object] | None = None
    remaining: Callable[[], float] | None = None
    """How many requests will follow, as far as that is known."""
    _waiting: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def waits(self) -> bool:
        """Nothing of it is on its way."""
        return bool(self._waiting)

    def drop(self) -> None:
        """Lets go of all that is not on its way. What is on its way lands."""
        self.dropped = True
        for task in self._waiting:
            task.cancel()

    async def rest(self, seconds: float, *, stays: bool) -> None:
        """Waits before a batch that was refused is sent again; unless it `stays` another may have its place."""
        self.rests_until = asyncio.get_running_loop().time() + seconds
        if self.when_resting:
            self.when_resting()
        if self.places is None or stays:
            await self.wait(anyio.sleep(seconds))
            return
        async with self.places.left():
            await self.wait(anyio.sleep(seconds))

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for something that need not happen once the errand is dropped."""
        if self.dropped:
            coroutine.close()
        with self.unsent():
            return await coroutine

    @contextmanager
    def unsent(self) -> Iterator[None]:
        """While this lasts the task may be let go of: nothing of it has been sent."""
        task = asyncio.current_task()
        assert task is not None
        if self.dropped:
            raise asyncio.CancelledError
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)
