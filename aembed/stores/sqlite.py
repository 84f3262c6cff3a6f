"""Rows in one SQLite file: the default store."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from functools import partial
from sqlite3 import Connection
from threading import Lock
from typing import TypeVar

from aembed.core.filters import Filter
from aembed.core.spaces import is_still, merge_spaces, settled_space
from aembed.errors import InputError, RowsRefusedError, SpaceMismatchError, StoreError
from aembed.results import Report
from aembed.stores._lives import Lives, superseded_error
from aembed.stores._row_pages import EMPTY_PAGE, PagedRows, RowPage
from aembed.stores._rules import (
    BESIDE,
    check_rows,
    check_schema,
    check_search,
    mismatch_error,
    rejection_error,
    store_command,
    summary,
)
from aembed.stores._search import NearestQuery, SearchChunk, check_query
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite import _rows as sql
from aembed.stores._sqlite._as_written import RowsAsWritten
from aembed.stores._sqlite._batches import KeepsBatchesInFile
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores._sqlite._editions import SCHEMA_OF_RUNS, state_of
from aembed.stores._sqlite._filling import error_of, hooks_of
from aembed.stores._sqlite._in_order import SortedIds, first_after, read_ids, read_page, read_sorted_page
from aembed.stores._sqlite._kept import SearchedRows
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._making import MapMaker, is_worthwhile
from aembed.stores._sqlite._mapped import RowReader, TableMap
from aembed.stores._sqlite._read_files import FileTables
from aembed.stores._sqlite._searches import Answer, Search, search_rows
from aembed.stores._sqlite._words import OnBuild, WordIndex, find_named
from aembed.types import Known, Match, Metadata, Record, Refusal, Rows, Space, StoreInfo, Vector

T = TypeVar("T")

# Chosen: about half of the 43,690 vectors of 1,536 floats that are kept at the most. Smaller, the search after each
# large batch would read all of them again.
MOST_RENEWED = 20_000
"""Rows written between two searches, after which the next one reads all rows again."""
WORDS = WordIndex("aembed_words", "aembed_rows", "text")
# Chosen: 43,690 vectors of 1,536 floats, searched from memory; those beyond are read from the file for each search.
# Larger, a process that searches once keeps that memory for good.
CACHE_BYTES = 256 * 1024 * 1024


class SQLiteStore(PagedRows, FileTables, KeepsBatchesInFile):
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

            def next_page(connection: Connection) -> RowPage | None:
                return read_sorted_page(self._keys, ids, wanted, size, name, connection)

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

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest rows, best first, by reading them all, in a thread that never holds a write back.

        Raises SpaceMismatchError for another width, OverloadedError where a thousand searches wait.
        """
        return await self._database.searches.ask(Search(vector, k, check_search(k, where)), self._answer_searches)

    async def prepare_words(self) -> None:
        """Builds the index of words, once for all searches, where it is not there. See SearchesWords."""
        if not await self._read_beside(WORDS.is_ready, True):
            await self.index_words()

    async def index_words(self, *, on_progress: OnBuild | None = None) -> None:
        """Builds the index of words for hybrid search, a piece at a time beside running writes, which keep it then.

        One that is there stays, and goes on where another process has ended; one that does not fit the rows is built
        anew. `on_progress` is given the phase, how many rows are done and how many there are. Raises ConfigError where
        SQLite has no FTS5.
        """
        await WORDS.build(self._write, on_progress)

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best rows that hold rare words of the text, best first. See SearchesWords."""
        nothing: tuple[list[Match], bool] = ([], False)
        find = partial(self._find_named, text, vector, k, check_search(k, where))
        found, is_odd = await self._read_beside(find, nothing)
        if is_odd and await self._write(WORDS.forget_misfit):
            await self.index_words()
            found, _ = await self._read_beside(find, nothing)
        return found

    async def aclose(self) -> None:
        """Closes the file; later calls raise StoreError."""
        self._maker.stop()
        await self._database.aclose()

    @property
    def _name(self) -> str:
        return str(self._database.name)

    @property
    def _place(self) -> str:
        return f"table 'aembed_rows' in {self._name}"

    def _read(self, work: Callable[[Connection], T], empty: T) -> Awaitable[T]:
        return self._database.read(lambda c: work(c) if self._has_tables(c) else empty, empty)

    def _read_beside(self, work: Callable[[Connection], T], empty: T) -> Awaitable[T]:
        return self._database.read_beside(lambda c: work(c) if self._has_tables(c) else empty, empty)

    def _write_lightly(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        return self._database.write_lightly(partial(self._run_after_check, work))

    def _write(self, work: Callable[[Connection], T], then: Callable[[], object] | None = None) -> Awaitable[T]:
        return self._database.write(partial(self._run_after_check, work), then)

    def _run_after_check(self, work: Callable[[Connection], T], connection: Connection) -> T:
        if not self._has_tables(connection):
            raise StoreError(f"{self._name} has no tables of aembed; call prepare(space) first")
        return work(connection)

    def _has_tables(self, connection: Connection) -> bool:
        """Raises StoreError for tables that a later aembed made."""
        if not sql.has_tables(connection):
            return False
        check_schema(self._name, sql.meta(connection, "schema_version"), SCHEMA_OF_RUNS)
        return True

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
            sql.count_refusals(connection),
            sql.sources(connection),
            sql.meta(connection, "last_run"),
        )

    def _answer_searches(self, asked: Sequence[Search], connection: Connection) -> list[Answer]:
        space = sql.space(connection) if self._has_tables(connection) else None
        if not space or not space.dimensions:
            return [[] for _ in asked]
        rows = partial(self._chunks_to_search, space.dimensions, connection)
        answers: list[Answer] = []
        by_map = partial(self._find_by_map, space.dimensions, connection)
        for best in search_rows(asked, space.dimensions, self._name, rows, by_map):
            if isinstance(best, list):
                found = sql.find_rows(self._keys, [id for id, _ in best], connection)
                answers.append([Match(id, *found[id], score) for id, score in best])
            else:
                answers.append(best)
        return answers

    def _find_named(
        self, text: str, vector: Vector, k: int, wanted: Filter, connection: Connection
    ) -> tuple[list[Match], bool]:
        space = sql.space(connection)
        if not space or not space.dimensions:
            return [], False
        query = check_query(vector, space.dimensions, self._name)
        if not WORDS.is_complete(connection):
            raise StoreError(f"{self._name} has no index of words; call prepare_words() first")
        read = partial(sql.read_numbered, wanted=wanted, connection=connection)
        return find_named(WORDS, text, query, k, read, self._database.name, connection)

    def _find_by_map(
        self, dimensions: int, connection: Connection, wanted: Filter, queries: Sequence[NearestQuery]
    ) -> Sequence[list[tuple[str, float]] | None]:
        reader = RowReader(
            partial(sql.picked, wanted, connection),
            partial(sql.beyond, wanted, connection),
            bool(wanted),
            dimensions,
            self._database.name,
        )
        found = self._map.find(queries, reader, connection)
        if None not in found:
            self._forget_kept()
        return found

    def _forget_kept(self) -> None:
        """What is in memory is needed no more."""
        self._kept = None
        with self._renewing:
            self._keeps, self._renewed = False, set()

    def _finish_job(self, report: Report, connection: Connection) -> int | None:
        """The dimensions of a store that is large enough for a map."""
        sql.set_meta("last_run", summary(report), connection)
        space = sql.space(connection)
        dimensions = space.dimensions if space else None
        return dimensions if dimensions and is_worthwhile(sql.NOTED, dimensions, connection) else None

    def _chunks_to_search(self, dimensions: int, connection: Connection, wanted: Filter) -> Iterable[SearchChunk]:
        """Kept in memory between searches, 256 MB of them; of those, what was written meanwhile is read again."""
        if wanted:
            return sql.chunks(wanted, dimensions, self._database.name, connection)
        # SQLite counts here what other connections have written. To this one, which only searches, our writer is
        # another, too; `renewed` has those of its rows whose vector may be new under the same fingerprint.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        with self._renewing:
            renewed, self._renewed = self._renewed, set()
            was_kept, self._keeps = self._keeps, True
        # Taken away while it is updated: after an error half way it would be neither the old rows nor the new ones.
        held, self._kept = self._kept, None
        if held is None or not was_kept or held[0] is not connection or held[2].dimensions != dimensions:
            held = (connection, -1, SearchedRows(dimensions, self._database.name, CACHE_BYTES))
        if renewed or held[1] != version:
            held[2].update(set(self._keys.numbers_of(renewed, connection).values()), connection)
        self._kept = (connection, version, held[2])
        return held[2].chunks(connection)

    def _renew(self, ids: Sequence[str]) -> None:
        """While nothing is kept for searches, nothing is noted; so it is where one would read most of it anew."""
        with self._renewing:
            if self._keeps:
                self._renewed.update(ids)
            if len(self._renewed) > MOST_RENEWED:
                self._keeps, self._renewed = False, set()


open_url = SQLiteStore
