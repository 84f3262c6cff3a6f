"""Jobs at a pool of addresses, of which at least one is well: the others refuse, hang, are away, or die for good.

    PoolHistory(drawn(7)).check()

They serve one model, so a server of an odd kind is at each of them; limits and faults are those of each. Beside what
must hold for all histories: an address is sent no more than its limits and slots take, one that is away is asked by
short texts alone, and no text is blamed for what an address did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from aembed import Embedder, OutageError
from aembed.errors import ProviderError
from aembed.protocols import HasAddresses
from tests.service.faults import Cut, Fault, Hang, Request, Status
from tests.service.in_process import embedder_of_pool
from tests.service.limits import Excess, RateLimits
from tests.service.refusals import error
from tests.service.server import Latency
from tests.service.service import Call, Exchange
from tests.service.vectors import digest
from tests.service.windows import WindowKind
from tests.simulation.history import CONTROL, End, History
from tests.simulation.schedule import Run, Schedule
from tests.simulation.servers import draw
from tests.simulation.world import Books

REFUSALS: tuple[Fault, ...] = (
    Status(401),
    Status(403),
    Status(404),
    Status(400, error("Something is wrong.")),
    Status(429),
    Status(429, headers=[("retry-after", "20")]),
    Status(429, error("You exceeded your current quota", "insufficient_quota", code="insufficient_quota")),
)
AWAY: tuple[Fault, ...] = (
    Status(500),
    Status(503),
    Status(504, billed=True),
    Status(503, headers=[("retry-after", "7")]),
    Cut(billed=False),
    Cut(),
    Hang(),
    Hang(billed=True),
)
FOREVER = 1e9
MOST_SENT_AWAY = 16
"""Requests of work to an address that is away, beside those in flight: five failures in a row close its gate, and more
where it has failed by chance before. From then on it is asked by short texts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one address: requests and tokens a minute, or so many requests at a time; None is no limit. `told`: its
    replies have headers about them."""

    kind: WindowKind = "gcra"
    requests: int | None = None
    tokens: int | None = None
    at_a_time: int | None = None
    told: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """From `start` to `end` of each run, in seconds, every request meets the fault."""

    limits: Limits = Limits()
    fault: Fault | None = None
    start: float = 0.0
    end: float = FOREVER


@dataclass(frozen=True, slots=True)
class Drawn:
    schedule: Schedule
    addresses: Sequence[Address]


def drawn(seed: int) -> Drawn:
    random = Random(f"the pool of {seed}")
    schedule = draw(seed)
    addresses = [_address(random) for _ in range(random.randint(1, 3))]
    addresses.insert(random.randrange(len(addresses) + 1), Address(_limits(random)))
    # Small batches, so that an address is met more than once or twice.
    return Drawn(replace(schedule, batch=random.choice([1, 2, 3, schedule.batch])), addresses)


def _address(random: Random) -> Address:
    limits = _limits(random)
    match random.randrange(5):
        case 0:
            return Address(limits)
        case 1:
            return Address(limits, random.choice(REFUSALS))
        case 2:
            return Address(limits, random.choice(AWAY))
        case 3:
            return Address(limits, random.choice(REFUSALS + AWAY), random.choice([0.5, 2.0, 5.0]))
        case _:
            start = random.choice([0.0, 0.5, 2.0])
            return Address(limits, random.choice(REFUSALS + AWAY), start, start + random.choice([1.0, 10.0, 70.0]))


def _limits(random: Random) -> Limits:
    kind: WindowKind = random.choice(["gcra", "gcra", "fixed", "sliding"])
    match random.randrange(5):
        case 0:
            return Limits(kind, requests=random.choice([10, 30, 300]), told=random.random() < 0.8)
        case 1:
            return Limits(kind, tokens=random.choice([2_000, 20_000]), told=random.random() < 0.8)
        case 2:
            return Limits(at_a_time=random.choice([1, 2, 3]))
        case _:
            return Limits()


class CountedLimits(RateLimits):
    admitted = refused = 0

    def admit(self, tokens: int, now: float) -> Excess | None:
        excess = super().admit(tokens, now)
        self.refused += excess is not None
        self.admitted += excess is None
        return excess


class Place:
    """One address, as the provider's side of its connections: what comes there is judged by the books of all."""

    def __init__(self, books: PoolBooks, address: Address) -> None:
        self.books = books
        self.address = address
        self.begin()

    def begin(self) -> None:
        limits = self.address.limits
        self.limits = CountedLimits.of(limits.kind, limits.requests, limits.tokens)
        self.in_flight = self.max_in_flight = 0
        self.work_while_away = 0
        """Requests of work that met its fault."""

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return self.books.receive_at(self, headers, body, now)

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        self.in_flight -= 1
        self.books.leave(exchange, intact=intact)

    def __call__(self, request: Request) -> Fault | None:
        address, most = self.address, self.address.limits.at_a_time
        if address.fault and address.start <= request.at < address.end:
            is_work = digest(request.texts[0].encode()) != CONTROL or len(request.texts) > 1
            self.work_while_away += is_work
            return address.fault
        if most is not None and self.in_flight > most:
            return Status(429)
        return None


