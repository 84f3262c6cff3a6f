"""A column of the user's own table is filled in passes: rows that were edited meanwhile come again."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from aembed.core.progress import Tally
from aembed.errors import SourceError, StoreError
from aembed.pipeline.outcomes import now
from aembed.pipeline.reading import iterating
from aembed.protocols import Backlog
from aembed.results import Report
from aembed.types import Failure, Record

MOST_BOUGHT = 2
"""Times that a row is paid for in one run: once more where its text was edited meanwhile, or its lease lost."""


class Passes:
    """What each pass reads, and whether another one is worth it. One tally counts them all.

    A row that stayed empty although its vector was written is read again, and fails where that happens twice: nothing
    is paid for without end, and no row is left behind in silence.
    """

    def __init__(
        self, backlog: Backlog, tally: Tally, limit: int | None, on_failure: Callable[[Failure], object] | None
    ) -> None:
        self.tally = tally
        self._backlog = backlog
        self._limit = limit
        self._on_failure = on_failure
        self._failed: set[str] = set()
        self._unfilled = Counter[str]()
        self._skipped_before = 0

    async def records(self) -> AsyncIterator[Record | Failure]:
        """Asks for no more rows than the limit leaves: what is asked for is held from other workers."""
        self._skipped_before = self.tally.refused_earlier
        left = None if self._limit is None else self._limit - self._given
        wanted = None if left is None else left + len(self._failed)
        async with iterating(self._backlog.pending(wanted)) as pending:
            async for record in pending:
                if left == 0:
                    return
                if record.id not in self._failed:
                    left = None if left is None else left - 1
                    yield self._judged(record)

    def _judged(self, record: Record) -> Record | Failure:
        if self._unfilled[record.id] < MOST_BOUGHT:
            return record
        reason = StoreError(
            f"its vector was written {MOST_BOUGHT} times and the row is still empty: a trigger or a rule of the table "
            "drops it, or its text changes all the time"
        )
        return Failure(record.id, 0, reason)

    def unfilled(self, records: Iterable[Record]) -> None:
        """Of these, which were written together, some rows stayed empty."""
        self._unfilled.update(record.id for record in records)

    def report(self) -> Report:
        return self.tally.report(now())

    def failed(self, failure: Failure) -> object:
        """A text that failed is not read again by the next pass."""
        self._failed.add(failure.id)
        return self._on_failure(failure) if self._on_failure else None

    def another(self) -> bool:
        """Whether rows are left, or may be, that were edited or emptied while their vector was made.

        Or whether texts that were refused earlier took the place of others within the limit.
        """
        if pending := self.tally.pending:
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
