"""Stage 4: the window of items that were read, and when a batch is cut out of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil, inf

import anyio

from aembed.core.changes import Item
from aembed.core.packing import Cap, Window, share, taper

LINGER = 0.02
"""Seconds that a batch which is not full waits for a slow source."""
WINDOW_BATCHES = 16
"""Full batches read ahead at the most; fewer where concurrency is lower."""


class Batches:
    """`offer` waits while the window is full, `next` while there is not enough for a batch.

    `cap` and `slots` change with the replies: they are asked at each notice. `starved` tells whether the
    source is what all wait for.
    """

    def __init__(self, slots: Callable[[], int], cap: Callable[[], Cap], starved: Callable[[], bool]) -> None:
        self._slots = slots
        self._cap = cap
        self._starved = starved
        self._window = Window[Item]()
        self._offered_inputs, self._offered_tokens = 0, 0.0
        self._taken = 0
        self._ended = False
        self.hurried = False
        """Nothing more comes before what is here has been sent: what is read next waits for other jobs."""
        self._shared: tuple[Cap, int] | None = None
        self._latest_cap = cap()
        self._changed = anyio.Event()

    async def offer(self, items: Collection[Item]) -> None:
        """Waits while there are more than enough."""
        inputs, tokens = self._window.add(items)
        self._offered_inputs += inputs
        self._offered_tokens += tokens
        self.notify()
        while self._crowded:
            await self._changed.wait()

    @property
    def _crowded(self) -> bool:
        return self._window.is_full(self._latest_cap, min(self._slots(), WINDOW_BATCHES) + 1)

    @property
    def waiting(self) -> int:
        return len(self._window)

    def remaining(self) -> float:
        """Batches, once nothing more will be offered; until then any number."""
        return self._window.least_batches(self._latest_cap) if self._ended else inf

    def to_come(self, read: int, unread: int) -> float:
        """Tokens that wait, and those of so many texts that are still to be read, if they are as those before."""
        return self._window.tokens + unread * self._offered_tokens / max(1, read)

    def put_back(self, batch: Collection[Item]) -> None:
        """What was taken, and cannot go as it is."""
        self._window.add(batch)
        self._taken -= 1
        self.notify()

    def cheapest(self, share: float, left: float, cost: Callable[[Item], float]) -> list[Item]:
        """A batch that costs no more than `share`; where nothing is that cheap the one item that costs the least, if
        that is left."""
        cap, batch, others = self._cap(), Window[Item](), list[Item]()
        spent = 0.0
        priced = sorted(((cost(item), item) for item in self._window.clear()), key=lambda pair: -pair[0])
        for price, item in priced:
            fits = batch.inputs + item.inputs <= cap.inputs and batch.tokens + item.tokens <= cap.tokens
            is_last = item is priced[-1][1] and not len(batch)
            if (fits and spent + price <= share) or (is_last and price <= left):
                batch.add([item])
                spent += price
            else:
                others.append(item)
        self._window.add(others)
        self._taken += bool(len(batch))
        self.notify()
        return batch.clear()

    def least(self, cost: Callable[[Item], float]) -> int:
        """What the cheapest of those that wait costs."""
        items = self._window.clear()
        self._window.add(items)
        return ceil(min(map(cost, items)))

    def end(self) -> None:
        """Nothing more will be offered."""
        self._ended = True
        self.notify()

    def notify(self) -> None:
        """There is more in the window, or another cap."""
        self._latest_cap = self._cap()
        self._changed.set()
        self._changed = anyio.Event()

    async def next(self) -> list[Item]:
        """Empty once all was taken."""
        await self._until_ready()
        batch = self._last() if self._ended else self._window.take(self._cap())
        self._taken += 1
        self.notify()
        return batch

    async def _until_ready(self) -> None:
        while not self._ended and not self._window.is_full(self._cap()):
            if not len(self._window):
                await self._changed.wait()
                continue
            with anyio.move_on_after(LINGER) as waited:
                await self._changed.wait()
            if waited.cancelled_caught and (self.hurried or self._starved()):
                return

    def _last(self) -> list[Item]:
        """The work that is left, in even batches; in batches that shrink where the pace sets the time."""
        if not len(self._window):
            return []
        cap = self._cap()
        if cap.paced:
            least = self._window.least_batches(cap)
            return self._window.take(cap, taper(least, self._window.tokens, cap, self._slots()))
        if not self._shared or self._shared[0] != cap:
            self._shared = cap, self._share(cap)
        batches = self._shared[1]
        self._shared = cap, batches - 1
        return self._window.take(cap, max(1, batches))

    def _share(self, cap: Cap) -> int:
        """How many batches to make of the rest: full waves, and at most `concurrency` requests above the least."""
        least = self._window.least_batches(cap)
        most = self._slots() + cap.least_batches(self._offered_inputs, self._offered_tokens) - self._taken
        return max(least, min(share(least, self._window.tokens, self._slots(), self._taken), most))
