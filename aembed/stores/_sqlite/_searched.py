"""How a column of a SQLite table is searched: by vectors, and by exact names once these are indexed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._rules import check_search, no_words_error
from aembed.stores._search import NearestQuery, SearchChunk, check_query
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._column_maps import ColumnMaps, has_numbers, noted_table, read_vectors, searched
from aembed.stores._sqlite._columns import (
    TableLayout,
    key_as_json,
    native,
    quote_name,
    read_layout,
    vector_width,
)
from aembed.stores._sqlite._database import fetch_all, in_pieces, matrix_of
from aembed.stores._sqlite._file import between_pages
from aembed.stores._sqlite._making import is_worthwhile
from aembed.stores._sqlite._mapped import RowReader
from aembed.stores._sqlite._opened import OpenedColumn
from aembed.stores._sqlite._searches import Answer, Search, search_rows
from aembed.stores._sqlite._words import OnBuild, WordIndex, find_named
from aembed.types import Match, Metadata, Vector

# Chosen: as in a store. Smaller, numpy is called more often; larger, a search takes more memory.
CHUNK_BYTES = 16 * 1024 * 1024


class SearchedColumn(OpenedColumn):
    """The searches of a column, and the index of words that one of them uses. `_maps` are of its vectors."""

    _maps: ColumnMaps

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest of the filled rows, best first; `where` is a filter of their columns.

        Raises OverloadedError where a thousand searches wait.
        """
        search = Search(vector, k, check_search(k, where))
        return await self._database.searches.ask(search, self._answer_searches, self._database.absent_error)

    async def prepare_words(self) -> None:
        """Raises ConfigError where there is no index of words, which `index_words` builds. See SearchesWords."""

        def state(connection: Connection) -> tuple[bool, bool]:
            words = self._words(connection)
            return words.is_complete(connection), words.is_ready(connection)

        is_there, is_ready = await self._database.read_there_beside(state)
        if not is_there:
            raise self._no_words_error
        if not is_ready:
            await self.index_words()

    async def index_words(self, *, on_progress: OnBuild | None = None) -> None:
        """Builds the index of words for hybrid search, a piece at a time beside running writes; triggers on the table
        note from then on which rows change.

        One that is there stays; one that does not fit the rows is built anew. `on_progress` is given the phase, how
        many rows are done and how many there are. Raises ConfigError for a table WITHOUT ROWID, and where SQLite has no
        FTS5.
        """
        await (await self._database.read_there_beside(self._words)).build(self._database.write, on_progress)

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best of the filled rows that hold rare words of the text, best first. See SearchesWords.

        Raises ConfigError where the index of words is not there, or is of other rows: they were numbered anew.
        """
        found, is_odd = await self._database.read_there_beside(
            partial(self._find_named, text, vector, k, check_search(k, where))
        )
        if is_odd and await self._database.write(lambda connection: self._words(connection).forget_misfit(connection)):
            raise self._no_words_error
        return found

    def _answer_searches(self, asked: Sequence[Search], connection: Connection) -> list[Answer]:
        held = books.space(self._target, connection)
        table = read_layout(self._names, connection, held)
        dimensions = vector_width(table, held, connection)
        if dimensions is None:
            return [[] for _ in asked]
        text = table.select(table.text, table.is_key)
        answers: list[Answer] = []
        rows = partial(self._read_chunks, table, dimensions, connection)
        by_map = partial(self._find_by_map, table, dimensions, connection)
        for best in search_rows(asked, dimensions, self._place, rows, by_map):
            if isinstance(best, list):
                found = ((id, fetch_all(connection, text, native(id), "replace"), score) for id, score in best)
                answers.append([Match(id, row[0], None, score) for id, at_id, score in found for row in at_id])
            else:
                answers.append(best)
        return answers

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
        read = partial(read_vectors, table, noted.rowid, wanted, connection)
        is_filtered = bool(wanted or table.condition or table.mark)
        reader = RowReader(read, is_filtered, dimensions, self._database.name)
        return self._maps.of(noted, connection).find(queries, reader, connection)

    def _read_chunks(
        self, table: TableLayout, dimensions: int, connection: Connection, wanted: Filter
    ) -> Iterator[SearchChunk]:
        condition, parameters = searched(table, wanted)
        size, last = max(1, CHUNK_BYTES // (dimensions * 4)), list[Any]()
        columns = f"{table.key_list}, {table.vector}"
        while page := connection.execute(
            table.select_keyed(columns, condition, last), [*parameters, *last, size]
        ).fetchall():
            matrix = matrix_of([blob for *_, blob in page], dimensions, self._database.name)
            keys: list[list[Any]] = [key for *key, _ in page]
            between_pages(connection)
            yield SearchChunk.from_rows([key_as_json(key) for key in keys], matrix)
            if len(page) < size:
                return
            last = keys[-1]

    @property
    def _no_words_error(self) -> ConfigError:
        url, flags = self._url_and_flags
        names = self._names
        marks = ["--fingerprint", names.fingerprint] if names.fingerprint else []
        command = ("aembed", "backfill", "--store", url, *flags, "--vector", names.vector, *marks, "--index")
        return no_words_error(self._place, command)

    def _words(self, connection: Connection) -> WordIndex:
        table = read_layout(self._names, connection)
        noted = noted_table(self._names, table)
        if not has_numbers(noted, connection):
            raise ConfigError(
                f"{table.table} is WITHOUT ROWID, and an index of words names its rows by their rowids; leave hybrid "
                "and --index out"
            )
        digest = blake2b(repr((self._names.table, self._names.text)).encode(), digest_size=8).hexdigest()
        return WordIndex(f"aembed_words_{digest}", table.table, quote_name(self._names.text), noted.rowid)

    def _find_named(
        self, text: str, vector: Vector, k: int, wanted: Filter, connection: Connection
    ) -> tuple[list[Match], bool]:
        held = books.space(self._target, connection)
        table = read_layout(self._names, connection, held)
        width = vector_width(table, held, connection)
        if width is None:
            return [], False
        query, words = check_query(vector, width, self._place), self._words(connection)
        if not words.is_complete(connection):
            raise self._no_words_error
        read = partial(self._read_numbered, table, words, wanted, connection)
        return find_named(words, text, query, k, read, self._database.name, connection)

    def _read_numbered(
        self, table: TableLayout, words: WordIndex, wanted: Filter, connection: Connection, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Match, bytes]]:
        """Of these rowids the filled rows that pass the filter, without a score, and their vectors."""
        condition, parameters = searched(table, wanted)
        columns = f"t.{words.rowid}, {table.key_list}, {table.text}, {table.vector}"
        for piece, marks in in_pieces(connection, numbers, len(parameters)):
            picked = f"t.{words.rowid} IN ({marks}) AND {condition}"
            found = fetch_all(connection, table.select(columns, picked), [*piece, *parameters], "replace")
            for number, *key, text, blob in found:
                yield number, Match(key_as_json(key), text, None, 0.0), blob
