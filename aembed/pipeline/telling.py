"""This module tells who listens of jobs, and of the batches that they submit and collect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

from aembed.core.progress import progress_of
from aembed.dispatch import Origin, Teller
from aembed.events import BatchCollected, BatchSubmitted, JobBegan, JobEnded
from aembed.results import Report

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class JobTeller:
    """Tells of the jobs of one Embedder, in the context of their callers."""

    _tell: Teller
    _origin: Origin

    def began(self, verb: str) -> int:
        """Returns the number of the job."""
        job = next(_numbers)
        self._tell(JobBegan(*self._origin, job, verb))
        return job

    def ended(self, job: int, verb: str, report: Report, error: str) -> None:
        # Law 9: the words of errors may quote what users have, so only counts are told.
        counts = replace(progress_of(report), waiting="", last_error="")
        self._tell(JobEnded(*self._origin, job, verb, counts, error))


@dataclass(frozen=True, slots=True)
class BatchTeller:
    """Tells of the batches of one Embedder."""

    _tell: Teller
    _origin: Origin

    def submitted(self, batch: str, texts: int, tokens: float) -> None:
        self._tell(BatchSubmitted(*self._origin, batch, texts, round(tokens)))

    def collected(
        self, batch: str, status: str, texts: int, billed_tokens: int, cost_usd: float | None, seconds: float
    ) -> None:
        self._tell(BatchCollected(*self._origin, batch, status, texts, billed_tokens, cost_usd, seconds))
