"""This module is one address of a pool: leave to send to it, and whether it takes part (see _pool.py)."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Protocol

from aembed.core.gate import FAILURES_IN_A_ROW, LONGEST_HINT, PROBE_SECONDS, Gate, GatePass
from aembed.core.pacing import Pacer
from aembed.dispatch._admission import EARLY, Admission, Permit
from aembed.dispatch._notice import Notice
from aembed.dispatch._wait_report import WaitReport
from aembed.errors import ProviderError, UnavailableError
from aembed.types import Hints

logger = logging.getLogger("aembed")

# Chosen: a key is mended, or a model deployed, by hand, which takes minutes; each look costs one refused request.
OUT_SECONDS, MOST_OUT_SECONDS = 60.0, 900.0
"""An address that refuses everything is asked again after so many seconds, twice as many each time, up to the most."""


class Whole(Protocol):
    """What an address needs of the pool that it belongs to."""

    accepted: int
    sent: int
    wait_report: WaitReport
    changed: Notice

    @property
    def lost_at(self) -> float: ...
    def note_closed(self) -> None: ...
    def check_outage(self) -> None: ...


class Member(Admission):
    """Leave to send to one address of a pool."""

    def __init__(self, pool: Whole, where: str, pacer: Pacer, concurrency: int, max_outage: float) -> None:
        gate, self._report = Gate(max_outage=max_outage), _AddressReport(where, pool.wait_report)
        super().__init__(concurrency=concurrency, pacer=pacer, gate=gate, wait_report=self._report)
        self._pool = pool
        self.when_closed = pool.note_closed
        self._out_seconds = OUT_SECONDS
        self.doubted = self.contradicted = 0
        """Refusals without a reason since anything was accepted, and those of them that others did not share."""
        self.void_until = 0
        """What it refused up to the request of that number says nothing of the texts."""
        self.refusal = ProviderError("")
        """The last of them."""
        self._failures = self.failed_in_a_row = 0
        """Rests, and of them failures, since anything was accepted."""
        self._rests: list[tuple[float, bool]] = []
        """Until when places rest that were refused, and whether the server said so."""

    @property
    def is_believed(self) -> bool:
        """Whether a refusal may be laid to the text: it accepts others."""
        return self.has_accepted and not self.doubted

    @property
    def has_accepted(self) -> bool:
        return self.pacer.accepted_requests > 0

    @property
    def is_out(self) -> bool:
        """Whether it refuses everything, and not for a while only."""
        return self._report.is_out

    @property
    def is_working(self) -> bool:
        """Whether it has accepted something, or told its limits, and is not away; a rate limit passes."""
        known = self.has_accepted or self.pacer.limit("tokens") is not None
        return known and not self.is_out and (self.gate.is_open or self.gate.is_limited)

    @property
    def is_there(self) -> bool:
        """Whether it will answer: it is neither away nor out of service, and no rate limit has lasted for too long."""
        since = self.wait_report.failing_since
        now, asked = asyncio.get_running_loop().time(), self.wait_report.last_error_at
        lasts = since is not None and now - since >= LONGEST_HINT >= now - asked
        return not self.is_out and not self.is_away and not lasts

    @property
    def is_away(self) -> bool:
        """Whether an outage has closed its gate. What refuses costs nothing, and is probed by the work itself."""
        return not self.gate.is_open and not self.gate.is_limited

    @property
    def lost_at(self) -> float:
        return self._pool.lost_at

    def free_at(self, interactive: bool, control: bool, remaining: float, now: float) -> float:
        """`now` where there is a slot, no rest and an open gate; else when that is worth asking again."""
        # What was refused without a hint keeps its place, as its request would: it is tried again once another has
        # landed. With a hint as many more may be tried besides as rest.
        self._rests = [rest for rest in self._rests if rest[0] > now + EARLY]
        allowed, hinted = self.pacer.concurrency, [until for until, told in self._rests if told]
        kept = self.in_flight + len(self._rests) - len(hinted)
        if self._rests and (len(hinted) >= allowed or kept >= allowed):
            return min(self._rests)[0]
        if not self._has_free_slot(interactive, remaining, now) and now >= self.pacer.settles_at + EARLY:
            self.pacer.settle(now)
            self._slots.total_tokens = self.pacer.concurrency
        if not self._has_free_slot(interactive, remaining, now):
            return self.pacer.settles_at + EARLY
        if not self._may_pass_gate(control, now):
            return self.gate.opens_at if control or not self.controls else inf
        return now

    def rest(self, seconds: float, *, hinted: bool) -> None:
        """A place rests that was refused. Without a hint ever longer, as long as nothing is accepted."""
        self._failures += 1
        if not hinted:
            seconds = min(seconds * 2.0 ** (self._failures - 1), max(seconds, PROBE_SECONDS))
        if seconds > 0.0:
            self._rests.append((asyncio.get_running_loop().time() + seconds, hinted))

    def put_out(self, error: ProviderError, gate_pass: GatePass | None = None) -> None:
        """It refuses everything. One request at a time finds out later whether it still does."""
        now, seconds = asyncio.get_running_loop().time(), self._out_seconds
        gate_pass = gate_pass or GatePass(now, probe=False)
        if self.is_out and not gate_pass.probe:
            return
        if not self.is_out:
            logger.warning(
                "%s is out of service: %s; its requests go to the other addresses", self.wait_report.where, error
            )
        self._report.is_out, self.contradicted, self.void_until = True, 0, self._pool.sent
        self._out_seconds = min(2.0 * seconds, MOST_OUT_SECONDS)
        self.wait_report.note_out(error, now + seconds, now)
        self.gate.note_refusal(gate_pass, now, wait=seconds, hinted=True, closes=True)
        self._notify()

    def note_success(self, permit: Permit, hints: Hints) -> None:
        if self.is_out:
            logger.info("%s is in service again", self.wait_report.where)
        self._report.is_out, self._out_seconds = False, OUT_SECONDS
        self.doubted = self.contradicted = self._failures = self.failed_in_a_row = 0
        self._pool.accepted = max(self._pool.accepted, permit.number)
        super().note_success(permit, hints)

    def note_failure(
        self, permit: Permit, error: BaseException, *, wait: float, hinted: bool, closes: bool, alone: bool = False
    ) -> float:
        self.failed_in_a_row += isinstance(error, UnavailableError)
        # What fails there goes to others, so that a row of failures is that of the address, whatever they carried.
        alone = alone and self.failed_in_a_row < FAILURES_IN_A_ROW
        return super().note_failure(permit, error, wait=wait, hinted=hinted, closes=closes, alone=alone)

    def check_outage(self) -> None:
        self._pool.check_outage()

    def _tell_landed(self) -> None:
        self._rests = [rest for rest in self._rests if rest[1]]
        super()._tell_landed()

    def _notify(self) -> None:
        super()._notify()
        self._pool.changed.tell()


class _AddressReport(WaitReport):
    """Tells of waits for one address of several, for which nobody waits while another is open."""

    def __init__(self, where: str, of_all: WaitReport) -> None:
        super().__init__(where)
        self._of_all = of_all
        self.is_out = False
        """Its refusals are answers, and do not end an outage of all."""

    def report_line(self, now: float) -> str:
        line = super().report_line(now).removeprefix("waiting for ")
        return f"{line}; its requests go to the other addresses" if line else ""

    def note_failure(self, error: BaseException, now: float) -> None:
        super().note_failure(error, now)
        self._of_all.note_failure(error, now)

    def note_answer(self, now: float) -> None:
        if not self.is_out:
            super().note_answer(now)
            self._of_all.note_answer(now)
