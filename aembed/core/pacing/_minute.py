"""This module counts how much of something happened in the last minute or two: tokens, requests, texts."""

from __future__ import annotations

MINUTE = 60.0
# Chosen: half a second is 0.8 % of a minute, less than the 3 % that the pace leaves free; 128 s hold the two minutes
# that the longest measurement looks back. Larger numbers make each sum slower, which is taken for each reply.
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

    def seconds_since_first(self, now: float) -> float:
        """Since the first of it in the last minute, within half a second; 0 where there was none."""
        first, last = int((now - MINUTE) * _SLOTS_PER_SECOND), int(now * _SLOTS_PER_SECOND)
        return now - min([stamp for stamp in self._stamps if first < stamp <= last], default=last) / _SLOTS_PER_SECOND
