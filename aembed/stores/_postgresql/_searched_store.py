"""How a PostgreSQL store is searched: by vectors, and by exact names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._postgresql import _rows as sql
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._index import IndexTarget, is_built
from aembed.stores._postgresql._indexed import Indexed
from aembed.stores._postgresql._opened import OpenedStore
from aembed.stores._postgresql._tables import StoreLayout
from aembed.stores._postgresql._words import WordTarget
from aembed.stores._rules import check_search
from aembed.stores._search import SearchChunk, check_query, find_nearest
from aembed.types import Match, Metadata, Vector


class SearchedStore(OpenedStore, Indexed):
    """The searches of a store, and the indexes that they use."""

    _store_text: bool

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest rows, best first: all are read, or an index where there is one.

        Raises SpaceMismatchError for another width.
        """
        return await self._read(partial(self._find_matches, vector, k, check_search(k, where)), [])

    async def prepare_words(self) -> None:
        """Builds the index of words, once for all searches, where it is not there. See SearchesWords.

        Raises ConfigError for a store that keeps no texts, and behind a pooler in transaction mode.
        """

        async def look(layout: StoreLayout, connection: Connection) -> tuple[bool, bool]:
            has_texts = await connection.fetchval(layout.sql(sql.HAS_TEXTS))
            return has_texts, await is_built(layout.word_target, connection)

        has_texts, is_there = await self._read(look, (True, True)) if self._store_text else (False, False)
        if not has_texts:
            raise ConfigError(f"{self._place} keeps no texts (store_text=False) to find words in; leave hybrid out")
        if not is_there:
            await self.index_words()

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best rows that hold rare words of the text, best first. See SearchesWords."""
        return await self._read(partial(self._find_named, text, vector, k, check_search(k, where)), [])

    async def _index_targets(self) -> tuple[IndexTarget, WordTarget]:
        async def targets(layout: StoreLayout, connection: Connection) -> tuple[IndexTarget, WordTarget]:
            return layout.target, layout.word_target

        return await self._write(targets)

    async def _find_matches(
        self, vector: Vector, k: int, wanted: Filter, layout: StoreLayout, connection: Connection
    ) -> list[Match]:
        space = layout.space
        if not space or not space.dimensions:
            return []
        query = check_query(vector, space.dimensions, self._place)
        found, matrix = await sql.find_candidates(query, k, wanted, layout, connection)
        matches = {match.id: match for match in found}
        best = find_nearest(query, [SearchChunk.from_rows(list(matches), matrix)], k)
        return [replace(matches[id], score=score) for id, score in best]

    async def _find_named(
        self,
        text: str,
        vector: Vector,
        k: int,
        wanted: Filter,
        layout: StoreLayout,
        connection: Connection,
    ) -> list[Match]:
        if not layout.space or not layout.space.dimensions:
            return []
        query = check_query(vector, layout.space.dimensions, self._place)
        return await sql.find_named(text, query, k, wanted, layout, connection)
