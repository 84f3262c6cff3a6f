"""Rows in one SQLite file: the default store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from sqlite3 import Connection
from typing import TypeVar

from aembed.core.spaces import agreed
from aembed.errors import InputError, StoreError
from aembed.results import Report
from aembed.stores import _sqlite_rows as sql
from aembed.stores._rules import BESIDE, Scalar, check_rows, check_search, mismatch, rejection, summary
from aembed.stores._search import Chunk, checked_query, nearest
from aembed.stores._sqlite import Database
from aembed.types import Embedded, Known, Match, Metadata, Record, Refusal, Rows, Space, StoreInfo, Vector

T = TypeVar("T")

SCHEMA_VERSION = 1
CACHE_BYTES = 256 * 1024 * 1024


def open_url(url: str) -> SQLiteStore:
    return SQLiteStore(url)


class SQLiteStore:
    """Rows in the SQLite file at `path`, which may be a user's own: the tables' names begin with `aembed_`.

    The file is made by `prepare`, readable by its owner only; before that every question is answered as by
    an empty store. `lock_timeout` is how many seconds to wait for another process's lock.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 30.0) -> None:
        self._database = Database(path, lock_timeout, absent="call prepare(space) first")
        self._cached: tuple[tuple[Connection, int, int] | None, list[Chunk]] = (None, [])

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._name!r}>"

    async def prepare(self, space: Space) -> Space:
        """Creates file and tables, and keeps the space once its dimensions are known.

        Raises SpaceMismatchError if rows of another space are here.
        """
        return await self._database.create(partial(self._prepared, space))

    def reject(self, record: Record) -> InputError | None:
        return rejection(record)

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        return await self._read(partial(sql.known, digests, fingerprints), Known())

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        return await self._read(partial(sql.vectors, fingerprints), {})

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        """Inserts or replaces by id, in one transaction; on disk when it returns."""
        await self._write(partial(self._written, rows, refusals))

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        return await self._read(partial(sql.stale, source, keep), [])

    async def delete(self, ids: Sequence[str]) -> int:
        """Removes these rows and refusals; returns how many rows were there."""
        return await self._write(partial(sql.delete, ids))

    async def rows(self) -> AsyncIterator[Embedded]:
        start, index = "", 0
        nothing: list[Embedded] = []
        while page := await self._read(partial(sql.page, start, index), nothing):
            for row in page:
                yield row
            start, index = page[-1].id + "\0", page[-1].index + 1

    async def refusals(self) -> list[Refusal]:
        return await self._read(sql.refusals, [])

    async def info(self) -> StoreInfo:
        return await self._read(self._info, StoreInfo(0, None, 0, 0))

    async def finish(self, report: Report) -> None:
        await self._write(partial(sql.set_meta, "last_run", summary(report)))

    async def spend(self, job: str, tokens: int) -> int:
        return await self._write(partial(sql.spend, job, tokens))

    async def close_account(self, job: str) -> None:
        await self._write(partial(sql.delete_meta, sql.ACCOUNT.format(job)))

    async def answered_by(self, model: str) -> str:
        return await self._write(partial(sql.answered_by, model))

    async def move(self, space: Space) -> None:
        await self._write(partial(sql.move, space))

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest rows, best first, by reading them all. Raises SpaceMismatchError for another width."""
        return await self._read(partial(self._matches, vector, k, check_search(k, where)), [])

    async def aclose(self) -> None:
        """Closes the file; later calls raise StoreError."""
        await self._database.aclose()

    @property
    def _name(self) -> str:
        return str(self._database.name)

    async def _read(self, work: Callable[[Connection], T], empty: T) -> T:
        return await self._database.read(lambda c: work(c) if self._has_tables(c) else empty, empty)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._database.write(partial(self._after_check, work))

    def _after_check(self, work: Callable[[Connection], T], connection: Connection) -> T:
        if not self._has_tables(connection):
            raise StoreError(f"{self._name} has no tables of aembed; call prepare(space) first")
        return work(connection)

    def _has_tables(self, connection: Connection) -> bool:
        """Raises StoreError for tables that a later aembed made."""
        if not sql.has_tables(connection):
            return False
        version = sql.meta(connection, "schema_version")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._name} was made by a newer aembed (its tables are version {version}, this one knows "
                f"{SCHEMA_VERSION}): pip install --upgrade aembed"
            )
        return True

    def _prepared(self, asked: Space, connection: Connection) -> Space:
        if not self._has_tables(connection):
            sql.create_tables(connection, SCHEMA_VERSION)
        held = sql.space(connection)
        space = agreed(held, asked)
        if space is None and held and sql.count(connection):
            raise mismatch(self._name, held, asked, BESIDE, places=self._places)
        space = space or asked
        if space != held:
            sql.keep_space(connection, space)
        return space

    @property
    def _places(self) -> tuple[str, str]:
        old = self._database.name
        scheme = "" if "?" in str(old) else "sqlite:///"
        return f"{scheme}{old}", f"{scheme}{old.with_name(f'{old.stem}-new{old.suffix}')}"

    def _written(self, rows: Rows, refusals: Sequence[Refusal], connection: Connection) -> None:
        if len(rows):
            check_rows(self._name, sql.space(connection), rows)
            sql.upsert(rows, connection)
        sql.refuse(refusals, connection)

    def _info(self, connection: Connection) -> StoreInfo:
        rows = sql.count(connection)
        return StoreInfo(
            rows,
            sql.space(connection) if rows else None,
            self._database.size_bytes(),
            sql.count_refusals(connection),
            sql.sources(connection),
            sql.meta(connection, "last_run"),
        )

    def _matches(self, vector: Vector, k: int, where: Mapping[str, Scalar], connection: Connection) -> list[Match]:
        space = sql.space(connection)
        if not space or not space.dimensions:
            return []
        query = checked_query(vector, space.dimensions, self._name)
        best = nearest(query, self._searched(where, space.dimensions, connection), k)
        found = sql.found([id for id, _ in best], connection)
        return [Match(id, *found[id], score) for id, score in best]

    def _searched(self, where: Mapping[str, Scalar], dimensions: int, connection: Connection) -> Iterable[Chunk]:
        """Kept in memory between searches while it is small and neither this connection nor another wrote."""
        chunks = partial(sql.chunks, where, dimensions, self._database.name, connection)
        if where or sql.count(connection) * dimensions * 4 > CACHE_BYTES:
            return chunks()
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        state = (connection, version, connection.total_changes)
        if self._cached[0] != state:
            self._cached = (state, list(chunks()))
        return self._cached[1]
