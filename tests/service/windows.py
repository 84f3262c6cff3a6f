"""Rate limits as services count them. Pure, the time is an argument: a simulation can use them as its judge.

A window answers two questions: how long a cost must wait (`wait`, 0 admits it now, infinity never), and, after `spend`,
what is left. Times are seconds of any one clock; limits are units (requests or tokens) a minute.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

MINUTE = 60.0
_ROUNDING = 1e-9

WindowKind = Literal["fixed", "sliding", "bucket", "gcra", "second"]


class Window(Protocol):
    """One limit of one account."""

    @property
    def limit(self) -> float:
        """Units a minute."""
        ...

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` would be admitted: 0 is now, infinity is never."""
        ...

    def spend(self, cost: float, now: float) -> None: ...

    def remaining(self, now: float) -> float: ...

    def reset(self, now: float) -> float:
        """Seconds until `remaining` is at its most again."""
        ...

    def change(self, limit: float, now: float) -> None:
        """A new limit; what was spent under the old one stays spent."""
        ...


@dataclass(slots=True)
class FixedMinute:
    """The count starts again at each full minute after `origin`."""

    limit: float
    origin: float = 0.0
    _minute: int = field(default=-1, repr=False)
    _used: float = 0.0

    def _roll(self, now: float) -> None:
        minute = math.floor((now - self.origin + _ROUNDING) / MINUTE)
        if minute != self._minute:
            self._minute, self._used = minute, 0.0

    def wait(self, cost: float, now: float) -> float:
        self._roll(now)
        if cost > self.limit:
            return math.inf
        return 0.0 if self._used + cost <= self.limit else self._next(now)

    def _next(self, now: float) -> float:
        return self.origin + (self._minute + 1) * MINUTE - now

    def spend(self, cost: float, now: float) -> None:
        self._roll(now)
        self._used += cost

    def remaining(self, now: float) -> float:
        self._roll(now)
        return max(0.0, self.limit - self._used)

    def reset(self, now: float) -> float:
        self._roll(now)
        return self._next(now) if self._used else 0.0

    def change(self, limit: float, now: float) -> None:
        self._roll(now)
        self.limit = limit


@dataclass(slots=True)
class SlidingMinute:
    """No 60 seconds, wherever they begin, hold more than the limit."""

    limit: float
    _spent: deque[tuple[float, float]] = field(default_factory=deque, repr=False)
    _used: float = 0.0

    def _roll(self, now: float) -> None:
        while self._spent and self._spent[0][0] + MINUTE <= now + _ROUNDING:
            self._used -= self._spent.popleft()[1]

    def wait(self, cost: float, now: float) -> float:
        self._roll(now)
        if cost > self.limit:
            return math.inf
        wait = 0.0
        excess = self._used + cost - self.limit
        for at, spent in self._spent:
            if excess <= 0:
                break
            excess, wait = excess - spent, at + MINUTE - now
        return wait

    def spend(self, cost: float, now: float) -> None:
        self._roll(now)
        self._spent.append((now, cost))
        self._used += cost

    def remaining(self, now: float) -> float:
        self._roll(now)
        return max(0.0, self.limit - self._used)

    def reset(self, now: float) -> float:
        self._roll(now)
        return self._spent[-1][0] + MINUTE - now if self._spent else 0.0

    def change(self, limit: float, now: float) -> None:
        self._roll(now)
        self.limit = limit


@dataclass(slots=True)
class TokenBucket:
    """A bucket of `burst` minutes' worth that fills at the limit's rate and starts full."""

    limit: float
    burst: float = 0.1
    _level: float = math.inf
    _at: float = 0.0

    @property
    def capacity(self) -> float:
        return self.limit * self.burst

    def _fill(self, now: float) -> None:
        gained = (now - self._at) * self.limit / MINUTE
        self._level, self._at = min(self.capacity, self._level + gained), now

    def wait(self, cost: float, now: float) -> float:
        self._fill(now)
        if cost > self.capacity:
            return math.inf
        seconds = (cost - self._level) * MINUTE / self.limit
        return seconds if seconds > _ROUNDING else 0.0

    def spend(self, cost: float, now: float) -> None:
        self._fill(now)
        self._level -= cost

    def remaining(self, now: float) -> float:
        self._fill(now)
        return max(0.0, self._level)

    def reset(self, now: float) -> float:
        self._fill(now)
        return (self.capacity - self._level) * MINUTE / self.limit

    def change(self, limit: float, now: float) -> None:
        self._fill(now)
        self.limit = limit


@dataclass(slots=True)
class Gcra:
    """The generic cell rate algorithm: a unit books 60 / limit seconds, at most `burst` minutes ahead of now."""

    limit: float
    burst: float = 0.1
    _booked_until: float = -math.inf

    def _ahead(self, now: float) -> float:
        return max(0.0, self._booked_until - now)

    def wait(self, cost: float, now: float) -> float:
        seconds = cost * MINUTE / self.limit
        if seconds > self.burst * MINUTE:
            return math.inf
        early = self._ahead(now) + seconds - self.burst * MINUTE
        return early if early > _ROUNDING else 0.0

    def spend(self, cost: float, now: float) -> None:
        self._booked_until = now + self._ahead(now) + cost * MINUTE / self.limit

    def remaining(self, now: float) -> float:
        return max(0.0, self.burst - self._ahead(now) / MINUTE) * self.limit

    def reset(self, now: float) -> float:
        return self._ahead(now)

    def change(self, limit: float, now: float) -> None:
        self._booked_until = now + self._ahead(now) * self.limit / limit
        self.limit = limit


@dataclass(slots=True)
class PerSecond:
    """A minute's limit dealt out in sixtieths, each for one full second; nothing is saved up.

    A cost above one second's share is admitted when that share is untouched, and uses up the next seconds' as well:
    otherwise a large request could never pass.
    """

    limit: float
    origin: float = 0.0
    _second: int = field(default=-1, repr=False)
    _left: float = 0.0

    @property
    def quantum(self) -> float:
        return self.limit / MINUTE

    def _roll(self, now: float) -> None:
        second = math.floor(now - self.origin + _ROUNDING)
        if second != self._second:
            self._left = min(self.quantum, self._left + (second - self._second) * self.quantum)
            self._second = second

    def wait(self, cost: float, now: float) -> float:
        self._roll(now)
        missing = min(cost, self.quantum) - self._left
        if missing <= _ROUNDING * self.quantum:
            return 0.0
        return self.origin + self._second + math.ceil(missing / self.quantum - _ROUNDING) - now

    def spend(self, cost: float, now: float) -> None:
        self._roll(now)
        self._left -= cost

    def remaining(self, now: float) -> float:
        self._roll(now)
        return max(0.0, self._left)

    def reset(self, now: float) -> float:
        return self.wait(self.quantum, now)

    def change(self, limit: float, now: float) -> None:
        self._roll(now)
        self._left = min(self._left, limit / MINUTE)
        self.limit = limit


WINDOWS: dict[WindowKind, Callable[[float], Window]] = {
    "fixed": FixedMinute,
    "sliding": SlidingMinute,
    "bucket": TokenBucket,
    "gcra": Gcra,
    "second": PerSecond,
}
