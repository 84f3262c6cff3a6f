"""The gate is a circuit breaker: when the provider fails, everybody waits and single requests find out if it is back.

                 5 failures in a row, or a 429 that says that a limit is used up
    +------+ ------------------------------------------------------------------> +---------+
    | open |                                                                     | closed  | <-----+
    +------+ <------------------------------------------------------------------ +---------+       |
       ^         a request that went before the gate closed was answered              |            | the probe failed:
       |         (after a rate limit that says nothing: the gate stays closed)        | opens_at   | wait again, longer
       |                                                                              v            |
       |         the probe was answered                                          +---------+       |
       +------------------------------------------------------------------------ | probing | ------+
                                                                                 +---------+
                                             no answer for 5 s: the next probe may go beside the first one

    When no request was answered for max_outage seconds after a failure, the job stops (OutageError).

Mind the words: books on circuit breakers call the breaker closed while requests flow; a gate is open then.

Law 7: when the provider fails, the job pauses. The gate closes on 5 failures in a row with no success, and on a 429
whose headers say that a limit is exhausted; while it is closed one probe at a time goes, at most 5 s apart unless a
hint says longer. A 429 that says no more is a question, which `pacing/` answers, and closes nothing. In use:

    while not gate.may_pass(now): wait until gate.opens_at, or until another request has reported
    gate_pass = gate.enter(now)                                     just before sending
    gate.note_success(gate_pass)                                       any reply that is no reason to wait
    blame = gate.note_failure(gate_pass, now, wait=..., ...)              an UnavailableError
    gate.note_refusal(gate_pass, now, wait=..., closes=..., ...)         a rate limit
    sleep gate.rest_seconds(wait, hinted=...), then from the top          where the request is to be tried again
    gate.note_abandoned(gate_pass)                                       no reply, by our own doing
    if gate.is_lost(now): raise OutageError

`wait` is what tenacity computed for that request: `pause_seconds()` of its exponential and of the server's hint. A
failure that closes the gate makes all wait that long; one that does not holds up nobody else. A request has failed for
good when its blame is above max_retries.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import Protocol

# Law 7. Measured in virtual time, 60 s of outage and 12,000 calls: one gate with one probe at a time wasted 102
# requests and gave up no call, openai-python's defaults 7,124 and 2,344. Larger, work would begin again so much later.
PROBE_SECONDS = 5.0
"""Probes are at most so many seconds apart, unless a hint says longer."""
# Law 7. Smaller, single faults of a healthy server would stop everybody; larger, more requests are lost in each outage.
FAILURES_IN_A_ROW = 5
"""So many failures with no success between them close the gate."""
# Chosen: a request that failed alone loses at most a second;
# without any rest it would be tried again in the same fault.
LONGEST_REST = 1.0
"""Seconds that one request waits at the most while others succeed."""
# Chosen: limits of a minute clear in 60 s, and a clock or a proxy may double that. Larger, one wrong header could stop
# a job for hours; what a longer hint means is asked by a probe after this time.
LONGEST_HINT = 120.0
"""A Retry-After is believed up to so many seconds."""
# Chosen: one wrong closing in a million requests, which is more than most jobs have.
CHANCE = 1e-6
"""A server that fails at random is given so long a row that it closes the gate this rarely."""
# Chosen: the rate of failures is that of about the last fifty requests.
MEMORY = 0.02
"""The weight of one request in the rate of failures."""
# Chosen: with MEMORY one failure alone makes 2 %, and three in a row stay below 6 %, so a single fault is no habit.
HEALTHY, FLAKY = 0.01, 0.06
"""The share of failures that means nothing, and the one from which on failures are this provider's habit."""


class Random(Protocol):
    def uniform(self, a: float, b: float, /) -> float: ...


def pause_seconds(backoff: float, retry_after: float | None, random: Random, *, alone: bool = False) -> float:
    """Seconds to wait: the backoff with jitter, and never less than the server's hint.

    What waits `alone` comes no later than it was told: there is no crowd that would come at once.
    """
    # Chosen: half of the backoff is jitter, so that requests that failed together do not come back together. After a
    # hint of the server up to 10 % are added, never taken away, for the same reason.
    seconds = random.uniform(0.5, 1.0) * backoff
    if retry_after is not None and 0.0 <= retry_after < inf:
        seconds = max(seconds, min(retry_after, LONGEST_HINT))
        if alone:
            return seconds
    return seconds * random.uniform(1.0, 1.1)


@dataclass(frozen=True, slots=True, eq=False)
class GatePass:
    """One request that was let through. It is a `probe` if the gate was closed then."""

    started: float
    probe: bool


