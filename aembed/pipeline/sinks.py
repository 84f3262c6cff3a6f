"""Stage 8: where the vectors of a job go. Also what is asked before paying (stage 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import anyio
import anyio.to_thread
import numpy as np
from anyio import BrokenResourceError, ClosedResourceError
from anyio.streams.memory import MemoryObjectSendStream

from aembed.core.changes import Entry
from aembed.errors import (
    AembedError,
    BadRequestError,
    InputError,
    InvalidReplyError,
    SpaceMismatchError,
    StoreError,
)
from aembed.protocols import Backlog, KeepsModel, Refusals, Store
from aembed.results import Embeddings, Report
from aembed.types import Embedded, Failure, Known, Matrix, Record, Refusal, Rows, Vector

logger = logging.getLogger("aembed")

INLINE_BYTES = 1_000_000
"""Vectors of this size are copied within 1 ms; more of them in a thread."""
STORE_TIMEOUT = 120.0
"""Seconds until a store that does not answer is given up."""


class Sink(Protocol):
    durable: bool
    """Whether a cancelled job waits for what it sent: only what is stored is worth waiting for."""

    def reject(self, record: Record) -> InputError | None: ...
    async def known(self, entries: Sequence[Entry]) -> Known: ...
    async def paid(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]: ...
    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        """Row i of the matrix belongs to entries[i]; `model` made it. Returns how many were written."""
        ...

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        """Keeps texts that were refused for their content."""
        ...

    async def fail(self, failures: Sequence[Failure]) -> None:
        """Shows failures of any kind."""
        ...


class _Plain:
    """What a sink without a memory of its own answers."""

    durable = False

    def reject(self, record: Record) -> InputError | None:
        return None

    async def known(self, entries: Sequence[Entry]) -> Known:
        return Known()

    async def paid(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        return {}

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        return None

    async def fail(self, failures: Sequence[Failure]) -> None:
        return None


class ListSink(_Plain):
    """One matrix in the order of the input. Equal texts are found however far apart they stand."""

    def __init__(
        self, inputs: int | None = None, run_in_thread: Callable[..., Awaitable[Any]] = anyio.to_thread.run_sync
    ) -> None:
        self._inputs = inputs
        self._run_in_thread = run_in_thread
        self._filling = anyio.Lock()
        self._matrix: Matrix = np.empty((0, 0), dtype=np.float32)
        self._index: dict[bytes, int] = {}
        self._written: set[int] = set()
        self._failures: list[Failure] = []

    async def paid(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        return {key: self._matrix[self._index[key]] for key in fingerprints if key in self._index}

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        indices = [entry.index for entry in entries]
        async with self._filling:
            self._reserve(max(indices) + 1, matrix.shape[1])
            # Memory that is touched for the first time costs up to 30 ms here: in a thread (law 11).
            if matrix.nbytes > INLINE_BYTES:
                await self._run_in_thread(self._matrix.__setitem__, indices, matrix)
            else:
                self._matrix[indices] = matrix
        self._index.update(zip([entry.fingerprint for entry in entries], indices, strict=True))
        self._written.update(indices)
        return len(entries)

    async def fail(self, failures: Sequence[Failure]) -> None:
        self._failures += failures

    def embeddings(self, report: Report, dimensions: int | None, stopped: AembedError | None = None) -> Embeddings:
        """What there is; a text that the job did not come to failed with what stopped it."""
        inputs = max(report.inputs, self._inputs or 0) if stopped else report.inputs
        self._reserve(inputs, self._matrix.shape[1] or dimensions or 0)
        failures = {failure.index: failure for failure in self._failures}
        if stopped:
            for index in set(range(inputs)) - self._written - failures.keys():
                failures[index] = Failure(str(index), index, stopped)
        return Embeddings(self._matrix[:inputs], [failures[index] for index in sorted(failures)], report)

    def _reserve(self, inputs: int, dimensions: int) -> None:
        if len(self._matrix) < inputs or not self._matrix.shape[1]:
            size = max(inputs, self._inputs or 2 * len(self._matrix))
            matrix = np.zeros((size, dimensions), dtype=np.float32)
            if self._matrix.size:
                matrix[: len(self._matrix)] = self._matrix
            self._matrix = matrix


class StreamSink(_Plain):
    """Results as they complete; a slow reader holds the job back."""

    def __init__(self, channel: MemoryObjectSendStream[list[Embedded | Failure]]) -> None:
        self._channel = channel

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        await self._send([_embedded(entry, vector) for entry, vector in zip(entries, matrix, strict=True)])
        return len(entries)

    async def fail(self, failures: Sequence[Failure]) -> None:
        await self._send(list(failures))

    async def _send(self, results: list[Embedded | Failure]) -> None:
        try:
            await self._channel.send(results)
        except (BrokenResourceError, ClosedResourceError):
            pass  # The reader has left; what was on its way lands here.


class StoreSink(_Plain):
    """Rows of a store that aembed owns."""

    durable = True

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        self._store = store
        self._retry_failed = retry_failed
        self._model = ""

    def reject(self, record: Record) -> InputError | None:
        return self._store.reject(record)

    async def known(self, entries: Sequence[Entry]) -> Known:
        digests = {entry.record.id: entry.digest for entry in entries}
        fingerprints = {} if self._retry_failed else {entry.record.id: entry.fingerprint for entry in entries}
        known: Known = await guarded(self._store.known(digests, fingerprints))
        return known

    async def paid(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        vectors: Mapping[bytes, Vector] = await guarded(self._store.vectors(fingerprints))
        return vectors

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        rows = _rows(entries, matrix)
        try:
            await self._check_model(model)
            await guarded(self._store.write(rows))
        except StoreError as error:
            error.unsaved += (rows,)
            raise
        return len(entries)

    async def _check_model(self, model: str) -> None:
        """A name that differs from the request's is normal; one that changes is another model."""
        if model in ("", self._model) or not isinstance(self._store, KeepsModel):
            return
        held = await guarded(self._store.answered_by(model))
        if held != model:
            raise SpaceMismatchError(
                f"the provider answered with the model {model!r}, the rows of this store came from {held!r}; their "
                "vectors cannot be compared: build a new store: aembed index OLD_URL --store NEW_URL -m MODEL"
            )
        self._model = model

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if kept := _refusals(refused):
            await guarded(self._store.write(_rows([], np.empty((0, 0), np.float32)), kept))


