"""A column of the user's own table is filled in passes: rows that were edited meanwhile come again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aembed.core.progress import Tally
from aembed.protocols import Backlog
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
        self._stored_before = 0

    async def records(self) -> AsyncIterator[Record]:
        self._stored_before = self.tally.stored
        given = self.tally.stored + self.tally.failed
        async for record in self._backlog.pending():
            if self._limit is not None and given >= self._limit:
                return
            if record.id not in self._failed:
                given += 1
                yield record

    def failed(self, failure: Failure) -> None:
        """A text that failed is not read again by the next pass."""
        self._failed.add(failure.id)
        if self._on_failure:
            self._on_failure(failure)

    def another(self) -> bool:
        """Whether rows are left that were edited while their vector was made, and the last pass got on."""
        pending = self.tally.pending
        if not pending or self.tally.stored == self._stored_before:
            return False
        self.tally.inputs -= pending
        return True
