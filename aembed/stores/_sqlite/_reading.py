"""The filled rows of a user's own table: a page at a time, or by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from aembed.core.filters import Filter
from aembed.errors import ConfigError
from aembed.stores._row_pages import RowPage
from aembed.stores._sqlite._column_maps import searched
from aembed.stores._sqlite._columns import TableLayout, key_as_json, native
from aembed.stores._sqlite._database import fetch_all, matrix_of


@dataclass(frozen=True, slots=True)
class FilledRows:
    """Where they are, and how wide their vectors."""

    table: TableLayout
    dimensions: int
    name: Path

    def page(self, found: Sequence[Any]) -> RowPage:
        ids = [key_as_json(key) for *key, _, _ in found]
        matrix = matrix_of([blob for *_, blob in found], self.dimensions, self.name)
        return RowPage.of_table(ids, [text for *_, text, _ in found], matrix)


def read_filled(wanted: Filter, after: str | None, size: int, rows: FilledRows, connection: Connection) -> RowPage:
    """Those that pass the filter, behind that id in the order of the key."""
    condition, parameters = searched(rows.table, wanted)
    last = [] if after is None else _key(after, rows.table)
    if last is None:
        raise ConfigError(f'after={after!r} is no key of this table; ids are JSON, as 17 or ["a", 3]')
    select = rows.table.select_filled(condition, last)
    return rows.page(fetch_all(connection, select, [*parameters, *last, size], "replace"))


def read_filled_ids(ids: Sequence[str], rows: FilledRows, connection: Connection) -> RowPage:
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
    fits = len(key) == len(table.keys) and all(map(_is_value, key))
    return key if fits else None


def _is_value(value: Any) -> bool:
    """Whether SQLite may hold it."""
    return isinstance(value, str | float | bytes) or (isinstance(value, int) and -(2**63) <= value < 2**63)
