"""This module fills a table that belongs to the user (stage 8), and asks it what was refused earlier (stage 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from aembed.core.changes import Entry, Key
from aembed.errors import (
    AembedError,
    RowsRefusedError,
)
from aembed.pipeline.backfilling import Passes
from aembed.pipeline.leasing import LeaseHolder
from aembed.pipeline.leasing_sinks import LeasingSink, add_paid_rows, kept_refusals, rows_of
from aembed.pipeline.sinks import Settled
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Backlog, Reclaims, Refusals, Shares
from aembed.results import Failure
from aembed.types import Known, Matrix, Vector


class BacklogSink(LeasingSink):
    """Writes vectors into a table that belongs to the user."""

    whole = False

    def __init__(
        self,
        backlog: Backlog,
        run: Passes,
        *,
        retry_failed: bool = False,
        worker: LeaseHolder | None = None,
    ) -> None:
        self._shares = backlog if isinstance(backlog, Shares) else None
        super().__init__(worker if self._shares else None)
        self._backlog = backlog
        self._reclaims = backlog if isinstance(backlog, Reclaims) else None
        self._run = run
        self._refusals = backlog if isinstance(backlog, Refusals) else None
        self._retry_failed = retry_failed

    async def known(self, entries: Sequence[Entry]) -> Known:
        if self._refusals is None:
            return Known()
        refused = await await_store(self._refusals.refused({entry.record.id: entry.fingerprint for entry in entries}))
        return Known() if self._retry_failed else Known(refused=refused)

    @property
    def has_lapsed(self) -> bool:
        return self._reclaims.has_lapsed if self._reclaims else super().has_lapsed

    async def lease(self, entries: Sequence[Entry]) -> AbstractSet[Key]:
        """Whoever held one before has filled its row before he gave it up: while others are there rows are looked at
        once more."""
        if self._reclaims:
            held = await await_store(self._reclaims.reclaim([entry.record.id for entry in entries]))
            return {entry.key for entry in entries if entry.record.id in held}
        leased = await super().lease(entries)
        if self._worker is None or self._worker.is_alone:
            return leased
        mine = [entry for entry in entries if entry.key in leased]
        settled = await self._settled_rows(mine)
        late = {entry.key for entry in mine if entry.record.id in settled}
        self._note_done(entry for entry in mine if entry.key in late)
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

    async def note_submitted(self, entries: Sequence[Entry], *, is_known: bool) -> None:
        await super().note_submitted(entries, is_known=is_known)
        self._run.note_submitted([entry.record for entry in entries])
        if set_aside := getattr(self._backlog, "set_aside", None):
            await await_store(set_aside([entry.record.id for entry in entries]))

    async def refuse(self, refused: Sequence[tuple[Entry, AembedError]]) -> None:
        if self._refusals and (kept := kept_refusals(refused)):
            await await_store(self._refusals.refuse(kept))
        self._note_done(entry for entry, _ in refused)

    async def write(self, entries: Sequence[Entry], matrix: Matrix, model: str = "") -> int:
        # Law 3: a vector is stored only beside the text that it was made from: the backlog compares the texts, and a
        # row that was edited meanwhile stays pending.
        ids = [entry.record.id for entry in entries]
        texts = [entry.record.text for entry in entries]
        try:
            with add_paid_rows(lambda: rows_of(entries, matrix)):
                filled: int = await await_store(self._backlog.write(ids, texts, matrix))
        except RowsRefusedError as error:
            taken = [entry for entry in entries if entry.record.id not in error.rows]
            self._run.note_filled([entry.record for entry in taken], error.written)
            self._note_done(taken)
            raise
        self._run.note_filled([entry.record for entry in entries], filled)
        self._note_done(entries)
        return filled

    async def fail(self, failures: Sequence[Failure]) -> None:
        """Tells a backlog that is shared with other workers, so that they do not wait for these rows."""
        if tell := getattr(self._backlog, "fail", None):
            await await_store(tell([failure.id for failure in failures]))
