"""A store and a column of a table in a SQLite file: how they are named, and how work of a store is run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from sqlite3 import Connection
from typing import TypeVar

from aembed.errors import StoreError
from aembed.stores._rules import check_schema
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _rows as sql
from aembed.stores._sqlite._columns import TableLayout, TableNames, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores._sqlite._editions import SCHEMA_OF_RUNS

T = TypeVar("T")


class OpenedColumn:
    """What all methods of a column work with."""

    _database: SQLiteDatabase
    _names: TableNames
    _target: books.ColumnTarget

    @property
    def _place(self) -> str:
        return f"column {self._names.vector!r} of table {self._names.table!r} in {self._database.name}"

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

    def _layout(self, connection: Connection) -> TableLayout:
        return read_layout(self._names, connection, books.space(self._target, connection))


class OpenedStore:
    """What all methods of a store work with."""

    _database: SQLiteDatabase

    @property
    def _name(self) -> str:
        return str(self._database.name)

    @property
    def _place(self) -> str:
        return f"table 'aembed_rows' in {self._name}"

    def _read(self, work: Callable[[Connection], T], empty: T) -> Awaitable[T]:
        return self._database.read(lambda c: work(c) if self._has_tables(c) else empty, empty)

    def _read_beside(self, work: Callable[[Connection], T], empty: T) -> Awaitable[T]:
        return self._database.read_beside(lambda c: work(c) if self._has_tables(c) else empty, empty)

    def _write_lightly(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        return self._database.write_lightly(partial(self._run_after_check, work))

    def _write(self, work: Callable[[Connection], T], then: Callable[[], object] | None = None) -> Awaitable[T]:
        return self._database.write(partial(self._run_after_check, work), then)

    def _run_after_check(self, work: Callable[[Connection], T], connection: Connection) -> T:
        if not self._has_tables(connection):
            raise StoreError(f"{self._name} has no tables of aembed; call prepare(space) first")
        return work(connection)

    def _has_tables(self, connection: Connection) -> bool:
        """Raises StoreError for tables that a later aembed made."""
        if connection.execute(sql.HAS_TABLES).fetchone() is None:
            return False
        check_schema(self._name, sql.meta(connection, "schema_version"), SCHEMA_OF_RUNS)
        return True