class PoolBooks(Books):
    """The books of all addresses together."""

    def __init__(self, drawn: Drawn) -> None:
        super().__init__(drawn.schedule)
        # The addresses may fail a text besides, before they are seen to be away.
        self.faults.most = 1
        self.places = [Place(self, address) for address in drawn.addresses]
        self._place = self.places[0]

    def begin(self, run: Run) -> None:
        super().begin(run)
        for place in self.places:
            place.begin()

    def receive_at(self, place: Place, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        self._place = place
        self.limits, self.rate_headers = place.limits, place.address.limits.told
        self.retry_after = place.address.limits.told
        return self.receive(headers, body, now)

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        super().leave(exchange, intact=intact)
        self.key_refused_at = FOREVER  # of one address, and not of the others

    def _judge(self, call: Call) -> Exchange:
        usual = self.script
        fault = self._place(call.request)
        if fault:
            # What an address does is no bad luck of the text, and leaves it less of that.
            self.faults.note_met(call.request)
            self.script = lambda request: fault
        try:
            return super()._judge(call)
        finally:
            self.script = usual


class PoolHistory(History):
    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        super().__init__(drawn.schedule, books=PoolBooks(drawn), addresses=len(drawn.addresses))

    @property
    def places(self) -> Sequence[Place]:
        assert isinstance(self.books, PoolBooks)
        return self.books.places

    def _embedder(self, latency: Latency, **options: Any) -> AbstractAsyncContextManager[Embedder]:
        return embedder_of_pool(self.places, latency, **options)

    def _providers(self, embedder: Embedder) -> Sequence[Any]:
        provider = embedder._engine.provider
        assert isinstance(provider, HasAddresses)
        return provider.addresses

    @property
    def _tries_again(self) -> bool:
        """Or one that was refused by an address which had accepted nothing yet, and that the others failed."""
        fails = any(place.address.fault in AWAY for place in self.places)
        return super()._tries_again or (fails and bool(self.schedule.poison))

    def _possible_errors(self, run: Run) -> tuple[type[BaseException], ...]:
        # Where the key or the account is refused everywhere it is the word of the last address that stops the job.
        return (*super()._possible_errors(run), *([OutageError, ProviderError] if _is_refused(run) else []))

    def _check_cost(self, run: Run, end: End) -> None:
        super()._check_cost(run, end)
        concurrency = self.schedule.concurrency
        for number, place in enumerate(self.places):
            assert place.max_in_flight <= concurrency, f"{place.max_in_flight} in flight at address {number}"
            # Where no header tells a limit it is each refusal that says when the next one may go.
            limits, most = place.limits, 2 * (place.limits.admitted + concurrency + 2)
            assert limits.refused <= most, f"{limits.refused} came too early at {number}, {limits.admitted} in time"
            most = MOST_SENT_AWAY + concurrency
            sent = place.work_while_away if place.address.fault in AWAY and not _is_refused(run) else 0
            assert sent <= most, f"{sent} requests of work were sent to address {number}, which was away"


def _is_refused(run: Run) -> bool:
    """Whether no address answers, from some request on."""
    return run.revoked is not None or run.dry is not None


def of_a_pool(seed: int, folder: Path) -> PoolHistory:
    return PoolHistory(drawn(seed))
