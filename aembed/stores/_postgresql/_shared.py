"""A column of a PostgreSQL table that several workers fill at once: each row that is read is leased by one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from functools import partial

from aembed.errors import ConfigError, StoreError
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._grants import may_write
from aembed.stores._postgresql._opened import OpenedColumn
from aembed.stores._postgresql._scopes import ALL, Scope
from aembed.types import Record


class SharedColumn(OpenedColumn):
    """The rows that are pending, and who holds them. `_worker` is None while this one holds none."""

    _lease_seconds: float
    _worker: leases.ColumnWorker | None
    _is_shared: bool
    """Whether rows may be leased, as far as it is known: not before `prepare`."""
    _is_watched = False
    _passed_over: set[str]
    """Rows that were read and may not be written just now, where none may be leased."""

    async def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        """The rows with a text and no vector, in key order; after `prepare`, those that no other worker holds.

        Where others hold the rest, it waits for them: what they give up, or leave by dying, comes too.
        """
        self._check_unwatched()
        await self._leave()
        self._worker = await self._run(self._join)
        left, scope, self._passed_over = limit, ALL, set()
        loop = asyncio.get_running_loop()
        found_at = loop.time()
        while True:
            # Asked before the pass, as rows may be given up behind its back; and after, as they may be taken before it.
            others, found = await self._has_other_workers(), 0
            free = await self._run(partial(leases.find_free, self._worker)) if self._worker else None
            if free is not None or self._worker is None:
                async with aclosing(self._pass(scope, left)) as records:
                    async for record in records:
                        left, found = None if left is None else left - 1, found + 1
                        yield record
            if left == 0:
                return
            if self._worker is None:
                free, scope = next(iter(self._passed_over), None), Scope(ids=sorted(self._passed_over))
                self._passed_over.clear()
                if free is None:
                    return
            if found:
                found_at = loop.time()
            elif self._worker is None or not await self._database.run(
                partial(leases.forget_lost, self._worker), safe_path=False
            ):
                if not (others or await self._has_other_workers()):
                    if free is None:
                        return
                    await self._check_held_back(free, loop.time() - found_at)
                # Chosen: what others give up is seen within a second, and with short leases within a part of one.
                await asyncio.sleep(min(1.0, self._lease_seconds / 5))

    async def _check_held_back(self, id: str, seconds: float) -> None:
        """Raises StoreError for a row that may not be written: by a policy, or as long as another transaction holds it.

        Its text is not paid for meanwhile.
        """
        why = await self._run(partial(sql.find_holder, id))
        if why == sql.POLICY or seconds >= self._database.command_timeout:
            raise StoreError(f"{self._place}: the row {id} stays empty: {why}, then run this again")

    async def _pass(
        self, scope: Scope, limit: int | None = None, last: list[str] | None = None
    ) -> AsyncGenerator[Record, None]:
        """The rows of that scope that come after a key."""
        while limit is None or limit > 0:
            size = min(sql.ROWS_PER_PAGE, limit or sql.ROWS_PER_PAGE)
            page = await self._read_page(last, size, scope)
            mine = [Record(id, text, source=self._asked.table.table) for id, text, is_mine in page if is_mine]
            for record in mine:
                yield record
            if len(page) < size:
                return
            last = native(page[-1][0])
            limit = None if limit is None else limit - len(mine)

    async def _read_page(self, last: list[str] | None, size: int, scope: Scope) -> list[tuple[str, str, bool]]:
        if (worker := self._worker) is None:
            found = await self._run(partial(sql.read_page, last, size, scope))
            free = (
                await self._run(partial(sql.free_ids, [id for id, _ in found])) if self._is_shared and found else None
            )
            self._passed_over.update(id for id, _ in found if free is not None and id not in free)
            return [(id, text, free is None or id in free) for id, text in found]
        await worker.wait_for_room()
        page = await self._run(partial(leases.claim, last, size, scope, worker))
        worker.note_taken(id for id, _, is_mine in page if is_mine)
        return page

    @property
    def has_lapsed(self) -> bool:
        """Whether this worker stood still for so long that others may have taken its rows."""
        return self._worker is not None and self._worker.has_lapsed

    async def reclaim(self, ids: Sequence[str]) -> AbstractSet[str]:
        """Those of these rows that are still pending and that no other worker holds: they are held here again."""
        worker = self._worker
        if worker is None:
            return frozenset(ids)
        held = await self._run(partial(sql.reclaim, ids, worker))
        worker.note_given_up(id for id in ids if id not in held)
        worker.note_taken(held)
        return held

    def _check_unwatched(self) -> None:
        """Two jobs of one object would be one worker, and give up each other's rows."""
        if self._is_watched:
            raise ConfigError(f"{self._place} is watched by this object already; make another one for another job")

    async def _join(self, table: ColumnLayout, connection: Connection) -> leases.ColumnWorker | None:
        """None where rows may not be leased."""
        if not self._is_shared or not await may_write(connection, *leases.NAMES):
            return None
        token = await leases.join(self._lease_seconds, connection)
        worker = leases.ColumnWorker(token, leases.lease_target(self._asked.vector, table), self._lease_seconds)
        worker.keep_alive(partial(self._run_statement, leases.BEAT, token, self._lease_seconds))
        return worker

    async def _leave(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            await worker.stop_beating()
            await self._run_statement(leases.LEAVE, worker.token)

    async def _has_other_workers(self) -> bool:
        worker = self._worker
        return bool(worker and await self._run_statement(leases.OTHERS, worker.target, worker.token))
