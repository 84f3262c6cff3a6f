"""A column of the user's own table is filled in passes: rows that were edited meanwhile come again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from aembed.core.progress import Tally
from aembed.errors import SourceError, StoreError
from aembed.pipeline.outcomes import now
from aembed.protocols import Backlog
from aembed.results import Report
from aembed.types import Failure, Record


class Passes:
    """What each pass reads, and whether another one is worth it. One tally counts them all."""

    def __init__(
        self, backlog: Backlog, tally: Tally, limit: int | None, on_failure: Callable[[Failure], object] | None
    ) -> None:
        self.tally = tally
        self._backlog = backlog
        self._limit = limit
        self._on_failure = on_failure
        self._failed: set[str] = set()
        self._stored_before = self._skipped_before = 0

    async def records(self) -> AsyncIterator[Record]:
        """Asks for no more rows than the limit leaves: what is asked for is held from other workers."""
        self._stored_before, self._skipped_before = self.tally.stored, self.tally.refused_earlier
        left = None if self._limit is None else self._limit - self._given
        wanted = None if left is None else left + len(self._failed)
        async for record in self._backlog.pending(wanted):
            if left == 0:
                return
            if record.id not in self._failed:
                left = None if left is None else left - 1
                yield record

    def report(self) -> Report:
        return self.tally.report(now())

    def failed(self, failure: Failure) -> None:
        """A text that failed is not read again by the next pass."""
        self._failed.add(failure.id)
        if self._on_failure:
            self._on_failure(failure)

    def another(self) -> bool:
        """Whether rows are left that were edited while their vector was made, and the last pass got on.

        Or whether texts that were refused earlier took the place of others within the limit.
        """
        pending = self.tally.pending
        if pending and self.tally.stored > self._stored_before:
            self.tally.inputs -= pending
            return True
        skipped = self.tally.refused_earlier > self._skipped_before
        return self._limit is not None and skipped and self._given < self._limit

    @property
    def _given(self) -> int:
        return self.tally.stored + self.tally.failed - self.tally.refused_earlier


@contextmanager
def told_plainly() -> Iterator[None]:
    """The records of a backlog come from its database: what that said is raised, not that the records raised."""
    try:
        yield
    except SourceError as error:
        if not isinstance(cause := error.__cause__, StoreError):
            raise
        cause.report = error.report
        raise cause from None
