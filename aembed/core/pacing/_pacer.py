"""The pacer joins the budgets and what refusals taught behind one door (see the docstring of the package)."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from aembed.core.pacing._budget import RateBudget
from aembed.core.pacing._inquiry import Inquiry
from aembed.core.pacing._reservation import Reservation, Throttling, Unit
from aembed.core.packing import Cap
from aembed.types import Hints

# Chosen: 6 % of a minute of the smallest paid account (OpenAI's Tier 1: 1M tokens a minute). Larger, five full requests
# at once are a certain 429 there; smaller, a job on a large account begins slowly. The first reply ends it.
FIRST_WAVE_TOKENS = 64_000
"""So many tokens are in flight together while no limit is known."""
# Limits of a day or a month are told otherwise (spent_window in headers.py): no window that is paced is longer.
WINDOW = 60.0
"""What refusals taught holds no request up for more seconds than this."""
# Chosen: a web app with many queries would starve the bulk of the same process for ever otherwise.
PATIENCE = 5.0
"""Queries may push a bulk request back by so many seconds."""
# Chosen: quarters of what is larger are sent within the share. Smaller, a share that shrinks a little would cost
# requests; larger, a window would hold more than one batch beside the pace.
BEYOND_SHARE = 2.0
"""A batch of so many times what a worker's share allows is sent in parts."""
# Chosen, and told in docs/web.md: 5 % are 150 queries a minute on OpenAI's Tier 1, and cost a job 5 % of its time.
HELD_BACK, HELD_FOR = 0.05, 60.0
"""The share of both limits that bulk leaves to queries, and for how many seconds after the last query it does so."""


