"""This module keeps the texts that are not on their way yet, as they came, and cuts requests of them.

What comes while queries are on their way gathers for MAX_WAIT; then all that fits in a request goes in one, or in a few
at once, where there is room for them and each is sooner answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil, inf

import anyio

from aembed.coalesce._flights import Flight
from aembed.core.changes import Item
from aembed.core.packing import Cap, count_last_batches, fitting_items
from aembed.dispatch import Dispatcher

# Chosen: a request takes 78 ms and more (measured at OpenAI), so 5 ms are not felt, and in a burst they gather dozens
# of texts. At 0 each text of a burst would be a request; larger, each query would be slower for fewer requests.
MAX_WAIT = 0.005
"""A text waits for others for so many seconds at the most, while queries are on their way."""


class Queue:
    """The flights that wait, with the sums of their inputs and tokens: there may be tens of thousands of them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.flights: dict[bytes, Flight] = {}
        self.inputs = 0
        self.tokens = 0.0
        self.ripe = asyncio.Event()
        """Set where there is nothing to wait for any more: a request is full, or no other query is on its way."""
        self.parts = 0
        """How many further requests what waits is shared by."""
        self._dispatcher = dispatcher
        self._full = 0

    @property
    def oldest(self) -> Flight | None:
        return next(iter(self.flights.values()), None)

    def add(self, flight: Flight) -> None:
        self.flights[flight.fingerprint] = flight
        self.inputs += len(flight.item.texts)
        self.tokens += flight.item.tokens
        if len(self.flights) == self._full:
            self.ripe.set()

    def remove(self, flight: Flight) -> None:
        del self.flights[flight.fingerprint]
        self.inputs -= len(flight.item.texts)
        self.tokens = self.tokens - flight.item.tokens if self.flights else 0.0

    async def gather(self) -> None:
        """Waits until MAX_WAIT after the oldest came, or until there is nothing to wait for."""
        oldest, self._full = self.oldest, self._dispatcher.cap.inputs
        assert oldest is not None
        seconds = oldest.since + MAX_WAIT - asyncio.get_running_loop().time()
        if seconds <= 0 or len(self.flights) >= self._full:
            return
        self.ripe.clear()
        with anyio.move_on_after(seconds):
            await self.ripe.wait()

    def take(self, left: float, cost: Callable[[Item], float]) -> list[Flight]:
        """Takes the oldest that fit in one request and cost no more than is left, at least one.

        Where several requests may go now it is an even share, so that each is answered sooner. Half of the free slots
        are left to those that come meanwhile.
        """
        cap, parts = self._dispatcher.cap, self.parts
        if not parts and self.inputs > 1:
            slots = 1 + self._dispatcher.startable_queries // 2
            parts = count_last_batches(cap.least_batches(self.inputs, self.tokens), self.tokens, slots)
        parts = max(1, parts)
        self.parts = parts - 1
        most = Cap(min(ceil(self.inputs / parts), cap.inputs), min(ceil(self.tokens / parts), cap.tokens))
        items = (flight.item for flight in self.flights.values())
        taken: list[Flight] = []
        for flight, item in zip(self.flights.values(), fitting_items(items, most), strict=False):
            left -= cost(item) if left < inf else 0.0
            if taken and left < 0:
                break
            taken.append(flight)
        for flight in taken:
            self.remove(flight)
        return taken
