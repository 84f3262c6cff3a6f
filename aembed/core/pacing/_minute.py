"""Sums over the last minutes, in constant memory."""

from __future__ import annotations

_SLOTS_PER_SECOND = 2
_SLOTS = 128 * _SLOTS_PER_SECOND


class Minute:
    """How much of something happened, and when, over the last two minutes."""

    __slots__ = ("_amounts", "_stamps")

    def __init__(self) -> None:
        self._amounts = [0.0] * _SLOTS
        self._stamps = [-1] * _SLOTS

    def add(self, at: float, amount: float) -> None:
        stamp = int(at * _SLOTS_PER_SECOND)
        slot = stamp % _SLOTS
        if self._stamps[slot] != stamp:
            self._stamps[slot] = stamp
            self._amounts[slot] = 0.0
        self._amounts[slot] += amount

    def total(self, now: float, seconds: float = 60.0) -> float:
        first, last = int((now - seconds) * _SLOTS_PER_SECOND), int(now * _SLOTS_PER_SECOND)
        return sum(amount for stamp, amount in zip(self._stamps, self._amounts, strict=True) if first < stamp <= last)
