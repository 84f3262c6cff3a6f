"""This module gives leave to send (stage 5): a slot, a place in the budgets and an open gate, in order of arrival."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import anyio

from aembed.core.gate import Gate, GatePass
from aembed.core.pacing import Pacer, Reservation, Throttling
from aembed.core.packing import Cap
from aembed.dispatch._coordination import SharedLimit
from aembed.dispatch._notice import Notice
from aembed.dispatch._wait_report import WaitReport
from aembed.errors import OutageError, ProviderError, RateLimitError, UnavailableError
from aembed.results import Stats
from aembed.types import Hints

logger = logging.getLogger("aembed")

# Chosen: event loops round a timer to their clock's resolution. At 0 a request would go round once more for nothing.
EARLY = 1e-6
"""A timer may come so many seconds too early."""
# Chosen, and told in docs/web.md: one slot of four costs bulk a fourth of its speed; of two or three it costs more.
FEW_SLOTS = 4
"""With fewer slots than this, bulk leaves none of them to queries."""


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Leave to send one request now. It holds a slot until it is handed back, by `note_success` or `note_failure`."""

    reservation: Reservation
    gate_pass: GatePass
    number: int
    admission: Admission
    """Whose slot it is: that of the address to which the request goes."""


class Admission:
    """Gives leave to send: a slot, a place in the budgets and an open gate, in the order of arrival.

    There are two lanes, queries before bulk, and a third one for controls, which find out who is to blame. Only the
    head of each lane holds a reservation. It gives the reservation back where the gate closes, or a query takes the
    slot, before its time has come; so bulk that waits holds up no query.
    """

    def __init__(self, *, concurrency: int, pacer: Pacer, gate: Gate, wait_report: WaitReport | None = None) -> None:
        self.pacer = pacer
        self.gate = gate
        self.wait_report = wait_report or WaitReport()
        self._slots = anyio.CapacityLimiter(concurrency)
        self._lanes = {lane: anyio.Lock(fast_acquire=True) for lane in ("bulk", "queries", "control")}
        self.changed = Notice()
        """Told when a slot is free, the gate has opened or closed, or a probe is over."""
        self._landed = Notice()
        self._last_failure = self._kind = ""
        self.when_closed: Callable[[], object] = lambda: None
        self.shared: SharedLimit | None = None
        """The limits, where workers share them by a coordinator."""
        self.sent = 0
        """How many requests were sent; the last one has this number."""
        self.accepted = 0
        """The highest number of a request that was accepted."""
        self.controls = 0

    def __repr__(self) -> str:
        slots = self._slots
        return f"<Admission {slots.borrowed_tokens:g} of {slots.total_tokens:g} slots, {self.gate}, {self.pacer}>"

    def share(self, shared: SharedLimit, is_busy: Callable[[], bool] | None = None) -> None:
        """The limits are shared with other workers from here on. `is_busy` is that of a pool."""
        self.shared = shared
        shared.attach(self.gate, is_busy or self.is_busy, self._note_changed)

    def is_busy(self) -> bool:
        """Whether requests are under way, or wait for leave."""
        return self.in_flight > 0 or any(lane.locked() for lane in self._lanes.values())

    @property
    def in_flight(self) -> int:
        return int(self._slots.borrowed_tokens)

    @property
    def is_open(self) -> bool:
        """Whether the gate is open."""
        return self.gate.is_open

    @property
    def opens_at(self) -> float:
        """When the next request may pass the gate; in the past while it is open."""
        return self.gate.opens_at

    @property
    def lost_at(self) -> float:
        """When the provider will have been away for max_outage, if nothing is answered until then."""
        return self.gate.lost_at

    @property
    def concurrency(self) -> int:
        """How many requests may be in flight now, as far as refusals tell."""
        return self.pacer.concurrency

    def narrow_cap(self, cap: Cap) -> Cap:
        """What the next batch may hold, as far as rate limits and refusals go."""
        return self.pacer.narrow_cap(cap)

    def is_beyond_share(self, tokens: float) -> bool:
        """Whether a batch was made before other workers had come, and is too large beside them."""
        return self.pacer.is_beyond_share(tokens)

    @property
    def startable_queries(self) -> int:
        """How many free slots the budget of requests has something for now, if queries go before bulk."""
        now = asyncio.get_running_loop().time()
        if not self.gate.may_pass(now + EARLY):
            return 0
        return int(min(self._slots.available_tokens, self.pacer.startable_queries(now)))

    async def enter(
        self,
        tokens: float,
        *,
        texts: int = 1,
        interactive: bool,
        control: bool = False,
        divisible: bool = False,
        remaining: float = inf,
        route: object = None,
    ) -> Permit | None:
        """Waits for leave to send a request, and takes a slot for it. So many `remaining` requests of the job follow.

        Returns None for a `divisible` request of a size that is never accepted, or that is beyond the share. While the
        gate is closed, a `control` goes before all others. `route` is for a Pool, which has several addresses.
        Raises OutageError once the provider was away for too long.
        """
        lane = "control" if control else "queries" if interactive else "bulk"
        self.controls += control
        try:
            async with self._lanes[lane]:
                if divisible and (self.pacer.is_too_large(tokens) or self.is_beyond_share(tokens)):
                    return None
                reservation = await self._wait_for_pace(tokens, texts, interactive, control, remaining)
                self.sent += 1
                return self.admit(reservation, self.sent)
        finally:
            self.controls -= control
            if control:
                self._notify()

    def admit(self, reservation: Reservation, number: int) -> Permit:
        """Takes the slot and passes the gate, which are known to be free and open."""
        self._slots.acquire_on_behalf_of_nowait(reservation)
        now = asyncio.get_running_loop().time()
        self.pacer.note_sent(reservation, self.in_flight, now)
        return Permit(reservation, self.gate.enter(now), number, self)

    def note_success(self, permit: Permit, hints: Hints) -> None:
        self.accepted = max(self.accepted, permit.number)
        now, was_open = asyncio.get_running_loop().time(), self.gate.is_open
        if self.gate.note_success(permit.gate_pass):
            self.wait_report.note_answer(now)
            if self.shared and not was_open:
                self.shared.tell_open()
        self._tell_landed()
        self.pacer.note_accepted(permit.reservation, hints, now, self.in_flight)
        self._leave(permit)

    def note_throttled(self, permit: Permit, error: BaseException) -> Throttling:
        """The request has failed; returns what follows from a 429.

        The gate is told of what waiting may clear only later, with the wait (`note_failure`).
        """
        refusal, now = Throttling(), asyncio.get_running_loop().time()
        match error:
            case RateLimitError(hints=hints):
                refusal = self.pacer.note_throttled(permit.reservation, hints, now, self.in_flight)
            case UnavailableError(hints=hints):
                self.pacer.observe(hints, now)
                self._tell_landed()
            case ProviderError(hints=hints):
                self.pacer.observe(hints, now)
                if self.gate.note_success(permit.gate_pass):
                    self.wait_report.note_answer(now)
                self._tell_landed()
            case _:
                self.gate.note_abandoned(permit.gate_pass)
        self._leave(permit)
        # One line where another kind of limit is believed to refuse than before.
        if (kind := self.pacer.kind) and kind != self._kind:
            logger.info("%s", self.pacer.belief())
        self._kind = kind
        return refusal

    def note_failure(
        self, permit: Permit, error: BaseException, *, wait: float, hinted: bool, closes: bool, alone: bool = False
    ) -> float:
        """Tells the gate of a rate limit or an UnavailableError; returns how much of a failure of the request it is.

        A failure `alone` says nothing about the provider.
        """
        self._last_failure = str(error)
        limited, now = isinstance(error, RateLimitError), asyncio.get_running_loop().time()
        if limited:
            self.gate.note_refusal(permit.gate_pass, now, wait=wait, hinted=hinted, closes=closes)
            blame = 0.0
        elif alone:
            self.gate.note_abandoned(permit.gate_pass)
            blame = self.gate.blame
        else:
            blame = self.gate.note_failure(permit.gate_pass, now, wait=wait, hinted=hinted)
        self._notify()
        self.wait_report.note_failure(error, now)
        if not self.gate.is_open:
            self.wait_report.note_closed(self.gate.opens_at, now, limited=limited)
            self.when_closed()
            if self.shared:
                self.shared.tell_closed(self.gate.opens_at, limited=limited)
        self.check_outage()
        return blame

    def check_outage(self) -> None:
        """Raises OutageError once the provider was away for too long."""
        if self.gate.is_lost(asyncio.get_running_loop().time()):
            raise OutageError(
                f"the provider did not recover within max_outage ({self._last_failure}); "
                "run the same again later: what is stored is kept"
            )

    def make_stats(self, now: float) -> Stats:
        """What is believed of this address, without what waits and what is cached, which are not known here."""
        gate, pacer, waits = self.gate, self.pacer, self.wait_report
        return Stats(
            in_flight=self.in_flight,
            accepted=pacer.accepted_requests,
            throttled=pacer.throttled_requests,
            requests_last_minute=round(pacer.spent_units("requests", now)),
            tokens_last_minute=round(pacer.spent_units("tokens", now)),
            requests_per_minute=pacer.limit("requests"),
            tokens_per_minute=pacer.limit("tokens"),
            concurrency=pacer.concurrency,
            limit=pacer.belief(),
            gate_open=gate.is_open,
            retry_after=max(0.0, gate.opens_at - now),
            last_error=waits.last_error,
            failing_seconds=0.0 if waits.failing_since is None else now - waits.failing_since,
        )

    async def wait_for_answer(self, seconds: float) -> None:
        """Waits until any request was answered other than by a rate limit, so many seconds at the most."""
        with anyio.move_on_after(seconds):
            await self._landed.wait()

    def note_rest(self, seconds: float) -> None:
        """A refused request waits as long as it was told; that is shown as a wait where nothing else is on its way."""
        if not self.in_flight:
            now = asyncio.get_running_loop().time()
            self.wait_report.note_closed(now + seconds, now, limited=True)

    def _tell_landed(self) -> None:
        self._landed.tell()

    def _leave(self, permit: Permit) -> None:
        self._slots.release_on_behalf_of(permit.reservation)
        self._slots.total_tokens = self.pacer.note_ended(permit.reservation)
        self._notify()

    def _note_changed(self) -> None:
        """The pacer was told something by other workers."""
        self._slots.total_tokens = self.pacer.concurrency
        self._notify()

    def _notify(self) -> None:
        """Wakes whoever waits: a slot may be free, the gate open, or its probe over."""
        self.changed.tell()

    async def _wait_for_pace(
        self, tokens: float, texts: int, interactive: bool, control: bool, remaining: float
    ) -> Reservation:
        """A reservation whose time has come, while a slot is free and the gate is open."""
        loop = asyncio.get_running_loop()
        # Law 7: while the gate is closed everybody waits here, and one probe at a time gets past.
        while True:
            if self.shared:
                await self.shared.wait_for_share()
            await self._wait_for_slot(interactive, control, remaining)
            now = loop.time()
            reservation = self.pacer.reserve(tokens, now, texts=texts, interactive=interactive)
            if reservation.start - now <= EARLY:
                return reservation
            try:
                while (seconds := reservation.start - (now := loop.time())) > EARLY:
                    if not interactive:
                        self.wait_report.note_pace(reservation.start, now, self.pacer)
                    with anyio.move_on_after(seconds):
                        await self.changed.wait()  # which may move its start
            except BaseException:
                self.pacer.give_back(reservation, loop.time())
                raise
            finally:
                if not interactive:
                    self.wait_report.let_go(loop.time())
            now = loop.time()
            if self._has_free_slot(interactive, remaining, now) and self._may_pass_gate(control, now):
                return reservation
            self.pacer.give_back(reservation, now)

    async def _wait_for_slot(self, interactive: bool, control: bool, remaining: float) -> None:
        """Waits until there is a slot and the gate is open."""
        loop = asyncio.get_running_loop()
        while not (is_free := self._has_free_slot(interactive, remaining, loop.time())) or not self._may_pass_gate(
            control, loop.time()
        ):
            self.check_outage()
            may_probe = is_free and (control or not self.controls)
            opens_at = self.gate.opens_at if may_probe else inf
            settles_at = inf if is_free else self.pacer.settles_at + EARLY
            with anyio.CancelScope(deadline=min(opens_at, settles_at)):
                await self.changed.wait()
            if loop.time() >= settles_at:
                self.pacer.settle(loop.time())
                self._slots.total_tokens = self.pacer.concurrency

    def _may_pass_gate(self, control: bool, now: float) -> bool:
        is_open = self.gate.may_pass(now + EARLY)
        return is_open and (control or not self.controls or self.gate.is_open)

    def _has_free_slot(self, interactive: bool, remaining: float, now: float) -> bool:
        """Whether there is a slot. Bulk leaves one of them to queries, while there are any."""
        if remaining < inf and self.in_flight >= self.pacer.concurrency_for(remaining):
            return False
        kept = not interactive and self._slots.total_tokens >= FEW_SLOTS and self.pacer.has_queries(now)
        return self._slots.available_tokens >= 1 + kept