@dataclass(eq=False, repr=False)
class Gate:
    """A gate is open, or it is closed until `opens_at`, and from then on lets one probe at a time through."""

    max_outage: float = 900.0
    _closed_at: float | None = None
    _due: float = -inf
    is_limited: bool = False
    """Whether a rate limit has closed it, and no outage."""
    _probe: GatePass | None = None
    _failures: int = 0
    _failing_since: float | None = None
    _failure_rate: float = 0.0
    closings: int = 0
    probes: int = 0

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Gate {state}, {self._failures} failures in a row, closed {self.closings} times, {self.probes} probes>"

    @property
    def is_open(self) -> bool:
        return self._closed_at is None

    @property
    def opens_at(self) -> float:
        """When the next request may pass; in the past while the gate is open.

        A probe that has been under way for PROBE_SECONDS holds the next one back no longer.
        """
        if self._closed_at is None:
            return -inf
        return self._due if self._probe is None else max(self._due, self._probe.started + PROBE_SECONDS)

    def may_pass(self, now: float) -> bool:
        return now >= self.opens_at

    def enter(self, now: float) -> GatePass:
        gate_pass = GatePass(now, probe=not self.is_open)
        if gate_pass.probe:
            self._probe = gate_pass
            self.probes += 1
        return gate_pass

    def note_success(self, gate_pass: GatePass) -> bool:
        """The provider works; returns whether the gate is open.

        After a rate limit only a request that was sent since then says so.
        """
        self._failure_rate += MEMORY * (0.0 - self._failure_rate)
        self._failures = 0
        self._failing_since = None
        if self._closed_at is not None and (gate_pass.probe or not self.is_limited):
            self._closed_at = self._probe = None
            self.is_limited = False
        return self._closed_at is None

    def note_failure(self, gate_pass: GatePass, now: float, *, wait: float, hinted: bool = False) -> float:
        """Returns how much of a failure of the request this is, from 0 to 1.

        It is none while the provider is away, and less than one where the provider fails other requests too: the
        request is to blame once so many failures in a row are no accident. `hinted` says that the server named
        the wait. Without that the gate is probed every PROBE_SECONDS at least.
        """
        blame = self.blame if self.is_open else 0.0
        self._failures += 1
        self._failure_rate += MEMORY * (1.0 - self._failure_rate)
        # So many failures in a row are no accident, given how often this server fails. Bounded, so that the logarithm
        # exists, and so that a server that fails each second request still closes the gate.
        usual = min(max(self._failure_rate, 1e-9), 0.5)
        telling_row = max(FAILURES_IN_A_ROW, int(log(CHANCE) / log(usual)))
        self._count_failure(gate_pass, now, wait, hinted, limited=False, closes=self._failures >= telling_row)
        return blame

    def note_refusal(
        self, gate_pass: GatePass, now: float, *, wait: float, hinted: bool = False, closes: bool = True
    ) -> None:
        """A rate limit refused the request. `closes` says that everybody waits, and not that request alone."""
        self._count_failure(gate_pass, now, wait, hinted, limited=True, closes=closes)

    def note_told(self, now: float, wait: float, *, limited: bool) -> None:
        """Another worker on the same key was refused, or found that nobody answers: it closes here, too."""
        if self.is_open:
            self.closings += 1
            self._closed_at = now
            self._close_again(now, wait, limited, hinted=True)

    def _count_failure(
        self, gate_pass: GatePass, now: float, wait: float, hinted: bool, *, limited: bool, closes: bool
    ) -> None:
        self._failing_since = now if self._failing_since is None else self._failing_since
        if self.is_open:
            if closes:
                self.closings += 1
                self._closed_at = now
                self._close_again(now, wait, limited, hinted)
        elif gate_pass is self._probe:
            self._close_again(now, wait, limited, hinted)
        else:
            if gate_pass.probe and not limited:
                # One of several probes at a time that hung: what a rate limit has closed is away by now.
                self.is_limited = False
            if hinted:
                self._due = max(self._due, now + wait)

    def rest_seconds(self, wait: float, *, hinted: bool = False) -> float:
        """How long a failed request waits by itself: not at all while the gate is closed, for everybody waits then.

        While others succeed most of `wait` would be lost time, so the rest grows to all of it with the failures in a
        row.
        """
        if not self.is_open:
            return 0.0
        if hinted:
            return wait
        return min(wait, LONGEST_REST) * min(1.0, self._failures / FAILURES_IN_A_ROW)

    def note_abandoned(self, gate_pass: GatePass) -> None:
        if gate_pass is self._probe:
            self._probe = None

    def is_lost(self, now: float) -> bool:
        """Whether the provider has been away for longer than `max_outage`."""
        return self._failing_since is not None and now - self._failing_since >= self.max_outage

    @property
    def lost_at(self) -> float:
        """When the provider will have been away for that long, if nothing is answered until then."""
        return inf if self._failing_since is None else self._failing_since + self.max_outage

    @property
    def blame(self) -> float:
        """How much of a failure of the request one failure is, given how often the provider fails others."""
        # Two logarithms of chances: where 10 % of all requests fail, a failure says half of what it says where 1 % do.
        return 1.0 if self._failure_rate < FLAKY else log(self._failure_rate) / log(HEALTHY)

    def _close_again(self, now: float, wait: float, rate_limited: bool, hinted: bool) -> None:
        probe, self._probe = self._probe, None
        self.is_limited = rate_limited
        self._due = now + (wait if hinted else min(wait, PROBE_SECONDS))
        if probe and self._closed_at is not None and not hinted:
            # From probe to probe it is as long as until the one before, so the waits double, and stay within 5 s (law
            # 7). One that hung has waited already.
            self._due = max(self._due, probe.started + min(probe.started - self._closed_at, PROBE_SECONDS))
