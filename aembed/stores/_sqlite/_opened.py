"""A column of a table in a SQLite file: how it is named, and how it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from sqlite3 import Connection
from typing import TypeVar

from aembed.errors import StoreError
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite._columns import TableLayout, TableNames, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase

T = TypeVar("T")


class OpenedColumn:
    """What all methods of a column work with."""

    _database: SQLiteDatabase
    _names: TableNames

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

    @property
    def _absent_error(self) -> StoreError:
        return StoreError(f"{self._database.name} does not exist; check the path")

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._read_result(work, self._database.read)

    async def _read_beside(self, work: Callable[[Connection], T]) -> T:
        """On the thread of searches."""
        return await self._read_result(work, self._database.read_beside)

    async def _read_result(self, work: Callable[[Connection], T], read: Callable[..., Awaitable[None]]) -> T:
        found: list[T] = []
        await read(lambda connection: found.append(work(connection)), None)
        if not found:
            raise self._absent_error
        return found[-1]

    def _layout(self, connection: Connection) -> TableLayout:
        return read_layout(self._names, connection, books.space(self._names.target, connection))
