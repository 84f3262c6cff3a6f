"""Both budgets and what refusals taught, behind one door (see the package's docstring)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from aembed.core.pacing._budget import Budget, Charge
from aembed.core.pacing._congestion import Congestion
from aembed.types import Hints

Unit = Literal["requests", "tokens"]

FIRST_WAVE_TOKENS = 64_000
"""In flight together while nothing is known, 6 % of a minute of the smallest paid account; the first reply ends it."""
WINDOW = 60.0
"""Seconds; no window of a provider is longer."""
PATIENCE = 5.0
"""Seconds that queries may push a bulk request back."""
HELD_BACK, HELD_FOR = 0.05, 60.0
"""The share of both limits that bulk leaves to queries, and the seconds after the last one for which it does."""


@dataclass(slots=True, eq=False)
class Reservation:
    """Leave to send `tokens` in one request at `start`, which may move while it waits."""

    tokens: float
    interactive: bool
    start: float = 0.0
    latest: float = inf
    charges: dict[Unit, Charge] = field(default_factory=dict)

    def cost(self, unit: Unit) -> float:
        return self.tokens if unit == "tokens" else 1.0


class Pacer:
    """One for each Embedder: one provider, key and model."""

    def __init__(
        self, *, requests_per_minute: float | None = None, tokens_per_minute: float | None = None, concurrency: int = 8
    ) -> None:
        self._budgets: dict[Unit, Budget] = {
            "requests": Budget(requests_per_minute),
            "tokens": Budget(tokens_per_minute),
        }
        self._congestion = Congestion()
        self._most_slots = concurrency
        self._slots = float(concurrency)
        self._first_batch = FIRST_WAVE_TOKENS / concurrency
        self._head: Reservation | None = None
        self._queried_at = -inf
        self.accepted_requests = 0
        self.throttled_requests = 0

    def __repr__(self) -> str:
        tokens, requests = (self._budgets[unit].limit for unit in ("tokens", "requests"))
        return (
            f"<Pacer {self.accepted_requests} accepted, {self.throttled_requests} throttled, "
            f"tokens_per_minute={_shown(tokens)}, requests_per_minute={_shown(requests)}, "
            f"concurrency={self.concurrency}>"
        )

    @property
    def concurrency(self) -> int:
        """Halved by a refusal and one more a round, while no header and no option names a limit."""
        return max(1, int(self._slots)) if self._blind else self._most_slots

    @property
    def max_batch_tokens(self) -> int | None:
        """2.7 % of a minute's tokens where that limit is known, less with others on the key or after refusals."""
        budget = self._budgets["tokens"]
        first = self._first_batch if budget.limit is None else inf
        most = min(self._congestion.max_batch_tokens, budget.max_cost, first)
        return None if most == inf else max(int(most), 1)

    @property
    def _blind(self) -> bool:
        return all(budget.limit is None for budget in self._budgets.values())

    def too_large(self, tokens: float) -> bool:
        """No request of this size was ever accepted, and one was refused; or it is out of all proportion."""
        return self._congestion.too_large(tokens)

    def reserve(self, tokens: float, now: float, *, interactive: bool = False) -> Reservation:
        reservation = Reservation(tokens, interactive)
        if interactive:
            self._queried_at = now
            self._book_before_bulk(reservation, now)
        else:
            self._book(reservation, now)
            reservation.latest = reservation.start + PATIENCE
            self._head = reservation
        return reservation

    def give_back(self, reservation: Reservation, now: float) -> None:
        self._unbook(reservation)
        self._head = None if self._head is reservation else self._head

    def resize(self, reservation: Reservation, tokens: float, now: float) -> None:
        """It is sent now, with so many tokens. Its own start is what it was; bulk that waits moves."""
        more, head = tokens - reservation.tokens, self._head
        rate = self._rate("tokens")
        pushes = head is not None and head.start > now and head.start + more / rate <= head.latest
        if head and pushes:
            self._unbook(head)
        reservation.tokens = tokens
        self._budgets["tokens"].charge(reservation.start, more, rate)
        self._congestion.grown(more)
        if head and pushes:
            self._book(head, now)

    def observe(self, hints: Hints | None, now: float) -> None:
        """The headers of a reply that was neither a vector nor a rate limit."""
        self._observe(hints or Hints(), 0.0, 0.0, now)

    def _observe(self, hints: Hints, requests: float, tokens: float, now: float) -> None:
        requests_budget, tokens_budget = self._budgets["requests"], self._budgets["tokens"]
        before = tokens_budget.is_bucket
        requests_budget.observe(hints.limit_requests, hints.remaining_requests, hints.reset_requests, requests, now)
        tokens_budget.observe(hints.limit_tokens, hints.remaining_tokens, hints.reset_tokens, tokens, now)
        if tokens_budget.is_bucket and not before:
            self._congestion.forget()

    def accepted(self, reservation: Reservation, hints: Hints | None, now: float) -> None:
        self.accepted_requests += 1
        self._observe(hints or Hints(), 1.0, reservation.tokens, now)
        self._first_batch = inf
        self._slots = min(self._slots + 1.0 / self._slots, self._most_slots)
        self._congestion.accepted(reservation.tokens, reservation.start, now)

    def throttled(self, reservation: Reservation, hints: Hints | None, now: float) -> bool:
        self.throttled_requests += 1
        self.observe(hints, now)
        if self._explained(reservation, hints or Hints(), now):
            return self.too_large(reservation.tokens)
        if not self._blind:
            self._congestion.trust(self._budgets["tokens"].limit)
        if self._congestion.refused(reservation.tokens, reservation.start, now, self._rate("tokens")):
            self._slots = max(1.0, self._slots / 2)
        return self.too_large(reservation.tokens)

    def _explained(self, reservation: Reservation, hints: Hints, now: float) -> bool:
        requests, tokens = self._budgets["requests"], self._budgets["tokens"]
        return requests.explains(hints.remaining_requests, 1.0, now) or tokens.explains(
            hints.remaining_tokens, reservation.tokens, now
        )

    def _rate(self, unit: Unit, tokens: float = 0.0) -> float:
        """What refusals taught holds no request up for longer than a window: few accepted ones measure too little."""
        rate = self._budgets[unit].rate
        return min(rate, max(self._congestion.rate, tokens / WINDOW)) if unit == "tokens" else rate

    def _book_before_bulk(self, reservation: Reservation, now: float) -> None:
        head = self._head
        if head is None or head.start <= now or not self._may_push(head, reservation):
            self._book(reservation, now)
            return
        self._unbook(head)
        self._book(reservation, now)
        self._book(head, now)

    def queried(self, now: float) -> bool:
        """Whether there are queries, or were some a moment ago."""
        return now - self._queried_at <= HELD_FOR

    def room(self, now: float) -> float:
        """How many requests of queries could start now, as far as the limit of requests goes."""
        return self._budgets["requests"].room(now, 60.0 * HELD_BACK)

    def limit(self, unit: Unit) -> float | None:
        """A minute; None while it is not known."""
        return self._budgets[unit].limit

    def spent(self, unit: Unit, now: float) -> float:
        """Of the last minute."""
        return self._budgets[unit].spent(now)

    def _may_push(self, head: Reservation, reservation: Reservation) -> bool:
        seconds = max(reservation.cost(unit) / self._rate(unit) for unit in self._budgets)
        return head.start + seconds <= head.latest

    def _book(self, reservation: Reservation, now: float) -> None:
        ahead = 60.0 * HELD_BACK if reservation.interactive else 0.0
        kept = 1.0 if reservation.interactive or not self.queried(now) else 1.0 - HELD_BACK
        reservation.start = max(budget.earliest(now, ahead) for budget in self._budgets.values())
        for unit, budget in self._budgets.items():
            cost = reservation.cost(unit)
            reservation.charges[unit] = budget.charge(reservation.start, cost, kept * self._rate(unit, cost))
        self._congestion.spent(reservation.start, reservation.tokens)

    def _unbook(self, reservation: Reservation) -> None:
        for unit, budget in self._budgets.items():
            budget.refund(reservation.start, reservation.cost(unit), reservation.charges[unit])


def _shown(limit: float | None) -> str:
    return "unknown" if limit is None else f"{limit:,.0f}"
