"""This module writes to a store (stage 8), and asks it what it knows before anything is paid for (stage 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from aembed.core.changes import Entry, Key
from aembed.core.spaces import is_same_model
from aembed.errors import (
    AembedError,
    InputError,
    RowsRefusedError,
    SpaceMismatchError,
)
from aembed.pipeline.leasing import LeaseHolder
from aembed.pipeline.leasing_sinks import LeasingSink, add_paid_rows, kept_refusals, rows_of
from aembed.pipeline.seen_keys import SeenKeys
from aembed.pipeline.store_calls import await_store
from aembed.protocols import KeepsModel, Store
from aembed.types import Known, Matrix, Record, Vector


class StoreSink(LeasingSink):
    """Writes the rows of a store that aembed owns."""

    def __init__(self, store: Store, *, retry_failed: bool = False, worker: LeaseHolder | None = None) -> None:
        super().__init__(worker)
        self._store = store
        self._retry_failed = retry_failed
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
        rows = rows_of(entries, matrix, self._worker.token if self._worker else None)
        # Law 1: one reply = one short store transaction, which is durable when `write` returns.
        try:
            with add_paid_rows(lambda: rows):
                await self.check_model(model)
                await await_store(self._store.write(rows))
        except RowsRefusedError:
            self._note_done(entries)
            raise
        self._note_done(entries)
        return len(entries)

    async def may_take_over(self, model: str) -> bool:
        """Whether vectors of that model may be written here: the space is the same already, and the name has to be."""
        try:
            await self.check_model(model)
        except SpaceMismatchError:
            return False
        return True

    async def check_model(self, model: str) -> None:
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
        if kept := kept_refusals(refused):
            await await_store(self._store.write(rows_of([], np.empty((0, 0), np.float32)), kept))
        self._note_done(entry for entry, _ in refused)


class PlanSink(StoreSink):
    """Asks the store and writes nothing; it remembers what the store would hold by now."""

    durable = False
    dry = True

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        super().__init__(store, retry_failed=retry_failed)
        self.changed = 0
        self._changing = Counter[str]()
        """By the id, the entries on their way whose row has another text."""
        self._paid = SeenKeys()

    async def known(self, entries: Sequence[Entry]) -> Known:
        known = await super().known(entries)
        changing = known.changed - known.refused.keys()
        self._changing.update(entry.record.id for entry in entries if entry.record.id in changing)
        return known

    async def paid_vectors(self, entries: Sequence[Entry]) -> Mapping[Key, Vector]:
        planned = await self._paid.find([entry.key for entry in entries])
        return dict.fromkeys(planned | (await super().paid_vectors(entries)).keys(), np.ones(1, np.float32))

    async def may_take_over(self, model: str) -> bool:
        return True

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        self.changed += sum(map(self._end, entries))
        await self._paid.add(entry.key for entry in entries)
        return len(entries)

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        for entry, _ in refused:
            self._end(entry)

    def _end(self, entry: Entry) -> bool:
        """Law 8: memory is bounded by what is on its way. Returns whether the entry's row would be changed."""
        id = entry.record.id
        left = self._changing[id]
        if left > 1:
            self._changing[id] = left - 1
        elif left:
            del self._changing[id]
        return left > 0

    def close(self) -> None:
        self._paid.close()
