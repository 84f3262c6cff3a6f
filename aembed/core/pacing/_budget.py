"""This module keeps one rate limit, of requests, tokens or texts: what it is, and when the next cost fits in.

The pace is GCRA (the generic cell rate algorithm): one float says when the next cost is due, and each cost moves it on
by the seconds that the cost takes at the rate. So whoever asks first is first, and a large cost cannot starve.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from aembed.core.pacing._minute import MINUTE, Minute

# Measured on a limit of 1M tokens a minute with 50 ms of jitter: at this pace batches of 3 % of a minute are never
# refused, by fixed and by sliding minutes, and 97 % of the limit is used. Larger, there is no room for one batch more.
PACE = 0.97
"""The share of a limit that is used, so that a window of any kind sees less than its limit."""
# Computed: 0.97 of a minute, 0.15 s of jitter and lateness (0.0025 of it) and one batch of 0.027 are below 1. Measured
# at 0.97: batches of 5 % of a minute are refused up to 4 %, of 29 % up to 25 %.
BATCH_SHARE = 0.027
"""The largest batch, as a share of a minute's limit."""
# Computed: with whole requests of a twentieth of the limit 0.9475 of it is used. Larger, more of it would be lost.
LARGEST_WHOLE = 0.05
"""A request that is full at up to this share of a minute's limit is sent full, at a pace that leaves room for it."""
# Chosen: a window of a second or two holds five such batches. Larger, the pace between them would have to be far lower.
LARGEST_SHARE = 0.2
"""The largest batch, as a share of a window that is shorter than a minute: its pace leaves room for one."""
# Chosen: gateways pass on headers of a limit that they do not keep. Three replies are few enough that a job is not held
# up for long, and a real limit does not hide 80 % of a cost three times in a row.
SHOWN, TELLING_COST, CONTRADICTIONS = 0.2, 0.01, 3
"""Where so many replies in a row (the third number) show less than a share (the first) of a cost, which was at least
such a part of the limit (the second), as spent, nothing enforces the limit that they name."""
# Chosen: timers of a busy event loop are late by some tens of milliseconds. Were it 0, each would be lost for good.
LATENESS = 0.1
"""A late timer may catch up so many seconds."""
# Chosen: LATENESS and 50 ms of jitter on the network.
LATE = 0.15
"""A short window may hold so many seconds more than its own time at the pace, for jitter and lateness."""
# A window of a minute still holds what was sent at the old limit for so long.
SETTLING = 60.0
"""For so many seconds after a change of the limit refusals say nothing new."""

# Computed: a window has to hold one request of each worker beside what the pace sends. Where few requests a minute are
# shared by many, a smaller pace would leave most of the limit unused, and a refusal now and then costs less.
LEAST_PACE = 0.5
"""The least share of a limit that is used where workers share it."""
# Chosen: with others on the key each reply says how much is left, so there must be many replies, and small requests.
SHARED_BATCH_SHARE = 0.01
"""The largest batch, as a share of a minute, while others draw on the same limit."""
# Chosen: at an empty bucket the pace is 3 % of the limit, so that any number of processes up to 32 may share it.
HALVINGS = 5.0
"""With others on the key the pace is 2 ** -HALVINGS where nothing is left of a bucket, and whole where it is full."""
# Chosen: our own request before this one may not be filled up yet, which takes less than a tenth of a bucket.
ALONE = 0.9
"""A bucket is at least so full again before each of our own requests, if nobody else draws on it."""
# Chosen: what is left is a mean of about the last three replies; smoother, a second process would be noticed late.
SMOOTHING = 0.5
"""The weight of one reply in what is taken to be left of a bucket."""
# Chosen: sizes of a bucket agree within rounding of the headers, two replies must not tell of the same moment, and
# since a judgement goes half of the way, four that agree in a row make one certain of a bucket.
SAME, APART, CERTAIN = 0.02, 2.0, 0.9
"""The tolerance between two sizes, the seconds between two judgements, and the certainty that is enough."""
# Chosen: below that the counters of a nearly empty window are mostly rounding.
TELLING = 0.005
"""A reply is judged only if at least this share of the limit is left."""


class Charge(NamedTuple):
    """The seconds of the pace that a cost takes; when the next one was due before it, and after."""

    seconds: float
    before: float
    after: float


