"""Maps of a user's own table: which rows they are of, and how those that are candidates are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._columns import ROWID_NAMES, TableLayout, TableNames, key_as_json
from aembed.stores._sqlite._filters import on_columns
from aembed.stores._sqlite._making import MapMaker
from aembed.stores._sqlite._mapped import Numbered, TableMap
from aembed.stores._sqlite._passing import PassingMap, PassingMapMaker
from aembed.stores._sqlite._thread import SQLiteThread

NUMBER = "SELECT {rowid} FROM {table} LIMIT 0"


def noted_table(names: TableNames, table: TableLayout) -> NotedTable:
    """What is noted of it. A map has all rows with a vector; conditions are asked of the rows that are read."""
    taken = {column.lower() for column in table.columns}
    rowid = next((name for name in ROWID_NAMES if name not in taken), "")
    return NotedTable(f"{names.table}.{names.vector}", table.table, table.filled, rowid)


def has_numbers(noted: NotedTable, connection: Connection) -> bool:
    """Not so a table WITHOUT ROWID, nor one whose columns have all names of the number."""
    if not noted.rowid:
        return False
    try:
        connection.execute(noted.sql(NUMBER))
    except sqlite3.OperationalError:
        return False
    return True


def searched(table: TableLayout, wanted: Filter) -> tuple[str, list[Any]]:
    """The condition of rows that a search may find, and its parameters."""
    filters, parameters = on_columns(wanted, table.column)
    condition = f"{table.vector} IS NOT NULL AND {table.is_current}{table.condition}"
    return f"{condition} AND {filters}" if filters else condition, [*parameters]


def read_vectors(
    table: TableLayout, rowid: str, wanted: Filter, connection: Connection, test: str, value: str | int
) -> Iterator[Numbered]:
    """Number, id and vector of the rows of a search whose number passes that test."""
    condition, parameters = searched(table, wanted)
    # The number's test comes last, as its parameter does.
    numbered = f"{condition} AND t.{rowid} {test}{table.is_keyed}"
    sql = table.select(f"t.{rowid}, {table.key_list}, {table.vector}", numbered)
    for number, *key, blob in connection.execute(sql, [*parameters, value]):
        yield number, key_as_json(key), blob


@dataclass(eq=False, repr=False)
class ColumnMaps:
    """The maps of one column: one that triggers keep good where the table has them, else one of this process."""

    _worker: SQLiteThread
    _noted: NotedTable | None = None
    _kept: TableMap | None = None
    _passing: TableMap | None = None
    _makers: list[MapMaker] = field(default_factory=list)

    def of(self, noted: NotedTable, connection: Connection) -> TableMap:
        if noted != self._noted:
            self._noted, self._kept, self._passing = noted, None, None
        if changes.is_noted(noted, connection):
            if self._kept is None:
                self._makers.append(maker := MapMaker(self._worker, noted))
                self._kept = TableMap(self._worker.path, noted, maker)
            return self._kept
        if self._passing is None:
            self._makers.append(own := PassingMapMaker(self._worker, noted))
            self._passing = PassingMap(self._worker.path, noted, own)
        return self._passing

    def stop(self) -> None:
        for maker in self._makers:
            maker.stop()
