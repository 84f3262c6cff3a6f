"""Stage 4 makes batches out of items and their costs.

Law 12: the unit is an item of one or more inputs, so the pieces of one split text travel together, and a batch is cut
between items only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from aembed.limits import Limits

# Measured in recorded replies of OpenAI: a request costs about 78 ms + 22 us a token, so 2,000 tokens take 122 ms and
# half of them 100. Smaller shares would pay for more requests, and be answered hardly sooner.
LEAST_SHARE_TOKENS = 2_000
"""A batch of fewer tokens than this is not answered sooner."""

# Measured in virtual time: so a paced job ends within 5 % of the least time that its limit allows, on each tier of
# OpenAI. Larger, the last batches would be many; smaller, the last one would be long.
TAPERED = 4
"""A tapered batch is a fourth of what is left, or a third of the last full one: that is nine more requests a job."""
# Chosen: a sixteenth of a full batch of Tier 5 takes under half a second; there is nothing to gain below it.
LAST_SHARE = 1 / 16
"""The last batch is no larger than this part of a full one."""


class HasCost(Protocol):
    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def tokens(self) -> float: ...


ItemT = TypeVar("ItemT", bound=HasCost)


@dataclass(frozen=True, slots=True)
class Cap:
    """What one batch may hold. `paced` says that a rate limit decides when the next one goes."""

    inputs: int
    tokens: float
    paced: bool = False

    @classmethod
    def from_limits(cls, limits: Limits) -> Cap:
        return cls(limits.max_batch_size, limits.max_tokens_per_batch)

    def least_batches(self, inputs: int, tokens: float) -> int:
        return max(ceil(inputs / self.inputs), ceil(tokens / self.tokens))


@dataclass(eq=False, repr=False)
class Window(Generic[ItemT]):
    """The items that were read and not sent yet. `take` cuts the next batch out of them.

    Items are kept by size and a batch takes every k-th of them, k being the number of batches left: each
    batch then has the same mix of short and long texts, so neither limit is reached before the other.
    """

    _items: list[ItemT] = field(default_factory=list)
    _sorted: bool = True
    inputs: int = 0
    tokens: float = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, items: Collection[ItemT]) -> tuple[int, float]:
        """Adds the items, and returns how many inputs and tokens they have."""
        inputs, tokens = totals(items)
        self._items += items
        self._sorted = False
        self.inputs += inputs
        self.tokens += tokens
        return inputs, tokens

    def is_full(self, cap: Cap, batches: int = 1) -> bool:
        """Whether there is enough for that many full batches."""
        return self.inputs >= batches * cap.inputs or self.tokens >= batches * cap.tokens

    def take(self, cap: Cap, batches: int | None = None) -> list[ItemT]:
        """One of `batches` even batches, or one as full as can be; never above the cap.

        A single item that is above the cap goes alone.
        """
        if batches:
            stride = max(batches, cap.least_batches(self.inputs, self.tokens))
        else:
            stride = max(1, int(max(self.inputs / cap.inputs, self.tokens / cap.tokens)))
        if not self._sorted:
            self._items.sort(key=attrgetter("tokens"), reverse=True)
        candidates = self._items[::stride]
        del self._items[::stride]
        # What fits goes, in the order of the candidates; the first one always does.
        inputs, tokens = 0, 0.0
        batch: list[ItemT] = []
        left: list[ItemT] = []
        for item in candidates:
            more_inputs, more_tokens = inputs + len(item.texts), tokens + item.tokens
            if batch and (more_inputs > cap.inputs or more_tokens > cap.tokens):
                left.append(item)
                continue
            batch.append(item)
            inputs, tokens = more_inputs, more_tokens
        self._items += left
        self._forget(batch)
        self._sorted = not left
        return batch

    def clear(self) -> list[ItemT]:
        items, self._items = self._items, []
        self._forget(items)
        return items

    def _forget(self, items: Sequence[ItemT]) -> None:
        inputs, tokens = totals(items)
        self.inputs -= inputs
        self.tokens = self.tokens - tokens if self._items else 0.0


def totals(items: Collection[HasCost]) -> tuple[int, float]:
    """How many inputs and tokens the items have together."""
    return sum([len(item.texts) for item in items]), sum([item.tokens for item in items])


def fitting_items(items: Iterable[ItemT], cap: Cap) -> Iterator[ItemT]:
    """The first of the items, as many as one batch holds; at least one."""
    inputs, tokens = 0, 0.0
    for number, item in enumerate(items):
        inputs += len(item.texts)
        tokens += item.tokens
        if number and (inputs > cap.inputs or tokens > cap.tokens):
            return
        yield item


def pack(items: Sequence[ItemT], cap: Cap) -> list[list[ItemT]]:
    """Batches for all of the items: at most two more than the cap asks for, and no two neighbours fit in one."""
    window = Window[ItemT]()
    window.add(items)
    batches = []
    while window:
        batches.append(window.take(cap, cap.least_batches(window.inputs, window.tokens)))
    return batches


def count_last_batches(least: int, tokens: float, slots: int, taken: int = 0) -> int:
    """How many batches to make of the last ones, so that with those that were `taken` every wave of `slots` is full.

    Never more than `slots` above the least, and no batch so small that it would be answered no sooner.
    """
    waves = ceil((taken + least) / slots)
    return max(least, min(waves * slots - taken, ceil(tokens / LEAST_SHARE_TOKENS)))


def taper(least: int, tokens: float, cap: Cap, slots: int) -> int:
    """Into how many batches the rest is divided for the next one, where the pace sets the time: the last ones shrink.

    A paced job ends with its last reply, and a reply takes its time for each token: after a full batch of Tier 5 that
    is six seconds in which nothing is left to send, after a small one a tenth of that.
    """
    if tokens <= cap.tokens * LAST_SHARE:
        return least
    return max(least, min(TAPERED if tokens > cap.tokens else TAPERED - 1, slots))


def halves(batch: Sequence[ItemT]) -> tuple[Sequence[ItemT], Sequence[ItemT]]:
    """The two parts of a rejected batch, which must have two items at least."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def quarters(batch: Sequence[ItemT]) -> list[Sequence[ItemT]]:
    """Four parts of a batch that failed, or as many parts as it has items.

    One bad item is found with as many requests as by halving, and with half as many failures in a row.
    """
    size = ceil(len(batch) / 4)
    return [batch[start : start + size] for start in range(0, len(batch), size)]
