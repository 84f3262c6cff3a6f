"""This module measures the pace that a server sustains from its refusals, where no header says all of it."""

from __future__ import annotations

from math import inf

from aembed.core.pacing._minute import Minute

# Chosen: like TCP's CUBIC the pace stays long near what was refused last, and grows fast once it is far from it. A
# smaller power would meet the limit more often, a larger one would find a limit that was raised too late.
GROWTH = 0.05
GROWTH_POWER = 3
# Chosen: a window of a minute is refused no sooner than a minute after the last time; until the measure is trusted the
# search goes about seven times as fast.
SURE, UNSURE = 60.0, 8.0
"""After so many busy seconds without a refusal the pace has grown by 5 %, and after 2.7 times as many it has doubled.
The shorter time holds until two measurements agree."""
# Chosen: a window of a minute may answer no sooner than that; unbounded growth would fill it with refusals at its end.
MOST_GROWTH = 3.0
"""The pace grows by no more than this factor in any minute."""
# Chosen: windows that are cut at odd moments give measures that differ by a batch or two.
AGREEMENT = 0.15
"""Two measurements agree if they differ by less than this share."""
# Chosen: one refusal among few requests is many. With few large requests a second would make the pace grow too soon.
REQUESTS_PER_SECOND = 2.0
"""Busy time grows by no more than a second for so many requests."""
# Chosen: in ten minutes a guess has grown 170,000-fold, which is no guess any more; one large request at a pace that
# was guessed from small ones may take hours of it.
MOST_BUSY = 600.0
"""A pace that is a guess grows for no more busy seconds than these."""
# Chosen: the less one request carries, the less one refusal costs; at 0.4 % of a minute a refusal in 250 is nothing.
BATCH_SHARE = 0.004
"""The largest batch while a pace was learned from refusals, as a share of a minute at that pace."""
# Chosen: a request of 4,000 tokens takes 166 ms at OpenAI
# (78 ms + 22 us a token), half of it for being a request at all.
LEAST_BATCH_TOKENS = 4_000
"""No batch is made smaller than this for what refusals taught."""
# Chosen: a little more than the largest batch of a known limit (2.7 % of a minute, see _budget.py), so that what one
# limit allows is not divided for another.
LARGEST_SHARE = 0.03
"""Nobody's windows hold less than this share of a minute: a request of more than that is too large."""
# Chosen: from fewer requests a pace is mostly chance.
SETTLED_REQUESTS = 5
"""A pace is measured from at least so many requests."""
# Chosen: a cycle of 55 s and more is one window of a minute, less the time in which
# a refusal was on its way; refusing for 10 s and more is what the end of such a
# window looks like, for a bucket that refills lets something through sooner.
MINUTE, MEASURABLE, LONG = 60.0, 55.0, 10.0
"""Seconds of a minute, of the shortest cycle that is measured as one, and of a long block."""
# Chosen: a process that has a small part of a limit gains at least as fast as one that has a fourth of it.
FAIR_SHARE = 0.25
"""The pace grows as if it were at least this share of the limit."""
# Chosen: a pace that falls on and on explains nothing, and is measured anew; what was blocked for a while is surer.
LEAST_SHARE, LEAST_SHARE_BLOCKED = 0.85, 0.25
"""The pace does not fall below this share of the first one: where nothing was blocked, and where something was."""
# Chosen: a window that was met at about the pace at which it refills needs no second look; one that was emptied in a
# burst is met again at once, while an outage, or another job that used up the minute, is over.
PLAUSIBLE = 0.5
"""A first measure of less than this part of the pace in the minute until the block is no pace yet."""
# Chosen: each refusal of a pace lowers it by 3 % at the least, and by a fifth at the most where few requests say so.
LEAST_CUT, DEEPEST_CUT = 0.97, 0.8
"""What one refusal leaves of a pace, at the most and at the least."""


