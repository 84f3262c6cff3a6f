"""This module writes to a store (stage 8), and asks it what it knows before anything is paid for (stage 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any, Protocol

import anyio
import numpy as np

from aembed.core.changes import Entry, Key
from aembed.core.spaces import is_same_model
from aembed.errors import (
    AembedError,
    BadRequestError,
    InputError,
    InvalidReplyError,
    RowRefusedError,
    RowsRefusedError,
    SpaceMismatchError,
    StoreError,
)
from aembed.pipeline.sinks import PlainSink, Settled
from aembed.protocols import Backlog, KeepsModel, Refusals, Shares, Store
from aembed.results import Report
from aembed.types import Failure, Known, Matrix, Record, Refusal, Rows, Vector

logger = logging.getLogger("aembed")

# Supabase, for one, ends each statement after 2 minutes: nothing that takes longer can succeed there. Smaller, a store
# under load would stop a job whose rows are paid for; larger, a dead one would hold it up.
STORE_TIMEOUT = 120.0
"""A store that does not answer is given up after so many seconds."""


class Leasing(Protocol):
    """What keeps other jobs from sending the same texts at the same time."""

    @property
    def token(self) -> int: ...
    @property
    def is_alone(self) -> bool: ...
    async def lease(self, fingerprints: Collection[bytes]) -> AbstractSet[bytes]: ...
    def note_done(self, fingerprints: Collection[bytes]) -> None: ...


class StoreSink(PlainSink):
    """Writes the rows of a store that aembed owns."""

    durable = keeps = True

    def __init__(self, store: Store, *, retry_failed: bool = False, worker: Leasing | None = None) -> None:
        self._store = store
        self._retry_failed = retry_failed
        self._worker = worker
        self.leases = worker is not None
        self._model = ""

    def rejection_of(self, record: Record) -> InputError | None:
        return self._store.reject(record)

    async def known(self, entries: Sequence[Entry]) -> Known:
        digests = {entry.record.id: entry.digest for entry in entries}
        fingerprints = {} if self._retry_failed else {entry.record.id: entry.fingerprint for entry in entries}
        known: Known = await await_store(self._store.known(digests, fingerprints))
        return known

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        fingerprints = {entry.fingerprint for entry in entries}
        vectors: Mapping[Key, Vector] = await await_store(self._store.vectors(fingerprints))
        return vectors

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        rows = _rows(entries, matrix, self._worker.token if self._worker else None)
        # Law 1: one reply = one short store transaction, which is durable when `write` returns.
        try:
            with _add_paid_rows(lambda: rows):
                await self._check_model(model)
                await await_store(self._store.write(rows))
        except RowsRefusedError:
            self._note_done(rows.fingerprints)
            raise
        self._note_done(rows.fingerprints)
        return len(entries)

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        if self._worker is None:
            return await super().lease(entries)
        leased: AbstractSet[Key] = await self._worker.lease([entry.fingerprint for entry in entries])
        return leased

    def _note_done(self, fingerprints: Sequence[bytes]) -> None:
        if self._worker:
            self._worker.note_done(fingerprints)

    async def may_take_over(self, model: str) -> bool:
        """Whether vectors of that model may be written here: the space is the same already, and the name has to be."""
        try:
            await self._check_model(model)
        except SpaceMismatchError:
            return False
        return True

    async def _check_model(self, model: str) -> None:
        """Raises SpaceMismatchError for a model that replies call otherwise than before.

        A name that differs from the request's is normal; one that changes means another model.
        """
        # Law 6: the vectors at hand are paid for, but the rest of the job is refused before it is.
        if model in ("", self._model) or not isinstance(self._store, KeepsModel):
            return
        held = await await_store(self._store.answered_by(model))
        if held is None or not is_same_model(held, model):
            raise SpaceMismatchError(
                f"the provider answered with the model {model!r}, the rows of this store came from {held!r}; their "
                "vectors cannot be compared, unless `aembed move` (Embedder.move) finds them to be the same: build a "
                "new store: await embedder.embed_into(new_store, old_store)"
            )
        self._model = model

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if kept := _refusals(refused):
            await await_store(self._store.write(_rows([], np.empty((0, 0), np.float32)), kept))
        self._note_done([entry.fingerprint for entry, _ in refused])


class PlanSink(StoreSink):
    """Asks the store and writes nothing; it remembers what the store would hold by now."""

    durable = False
    dry = True

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        super().__init__(store, retry_failed=retry_failed)
        self.changed = 0
        self._changing: set[str] = set()
        self._paid: set[Key] = set()

    async def known(self, entries: Sequence[Entry]) -> Known:
        known = await super().known(entries)
        self._changing |= known.changed
        return known

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        planned = {entry.key for entry in entries if entry.key in self._paid}
        return dict.fromkeys(planned | (await super().paid_vectors(entries)).keys(), np.ones(1, np.float32))

    async def may_take_over(self, model: str) -> bool:
        return True

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        self.changed += sum(entry.record.id in self._changing for entry in entries)
        self._paid.update(entry.key for entry in entries)
        return len(entries)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        return None


class Notes(Protocol):
    """What a run, which reads rows again, is told about them."""

    def note_unfilled(self, records: Sequence[Record]) -> None:
        """Of these, which were written together, some rows stayed empty."""
        ...

    def note_not_bought(self, records: Sequence[Record]) -> None:
        """Another job has filled them, or somebody edited them, before they were sent."""
        ...


class BacklogSink(PlainSink):
    """Writes vectors into a table that belongs to the user."""

    durable = keeps = True
    whole = False

    def __init__(
        self,
        backlog: Backlog,
        run: Notes,
        *,
        retry_failed: bool = False,
        worker: Leasing | None = None,
    ) -> None:
        self._backlog = backlog
        self._run = run
        self._shares = backlog if isinstance(backlog, Shares) else None
        self._worker = worker if self._shares else None
        self.leases = self._worker is not None
        self._refusals = backlog if isinstance(backlog, Refusals) else None
        self._retry_failed = retry_failed

    async def known(self, entries: Sequence[Entry]) -> Known:
        if self._refusals is None:
            return Known()
        refused = await await_store(self._refusals.refused({entry.record.id: entry.fingerprint for entry in entries}))
        return Known() if self._retry_failed else Known(refused=refused)

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        """Whoever held one before has filled its row before he gave it up: while others are there rows are looked at
        once more."""
        if self._worker is None:
            return await super().lease(entries)
        leased: AbstractSet[Key] = await self._worker.lease([entry.fingerprint for entry in entries])
        if self._worker.is_alone:
            return leased
        mine = [entry for entry in entries if entry.key in leased]
        settled = await self._settled_rows(mine)
        late = {entry.key for entry in mine if entry.record.id in settled}
        self._worker.note_done([entry.fingerprint for entry in mine if entry.key in late])
        return leased - late

    async def settled(self, entries: Sequence[Entry]) -> Settled:
        rows = await self._settled_rows(entries)
        known = await self.known(entries)
        filled = {id: vector for id, vector in rows.items() if vector is not None}
        self.note_left([entry for entry in entries if entry.record.id in filled])
        paid: dict[Key, Vector] = {entry.key: filled[id] for entry in entries if (id := entry.record.id) in filled}
        return Settled(paid, replace(known, unchanged=frozenset(filled)), rows.keys() - filled.keys())

    async def _settled_rows(self, entries: Sequence[Entry]) -> Mapping[str, Vector | None]:
        if self._shares is None or not entries:
            return {}
        rows: Mapping[str, Vector | None] = await await_store(
            self._shares.settled({entry.record.id: entry.record.text for entry in entries})
        )
        return rows

    def note_left(self, entries: Sequence[Entry]) -> None:
        self._run.note_not_bought([entry.record for entry in entries])

    def _done(self, entries: Iterable[Entry]) -> None:
        if self._worker:
            self._worker.note_done([entry.fingerprint for entry in entries])

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if self._refusals and (kept := _refusals(refused)):
            await await_store(self._refusals.refuse(kept))
        self._done(entry for entry, _ in refused)

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        # Law 3: a vector is stored only beside the text that it was made from: the backlog compares the texts, and a
        # row that was edited meanwhile stays pending.
        ids = [entry.record.id for entry in entries]
        texts = [entry.record.text for entry in entries]
        try:
            with _add_paid_rows(lambda: _rows(entries, matrix)):
                filled: int = await await_store(self._backlog.write(ids, texts, matrix))
        except RowsRefusedError as error:
            taken = [entry for entry in entries if entry.record.id not in error.rows]
            self._note_unfilled(taken, error.written)
            self._done(taken)
            raise
        self._note_unfilled(entries, filled)
        self._done(entries)
        return filled

    def _note_unfilled(self, entries: Sequence[Entry], filled: int) -> None:
        if filled < len(entries):
            self._run.note_unfilled([entry.record for entry in entries])

    async def fail(self, failures: Sequence[Failure]) -> None:
        """Tells a backlog that is shared with other workers, so that they do not wait for these rows."""
        if tell := getattr(self._backlog, "fail", None):
            await await_store(tell([failure.id for failure in failures]))


@contextmanager
def _add_paid_rows(rows: Callable[[], Rows]) -> Iterator[None]:
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


async def await_store(awaitable: Any) -> Any:
    """The answer of a store, whosever store it is: anything but an aembed error becomes a StoreError."""
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            return await awaitable
    except AembedError:
        raise
    except TimeoutError:
        raise StoreError(f"the store did not answer within {STORE_TIMEOUT:g} s") from None
    except Exception as error:
        raise StoreError(f"the store raised {type(error).__name__}") from error


def _refusals(refused: Sequence[tuple[Entry, AembedError]]) -> list[Refusal]:
    """The refusals that are kept: those for which the content of the text is to blame.

    A text that is larger than the account's limit of a minute is not kept, as a larger plan takes it. Messages are made
    printable, because not every store holds what a user's own provider may say (NUL).
    """
    return [
        Refusal(entry.record.id, entry.fingerprint, type(error).__name__, _printable(str(error)))
        for entry, error in refused
        if isinstance(error, InputError | InvalidReplyError | RowRefusedError)
        or (isinstance(error, BadRequestError) and error.status_code != 429)
    ]


def _printable(message: str) -> str:
    return "".join(character if character.isprintable() else " " for character in message)


async def note(store: Store, report: Report) -> None:
    """Keeps in the store how the job ended; that it cannot be kept is no reason to lose the report."""
    try:
        await await_store(store.finish(report))
    except AembedError as error:
        logger.warning("the store did not keep the report: %s", error)


def _rows(entries: Sequence[Entry], matrix: Matrix, token: int | None = None) -> Rows:
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
