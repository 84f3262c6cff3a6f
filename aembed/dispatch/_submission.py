"""This module holds what a caller wants sent, what it may spend, and how it lets go of what was not sent yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol, TypeVar

import anyio

from aembed.core.changes import Item
from aembed.counters import Measure
from aembed.dispatch._admission import Permit
from aembed.dispatch._batch_slots import BatchSlots
from aembed.errors import BadRequestError
from aembed.preparation import NO_PREPARATION, Preparation
from aembed.types import InputType

T = TypeVar("T")


class BudgetHold(Protocol):
    """The money that was noted for one request before it went out; it stays noted if neither of these is called."""

    def release(self) -> None:
        """The request was refused, or never left: it cost nothing."""
        ...

    async def settle(self, billed: int | None, cost_usd: float | None) -> None:
        """The request was answered, and cost so many tokens and dollars; None where the reply did not say."""
        ...


class SpendLimit(Protocol):
    """What a job may spend. It is asked before each request, and before each try of it."""

    async def reserve(self, tokens: int) -> BudgetHold:
        """Notes what the request may cost before it goes out. Raises BudgetExceededError where that is not left."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Submission:
    """What a caller wants sent, for as long as it wants it. What a query wants goes before what jobs want.

    `lost_tokens` may have been billed: their requests were sent, and no usable reply came.
    """

    # Law 1: what is on its way lands, whoever has left; only a task in `waiting` may be cancelled.

    input_type: InputType = "document"
    preparation: Preparation = NO_PREPARATION
    """Its prefixes are in the texts already; what else it says the provider is told."""
    interactive: bool = False
    spend_limit: SpendLimit | None = None
    costs: Measure | None = None
    """What texts may cost; it is given together with a spend limit."""
    requests: int = 0
    retries: int = 0
    lost_tokens: int = 0
    truncated: int = 0
    """Texts that the provider cut, as far as its replies prove it."""
    dropped: bool = False
    permit: Permit | None = None
    """Leave for the first request, where that was got beforehand."""
    wanted_since: float = -inf
    """Since when that one was wanted."""
    context: Context | None = None
    """The context of the caller who is told of its requests, where they are not sent in it."""
    batch_slots: BatchSlots | None = None
    """The places that its batches hold while they are sent, and until they are stored."""
    may_probe: bool = True
    """Whether it pays for asking an address that is away whether it is back: not without money."""
    rests_until: float = -inf
    """Until then a request that was refused is not sent again, as the server asked."""
    when_resting: Callable[[], object] | None = None
    remaining: Callable[[], float] | None = None
    """Says how many requests will follow, as far as that is known."""
    to_come: Callable[[], float] | None = None
    """Says how many tokens will follow, as far as that can be told."""
    shorten: Callable[[Item, BadRequestError], bool] | None = None
    """Cuts an item that was refused alone as too long, where it may be cut further."""
    shares: bool = True
    """Whether others may wait for its answers: not where a slow reader may hold it up, who may be one of them."""
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks of which nothing is on its way: each waits for its turn, or to send again."""

    def has_shortened(self, items: Sequence[Item], error: Exception) -> bool:
        """Whether the item that was refused could be shortened, and is shorter now."""
        if self.shorten is None or len(items) > 1 or not isinstance(error, BadRequestError):
            return False
        return self.shorten(items[0], error)

    def drop(self) -> None:
        """Lets go of all that is not on its way. What is on its way lands."""
        self.dropped = True
        for task in self.waiting:
            task.cancel()

    async def rest(self, seconds: float, *, stays: bool) -> None:
        """Waits before a batch that was refused is sent again; unless it `stays` another may have its place."""
        self.rests_until = asyncio.get_running_loop().time() + seconds
        if self.when_resting:
            self.when_resting()
        if self.batch_slots is None or stays:
            await self.wait(anyio.sleep(seconds))
            return
        async with self.batch_slots.lend():
            await self.wait(anyio.sleep(seconds))

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for something that need not happen once the submission is dropped."""
        if self.dropped:
            coroutine.close()
        with self.allow_release():
            return await coroutine

    @contextmanager
    def allow_release(self) -> Iterator[None]:
        """While this lasts the task may be let go of: nothing of it has been sent."""
        task = asyncio.current_task()
        assert task is not None
        if self.dropped:
            raise asyncio.CancelledError
        self.waiting.add(task)
        try:
            yield
        finally:
            self.waiting.discard(task)
