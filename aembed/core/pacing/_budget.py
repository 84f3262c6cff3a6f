"""One limit of a minute, of requests or of tokens: what it is, and when the next cost fits in."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from aembed.core.pacing._minute import Minute

PACE = 0.97
"""The share of a limit that is used, so that a window of any kind sees less than its limit."""
BATCH_SHARE = 0.027
"""The largest batch, as a share of a minute: 0.97 of it, 0.15 s of jitter and lateness, and one batch are below 1."""
LATENESS = 0.1
"""Seconds that a late timer may catch up."""
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

    `ceiling` is the user's limit; `learned` is the server's, which may only lower it. Units a minute.
    """

    __slots__ = (
        "_bucket",
        "_changed_at",
        "_due",
        "_left",
        "_sent",
        "_size",
        "_sized_at",
        "ceiling",
        "learned",
    )

    def __init__(self, ceiling: float | None) -> None:
        self.ceiling = ceiling
        self.learned: float | None = None
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
        return inf if self.limit is None else PACE * self.limit * self.share / 60.0

    @property
    def max_cost(self) -> float:
        """What one request may take at most."""
        if self.limit is None:
            return inf
        share = self.share
        return self.limit * share * (BATCH_SHARE if share == 1.0 else SHARED_BATCH_SHARE)

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

    def observe(self, limit: int | None, remaining: int | None, reset: float | None, cost: float, now: float) -> None:
        """`cost` is what the request that this answers took of it. Zero and missing fields say nothing."""
        if limit is not None and limit > 0 and limit != self.learned:
            self._learn(limit, now)
        if self.learned is None or remaining is None or remaining < 0:
            return
        telling = cost > 0 and remaining >= TELLING * self.learned and now - self._sized_at >= APART
        if telling and reset is not None:
            self._judge(remaining + reset * self.learned / 60.0, self.learned, now)
        if self.is_bucket:
            self._left += SMOOTHING * (min((remaining + cost) / self._size, 1.0) - self._left)

    def _learn(self, limit: float, now: float) -> None:
        before, self.learned = self.learned, limit
        if before is None:
            if self.ceiling is not None and self.ceiling <= limit:
                return  # what was sent was booked at the user's limit already
            self._due = max(self._due, now - LATENESS + 60.0 * self._sent.total(now) / (PACE * limit))
            return
        self._size *= limit / before
        self._changed_at = now

    def _judge(self, size: float, limit: float, now: float) -> None:
        """What is left and what comes back until all is there are always the same sum in a bucket, and only there."""
        same = size <= 1.002 * limit and abs(size - self._size) <= SAME * size
        self._bucket += 0.5 * (float(same) - self._bucket)
        self._size, self._sized_at = size, now