class RateBudget:
    """The reservations against one limit, and what is known about the limit.

    `ceiling` is the user's limit; `learned` is the server's, which may only lower it. Both are in units a minute,
    whatever the `window` in seconds is in which the server counts.
    """

    __slots__ = (
        "_bucket",
        "_contradictions",
        "_dropped",
        "_left",
        "_remaining",
        "_sent",
        "_size",
        "_sized_at",
        "ceiling",
        "changed_at",
        "due",
        "full_request",
        "is_bucket",
        "learned",
        "leased",
        "limit",
        "window",
    )

    def __init__(self, ceiling: float | None, full_request: float = 0.0) -> None:
        self.ceiling = ceiling
        self.full_request = full_request
        """What a request has of it at the most, where calls are counted, too; 0 where that does not matter."""
        self.learned: float | None = None
        self.limit = ceiling
        """The smaller of the two; None while none is known."""
        self.window = MINUTE
        self.leased: float | None = None
        """The share that a coordinator has given; None where there is none."""
        self.due = -inf
        """When the next cost may start, as far as this limit goes."""
        self.is_bucket = False
        """Whether the server's count fills up at the limit's rate; what is left then says what all users spend."""
        self._dropped: tuple[float, float] | None = None
        self._contradictions = self._remaining = 0
        self.changed_at = -inf
        """When the limit changed; refusals soon after it say nothing of the one that holds now."""
        self._sent = Minute()
        self._left = 1.0
        self._bucket = 0.0
        self._size = 0.0
        self._sized_at = -inf

    @property
    def source(self) -> str:
        """Who named the limit."""
        if self.ceiling is not None and (self.learned is None or self.ceiling <= self.learned):
            return "as it was given"
        return "as the replies say"

    @property
    def share(self) -> float:
        """Which part of the limit is ours: what a coordinator gave; else 1, or less while others draw on the bucket.

        All of them see the same remaining count, so all take the same share, whatever their number.
        """
        if self.leased is not None:
            return self.leased
        if not self.is_bucket:
            return 1.0
        return float(2.0 ** (-HALVINGS * max(0.0, ALONE - self._left) / ALONE))

    @property
    def rate(self) -> float:
        """Units a second; infinite while no limit is known."""
        return inf if self.limit is None else self._pace * self.limit * self.share / MINUTE

    @property
    def _pace(self) -> float:
        """The share of the limit that is used; less in a short window, which has to hold one batch and the lateness."""
        if self.window >= MINUTE:
            pace = min(PACE, 1.0 - LATE / MINUTE - self._batch_share)
        else:
            pace = min(PACE, (1.0 - self._batch_share * MINUTE / self.window) / (1.0 + LATE / self.window))
        return pace if self.leased is None else max(pace, LEAST_PACE)

    @property
    def _batch_share(self) -> float:
        """The largest batch as a share of a minute's limit, or of the part of it that is ours."""
        limit = (self.limit or 0.0) * (1.0 if self.leased is None else self.leased)
        # One of a share of a limit of few requests is more than a batch may be.
        least = 1.0 / limit if limit and self.leased is not None else 0.0
        if self.window < MINUTE:
            return max(min(BATCH_SHARE, LARGEST_SHARE * self.window / MINUTE), least)
        whole = self.full_request / limit if limit else 0.0
        return whole if BATCH_SHARE < whole <= LARGEST_WHOLE else max(BATCH_SHARE, least)

    @property
    def max_cost(self) -> float:
        """The most that one request may take of this limit."""
        if self.limit is None:
            return inf
        share = self.share
        is_exact = share == 1.0 or self.leased is not None
        return self.limit * share * (self._batch_share if is_exact else SHARED_BATCH_SHARE)

    def lease(self, share: float, now: float, *, joins: bool = False) -> None:
        """From now on that share is ours. What was sent and is not due yet is worked off at the new pace.

        Who `joins` others waits as long as a batch takes: a window has room for one batch beside the pace, and that is
        taken by those who were there before.
        """
        units = (self.due - now) * self.rate if self.limit is not None and self.due > now else 0.0
        self.leased = share
        if units:
            self.due = now + units / self.rate
        if joins and self.limit is not None:
            self.due = max(self.due, now + self.max_cost / self.rate)

    def used_share(self, now: float, seconds: float) -> float:
        """Which part of the limit was spent in the last seconds."""
        return self._sent.total(now, seconds) * MINUTE / seconds / self.limit if self.limit else 0.0

    def startable_units(self, now: float, ahead: float = 0.0) -> float:
        """How many units could start now, one after another."""
        due = max(self.due, now - LATENESS)
        return inf if self.limit is None else max(0.0, (now + ahead - due) * self.rate)

    def book_cost(self, start: float, cost: float, share: float = 1.0, most: float = inf) -> Charge:
        """Books a cost that starts then, at that share of the rate, which is no more than `most` units a second."""
        rate = share * min(self.rate, most)
        before, seconds = self.due, cost / rate
        if rate < inf:
            self.due = max(self.due, start - LATENESS) + seconds
        self._sent.add(start, cost)
        return Charge(seconds, before, self.due)

    def spent_units(self, now: float) -> float:
        """How many units were booked in the last minute."""
        return self._sent.total(now)

    def refund(self, start: float, cost: float, charge: Charge) -> None:
        """Takes a charge back. What was booked last leaves no trace, not even of the time that it was to wait."""
        self.due = charge.before if self.due == charge.after else self.due - charge.seconds
        self._sent.add(start, -cost)

    def explains(self, remaining: int | None, cost: float, now: float) -> bool:
        """Whether a refusal is what the headers announced: it teaches nothing then."""
        if now - self.changed_at < SETTLING:
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
        """Learns from the headers of a reply.

        `cost` is what the request took of this limit, `seconds` how long it was under way. Fields that are zero or
        missing say nothing.
        """
        if limit is None or limit <= 0 or (limit, window) == self._dropped:
            limit = None
        elif (per_minute := limit * MINUTE / window) != self.learned:
            self.window = window
            self._learn(per_minute, now)
        if self.learned is None or remaining is None or remaining < 0:
            return
        if limit is not None and self._is_contradicted(limit, remaining, cost, seconds):
            self._dropped = (limit, self.window)
            self.learned, self.window = None, MINUTE
            self.limit, self.due = self.ceiling, -inf
            self._bucket, self.is_bucket = 0.0, False
            return
        per_window = self.learned * self.window / MINUTE
        telling = cost > 0 and remaining >= TELLING * per_window and now - self._sized_at >= APART
        if telling and reset is not None:
            self._judge(remaining + reset * self.learned / MINUTE, per_window, now)
        if self.is_bucket:
            self._left += SMOOTHING * (min((remaining + cost) / self._size, 1.0) - self._left)

    def _is_contradicted(self, limit: int, remaining: int, cost: float, seconds: float) -> bool:
        """Whether headers have named a limit for some time that nothing is taken from.

        A cost that could have come back in the time of its request says nothing, unless it comes back too exactly.
        """
        exactly, self._remaining = remaining == self._remaining < limit, remaining
        if cost < TELLING_COST * limit or (cost <= 2.0 * seconds * limit / self.window and not exactly):
            return False
        self._contradictions = self._contradictions + 1 if limit - remaining < SHOWN * cost else 0
        return self._contradictions >= CONTRADICTIONS

    def _learn(self, limit: float, now: float) -> None:
        before, self.learned = self.learned, limit
        self.limit = limit if self.ceiling is None else min(self.ceiling, limit)
        self._contradictions = 0
        if before is None:
            if self.ceiling is not None and self.ceiling <= limit:
                return  # what was sent was booked at the user's limit already
            spent = self._sent.total(now, self.window) * MINUTE / limit
            self.due = max(self.due, now - LATENESS + spent / self._pace / (self.leased or 1.0))
            return
        self._size *= limit / before
        self.changed_at = now

    def _judge(self, size: float, limit: float, now: float) -> None:
        """In a bucket, and only there, what is left and what comes back until all is there are always the same sum."""
        # 1.002 for rounding: a sum above the limit cannot be the size of a bucket of that limit.
        same = size <= 1.002 * limit and abs(size - self._size) <= SAME * size
        self._bucket += 0.5 * (float(same) - self._bucket)
        self.is_bucket = self._bucket > CERTAIN
        self._size, self._sized_at = size, now
