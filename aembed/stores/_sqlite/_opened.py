"""A column of a table in a SQLite file: how it is named."""

from __future__ import annotations

from sqlite3 import Connection

from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite._columns import TableLayout, TableNames, read_layout
from aembed.stores._sqlite._database import SQLiteDatabase


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
