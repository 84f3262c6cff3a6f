"""Stage 7: how heavy a request may be for this server, learned from what it accepted and from what it failed.

A server that runs out of memory or of time, or that can only be used one text at a time, names no limit: it times out,
breaks the connection, answers 5xx or replies with something that cannot be used. So sizes that were accepted are
known, and one request at a time tries a larger one: four times as large at first, then half-way to what failed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf

from aembed.core.packing import Cap, Costed, ItemT, fitting, totals

GROWTH = 4
"""How many times larger than anything that was accepted the next one is. A fourth of what fails is what is lost."""
CLOSE = 1.25
"""A size that is nearer to what failed is not tried while that is believed."""
PATIENCE = 64
"""Accepted requests after which what failed is tried again, twice as many each time: the server may be less busy."""


@dataclass(frozen=True, slots=True)
class Size:
    inputs: float = 0
    tokens: float = 0.0

    def holds(self, other: Size) -> bool:
        return other.inputs <= self.inputs and other.tokens <= self.tokens


UNLIMITED = Size(inf, inf)


class Weight:
    """For the life of the Embedder. `passed` was accepted, `failed` was not though its parts were, or may be."""

    def __init__(self) -> None:
        self.passed = Size()
        self.failed = UNLIMITED
        self._trial: object = None
        self._second_chance = False
        self._patience = PATIENCE
        self._accepted = 0

    def __repr__(self) -> str:
        return f"<Weight {self.passed} passed, {self.failed} failed>"

    @property
    def is_limited(self) -> bool:
        return self.failed != UNLIMITED

    def proven(self, items: Collection[Costed]) -> bool:
        """Something as large was accepted, or it cannot be smaller."""
        return len(items) == 1 or self.passed.holds(_size(items))

    def accept(self, items: Collection[Costed]) -> None:
        size = _size(items)
        self.passed = Size(max(self.passed.inputs, size.inputs), max(self.passed.tokens, size.tokens))
        if not self.is_limited:
            return
        self._accepted += 1
        if self.passed.holds(self.failed):
            self.forgive()
        elif self._accepted >= self._patience:
            self._accepted, self._patience = 0, 2 * self._patience
            self.failed = Size(CLOSE * max(self.failed.inputs, 2), CLOSE * self.failed.tokens)

    def fail(self, items: Collection[Costed], passed: tuple[float, float] = (inf, inf)) -> None:
        """Something of that size failed, and the server was not away. `passed`: its largest part that was accepted."""
        size = _size(items)
        self.failed = Size(min(self.failed.inputs, size.inputs), min(self.failed.tokens, size.tokens))
        inputs, tokens = passed
        self.passed = Size(
            min(self.passed.inputs, self.failed.inputs, inputs), min(self.passed.tokens, self.failed.tokens, tokens)
        )

    def doubt(self, items: Collection[Costed]) -> bool:
        """Something of that size failed in a way that costs, the first time: one sender tries that size once more.

        False where that was done.
        """
        if self.is_limited:
            return False
        self.fail(items)
        self._second_chance = True
        return True

    def waits(self, sender: object) -> bool:
        """For the trial of another one."""
        return self._is_far_apart and self._trial not in (None, sender)

    def is_tried_by(self, sender: object) -> bool:
        """Others may wait for it."""
        return self._trial is sender

    def forgive(self) -> None:
        """It was not the size that failed."""
        self.failed, self._second_chance = UNLIMITED, False
        self._patience, self._accepted = PATIENCE, 0

    def within(self, cap: Cap) -> Cap:
        """What the next batch may hold, be it a trial; while little is known it is cut when it is sent."""
        if not self.is_limited or self._is_far_apart:
            return cap
        most = self._next()
        return Cap(max(1, int(min(cap.inputs, most.inputs))), max(1.0, min(cap.tokens, most.tokens)), cap.paced)

    def fitting(self, items: Sequence[ItemT], sender: object, *, careful: bool = False) -> Sequence[ItemT]:
        """The first of them, as many as may be sent now. One sender at a time tries more than was accepted.

        `careful`: these failed before, whatever is believed of their size.
        """
        if self.proven(items) or not (self.is_limited or careful):
            return items
        if self._second_chance and self._trial is None and not careful:
            self._trial, self._second_chance = sender, False
            return items
        most = self._next() if self._trial in (None, sender) else self.passed
        part = list(fitting(items, Cap(int(most.inputs), most.tokens)))
        if not self.proven(part):
            self._trial = sender
        return items if len(part) == len(items) else part

    def leave(self, sender: object) -> None:
        """Its trial is over."""
        if self._trial is sender:
            self._trial = None

    @property
    def _is_far_apart(self) -> bool:
        """Far less is known to be accepted than is tried."""
        return self.is_limited and self.passed.inputs * GROWTH**2 < self.failed.inputs

    def _next(self) -> Size:
        return Size(_between(self.passed.inputs, self.failed.inputs), _between(self.passed.tokens, self.failed.tokens))


def _size(items: Collection[Costed]) -> Size:
    return Size(*totals(items))


def _between(passed: float, failed: float) -> float:
    """The next size to try in one dimension, above what was accepted and below what failed."""
    if passed * GROWTH < failed:
        return passed * GROWTH
    middle = (passed + failed) / 2
    return middle if middle > CLOSE * passed or failed > CLOSE * middle else passed