class Pacer:
    """The pacer of one Embedder, which has one provider, key and model."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        texts_per_minute: float | None = None,
        texts_per_request: int = 0,
        concurrency: int = 8,
        first_concurrency: int | None = None,
    ) -> None:
        first = first_concurrency or concurrency
        self._budgets: dict[Unit, RateBudget] = {
            "requests": RateBudget(requests_per_minute),
            "tokens": RateBudget(tokens_per_minute),
            "texts": RateBudget(texts_per_minute, texts_per_request),
        }
        self._inquiry = Inquiry(concurrency, first)
        self._congestion = self._inquiry.congestion
        self._in_flight = self._inquiry.in_flight
        self._first_batch = FIRST_WAVE_TOKENS / first
        self._head: Reservation | None = None
        self._queried_at = -inf
        self.accepted_requests = 0
        self.throttled_requests = 0

    def __repr__(self) -> str:
        limits = {
            unit: "unknown" if budget.limit is None else f"{budget.limit:,.0f}"
            for unit, budget in self._budgets.items()
        }
        return (
            f"<Pacer {self.accepted_requests} accepted, {self.throttled_requests} throttled, "
            f"tokens_per_minute={limits['tokens']}, requests_per_minute={limits['requests']}, "
            f"concurrency={self.concurrency}>"
        )

    @property
    def concurrency(self) -> int:
        """How many requests may be in flight now, as far as refusals tell."""
        return self._in_flight.allowed

    @property
    def settles_at(self) -> float:
        """When `settle` may allow more, if nothing is heard until then; never where a rate is what limits."""
        is_blind = all(budget.limit is None for budget in self._budgets.values())
        return self._in_flight.settles_at if is_blind and not self._congestion.is_asked else inf

    def settle(self, now: float) -> None:
        """Takes what has been under way for longer than a refusal takes for accepted."""
        self._in_flight.settle(now)

    def concurrency_for(self, remaining: float) -> int:
        """The same for the last requests of a job, when so many remain.

        No number that was refused is tried again where one more refusal would wait longer than they all take.
        """
        flight = self._in_flight
        return flight.allowed if flight.may_try(remaining) else min(flight.allowed, flight.limit)

    def narrow_cap(self, cap: Cap) -> Cap:
        """What the next batch may hold. It is `paced` where the limit is known that decides when it goes."""
        texts, tokens = self.max_batch_texts, self.max_batch_tokens
        if tokens is None and texts is None:
            return cap
        paced = self._budgets["tokens"].limit is not None or texts is not None
        return Cap(min(cap.inputs, texts or cap.inputs), min(cap.tokens, tokens or cap.tokens), paced)

    @property
    def max_batch_tokens(self) -> int | None:
        """The most tokens of a batch: 2.7 % of a minute's limit, less with others on the key or after refusals.

        It is None while nothing speaks against the provider's own limit.
        """
        budget = self._budgets["tokens"]
        allowed = self._first_batch if budget.limit is None else budget.max_cost
        most = min(self._congestion.max_batch_tokens, allowed)
        return None if most == inf else max(int(most), 1)

    def is_too_large(self, tokens: float) -> bool:
        """Whether no request of this size was ever accepted and one was refused, or it is out of all proportion."""
        return self._congestion.is_too_large(tokens)

    def is_beyond_share(self, tokens: float) -> bool:
        """Whether a batch was made for a larger share of the limit than is left to this worker by now."""
        budget = self._budgets["tokens"]
        return budget.leased is not None and tokens > BEYOND_SHARE * budget.max_cost

    @property
    def max_batch_texts(self) -> int | None:
        """The most texts of a batch where there is a limit of texts a minute; None while there is none."""
        budget = self._budgets["texts"]
        return None if budget.limit is None else max(int(budget.max_cost), 1)

    def reserve(self, tokens: float, now: float, *, texts: int = 1, interactive: bool = False) -> Reservation:
        """A query is booked before the bulk request that still waits, as long as that one is not pushed too far."""
        reservation, head = Reservation(tokens, texts, interactive), self._head
        if not interactive:
            self._book(reservation, now)
            reservation.latest = reservation.start + PATIENCE
            self._head = reservation
            return reservation
        self._queried_at = now
        pushed = None
        if head and head.start > now:
            seconds = max(cost / self._rate(unit) for unit, cost in reservation.costs.items())
            pushed = head if head.start + seconds <= head.latest else None
        if pushed:
            self._unbook(pushed)
        self._book(reservation, now)
        if pushed:
            self._book(pushed, now)
        return reservation

    def give_back(self, reservation: Reservation, now: float) -> None:
        self._unbook(reservation)
        self._head = None if self._head is reservation else self._head

    def resize(self, reservation: Reservation, tokens: float, texts: int, now: float) -> None:
        """The request is sent now, with so much in it. Its own start stays; a bulk request that waits is moved."""
        if tokens == reservation.tokens and texts == reservation.texts:
            return
        more: dict[Unit, float] = {"tokens": tokens - reservation.tokens, "texts": texts - reservation.texts}
        head = self._head
        rates = {unit: self._rate(unit) for unit in more}
        seconds = max(cost / rates[unit] for unit, cost in more.items())
        pushes = head is not None and head.start > now and head.start + seconds <= head.latest
        if head and pushes:
            self._unbook(head)
        reservation.tokens, reservation.texts = tokens, texts
        for unit, cost in more.items():
            self._budgets[unit].book_cost(reservation.start, cost, most=rates[unit])
        self._congestion.note_grown(more["tokens"])
        if head and pushes:
            self._book(head, now)

    def observe(self, hints: Hints | None, now: float, answered: Reservation | None = None) -> None:
        """Gives each budget what the headers of a reply say of it; `answered` is the request, where it has vectors."""
        # Buckets are limits whose headers tell what all of their users spend.
        buckets = sum([budget.is_bucket for budget in self._budgets.values()])
        seconds, dropped = now - answered.start if answered else 0.0, False
        costs = answered.costs if answered else {}
        for unit, limit, remaining, reset, window in _limits(hints or Hints()):
            was = self._budgets[unit].learned
            if limit is not None or remaining is not None:
                cost = costs.get(unit, 0.0)
                self._budgets[unit].observe(limit, remaining, reset, cost, now, window=window, seconds=seconds)
            dropped |= was is not None and self._budgets[unit].learned is None
        if sum([budget.is_bucket for budget in self._budgets.values()]) > buckets:
            self._inquiry.forget()
        if dropped:
            self._book_head_anew(now)

    # what a coordinator gives and is told

    def expect_share(self, share: float) -> None:
        """Until a share is given batches are made for that one."""
        for budget in self._budgets.values():
            budget.leased = share

    def take_share(self, share: float, now: float, *, joins: bool = False) -> None:
        """From now on that part of every limit is ours; what waits is booked anew. Who `joins` others waits first."""
        head = self._head if self._head and self._head.start > now else None
        if head:
            self._unbook(head)
        for budget in self._budgets.values():
            budget.lease(share, now, joins=joins)
        if head:
            self._book(head, now)

    def learn_limit(self, unit: Unit, per_minute: float, window: float, now: float) -> None:
        """A limit that replies to another worker have named. `window` is the seconds in which it is counted."""
        self._budgets[unit].observe(round(per_minute * window / 60.0), None, None, 0.0, now, window=window)

    @property
    def refused_slots(self) -> int:
        """The requests in flight that refusals have left; 0 where none was refused for being one too many."""
        return self._in_flight.limit if self._in_flight.is_limited else 0

    def begin_with_slots(self, slots: int) -> None:
        """Refusals have left the other workers with so many requests in flight."""
        self._in_flight.begin_at(slots)

    def told_limits(self) -> dict[Unit, tuple[float, float]]:
        """The limits that replies have named: units a minute, and the seconds in which they are counted."""
        return {
            unit: (budget.learned, budget.window)
            for unit, budget in self._budgets.items()
            if budget.learned is not None
        }

    def used_share(self, now: float, seconds: float) -> tuple[float, bool]:
        """Which part of the limits was spent in the last seconds, and whether one of them holds up the next request.

        While no limit is known any part may be needed.
        """
        limited = [budget for budget in self._budgets.values() if budget.limit is not None]
        held_up = not limited or any(budget.due > now for budget in limited)
        return max([budget.used_share(now, seconds) for budget in limited], default=0.0), held_up

    def _book_head_anew(self, now: float) -> None:
        """Books the waiting request anew, because there is less to wait for: it starts sooner."""
        if self._head and self._head.start > now:
            self._unbook(self._head)
            self._book(self._head, now)

    def note_sent(self, reservation: Reservation, in_flight: int, now: float) -> None:
        """The request is on its way, as one of so many."""
        reservation.sent = self._in_flight.note_sent(in_flight, reservation.tokens, now)

    def note_ended(self, reservation: Reservation) -> int:
        """The request has ended, however that was. Returns how many may be in flight now."""
        if reservation.sent:
            self._in_flight.note_ended(reservation.sent)
        return self._in_flight.allowed

    def note_accepted(self, reservation: Reservation, hints: Hints | None, now: float, in_flight: int) -> None:
        self.accepted_requests += 1
        self.observe(hints, now, reservation)
        self._first_batch = inf
        self._inquiry.note_accepted(reservation, now, in_flight)

    def note_throttled(self, reservation: Reservation, hints: Hints | None, now: float, in_flight: int) -> Throttling:
        """What follows from a 429. `in_flight` counts the requests of this moment, this one included."""
        hints = hints or Hints()
        self.throttled_requests += 1
        unknown = [budget for budget in self._budgets.values() if budget.learned is None]
        self.observe(hints, now)
        for budget in unknown:
            # What refusals teach is the pace of a minute; those that were on their way with this one, which is the
            # first to name a shorter window, teach none.
            if budget.learned is not None and budget.window < WINDOW:
                budget.changed_at = now
        costs = reservation.costs
        if any(
            self._budgets[unit].explains(remaining, costs[unit], now) for unit, _, remaining, _, _ in _limits(hints)
        ):
            return Throttling(self.is_too_large(reservation.tokens), closes=True)
        if any(budget.limit is not None for budget in self._budgets.values()):
            self._congestion.trust(self._budgets["tokens"].limit)
        pace = self._rate("tokens")
        # Whether the headers say that a limit has nothing left for this request.
        if any(
            remaining is not None and remaining < costs[unit] and self._budgets[unit].limit is not None
            for unit, _, remaining, _, _ in _limits(hints)
        ):
            refusal, undone = self._inquiry.note_exhausted(reservation, now, pace)
        else:
            refusal, undone = self._inquiry.note_refused(reservation, hints.retry_after, now, in_flight, pace)
        if undone:
            self._book_head_anew(now)
        return refusal

    def forget_refusals(self, now: float) -> None:
        """Forgets refusals that were about the size of requests, and not about how many or how often they came."""
        self._inquiry.forget()
        self._in_flight.forget()
        self._book_head_anew(now)

    @property
    def kind(self) -> str:
        """What refuses, in a word, as far as refusals have taught it."""
        return self._inquiry.kind

    def belief(self) -> str:
        """Which limit sets the speed, and how that is known; empty where none is known."""
        told = [
            f"{budget.limit:,.0f} {unit} a minute, {budget.source}"
            for unit, budget in self._budgets.items()
            if budget.limit
        ]
        found = self._inquiry.belief()
        return "; ".join([found, *told] if found else told)

    def _rate(self, unit: Unit) -> float:
        """The units a second at which a request is booked."""
        rate = self._budgets[unit].rate
        return min(rate, self._congestion.rate) if unit == "tokens" else rate

    def has_queries(self, now: float) -> bool:
        """Whether there are queries, or were some a moment ago."""
        return now - self._queried_at <= HELD_FOR

    def startable_queries(self, now: float) -> float:
        """How many requests of queries could start now, as far as the limit of requests goes."""
        return self._budgets["requests"].startable_units(now, 60.0 * HELD_BACK)

    def limit(self, unit: Unit) -> float | None:
        """The limit of a minute; None while it is not known."""
        return self._budgets[unit].limit

    def spent_units(self, unit: Unit, now: float) -> float:
        """What was booked in the last minute."""
        return self._budgets[unit].spent_units(now)

    def _book(self, reservation: Reservation, now: float) -> None:
        ahead = 60.0 * HELD_BACK if reservation.interactive else 0.0
        kept = 1.0 if reservation.interactive or not self.has_queries(now) else 1.0 - HELD_BACK
        reservation.start = start = max(now, max([budget.due for budget in self._budgets.values()]) - ahead)
        costs, charges = reservation.costs, reservation.charges
        # What refusals taught holds no request up for longer than a window: few accepted requests measure too little.
        most = max(self._congestion.rate, reservation.tokens / WINDOW)
        for unit, budget in self._budgets.items():
            charges[unit] = budget.book_cost(start, costs[unit], kept, most if unit == "tokens" else inf)
        self._congestion.note_spent(start, reservation.tokens)

    def _unbook(self, reservation: Reservation) -> None:
        for unit, cost in reservation.costs.items():
            self._budgets[unit].refund(reservation.start, cost, reservation.charges[unit])


def _limits(hints: Hints) -> Iterator[tuple[Unit, int | None, int | None, float | None, float]]:
    """For each unit what the hints say: limit, remaining, reset and window."""
    yield "requests", hints.limit_requests, hints.remaining_requests, hints.reset_requests, hints.window_requests
    yield "tokens", hints.limit_tokens, hints.remaining_tokens, hints.reset_tokens, hints.window_tokens
    yield "texts", hints.limit_texts, hints.remaining_texts, hints.reset_texts, hints.window_texts
