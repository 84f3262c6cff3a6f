"""This module calls the caller's own functions, which are told of progress and of failures."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, TypeAlias

import anyio

from aembed.dispatch import Notice
from aembed.errors import ConfigError
from aembed.results import Failure, Progress

logger = logging.getLogger("aembed")

OnProgress: TypeAlias = Callable[[Progress], object]
"""A function, or an `async def`, which is awaited. The last call of a job, or of a pass of a backfill, has a Report."""
OnFailure: TypeAlias = Callable[[Failure], object]

# Chosen: a function that writes to a database takes milliseconds;
# one that takes longer in all hangs, and would hang the job.
PATIENCE = 10.0
"""A job waits so many seconds for async functions in all, and again at its end."""
# Chosen: whoever cancels a job wants it to end.
LEAST_PATIENCE = 1.0
"""A job that was cancelled waits so many seconds for them."""
# Law 8: memory is bounded. Chosen as KEPT_FAILURES: so many failures are held in any case.
MOST_WAITING = 1_000
"""With more calls of `on_failure` that have begun and not ended, the job waits."""
RAISED = "%r raised; the job goes on"


@dataclass(frozen=True, slots=True)
class Observers:
    """The functions of the caller. What they raise is logged, and does not touch the job."""

    on_progress: OnProgress | None = None
    on_failure: OnFailure | None = None

    def __post_init__(self) -> None:
        for name, observer in (("on_progress", self.on_progress), ("on_failure", self.on_failure)):
            if observer is not None and not callable(observer):
                raise ConfigError(f"{name} must be a function, or None, not {type(observer).__name__}")


@dataclass(eq=False, repr=False)
class ObserverCalls:
    """Calls the observers of one job. What an `async def` returns is awaited beside the job, one call after another.

    Progress is not told again before the last call of it has ended. A job waits for slow functions no longer than
    PATIENCE: from then on they are not called.
    """

    _observers: Observers
    _calls: deque[tuple[Callable[[Any], object], Awaitable[object]]] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None
    _patience: float = PATIENCE
    _progress_waits: bool = False
    _changed: Notice = field(default_factory=Notice)

    def tell_failure(self, failure: Failure) -> None:
        self._call(self._observers.on_failure, failure)

    def tell_progress(self, progress: Progress) -> None:
        if not self._progress_waits:
            self._progress_waits = self._call(self._observers.on_progress, progress)

    async def wait_for_room(self) -> None:
        """Waits while too many calls have not ended."""
        if len(self._calls) < MOST_WAITING:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        with anyio.move_on_after(self._patience):
            while len(self._calls) >= MOST_WAITING:
                await self._changed.wait()
        self._patience -= loop.time() - began
        if self._patience <= 0 and len(self._calls) >= MOST_WAITING:
            self._give_up()

    async def finish(self, last: Progress | None, *, patience: float = PATIENCE) -> None:
        """Tells the last progress, and waits for the calls. What lands after that is told to nobody any more."""
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(patience):
                if self._task:
                    await asyncio.wait([self._task])
                if last:
                    self.tell_progress(last)
                if self._task:
                    await asyncio.wait([self._task])
            if self._task:
                self._give_up()
        finally:
            self._observers = Observers()
            if self._task:
                self._task.cancel()
                await asyncio.wait([self._task])

    def _call(self, observer: Callable[[Any], object] | None, value: object) -> bool:
        """Calls a function of the caller; returns whether the call goes on beside the job."""
        if observer is None:
            return False
        try:
            result = observer(value)
        except Exception:
            logger.exception(RAISED, observer)
            return False
        if not isawaitable(result):
            return False
        self._calls.append((observer, result))
        self._task = self._task or asyncio.get_running_loop().create_task(self._await_all())
        return True

    async def _await_all(self) -> None:
        try:
            while self._calls:
                observer, result = self._calls[0]
                try:
                    await result
                except (Exception, asyncio.CancelledError):
                    if (task := asyncio.current_task()) and task.cancelling():
                        raise
                    logger.exception(RAISED, observer)
                self._calls.popleft()
                if observer is self._observers.on_progress:
                    self._progress_waits = False
                self._changed.tell()
        finally:
            self._task = None

    def _give_up(self) -> None:
        logger.error(
            "on_progress or on_failure took too long: %d calls have not ended, and no more are made", len(self._calls)
        )
        self._observers = Observers()
        while len(self._calls) > 1:
            _, result = self._calls.pop()
            if isinstance(result, Coroutine):
                result.close()