class Congestion:
    """The tokens a second that a server has been seen to sustain.

    All refusals until the next acceptance are one episode. At its end the server is as exhausted as it was at
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
        "_is_blocked",
        "_is_guess",
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
        "_unexplained_at",
    )

    def __init__(self) -> None:
        self._accepted = Minute()
        self._accepted_requests = Minute()
        self._busy = 0.0
        self._ended_at = -inf
        self._fair = 0.0
        self._fits = 0.0
        self._is_blocked = self._is_guess = False
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
        self._unexplained_at = -inf

    @property
    def rate(self) -> float:
        """Tokens a second; infinite while nothing was refused."""
        if self._rate == inf:
            return inf
        seconds = min(self._busy, MOST_BUSY if self._is_guess else self._sent / REQUESTS_PER_SECOND)
        gained = GROWTH * max(self._rate, self._fair) * (seconds / self._patience) ** GROWTH_POWER
        return float(min(self._rate + gained, self._rate * MOST_GROWTH ** (1 + seconds // MINUTE)))

    @property
    def max_batch_tokens(self) -> float:
        return min(max(60.0 * self.rate * BATCH_SHARE, LEAST_BATCH_TOKENS), self._most_tokens)

    def is_too_large(self, tokens: float) -> bool:
        return tokens > max(min(self._most_tokens, 60.0 * self.rate * LARGEST_SHARE), LEAST_BATCH_TOKENS)

    @property
    def is_asked(self) -> bool:
        """Whether there is a pace, or one is being measured."""
        return self._rate < inf or self._refused_at is not None

    def forget(self) -> None:
        """Forgets the pace: the headers tell more than the refusals did, or it was none."""
        self._rate, self._refused_at = inf, None
        self._least = self._least_share = 0.0

    def lower_least(self) -> None:
        """The pace is right, and was refused all the same: it may fall below what was the least."""
        self._least *= LEAST_CUT

    def note_spent(self, start: float, tokens: float) -> None:
        """Counts a request that starts then: only time at this pace counts as time without a refusal."""
        self._since = min(self._since, start)
        if self._rate < inf:
            self._busy += tokens / self.rate
            self._sent += 1

    def note_grown(self, tokens: float) -> None:
        """Counts that a request which was counted as spent carries so many tokens more."""
        if self._rate < inf:
            self._busy += tokens / self.rate

    def note_accepted(self, tokens: float, start: float) -> bool:
        """Returns whether this was the end of an episode before which there was no pace."""
        had_pace, ends = self._rate < inf, self._refused_at is not None and start >= self._refused_at
        self._accepted.add(start, tokens)
        self._accepted_requests.add(start, 1.0)
        self._fits = max(self._fits, tokens)
        # Chosen: a size that was halved for a refusal comes back by 2 % with each acceptance of about that size.
        if tokens >= 0.5 * self._most_tokens:
            self._most_tokens *= 1.02
        if self._refused_at is not None and ends:
            self._settle(self._refused_at, start)
        return ends and not had_pace

    def trust(self, limit: float | None) -> None:
        """Some limit is known, so there is no need to search. `limit` is that of tokens a minute, if that one is known.

        Processes that share a limit all gain by the same steps, and lose in proportion: so they come to equal shares.
        """
        self._patience = SURE
        self._fair = FAIR_SHARE * (limit or 0.0) / MINUTE

    def note_refused(self, tokens: float, start: float, now: float, pace: float) -> bool:
        """Returns True for the first refusal of an episode. `pace` is the tokens a second at that time."""
        if self._refused_at is None and start < self._ended_at:
            return False
        self._shrink(tokens, now)
        if self._refused_at is not None:
            return False
        self._refused_at = now
        self._pace = pace
        return True

    def suspect(self, tokens: float, since: float, at: float, *, blocked: bool) -> None:
        """Begins an episode at `at`. What was accepted before `since` may have been saved up, and is left out.

        Where nothing was blocked, but refusals are many, no later one makes the pace much slower than that. A pace that
        has become so slow, and is refused, is no explanation: it is taken back, and measured anew.
        """
        self._is_blocked = blocked
        self._least_share = LEAST_SHARE_BLOCKED if blocked else LEAST_SHARE
        self._least = 0.0
        if self._accepted_requests.total(at, at - since) >= SETTLED_REQUESTS:
            self._since = since
        self._shrink(tokens, at)
        self._refused_at, self._pace = at, inf

    def _shrink(self, tokens: float, now: float) -> None:
        """Halves the largest size where one was refused that was never accepted: a window may not hold it."""
        if self._refused_at is not None and now - self._refused_at > 60.0:
            self._fits = 0.0
        if tokens > self._fits and tokens / 2 >= LEAST_BATCH_TOKENS:
            self._most_tokens = min(self._most_tokens, tokens / 2)

    def _settle(self, refused_at: float, now: float) -> None:
        """Ends an episode, at the first acceptance after it: what was sustained until then is the pace from now on."""
        before, self._measured = self._measured, self._sustained_pace(refused_at, now)
        if self._rate == inf and self._is_blocked and not self._is_window(refused_at):
            self._unexplained_at = self._ended_at = now
            self._refused_at = None
            return
        self._is_guess = self._accepted_requests.total(now) < SETTLED_REQUESTS
        if abs(self._measured - before) < AGREEMENT * before < inf and not self._is_guess:
            self._patience = SURE
        # At first what was sent before there was a pace may be what is refused, and not the pace.
        starting = now - self._since < 2.0 * MINUTE
        rate = self._measured if starting else min(self._measured, LEAST_CUT * self._pace)
        self._least = self._least or self._least_share * rate
        self._rate = max(rate, self._least)
        self._busy, self._sent = 0.0, 0
        self._ended_at = now
        self._refused_at = None

    def _is_window(self, refused_at: float) -> bool:
        """Whether a block is a window in all likelihood: it is the second one, or the pace until then was about the one
        that was measured. Else it may be another job that used up the minute, an outage, or a server that starts."""
        if refused_at - self._unexplained_at < 2.0 * MINUTE:
            return True
        until_then = self._accepted.total(refused_at) / max(self._accepted.seconds_since_first(refused_at), 0.1)
        return self._measured >= PLAUSIBLE * until_then > 0.0

    def _sustained_pace(self, refused_at: float, now: float) -> float:
        """The tokens a second that were accepted up to now, over a time that fits the kind of window that refused."""
        blocked, cycle = now - refused_at, now - self._reset_at
        minute = self._accepted.total(refused_at) / MINUTE
        if blocked >= LONG:
            self._reset_at = now
            if MEASURABLE <= cycle <= 2.0 * MINUTE:
                # Of two windows of a minute, no sixty seconds have more than both together.
                return max(self._accepted.total(now, cycle) / cycle, minute / 2.0)
        # Chosen: a short block means a short window, of which 20 blocks hold many; 15 s, because less is mostly chance.
        window = min(MINUTE, max(15.0, 20.0 * blocked), max(now - self._since, 1.0))
        rate = max(self._accepted.total(now, window) / window, minute)
        few = self._accepted_requests.total(now, window) < SETTLED_REQUESTS
        return max(rate, DEEPEST_CUT * self._pace) if few and self._pace < inf else rate
