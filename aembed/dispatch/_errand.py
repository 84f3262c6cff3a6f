from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aembed.dispatch._admission import Ticket
from aembed.types import InputType

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Errand:
    """What a caller wants sent, as long as it wants it. A query's goes before those of jobs."""

    input_type: InputType = "document"
    interactive: bool = False
    requests: int = 0
    retries: int = 0
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
        task = asyncio.current_task()
        assert task is not None
        if self.dropped:
            coroutine.close()
            raise asyncio.CancelledError
        self._waiting.add(task)
        try:
            return await coroutine
        finally:
            self._waiting.discard(task)
