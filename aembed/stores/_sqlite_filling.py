"""Vectors into the rows of a user's own SQLite table: what the table refuses or drops is found row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, TypeAlias

from aembed.errors import RowRefusedError
from aembed.stores._sqlite_table import Layout, Names, triggers

Row: TypeAlias = Sequence[Any]
"""The vector, the key, the text that the vector was made from: the parameters of `Layout.fill`."""
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError)
"""A constraint, a STRICT type, RAISE in a trigger; a value that is too large."""


def fill(rows: Sequence[Row], table: Layout, names: Names, connection: Connection) -> tuple[int, dict[int, str]]:
    """How many rows hold their vector now, and by position why others do not. A row that was edited is neither."""
    connection.execute("SAVEPOINT aembed_rows")
    try:
        filled = max(0, connection.executemany(table.fill(), rows).rowcount)
    except REFUSALS:
        refused = _apart(rows, table, connection)
        filled = len(rows)  # as far as is known; it is looked at below
    else:
        refused = {}
        connection.execute("RELEASE aembed_rows")
    named = triggers(names, connection)
    if not named and not refused:
        return filled, refused
    held = {number: _held(row, table, connection) for number, row in enumerate(rows) if number not in refused}
    dropped = f"after the UPDATE its vector is another; the table has {_shown(named)}"
    refused |= {number: dropped for number, vector in held.items() if vector and vector[0] != rows[number][0]}
    return sum(vector is not None and vector[0] == rows[number][0] for number, vector in held.items()), refused


def error_of(reason: str, place: str) -> RowRefusedError:
    return RowRefusedError(f"{place} does not take the row: {reason}; change the row or the table, and run this again")


def _held(row: Row, table: Layout, connection: Connection) -> Row | None:
    """The vector of the row of that key and text; None where the text is another by now."""
    held: Row | None = connection.execute(table.kept(), row[1:]).fetchone()
    return held


def _apart(rows: Sequence[Row], table: Layout, connection: Connection) -> dict[int, str]:
    """Writes them one by one. RAISE(ROLLBACK) ends the transaction: then they are begun again without that one."""
    _back(connection)
    refused, fill = dict[int, str](), table.fill()
    number = 0
    while number < len(rows):
        if number not in refused:
            connection.execute("SAVEPOINT aembed_row")
            try:
                connection.execute(fill, rows[number])
            except REFUSALS as error:
                refused[number] = _reason(error)
                if not _undone(connection):
                    number = 0
                    continue
            else:
                connection.execute("RELEASE aembed_row")
        number += 1
    if connection.in_transaction:
        connection.execute("RELEASE aembed_rows")
    return refused


def _back(connection: Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK TO aembed_rows")
    else:
        _begin(connection)


def _undone(connection: Connection) -> bool:
    """Whether what was written before that row is still there."""
    if connection.in_transaction:
        connection.execute("ROLLBACK TO aembed_row")
        connection.execute("RELEASE aembed_row")
        return True
    _begin(connection)
    return False


def _begin(connection: Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("SAVEPOINT aembed_rows")


def _reason(error: sqlite3.Error) -> str:
    """What RAISE says is the table's own word; what a constraint says names columns, and no text."""
    return str(error) or type(error).__name__


def _shown(named: Sequence[str]) -> str:
    return f"the trigger {', '.join(map(repr, named))}" if named else "no trigger"
