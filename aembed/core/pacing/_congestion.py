"""What refusals teach where no header says it, or where the headers do not say all."""

from __future__ import annotations

from math import inf

from aembed.core.pacing._minute import Minute

GROWTH = 0.05
GROWTH_POWER = 3
SURE, UNSURE = 60.0, 8.0
"""Busy seconds after a refusal in which the pace grows by 5 %; it doubles in less than twice the time. The shorter
one holds until two measurements agree."""
MOST_GROWTH = 3.0
"""In any minute: a window of a minute may answer no sooner."""
AGREEMENT = 0.15
REQUESTS_PER_SECOND = 2.0
"""Slower requests count as so much time: one refusal among few is many."""
BATCH_SHARE = 0.004
"""The largest batch, as a share of a minute: the less one request carries, the less one refusal costs."""
LEAST_BATCH_TOKENS = 4_000
LARGEST_SHARE = 0.03
"""Nobody's windows hold less than this share of a minute, or they would refuse what they allow."""
SETTLED_REQUESTS = 5
MINUTE, MEASURABLE, LONG = 60.0, 55.0, 10.0
FAIR_SHARE = 0.25
LEAST_SHARE, LEAST_SHARE_BLOCKED = 0.85, 0.25
LEAST_CUT, DEEPEST_CUT = 0.97, 0.8


class Congestion:
    """The tokens a second that a server has been seen to sustain.

    Refusals until the next acceptance are one episode. At its end the server is as exhausted as it was at
    the end of the last one, so what it accepted since is what it sustains, whatever its windows are. No window
    accepts more in a minute than its limit and its burst.
    """

    __slots__ = (
        "_accepted",
        "_accepted_requests",
        "_busy",
        "_ended_at",
        "_fair",
        "_fits",
        "_least",
        "_least_share",
        "_measured",
        "_most_tokens",
        "_pace",
        "_patience",
        "_rate",
        "_refused_at",
        "_reset_at",
        "_sent",
        "_since",
    )

    def __init__(self) -> None:
        self._accepted = Minute()
        self._accepted_requests = Minute()
        self._busy = 0.0
        self._ended_at = -inf
        self._fair = 0.0
        self._fits = 0.0
        self._least = self._least_share = 0.0
        self._measured = inf
        self._most_tokens = inf
        self._pace = inf
        self._patience = UNSURE
        self._rate = inf
        self._refused_at: float | None = None
        self._reset_at = -inf
        self._sent = 0
        self._since = inf

    @property
    def rate(self) -> float:
        """Tokens a second; infinite while nothing was refused."""
        if self._rate == inf:
            return inf
        seconds = min(self._busy, self._sent / REQUESTS_PER_SECOND)
        gained = GROWTH * max(self._rate, self._fair) * (seconds / self._patience) ** GROWTH_POWER
        return float(min(self._rate + gained, self._rate * MOST_GROWTH ** (1 + seconds // MINUTE)))

    @property
    def max_batch_tokens(self) -> float:
        return min(max(60.0 * self.rate * BATCH_SHARE, LEAST_BATCH_TOKENS), self._most_tokens)

    def too_large(self, tokens: float) -> bool:
        return tokens > max(min(self._most_tokens, 60.0 * self.rate * LARGEST_SHARE), LEAST_BATCH_TOKENS)

    @property
    def is_asked(self) -> bool:
        """There is a pace, or one is being measured."""
        return self._rate < inf or self._refused_at is not None

    def forget(self) -> None:
        """The headers tell more than the refusals did."""
        self._rate, self._refused_at = inf, None
        self._least = self._least_share = 0.0

    def lower_least(self) -> None:
        """It is the pace, and was refused all the same: it may fall below what was the least."""
        self._least *= LEAST_CUT

    def spent(self, start: float, tokens: float) -> None:
        """Only time at this pace counts as time without a refusal."""
        self._since = min(self._since, start)
        if self._rate < inf:
            self._busy += tokens / self.rate
            self._sent += 1

    def grown(self, tokens: float) -> None:
        """A request that was counted as spent carries so much more."""
        if self._rate < inf:
            self._busy += tokens / self.rate

    def accepted(self, tokens: float, start: float, now: float) -> None:
        self._accepted.add(start, tokens)
        self._accepted_requests.add(start, 1.0)
        self._fits = max(self._fits, tokens)
        if tokens >= 0.5 * self._most_tokens:
            self._most_tokens *= 1.02
        if self._refused_at is not None and start >= self._refused_at:
            self._settle(self._refused_at, start)

    def trust(self, limit: float | None) -> None:
        """Some limit is known: there is no need to search. `limit`: of tokens a minute, where it is that one.

        Processes that share a limit all gain by the same steps, and lose in proportion: so they come to equal shares.
        """
        self._patience = SURE
        self._fair = FAIR_SHARE * (limit or 0.0) / MINUTE

    def refused(self, tokens: float, start: float, now: float, pace: float) -> bool:
        """True where this is the first refusal of an episode. `pace`: the tokens a second of that time."""
        if self._refused_at is None and start < self._ended_at:
            return False
        self._shrink(tokens, now)
        if self._refused_at is not None:
            return False
        self._refused_at = now
        self._pace = pace
        return True

    def suspect(self, tokens: float, since: float, at: float, *, blocked: bool) -> None:
        """An episode that began at `at`. What was accepted before `since` may have been saved up, and is left out.

        Where nothing was blocked, but refusals are many, no later one makes the pace much slower than that. A pace that
        has become so slow, and is refused, is no explanation: it is taken back, and measured anew.
        """
        self._least_share = LEAST_SHARE_BLOCKED if blocked else LEAST_SHARE
        self._least = 0.0
        if self._accepted_requests.total(at, at - since) >= SETTLED_REQUESTS:
            self._since = since
        self._shrink(tokens, at)
        self._refused_at, self._pace = at, inf

    def _shrink(self, tokens: float, now: float) -> None:
        """A size that was never accepted may be more than the server's window holds."""
        if self._refused_at is not None and now - self._refused_at > 60.0:
            self._fits = 0.0
        if tokens > self._fits and tokens / 2 >= LEAST_BATCH_TOKENS:
            self._most_tokens = min(self._most_tokens, tokens / 2)

    def _settle(self, refused_at: float, now: float) -> None:
        before, self._measured = self._measured, self._sustained(refused_at, now)
        if abs(self._measured - before) < AGREEMENT * before < inf:
            self._patience = SURE
        # At first what was sent before there was a pace may be what is refused, and not the pace.
        starting = now - self._since < 2.0 * MINUTE
        rate = self._measured if starting else min(self._measured, LEAST_CUT * self._pace)
        self._least = self._least or self._least_share * rate
        self._rate = max(rate, self._least)
        self._busy, self._sent = 0.0, 0
        self._ended_at = now
        self._refused_at = None

    def _sustained(self, refused_at: float, now: float) -> float:
        blocked, cycle = now - refused_at, now - self._reset_at
        minute = self._accepted.total(refused_at) / MINUTE
        if blocked >= LONG:
            self._reset_at = now
            if MEASURABLE <= cycle <= 2.0 * MINUTE:
                # Of two windows of a minute, no sixty seconds have more than both together.
                return max(self._accepted.total(now, cycle) / cycle, minute / 2.0)
        window = min(MINUTE, max(15.0, 20.0 * blocked), max(now - self._since, 1.0))
        rate = max(self._accepted.total(now, window) / window, minute)
        few = self._accepted_requests.total(now, window) < SETTLED_REQUESTS
        return max(rate, DEEPEST_CUT * self._pace) if few and self._pace < inf else rate
