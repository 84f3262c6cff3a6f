"""Rows in one SQLite file: the default store."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from functools import partial
from sqlite3 import Connection
from threading import Lock

from aembed.core.filters import Filter
from aembed.core.spaces import is_still, merge_spaces, settled_space
from aembed.errors import InputError, RowsRefusedError, SpaceMismatchError, StoreError
from aembed.results import Report
from aembed.stores._lives import Lives, superseded_error
from aembed.stores._row_pages import EMPTY_PAGE, PagedRows, RowPage
from aembed.stores._rules import (
    BESIDE,
    check_rows,
    mismatch_error,
    rejection_error,
    store_command,
    summary,
)
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite import _rows as sql
from aembed.stores._sqlite._as_written import RowsAsWritten
from aembed.stores._sqlite._batches import KeepsBatchesInFile
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores._sqlite._editions import state_of
from aembed.stores._sqlite._filling import error_of, hooks_of
from aembed.stores._sqlite._in_order import SortedIds, first_after, read_ids, read_page, read_sorted_page
from aembed.stores._sqlite._kept import SearchedRows
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._making import MapMaker, is_worthwhile
from aembed.stores._sqlite._mapped import TableMap
from aembed.stores._sqlite._read_files import FileTables
from aembed.stores._sqlite._searched_store import SearchedStore
from aembed.types import Known, Record, Refusal, Rows, Space, StoreInfo, Vector


class SQLiteStore(PagedRows, SearchedStore, FileTables, KeepsBatchesInFile):
    """Rows in the SQLite file at `path`, which may be a user's own: the tables' names begin with `aembed_`.

    The file is made by `prepare`, readable by its owner only; before that every question is answered as by
    an empty store. `lock_timeout` is how many seconds to wait for another process's lock.
    """

    # lock_timeout is chosen: transactions of other processes are short, and one that holds the lock for half a minute
    # was stopped within its own. Smaller, a backup or a VACUUM would end a job.
    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 30.0) -> None:
        self._database = SQLiteDatabase(path, lock_timeout, absent="call prepare(space) first")
        self._space: Space | None = None
        self._lives = Lives()
        self._keys = Keys()
        self._maker = MapMaker(self._database.mapper, sql.NOTED, creates_triggers=True)
        self._map = TableMap(self._database.mapper.path, sql.NOTED, self._maker)
        self._kept: tuple[Connection, int, SearchedRows] | None = None
        self._keeps = False
        self._renewed: set[str] = set()
        self._renewing = Lock()

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._name!r}>"

    async def prepare(self, space: Space) -> Space:
        """Creates file and tables, and keeps the space once its dimensions are known.

        Raises SpaceMismatchError if rows of another space are here.
        """
        self._space = await self._database.create(partial(self._prepare_tables, space))
        while not await self._write(self._keys.catch_up):
            pass
        return self._space

    def reject(self, record: Record) -> InputError | None:
        """Why this store could not keep that record, as an InputError, or None; asked before it is paid for."""
        return rejection_error(record)

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        """What is here of these ids: with the same digest, with another, or refused earlier with that fingerprint."""
        return await self._read(partial(sql.known, self._keys, digests, fingerprints), Known())

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        """The vectors, float32 of shape (dimensions,), that were paid for under these fingerprints."""
        return await self._read(partial(sql.vectors, self._keys, fingerprints), {})

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        """Inserts or replaces by id, in one transaction; on disk when it returns.

        Raises RowsRefusedError once all others are written: for rows that the table refuses, or drops, and for those
        that others wrote while the worker that writes these stood still.
        """
        errors = await self._write(partial(self._write_rows, rows, refusals), partial(self._renew, rows.ids))
        if errors:
            raise RowsRefusedError(errors, sum(id not in errors for id in rows.ids))

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        """The ids of rows of that source that are not in `keep`."""
        return await self._read_beside(partial(sql.stale, source, keep), [])

    async def delete(self, ids: Sequence[str]) -> int:
        """Removes these rows and refusals; returns how many rows were there."""
        return await self._write(partial(sql.delete, self._keys, ids))

    async def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        start, name = first_after(after), self._database.name
        if not await self._read_beside(lambda connection: bool(state_of(connection).secret), False):
            while page := await self._read_beside(partial(read_page, wanted, size, name, start), None):
                if not page.ids:
                    return
                yield page
                start = first_after(page.ids[-1])
            return
        with closing(SortedIds(wanted, start)) as ids:
            while not await self._read_beside(ids.take_in, True):
                pass
            next_page = partial(read_sorted_page, self._keys, ids, wanted, size, name)
            while page := await self._read_beside(next_page, None):
                yield page

    async def _pages_in_any_order(self, wanted: Filter, size: int) -> AsyncGenerator[RowPage, None]:
        read = partial(RowsAsWritten(wanted).next_page, size, self._database.name)
        while page := await self._read_beside(read, None):
            yield page

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        return await self._read_beside(partial(read_ids, self._keys, ids, self._database.name), EMPTY_PAGE)

    async def _find_ids(self, ids: Sequence[str]) -> AbstractSet[str]:
        return await self._read_beside(lambda connection: self._keys.numbers_of(ids, connection).keys(), set[str]())

    async def _known_space(self) -> Space | None:
        return await self._read_beside(sql.space, None)

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change, by id."""
        return await self._read_beside(sql.refusals, [])

    async def info(self) -> StoreInfo:
        """How many rows and refusals there are, their space and sources, the size, and how the last run ended."""
        return await self._read_beside(self._read_info, StoreInfo(0, None, 0, 0))

    async def finish(self, report: Report) -> None:
        """Keeps the report of the last run for `info`, without its failures. A large store gets a map for searches."""
        dimensions = await self._write(partial(self._finish_job, report))
        if dimensions:
            self._maker.start(dimensions, to_the_end=True)

    async def spend(self, job: str, tokens: int) -> int:
        """Adds tokens to what that job has spent (less than 0: gives back); returns the sum. See Accounts."""
        return await self._write(partial(sql.spend, job, tokens))

    async def close_account(self, job: str) -> None:
        """Forgets what the job of that name has spent: it has come to its end. See Accounts."""
        await self._write(partial(sql.delete_meta, sql.ACCOUNT.format(job)))

    async def answered_by(self, model: str) -> str:
        """The name that replies gave to the rows' model; this one is kept where there is none. See KeepsModel."""
        return await self._write(partial(sql.answered_by, model))

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of its own; no row changes. See Moves."""
        await self._write(partial(sql.move, space))

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...]:
        """The command that makes a store of that space beside this one, or that moves this one there."""
        return store_command(self._places, asked, anew=anew)

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        """A new worker: its token, and whether it is alone. It lives so many seconds without `lease`. See Leases."""
        # Taken before the write, so that the life noted here ends no later than that in the file.
        now = time.time()
        token, alone = await self._write_lightly(partial(leases.join, seconds))
        self._lives.note_seen(token, now, seconds)
        return token, alone

    async def others(self, token: int) -> bool:
        """Whether a worker with another token lives."""
        return await self._read(partial(leases.others, token), False)

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        """Kept in `aembed_leases`."""
        now = time.time()
        leased = await self._write_lightly(
            partial(leases.lease, token, wanted, done, seconds, partial(sql.written, self._keys))
        )
        self._lives.note_seen(token, now, seconds)
        return leased

    async def leave(self, token: int) -> None:
        """Gives up all that the worker of that token holds."""
        self._lives.forget(token)
        await self._write_lightly(partial(leases.leave, token))

    async def aclose(self) -> None:
        """Closes the file; later calls raise StoreError."""
        self._maker.stop()
        await self._database.aclose()

    def _prepare_tables(self, asked: Space, connection: Connection) -> Space:
        if not self._has_tables(connection):
            sql.create_tables(connection)
        self._keys.check(connection)
        held = sql.space(connection)
        space = merge_spaces(held, asked)
        if space is None and held and sql.count(connection):
            raise mismatch_error(self._name, held, asked, BESIDE, places=self._places)
        space = space or settled_space(asked)
        if hooks_of("aembed_rows", connection):
            self._probe(space.dimensions or 1, connection)
        if space != held:
            sql.keep_space(connection, space)
        return space

    def _probe(self, dimensions: int, connection: Connection) -> None:
        """Raises StoreError where the table keeps nothing that is written."""
        if reason := sql.probe(dimensions, connection):
            raise StoreError(
                f"{self._place} does not keep what is written to it: {reason}; let it keep vector and text"
            )

    @property
    def _places(self) -> tuple[str, str]:
        old = self._database.name
        scheme = "" if "?" in str(old) else "sqlite:///"
        return f"{scheme}{old}", f"{scheme}{old.with_name(f'{old.stem}-new{old.suffix}')}"

    def _write_rows(self, rows: Rows, refusals: Sequence[Refusal], connection: Connection) -> dict[str, StoreError]:
        """By id, why rows are not written."""
        errors: dict[str, StoreError] = {}
        if len(rows):
            held = sql.space(connection)
            check_rows(self._name, held, rows)
            if held and self._space and not is_still(held, self._space):
                raise SpaceMismatchError(f"{self._name} is for {held} by now; these vectors are of {self._space}")
            if (since := self._lives.lapsed_at(rows.token, time.time())) is not None:
                newer = sql.newer_ids(self._keys, rows, since, connection)
                errors = {id: superseded_error(id) for id in sorted(newer)}
                rows = rows.picked([i for i, id in enumerate(rows.ids) if id not in errors])
            refused = sql.upsert(rows, self._keys, connection)
            if refused and len(refused) == len(rows):
                self._probe(rows.matrix.shape[1], connection)
            errors |= {rows.ids[number]: error_of(reason, self._place) for number, reason in refused.items()}
        sql.refuse(refusals, connection)
        return errors

    def _read_info(self, connection: Connection) -> StoreInfo:
        rows = sql.count(connection)
        return StoreInfo(
            rows,
            sql.space(connection) if rows else None,
            self._database.size_bytes(),
            connection.execute(sql.COUNT_REFUSALS).fetchone()[0],
            dict(connection.execute(sql.SOURCES).fetchall()),
            sql.meta(connection, "last_run"),
        )

    def _finish_job(self, report: Report, connection: Connection) -> int | None:
        """The dimensions of a store that is large enough for a map."""
        sql.set_meta("last_run", summary(report), connection)
        space = sql.space(connection)
        dimensions = space.dimensions if space else None
        return dimensions if dimensions and is_worthwhile(sql.NOTED, dimensions, connection) else None


open_url = SQLiteStore
