"""A column of the user's own SQLite table that is to be filled with vectors."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.core.spaces import is_still
from aembed.errors import ConfigError, RowRefusedError, RowsRefusedError, SpaceMismatchError
from aembed.stores._row_pages import PagedRows, RowPage
from aembed.stores._rules import column_command
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _preflight as preflight
from aembed.stores._sqlite import _reading as reading
from aembed.stores._sqlite._batches import KeepsBatchesInFile
from aembed.stores._sqlite._column_maps import ColumnMaps
from aembed.stores._sqlite._columns import TableNames, key_as_json, native, quote_name, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase, blobs, fetch_all, matrix_of
from aembed.stores._sqlite._filling import FillTarget, error_of, fill
from aembed.stores._sqlite._making import MapMaker
from aembed.stores._sqlite._searched import SearchedColumn
from aembed.stores._sqlite._shared import SharedColumn
from aembed.stores._sqlite._watched import WatchedColumn
from aembed.types import Embedded, Matrix, Record, Refusal, Space

# Chosen: larger, a page of long texts takes more memory; smaller, each page is a hop into the thread and back.
ROWS_PER_PAGE = 200


def open_url(url: str, table: str, *, text: str | None = None, **names: Any) -> SQLiteColumn:
    if "text_sql" in names:
        raise ConfigError("text_sql is for PostgreSQL; a column of SQLite has a column for its text, and no more")
    if "updated_at" in names:
        raise ConfigError("updated_at is for PostgreSQL; a watch of SQLite looks at all rows each time")
    if text is None:
        raise ConfigError("name the column of the texts with text=")
    return SQLiteColumn(url, table, text=text, **names)


class _TakenBack(Exception):
    """Rolls a preflight back."""


class SQLiteColumn(PagedRows, SharedColumn, SearchedColumn, WatchedColumn, KeepsBatchesInFile):
    """Rows of `table` in the SQLite file at `path` that have a text and, in the column `vector`, no vector yet.

    Vectors are stored as blobs of little-endian float32. `key` names unique columns; by default it is the primary
    key, else the rowid. `fingerprint` names a column that keeps the hash of the text beside its vector: rows whose text
    has changed since are filled again, no search finds them by the earlier text, and their vector is cleared where the
    new text fails. `create_columns` lets `prepare` add those two columns where they are missing. `where` is a
    condition in SQL that is put into the statements as it is: never make it from what somebody else typed.
    `lock_timeout` is how many seconds to wait for another process's lock. `create_triggers="search"` lets `prepare` add
    triggers that note which rows change, so that searches of a large table have a map of it; without them each process
    makes one for itself, until the file changes.

    Several processes, and several jobs of one, may fill one column at once: each text is paid for by one of them. What
    a process that was killed had leased the others take over at once, on its machine; else within ten seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str,
        *,
        text: str,
        vector: str = "embedding",
        key: str | Sequence[str] | None = None,
        where: str | None = None,
        create_columns: bool = False,
        fingerprint: str | None = None,
        create_triggers: str | None = None,
        lock_timeout: float = 30.0,
    ) -> None:
        if create_triggers not in (None, "search"):
            raise ConfigError(
                f'create_triggers={create_triggers!r}: triggers are made for searches only; write "search"'
            )
        keys = (key,) if isinstance(key, str) else tuple(key or ()) or None
        for name in (table, text, vector, *(keys or ()), *((fingerprint,) if fingerprint is not None else ())):
            quote_name(name)
        self._names = TableNames(table, text, vector, keys, where, create_columns, fingerprint)
        self._target = self._names.target
        self._batch_scope = f"{quote_name(table)}.{quote_name(vector)}"
        self._database = SQLiteDatabase(path, lock_timeout, absent="check the path")
        self._creates_triggers = create_triggers is not None
        self._maps = ColumnMaps(self._database.mapper)
        self._space: Space | None = None

    def __repr__(self) -> str:
        return f"<SQLiteColumn {self._place}>"

    async def space(self) -> Space | None:
        """Which vectors the column is for; None where that is not known yet."""
        return await self._database.read_there_beside(partial(books.space, self._target))

    async def prepare(self, space: Space) -> Space:
        """Checks the file, the table and that a vector can be written, and keeps the space in `aembed_columns`.

        Raises ConfigError for a name that the table has not, SpaceMismatchError if the column holds other vectors.
        """
        prepare = partial(preflight.prepare, self._place, self._names, self._creates_triggers, space)
        self._space = await self._database.write(prepare)
        return self._space

    async def preflight(self, space: Space, *, index: bool = False) -> list[str]:
        """What `prepare` would make, a line each, after the same checks. Writes nothing."""
        made: list[str] = []

        def tried(connection: Connection) -> None:
            made[:] = preflight.announce_changes(self._place, self._names, self._creates_triggers, connection)
            preflight.prepare(self._place, self._names, self._creates_triggers, space, connection)
            if index and not (words := self._words(connection)).is_complete(connection):
                words.build_piece(connection)
                made.append(f"index {words.name} (FTS5, words for hybrid search) on {words.text} of {words.table}")
            raise _TakenBack

        with suppress(_TakenBack):
            await self._database.write(tried)
        return made

    async def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        """The rows with a text and no vector (with `fingerprint`: none of that text), in key order."""
        last: list[Any] = []
        while limit is None or limit > 0:
            size = min(ROWS_PER_PAGE, limit or ROWS_PER_PAGE)
            page = await self._database.read_there(partial(self._read_page, last, size))
            for *key, text in page:
                yield Record(key_as_json(key), text, source=self._names.table)
            if len(page) < size:
                return
            last = page[-1][:-1]
            limit = None if limit is None else limit - size

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        """Fills rows whose text is still the one that was embedded, in one transaction; returns how many were.

        Raises RowsRefusedError for rows that the table refuses, or drops, once all others are filled.
        """
        filled, refused = await self._database.write(partial(self._fill_rows, ids, texts, matrix))
        if refused:
            raise RowsRefusedError({ids[i]: error_of(why, self._place) for i, why in refused.items()}, filled)
        return filled

    async def refused(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, Refusal]:
        """Those of these ids whose text was refused earlier with this fingerprint.

        Rows that the table refused are written and taken back, so that those which it takes by now are no more refused.
        """
        same = {each.id: each for each in await self.refusals() if each.fingerprint == fingerprints.get(each.id)}
        by_table = [id for id, refusal in same.items() if refusal.error == RowRefusedError.__name__]
        taken = (
            await self._database.write(partial(preflight.try_refused_again, self._names, by_table)) if by_table else ()
        )
        return {id: refusal for id, refusal in same.items() if id not in taken}

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Keeps them in `aembed_column_refusals` until their row is filled."""
        await self._database.write(partial(books.refuse, refusals, self._target))

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change, by key."""
        return await self._database.read_there_beside(partial(books.refusals, self._target))

    async def fail(self, ids: Sequence[str]) -> None:
        """With `fingerprint`, vectors that these rows have of earlier texts are cleared: no others come in this run."""
        if self._names.fingerprint is not None:
            await self._database.write(partial(self._clear_rows, ids))

    async def count(self) -> int:
        """How many rows are pending."""
        return await self._database.read_there_beside(self._count_pending)

    async def spend(self, job: str, tokens: int) -> int:
        """Kept in `aembed_accounts`."""
        return await self._database.write(partial(books.spend, f"{self._batch_scope} {job}", tokens))

    async def close_account(self, job: str) -> None:
        """Forgets what the job of that name has spent: it has come to its end. See Accounts."""
        await self._database.write(partial(books.close, f"{self._batch_scope} {job}"))

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of the one that is kept."""
        await self._database.write(partial(books.keep_space, space, self._target))

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that fills a column beside this one with vectors of that space, or that moves this one there."""
        names, (url, flags) = self._names, self._url_and_flags
        if anew:
            flags += ["--fingerprint", f"{names.fingerprint}_new"] if names.fingerprint else []
            return column_command(url, flags, asked, anew=f"{names.vector}_new")
        flags += ["--vector", names.vector, *(["--fingerprint", names.fingerprint] if names.fingerprint else ())]
        return column_command(url, flags, asked, anew=None)

    async def sample(self, most: int) -> list[Embedded]:
        """Some of the filled rows; with `fingerprint` none whose text was edited since."""
        return await self._database.read_there_beside(partial(self._read_sample, most))

    async def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        read = partial(reading.read_filled, self._names, self._database.name, wanted, size)
        while (page := await self._database.read_there_beside(partial(read, after))).ids:
            yield page
            after = page.ids[-1]

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        read = partial(reading.read_filled_ids, self._names, self._database.name, ids)
        return await self._database.read_there_beside(read)

    async def _known_space(self) -> Space | None:
        return await self.space()

    async def leave(self, token: int) -> None:
        """Gives up all that the worker of that token holds. A large table whose changes are noted gets a map."""
        await super().leave(token)
        if large := await self._database.read_there(self._large_table):
            noted, dimensions = large
            MapMaker(self._database.mapper, noted).start(dimensions, to_the_end=True)

    async def aclose(self) -> None:
        """Closes the file; later calls raise StoreError."""
        self._maps.stop()
        await self._database.aclose()

    def _read_page(self, last: list[Any], size: int, connection: Connection) -> list[list[Any]]:
        table = self._layout(connection)
        return [list(row) for row in fetch_all(connection, table.select_page(first=not last), (*last, size))]

    def _read_sample(self, most: int, connection: Connection) -> list[Embedded]:
        table = self._layout(connection)
        found = [] if table.absent else connection.execute(table.sample(), (most,)).fetchall()
        width = max((len(blob) for *_, blob in found), default=0) // 4
        matrix = matrix_of([blob for *_, blob in found], width, self._database.name)
        rows = zip(found, matrix, strict=True)
        return [Embedded(key_as_json(key), i, row, text) for i, ((*key, text, _), row) in enumerate(rows)]

    def _count_pending(self, connection: Connection) -> int:
        table = self._layout(connection)
        count: int = connection.execute(table.select("count(*)", table.is_pending)).fetchone()[0]
        return count

    def _fill_rows(
        self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix, connection: Connection
    ) -> tuple[int, dict[int, str]]:
        held = books.space(self._target, connection)
        if held and len(ids) and matrix.shape[1] != held.dimensions:
            raise SpaceMismatchError(f"{self._place} is for {held}; these vectors have {matrix.shape[1]} dimensions")
        if held and self._space and not is_still(held, self._space):
            raise SpaceMismatchError(f"{self._place} is for {held} by now; these vectors are of {self._space}")
        table = read_layout(self._names, connection, held)
        rows = [(blob, *native(id), text) for id, text, blob in zip(ids, texts, blobs(matrix), strict=True)]
        filled, refused = fill(rows, FillTarget.of_column(self._names.table, table), connection)
        if refused and not filled:
            preflight.probe(self._place, self._names, table, matrix.shape[1], connection)
        taken = [id for number, id in enumerate(ids) if number not in refused] if refused else ids
        books.forgive(taken, self._target, connection)
        return filled, refused

    def _clear_rows(self, ids: Sequence[str], connection: Connection) -> None:
        connection.executemany(self._layout(connection).clear(), list(map(native, ids)))
