"""When calls are out of time. Those of one `timeout` are so in the order in which they came: one timer is for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aembed.coalesce._flights import Waiter

LATENESS = 0.05
"""Seconds by which a timer is late where the event loop was blocked; so long is granted to read what came meanwhile."""


@dataclass(slots=True, eq=False)
class Row:
    """The calls that wait with one timeout, by their deadlines."""

    timer: asyncio.TimerHandle
    deadlines: dict[Waiter, float] = field(default_factory=dict)


class Timeouts:
    """`expire(waiter, timeout)` is called of each that was not stopped in time. Seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[Waiter, float], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._rows: dict[float, Row] = {}

    def start(self, waiter: Waiter, timeout: float) -> float:
        """Its deadline."""
        deadline = self._loop.time() + timeout
        row = self._rows.get(timeout)
        if row is None:
            row = self._rows[timeout] = Row(self._timer(timeout, deadline))
        row.deadlines[waiter] = deadline
        return deadline

    def stop(self, waiter: Waiter, timeout: float) -> None:
        row = self._rows[timeout]
        del row.deadlines[waiter]
        if not row.deadlines:
            row.timer.cancel()
            del self._rows[timeout]

    def _timer(self, timeout: float, at: float) -> asyncio.TimerHandle:
        return self._loop.call_at(at, self._ring, timeout, at)

    def _ring(self, timeout: float, at: float) -> None:
        row, now = self._rows[timeout], max(at, self._loop.time())
        if now - at > LATENESS:
            row.timer = self._timer(timeout, now + LATENESS)
            return
        for waiter, deadline in row.deadlines.items():
            if deadline > now:
                break
            if not waiter.done():
                self._expire(waiter, timeout)
        else:
            deadline = now + timeout  # of who comes next, at the earliest
        row.timer = self._timer(timeout, deadline)
