"""This module keeps the texts that are not on their way yet, in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from aembed.coalesce._flights import Flight, item_of
from aembed.core.changes import Item
from aembed.core.packing import Cap, fitting_items


class Queue:
    """The flights that wait, with the sums of their inputs and tokens: there may be tens of thousands of them."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}
        self.inputs = 0
        self.tokens = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def __contains__(self, flight: Flight) -> bool:
        return self._flights.get(flight.fingerprint) is flight

    @property
    def oldest(self) -> Flight | None:
        return next(iter(self._flights.values()), None)

    def add(self, flight: Flight, item: Item) -> None:
        flight.item = item
        self._flights[flight.fingerprint] = flight
        self.inputs += item.inputs
        self.tokens += item.tokens

    def remove(self, flight: Flight) -> None:
        del self._flights[flight.fingerprint]
        item = item_of(flight)
        self.inputs -= item.inputs
        self.tokens = self.tokens - item.tokens if self._flights else 0.0

    def take(self, cap: Cap, left: float, cost: Callable[[Item], float]) -> list[Flight]:
        """Takes the oldest flights that fit in one request and cost no more than is left; at least one."""
        taken: list[Flight] = []
        for flight, item in zip(self, fitting_items(map(item_of, self), cap), strict=False):
            left -= cost(item) if left < inf else 0.0
            if taken and left < 0:
                break
            taken.append(flight)
        for flight in taken:
            self.remove(flight)
        return taken
