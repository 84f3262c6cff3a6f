"""This module sends to several addresses of one model: each request goes to the address that can take it soonest.

Each address has slots, a pacer and a gate of its own (Member), so a 429 or an outage of one slows down no other. What
was refused or failed there goes on elsewhere at once, and that address rests as the request would have rested:

    rate limit, 5xx, timeout ...    its hint, or its gate, holds that address back; after max_outage of all: OutageError
    away (5xx, timeout in a row)    one short text at a time asks beside the work whether it is back (_probe.py)
    key, quota, model is missing    the address is out of service: asked again after 60 s, and then ever more seldom
    refused for what it holds       believed of an address that accepts others; a single text is to blame where two
                                    addresses refuse it, and an address is, whose refusals others do not share

What is learned of texts and of sizes, and the numbers of requests, are those of all addresses together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf

import anyio

from aembed.core.gate import PROBE_SECONDS
from aembed.core.pacing import Pacer, Reservation
from aembed.core.packing import Cap
from aembed.dispatch._admission import EARLY, Permit
from aembed.dispatch._coordination import SharedLimit
from aembed.dispatch._member import Member
from aembed.dispatch._notice import Notice
from aembed.dispatch._route import PROBE_TOKENS, Asks, Route, is_of_address, says_why
from aembed.dispatch._wait_report import WaitReport
from aembed.errors import BadRequestError, OutageError, ProviderError
from aembed.results import Stats

# As many as make the texts of a single server doubtful (MOST_REFUSALS in _fail_fast.py).
MOST_CONTRADICTED = 3
"""After so many refusals that other addresses did not share, with nothing accepted between, an address is to blame."""


class Pool:
    """Leave to send to any of several addresses, in the order of arrival, in the lanes of an Admission."""

    def __init__(self, names: Sequence[str], pacers: Sequence[Pacer], concurrency: int, max_outage: float) -> None:
        self.changed = Notice()
        self._controls = 0
        self.accepted = 0
        """The highest number of a request that was accepted, at whatever address."""
        self.sent = 0
        """How many requests were sent; the last one has this number."""
        self.when_closed: Callable[[], object] = lambda: None
        self.wait_report = WaitReport(f"the pool of {len(names)} addresses")
        self.members = [
            Member(self, name, pacer, concurrency, max_outage) for name, pacer in zip(names, pacers, strict=True)
        ]
        self._lanes = {lane: anyio.Lock(fast_acquire=True) for lane in ("bulk", "queries", "control")}

    def __repr__(self) -> str:
        return f"<Pool {', '.join(map(repr, self.members))}>"

    # what an Admission tells, of all addresses

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.members)

    @property
    def is_open(self) -> bool:
        return any(member.is_open for member in self.members)

    @property
    def opens_at(self) -> float:
        return min(member.opens_at for member in self.members)

    @property
    def lost_at(self) -> float:
        """When the last of them will have been away for max_outage. One that is out of service is not waited for."""
        awaited = [member for member in self.members if not member.is_out] or self.members
        return max(member.gate.lost_at for member in awaited)

    @property
    def concurrency(self) -> int:
        return sum(member.concurrency for member in self._working())

    @property
    def startable_queries(self) -> int:
        return sum(member.startable_queries for member in self.members)

    def narrow_cap(self, cap: Cap) -> Cap:
        """What every address takes whose gate is open. A small one does not make all requests so small that the others
        spend their limit of requests before that of tokens."""
        working = self._working()
        caps = [member.pacer.narrow_cap(cap) for member in working]
        least = 0.0
        for member in working:
            tokens, requests = member.pacer.limit("tokens"), member.pacer.limit("requests")
            least = max(least, tokens / requests) if tokens and requests else least
        largest = max(each.tokens for each in caps)
        tokens_of_all = min(largest, max(least, min(each.tokens for each in caps)))
        return Cap(min(each.inputs for each in caps), tokens_of_all, all(each.paced for each in caps))

    def is_too_large(self, tokens: float) -> bool:
        return all(member.pacer.is_too_large(tokens) for member in self._working())

    def is_beyond_share(self, tokens: float) -> bool:
        """Whether a batch was made before other workers had come, and is too large beside them at every address."""
        return all(member.pacer.is_beyond_share(tokens) for member in self._working())

    def _working(self) -> Sequence[Member]:
        """Those that are not away, and of which something is known; all of them where there are none."""
        return [member for member in self.members if member.is_working] or self.members

    def make_stats(self, now: float) -> Stats:
        each = {member.wait_report.where: member.make_stats(now) for member in self.members}
        of_requests = [stats.requests_per_minute for stats in each.values()]
        of_tokens = [stats.tokens_per_minute for stats in each.values()]
        waits = self.wait_report
        return Stats(
            in_flight=self.in_flight,
            accepted=sum(stats.accepted for stats in each.values()),
            throttled=sum(stats.throttled for stats in each.values()),
            requests_last_minute=sum(stats.requests_last_minute for stats in each.values()),
            tokens_last_minute=sum(stats.tokens_last_minute for stats in each.values()),
            requests_per_minute=_sum_of(of_requests),
            tokens_per_minute=_sum_of(of_tokens),
            concurrency=self.concurrency,
            limit="; ".join(f"{where}: {stats.limit}" for where, stats in each.items() if stats.limit),
            gate_open=self.is_open,
            retry_after=max(0.0, self.opens_at - now),
            last_error=waits.last_error,
            failing_seconds=0.0 if waits.failing_since is None else now - waits.failing_since,
            addresses=each,
        )

    def check_outage(self) -> None:
        """Raises OutageError once all of them were away for too long."""
        if asyncio.get_running_loop().time() >= self.lost_at:
            raise OutageError(
                f"{self.wait_report.where} did not recover within max_outage ({self.wait_report.last_error}); "
                "run the same again later: what is stored is kept"
            )

    def note_closed(self) -> None:
        """The gate of an address has closed: there is something to wait for where all of them are closed."""
        if not self.is_open:
            limited = all(member.gate.is_limited for member in self.members)
            self.wait_report.note_closed(self.opens_at, asyncio.get_running_loop().time(), limited=limited)
            self.when_closed()

    async def wait_for_accepted(self, number: int) -> None:
        """Until a request that was sent after that one was accepted, while the open addresses have any under way."""
        while self.accepted <= number and any(member.in_flight for member in self.members if member.is_open):
            await self.changed.wait()

    # leave to send

    async def enter(
        self,
        tokens: float,
        *,
        texts: int = 1,
        interactive: bool,
        control: bool = False,
        divisible: bool = False,
        remaining: float = inf,
        route: Route | None = None,
    ) -> Permit | None:
        """As `Admission.enter`, at the address that is free first."""
        lane = "control" if control else "queries" if interactive else "bulk"
        self._count_control(control)
        held: tuple[Member, Reservation] | None = None
        route = route or Route()
        probe = route.probe
        loop = asyncio.get_running_loop()
        try:
            async with self._lanes[lane]:
                while True:
                    for member in self.members:
                        if member.shared:
                            await member.shared.wait_for_share()
                    self.check_outage()
                    now = loop.time()
                    if divisible and (self.is_too_large(tokens) or self.is_beyond_share(tokens)):
                        return None
                    # What is urgent is itself no more than a short text.
                    asks = bool(probe and probe.is_possible) and (self.is_open or not (interactive or control))
                    soonest = self._ask_those_away(probe, now) if probe and asks else inf
                    if held and (
                        held[0].free_at(interactive, control, remaining, now) > now + EARLY
                        or (asks and held[0].is_away)
                    ):
                        held[0].pacer.give_back(held[1], now)
                        held = None
                    # A query keeps the place that it has: each reservation elsewhere would push bulk back there.
                    keeps = held is not None and interactive
                    able = [each for each in self._in_order(interactive or control) if not (asks and each.is_away)]
                    for member in () if keeps else able:
                        if (held and held[0] is member) or (divisible and member.pacer.is_too_large(tokens)):
                            continue
                        if route.avoids(member, able):
                            continue
                        free_at = member.free_at(interactive, control, remaining, now)
                        free_at = max(free_at, route.not_before.get(member, -inf))
                        if free_at > now + EARLY:
                            soonest = min(soonest, free_at)
                            continue
                        reservation = member.pacer.reserve(tokens, now, texts=texts, interactive=interactive)
                        if held and reservation.start >= held[1].start:
                            member.pacer.give_back(reservation, now)
                            continue
                        if held:
                            held[0].pacer.give_back(held[1], now)
                        held = member, reservation
                        if reservation.start <= now + EARLY:
                            break
                    if held and held[1].start <= now + EARLY:
                        (member, reservation), held, self.sent = held, None, self.sent + 1
                        return member.admit(reservation, self.sent)
                    await self._wait(held, soonest, interactive)
        finally:
            if held:
                held[0].pacer.give_back(held[1], loop.time())
            self._count_control(-control)

    def share(self, shared: Sequence[SharedLimit]) -> None:
        """The limits of each address are shared with other workers from here on."""
        for member, each in zip(self.members, shared, strict=True):
            member.share(each, self.is_busy)

    def is_busy(self) -> bool:
        """Whether requests are under way, or wait for leave."""
        return self.in_flight > 0 or any(lane.locked() for lane in self._lanes.values())

    def _ask_those_away(self, probe: Asks, now: float) -> float:
        """Asks each address that is away, and may be asked now, whether it is back; returns when the next may be."""
        soonest = inf
        for member in self.members:
            if not member.is_away:
                continue
            free_at = member.free_at(True, False, inf, now)
            if free_at <= now + EARLY:
                reservation = member.pacer.reserve(PROBE_TOKENS, now, texts=1, interactive=True)
                if (free_at := reservation.start) > now + EARLY:
                    member.pacer.give_back(reservation, now)
                else:
                    self.sent += 1
                    probe.start(member.admit(reservation, self.sent))
                    free_at = member.opens_at
            soonest = min(soonest, free_at)
        return soonest

    async def _wait(self, held: tuple[Member, Reservation] | None, soonest: float, interactive: bool) -> None:
        """Until the place that is held may be used, another address may be free, or anything has changed."""
        loop = asyncio.get_running_loop()
        if held and not interactive:
            self.wait_report.note_pace(held[1].start, loop.time(), held[0].pacer)
        try:
            with anyio.CancelScope(deadline=min(soonest, held[1].start if held else inf, self.lost_at)):
                await self.changed.wait()
        finally:
            if held and not interactive:
                self.wait_report.let_go(loop.time())

    def _in_order(self, urgent: bool) -> Sequence[Member]:
        """The open ones first, the least busy of them before others. What is urgent is no probe while one is open."""
        hurried = urgent and self.is_open
        members = [member for member in self.members if member.is_open or not hurried]
        return sorted(members, key=lambda each: (not each.is_open, each.doubted > 0, each.in_flight / each.concurrency))

    def _count_control(self, more: int) -> None:
        if more:
            self._controls += more
            for member in self.members:
                member.controls = self._controls
            self.changed.tell()

    # who is to blame

    def goes_elsewhere(
        self, permit: Permit, error: ProviderError, route: Route, *, single: bool, control: bool
    ) -> bool:
        """Whether a request that was refused goes on to another address, for this one may be to blame.

        Its route leaves this one alone from now on. Raises nothing.
        """
        member, refused_by = permit.admission, route.refused_by
        assert isinstance(member, Member)
        others = [each for each in self.members if each is not member and not each.is_out]
        if not others:
            return False
        # Not without end: what is asked again later is asked of the others first.
        route.not_before[member] = asyncio.get_running_loop().time() + PROBE_SECONDS
        if is_of_address(error) or member.is_out or (control and isinstance(error, BadRequestError)):
            member.put_out(error, permit.gate_pass)
            return True
        # An address that is known to accept others says more than one that failed, and that more than any other.
        failed_at = route.failed_at if member.has_accepted else ()
        if not any(each.is_there and each not in refused_by and each not in failed_at for each in others):
            return False
        # Law 5: a rejected batch is never sent again unchanged, but to an address that has not refused it: one that
        # accepts nothing says nothing of the batch. A single text is only lost where two refuse it.
        believed = member.is_believed and (not single or bool(refused_by))
        member.doubted += 1
        if believed or says_why(error):
            return False
        refused_by[member] = member.refusal = error
        return True

    def says_nothing(self, member: Member, route: Route) -> bool:
        """Whether the failure of a request there says nothing of it: the address fails others, too, and this request
        was not sent there before."""
        others = any(each.is_there for each in self.members if each is not member)
        return others and member not in route.failed_at and (member.failed_in_a_row > 1 or not member.has_accepted)

    def note_contradicted(self, refused_by: Iterable[Member]) -> None:
        """Another address has accepted what these refused."""
        for member in refused_by:
            member.contradicted += 1
            if member.contradicted >= MOST_CONTRADICTED and not member.is_out:
                member.put_out(member.refusal)


def _sum_of(limits: Sequence[float | None]) -> float | None:
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None
