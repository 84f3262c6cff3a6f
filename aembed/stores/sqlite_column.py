"""A column of the user's own SQLite table that is to be filled with vectors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from sqlite3 import Connection
from typing import Any, TypeVar

from aembed.core.filters import Filter
from aembed.core.spaces import is_still, merge_spaces, settled_space
from aembed.errors import ConfigError, RowRefusedError, RowsRefusedError, SpaceMismatchError, StoreError
from aembed.stores._rules import EMPTY, check_search, column_command, mark_of, mismatch_error, probe_matrix
from aembed.stores._search import NearestQuery, SearchChunk
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._column_maps import ColumnMaps, NumberedRows, has_numbers, noted_table, searched
from aembed.stores._sqlite._columns import TableLayout, TableNames, key_as_json, native, quote_name, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase, blobs, matrix_of
from aembed.stores._sqlite._file import between_pages
from aembed.stores._sqlite._filling import FillTarget, error_of, fill, taken_back
from aembed.stores._sqlite._filters import Condition
from aembed.stores._sqlite._making import is_worthwhile
from aembed.stores._sqlite._mapped import RowReader
from aembed.stores._sqlite._searches import Answer, Search, search_rows
from aembed.stores._sqlite._shared import SharedColumn
from aembed.stores._sqlite._worded import WordedColumn
from aembed.types import Embedded, Match, Matrix, Metadata, Record, Refusal, Space, Vector

T = TypeVar("T")

ADD = "ALTER TABLE {} ADD COLUMN {}"

# Chosen: larger, a page of long texts takes more memory; smaller, each page is a hop into the thread and back.
ROWS_PER_PAGE = 200
# Chosen: as in a store. Smaller, numpy is called more often; larger, a search takes more memory.
CHUNK_BYTES = 16 * 1024 * 1024
PROBED = 8
"""Rows of each sample that are written and taken back before money is spent: some may be refused for what they hold."""


def open_url(url: str, table: str, *, text: str | None = None, **names: Any) -> SQLiteColumn:
    if "text_sql" in names:
        raise ConfigError("text_sql is for PostgreSQL; a column of SQLite has a column for its text, and no more")
    if text is None:
        raise ConfigError("name the column of the texts with text=")
    return SQLiteColumn(url, table, text=text, **names)


class _TakenBack(Exception):
    """Rolls a preflight back."""


class SQLiteColumn(SharedColumn, WordedColumn):
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
        self._target = (table, vector)
        self._names = TableNames(table, text, vector, keys, where, create_columns, fingerprint)
        self._database = SQLiteDatabase(path, lock_timeout, absent="check the path")
        self._creates_triggers = create_triggers is not None
        self._maps = ColumnMaps(self._database.mapper)
        self._space: Space | None = None

    def __repr__(self) -> str:
        return f"<SQLiteColumn {self._place}>"

    async def space(self) -> Space | None:
        """Which vectors the column is for; None where that is not known yet."""
        return await self._read_beside(partial(books.space, self._target))

    async def prepare(self, space: Space) -> Space:
        """Checks the file, the table and that a vector can be written, and keeps the space in `aembed_columns`.

        Raises ConfigError for a name that the table has not, SpaceMismatchError if the column holds other vectors.
        """
        self._space = await self._database.write(partial(self._prepare_column, space))
        return self._space

    async def preflight(self, space: Space, *, index: bool = False) -> list[str]:
        """What `prepare` would make, a line each, after the same checks. Writes nothing."""
        made: list[str] = []

        def tried(connection: Connection) -> None:
            made[:] = self._announce_changes(connection)
            self._prepare_column(space, connection)
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
            page = await self._read(partial(self._read_page, last, size))
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
        taken = await self._database.write(partial(self._try_refused_again, by_table)) if by_table else ()
        return {id: refusal for id, refusal in same.items() if id not in taken}

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Keeps them in `aembed_column_refusals` until their row is filled."""
        await self._database.write(partial(books.refuse, refusals, self._target))

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change, by key."""
        return await self._read_beside(partial(books.refusals, self._target))

    async def fail(self, ids: Sequence[str]) -> None:
        """With `fingerprint`, vectors that these rows have of earlier texts are cleared: no others come in this run."""
        if self._names.fingerprint is not None:
            await self._database.write(partial(self._clear_rows, ids))

    async def count(self) -> int:
        """How many rows are pending."""
        return await self._read_beside(self._count_pending)

    async def spend(self, job: str, tokens: int) -> int:
        """Kept in `aembed_accounts`."""
        return await self._database.write(partial(books.spend, self._account(job), tokens))

    async def close_account(self, job: str) -> None:
        """Forgets what the job of that name has spent: it has come to its end. See Accounts."""
        await self._database.write(partial(books.close, self._account(job)))

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

    @property
    def _url_and_flags(self) -> tuple[str, list[str]]:
        """Of the table and what is read of it, without the column of the vectors."""
        names = self._names
        flags = ["--table", names.table, "--text", names.text]
        for key in names.key or ():
            flags += ["--key", key]
        if names.where:
            flags += ["--where", names.where]
        path = str(self._database.name)
        return path if "?" in path else f"sqlite:///{path}", flags

    async def sample(self, most: int) -> list[Embedded]:
        """Some of the filled rows; with `fingerprint` none whose text was edited since."""
        return await self._read_beside(partial(self._read_sample, most))

    async def leave(self, token: int) -> None:
        """Gives up all that the worker of that token holds. A large table whose changes are noted gets a map."""
        await super().leave(token)
        if large := await self._read(self._large_table):
            self._maps.make_after_job(*large)

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest of the filled rows, best first; `where` is a filter of their columns.

        Raises OverloadedError where a thousand searches wait.
        """
        search = Search(vector, k, check_search(k, where))
        return await self._database.searches.ask(search, self._answer_searches, self._absent_error)

    async def aclose(self) -> None:
        """Closes the file; later calls raise StoreError."""
        self._maps.stop()
        await self._database.aclose()

    @property
    def _place(self) -> str:
        return f"column {self._names.vector!r} of table {self._names.table!r} in {self._database.name}"

    def _account(self, job: str) -> str:
        return f"{quote_name(self._names.table)}.{quote_name(self._names.vector)} {job}"

    @property
    def _absent_error(self) -> StoreError:
        return StoreError(f"{self._database.name} does not exist; check the path")

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._read_result(work, self._database.read)

    async def _read_beside(self, work: Callable[[Connection], T]) -> T:
        return await self._read_result(work, self._database.read_beside)

    async def _read_result(self, work: Callable[[Connection], T], read: Callable[..., Awaitable[None]]) -> T:
        found: list[T] = []
        await read(lambda connection: found.append(work(connection)), None)
        if not found:
            raise self._absent_error
        return found[-1]

    def _prepare_column(self, asked: Space, connection: Connection) -> Space:
        table = self._made(connection)
        # A row that has no key could be paid for, and not be written.
        missing = " OR ".join(f"{key} IS NULL" for key in table.keys)
        where = f"({missing}) AND {table.text} IS NOT NULL AND {table.is_stale}{table.condition} LIMIT 1"
        if connection.execute(table.select("1", where)).fetchone():
            raise ConfigError(f"{self._place}: a row to be filled has NULL in its key; give it a value")
        held = books.space(self._target, connection)
        space = self._agree_on_space(held, asked, _width(table, connection))
        table = replace(table, prepared=mark_of(space))
        self._probe(table, space.dimensions or 1, connection)
        self._made(connection)  # Once more: a trigger that rolls back has taken it away.
        if space.dimensions and space != held:
            books.keep_space(space, self._target, connection)
        if space.dimensions:
            leases.make_tables(connection)
        if self._creates_triggers:
            changes.create_triggers(self._noted(table, connection), connection)
        return space

    def _noted(self, table: TableLayout, connection: Connection) -> NotedTable:
        """Raises ConfigError for a table whose rows have no numbers."""
        noted = noted_table(self._names, table)
        if not has_numbers(noted, connection):
            raise ConfigError(
                f"{self._place}: a table WITHOUT ROWID is searched without a map; leave create_triggers out"
            )
        return noted

    def _layout(self, connection: Connection) -> TableLayout:
        return read_layout(self._names, connection, books.space(self._target, connection))

    def _made(self, connection: Connection) -> TableLayout:
        table = read_layout(self._names, connection)
        for column in table.absent:
            connection.execute(ADD.format(table.table, column))
        return read_layout(self._names, connection) if table.absent else table

    def _announce_changes(self, connection: Connection) -> Iterator[str]:
        table = read_layout(self._names, connection)
        for column in table.absent:
            yield f"column {column} of {table.table}"
        if not books.has(books.COLUMNS, connection):
            yield books.MADE
        elif not books.has(leases.WORKERS, connection):
            yield books.SHARED
        if self._creates_triggers and not changes.is_noted(noted := self._noted(table, connection), connection):
            yield f"triggers {', '.join(noted.triggers())} and tables aembed_maps, aembed_changes: which rows change"

    def _agree_on_space(self, held: Space | None, asked: Space, width: int | None) -> Space:
        """`width` is the bytes of a vector that is there already; a column with none may change its space."""
        space = merge_spaces(held, asked)
        if space is None and held and width is not None:
            raise mismatch_error(self._place, held, asked, self._way_out)
        space = space or settled_space(asked)
        if space.dimensions and width not in (None, space.dimensions * 4):
            raise mismatch_error(self._place, replace(space, dimensions=width // 4), asked, self._way_out)
        return space

    @property
    def _way_out(self) -> str:
        table, vector = quote_name(self._names.table), quote_name(self._names.vector)
        return EMPTY.format(table, vector)

    def _read_page(self, last: list[Any], size: int, connection: Connection) -> list[list[Any]]:
        table = self._layout(connection)
        return [list(row) for row in connection.execute(table.select_page(first=not last), (*last, size))]

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
        filled, refused = fill(rows, self._filling(table), connection)
        if refused and not filled:
            self._probe(table, matrix.shape[1], connection)
        taken = [id for number, id in enumerate(ids) if number not in refused] if refused else ids
        books.forgive(taken, self._target, connection)
        return filled, refused

    def _filling(self, table: TableLayout) -> FillTarget:
        return FillTarget(self._names.table, table.fill(), table.select_vector())

    def _try_refused_again(self, ids: Sequence[str], connection: Connection) -> Collection[str]:
        space = books.space(self._target, connection)
        table = read_layout(self._names, connection, space)
        text, width = table.select(table.text, table.is_key), (space.dimensions if space else None) or 1
        (blob,) = blobs(probe_matrix(width))
        held = [connection.execute(text, native(id)).fetchone() for id in ids]
        rows = [(blob, *native(id), *row) for id, row in zip(ids, held, strict=True) if row]
        _, refused = taken_back(rows, self._filling(table), connection)
        return {key_as_json(row[1:-1]) for number, row in enumerate(rows) if number not in refused}

    def _clear_rows(self, ids: Sequence[str], connection: Connection) -> None:
        connection.executemany(self._layout(connection).clear(), list(map(native, ids)))

    def _probe(self, table: TableLayout, dimensions: int, connection: Connection) -> None:
        """Finds a constraint, a trigger or a STRICT type that refuses or drops all vectors, before money is spent."""
        known = {each.id for each in books.refusals(self._target, connection) if each.error == RowRefusedError.__name__}
        (blob,), reason = blobs(probe_matrix(dimensions)), ""
        # Rows that the table refused in an earlier run prove nothing, so that as many more are read as there are of
        # those.
        for some in table.samples(PROBED + len(known)):
            unknown = [row for row in connection.execute(some).fetchall() if key_as_json(row[:-1]) not in known]
            rows = [(blob, *row) for row in unknown[:PROBED]]
            filled, refused = taken_back(rows, self._filling(table), connection)
            if filled or not (refused or reason):
                return
            reason = reason or next(iter(refused.values()))
        raise StoreError(
            f"{self._place} does not keep what is written to it: {reason}; "
            f"change the table so that {self._names.vector!r} can be filled"
        )

    def _answer_searches(self, asked: Sequence[Search], connection: Connection) -> list[Answer]:
        held = books.space(self._target, connection)
        table = read_layout(self._names, connection, held)
        dimensions = self._width_of(table, connection)
        if dimensions is None:
            return [[] for _ in asked]
        text = table.select(table.text, table.is_key)
        answers: list[Answer] = []
        rows = partial(self._read_chunks, table, dimensions, connection)
        by_map = partial(self._find_by_map, table, dimensions, connection)
        for best in search_rows(asked, dimensions, self._place, rows, by_map):
            if isinstance(best, list):
                found = ((id, connection.execute(text, native(id)).fetchone(), score) for id, score in best)
                answers.append([Match(id, row[0], None, score) for id, row, score in found if row])
            else:
                answers.append(best)
        return answers

    def _width_of(self, table: TableLayout, connection: Connection) -> int | None:
        size_bytes, held = _width(table, connection), books.space(self._target, connection)
        if size_bytes is None:
            return None
        return held.dimensions if held and held.dimensions else size_bytes // 4

    def _is_searched(self, table: TableLayout, wanted: Filter) -> Condition:
        return searched(table, wanted)

    def _large_table(self, connection: Connection) -> tuple[NotedTable, int] | None:
        """Whose changes are noted, with its dimensions."""
        held = books.space(self._target, connection)
        noted = noted_table(self._names, read_layout(self._names, connection, held))
        if not held or not held.dimensions or not changes.is_noted(noted, connection):
            return None
        return (noted, held.dimensions) if is_worthwhile(noted, held.dimensions, connection) else None

    def _find_by_map(
        self,
        table: TableLayout,
        dimensions: int,
        connection: Connection,
        wanted: Filter,
        queries: Sequence[NearestQuery],
    ) -> Sequence[list[tuple[str, float]] | None]:
        noted = noted_table(self._names, table)
        if not has_numbers(noted, connection):
            return [None] * len(queries)
        rows = NumberedRows(table, noted.rowid, wanted, connection)
        reader = RowReader(rows.picked, rows.beyond, rows.is_filtered, dimensions, self._database.name)
        return self._maps.of(noted, connection).find(queries, reader, connection)

    def _read_chunks(
        self, table: TableLayout, dimensions: int, connection: Connection, wanted: Filter
    ) -> Iterator[SearchChunk]:
        condition, parameters = self._is_searched(table, wanted)
        size, last = max(1, CHUNK_BYTES // (dimensions * 4)), list[Any]()
        while page := connection.execute(table.select_vectors(condition, last), [*parameters, *last, size]).fetchall():
            matrix = matrix_of([blob for *_, blob in page], dimensions, self._database.name)
            keys: list[list[Any]] = [key for *key, _ in page]
            between_pages(connection)
            yield SearchChunk.from_rows([key_as_json(key) for key in keys], matrix)
            if len(page) < size:
                return
            last = keys[-1]


def _width(table: TableLayout, connection: Connection) -> int | None:
    """Bytes of one vector that is there already."""
    if any(column.startswith(f"{table.filled} ") for column in table.absent):
        return None
    row = connection.execute(table.select(f"length({table.vector})", f"{table.vector} IS NOT NULL LIMIT 1")).fetchone()
    return row[0] if row else None
