"""This module keeps the texts that are not on their way yet, in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from aembed.coalesce._flights import Flight
from aembed.core.changes import Item
from aembed.core.packing import Cap, fitting_items


class Queue:
    """The flights that wait, with the sums of their inputs and tokens: there may be tens of thousands of them."""

    def __init__(self) -> None:
        self.flights: dict[bytes, Flight] = {}
        self.inputs = 0
        self.tokens = 0.0

    @property
    def oldest(self) -> Flight | None:
        return next(iter(self.flights.values()), None)

    def add(self, flight: Flight) -> None:
        self.flights[flight.fingerprint] = flight
        self.inputs += len(flight.item.texts)
        self.tokens += flight.item.tokens

    def remove(self, flight: Flight) -> None:
        del self.flights[flight.fingerprint]
        self.inputs -= len(flight.item.texts)
        self.tokens = self.tokens - flight.item.tokens if self.flights else 0.0

    def take(self, cap: Cap, left: float, cost: Callable[[Item], float]) -> list[Flight]:
        """Takes the oldest flights that fit in one request and cost no more than is left; at least one."""
        items = (flight.item for flight in self.flights.values())
        taken: list[Flight] = []
        for flight, item in zip(self.flights.values(), fitting_items(items, cap), strict=False):
            left -= cost(item) if left < inf else 0.0
            if taken and left < 0:
                break
            taken.append(flight)
        for flight in taken:
            self.remove(flight)
        return taken
