"""This module says when calls are out of time, with one timer for all calls that have the same `timeout`.

Such calls run out of time in the order in which they came, so the timer has to know only the first of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aembed.coalesce._flights import Waiter

# Chosen: law 11 keeps our own work on the loop below 5 ms, so a timer that is ten times as late was held up by others.
# At 0 calls would fail whose answer lies unread in a socket; larger, each call may end so much later than it asked.
LATENESS = 0.05
"""A timer that is so many seconds late shows that the event loop was blocked; as long is granted to read what came."""


@dataclass(slots=True, eq=False)
class Row:
    """The calls that wait with one timeout, by their deadlines."""

    timer: asyncio.TimerHandle
    deadlines: dict[Waiter, float] = field(default_factory=dict)


class Timeouts:
    """The deadlines of calls, in seconds. `expire(waiter, timeout)` is called for each that was not stopped in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[Waiter, float], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._rows: dict[float, Row] = {}

    def start(self, waiter: Waiter, timeout: float) -> float:
        """Starts the time of a call, and returns its deadline."""
        deadline = self._loop.time() + timeout
        row = self._rows.get(timeout)
        if row is None:
            row = self._rows[timeout] = Row(self._loop.call_at(deadline, self._ring, timeout, deadline))
        row.deadlines[waiter] = deadline
        return deadline

    def stop(self, waiter: Waiter, timeout: float) -> None:
        row = self._rows[timeout]
        del row.deadlines[waiter]
        if not row.deadlines:
            row.timer.cancel()
            del self._rows[timeout]

    def _ring(self, timeout: float, at: float) -> None:
        """Expires the calls that are due, and sets the timer for the next one."""
        row, now = self._rows[timeout], max(at, self._loop.time())
        due = now + LATENESS
        if now - at <= LATENESS:
            due = now + timeout  # of who comes next, at the earliest
            for waiter, deadline in row.deadlines.items():
                if deadline > now:
                    due = deadline
                    break
                if not waiter.done():
                    self._expire(waiter, timeout)
        row.timer = self._loop.call_at(due, self._ring, timeout, due)
