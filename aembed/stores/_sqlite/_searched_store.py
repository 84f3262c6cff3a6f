"""How a SQLite store is searched: by vectors, from a map or from memory, and by exact names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from sqlite3 import Connection
from threading import Lock

from aembed.core.filters import Filter
from aembed.errors import StoreError
from aembed.stores._rules import check_search
from aembed.stores._search import NearestQuery, SearchChunk, check_query
from aembed.stores._sqlite import _rows as sql
from aembed.stores._sqlite._kept import SearchedRows
from aembed.stores._sqlite._keys import Keys
from aembed.stores._sqlite._mapped import RowReader, TableMap
from aembed.stores._sqlite._opened import OpenedStore
from aembed.stores._sqlite._searches import Answer, Search, search_rows
from aembed.stores._sqlite._words import OnBuild, WordIndex, find_named
from aembed.types import Match, Metadata, Vector

# Chosen: about half of the 43,690 vectors of 1,536 floats that are kept at the most. Smaller, the search after each
# large batch would read all of them again.
MOST_RENEWED = 20_000
"""Rows written between two searches, after which the next one reads all rows again."""
WORDS = WordIndex("aembed_words", "aembed_rows", "text")
# Chosen: 43,690 vectors of 1,536 floats, searched from memory; those beyond are read from the file for each search.
# Larger, a process that searches once keeps that memory for good.
CACHE_BYTES = 256 * 1024 * 1024


class SearchedStore(OpenedStore):
    """The searches of a store, the map and the rows in memory that they use, and the index of words."""

    _keys: Keys
    _map: TableMap
    _kept: tuple[Connection, int, SearchedRows] | None
    _keeps: bool
    _renewed: set[str]
    _renewing: Lock

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
        read = partial(sql.read_vectors, wanted, connection)
        found = self._map.find(queries, RowReader(read, bool(wanted), dimensions, self._database.name), connection)
        if None not in found:
            # What is in memory is needed no more.
            self._kept = None
            with self._renewing:
                self._keeps, self._renewed = False, set()
        return found

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
