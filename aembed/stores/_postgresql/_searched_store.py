"""How a PostgreSQL store is searched: by vectors, and by exact names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from aembed.core.filters import Filter
from aembed.core.words import names_in
from aembed.errors import ConfigError
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filters import on_metadata
from aembed.stores._postgresql._index import SHORTLIST, IndexTarget, find_way, is_built
from aembed.stores._postgresql._indexed import Indexed
from aembed.stores._postgresql._opened import OpenedStore
from aembed.stores._postgresql._rows import NAMED
from aembed.stores._postgresql._tables import StoreLayout
from aembed.stores._postgresql._wire import literal, vector_of
from aembed.stores._postgresql._words import WordTarget, rare_rows
from aembed.stores._rules import check_search, decode
from aembed.stores._search import NamedRow, SearchChunk, check_query, find_nearest, normalize, rank_named
from aembed.types import Match, Metadata, Vector

HAS_TEXTS = """SELECT EXISTS (SELECT FROM {rows} WHERE text IS NOT NULL) OR NOT EXISTS (SELECT FROM {rows})"""
# The vectors of the rows that were found are written out, and not those of all that are sorted.
NEAREST = "SELECT id, text, metadata::text AS metadata, {v}.vector_send(embedding::{v}.vector) AS sent"


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
            has_texts = await connection.fetchval(layout.sql(HAS_TEXTS))
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
        if not layout.space or not layout.space.dimensions:
            return []
        query = check_query(vector, layout.space.dimensions, self._place)
        # Some more than the k best: the server compares in float32.
        most, target = 2 * k + SHORTLIST, layout.target
        way = await find_way(target, most, connection)
        condition, values = on_metadata(wanted)
        parameters = literal(normalize(query)), most, *values
        if way == "plain":
            # In one statement, and so of one snapshot.
            select = f"{layout.sql(NEAREST)}, {target.any_odd} AS any_odd FROM "
            found = await connection.fetch(select + target.nearest(condition, "id", way), *parameters)
            way = "exact" if found and found[0]["any_odd"] else way
        if way != "plain":
            select = f"{layout.sql(NEAREST)} FROM "
            found = await connection.fetch(select + target.nearest(condition, "id", way), *parameters)
        if not found:
            return []
        matches = {row["id"]: Match(row["id"], row["text"], decode(row["metadata"]), 0.0) for row in found}
        matrix = np.stack([vector_of(row["sent"]) for row in found])
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
        weights = await rare_rows(layout.word_target, "t.id", names_in(text), connection)
        condition, values = on_metadata(wanted)
        passing = f" AND {condition}" if condition else ""
        statement = layout.sql(f"{NAMED}{passing} LIMIT $2")
        found = await connection.fetch(statement, [id for id, _ in weights], len(weights), *values)
        rows = [
            NamedRow(
                weights[row["id"], row["text"]],
                Match(row["id"], row["text"], decode(row["metadata"]), 0.0),
                vector_of(row["sent"]),
            )
            for row in found
            if (row["id"], row["text"]) in weights
        ]
        return rank_named(query, rows, k)
