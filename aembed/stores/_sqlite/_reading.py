"""The filled rows of a user's own table: a page at a time, or by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._row_pages import EMPTY_PAGE, RowPage
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite._column_maps import searched
from aembed.stores._sqlite._columns import TableLayout, TableNames, key_as_json, native, read_layout, vector_width
from aembed.stores._sqlite._database import fetch_all, matrix_of


@dataclass(frozen=True, slots=True)
class FilledRows:
    """Where they are, and how wide their vectors."""

    table: TableLayout
    dimensions: int
    name: Path

    @classmethod
    def of(cls, names: TableNames, name: Path, connection: Connection) -> FilledRows | None:
        """None where there are none yet."""
        held = books.space(names.target, connection)
        table = read_layout(names, connection, held)
        width = vector_width(table, held, connection)
        return cls(table, width, name) if width else None

    def page(self, found: Sequence[Any]) -> RowPage:
        ids = [key_as_json(key) for *key, _, _ in found]
        matrix = matrix_of([blob for *_, blob in found], self.dimensions, self.name)
        return RowPage.of_table(ids, [text for *_, text, _ in found], matrix)


def read_filled(
    names: TableNames, name: Path, wanted: Filter, size: int, after: str | None, connection: Connection
) -> RowPage:
    """Those that pass the filter, behind that id in the order of the key."""
    rows = FilledRows.of(names, name, connection)
    if rows is None:
        return EMPTY_PAGE
    table = rows.table
    condition, parameters = searched(table, wanted)
    last = [] if after is None else _key(after, table)
    if last is None:
        raise ConfigError(f'after={after!r} is no key of this table; ids are JSON, as 17 or ["a", 3]')
    select = table.select_keyed(f"{table.key_list}, {table.text}, {table.vector}", condition, last)
    return rows.page(fetch_all(connection, select, [*parameters, *last, size], "replace"))


def read_filled_ids(names: TableNames, name: Path, ids: Sequence[str], connection: Connection) -> RowPage:
    rows = FilledRows.of(names, name, connection)
    if rows is None:
        return EMPTY_PAGE
    table = rows.table
    condition, parameters = searched(table, Filter())
    select = table.select(f"{table.key_list}, {table.text}, {table.vector}", f"{condition} AND {table.is_key}")
    keys = [key for key in (_key(id, table) for id in ids) if key is not None]
    return rows.page([row for key in keys for row in fetch_all(connection, select, [*parameters, *key], "replace")])


def _key(id: str, table: TableLayout) -> list[Any] | None:
    """None for what cannot be a key of the table."""
    try:
        key = native(id)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    # What SQLite may hold: its whole numbers have 64 bits.
    fits = (
        isinstance(each, str | float | bytes) or (isinstance(each, int) and -(2**63) <= each < 2**63) for each in key
    )
    return key if len(key) == len(table.keys) and all(fits) else None
