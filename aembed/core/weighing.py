"""Stage 7 learns how heavy a request may be for this server from what it accepted and from what it failed.

A server that runs out of memory or of time, or that can only be used one text at a time, names no limit: it times out,
breaks the connection, answers 5xx or replies with something that cannot be used. So sizes that were accepted are
known, and one request at a time tries a larger one: four times as large at first, then half-way to what failed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from aembed.core.packing import Cap, HasCost, ItemT, fitting_items, totals

# Chosen: as large as a quarter of what failed, so the sizes up and the parts down are the same. Larger, what fails is
# larger and may be billed; smaller, it takes more requests until the right size is found.
GROWTH = 4
"""The next size that is tried is so many times larger than anything that was accepted."""
# Chosen: to know the limit within 25 % is enough; each further step would cost a failed request, and gain little.
CLOSE = 1.25
"""A size that is nearer than this factor to what failed is not tried while that is believed."""
# Chosen: the server may have been busy for a while only. Smaller,
# more requests fail; larger, batches stay small for long.
PATIENCE = 64
"""After so many accepted requests what failed is tried again, and after twice as many each time that it fails."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How large a request is, in both of its dimensions."""

    inputs: float = 0
    tokens: float = 0.0

    def has_room_for(self, other: BatchSize) -> bool:
        return other.inputs <= self.inputs and other.tokens <= self.tokens


UNLIMITED = BatchSize(inf, inf)


@dataclass(eq=False, repr=False)
class Weight:
    """What is known for the life of the Embedder: `passed` was accepted; `failed` was not, though its parts were."""

    passed: BatchSize = field(default_factory=BatchSize)
    failed: BatchSize = UNLIMITED
    is_limited: bool = False
    trial: object = None
    """Who tries a size now, so that others may wait for it."""
    _second_chance: bool = False
    _patience: int = PATIENCE
    _accepted: int = 0

    def __repr__(self) -> str:
        return f"<Weight {self.passed} passed, {self.failed} failed>"

    def is_proven(self, items: Collection[HasCost]) -> bool:
        """Whether something as large was accepted, or the items cannot be fewer."""
        return len(items) == 1 or self.passed.has_room_for(BatchSize(*totals(items)))

    def note_accepted(self, items: Collection[HasCost]) -> None:
        inputs, tokens = totals(items)
        self.passed = BatchSize(max(self.passed.inputs, inputs), max(self.passed.tokens, tokens))
        if not self.is_limited:
            return
        self._accepted += 1
        if self.passed.has_room_for(self.failed):
            self.forgive()
        elif self._accepted >= self._patience:
            self._accepted, self._patience = 0, 2 * self._patience
            self.failed = BatchSize(CLOSE * max(self.failed.inputs, 2), CLOSE * self.failed.tokens)

    def fail(self, items: Collection[HasCost], passed: tuple[float, float] = (inf, inf)) -> None:
        """Something of that size failed while the server was not away.

        `passed` is how large the largest part of it was that was accepted.
        """
        inputs, tokens = totals(items)
        self.failed = BatchSize(min(self.failed.inputs, inputs), min(self.failed.tokens, tokens))
        self.is_limited = True
        most_inputs, most_tokens = min(self.failed.inputs, passed[0]), min(self.failed.tokens, passed[1])
        self.passed = BatchSize(min(self.passed.inputs, most_inputs), min(self.passed.tokens, most_tokens))

    def doubt(self, items: Collection[HasCost]) -> bool:
        """Something of that size failed in a way that costs, for the first time: one sender tries that size once more.

        Returns False where that was done already.
        """
        if self.is_limited:
            return False
        self.fail(items)
        self._second_chance = True
        return True

    def has_to_wait(self, sender: object) -> bool:
        """Whether this sender has to wait for the trial of another one."""
        return self.trial not in (None, sender) and self._is_far_apart

    def forgive(self) -> None:
        """Forgets what failed: it was not for its size."""
        self.failed, self.is_limited, self._second_chance = UNLIMITED, False, False
        self._patience, self._accepted = PATIENCE, 0

    def narrow_cap(self, cap: Cap) -> Cap:
        """What the next batch may hold, be it a trial or not; while little is known, it is cut only when it is sent."""
        if not self.is_limited or self._is_far_apart:
            return cap
        most = self._next_size()
        return Cap(max(1, int(min(cap.inputs, most.inputs))), max(1.0, min(cap.tokens, most.tokens)), cap.paced)

    def fitting_items(self, items: Sequence[ItemT], sender: object, *, careful: bool = False) -> Sequence[ItemT]:
        """The first of the items, as many as may be sent now. One sender at a time tries more than was accepted.

        `careful` says that these failed before, whatever is believed about their size.
        """
        if self.is_proven(items) or not (self.is_limited or careful):
            return items
        if self._second_chance and self.trial is None and not careful:
            self.trial, self._second_chance = sender, False
            return items
        most = self._next_size() if self.trial in (None, sender) else self.passed
        part = list(fitting_items(items, Cap(int(most.inputs), most.tokens)))
        if not self.is_proven(part):
            self.trial = sender
        return items if len(part) == len(items) else part

    @property
    def _is_far_apart(self) -> bool:
        """Whether what is known to be accepted is far less than what failed: two steps of growth or more."""
        return self.is_limited and self.passed.inputs * GROWTH**2 < self.failed.inputs

    def _next_size(self) -> BatchSize:
        return BatchSize(
            _size_between(self.passed.inputs, self.failed.inputs), _size_between(self.passed.tokens, self.failed.tokens)
        )


def _size_between(passed: float, failed: float) -> float:
    """The next size to try in one dimension, above what was accepted and below what failed."""
    if passed * GROWTH < failed:
        return passed * GROWTH
    middle = (passed + failed) / 2
    return middle if middle > CLOSE * passed or failed > CLOSE * middle else passed
