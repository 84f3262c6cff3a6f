"""How a column of a PostgreSQL table is searched: by vectors, and by exact names once these are indexed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._indexes_there import IndexesThere
from aembed.stores._postgresql import _aside as aside
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql._building import OnBuild, build
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._filters import Condition, explain_unreadable, on_columns
from aembed.stores._postgresql._index import IndexTarget, is_built, is_indexed, settings
from aembed.stores._postgresql._indexed import Indexed
from aembed.stores._postgresql._named import find_named
from aembed.stores._postgresql._nearest import find_nearest_rows
from aembed.stores._postgresql._opened import OpenedColumn
from aembed.stores._postgresql._words import WordTarget, may_index_words
from aembed.stores._rules import check_search, no_words_error
from aembed.stores._search import check_query
from aembed.types import Match, Metadata, Vector

_Finder: TypeAlias = Callable[[Vector, Condition, ColumnLayout, Connection], Awaitable[list[Match]]]


class SearchedColumn(OpenedColumn, Indexed):
    """The searches of a column, and the indexes that they use."""

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest of the filled rows, best first; `where` is a filter of their columns."""
        return await self._run(partial(self._find, partial(find_nearest_rows, k), vector, check_search(k, where)))

    async def create_index(
        self, *, memory: str | None = None, workers: int | None = None, on_progress: OnBuild | None = None
    ) -> None:
        settings(memory, workers)  # Called for its checks alone.
        target, _ = await self._index_targets()
        if not await self._database.run(partial(is_indexed, target)):
            await super().create_index(memory=memory, workers=workers, on_progress=on_progress)

    create_index.__doc__ = Indexed.create_index.__doc__

    async def indexes_there(self) -> IndexesThere:
        """The indexes over this column that a backfill would have to keep up, and those that one has set aside."""
        return await self._run(partial(aside.look, self._asked.vector))

    async def set_indexes_aside(self) -> None:
        """Drops the indexes over this column until `restore_indexes`: searches are exact, and slow, meanwhile.

        How they are made is kept in `aembed.dropped_indexes`, in the same transaction. Raises ConfigError behind a
        pooler in transaction mode, through which none could be built again; StoreError, with nothing dropped, for one
        that this role may not drop, that is over a partitioned table or in a tablespace of its own, and where the table
        is in use for longer than five seconds.
        """
        await self._database.check_direct()
        await self._run(partial(aside.set_aside, self._place, self._asked.vector))

    async def restore_indexes(self, *, memory: str | None = None, on_progress: OnBuild | None = None) -> None:
        """Builds what was set aside, by this object or another, while writes go on. See `create_index`."""
        for index in await self._run(partial(aside.find_aside, self._asked.vector)):
            await build(index, self._database, memory=memory, on_progress=on_progress)
            await self._run(partial(aside.forget, index))

    async def prepare_words(self) -> None:
        """Raises ConfigError where there is no index of words, which `index_words` builds. See SearchesWords."""

        async def is_there(table: ColumnLayout, connection: Connection) -> bool:
            return await is_built(table.word_target, connection)

        if not await self._run(is_there):
            address = self._database.address
            filling = ("aembed", "backfill", "--store", address.url(), *self._flags(False)) if address else None
            raise no_words_error(self._place, (*filling, "--index") if filling else None)

    async def index_words(self, *, on_progress: OnBuild | None = None) -> None:
        """Builds the index of words for hybrid search (GIN) while writes go on; one that is there stays.

        Raises ConfigError behind a pooler in transaction mode, and for a text_sql that the server cannot index.
        """
        _, target = await self._index_targets()
        if not await self._database.run(partial(may_index_words, target), safe_path=False):
            raise ConfigError(
                f"{self._place}: PostgreSQL indexes no words of this text: what makes it, text_sql or a cast, is not "
                "IMMUTABLE (concat_ws() is not, || is)"
            )
        await super().index_words(on_progress=on_progress)

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best of the filled rows that hold rare words of the text, best first. See SearchesWords."""
        return await self._run(partial(self._find, partial(find_named, text, k), vector, check_search(k, where)))

    async def _index_targets(self) -> tuple[IndexTarget, WordTarget]:
        table = await self._database.run(self._look, safe_path=False)
        return table.target, table.word_target

    async def _find(
        self, find: _Finder, vector: Vector, wanted: Filter, table: ColumnLayout, connection: Connection
    ) -> list[Match]:
        """What it finds for a query that fits; nothing where no row has a vector."""
        filters = on_columns(wanted, table)
        width = table.dimensions or await sql.filled_width(table, connection)
        if width is None:
            return []
        query = check_query(vector, width, self._place)
        with explain_unreadable(wanted, table):
            return await find(query, filters, table, connection)
