"""Stage 4 keeps the window of items that were read, and decides when a batch is cut out of it.

Law 8: memory is bounded by the window of work in flight, not by the input. So whoever offers items waits while the
window holds enough for all slots and one batch more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, Protocol

import anyio

from aembed.core.changes import Item
from aembed.core.packing import Cap, Window, count_last_batches, taper
from aembed.core.progress import Tally
from aembed.dispatch import Deliver, Notice, Submission, WaitReport

# Chosen: a request takes 78 ms and more (measured at OpenAI), so 20 ms more for a fuller batch are well spent. At 0 a
# slow source would make a request of each text; larger, its results would come so much later.
LINGER = 0.02
"""A batch that is not full waits so many seconds for a slow source."""
# Chosen: a full batch is about 1 MB of text, so that is some 20 MB. Larger, memory grows for no speed; smaller, texts
# of different sizes are mixed less evenly.
WINDOW_BATCHES = 16
"""So many full batches are read ahead at the most; fewer where concurrency is lower."""


class Sender(Protocol):
    """What a job needs of a dispatcher; the dry run has one that sends nothing."""

    concurrency: int

    @property
    def slots(self) -> int: ...
    @property
    def wait_report(self) -> WaitReport: ...
    @property
    def cap(self) -> Cap: ...
    def start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    async def send(self, batch: Sequence[Item], submission: Submission, deliver: Deliver) -> None: ...


@dataclass(eq=False, repr=False)
class Batches:
    """The batches of a job: `offer` waits while the window is full, `next_batch` while there is not enough for a batch.

    What a batch may hold changes with the replies, and with what is left of a budget (`narrow_cap`), so it is asked at
    each notice. `starved` tells whether the source is what everybody waits for.
    """

    _dispatcher: Sender
    _tally: Tally
    _starved: Callable[[], bool]
    _narrow_cap: Callable[[Cap], Cap] | None = None
    _window: Window[Item] = field(default_factory=Window[Item])
    _offered_inputs: int = 0
    _offered_tokens: float = 0.0
    _taken: int = 0
    _ended: bool = False
    hurried: bool = False
    """Whether nothing more comes before what is here has been sent, because what was read waits for other jobs."""
    _shared: tuple[Cap, int] | None = None
    _latest_cap: Cap | None = None
    changed: Notice = field(default_factory=Notice)
    """There is more or less in the window, or another cap."""

    async def offer(self, items: Collection[Item]) -> None:
        """Adds items to the window, and waits while there are more than enough."""
        inputs, tokens = self._window.add(items)
        self._offered_inputs += inputs
        self._offered_tokens += tokens
        self.changed.tell()
        while self._window.is_full(cap := self._cap) and self._window.is_full(
            cap, min(self._dispatcher.slots, WINDOW_BATCHES) + 1
        ):
            await self.changed.wait()

    @property
    def _cap(self) -> Cap:
        cap = self._dispatcher.cap
        self._latest_cap = self._narrow_cap(cap) if self._narrow_cap else cap
        return self._latest_cap

    def is_beyond_a_job(self, inputs: int, tokens: float) -> bool:
        """Whether that is twice as much as a job of these settings holds, on its way and in the window.

        What it holds by now is known some time later: with once as much another job would hardly come to the end of it.
        """
        slots, cap = self._dispatcher.slots, self._latest_cap or self._cap
        return cap.least_batches(inputs, tokens) > 2 * (slots + min(slots, WINDOW_BATCHES) + 1)

    def remaining_batches(self) -> float:
        """How many batches remain, with those of the texts that are still to be read, if they are as those before.

        Of a source whose end is not known they are without an end.
        """
        if not self._ended and self._tally.total is None:
            return inf
        more = 0.0 if self._ended else self._unread / max(1, self._tally.inputs)
        inputs, tokens = self._window.inputs + more * self._offered_inputs, more * self._offered_tokens
        return (self._latest_cap or self._cap).least_batches(ceil(inputs), self._window.tokens + tokens)

    def to_come(self) -> float:
        """Tokens that will still be sent, if the texts that are still to be read are as those before.

        Of a source whose end is not known nothing is promised but what was read.
        """
        return self._window.tokens + self._unread * self._offered_tokens / max(1, self._tally.inputs)

    @property
    def _unread(self) -> int:
        return max(0, (self._tally.total or 0) - self._tally.inputs)

    def put_back(self, batch: Collection[Item]) -> None:
        """Puts a batch back that was taken, and cannot go as it is."""
        self._window.add(batch)
        self._taken -= 1
        self.changed.tell()

    def cheapest_batch(self, share: float, left: float, cost: Callable[[Item], float]) -> list[Item]:
        """Takes a batch that costs no more than `share`.

        Where nothing is that cheap, it is the one item that costs the least, if so much is `left`.
        """
        cap, batch, others = self._cap, Window[Item](), list[Item]()
        spent = 0.0
        priced = sorted(((cost(item), item) for item in self._window.clear()), key=lambda pair: -pair[0])
        for price, item in priced:
            fits = batch.inputs + len(item.texts) <= cap.inputs and batch.tokens + item.tokens <= cap.tokens
            is_last = item is priced[-1][1] and not len(batch)
            if (fits and spent + price <= share) or (is_last and price <= left):
                batch.add([item])
                spent += price
            else:
                others.append(item)
        self._window.add(others)
        self._taken += bool(len(batch))
        self.changed.tell()
        return batch.clear()

    def least_cost(self, cost: Callable[[Item], float]) -> int | None:
        """What the cheapest of the items that wait costs; None where none does."""
        items = self._window.clear()
        self._window.add(items)
        return ceil(min(map(cost, items))) if items else None

    def end(self) -> None:
        """Nothing more will be offered."""
        self._ended = True
        self.changed.tell()

    async def next_batch(self) -> list[Item]:
        """Takes the next batch; it is empty once all was taken."""
        while not self._ended:
            if not len(self._window):
                await self.changed.wait()
                continue
            if self._window.is_full(self._cap):
                break
            with anyio.move_on_after(LINGER) as waited:
                await self.changed.wait()
            if waited.cancelled_caught and (self.hurried or self._starved()):
                break
        batch = self._last_batch() if self._ended else self._window.take(self._cap)
        self._taken += 1
        self.changed.tell()
        return batch

    def _last_batch(self) -> list[Item]:
        """Takes one of the last batches: they are even, or shrink where the pace sets the time."""
        if not len(self._window):
            return []
        cap, slots = self._cap, self._dispatcher.slots
        tokens = self._window.tokens
        least = cap.least_batches(self._window.inputs, tokens)
        if cap.paced:
            return self._window.take(cap, taper(least, tokens, cap, slots))
        if not self._shared or self._shared[0] != cap:
            # Full waves, and no more than a request a slot above the least.
            most = slots + cap.least_batches(self._offered_inputs, self._offered_tokens) - self._taken
            self._shared = cap, max(least, min(count_last_batches(least, tokens, slots, self._taken), most))
        batches = self._shared[1]
        self._shared = cap, batches - 1
        return self._window.take(cap, max(1, batches))
