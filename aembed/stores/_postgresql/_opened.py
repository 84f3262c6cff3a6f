"""A store and a column of a PostgreSQL table: how they are named, and how transactions of theirs are run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from aembed.errors import StoreError
from aembed.stores._postgresql import _bookkeeping as books
from aembed.stores._postgresql import _tables as tables
from aembed.stores._postgresql._columns import ColumnLayout, ColumnRequest, read_layout
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._names import TableName
from aembed.stores._postgresql._tables import StoreLayout, StoreNames
from aembed.stores._rules import mark_of

T = TypeVar("T")
Work: TypeAlias = Callable[[StoreLayout, Connection], Awaitable[T]]


class OpenedColumn:
    """What all methods of a column work with. `_layout` is None until the table has been looked at."""

    _asked: ColumnRequest
    _database: PostgresDatabase
    _layout: ColumnLayout | None

    @property
    def _place(self) -> str:
        return f"column {self._asked.vector!r} of table {self._asked.table} in {self._database.name}"

    async def _run(
        self,
        work: Callable[[ColumnLayout, Connection], Awaitable[T]],
        *,
        slow_ends: bool = False,
        of_rows: bool = False,
    ) -> T:
        async def done(connection: Connection) -> T:
            return await work(await self._look(connection), connection)

        return await self._database.run(done, safe_path=False, slow_ends=slow_ends, of_rows=of_rows)

    async def _look(self, connection: Connection) -> ColumnLayout:
        if self._layout is None:
            self._layout = table = await self._read_layout(connection)
            space = await books.read_space(self._asked.vector, table, connection)
            self._layout = replace(table, prepared=mark_of(space))
        return self._layout

    async def _run_statement(self, statement: str, *parameters: Any) -> Any:
        """Returns the first value of its first row, if it has one."""

        async def done(connection: Connection) -> Any:
            return await connection.fetchval(statement, *parameters)

        return await self._database.run(done, safe_path=False)

    async def _read_layout(self, connection: Connection) -> ColumnLayout:
        return replace(await read_layout(self._asked, connection), copies=self._database.copies)

    def _flags(self, anew: bool) -> list[str]:
        names = self._asked
        fingerprint = f"{names.fingerprint}_new" if anew and names.fingerprint else names.fingerprint
        named = {
            "table": f"{names.table.schema}.{names.table.table}" if names.table.schema else names.table.table,
            "text": names.text,
            "text-sql": names.text_sql,
            "where": names.where,
            "fingerprint": fingerprint,
            "vector": None if anew else names.vector,
        }
        flags = [word for name, value in named.items() if value for word in (f"--{name}", value)]
        return flags + [word for key in names.key or () for word in ("--key", key)]


class OpenedStore:
    """What all methods of a store work with. `_layout` is None until its tables have been found."""

    _database: PostgresDatabase
    _table: TableName
    _names: StoreNames | None
    _layout: StoreLayout | None

    @property
    def _place(self) -> str:
        return f"table {self._table} in {self._database.name}"

    async def _find_names(self) -> StoreNames:
        if self._names is None:
            find = partial(tables.schema_of, self._table)
            self._names = StoreNames.from_name(
                self._table, await self._database.run(find, safe_path=False), self._database.copies
            )
        return self._names

    async def _read(self, work: Work[T], empty: T) -> T:
        names = await self._find_names()

        async def answered(connection: Connection) -> T:
            layout = self._layout or await tables.find_tables(names, connection)
            self._layout = layout
            return empty if layout is None else await work(layout, connection)

        return await self._database.run(answered)

    async def _write(self, work: Work[T], *, slow_ends: bool = False, of_rows: bool = False) -> T:
        names = await self._find_names()

        async def done(connection: Connection) -> T:
            layout = self._layout or await tables.find_tables(names, connection)
            if layout is None:
                raise StoreError(f"{self._place} is not there; call prepare(space) first")
            self._layout = layout
            return await work(layout, connection)

        return await self._database.run(done, slow_ends=slow_ends, of_rows=of_rows)
