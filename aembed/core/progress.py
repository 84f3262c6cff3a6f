"""Stage 9 keeps the tally of a job, and makes the values that it is shown as.

Law 4: every input ends in exactly one of stored, unchanged, failed (with a typed reason), pending (the job stopped
early) and, in a batch job, submitted. So these always add up to the inputs, and pending is what is left over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from aembed.core.billing import Bill
from aembed.errors import AembedError, copy_error
from aembed.results import Failure, Progress, Report

# Law 8: memory is bounded. Chosen: nobody reads more than a thousand, all are counted, and on_failure hears of each.
KEPT_FAILURES = 1_000
"""So many failures of a job are kept for its report."""
# Chosen: one or two records may be bad by chance, as texts that are refused alone; see MOST_REFUSALS of dispatch.
LEAST_ALIKE = 3
"""So many records, if all of a job fail for one reason, are no matter of single records."""
_NUMBER = re.compile(r"\d[\d,.]*")
# Chosen: five calls a second look alive on a screen, and more would be seen by nobody, and cost the loop.
CALL_SECONDS = 0.2
"""`on_progress` is called at most once in so many seconds."""
# Told in the changelog. Chosen: a person who watches a wait sees the seconds count.
TICK_SECONDS = 1.0
"""`on_progress` is called once in so many seconds while nothing happens."""


@dataclass(slots=True)
class Tally(Bill):
    """The counts of one job; its stages add to them."""

    started: float
    total: int | None = None
    inputs: int = 0
    stored: int = 0
    unchanged: int = 0
    failed: int = 0
    submitted: int = 0
    bought_twice: int = 0
    refused_earlier: int = 0
    duplicates: int = 0
    removed: int = 0
    requests: int = 0
    retries: int = 0
    lost_tokens: int = 0
    truncated: int = 0
    at_risk_tokens: int = 0
    waiting: str = ""
    last_error: str = ""
    failures: list[Failure] = field(default_factory=list)
    _reason: tuple[type, str] | None = None
    _alike: bool = True

    def fail(self, failures: Sequence[Failure]) -> None:
        self.failed += len(failures)
        self.failures += failures[: max(0, KEPT_FAILURES - len(self.failures))]
        for failure in failures if self._alike else ():
            # What failures have in common is told without the ids and numbers that their words hold.
            message = str(failure.error).replace(repr(failure.id), "")
            reason = type(failure.error), _NUMBER.sub("", message)
            self._reason = self._reason or reason
            self._alike = reason == self._reason

    def common_error(self) -> AembedError | None:
        """The error that stops a job in which each record failed for the same reason; None for any other job."""
        if not self.failed == self.inputs >= LEAST_ALIKE or self.refused_earlier or not self._alike:
            return None
        error = copy_error(self.failures[0].error)
        error.args = (f"each of the {self.inputs:,} texts failed, for one reason: {self.failures[0].error}",)
        return error

    @property
    def pending(self) -> int:
        # Law 4: what is in none of the other classes is pending.
        return self.inputs - self.stored - self.unchanged - self.failed - self.submitted

    def report(self, now: float) -> Report:
        return Report(
            inputs=self.inputs,
            stored=self.stored,
            unchanged=self.unchanged,
            failed=self.failed,
            pending=self.pending,
            submitted=self.submitted,
            bought_twice=self.bought_twice,
            duplicates=self.duplicates,
            removed=self.removed,
            requests=self.requests,
            retries=self.retries,
            billed_tokens=self.billed_tokens,
            lost_tokens=self.lost_tokens,
            truncated=self.truncated,
            at_risk_tokens=self.at_risk_tokens,
            cost_usd=self.cost_usd,
            seconds=now - self.started,
            total=self.total,
            waiting=self.waiting,
            last_error=self.last_error,
            failures=tuple(sorted(self.failures, key=lambda failure: failure.index)),
            refused_earlier=self.refused_earlier,
        )

    def make_progress(self, now: float) -> Progress:
        return progress_of(self.report(now))


def progress_of(report: Report) -> Progress:
    """The report without its failures."""
    return Progress(**{name: getattr(report, name) for name in Progress.__dataclass_fields__})
