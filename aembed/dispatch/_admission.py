from __future__ import annotations

import asyncio
from dataclasses import dataclass

import anyio

from aembed.core.gate import Gate, Passage
from aembed.core.pacing import Pacer, Reservation
from aembed.errors import OutageError, ProviderError, RateLimitError, UnavailableError
from aembed.types import Hints


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """Leave to send one request now. Holds a slot until it is handed back."""

    reservation: Reservation
    passage: Passage
    slot: object


class Admission:
    """Stage 5: a slot, a place in the budgets, an open gate, in that order of arrival.

    Two lanes, queries before bulk: only the head of each lane holds a reservation, and gives it back when the
    gate closes meanwhile.
    """

    def __init__(self, *, concurrency: int, pacer: Pacer, gate: Gate) -> None:
        self.pacer = pacer
        self.gate = gate
        self._slots = anyio.CapacityLimiter(concurrency)
        self._lanes = {interactive: anyio.Lock() for interactive in (False, True)}
        self._gate_changed = anyio.Event()

    def __repr__(self) -> str:
        slots = self._slots
        return f"<Admission {slots.borrowed_tokens:g} of {slots.total_tokens:g} slots, {self.gate}, {self.pacer}>"

    @property
    def in_flight(self) -> int:
        return int(self._slots.borrowed_tokens)

    async def enter(self, tokens: float, *, interactive: bool) -> Ticket:
        """Raises OutageError once the provider was away for too long."""
        async with self._lanes[interactive]:
            slot = object()
            await self._slots.acquire_on_behalf_of(slot)
            try:
                reservation = await self._paced(tokens, interactive)
            except BaseException:
                self._slots.release_on_behalf_of(slot)
                raise
            return Ticket(reservation, self.gate.enter(now()), slot)

    def succeeded(self, ticket: Ticket, hints: Hints) -> None:
        self.pacer.accepted(ticket.reservation, hints, now())
        self.gate.succeeded(ticket.passage, now())
        self._leave(ticket)

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """The gate hears of what waiting may clear later, with the time to wait."""
        match error:
            case RateLimitError(hints=hints):
                self.pacer.throttled(ticket.reservation, hints, now())
            case UnavailableError(hints=hints):
                self.pacer.observe(hints, now())
            case ProviderError(hints=hints):
                self.pacer.observe(hints, now())
                self.gate.succeeded(ticket.passage, now())
            case _:
                self.gate.abandoned(ticket.passage, now())
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self._slots.release_on_behalf_of(ticket.slot)
        self._slots.total_tokens = self.pacer.concurrency
        self.notify()

    def notify(self) -> None:
        """The gate may have opened, or its probe may be over."""
        self._gate_changed.set()
        self._gate_changed = anyio.Event()

    async def _paced(self, tokens: float, interactive: bool) -> Reservation:
        while True:
            await self._gate_open()
            reservation = self.pacer.reserve(tokens, now(), interactive=interactive)
            try:
                while (seconds := reservation.start - now()) > 0:  # noqa: ASYNC110 - the start may move meanwhile
                    await anyio.sleep(seconds)
            except BaseException:
                self.pacer.give_back(reservation, now())
                raise
            if self.gate.may_pass(now()):
                return reservation
            self.pacer.give_back(reservation, now())

    async def _gate_open(self) -> None:
        while not self.gate.may_pass(now()):
            self.check_outage()
            with anyio.move_on_after(self.gate.opens_at - now()):
                await self._gate_changed.wait()

    def check_outage(self) -> None:
        if self.gate.lost(now()):
            raise OutageError("the provider did not recover within max_outage; run the same again later")


def now() -> float:
    return asyncio.get_running_loop().time()
