"""One rate limit, of requests, tokens or texts: what it is, and when the next cost fits in."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from aembed.core.pacing._minute import Minute

PACE = 0.97
"""The share of a limit that is used, so that a window of any kind sees less than its limit."""
BATCH_SHARE = 0.027
"""The largest batch, as a share of a minute: 0.97 of it, 0.15 s of jitter and lateness, and one batch are below 1."""
MINUTE = 60.0
LARGEST_SHARE = 0.2
"""The largest batch, as a share of a window that is shorter than a minute: its pace leaves room for one."""
SHOWN, TELLING_COST, CONTRADICTIONS = 0.2, 0.01, 3
"""Where so many replies in a row show less than that part of a cost of at least so much of the limit as spent, nothing
enforces the limit that they name."""
LATENESS = 0.1
"""Seconds that a late timer may catch up."""
LATE = 0.15
"""Seconds of jitter and lateness, by which a short window may hold more than its own time at the pace."""
SETTLING = 60.0
"""Seconds after a change of the limit in which refusals say nothing new."""

SHARED_BATCH_SHARE = 0.01
"""With others on the key every reply says how much is left, so there must be many."""
HALVINGS = 5.0
"""The pace with others on the key: 2 ** -HALVINGS where nothing is left of a bucket, and all of it where it is full."""
ALONE = 0.9
"""How full a bucket is again before each of our own requests, if nobody else draws on it."""
SMOOTHING = 0.5
SAME, APART, CERTAIN = 0.02, 2.0, 0.9
TELLING = 0.005


class Charge(NamedTuple):
    """The seconds of the pace that a cost takes; when the next one was due before it, and after."""

    seconds: float
    before: float
    after: float


class Budget:
    """Reservations against one limit (GCRA: one float), and what is known of the limit.

    `ceiling` is the user's limit; `learned` is the server's, which may only lower it. Units a minute, whatever the
    `window` in seconds is that the server counts in.
    """

    __slots__ = (
        "_bucket",
        "_changed_at",
        "_contradictions",
        "_dropped",
        "_due",
        "_left",
        "_remaining",
        "_sent",
        "_size",
        "_sized_at",
        "ceiling",
        "learned",
        "window",
    )

    def __init__(self, ceiling: float | None) -> None:
        self.ceiling = ceiling
        self.learned: float | None = None
        self.window = MINUTE
        self._dropped: tuple[float, float] | None = None
        self._contradictions = self._remaining = 0
        self._changed_at = -inf
        self._sent = Minute()
        self._due = -inf
        self._left = 1.0
        self._bucket = 0.0
        self._size = 0.0
        self._sized_at = -inf

    @property
    def limit(self) -> float | None:
        known = [limit for limit in (self.ceiling, self.learned) if limit is not None]
        return min(known, default=None)

    @property
    def source(self) -> str:
        """Who named the limit."""
        if self.ceiling is not None and (self.learned is None or self.ceiling <= self.learned):
            return "as it was given"
        return "as the replies say"

    @property
    def is_bucket(self) -> bool:
        """The server's count fills at the limit's rate, so what is left of it says what all of its users spend."""
        return self._bucket > CERTAIN

    @property
    def share(self) -> float:
        """Which part of the limit is ours: 1, or less while others draw on the same bucket.

        All of them see the same remaining count, so all take the same share, whatever their number.
        """
        if not self.is_bucket:
            return 1.0
        return float(2.0 ** (-HALVINGS * max(0.0, ALONE - self._left) / ALONE))

    @property
    def rate(self) -> float:
        """Units a second; infinite while no limit is known."""
        return inf if self.limit is None else self._pace * self.limit * self.share / MINUTE

    @property
    def _pace(self) -> float:
        if self.window >= MINUTE:
            return PACE
        return min(PACE, (1.0 - self._batch_share * MINUTE / self.window) / (1.0 + LATE / self.window))

    @property
    def _batch_share(self) -> float:
        """Of a minute's limit."""
        return BATCH_SHARE if self.window >= MINUTE else min(BATCH_SHARE, LARGEST_SHARE * self.window / MINUTE)

    @property
    def max_cost(self) -> float:
        """What one request may take at most."""
        if self.limit is None:
            return inf
        share = self.share
        return self.limit * share * (self._batch_share if share == 1.0 else SHARED_BATCH_SHARE)

    def earliest(self, now: float, ahead: float = 0.0) -> float:
        return max(now, self._due - ahead)

    def room(self, now: float, ahead: float = 0.0) -> float:
        """Units that could start now, one after another."""
        due = max(self._due, now - LATENESS)
        return inf if self.limit is None else max(0.0, (now + ahead - due) * self.rate)

    def charge(self, start: float, cost: float, rate: float) -> Charge:
        """Books the cost."""
        before, seconds = self._due, cost / rate
        if rate < inf:
            self._due = max(self._due, start - LATENESS) + seconds
        self._sent.add(start, cost)
        return Charge(seconds, before, self._due)

    def spent(self, now: float) -> float:
        """In the last minute."""
        return self._sent.total(now)

    def refund(self, start: float, cost: float, charge: Charge) -> None:
        """What was booked last leaves no trace, not even of the time that it was to wait."""
        self._due = charge.before if self._due == charge.after else self._due - charge.seconds
        self._sent.add(start, -cost)

    def explains(self, remaining: int | None, cost: float, now: float) -> bool:
        """Whether a refusal is what the headers announced: it teaches nothing then."""
        if now - self._changed_at < SETTLING:
            return True
        return self.is_bucket and (remaining is None or remaining < cost)

    def observe(
        self,
        limit: int | None,
        remaining: int | None,
        reset: float | None,
        cost: float,
        now: float,
        *,
        window: float = MINUTE,
        seconds: float = 0.0,
    ) -> None:
        """`cost` is what the request that this answers took of it, `seconds` how long it was under way.

        Zero and missing fields say nothing.
        """
        if limit is None or limit <= 0 or (limit, window) == self._dropped:
            limit = None
        elif (per_minute := limit * MINUTE / window) != self.learned:
            self.window = window
            self._learn(per_minute, now)
        if self.learned is None or remaining is None or remaining < 0:
            return
        if limit is not None and self._is_contradicted(limit, remaining, cost, seconds):
            self._drop(limit)
            return
        per_window = self.learned * self.window / MINUTE
        telling = cost > 0 and remaining >= TELLING * per_window and now - self._sized_at >= APART
        if telling and reset is not None:
            self._judge(remaining + reset * self.learned / MINUTE, per_window, now)
        if self.is_bucket:
            self._left += SMOOTHING * (min((remaining + cost) / self._size, 1.0) - self._left)

    def _is_contradicted(self, limit: int, remaining: int, cost: float, seconds: float) -> bool:
        """Nothing was taken of it, and what was cannot have come back in that time, or comes back too exactly."""
        exactly, self._remaining = remaining == self._remaining < limit, remaining
        if cost < TELLING_COST * limit or (cost <= 2.0 * seconds * limit / self.window and not exactly):
            return False
        self._contradictions = self._contradictions + 1 if limit - remaining < SHOWN * cost else 0
        return self._contradictions >= CONTRADICTIONS

    def _drop(self, limit: float) -> None:
        self._dropped = (limit, self.window)
        self.learned, self.window = None, MINUTE
        self._bucket = 0.0
        self._due = -inf

    def _learn(self, limit: float, now: float) -> None:
        before, self.learned = self.learned, limit
        self._contradictions = 0
        if before is None:
            if self.ceiling is not None and self.ceiling <= limit:
                return  # what was sent was booked at the user's limit already
            spent = self._sent.total(now, self.window) * MINUTE / limit
            self._due = max(self._due, now - LATENESS + spent / self._pace)
            return
        self._size *= limit / before
        self._changed_at = now

    def _judge(self, size: float, limit: float, now: float) -> None:
        """What is left and what comes back until all is there are always the same sum in a bucket, and only there."""
        same = size <= 1.002 * limit and abs(size - self._size) <= SAME * size
        self._bucket += 0.5 * (float(same) - self._bucket)
        self._size, self._sized_at = size, now