class PlanSink(StoreSink):
    """Asks the store and writes nothing; remembers what a store would hold by now."""

    durable = False

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        super().__init__(store, retry_failed=retry_failed)
        self.changed = 0
        self._changing: set[str] = set()
        self._paid: set[bytes] = set()

    async def known(self, entries: Sequence[Entry]) -> Known:
        known = await super().known(entries)
        self._changing |= known.changed
        return known

    async def paid(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        planned = dict.fromkeys(fingerprints & self._paid, np.ones(1, np.float32))
        return {**planned, **dict.fromkeys(await super().paid(fingerprints), np.ones(1, np.float32))}

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        self.changed += sum(entry.record.id in self._changing for entry in entries)
        self._paid.update(entry.fingerprint for entry in entries)
        return len(entries)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        return None


class BacklogSink(_Plain):
    """The vectors of a table that belongs to the user."""

    durable = True

    def __init__(self, backlog: Backlog, *, retry_failed: bool = False) -> None:
        self._backlog = backlog
        self._refusals = backlog if isinstance(backlog, Refusals) else None
        self._retry_failed = retry_failed

    async def known(self, entries: Sequence[Entry]) -> Known:
        if self._refusals is None:
            return Known()
        refused = await guarded(self._refusals.refused({entry.record.id: entry.fingerprint for entry in entries}))
        return Known() if self._retry_failed else Known(refused=refused)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if self._refusals and (kept := _refusals(refused)):
            await guarded(self._refusals.refuse(kept))

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        ids = [entry.record.id for entry in entries]
        texts = [entry.record.text for entry in entries]
        try:
            filled: int = await guarded(self._backlog.write(ids, texts, matrix))
        except StoreError as error:
            error.unsaved += (_rows(entries, matrix),)
            raise
        return filled

    async def fail(self, failures: Sequence[Failure]) -> None:
        """Told to a backlog that is shared with other workers."""
        if tell := getattr(self._backlog, "fail", None):
            await guarded(tell([failure.id for failure in failures]))


async def guarded(awaitable: Any) -> Any:
    """A store's answer, whosever store it is: anything but an aembed error becomes a StoreError."""
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
    """Those that their content is to blame for."""
    return [
        Refusal(entry.record.id, entry.fingerprint, type(error).__name__, str(error))
        for entry, error in refused
        if isinstance(error, InputError | BadRequestError | InvalidReplyError)
    ]


def _embedded(entry: Entry, vector: Vector) -> Embedded:
    """With a copy of its row: a view that a reader keeps would keep the whole batch."""
    record = entry.record
    return Embedded(record.id, entry.index, vector.copy(), record.text, record.metadata, record.source)


async def note(store: Store, report: Report) -> None:
    """Keeps in the store how the job ended; that it cannot be kept is no reason to lose the report."""
    try:
        await guarded(store.finish(report))
    except AembedError as error:
        logger.warning("the store did not keep the report: %s", error)


def _rows(entries: Sequence[Entry], matrix: Matrix) -> Rows:
    records = [entry.record for entry in entries]
    return Rows(
        ids=[record.id for record in records],
        texts=[record.text for record in records],
        metadata=[record.metadata for record in records],
        sources=[record.source for record in records],
        fingerprints=[entry.fingerprint for entry in entries],
        digests=[entry.digest for entry in entries],
        matrix=matrix,
    )
