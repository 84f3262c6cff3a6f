"""This module says what is waited for: in the log when it begins and ends, and in the progress while it lasts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf
from urllib.parse import urlsplit

from aembed.core.pacing import Pacer
from aembed.dispatch._telling import OutageTeller
from aembed.types import Space

logger = logging.getLogger("aembed")

# Chosen: a shorter wait for a rate limit is the pace of the work, and a line for each of them would be noise.
LONG = 5.0
"""A wait for a rate limit is told in the log if it takes so many seconds."""
# Chosen: a low limit is one wait after another, and a line in ten minutes tells of them all.
QUIET = 600.0
"""For so many seconds further long waits for a rate limit are not told."""


@dataclass(eq=False, repr=False)
class WaitReport:
    """Tells of waits: of an outage at once, and only once, however often the provider is tried meanwhile."""

    where: str = ""
    outage: OutageTeller | None = None
    """Who is told where somebody listens."""
    last_error: str = ""
    last_error_at: float = -inf
    failing_since: float | None = None
    _closed_since: float | None = None
    _next_try: float = -inf
    _paced_since: float | None = None
    _said_pace: float = -inf
    _pace: str = ""
    _next_request: float = -inf

    def report_line(self, now: float) -> str:
        """The line that says what is waited for now; it is empty where nothing takes long."""
        if self._closed_since is not None:
            reason = self.last_error.removeprefix(f"no connection to {self.where}: ")
            return f"waiting for {self.where}: {reason}, {_with_duration('try', self._next_try - now)}"
        if self._paced_since is not None and self._next_request > now:
            return f"waiting for {self.where}: {self._pace}, {_with_duration('request', self._next_request - now)}"
        return ""

    # the gate

    def note_failure(self, error: BaseException, now: float) -> None:
        """A request failed in a way that waiting may clear."""
        self.last_error, self.last_error_at = str(error), now
        self.failing_since = now if self.failing_since is None else self.failing_since
        if self.outage:
            self.outage.note_failure(error)

    def note_out(self, error: BaseException, opens_at: float, now: float) -> None:
        """The address refuses everything, and is asked again then."""
        self.last_error, self.last_error_at = str(error), now
        if self.outage:
            self.outage.note_failure(error)
            self.outage.began(now, opens_at - now)

    def note_closed(self, opens_at: float, now: float, *, limited: bool) -> None:
        """The gate has closed, or stays closed: for an outage, or as a rate limit (`limited`) asks to wait."""
        self._next_try = opens_at
        if self.outage and not limited:
            self.outage.began(now, opens_at - now)
        if self._closed_since is None and (not limited or opens_at - now >= LONG):
            self._closed_since = now
            logger.warning("%s", self.report_line(now))

    def note_answer(self, now: float) -> None:
        """There was a reply, and the gate is open: a wait for an outage has ended."""
        self.failing_since = None
        if self.outage:
            self.outage.ended(now)
        if self._closed_since is not None:
            seconds, self._closed_since = now - self._closed_since, None
            logger.info("%s answers again, after %.0f s", self.where, seconds)

    # the pace

    def note_pace(self, start: float, now: float, pacer: Pacer) -> None:
        """The next request goes only when a limit of the minute allows it."""
        if start - now < LONG:
            return
        limits = [(pacer.limit("requests"), "requests"), (pacer.limit("tokens"), "tokens")]
        known = " and ".join(f"{limit:,.0f} {name}" for limit, name in limits if limit is not None)
        self._pace = f"{known} a minute are used up" if known else "its rate limit is used up"
        self._next_request = start
        if self._paced_since is None and now - self._said_pace >= QUIET:
            self._paced_since = self._said_pace = now
            logger.warning("%s", self.report_line(now))
        elif self._paced_since is None:
            self._paced_since = now

    def let_go(self, now: float) -> None:
        """The request that was waited for goes now."""
        if self._paced_since is not None:
            if self._paced_since == self._said_pace:
                logger.info("the next request to %s goes, after %.0f s", self.where, now - self._paced_since)
            self._paced_since = None


def server_in_words(space: Space) -> str:
    """The server of a space as it is named in a line: host and port, or whose it is."""
    return urlsplit(space.endpoint).netloc.rpartition("@")[2] or space.provider


def _with_duration(what: str, seconds: float) -> str:
    return f"next {what} in {seconds:.0f} s" if seconds >= 0.5 else f"the next {what} is due"
