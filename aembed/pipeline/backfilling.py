"""This module fills a column of the user's own table in passes: rows that were edited meanwhile come again.

Law 3: a vector is stored only beside the text that it was made from; a user's row that was edited meanwhile stays
pending, and the next pass reads it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aembed.core.progress import Tally
from aembed.errors import ConfigError, SourceError, StoreError
from aembed.pipeline.purchases import Purchases
from aembed.pipeline.reading import iterate
from aembed.results import Failure, Report
from aembed.types import Record

# Chosen: once more, where its text was edited meanwhile or its lease was lost. Larger, a table whose trigger drops
# vectors is paid for so many times; at 1 an edited row would fail.
MOST_BOUGHT = 2
"""A row is paid for so many times in one run, at the most; where a table is watched, with one text between two looks at
all of it."""
# Chosen: one such pass may be an accident of edits; after two the table itself is to blame.
MOST_EMPTY_PASSES = 2
"""After so many passes in a row that bought rows and filled none, no row is bought again."""


@dataclass(eq=False, repr=False)
class Passes:
    """What each pass reads, and whether another pass is worth it. One tally counts all passes.

    A row that was bought and is empty again fails, unless its text was edited since; if that happens twice, it fails
    too. So nothing is paid for without end, and no row is left behind in silence. Where the table is watched, a row may
    be edited as often as it likes, and one that failed is read again once it is.
    """

    _pending: Callable[[int | None], AsyncIterator[Record]]
    """As Backlog.pending."""
    tally: Tally
    _limit: int | None = None
    _on_failure: Callable[[Failure], object] | None = None
    _watched: bool = False
    given_up: set[str] = field(default_factory=set)
    """The rows that were read and get no vector."""
    _bought: Purchases = field(default_factory=Purchases)
    _unfilled: set[str] = field(default_factory=set)
    _most_bought: int = MOST_BOUGHT
    _empty_passes: int = 0
    _skipped_before: int = 0
    _filled_before: int = 0

    async def records(self) -> AsyncGenerator[Record | Failure, None]:
        """The records of one pass: no more than the limit leaves, as what is asked for is held from other workers."""
        self._skipped_before, self._filled_before = self._skipped_count, self._filled_count
        left = None if self._limit is None else self._limit - self._given_count
        wanted = None if left is None else left + len(self.given_up)
        async with iterate(self._pending(wanted)) as pending:
            async for record in pending:
                if left == 0:
                    return
                if record.id in self.given_up:
                    if not self._watched or any(self._bought.purchases_of(record.id, record.text)):
                        continue
                    self.given_up.discard(record.id)  # It was edited since.
                left = None if left is None else left - 1
                yield self._check_record(record)

    def _check_record(self, record: Record) -> Record | Failure:
        """The record, if its row may be bought (again); else the failure that ends it."""
        bought = self._bought.purchases_of(record.id, record.text)
        if self._watched:
            # Each text by itself, and anew where it comes back after another one.
            bought = [same for same in bought if same]
            if not bought:
                self._bought.forget_all(record.id)
        if len(bought) >= self._most_bought:
            reason = (
                f"it was paid for {len(bought)} times in this run and is still empty: a trigger or a rule of the "
                "table drops it, or its text changes all the time"
            )
        # Whoever empties a row of a table that is watched may mean it, once.
        elif any(bought) and record.id not in self._unfilled and not self._watched:
            reason = (
                "its vector was written in this run and is gone again: a trigger, a rule or another program empties it"
            )
        else:
            self._bought.note(record.id, record.text)
            return record
        self.given_up.add(record.id)
        return Failure(record.id, 0, StoreError(f"{reason}; once that is mended, run the same again"))

    def note_filled(self, records: Sequence[Record], filled: int) -> None:
        """Notes that of these records, which were written together, so many rows were filled: any of them may be one
        that stayed empty."""
        if filled < len(records):
            self._unfilled.update(record.id for record in records)

    def note_not_bought(self, records: Iterable[Record]) -> None:
        """Notes that these were read and not bought: another job has filled them, or somebody has edited them."""
        for record in records:
            self._bought.forget(record.id, record.text)

    def note_submitted(self, records: Iterable[Record]) -> None:
        """Notes that these are out in a batch. Where the table is watched they are not read again and again."""
        if self._watched:
            self.given_up.update(record.id for record in records)
        else:
            self.note_not_bought(records)

    def report(self) -> Report:
        return self.tally.report(asyncio.get_running_loop().time())

    def note_failure(self, failure: Failure) -> object:
        """A text that failed is not read again by the next pass."""
        self.given_up.add(failure.id)
        return self._on_failure(failure) if self._on_failure else None

    def has_another(self) -> bool:
        """Whether another pass is worth it.

        It is if rows are left, or may be, that were edited or emptied while their vector was made, or if texts that
        were refused earlier, or filled by other jobs, took the place of others within the limit.
        """
        if self.tally.pending:
            self.count_again()
            self._empty_passes = self._empty_passes + 1 if self._filled_count == self._filled_before else 0
            if self._empty_passes >= MOST_EMPTY_PASSES:
                self._most_bought = 1
            return True
        skipped = self._skipped_count > self._skipped_before
        return self._limit is not None and skipped and self._given_count < self._limit

    def count_again(self) -> None:
        """Rows that are pending, and those that are out in batches, are read, and counted, once more."""
        self.tally.inputs -= self.tally.pending + self.tally.submitted
        self.tally.submitted = 0

    @property
    def _filled_count(self) -> int:
        """Here, or by other jobs."""
        return self.tally.stored + self.tally.unchanged

    @property
    def _skipped_count(self) -> int:
        """Rows within the limit that nothing was bought for."""
        return self.tally.refused_earlier + self.tally.unchanged

    @property
    def _given_count(self) -> int:
        return self.tally.stored + self.tally.failed - self.tally.refused_earlier


@contextmanager
def raise_plainly() -> Iterator[None]:
    """Raises what the database of a backlog said, instead of saying that the records raised something."""
    try:
        yield
    except SourceError as error:
        if not isinstance(cause := error.__cause__, StoreError | ConfigError):
            raise
        cause.report = error.report
        raise cause from None
