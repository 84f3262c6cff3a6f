"""What the sinks of stores and of columns share: leases, rows that a failed write leaves unsaved, and the errors of a
store of the user's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from math import inf

import anyio

from aembed.core.changes import Entry, Key
from aembed.core.vectors import ShapeError
from aembed.errors import (
    AembedError,
    BadRequestError,
    InputError,
    InvalidReplyError,
    RowRefusedError,
    RowsRefusedError,
    StoreError,
)
from aembed.pipeline.leasing import LeaseHolder
from aembed.pipeline.sinks import Sink
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Store
from aembed.results import Report
from aembed.types import Matrix, Refusal, Rows

logger = logging.getLogger("aembed")


class LeasingSink(Sink):
    """A sink whose texts are leased, where there is a worker."""

    durable = keeps = True

    def __init__(self, worker: LeaseHolder | None) -> None:
        self._worker = worker
        self.leases = worker is not None

    @property
    def has_lapsed(self) -> bool:
        return self._worker is not None and self._worker.has_lapsed

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        if self._worker is None:
            return await super().lease(entries)
        return await self._worker.lease([entry.fingerprint for entry in entries])

    async def note_submitted(self, entries: Sequence[Entry], *, is_known: bool) -> None:
        # Until then its lease alone keeps others from sending the text.
        if is_known:
            self._note_done(entries)

    def _note_done(self, entries: Iterable[Entry]) -> None:
        """They are written, or never will be: nobody needs their leases any more."""
        if self._worker:
            self._worker.note_done([entry.fingerprint for entry in entries])


@contextmanager
def add_paid_rows(rows: Callable[[], Rows]) -> Iterator[None]:
    """Puts rows that cannot be written into the error, also where somebody else than the job cancels the write."""
    try:
        yield
    except RowsRefusedError:
        raise  # Nothing else is unsaved, and those rows can never be saved.
    except StoreError as error:
        error.unsaved += (rows(),)
        raise
    except asyncio.CancelledError:
        if anyio.current_effective_deadline() == -inf:
            raise
        cut_short = StoreError("a write was cancelled before the store had answered")
        cut_short.unsaved = (rows(),)
        raise cut_short from None


def kept_refusals(refused: Sequence[tuple[Entry, AembedError]]) -> list[Refusal]:
    """The refusals that are kept: those for which the content of the text is to blame.

    A text that is larger than the account's limit of a minute is not kept, as a larger plan takes it. Messages are made
    printable, because not every store holds what a user's own provider may say (NUL).
    """
    return [
        Refusal(
            entry.record.id,
            entry.fingerprint,
            type(error).__name__,
            "".join([c if c.isprintable() else " " for c in str(error)]),
        )
        for entry, error in refused
        if isinstance(error, InputError | RowRefusedError)
        # No text can be the cause of a reply of a wrong shape; one without a vector may be a text's.
        or (isinstance(error, InvalidReplyError) and (not isinstance(error, ShapeError) or error.empty))
        or (isinstance(error, BadRequestError) and error.status_code != 429)
    ]


async def note(store: Store, report: Report) -> None:
    """Keeps in the store how the job ended; that it cannot be kept is no reason to lose the report."""
    try:
        await await_store(store.finish(report))
    except AembedError as error:
        logger.warning("the store did not keep the report: %s", error)


def rows_of(entries: Sequence[Entry], matrix: Matrix, token: int | None = None) -> Rows:
    records = [entry.record for entry in entries]
    return Rows(
        ids=[record.id for record in records],
        texts=[record.text for record in records],
        metadata=[record.metadata for record in records],
        sources=[record.source for record in records],
        fingerprints=[entry.fingerprint for entry in entries],
        digests=[entry.digest for entry in entries],
        matrix=matrix,
        token=token,
    )
