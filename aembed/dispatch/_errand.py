from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aembed.dispatch._admission import Ticket
from aembed.types import InputType

T = TypeVar("T")


class Purse(Protocol):
    """What a job may spend. Asked before each request, each try of it included."""

    async def reserve(self, tokens: int) -> None:
        """Notes what the request may cost before it goes out. Raises BudgetExceededError where that is not left."""
        ...

    def release(self, reserved: int) -> None:
        """It was refused, or never left: it cost nothing."""
        ...

    async def settle(self, reserved: int, billed: int | None) -> None:
        """It was answered, and cost that; None where the reply did not say."""
        ...


@dataclass(slots=True, eq=False)
class Errand:
    """What a caller wants sent, as long as it wants it. A query's goes before those of jobs.

    `lost_tokens` may have been billed: their requests were sent, and no usable reply came.
    """

    input_type: InputType = "document"
    interactive: bool = False
    purse: Purse | None = None
    requests: int = 0
    retries: int = 0
    lost_tokens: int = 0
    dropped: bool = False
    ticket: Ticket | None = None
    """Leave for its first request, where that was got beforehand."""
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
