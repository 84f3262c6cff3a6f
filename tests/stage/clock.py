"""An event loop on virtual time: when nothing is ready, its clock jumps to the next timer.

    run_virtual(job, 1, 2)      # await job(1, 2); an hour of sleeping takes no time

The same program takes the same steps on every run. Real sockets, threads and processes cannot be awaited on it.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DeadlockError(RuntimeError):
    """Every task waits and no timer is set: nothing can ever happen again."""


class _Selector(selectors.SelectSelector):
    """Never blocks: a wait for `timeout` seconds is that much virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the one that is there is the loop's own wake-up pipe
            raise RuntimeError("a real socket cannot be awaited on virtual time")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise DeadlockError(_waiting())
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        self._owner = threading.get_ident()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._owner:
            raise RuntimeError("a thread reports to a loop on virtual time")
        return super().call_soon_threadsafe(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        raise RuntimeError("a thread was asked for on virtual time; run that work inline")


def _waiting() -> str:
    names = sorted(f"{task.get_name()} {task.get_coro()!r}" for task in asyncio.all_tasks())
    return f"{len(names)} tasks wait for ever: {'; '.join(names[:5])}"


def run_virtual(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Runs `function(*args)` to its end on a new VirtualLoop. Raises DeadlockError if it can never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(function(*args))
