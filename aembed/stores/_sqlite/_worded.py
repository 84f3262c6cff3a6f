"""A column of a SQLite table whose filled rows are found by exact names, once its owner has asked for the index."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from sqlite3 import Connection
from typing import TypeVar

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._rules import check_search, no_words_error
from aembed.stores._search import check_query
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite._columns import ROWID_NAMES, TableLayout, TableNames, key_as_json, quote_name, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase, in_pieces
from aembed.stores._sqlite._filters import Condition
from aembed.stores._sqlite._words import OnBuild, WordIndex, find_named
from aembed.types import Match, Metadata, Vector

T = TypeVar("T")


class WordedColumn:
    """The methods of `SearchesWords` and `IndexesWords`."""

    _database: SQLiteDatabase
    _names: TableNames
    _target: books.ColumnTarget

    async def prepare_words(self) -> None:
        """Raises ConfigError where there is no index of words, which `index_words` builds. See SearchesWords."""

        def state(connection: Connection) -> tuple[bool, bool]:
            words = self._words(connection)
            return words.is_complete(connection), words.is_ready(connection)

        is_there, is_ready = await self._read_beside(state)
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
        await (await self._read_beside(self._words)).build(self._database.write, on_progress)

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best of the filled rows that hold rare words of the text, best first. See SearchesWords.

        Raises ConfigError where the index of words is not there, or is of other rows: they were numbered anew.
        """
        found, is_odd = await self._read_beside(partial(self._find_named, text, vector, k, check_search(k, where)))
        if is_odd and await self._database.write(lambda connection: self._words(connection).forget_misfit(connection)):
            raise self._no_words_error
        return found

    def _read_beside(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        raise NotImplementedError

    def _width_of(self, table: TableLayout, connection: Connection) -> int | None:
        """Dimensions of its vectors; None where there are none yet."""
        raise NotImplementedError

    def _is_searched(self, table: TableLayout, wanted: Filter) -> Condition:
        """Which rows are, and pass the filter."""
        raise NotImplementedError

    @property
    def _place(self) -> str:
        raise NotImplementedError

    @property
    def _url_and_flags(self) -> tuple[str, list[str]]:
        raise NotImplementedError

    @property
    def _no_words_error(self) -> ConfigError:
        url, flags = self._url_and_flags
        names = self._names
        marks = ["--fingerprint", names.fingerprint] if names.fingerprint else []
        command = ("aembed", "backfill", "--store", url, *flags, "--vector", names.vector, *marks, "--index")
        return no_words_error(self._place, command)

    def _words(self, connection: Connection) -> WordIndex:
        table = read_layout(self._names, connection)
        rowid = next(name for name in ROWID_NAMES if name not in map(str.lower, table.columns))
        digest = blake2b(repr((self._names.table, self._names.text)).encode(), digest_size=8).hexdigest()
        words = WordIndex(f"aembed_words_{digest}", table.table, quote_name(self._names.text), rowid)
        words.check_rowids(connection)
        return words

    def _find_named(
        self, text: str, vector: Vector, k: int, wanted: Filter, connection: Connection
    ) -> tuple[list[Match], bool]:
        table = read_layout(self._names, connection, books.space(self._target, connection))
        width = self._width_of(table, connection)
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
        searched, parameters = self._is_searched(table, wanted)
        columns = f"t.{words.rowid}, {table.key_list}, {table.text}, {table.vector}"
        for piece, marks in in_pieces(connection, numbers, len(parameters)):
            condition = f"t.{words.rowid} IN ({marks}) AND {searched}"
            found = connection.execute(table.select(columns, condition), [*piece, *parameters])
            for number, *key, text, blob in found:
                yield number, Match(key_as_json(key), text, None, 0.0), blob
